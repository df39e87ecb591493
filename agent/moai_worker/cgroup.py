"""The memory limit a job really has: that of its cgroup (v1 and v2), else the machine's.

Reads a few small files of /sys/fs/cgroup and /proc; nothing is cached but paths, so a limit changed while
a job runs is seen. Used by the supervisor; standard library only. Refuses to guess: what cannot be read
is None.

Formats: https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.max, memory.current, memory.stat) and
cgroup-v1/memory.html (memory.limit_in_bytes, memory.usage_in_bytes).
"""

import os
from typing import Dict, List, NamedTuple, Optional

#: v1 writes "no limit" as a huge number.
_NO_LIMIT = 1 << 60
_ROOT = "/sys/fs/cgroup"


class Memory(NamedTuple):
    """Bytes: the limit, what cannot be given back of what is used, and where that limit stands."""

    limit: int
    used: int
    source: str


class MemoryFiles:
    """Where this process's limits are read.

    Args:
        root, proc: /sys/fs/cgroup and /proc; other folders in tests.
    """

    def __init__(self, root: str = _ROOT, proc: str = "/proc") -> None:
        self._meminfo = os.path.join(proc, "meminfo")
        self._folders: List[List[str]] = []
        own = _own_groups(os.path.join(proc, "self", "cgroup"))
        if os.path.exists(os.path.join(root, "memory", "memory.limit_in_bytes")):
            names = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"]
            self._add(os.path.join(root, "memory"), own.get("memory", "/"), names)
        else:
            self._add(root, own.get("", "/"), ["memory.max", "memory.current", "inactive_file"])

    def _add(self, top: str, group: str, names: List[str]) -> None:
        """The group and all above it. Inside a container the path may be that of the host: then only the top."""
        path = os.path.normpath(top + "/" + group)
        while path.startswith(top):
            if os.path.exists(os.path.join(path, names[0])):
                self._folders.append([path] + names)
            if path == top:
                return
            path = os.path.dirname(path)

    def read(self) -> Optional[Memory]:
        """The tightest limit; None when nothing can be read."""
        found = [memory for memory in (_group(*folder) for folder in self._folders) if memory is not None]
        host = _host(self._meminfo)
        if host is not None:
            found.append(host)
        return max(found, key=lambda memory: memory.used / memory.limit) if found else None


def oom_kills(root: str = _ROOT) -> int:
    """OOM kills counted by this container's cgroup, v2 or v1; 0 when there is no counter."""
    for path in (root + "/memory.events", root + "/memory/memory.oom_control"):
        try:
            with open(path) as source:
                for line in source:
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
        except OSError:
            continue
    return 0


def _own_groups(path: str) -> Dict[str, str]:
    """Controller ("" for v2) -> path of this process's group."""
    groups = {}
    try:
        with open(path) as source:
            for line in source:
                _, controllers, group = line.rstrip("\n").split(":", 2)
                for name in controllers.split(","):
                    groups[name] = group
    except (OSError, ValueError):
        return {}
    return groups


def _group(folder: str, limit_name: str, usage_name: str, cache_name: str) -> Optional[Memory]:
    limit = _number(os.path.join(folder, limit_name))
    used = _number(os.path.join(folder, usage_name))
    if limit is None or used is None or not 0 < limit < _NO_LIMIT:
        return None
    # File pages that nobody used lately go before anything is killed.
    cache = _field(os.path.join(folder, "memory.stat"), cache_name) or 0
    return Memory(limit, max(0, used - cache), os.path.join(folder, limit_name))


def _host(path: str) -> Optional[Memory]:
    total, available = _field(path, "MemTotal:"), _field(path, "MemAvailable:")
    if not total or available is None:
        return None
    return Memory(total * 1024, max(0, total - available) * 1024, path)


def _number(path: str) -> Optional[int]:
    try:
        with open(path) as source:
            return int(source.read())
    except (OSError, ValueError):
        return None  # "max" is no number: no limit here.


def _field(path: str, name: str) -> Optional[int]:
    try:
        with open(path) as source:
            for line in source:
                parts = line.split()
                if parts and parts[0] == name:
                    return int(parts[1])
    except (OSError, ValueError, IndexError):
        return None
    return None

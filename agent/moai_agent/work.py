"""The work folder: where models, datasets and results of this container live.

Fixed once (``settings.json`` of the host): what the laptop chose with ``--work``, else
``MOAI_HOME/work`` when MOAI_HOME was set (nothing is written outside it then), else
``~/moai-work`` when the home has 200 GB free, else the same name on the largest writable mount.
"""

import os
from typing import List, NamedTuple

from moai_worker import identity, jobdir

from moai_agent.config import Config

_ENOUGH_BYTES = 200 * 10**9
_SKIP_TYPES = ("proc", "sysfs", "devpts", "cgroup", "mqueue", "debugfs", "tracefs", "securityfs", "bpf", "nsfs")
_SKIP_POINTS = ("/proc", "/sys", "/dev", "/run", "/boot", "/etc")


class Mount(NamedTuple):
    """A writable file system."""

    path: str
    type: str
    free_bytes: int
    total_bytes: int


def writable_mounts() -> List[Mount]:
    """Mounts this user can write to, the one with most space first; bind-mounted files left out."""
    found = {}
    for point, kind in identity.mounts():
        if kind.startswith(_SKIP_TYPES) or point.startswith(_SKIP_POINTS) or not os.path.isdir(point):
            continue
        if not os.access(point, os.W_OK | os.X_OK) and point != "/":
            continue
        try:
            facts = os.statvfs(point)
        except OSError:
            continue
        total = facts.f_blocks * facts.f_frsize
        if total:
            found[point] = Mount(point, kind, facts.f_bavail * facts.f_frsize, total)
    return sorted(found.values(), key=lambda m: -m.free_bytes)


def folder(config: Config) -> str:
    """The work folder, chosen and remembered on first use; not created here."""
    kept = jobdir.read_json(config.host.settings) or {}
    if kept.get("work"):
        return str(kept["work"])
    chosen = _choose(config)
    set_folder(config, chosen)
    return chosen


def asked(path: str, home: str) -> str:
    """The work folder a request names, absolute; "" when it names none."""
    if not path:
        return ""
    if path == "~" or path.startswith("~/"):
        path = os.path.join(home, path[2:])
    return os.path.normpath(os.path.join(home, path))


def set_folder(config: Config, path: str) -> None:
    """Remember another work folder."""
    kept = jobdir.read_json(config.host.settings) or {}
    kept["work"] = os.path.abspath(os.path.expanduser(path))
    jobdir.write_json(config.host.settings, kept)


def _choose(config: Config) -> str:
    if os.path.abspath(os.path.expanduser("~/.moai")) != config.home:
        return os.path.join(config.home, "work")
    home = os.path.expanduser("~")
    facts = os.statvfs(home)
    if facts.f_bavail * facts.f_frsize >= _ENOUGH_BYTES:
        return os.path.join(home, "moai-work")
    for mount in writable_mounts():
        if mount.path != "/" and mount.free_bytes >= _ENOUGH_BYTES:
            return os.path.join(mount.path, "moai-work-%d" % os.getuid())
    return os.path.join(home, "moai-work")

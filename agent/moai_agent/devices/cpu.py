"""The processor as a device: what a job gets where there is no accelerator.

Owns one device with id 0: model from ``/proc/cpuinfo``, memory from ``/proc/meminfo`` bounded by
the container's cgroup limit (v1 and v2; kernel documentation cgroup-v1/memory and cgroup-v2),
utilization from two readings of ``/proc/stat``. In a container ``/proc/stat`` counts the whole
host. Refuses nothing: what cannot be read is None. Runs in the agent.
"""

import os
import platform
import threading
from typing import Iterator, Optional, Tuple

from moai_agent.devices.report import PROVIDER_CPU, Device, SmiReport

_MIB = 1024 * 1024
# "No limit" in cgroup v1 is the largest page-aligned 63-bit number; no machine has 4 EiB.
_NO_LIMIT_BYTES = 1 << 62


class CpuReader:
    """Reads the CPU device; keeps the last ``/proc/stat`` so that the next reading has a rate.

    Args:
        root: folder that stands for ``/`` (tests).
    """

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self._lock = threading.Lock()
        self._last: Optional[Tuple[int, int]] = None

    def read(self) -> SmiReport:
        """One reading. Utilization is None on the first one."""
        total, used = self._memory_bytes()
        device = Device(
            id=0,
            name=self._model(),
            is_default=True,
            memory_used_mib=None if used is None else used // _MIB,
            memory_total_mib=None if total is None else total // _MIB,
            utilization_percent=self._utilization_percent(),
        )
        return SmiReport(provider=PROVIDER_CPU, devices=[device], table_found=True)

    def _text(self, path: str) -> str:
        try:
            with open(os.path.join(self._root, path), encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    def _number(self, path: str) -> Optional[int]:
        text = self._text(path).strip()
        return int(text) if text.isdecimal() else None

    def _model(self) -> str:
        for line in self._text("proc/cpuinfo").splitlines():
            key, _, value = line.partition(":")
            if key.strip().lower() in ("model name", "hardware") and value.strip():
                return value.strip()
        return platform.machine() or "CPU"

    def _memory_bytes(self) -> Tuple[Optional[int], Optional[int]]:
        """Total and used, of the tightest cgroup limit or else of the machine."""
        table = {}
        for line in self._text("proc/meminfo").splitlines():
            key, _, value = line.partition(":")
            words = value.split()
            if words and words[0].isdecimal():
                table[key] = int(words[0]) * 1024
        total, available = table.get("MemTotal"), table.get("MemAvailable")
        used = total - available if total is not None and available is not None else None
        for limit, usage in self._limits():
            if limit < (_NO_LIMIT_BYTES if total is None else total):
                total, used = limit, None if usage is None else min(usage, limit)
        return total, used

    def _limits(self) -> Iterator[Tuple[int, Optional[int]]]:
        """(limit, usage) in bytes of every cgroup above this process that has a limit."""
        for line in self._text("proc/self/cgroup").splitlines():
            number, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if number == "0" and not controllers:
                base, names = "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                base = "sys/fs/cgroup/memory"
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            else:
                continue
            # Inside a container the path may be the host's and not exist here: go up to the root.
            parts = [part for part in path.split("/") if part and part != ".."]
            for depth in range(len(parts), -1, -1):
                folder = "/".join([base] + parts[:depth])
                limit = self._number(folder + "/" + names[0])
                if limit is not None and limit < _NO_LIMIT_BYTES:
                    yield limit, self._usage(folder, names[1], names[2])

    def _usage(self, folder: str, name: str, cache_key: str) -> Optional[int]:
        usage = self._number(folder + "/" + name)
        if usage is None:
            return None
        # Page cache the kernel gives back on demand is not memory in use.
        for line in self._text(folder + "/memory.stat").splitlines():
            key, _, value = line.partition(" ")
            if key == cache_key and value.strip().isdecimal():
                return max(0, usage - int(value))
        return usage

    def _utilization_percent(self) -> Optional[int]:
        words = self._text("proc/stat").partition("\n")[0].split()
        if len(words) < 6 or words[0] != "cpu" or not all(word.isdecimal() for word in words[1:]):
            return None
        # user nice system idle iowait irq softirq steal; guest time is already part of user.
        ticks = [int(word) for word in words[1:9]]
        now = (sum(ticks), ticks[3] + ticks[4])
        with self._lock:
            last, self._last = self._last, now
        if last is None or now[0] <= last[0]:
            return None
        passed = now[0] - last[0]
        return max(0, min(100, round(100 * (passed - (now[1] - last[1])) / passed)))


_reader = CpuReader()


def read() -> SmiReport:
    """The CPU of this container; utilization is known from the second call in a process on."""
    return _reader.read()

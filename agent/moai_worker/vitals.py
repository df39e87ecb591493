"""Signs of life of a silent job: CPU, memory and bytes read of all its processes.

Read from proc(5) by the supervisor while the log says nothing (compiling and loading take minutes), so that
a person can tell work from a hang. Standard library only; a process that ends meanwhile counts no more.
"""

import os
import time
from typing import Dict, Iterable, Optional

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Vitals:
    """Samples of one step; the share is that since the sample before."""

    def __init__(self) -> None:
        self._cpu_s = 0.0
        self._when_s: Optional[float] = None

    def sample(self, pids: Iterable[int]) -> Dict[str, float]:
        """``process_cpu_seconds`` (all), ``process_cpu_share`` (percent of one core since the last
        sample; absent in the first), ``process_rss_bytes``, ``process_read_bytes``, ``process_count``."""
        cpu_s, rss, read, count = 0.0, 0, 0, 0
        for pid in pids:
            one = _read(pid)
            if one is not None:
                cpu_s, rss, read, count = cpu_s + one[0], rss + one[1], read + one[2], count + 1
        now_s = time.monotonic()
        values = {
            "process_cpu_seconds": round(cpu_s, 2),
            "process_rss_bytes": float(rss),
            "process_read_bytes": float(read),
            "process_count": float(count),
        }
        if self._when_s is not None and now_s > self._when_s:
            # A process that ended took its time with it; less than nothing was not used.
            share = 100.0 * (cpu_s - self._cpu_s) / (now_s - self._when_s)
            values["process_cpu_share"] = round(max(0.0, share), 1)
        self._cpu_s, self._when_s = cpu_s, now_s
        return values


def _read(pid: int) -> Optional[tuple]:
    """(CPU seconds, resident bytes, bytes read by read(2)) of a process; None when it is gone."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as source:
            fields = source.read().rpartition(b")")[2].split()
        cpu_s = (int(fields[11]) + int(fields[12])) / float(_TICKS)
        rss = int(fields[21]) * _PAGE
    except (OSError, IndexError, ValueError):
        return None
    read = 0
    try:
        with open("/proc/%d/io" % pid, "rb") as source:
            for line in source:
                if line.startswith(b"rchar:"):
                    read = int(line.split()[1])
    except (OSError, ValueError):
        read = 0  # Another user's process, or a kernel without task accounting.
    return cpu_s, rss, read

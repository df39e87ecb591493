"""End every process of a job, however it hides.

Used by the supervisor (which is the subreaper of its job) and, when that is gone, by the agent and
the inspector. A process is named by pid and start time, never by pid or name alone.
"""

import os
import signal
import time
from typing import Callable, Dict, Optional

from moai_worker import identity


def become_subreaper() -> None:
    """prctl(PR_SET_CHILD_SUBREAPER): orphans below this process become its children, so none escapes."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(36, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def family(root: Optional[int], marker: str) -> Dict[int, int]:
    """pid -> start ticks of all living processes of a job.

    Args:
        root: the supervisor, whose descendants (re-parented orphans too) all belong to the job; None
            when it is gone.
        marker: ``MOAI_JOB=...`` in the environment of every process of the job; finds the rest.
    """
    found = _look(root, marker)
    # Not "nobody" at once: who was forked after the folder was listed, by a parent that was gone when its turn came, is in
    # neither. An empty answer ends the job.
    return found or _look(root, marker)


def _look(root: Optional[int], marker: str) -> Dict[int, int]:
    table = identity.process_table()
    skip, since_ticks = {os.getpid()}, 0
    found: Dict[int, int] = {}
    if root:
        found = identity.descendants(root, table)
        skip.add(root)
        # All processes of a job started after its supervisor did. On a machine with hundreds that is most of the work.
        since_ticks = table[root][1] if root in table else 0
    found.update(identity.marked(marker, skip, table, since_ticks))
    return found


def stop_all(find: Callable[[], Dict[int, int]], grace_s: float, pause: Callable[[], None]) -> bool:
    """SIGTERM, then after ``grace_s`` SIGKILL, again and again until nobody is left.

    Args:
        find: lists who is left (see ``family``).
        grace_s: seconds between the two signals.
        pause: waits a little and reaps; called between looks.

    Returns False when processes are left 15 s after SIGKILL (uninterruptible sleep).
    """
    termed = set()
    start_s = time.monotonic()
    while True:
        left = find()
        if not left:
            return True
        elapsed_s = time.monotonic() - start_s
        if elapsed_s > grace_s + 15.0:
            return False
        for pid, ticks in left.items():
            if elapsed_s >= grace_s:
                _send(pid, ticks, signal.SIGKILL)
            elif (pid, ticks) not in termed:
                termed.add((pid, ticks))
                _send(pid, ticks, signal.SIGTERM)
                _send(pid, ticks, signal.SIGCONT)
        pause()


def _send(pid: int, ticks: int, number: int) -> None:
    if identity.is_alive(pid, ticks):
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            return


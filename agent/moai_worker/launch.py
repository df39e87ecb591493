"""Starting a process of a job, and becoming the one that adopts its orphans. Standard library only."""

import errno
import os
import signal
from typing import Any, Dict


def find_program(program: str, env: Dict[str, str], cwd: str) -> str:
    """Resolve like execvp(3) with the child's PATH, so a missing program is told by name."""
    if "/" in program:
        return program
    for folder in env.get("PATH", "/usr/bin:/bin").split(os.pathsep):
        path = os.path.join(folder or cwd, program)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    raise FileNotFoundError(errno.ENOENT, "not found on PATH", program)


def text(value: Any) -> str:
    """An argument as Popen wants it."""
    # Arguments travel as JSON with surrogates for bytes that are not UTF-8 (os.fsdecode's way).
    return value if isinstance(value, str) else str(value)


def reset_signals() -> None:
    """In a child, before its program: what the supervisor ignores is not the program's business."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    os.umask(0o077)


def become_subreaper() -> None:
    """prctl(PR_SET_CHILD_SUBREAPER): orphans of the job become our children, so none escapes."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(36, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")

"""Runs a short helper program with every bound it needs: time, output, and no survivors.

Owns the one way device tools, login shells and interpreters are asked something: argv (no shell),
no input, own session, killed with its whole group. Refuses to raise for what the program does:
a missing program, a hang and a bad exit are values of the answer. Blocking; runs in the agent's
worker threads.
"""

import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import IO, Mapping, Optional, Sequence, Tuple

_GRACE_S = 0.2
_REAP_S = 2.0


@dataclass
class Outcome:
    """What a program did.

    Attributes:
        stdout, stderr: what it printed, each cut at the limit.
        exit_code: None when it did not start or was killed for time; negative for a signal.
        timed_out: it was still running when its time was up.
        error: why it did not start, else None.
    """

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: Optional[int] = None
    timed_out: bool = False
    error: Optional[str] = None

    @property
    def ok(self) -> bool:
        return self.exit_code == 0


def run(
    argv: Sequence[str],
    variables: Mapping[str, str],
    timeout_s: float,
    limit_bytes: int = 1 << 20,
    executable: Optional[str] = None,
    cwd: Optional[str] = None,
) -> Outcome:
    """Run a program to its end, or to the end of its time.

    Args:
        argv: program and arguments; the program is a path, or sought on the PATH of ``variables``.
        variables: the whole environment of the program.
        timeout_s: seconds until its process group is killed.
        limit_bytes: kept of each stream; the rest is read and thrown away.
        executable: file to execute when ``argv[0]`` is to say something else (login shells).
        cwd: working folder; the agent's own when None.

    Side effects:
        Whatever is left of the program's group when it ends is killed too.
    """
    try:
        child = subprocess.Popen(
            list(argv),
            executable=executable,
            env=dict(variables),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as problem:  # ValueError: a NUL in an argument
        return Outcome(error=str(problem))
    assert child.stdout is not None and child.stderr is not None
    stdout, stderr = _collect(child, child.stdout, child.stderr, time.monotonic() + timeout_s, limit_bytes)
    timed_out = not _has_ended(child)
    try:
        # Before the leader is reaped: afterwards its number could be another group's.
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        child.kill()
    child.stdout.close()
    child.stderr.close()
    try:
        exit_code = child.wait(_REAP_S)
    except subprocess.TimeoutExpired:
        # Stuck in the kernel (a dead network disk); `subprocess` reaps it when it can be reaped.
        return Outcome(stdout, stderr, None, True)
    return Outcome(stdout, stderr, None if timed_out else exit_code, timed_out)


def _has_ended(child: "subprocess.Popen[bytes]") -> bool:
    """Whether the program has ended, leaving it to be reaped where the system can tell that."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return child.poll() is not None
    if child.returncode is not None:
        return True
    try:
        return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _collect(
    child: "subprocess.Popen[bytes]",
    stdout: IO[bytes],
    stderr: IO[bytes],
    deadline: float,
    limit_bytes: int,
) -> Tuple[bytes, bytes]:
    """Read both streams until the program has ended or the deadline has passed."""
    kept = {stdout.fileno(): bytearray(), stderr.fileno(): bytearray()}
    out, err = list(kept)
    ended_at: Optional[float] = None
    with selectors.DefaultSelector() as selector:
        for descriptor in (out, err):
            selector.register(descriptor, selectors.EVENT_READ)
        while True:
            now = time.monotonic()
            if ended_at is None and _has_ended(child):
                ended_at = now
            # A child of the program may hold its output open for ever: after the program's end
            # only what is already there is read.
            if now >= deadline or (
                ended_at is not None and (not selector.get_map() or now >= ended_at + _GRACE_S)
            ):
                break
            for key, _ in selector.select(min(0.02 if selector.get_map() else 0.002, deadline - now)):
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fd)
                elif len(kept[key.fd]) < limit_bytes:
                    kept[key.fd] += data[: limit_bytes - len(kept[key.fd])]
    return bytes(kept[out]), bytes(kept[err])

"""Holders for many hosts at once: one process imports what a holder needs, and forks one for each order.

Sixty-four interpreters that each import paramiko and gRPC cost half a second of a core each; a fork costs some
milliseconds, and the children share its memory. The nursery never connects anywhere, starts no thread and
makes no gRPC object, so there is nothing a fork could break. Linux only: elsewhere system libraries may start
threads of their own on import.

Runs on the laptop, beside the command; ends with it, or when nothing was asked for a minute.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import subprocess
import sys

from moai._ssh import lean
from moai._withheld import environment

_FDS = 3
#: A program that lives on (a notebook) does not keep it.
_IDLE_S = 60.0


class Nursery:
    """The command's end. Not thread-safe by itself: ``client`` holds its lock."""

    def __init__(self, program: str) -> None:
        self._environment = environment()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program, "moai._link.holder"],  # As its children: the word is for ps.
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env=dict(self._environment, GRPC_ENABLE_FORK_SUPPORT="0"),
            )
        finally:
            theirs.close()

    @property
    def is_usable(self) -> bool:
        """Whether it runs, and with the variables that this process still has."""
        return self._environment == environment() and self._process.poll() is None

    def bear(self, log: int) -> Child:
        """A new holder that waits for its order; ``log`` is its standard error. Raises OSError when the nursery is gone."""
        order, to_child = os.pipe()
        from_child, answer = os.pipe()
        try:
            socket.send_fds(self._control, [b"\n"], [order, answer, log])
        except OSError:
            os.close(to_child)
            os.close(from_child)
            raise
        finally:
            os.close(order)
            os.close(answer)
        return Child(to_child, from_child)

    def close(self) -> None:
        """End it; its children stay."""
        self._control.close()
        if self._process.poll() is None:
            # It ends at the end of its input; Popen must not complain that nobody waited.
            self._process.returncode = 0


class Child:
    """A holder the nursery made; ``pid`` is known (not 0) once it has said so."""

    def __init__(self, to_child: int, from_child: int) -> None:
        self.stdin = os.fdopen(to_child, "wb")
        self.stdout = os.fdopen(from_child, "rb", buffering=0)
        self.pid = 0

    def kill(self) -> None:
        """SIGKILL its session: it may be fetching wheels with a child of its own."""
        if self.pid:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                return  # It had ended by itself.


def main() -> int:
    """Fork a holder for each triple of file descriptors that comes over standard input, until its end."""
    gc.set_threshold(20_000, 20, 50)
    # All that a holder imports until its host has answered, also what others import late: each child would do it again.
    lean.load()
    import asyncio  # noqa: F401
    import concurrent.futures.thread  # noqa: F401
    import encodings.idna  # noqa: F401

    import grpc._utilities  # noqa: F401

    import moai._bootstrap.install
    import moai._ssh.connect  # noqa: F401
    from moai._link import holder, start  # noqa: F401

    gc.collect()
    gc.freeze()  # Else the first collection of every child copies all pages.
    if len(os.listdir("/proc/self/task")) != 1:
        return 1  # Some library started a thread on import: a fork might copy a lock that nobody opens.
    control = socket.socket(fileno=os.dup(0))
    while select.select([control], [], [], _IDLE_S)[0]:
        data, fds, _, _ = socket.recv_fds(control, 1, _FDS)
        if not data:
            break
        if len(fds) == _FDS and os.fork() == 0:
            _become(control, fds)
            return start.main()
        for fd in fds:
            os.close(fd)
        _reap()
    return 0


def _become(control: socket.socket, fds: list[int]) -> None:
    """Be a holder that was just started: a session and standard streams of its own."""
    control.close()
    os.setsid()
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
        os.close(fd)
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)
    print(f'{{"pid": {os.getpid()}}}', flush=True)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return  # None left.

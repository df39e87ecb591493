"""A program on a pseudo-terminal, read until it asks and answered: how menus are driven.

Owns the terminal, the clock and the end of the program: whatever happens, its process group is gone
afterwards. Refuses to answer what it has not read. Blocking; runs in the agent's worker threads and in steps
(``subprocess`` starts the child without running Python in a fork, so gRPC's threads do not matter).
"""

import os
import re
import select
import signal
import subprocess
import time
from typing import List, Mapping, Optional, Pattern, Sequence

_LIMIT_BYTES = 1 << 20
#: A question has no line end; it is one only when nothing follows it for this long.
_QUIET_S = 0.05
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class Hung(Exception):
    """The program asked nothing and did not end within its time; ``said`` is what it printed."""

    def __init__(self, said: str) -> None:
        super().__init__("no answer in time")
        self.said = said


class Terminal:
    """One run of an interactive program; a context manager that ends it.

    Args:
        argv: program (a path) and arguments. variables: its whole environment.
        timeout_s: seconds for everything together.

    Raises OSError when it cannot be started.
    """

    def __init__(self, argv: Sequence[str], variables: Mapping[str, str], timeout_s: float) -> None:
        self._end_s = time.monotonic() + timeout_s
        self._said = ""
        self._pending = b""
        self._ended = False
        self._master, slave = os.openpty()
        try:
            self._child = subprocess.Popen(
                list(argv),
                env=dict(variables, TERM="dumb"),
                stdin=slave,
                stdout=slave,
                stderr=slave,
                start_new_session=True,
                close_fds=True,
            )
        except OSError:
            os.close(self._master)
            raise
        finally:
            os.close(slave)
        os.set_blocking(self._master, False)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def said(self) -> str:
        """Everything printed so far."""
        return self._said

    def read_until(self, question: "Pattern[str]") -> Optional[str]:
        """What is printed up to a question at the very end of the output, question included.

        Returns None when the program ended without asking. Raises Hung.
        """
        start = len(self._said)
        asked_s: Optional[float] = None
        while True:
            fresh = self._read(_QUIET_S if asked_s is not None else 0.2)
            asked = question.search(self._said[start:])
            if asked is not None and self._said[start:][asked.end() :].strip() == "":
                if not fresh and asked_s is not None:
                    return self._said[start:]
                asked_s = time.monotonic()
            else:
                asked_s = None
            if self._ended and not fresh:
                return None if asked is None else self._said[start:]
            if time.monotonic() > self._end_s:
                raise Hung(self._said)

    def send(self, line: str) -> None:
        """Type a line. The program may have ended; that shows in the next read."""
        data = line.encode("ascii") + b"\n"
        try:
            os.write(self._master, data)
        except OSError:
            self._ended = True

    def rest(self) -> str:
        """What is printed until the program ends. Raises Hung."""
        start = len(self._said)
        while not self._ended:
            self._read(0.2)
            if time.monotonic() > self._end_s:
                raise Hung(self._said)
        return self._said[start:]

    def _read(self, wait_s: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], wait_s)
        data = b""
        if ready:
            try:
                data = os.read(self._master, 65536)
            except BlockingIOError:
                data = b""
            except OSError:
                self._ended = True  # EIO: the last holder of the terminal is gone.
            else:
                self._ended = self._ended or not data
        elif self._child.poll() is not None:
            self._ended = True
        if not data:
            return False
        self._pending += data
        try:
            text, self._pending = self._pending.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            if len(self._pending) - error.start < 4:
                text, self._pending = self._pending[: error.start].decode("utf-8", "replace"), self._pending[error.start :]
            else:
                text, self._pending = self._pending.decode("utf-8", "replace"), b""
        self._said = (self._said + _ANSI.sub("", text).replace("\r", ""))[-_LIMIT_BYTES:]
        return True

    def close(self) -> None:
        """End the program and everything in its session."""
        for number in (signal.SIGHUP, signal.SIGKILL):
            if self._child.poll() is None:
                try:
                    os.killpg(self._child.pid, number)
                except (ProcessLookupError, PermissionError):
                    break
                try:
                    self._child.wait(0.5)
                except subprocess.TimeoutExpired:
                    continue
        self._child.wait()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1


def lines_of(text: str) -> List[str]:
    """Lines without blanks at their ends."""
    return [line.strip() for line in text.splitlines()]

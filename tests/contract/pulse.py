"""A job that says a line each 50 ms, and the moments at which they arrive at the laptop: how long a stream was silent."""

import threading
import time

from fakes.box import Box

#: Five minutes of lines; the tests that use it end it before.
_CODE = "i=0; while [ $i -lt 6000 ]; do i=$((i+1)); echo $i; sleep 0.05; done"


class Pulse:
    """Started and followed by ``logs -f``."""

    def __init__(self, box: Box) -> None:
        self.box = box
        done = box.moai("remote", "run", "-d", "--", "sh", "-c", _CODE)
        assert done.returncode == 0, done.stderr.decode()
        self.job = done.stdout.decode().strip()
        self.arrived: list[float] = []
        self.lines: list[int] = []
        self.process = box.laptop.start("remote", "logs", "-f", self.job)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(int(line))
            self.arrived.append(time.monotonic())

    def end(self) -> None:
        """Cancel it and read to the end; nothing may be missing."""
        done = self.box.moai("remote", "cancel", self.job)
        assert done.returncode == 0, done.stderr.decode()
        self.thread.join(60.0)
        assert not self.thread.is_alive()
        with self.process:  # Closes its pipes.
            assert self.process.wait(60.0) == 0
        assert self.lines == list(range(1, len(self.lines) + 1))

    def longest_gap_s(self) -> float:
        """The longest silence."""
        return max(after - before for before, after in zip(self.arrived, self.arrived[1:]))

"""A ProxyCommand that counts what passes and holds it back on demand.

``python gate.py HOST PORT FOLDER`` copies between its standard input and output and a TCP connection. While
``FOLDER/hold`` exists and says ``DIRECTION BYTES`` (``down``: towards the laptop, ``up``: away from it), each
connection lets that many more bytes pass that way and then nothing until the file is gone. So a test stops
a transfer at a known place for as long as it likes, without timing anything. ``FOLDER/count-PID`` holds the
bytes passed so far. Standard library only; imported, it is the test's side of the same folder.
"""

import os
import socket
import sys
import threading
from pathlib import Path
from typing import Dict, Optional

_CHUNK = 16 * 1024


class Gate:
    """The test's side. ``folder`` is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)

    def command(self, host: str, port: int) -> str:
        """The value of ProxyCommand."""
        return " ".join('"%s"' % word for word in (sys.executable, "-I", "-S", __file__, host, port, self.folder))

    def hold(self, direction: str, after_bytes: int) -> None:
        """Let ``after_bytes`` more pass, then nothing, on every connection."""
        temp = self.folder / "hold.new"
        temp.write_text("%s %d" % (direction, after_bytes))
        temp.rename(self.folder / "hold")

    @property
    def is_holding(self) -> bool:
        """Whether some connection has come to its limit."""
        return any(self.folder.glob("held-*"))

    def release(self) -> None:
        """Let everything pass."""
        (self.folder / "hold").unlink()

    def passed(self) -> Dict[str, int]:
        """Bytes passed so far: ``{"up": n, "down": m}``."""
        total = {"up": 0, "down": 0}
        for path in self.folder.glob("count-*"):
            total[path.name.split("-")[1]] += int(path.read_text() or 0)
        return total


class _Way:
    """One direction of one connection."""

    def __init__(self, name: str, folder: str) -> None:
        self.name, self.folder = name, folder
        self.left: Optional[int] = None
        self.passed = 0
        self.count = os.open("%s/count-%s-%d" % (folder, name, os.getpid()), os.O_WRONLY | os.O_CREAT, 0o600)

    def admit(self, size: int) -> None:
        """Returns when ``size`` more bytes may pass."""
        held = "%s/held-%s-%d" % (self.folder, self.name, os.getpid())
        pause = threading.Event()
        while not self._may(size):
            open(held, "w").close()
            pause.wait(0.005)
        if os.path.exists(held):
            os.unlink(held)
        self.passed += size
        os.pwrite(self.count, b"%020d" % self.passed, 0)

    def _may(self, size: int) -> bool:
        try:
            with open(self.folder + "/hold") as source:
                direction, limit = source.read().split()
        except FileNotFoundError:
            self.left = None
            return True
        if direction != self.name:
            return True
        self.left = int(limit) if self.left is None else self.left
        if size > self.left:
            return False
        self.left -= size
        return True


def main() -> None:
    """Copy until either side ends."""
    host, port, folder = sys.argv[1:]
    sock = socket.create_connection((host, int(port)))

    def up() -> None:
        way = _Way("up", folder)
        while True:
            data = os.read(0, _CHUNK)
            if not data:
                os._exit(0)
            way.admit(len(data))
            sock.sendall(data)

    def down() -> None:
        way = _Way("down", folder)
        while True:
            data = sock.recv(_CHUNK)
            if not data:
                os._exit(0)
            way.admit(len(data))
            while data:
                data = data[os.write(1, data) :]

    def guarded(copy) -> None:
        try:
            copy()
        except OSError:
            os._exit(0)  # The laptop or the server is gone.

    threading.Thread(target=guarded, args=(up,), daemon=True).start()
    guarded(down)


if __name__ == "__main__":
    main()

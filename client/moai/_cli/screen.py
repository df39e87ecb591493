"""A few status lines that stay below the scrolling text of a terminal.

Text goes out at once; the status is erased before and redrawn after it, at most ten times a second.
Nothing else may print to the same terminal meanwhile. Not a terminal: no status, text only.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from typing import TextIO

from moai._cli.clean import fit
from moai._cli.common import columns

_REDRAW_S = 0.1
_SGR = re.compile("\x1b\\[[0-9;:]*m")
_OFF = "\x1b[0m"


class Screen:
    """Standard output with a status area.

    Args:
        status: makes the status lines (uncut); called at each redraw.
        enabled: False prints text only.
    """

    def __init__(self, status: Callable[[], list[str]], enabled: bool, stream: TextIO | None = None) -> None:
        self._status, self._enabled = status, enabled
        self._stream = stream or sys.stdout
        self._drawn = 0
        self._last_s = 0.0
        self._tail = ""
        self._colours = ""

    def write(self, text: str) -> None:
        """Text as it is; a last line without its end is kept back until it is whole.

        Of a line redrawn with carriage returns (a progress bar) only the last state is printed.
        """
        if not self._enabled:
            self._stream.write(text)
            self._stream.flush()
            return
        whole, newline, self._tail = (self._tail + text).rpartition("\n")
        if len(self._tail) > 65536:
            self._tail = self._tail[-4096:]
        if newline:
            self._erase()
            self._text("".join(_last_state(line) + "\n" for line in whole.split("\n")))
            self.draw(force=True)
        else:
            self.draw()

    def line(self, text: str) -> None:
        """One finished line of ours."""
        self._erase()
        self._stream.write(text + "\n")
        self.draw(force=True)

    def draw(self, force: bool = False) -> None:
        """Redraw the status, if it is time."""
        now = time.monotonic()
        if not self._enabled or (not force and now - self._last_s < _REDRAW_S):
            return
        self._erase()
        self._last_s = now
        room = columns() - 1
        lines = [_fit_coloured(line, room) for line in self._status()]
        bar = _SGR.sub("", _last_state(self._tail)).expandtabs().strip()
        if bar:
            lines.insert(0, fit(bar, room))
        self._stream.write("".join(line + "\n" for line in lines))
        self._drawn = len(lines)
        self._stream.flush()

    def close(self) -> None:
        """Print what was kept back and leave no status behind."""
        self._erase()
        if self._tail:
            tail = _last_state(self._tail)
            self._text(tail + "\n" if _SGR.sub("", tail) else tail)
            self._tail = ""
        self._enabled = False
        self._stream.flush()

    def _text(self, text: str) -> None:
        """Text with the colours it left on last time, which are switched off below it: ours are our own."""
        self._stream.write(self._colours + text)
        for code in _SGR.findall(text):
            self._colours = "" if code in (_OFF, "\x1b[m") else code if len(self._colours) > 256 else self._colours + code
        if self._colours:
            self._stream.write(_OFF)

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write(f"\x1b[{self._drawn}F\x1b[J")
            self._drawn = 0


def _last_state(line: str) -> str:
    """What is seen in the end of a line redrawn with carriage returns, and the colours set after it."""
    states = line.split("\r")
    at = next((at for at in range(len(states) - 1, -1, -1) if _SGR.sub("", states[at])), 0)
    return states[at] + "".join(_SGR.findall("".join(states[at + 1 :])))


def _fit_coloured(line: str, room: int) -> str:
    """Cut a line whose only escapes are our own colours."""
    if "\x1b" not in line:
        return fit(line, room)
    plain = _SGR.sub("", line)
    return line if fit(plain, room) == plain else fit(plain, room)

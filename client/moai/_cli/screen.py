"""A few status lines that stay below the scrolling text of a terminal.

Text goes out at once; the status is erased before and redrawn after it, at most ten times a second.
Nothing else may print to the same terminal meanwhile. Not a terminal: no status, text only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from moai._cli.clean import fit
from moai._cli.common import columns

_REDRAW_S = 0.1


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
            lines = [line.rstrip("\r").rpartition("\r")[2] for line in whole.split("\n")]
            self._stream.write("\n".join(lines) + "\n")
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
        bar = self._tail.rpartition("\r")[2] or self._tail.rstrip("\r").rpartition("\r")[2]
        if bar.strip():
            lines.insert(0, fit(bar.strip(), room))
        self._stream.write("".join(line + "\n" for line in lines))
        self._drawn = len(lines)
        self._stream.flush()

    def close(self) -> None:
        """Print what was kept back and leave no status behind."""
        self._erase()
        if self._tail:
            self._stream.write(self._tail.rstrip("\r").rpartition("\r")[2] + "\n")
            self._tail = ""
        self._enabled = False
        self._stream.flush()

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write(f"\x1b[{self._drawn}F\x1b[J")
            self._drawn = 0


def _fit_coloured(line: str, room: int) -> str:
    """Cut a line whose only escapes are our own colours."""
    if "\x1b" not in line:
        return fit(line, room)
    import re

    plain = re.sub(r"\x1b\[[0-9]*m", "", line)
    return line if fit(plain, room) == plain else fit(plain, room)

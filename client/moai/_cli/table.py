"""Tables and figures for people: aligned by East Asian width, cut to the terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from datetime import datetime, timezone

from moai._cli.clean import clean, fit, width
from moai._cli.common import columns, has_colour

_NARROWEST = 4
_STYLES = {
    "green": "\x1b[32m",
    "red": "\x1b[31m",
    "yellow": "\x1b[33m",
    "dim": "\x1b[2m",
    "bold": "\x1b[1m",
    "cyan": "\x1b[36m",
}
STATE_STYLE = {
    "SUCCEEDED": "green",
    "FAILED": "red",
    "UNKNOWN": "red",
    "INTERRUPTED": "yellow",
    "CANCELLED": "yellow",
    "RUNNING": "cyan",
}


def paint(text: str, style: str, on: bool) -> str:
    """The text in a colour, when colours are on."""
    return f"{_STYLES[style]}{text}\x1b[0m" if on and style in _STYLES else text


def print_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str] = (), grow: int = -1, plain: bool = False
) -> None:
    """Print rows under a header; column ``grow`` is cut when the terminal is too narrow, then the widest ones.

    Args:
        styles: colour of each row's state column (the one named STATE or VERDICT), "" for none.
    """
    if not rows:
        return
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [max(width(row[at]) for row in [list(header), *cells]) for at in range(len(header))]
    if sys.stdout.isatty():
        room = columns() - 2 * (len(header) - 1)
        over = sum(widths) - room
        if over > 0:
            widths[grow] = max(min(8, widths[grow]), widths[grow] - over)
        while sum(widths) > room and max(widths) > _NARROWEST:
            widths[widths.index(max(widths))] -= 1
    colour = has_colour(plain)
    marked = next((at for at, name in enumerate(header) if name in ("STATE", "VERDICT")), -1)
    print(paint(_line(list(header), widths), "dim", colour))
    for at, row in enumerate(cells):
        style = styles[at] if at < len(styles) else ""
        shown = _line(row, widths, marked if colour else -1, style)
        print(shown)


def _line(row: Sequence[str], widths: Sequence[int], marked: int = -1, style: str = "") -> str:
    parts = []
    for at, (cell, columns_) in enumerate(zip(row, widths, strict=True)):
        text = fit(cell, columns_)
        blank = " " * (columns_ - width(text)) if at < len(row) - 1 else ""
        parts.append(paint(text, style, at == marked) + blank)
    return "  ".join(parts).rstrip()


def size(count: float | None) -> str:
    """Bytes in decimal units: ``269.1 MB``."""
    if count is None or not math.isfinite(count):
        return "?"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} TB"


def duration(seconds: float | None) -> str:
    """``42s``, ``3m10s``, ``2h05m``, ``1d03h``."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def ago(moment: datetime | None) -> str:
    """How long ago, by the laptop's clock."""
    if moment is None:
        return "-"
    return duration((datetime.now(timezone.utc) - moment).total_seconds()) + " ago"


def clock(moment: datetime | None) -> str:
    """Date and time in the laptop's zone: ``06-12 14:03:07``; with the year when it is another one."""
    if moment is None:
        return "-"
    local = moment.astimezone()
    form = "%m-%d %H:%M:%S" if local.year == datetime.now().year else "%Y-%m-%d %H:%M"
    return local.strftime(form)

"""A small curve in text: block characters, two rows high by default, with its ends named."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII = " .:-=+*#@"


def sparkline(values: Sequence[float], columns: int, rows: int = 1, plain: bool = False) -> list[str]:
    """Lines of block characters, the first the highest; points are averaged into ``columns``.

    Values that are not finite leave a gap. Empty without a finite value.
    """
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return []
    cells = _averaged(values, columns)
    low, high = min(finite), max(finite)
    # Halves: the difference of two huge values of opposite sign is no number.
    span = (high / 2 - low / 2) or 1.0
    blocks = _ASCII if plain else _BLOCKS
    lines = []
    for row in range(rows - 1, -1, -1):
        line = ""
        for cell in cells:
            if cell is None:
                line += " "
                continue
            # At least one step, so that the lowest point is seen.
            level = max(1, round((cell / 2 - low / 2) / span * (8 * rows)))
            line += blocks[min(8, max(0, level - 8 * row))]
        lines.append(line.rstrip() or " ")
    return lines


def _averaged(values: Sequence[float], columns: int) -> list[float | None]:
    count = min(columns, len(values))
    cells: list[float | None] = []
    for at in range(count):
        part = [v for v in values[at * len(values) // count : (at + 1) * len(values) // count] if math.isfinite(v)]
        cells.append(min(max(part), max(min(part), sum(v / len(part) for v in part))) if part else None)
    return cells


def _label(value: float) -> str:
    """At most eight columns, with digits that tell."""
    return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 1000 else f"{value:.1e}"


def chart(points: Sequence[tuple[int, float]], columns: int, rows: int = 8, plain: bool = False) -> list[str]:
    """A curve with its axis: values at the left, first and last step below."""
    values = [v for _, v in points]
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return ["no loss has been reported"]
    lines = sparkline(values, columns - 10, rows, plain)
    labels = [""] * len(lines)
    labels[-1], labels[0] = _label(min(finite)), _label(max(finite))
    bar = "|" if plain else "┤"
    out = [f"{label:>8}{bar}{line}" for label, line in zip(labels, lines, strict=True)]
    first, last = f"step {points[0][0]}", f"step {points[-1][0]}"
    used = min(columns - 10, len(values))
    out.append(" " * 9 + first + " " * max(1, used - len(first) - len(last)) + last)
    return out

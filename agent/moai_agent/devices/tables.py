"""From a device tool's output to table rows, and from a cell to a value; no table logic.

Owns the lexical half of reading ``moreh-smi`` and ``ap-smi``: lines without escapes, tables glued
on one line taken apart, cells by the names in their header, numbers with their units. Refuses to
guess: a cell that does not fit its pattern is None. Every function is linear in its input; the
text may come from anywhere. ``smi.py`` puts the tables together. Runs in the agent.
"""

import re
from typing import Dict, List, Optional

# An unterminated title sequence ends with its line, or it would swallow the table.
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\r\n]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]")
_LINE_BREAK = re.compile(r"[\r\n]+")
_RULE = re.compile(r"\+[-=+]*\+")
# Inside a line only a run this long can be a rule: a process command may hold `+--+`.
_RUN = re.compile(r"[-=+]{16,}")
DEVICE_ID = re.compile(r"(\*\s*)?(\d{1,9})", re.ASCII)
MIB = re.compile(r"(\d[\d,]{0,18})\s*MiB", re.ASCII | re.IGNORECASE)
_PERCENT = re.compile(r"(\d{1,3})(?:\.\d{1,6})?\s*%", re.ASCII)
_BARE_PERCENT = re.compile(r"(\d{1,3})(?:\.\d{1,6})?\s*%?", re.ASCII)
CELSIUS = re.compile(r"(\d{1,3})\s*°?C", re.ASCII)
NUMBER = re.compile(r"\d{1,18}", re.ASCII)

_COLUMNS = {
    "device": "id",
    "dev": "id",
    "#": "id",
    "name": "name",
    "model": "flavor",
    "flavor": "flavor",
    "memory usage": "used",
    "total memory": "total",
    "utilization": "utilization",
    "mem usage(%)": "used_percent",
    "gpu util(%)": "bare_utilization",
    "token": "token",
    "job id": "job",
    "pid": "pid",
    "process": "command",
    "location": "location",
    "dev temp": "device_temp",
    "mem temp": "memory_temp",
    "dev util": "device_util",
    "mem util": "memory_util",
    "mem usage": "memory_percent",
}


def cells_of(row: str) -> List[str]:
    """Trimmed cells of a line that starts and ends with a bar."""
    return [cell.strip() for cell in row[1:-1].split("|")]


def header_of(cells: List[str]) -> Optional[List[Optional[str]]]:
    """Column roles of a header row, or None when the row is not one."""
    if len(cells) < 2 or DEVICE_ID.fullmatch(cells[0]):
        return None  # Most rows: not worth normalising their cells.
    names = [" ".join(cell.strip("*` ").lower().split()) for cell in cells]
    if not {"device", "dev", "#"} & set(names):
        return None
    return ["token" if "token" in name else _COLUMNS.get(name) for name in names]


def lines_of(text: str) -> List[str]:
    """Trimmed lines without escape sequences, tables glued on one line taken apart."""
    out: List[str] = []
    for line in _LINE_BREAK.split(_ANSI.sub("", text).replace("\ufeff", "")):
        line = line.strip()
        if not line:
            continue
        out.extend(part for part in _unglue(line) if part)
    return out


def is_rule(text: str) -> bool:
    """Whether a trimmed line is a complete rule; one without its last `+` was cut."""
    return len(text) > 2 and _RULE.fullmatch(text) is not None and ("-" in text or "=" in text)


def _unglue(line: str) -> List[str]:
    """Cut a line before and after every rule that stands next to a bar or at the line's ends."""
    if "+" not in line or is_rule(line):
        return [line]
    parts: List[str] = []
    done = 0
    for run in _RUN.finditer(line):
        before, after = line[done : run.start()].strip(), line[run.end() :].lstrip()
        edge = not before or not after or before.endswith("|") or after.startswith("|")
        if edge and is_rule(run.group(0)):
            parts += [before, run.group(0)]
            done = run.end()
    return parts + [line[done:].strip()]


def split_glued_rows(row: str, width: int) -> List[str]:
    """Take apart rows joined end to end (``|a|b||c|d|``); any other row comes back alone."""
    cells = row[1:-1].split("|")
    count, rest = divmod(len(cells) + 1, width + 1)
    starts = range(0, len(cells), width + 1)
    if count < 2 or rest or any(cells[start - 1].strip() for start in starts if start):
        return [row]
    if not all(DEVICE_ID.fullmatch(cells[start].strip()) for start in starts):
        return [row]
    return ["|" + "|".join(cells[start : start + width]) + "|" for start in starts]


def by_column(row: str, columns: List[Optional[str]]) -> Optional[Dict[str, str]]:
    """Cells by role, the Token cell left out; None when the row does not fit its header."""
    raw = row[1:-1].split("|")
    extra = len(raw) - len(columns)
    if extra < 0 or (extra and "command" not in columns):
        return None
    if extra:
        # Process is the only free-text column: bars too many are part of the command.
        at = columns.index("command")
        raw[at : at + extra + 1] = ["|".join(raw[at : at + extra + 1])]
    return {role: cell.strip() for role, cell in zip(columns, raw) if role and role != "token"}


def tokens_of(row: str, columns: List[Optional[str]]) -> List[str]:
    """The values of a row's Token cells, so that they can be taken out of everything else."""
    raw = [cell.strip() for cell in row[1:-1].split("|")]
    return [cell for role, cell in zip(columns, raw) if role == "token"]


def text_of(cell: Optional[str]) -> Optional[str]:
    """A short text without the markdown of copied documents; None for a dash or nothing."""
    if cell is None:
        return None
    plain = cell.strip("`").strip()
    if len(plain) > 4 and plain.startswith("**") and plain.endswith("**"):
        plain = plain[2:-2].strip()
    return None if plain in ("", "-") else plain


def number_of(pattern: "re.Pattern[str]", cell: Optional[str]) -> Optional[int]:
    """The number a cell states in the pattern's unit, else None."""
    found = pattern.fullmatch(cell) if cell else None
    if not found:
        return None
    digits = (found.group(1) if pattern.groups else found.group(0)).replace(",", "")
    return int(digits)


def percent_of(cell: Optional[str], bare: bool = False) -> Optional[int]:
    """A percentage from 0 to 100, else None; ``bare`` columns have the sign in their header."""
    value = number_of(_BARE_PERCENT if bare else _PERCENT, cell)
    return value if value is None or value <= 100 else None

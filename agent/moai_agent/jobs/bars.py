"""Progress bars as tqdm draws them (its ``format_meter``): ``12%|###  | 40/320 [01:02<07:10, 1.5it/s]``.

Owns the reading of bars; keeps no state and judges one line at a time. Refuses bars without a total
(``40it [00:10, 4.00it/s]``), which say nothing about progress. Runs in the agent (Python 3.8,
standard library only).
"""

import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from moai_agent.jobs.dialects import MAX_VALUES, NUMBER, RENAMED, to_number

_BAR = re.compile(
    r"(\d{1,3})%\|[^|]{0,400}\|\s*([\d.]+)([kMGTPE]?)i?B?/([\d.]+)([kMGTPE]?)i?B?\s*"
    r"\[([\d:]+)<([\d:]+|\?),\s*([^\],]{1,40})((?:,[^\]]{0,400})?)\]"
)
_PER_SECOND = re.compile(r"([\d.]+|\?)\s*([kMGTPE]?)\s*([A-Za-z]\w*)/s\s*$")
_SECONDS_PER = re.compile(r"([\d.]+)\s*s/\s*([A-Za-z]\w*)\s*$")
_POSTFIX = re.compile(r"\b([A-Za-z_]\w*)=(" + NUMBER + r")(?![\w.])", re.IGNORECASE)
_SCALE = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}


class Bar(NamedTuple):
    """One tqdm bar. ``unit`` is tqdm's own word (``it``, ``B``, ``examples``)."""

    label: str
    done: float
    total: float
    unit: str
    rate: Optional[float]
    eta_seconds: Optional[float]
    values: Dict[str, float]

    @property
    def percent(self) -> int:
        """Whole percent done, 0-100."""
        return int(min(self.done, self.total) * 100 // self.total)


def parse_bars(text: str) -> Tuple[List[Bar], str]:
    """Read every tqdm bar of a line (several can be glued together), with what stood before each.

    Returns:
        The bars and the text behind the last one: a bar has no newline, so whatever is printed next
        (a traceback, a step line) follows it directly. Without bars that is the whole text.
    """
    bars = []
    before = 0
    for found in _BAR.finditer(text):
        label = text[before : found.start()].strip().rstrip(":").rstrip()[-60:]
        before = found.end()
        bar = _bar(label, found)
        if bar is not None:
            bars.append(bar)
    return bars, text[before:]


def _bar(label: str, found: Any) -> Optional[Bar]:
    _, done, done_scale, total, total_scale, _, eta, speed, postfix = found.groups()
    try:
        done_count = float(done) * _SCALE[done_scale]
        total_count = float(total) * _SCALE[total_scale]
        rate, unit = _bar_rate(speed)
    except ValueError:  # digits and dots that are no number, such as "1.2.3"
        return None
    if total_count <= 0:
        return None
    values = {}
    for name, number in _POSTFIX.findall(postfix)[:MAX_VALUES]:
        values[RENAMED.get(name, name)] = to_number(number)
    return Bar(label, done_count, total_count, unit, rate, _clock_seconds(eta), values)


def _bar_rate(text: str) -> Tuple[Optional[float], str]:
    found = _SECONDS_PER.search(text)
    if found:
        seconds = float(found.group(1))
        return (1.0 / seconds if seconds > 0 else None), found.group(2)
    found = _PER_SECOND.search(text)
    if not found:
        return None, ""
    if found.group(1) == "?":
        return None, found.group(3)
    return float(found.group(1)) * _SCALE[found.group(2)], found.group(3)


def _clock_seconds(text: str) -> Optional[float]:
    """``07:10`` or ``1:02:03`` as seconds; None for ``?``."""
    seconds = 0
    for part in text.split(":"):
        if not part.isdigit():
            return None
        seconds = seconds * 60 + int(part[:9])
    return float(seconds)

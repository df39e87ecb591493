"""Training steps and losses in a log, seen cheaply: enough for the watchers, not for people.

The agent reads every dialect (``moai_agent.jobs.dialects``); the supervisor must not need it, so this is a
small recogniser of the same lines, held against it by a test. It reads what is new, in pieces of bounded
size; when a log grows faster than that, the middle is skipped and said so. Standard library only.
"""

import math
import os
import re
from typing import Any, List, NamedTuple, Optional, Pattern

#: Bytes read in one look; of a log that grew more, only the end is read.
LOOK_BYTES = 256 * 1024
#: Longest line judged.
LINE_BYTES = 4096

_NUMBER = rb"([-+]?(?:\d[\d,]*\.?\d*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?|nan|inf(?:inity)?))"
_INTERESTING = re.compile(rb"loss|step|iter|%\||eval|sav(?:e|ing)|checkpoint|compil")
_STEP = re.compile(rb"\b(?:(?:global|train(?:ing)?)[ _]?)?(?:step|iter(?:ation)?)['\"]?\s{0,9}[:=#]?\s{0,9}\[?\s{0,9}(\d{1,15})")
_LOSS = re.compile(rb"loss['\"]?\s{0,9}[:=]?\s{0,9}(?:tensor\()?['\"]?" + _NUMBER)
_BEFORE = re.compile(rb"(?:\b(?:(val(?:id(?:ation)?)?|eval|test)|train(?:ing)?)[ _]|(?<!\w))$")
_BAR = re.compile(rb"^([^%]{0,200}?)\s{0,9}\d{1,3}%\|[^|]{0,300}\|\s{0,9}(\d{1,15})/(\d{1,15}) \[")
_TRAIN_LABEL = re.compile(rb"train|step|iter|epoch")
_OTHER = re.compile(rb"\beval|\bvalid|\bsav(?:e|ing)|checkpoint|compil|(?:\b|_)loss\b")
_ANSI = re.compile(rb"\x1b[\[\]][0-9;?]*[A-Za-z]")


class Seen(NamedTuple):
    """One line. ``step``: the training is there, None when it does not say. ``loss``: of training.

    A line with neither is another sign of work (evaluating, saving, compiling, some other bar moving).
    """

    step: Optional[int]
    loss: Optional[float]
    offset: int


class StepLines:
    """Reads one log from ``offset`` on.

    Args:
        path: the log. offset: where to start. pattern: the user's own expression with named groups
        ``step`` and ``loss``, or "".
    """

    def __init__(self, path: str, offset: int = 0, pattern: str = "") -> None:
        self._path, self.offset = path, offset
        self.skipped_bytes = 0
        self._rest = b""
        self._bar_total = 0
        self._pattern: Optional[Pattern[str]] = None
        try:
            self._pattern = re.compile(pattern) if pattern else None
        except re.error:
            self._pattern = None  # Refused at submission; an old job may hold one.

    def read(self) -> List[Seen]:
        """What the lines completed since the last look say."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return []
        try:
            size = os.fstat(fd).st_size
            if size <= self.offset:
                return []
            if size - self.offset > LOOK_BYTES:
                start = size - LOOK_BYTES
                self.skipped_bytes += start - self.offset
                self.offset, self._rest = start, b""
            data = os.pread(fd, size - self.offset, self.offset)
        except OSError:
            return []
        finally:
            os.close(fd)
        self.offset += len(data)
        lines = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop()[:LINE_BYTES]
        return [seen for seen in map(self._judge, lines) if seen is not None]

    def _judge(self, line: bytes) -> Optional[Seen]:
        line = line[:LINE_BYTES]
        if self._pattern is not None:
            own = self._own(line)
            if own is not None:
                return own
        lower = line.lower()
        if not _INTERESTING.search(lower):
            return None
        if b"\x1b" in lower:
            lower = _ANSI.sub(b"", lower)
        bar = _BAR.search(lower)
        if bar:
            return self._from_bar(bar, lower)
        step = _STEP.search(lower)
        loss = training_loss(lower)
        if loss is not None or (step and b"[step" in lower and b"/s" in lower):
            return Seen(int(step.group(1)) if step else None, loss, self.offset)
        return Seen(None, None, self.offset) if _OTHER.search(lower) else None

    def _from_bar(self, bar: Any, lower: bytes) -> Optional[Seen]:
        label, done, total = bar.group(1), int(bar.group(2)), int(bar.group(3))
        loss = training_loss(lower)
        if (label.strip() and not _TRAIN_LABEL.search(label)) or _OTHER.search(label):
            return Seen(None, None, self.offset)
        # Loading and evaluating draw bars too; the training's is the longest, or shows a loss.
        if total >= self._bar_total or loss is not None:
            self._bar_total = total
            return Seen(done, loss, self.offset)
        return Seen(None, None, self.offset)

    def _own(self, line: bytes) -> Optional[Seen]:
        found = self._pattern.search(line.decode("utf-8", "replace")) if self._pattern else None
        if not found:
            return None
        groups = found.groupdict()
        step, loss = _float(groups.get("step")), _float(groups.get("loss"))
        count = int(step) if step is not None and math.isfinite(step) else None
        return Seen(count, loss, self.offset)


def training_loss(lower: bytes) -> Optional[float]:
    """The training loss in a line of lower-case bytes; that of an evaluation does not count."""
    for found in _LOSS.finditer(lower):
        before = _BEFORE.search(lower[max(0, found.start() - 12) : found.start()])
        if before and not before.group(1):
            return _float(found.group(1).decode("ascii"))
    return None


def _float(text: Optional[str]) -> Optional[float]:
    try:
        return None if text is None else float(text.replace(",", ""))
    except ValueError:
        return None

"""Turns the bytes of a job's ``log`` into typed reports, piece by piece, the same for any pieces.

Owns the splitting into lines, the order in which a line is judged (``metrics``, ``phases``,
``faults``), and the state that lets another process continue. Refuses to look at
the clock (the caller knows when each byte was written) and to raise on anything a log may hold.
Runs in the agent (Python 3.8, standard library only).

Lines end at ``\\n`` or ``\\r``; one longer than ``MAX_LINE_BYTES`` is cut there, counted from its
start. Only whole lines count: ``offset`` and ``state()`` always stand at the start of the first
line that is not complete, so a successor is fed from ``offset`` on.

Most lines of a log mean nothing here, so a line is first searched for a few words in its raw bytes
(see ``benchmarks/log_parser.py``).
"""

import json
import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from moai_agent.jobs import bars, dialects, faults, metrics, phases

#: A longer line is cut into pieces of this size.
MAX_LINE_BYTES = 64 * 1024
#: Version of the state; another one is refused.
STATE_VERSION = 1
#: Unrecognised warnings and errors with a MAF prefix that are passed on, per log.
MAX_OTHER_WARNINGS = 20

#: Lines of the supervisor (``moai_worker.verdict.OURS``): a new try of a failed step, what --on-finish said.
_OURS, _RETRY = b"[moai] ", b"[moai] retry "

_ANSI = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
_RANK = re.compile(r"^\[(?:rank|default)\d+\]:\s?")
#: Words of lines that may hold anything, for lower-case bytes. Grouped by first letter, which makes
#: the search about a third faster; every rule elsewhere needs its word here.
_INTERESTING = re.compile(
    rb"s(?:tep|av|egmentation|toragefull)|%\||loss|killed|abort|glibc_|warning\]|\*\*\*\*\* running"
    rb"|t(?:raceback|rain_runtime|raining done|erminate called|oken(?:izer| is not)|otal_step"
    rb"|o (?:initialize|the server))"
    rb"|e(?:rror|xception|poch eval)|i(?:nfo\]|teration)|m(?:emory|ultiarray)|d(?:uration|ownloading)"
    rb"|n(?:um e|o (?:space left|longer supported)|ot found)|can(?:not be switched|'t open)"
    rb"|batch size|preprocessing|quota exceeded|\| tps"
).search
#: Phases that a run reaches only alive.
_GOOD_PHASES = frozenset(["ready", "training", "trained", "saved"])


class Found(NamedTuple):
    """One report found in a log.

    Args:
        type: ``metric``, ``progress``, ``phase`` or ``message``.
        data: as ``moai_worker.reporter`` writes it for that type; NaN and infinity are possible
            among the values of a metric.
        end: offset of the first byte after the line that caused it. Reports of one line share it.
    """

    type: str
    data: Dict[str, Any]
    end: int


def fatal_after_last_good(state: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """Read from a parser's ``state()`` the fatal line that no progress followed.

    Returns:
        ``{"text", "code", "offset", "next", "details"}`` (offset of the line's first byte), or None.
    """
    return faults.FaultTracker(state.get("faults", {})).fatal


class LogParser:
    """Incremental parser of one log.

    Args:
        state: what ``state()`` of an earlier parser returned; the log is then fed from that
            parser's ``offset``. None starts at byte 0.
        pattern: the user's own regular expression with named groups, tried on every line before the
            known dialects; None keeps the one in ``state``.

    Raises:
        ValueError: the state is of another version, or the pattern is not usable.
    """

    def __init__(self, state: Optional[Dict[str, Any]] = None, pattern: Optional[str] = None) -> None:
        if state is None:
            state = {"v": STATE_VERSION, "offset": 0}
        if state.get("v") != STATE_VERSION:
            raise ValueError("parser state of version %r, not %d" % (state.get("v"), STATE_VERSION))
        self._state = json.loads(json.dumps(state))  # type: Dict[str, Any]
        if pattern is not None:
            self._state["pattern"] = pattern
        text = self._state.get("pattern")
        self._pattern = dialects.compile_pattern(text) if text else None
        self._offset = int(self._state["offset"])
        self._tail = b""
        self._phases = phases.PhaseTracker(self._state.setdefault("phases", {}))
        self._faults = faults.FaultTracker(self._state.setdefault("faults", {}))
        self._metrics = metrics.MetricTracker(
            self._state.setdefault("steps", {}),
            self._state.setdefault("bars", {}),
            self._phases,
            self._faults,
        )

    @property
    def offset(self) -> int:
        """Offset of the first byte not yet consumed as part of a whole line."""
        return self._offset

    @property
    def fatal(self) -> Optional[Dict[str, Any]]:
        """The fatal line that no progress followed, as ``fatal_after_last_good`` returns it."""
        return self._faults.fatal

    def state(self) -> Dict[str, Any]:
        """A copy of everything a successor needs; JSON values only, below 8 KiB as JSON."""
        self._state["offset"] = self._offset
        return json.loads(json.dumps(self._state))

    def feed(self, data: bytes, offset: int) -> List[Found]:
        """Consume bytes of the log.

        Args:
            data: bytes that begin at ``offset`` of the log. What was consumed before is skipped.
            offset: at most one byte after the last byte seen.

        Returns:
            What the lines completed by ``data`` report, in order.

        Raises:
            ValueError: bytes between those seen and ``offset`` are missing.
        """
        seen = self._offset + len(self._tail)
        if offset > seen:
            raise ValueError("bytes %d to %d of the log were not fed" % (seen, offset))
        if offset < seen:
            data = data[seen - offset :]
        return self._consume(self._tail + data)

    def finish(self) -> List[Found]:
        """The log has ended: judge a last line without newline and report what is still held."""
        found = []  # type: List[Found]
        end = self._offset + len(self._tail)
        if self._tail:
            self._line(self._tail, self._offset, end, found)
            self._offset, self._tail = end, b""
        out = []  # type: List[phases.Report]
        self._faults.flush(out)
        self._emit(out, end, found)
        return found

    def _consume(self, data: bytes) -> List[Found]:
        found = []  # type: List[Found]
        lines = data.replace(b"\r", b"\n").split(b"\n")
        self._tail = lines.pop()
        start = self._offset
        always = self._pattern is not None
        for line in lines:
            end = start + len(line) + 1
            if len(line) >= MAX_LINE_BYTES:
                line, start = self._cut(line, start, found)
            if line.startswith(_OURS):
                if line.startswith(_RETRY):
                    self._faults.good()
                start = end
                continue
            if line and (always or self._faults.active or b"\x1b" in line or _INTERESTING(line.lower())):
                self._line(line, start, end, found)
            start = end
        self._tail, self._offset = self._cut(self._tail, start, found)
        return found

    def _cut(self, line: bytes, start: int, found: List[Found]) -> Tuple[bytes, int]:
        """Judge full pieces of an overlong line; returns the rest and where it starts."""
        while len(line) >= MAX_LINE_BYTES:
            piece, line = line[:MAX_LINE_BYTES], line[MAX_LINE_BYTES:]
            self._line(piece, start, start + MAX_LINE_BYTES, found)
            start += MAX_LINE_BYTES
        return line, start

    def _line(self, raw: bytes, start: int, end: int, found: List[Found]) -> None:
        if b"\x1b" in raw:
            raw = _ANSI.sub(b"", raw)
        if self._pattern is None and not self._faults.active and not _INTERESTING(raw.lower()):
            return
        text = _RANK.sub("", raw.decode("utf-8", "replace"))
        out = []  # type: List[phases.Report]
        if not (self._faults.active and self._faults.inside(text, start, out)):
            own = dialects.parse_pattern(self._pattern, text) if self._pattern is not None else None
            if own is not None:
                self._metrics.step(own, out)
            else:
                for level, part in phases.segments(text):
                    self._part(level, part, start, end, out)
        self._emit(out, end, found)

    def _emit(self, out: List[phases.Report], end: int, found: List[Found]) -> None:
        for type_, data in out:
            if type_ == "message" and data.get("level") == "error" and self._phases.job_id is not None:
                data["moreh_job_id"] = self._phases.job_id
            found.append(Found(type_, data, end))

    def _part(self, level: str, text: str, start: int, end: int, out: List[phases.Report]) -> None:
        """Judge a line, or the part of one behind a MAF prefix."""
        if level:
            known = self._phases.framework(level, text)
            if known is not None:
                self._named(known, out)
                return
        if "%|" in text:
            drawn, text = bars.parse_bars(text)
            self._metrics.draw(drawn, out)
            if not text.strip():
                return
        lower = text.lower()
        if self._faults.outside(text, start, end, out):
            return
        if self._metrics.line(text, lower, out):
            return
        named = self._phases.script(text, lower)
        if named is not None:
            self._named(named, out)
        elif level in ("warning", "error") and self._state.get("warnings", 0) < MAX_OTHER_WARNINGS:
            self._state["warnings"] = self._state.get("warnings", 0) + 1
            out.append(("message", {"text": text.strip()[:1000], "level": level, "code": ""}))

    def _named(self, reports: List[phases.Report], out: List[phases.Report]) -> None:
        out.extend(reports)
        if any(type_ == "phase" and data["phase"] in _GOOD_PHASES for type_, data in reports):
            self._faults.good()

"""Events, their journal lines, and the view folded from them.

Owns the format of ``events.jsonl`` and ``reports.jsonl`` and the meaning of an event for the state
of a job. Pure functions on bytes and dictionaries; used by the agent (which writes the journal) and
by the inspector (which reads it without an agent).

A journal line is ``<crc32, 8 hex> <JSON>\\n``. An event is ``{"q": sequence, "t": seconds since the
epoch, "step": name, "type": TYPE, "data": {...}, "src": source, "end": offset}``: ``end`` is the
offset in ``src`` just after what caused the event. A cursor line is ``{"cursor": {...}}``; it has no
sequence and lets a reader start late: offsets of the sources, state of the log parser, the view.
"""

import json
import zlib
from typing import Any, Dict, Iterator, List, Optional, Tuple

EVENT_TYPES = ("state", "step", "phase", "progress", "metric", "message", "artifact", "gap")

#: Longest line accepted from reports.jsonl; a longer one becomes a gap event.
MAX_REPORT_BYTES = 64 * 1024

_MAX_LOSSES = 512


def encode(record: Dict[str, Any]) -> bytes:
    """One journal line."""
    body = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return b"%08x %s\n" % (zlib.crc32(body), body)


def decode(line: bytes) -> Optional[Dict[str, Any]]:
    """The record in a line without its newline; None when torn or altered."""
    if len(line) < 10 or line[8:9] != b" ":
        return None
    try:
        if int(line[:8], 16) != zlib.crc32(line[9:]):
            return None
        value = json.loads(line[9:].decode("utf-8"))
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def scan(data: bytes) -> Iterator[Tuple[int, Dict[str, Any]]]:
    """(offset after the line, record) of each whole, valid line; stops at the first bad one."""
    start = 0
    while True:
        stop = data.find(b"\n", start)
        if stop < 0:
            return
        record = decode(data[start:stop])
        if record is None:
            return
        start = stop + 1
        yield start, record


def parse_report(line: bytes) -> Optional[Dict[str, Any]]:
    """A report line as ``{"t", "step", "type", "data"}``; None when it is not one.

    Numbers that JSON cannot carry (NaN, infinities) are kept as Python floats here and written as
    such to the journal; readers get them back.
    """
    try:
        value = json.loads(line.decode("utf-8", "replace"))
        if b"\\u" in line:
            # Half a surrogate pair cannot be sent.
            value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.get("type") not in EVENT_TYPES:
        return None
    if not isinstance(value.get("data"), dict) or not _is_believed(value["type"], value["data"]):
        return None
    moment = value.get("t")
    if not isinstance(moment, (int, float)) or not 0 <= moment < 2**33:
        moment = None
    return {
        "t": moment,
        "step": str(value.get("step") or "")[:100],
        "type": value["type"],
        "data": value["data"],
    }


def _is_believed(type: str, data: Dict[str, Any]) -> bool:
    """Any program of the job may write reports: none of them ends the job or breaks a reader.

    Terminal states come from exit.json only, gaps from the agent only.
    """
    if type == "gap":
        return False
    if type == "state":
        conditions = data.get("conditions") or []
        return (
            data.get("state") in ("QUEUED", "STARTING", "RUNNING", "STOPPING")
            and isinstance(conditions, list)
            and all(isinstance(c, dict) and isinstance(c.get("type"), str) and isinstance(c.get("message"), str) for c in conditions)
            and isinstance(data.get("output") or "", str)
            and _is_reason(data.get("reason"))
        )
    if type == "step":
        code = data.get("exit_code")
        return (
            data.get("state") in _STEP_STATES
            and (code is None or (isinstance(code, int) and 0 <= code <= 255))
            and isinstance(data.get("name") or "", str)
            and all(_is_count(data.get(name) or 0) for name in ("pid", "pid_start_ticks"))
            and _is_reason(data.get("reason"))
        )
    if type == "phase":
        usual = data.get("usual_seconds") or []
        return isinstance(usual, list) and all(_is_count(one) for one in usual) and isinstance(data.get("usual_source") or "", str)
    return True


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**53 and value == int(value)


def _is_reason(value: Any) -> bool:
    return not value or (isinstance(value, dict) and isinstance(value.get("details") or {}, dict))


_STEP_STATES = ("RUNNING", "SUCCEEDED", "SKIPPED", "FAILED", "CANCELLED")


def new_view(spec: Dict[str, Any], plan: Optional[Dict[str, Any]]) -> Dict[str, Any]:
    """The view of a job before its first event."""
    steps = [{"name": s["name"], "state": "PENDING", "exit_code": None} for s in (plan or {}).get("steps", [])]
    return {
        "state": "STARTING",
        "steps": steps,
        "step": "",
        "phase": "",
        "phase_text": "",
        "phase_since": None,
        "phase_usual": None,
        "vitals": None,
        "progress": None,
        "metrics": {},
        "metrics_step": None,
        "losses": [],
        "reason": None,
        "conditions": [],
        "exit_code": None,
        "pid": 0,
        "pid_start_ticks": None,
        "create": spec.get("create_time"),
        "start": None,
        "end": None,
        "output": (plan or {}).get("output", ""),
        "last": 0,
    }


def fold(view: Dict[str, Any], event: Dict[str, Any]) -> None:
    """Change ``view`` by one event. Unknown types and fields change nothing."""
    kind, data = event.get("type"), event.get("data") or {}
    view["last"] = event.get("q", view["last"])
    if kind == "state":
        _fold_state(view, event, data)
    elif kind == "step":
        _fold_step(view, event, data)
    elif kind == "phase":
        view["phase"] = str(data.get("phase") or "")
        view["phase_text"] = str(data.get("text") or "")
        view["phase_since"] = event.get("t")
        usual = data.get("usual_seconds")
        view["phase_usual"] = [usual, data.get("usual_source") or ""] if usual else None
    elif kind == "progress":
        view["progress"] = {
            "step": data.get("done"),
            "total": data.get("total"),
            "unit": data.get("unit") or "",
            "rate": data.get("rate"),
            "eta_seconds": data.get("eta_seconds"),
            "as_of": event.get("t"),
        }
    elif kind == "metric":
        values = data.get("values")
        if isinstance(values, dict) and "process_cpu_seconds" in values:
            view["vitals"] = dict(values, as_of=event.get("t"))
        elif isinstance(values, dict):
            view["metrics"].update(values)
            view["metrics_step"] = data.get("step")
            loss = values.get("loss")
            step = data.get("step")
            if isinstance(loss, (int, float)) and isinstance(step, int) and abs(step) < 2**53:
                view["losses"].append([data["step"], loss])
                if len(view["losses"]) > _MAX_LOSSES:
                    # Keep the shape of the curve: thin out the older half.
                    half = _MAX_LOSSES // 2
                    view["losses"] = view["losses"][:half:2] + view["losses"][half:]
    elif kind == "artifact" and data.get("kind") in ("model", "adapter", "output") and not view["output"]:
        view["output"] = str(data.get("path") or "")


def _fold_state(view: Dict[str, Any], event: Dict[str, Any], data: Dict[str, Any]) -> None:
    view["state"] = data.get("state", view["state"])
    view["conditions"] = data.get("conditions") or []
    if data.get("reason"):
        view["reason"] = data["reason"]
    if view["state"] == "RUNNING" and view["start"] is None:
        view["start"] = event.get("t")
    if view["state"] in ("SUCCEEDED", "FAILED", "CANCELLED", "INTERRUPTED", "UNKNOWN"):
        view["end"] = event.get("t")
        view["exit_code"] = data.get("exit_code")
        view["phase"] = ""
        view["pid"] = 0
        for step in view["steps"]:
            if step["state"] == "RUNNING":
                step["state"] = "CANCELLED" if view["state"] == "CANCELLED" else "FAILED"
    if data.get("output"):
        view["output"] = data["output"]


def _fold_step(view: Dict[str, Any], event: Dict[str, Any], data: Dict[str, Any]) -> None:
    for step in view["steps"]:
        if step["name"] == data.get("name"):
            step["state"] = data.get("state", step["state"])
            if data.get("exit_code") is not None:
                step["exit_code"] = data["exit_code"]
    if data.get("state") == "RUNNING":
        view["step"] = data.get("name", "")
        view["phase"], view["phase_text"], view["progress"] = "", "", None
        view["pid"] = data.get("pid") or 0
        view["pid_start_ticks"] = data.get("pid_start_ticks")
    elif data.get("name") == view["step"]:
        view["pid"] = 0


def read_view(spec: Dict[str, Any], plan: Optional[Dict[str, Any]], journal: bytes) -> Dict[str, Any]:
    """The view after all valid lines of ``journal`` (its start may be cut at a line border)."""
    view = new_view(spec, plan)
    for _, record in scan(journal):
        cursor = record.get("cursor")
        if cursor is not None:
            if cursor.get("view"):
                view = dict(new_view(spec, plan), **cursor["view"])
        else:
            fold(view, record)
    return view


class LogClock:
    """When each byte of a log was seen, from ``log.times`` (lines ``size wall monotonic``)."""

    def __init__(self) -> None:
        self._sizes: List[int] = []
        self._walls: List[float] = []

    def feed(self, data: bytes) -> None:
        """Add whole lines; broken ones are skipped."""
        for line in data.split(b"\n"):
            parts = line.split()
            if len(parts) == 3:
                try:
                    size, wall = int(parts[0]), float(parts[1])
                except ValueError:
                    continue
                if not self._sizes or size >= self._sizes[-1]:
                    self._sizes.append(size)
                    self._walls.append(wall)

    def at(self, offset: int) -> Optional[float]:
        """Wall time by which the byte before ``offset`` was written; None if not known yet."""
        low, high = 0, len(self._sizes)
        while low < high:
            middle = (low + high) // 2
            if self._sizes[middle] < offset:
                low = middle + 1
            else:
                high = middle
        return self._walls[low] if low < len(self._walls) else None

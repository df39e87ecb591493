"""The fatal lines of one log: tracebacks, errors with their numbers, and the last one that counts.

Owns the memory of the last fatal line, of an open traceback and of an error whose numbers are still
to come; ``fault_rules`` knows the texts. Refuses to call a caught error fatal: it is forgotten when
the run goes on afterwards. Runs in the agent (Python 3.8, standard library only).

Numbers that follow an error (``>> Memory requested : N bytes``, ``what():  ...``) are waited for,
at most ``HOLD_LINES`` lines, so that one message carries everything.
"""

import json
import re
from typing import Any, Dict, List, Optional, Tuple

from moai_agent.jobs.fault_rules import TRACEBACK, Fault, classify_exception, recognise

Report = Tuple[str, Dict[str, Any]]

#: Lines after an error in which its numbers may follow.
HOLD_LINES = 12
#: A traceback longer than this has lost its end.
TRACEBACK_LINES = 1000
#: Errors reported without a sign of progress in between; the rest only updates the fatal line.
MAX_ERRORS_IN_A_ROW = 50
#: JSON bytes of one text kept in the state.
STATE_TEXT_BYTES = 400

_GENERIC = ("COMMAND_FAILED", "COMMAND_KILLED")
_HELD_NUMBERS = (
    ("requested_bytes", re.compile(r"Memory requested\s*:\s*([\d,]{1,24})\s*bytes")),
    ("available_bytes", re.compile(r"Memory available\s*:\s*([\d,]{1,24})\s*bytes")),
)
_HELD_WHAT = re.compile(r"\bwhat\(\):\s*(.{1,400})")
_HELD_DETAIL = re.compile(r"Error message:\s*(.{0,400})")
_HUSHING = ("Exception ignored in", "--- Logging error ---", "Exception ignored on")


def clip(text: str, limit_bytes: int) -> str:
    """Cut ``text`` so that its JSON form (ASCII) has at most ``limit_bytes`` bytes."""
    text = text[:limit_bytes]
    while len(json.dumps(text)) > limit_bytes:
        text = text[: len(text) * 3 // 4]
    return text


class FaultTracker:
    """Follows the fatal lines of one log.

    Args:
        memory: JSON-able dict this tracker reads and writes; the caller keeps it.
    """

    def __init__(self, memory: Dict[str, Any]) -> None:
        self._memory = memory

    @property
    def active(self) -> bool:
        """True while the next line must be looked at whatever it holds."""
        return "traceback" in self._memory or "held" in self._memory

    @property
    def fatal(self) -> Optional[Dict[str, Any]]:
        """The fatal line that no progress followed: text, code, offset, next, details."""
        fatal = self._memory.get("fatal")
        return json.loads(json.dumps(fatal)) if fatal else None

    def good(self) -> None:
        """The run goes on: what looked fatal was survived."""
        for name in ("fatal", "errors", "traceback", "bar_steps"):
            self._memory.pop(name, None)

    def bar_advanced(self) -> None:
        """A progress bar moved on. Bars are drawn once more while a program dies, so one is no proof."""
        if "fatal" in self._memory:
            self._memory["bar_steps"] = self._memory.get("bar_steps", 0) + 1
            if self._memory["bar_steps"] >= 2:
                self.good()

    def inside(self, text: str, start: int, out: List[Report]) -> bool:
        """Give a line to an open traceback or a held error.

        Args:
            text: the line. start: its offset in bytes. out: receives reports.

        Returns:
            True when the line belongs to it and needs no other look.
        """
        if "held" in self._memory and self._hold(text, out):
            return True
        traceback = self._memory.get("traceback")
        if traceback is None:
            return False
        traceback["left"] -= 1
        if traceback["left"] <= 0:
            del self._memory["traceback"]
        if "%|" in text:
            return False
        if not text.strip() or text[0] in " \t>|\u2502\u256d\u2570":
            return True
        fault = classify_exception(text)
        if fault is None:
            return False
        self._memory.pop("traceback", None)
        if not traceback["quiet"]:
            self._add(fault, start, out)
        return True

    def outside(self, text: str, start: int, end: int, out: List[Report]) -> bool:
        """Judge any other line; returns True when it was a fault or opened a traceback."""
        if TRACEBACK in text:
            self._memory["traceback"] = {
                "left": TRACEBACK_LINES,
                "quiet": 0 <= start - self._memory.get("hush", -2) <= 1,
            }
            return True
        if any(mark in text for mark in _HUSHING):
            self._memory["hush"] = end
            return True
        fault = recognise(text)
        if fault is None:
            return False
        self._add(fault, start, out)
        return True

    def flush(self, out: List[Report]) -> None:
        """Report a held error now; nothing more will follow it."""
        held = self._memory.pop("held", None)
        if held is None:
            return
        data = held["data"]
        fatal = self._memory.get("fatal")
        if fatal and fatal["offset"] == held["offset"]:
            for name in ("requested_bytes", "available_bytes", "detail"):
                if name in data:
                    fatal["details"][name] = data[name]
        if "requested_bytes" in data and "available_bytes" in data:
            data["text"] += " (requested %d bytes, available %d bytes)" % (
                data["requested_bytes"],
                data["available_bytes"],
            )
        elif "detail" in data:
            data["text"] += ": " + data["detail"]
        self._say(data, out)

    def _add(self, fault: Fault, start: int, out: List[Report]) -> None:
        self.flush(out)
        if fault.details.get("exception") == "KeyboardInterrupt":
            text = "the program was interrupted (KeyboardInterrupt)"
            self._say({"text": text, "level": "warning", "code": "CANCELLED", "next": ""}, out)
            return
        fatal = self._memory.get("fatal")
        kept = clip(fault.text, STATE_TEXT_BYTES)
        if fatal and (fault.weak or (fatal["code"] == fault.code and fatal["text"] == kept)):
            return  # a consequence, or the same again (every rank of a run prints it)
        details = dict(fault.details)
        for name, value in fault.details.items():
            if isinstance(value, str):
                details[name] = clip(value, 100)
        if not fatal or fatal["code"] in _GENERIC or fault.code not in _GENERIC:
            self._memory["fatal"] = {
                "text": kept,
                "code": fault.code,
                "offset": start,
                "next": fault.next,
                "details": dict(details),
            }
            self._memory.pop("bar_steps", None)
        data = dict(details, text=fault.text, level="error", code=fault.code, next=fault.next)
        if fault.hold:
            data["text"] = kept
            self._memory["held"] = {"kind": fault.hold, "left": HOLD_LINES, "offset": start, "data": data}
        else:
            self._say(data, out)

    def _hold(self, text: str, out: List[Report]) -> bool:
        """Take what the held error waits for; True when the line was of use only for it."""
        held = self._memory["held"]
        held["left"] -= 1
        used = self._fill(held, text)
        if used and held.get("complete"):
            self.flush(out)
        elif held["left"] <= 0 or (not used and TRACEBACK in text):
            self.flush(out)
        return used

    def _fill(self, held: Dict[str, Any], text: str) -> bool:
        data = held["data"]
        if held["kind"] == "memory":
            used = False
            for name, expression in _HELD_NUMBERS:
                found = expression.search(text)
                if found:
                    data[name] = int(found.group(1).replace(",", "") or "0")
                    used = True
            held["complete"] = "requested_bytes" in data and "available_bytes" in data
            return used
        if held.get("expects") and text.strip():
            data["detail"] = clip(text.strip(), STATE_TEXT_BYTES)
            held["complete"] = True
            return True
        found = (_HELD_WHAT if held["kind"] == "what" else _HELD_DETAIL).search(text)
        if not found:
            return False
        detail = found.group(1).strip()
        if detail:
            data["detail"] = clip(detail, STATE_TEXT_BYTES)
            held["complete"] = True
        else:
            held["expects"] = True
        return True

    def _say(self, data: Dict[str, Any], out: List[Report]) -> None:
        count = self._memory.get("errors", 0) + 1
        self._memory["errors"] = min(count, MAX_ERRORS_IN_A_ROW + 1)
        if count <= MAX_ERRORS_IN_A_ROW:
            out.append(("message", {name: data[name] for name in data if name == "code" or data[name] != ""}))

"""Why a command failed, from the end of its log: the supervisor saw an exit code, the log says more.

Owns the joining of the two: a recognised fatal line gives the reason its code, its numbers and its advice;
what the supervisor recorded stays in exit.json. Pure; refuses to explain what the log does not say.
"""

from typing import Any, Dict, List, Optional

_PLAIN = ("COMMAND_FAILED", "COMMAND_KILLED", "FATAL_LINE")
_QUOTE_CHARS = 300


def refined(reason: Optional[Dict[str, Any]], fatal: Optional[Dict[str, Any]], table: List[str]) -> Optional[Dict[str, Any]]:
    """The reason with what the log says.

    Args:
        reason: as the supervisor recorded it; other codes than those of a command that failed by itself
            (a cancel, a time limit, a reason of our own steps) are returned as they are.
        fatal: ``LogParser.fatal``: the fatal line no progress followed; None when there is none.
        table: flavors larger than the present one, the smallest first, where they are known.
    """
    if not reason or not fatal or reason.get("code") not in _PLAIN:
        return reason
    code = str(fatal.get("code") or "COMMAND_FAILED")
    details = {str(k): str(v) for k, v in (fatal.get("details") or {}).items()}
    line = str(fatal.get("text") or "").strip()[:_QUOTE_CHARS]
    message = str(reason.get("message") or "")
    if line and line not in message:
        message = "%s: %s" % (message, line)
    requested, available = _number(details, "requested_bytes"), _number(details, "available_bytes")
    if requested and available:
        message += " (needs %.1f GB where %.1f GB are)" % (requested / 1e9, available / 1e9)
    advice = str(fatal.get("next") or reason.get("next") or "")
    if code == "DEVICE_OUT_OF_MEMORY" and table:
        advice = "moai remote device switch %s, or a smaller batch" % table[0]
    if code == "COMMAND_FAILED":
        code = str(reason["code"])
    return {"code": code, "message": message, "next": advice, "details": dict(reason.get("details") or {}, **details)}


def _number(details: Dict[str, str], name: str) -> Optional[float]:
    try:
        return float(details[name])
    except (KeyError, ValueError):
        return None

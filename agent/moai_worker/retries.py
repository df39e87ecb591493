"""Whether a failed step is worth another try, and when.

Owns the list of causes that may be gone the next time. Pure but for the end of the log. Used by the
supervisor, so retries need neither agent nor laptop; standard library only.
"""

import re
from typing import Any, Dict, Optional, Tuple

from moai_worker import verdict
from moai_worker.endings import Outcome
from moai_worker.watchers import Limits

#: What another try may mend by itself.
_PASSING = ("COMMAND_KILLED", "TRAINING_FAILED", "HUB_UNREACHABLE", "DOWNLOAD_STALLED", "DOWNLOAD_CORRUPT", "DEVICE_TOOL_FAILED")
#: Only as good as what the log says.
_UNEXPLAINED = ("COMMAND_FAILED", "FATAL_LINE")
_MEMORY = ("OUT_OF_MEMORY", "DEVICE_OUT_OF_MEMORY")
#: Watchers whose stop makes room for a fresh start.
_FRESH_START = ("stall", "memory")
#: argparse, getopt and bash say usage errors with 2; a shell says 126 and 127 for what it cannot start.
_USAGE_CODES = (2, 126, 127)
_DEVICE_MEMORY = re.compile(r"out of memory|OutOfMemory|OUT_OF_MEMORY|DEVICE_MEMORY|Memory requested", re.IGNORECASE)
_MISTAKE = re.compile(
    r"^(?:\w+\.)*(?:SyntaxError|IndentationError|TabError|NameError|ImportError|ModuleNotFoundError|AttributeError|TypeError"
    r"|KeyError|FileNotFoundError|NotADirectoryError|IsADirectoryError|PermissionError|NotImplementedError|ArgumentError"
    r"|GatedRepoError|RepositoryNotFoundError|AssertionError)\b"
)


class Retries:
    """Counts the tries of one job.

    Args:
        allowed: tries beyond the first, over all steps. limits: the waits.
    """

    def __init__(self, allowed: int, limits: Limits) -> None:
        self.allowed, self.used = max(0, allowed), 0
        self._limits = limits

    def next_wait_s(self) -> float:
        """Take one try; seconds to wait before it: 10, 20, 40 ... 300."""
        wait_s = min(self._limits.retry_longest_s, self._limits.retry_first_s * 2.0**self.used)
        self.used += 1
        return wait_s

    def judge(self, outcome: Outcome, log: str, since: int) -> Tuple[bool, str]:
        """Whether to try again, and why not; ("" when nobody asked for tries).

        Args:
            outcome: of the step. log: the job's log. since: where this try's output begins.
        """
        reason = outcome.reason or {}
        if not self.allowed or outcome.state != "FAILED" or _is_asked_for(reason):
            return False, ""
        why_not = _why_not(reason, outcome.code, log, since)
        if why_not:
            return False, why_not
        if self.used >= self.allowed:
            return False, "all %d retries are used" % self.allowed
        return True, ""


def _is_asked_for(reason: Dict[str, Any]) -> bool:
    """An end that the user's own limits made needs no explanation."""
    if reason.get("code") == "WATCHER_STOPPED":
        return (reason.get("details") or {}).get("watcher") not in _FRESH_START
    return reason.get("code") == "TIMED_OUT"


def _why_not(reason: Dict[str, Any], code: Optional[int], log: str, since: int) -> str:
    name, details = str(reason.get("code") or ""), reason.get("details") or {}
    if name == "OUT_OF_MEMORY" and details.get("cause") == "oom_kill":
        return ""  # Whoever filled the memory; the recipe goes on from its checkpoint.
    if name in _MEMORY:
        return "the same batch would run out of memory again; use a smaller one"
    if name == "TRAINING_FAILED" and details.get("cause") == "loss":
        return "the same seed and data would give the same loss again"
    if name in _PASSING or name == "WATCHER_STOPPED" or (name == "INTERNAL" and details.get("cause") == "no_result"):
        return ""
    if name not in _UNEXPLAINED:
        return "%s is not mended by trying again" % name
    if name == "COMMAND_FAILED" and code in _USAGE_CODES:
        return "exit code %s means a mistake in the command" % code
    line = verdict.fatal_line(log, since)
    if _DEVICE_MEMORY.search(line):
        return "the same batch would run out of memory again (%s); use a smaller one" % line[:200]
    if _MISTAKE.search(line):
        return "a mistake is not mended by trying again (%s)" % line[:200]
    return ""

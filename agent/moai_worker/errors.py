"""How a step says that it failed: a reason from ``errors.proto``, a message and the next command.

Owns nothing but the exception. Reasons are the names of ``moai_proto.v1.ErrorReason`` without
their prefix; a test compares every name used here with that enum, because this package may not
import it.
"""

from typing import Dict, Optional


class StepError(Exception):
    """A step cannot go on, for a cause a person can act on.

    Args:
        reason: name of an ``ErrorReason`` without prefix, for example ``"COLUMN_MISSING"``.
        message: what failed and with which value; one or two sentences, no trailing newline.
        next: the command or action to try next; empty when there is none.
        details: values behind the message, as strings (never secrets).
    """

    def __init__(
        self, reason: str, message: str, next: str = "", details: Optional[Dict[str, str]] = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.next = next
        self.details = dict(details or {})

    def as_dict(self) -> Dict[str, object]:
        """The form written to ``reports.jsonl`` and ``exit.json``."""
        return {
            "code": self.reason,
            "message": self.message,
            "next": self.next,
            "details": self.details,
        }

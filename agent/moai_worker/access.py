"""Wait until somebody is let into a gated repository.

A licence is accepted in a browser and then granted at once or by a person, hours later. Owns the
asking again: about every 30 seconds, jittered so that many containers do not ask together, told as
a phase with the page to open, and bounded. Only the answer "not granted to this token" is waited
out, and a network that is gone meanwhile; every other refusal ends the wait as what it is.

Refuses to wait without a token: nobody could be let in. Runs in a step's process on the container.
"""

import random
import threading
import time
from typing import Any, Callable, Optional

from .errors import StepError
from .hub import Plan

#: Without a limit of the job.
DEFAULT_LIMIT_S = 24 * 3600.0
_EVERY_S = 30.0
_TELL_S = 3600.0


def when_granted(
    ask: Callable[[], Plan],
    limit_s: float,
    report: Any,
    has_token: bool = True,
    every_s: Optional[float] = None,
    pause: Optional[Callable[[float], Any]] = None,
) -> Plan:
    """The plan of a repository, as soon as its files may be read.

    Args:
        ask: makes the plan or raises StepError.
        limit_s: seconds to go on asking.
        report: a ``Reporter``: one phase when the wait begins, one an hour, one at its end.
        every_s: seconds between two questions, about; None = 30. pause: waits so many seconds (tests).

    Raises StepError: ACCESS_GATED without a token at once, and after ``limit_s``; what ``ask`` raises.
    """
    pause = pause or threading.Event().wait
    start_s = time.monotonic()
    gated: Optional[StepError] = None
    told_s = 0.0
    while True:
        try:
            plan = ask()
        except StepError as error:
            gone = gated is not None and error.reason == "HUB_UNREACHABLE"
            if not has_token or (error.reason != "ACCESS_GATED" and not gone):
                raise
            gated = error if not gone else gated
            trouble = error.message if gone else ""
        else:
            if gated is not None:
                report.phase("downloading", "Access to %s was granted" % plan.repo_id)
            return plan
        waited_s = time.monotonic() - start_s
        assert gated is not None
        if waited_s >= limit_s:
            raise StepError(
                "ACCESS_GATED",
                "%s; waited %s for it" % (gated.message, _for_people(waited_s)),
                gated.next,
                dict(gated.details, waited_seconds="%d" % waited_s),
            )
        if not told_s or waited_s - told_s >= _TELL_S or trouble:
            told_s = max(waited_s, 0.001)
            page = gated.details.get("url", "")
            text = "Waiting for access to %s: accept the licence at %s" % (gated.details.get("repo_id", ""), page)
            if trouble:
                text = "%s (%s)" % (text, trouble)
            report.phase("waiting", text, url=page, limit_seconds=limit_s)
        pause(min(limit_s - waited_s, (every_s or _EVERY_S) * random.uniform(0.8, 1.2)))


def _for_people(seconds: float) -> str:
    if seconds >= 5400:
        return "%.0f h" % (seconds / 3600)
    return "%.0f min" % (seconds / 60) if seconds >= 90 else "%.0f s" % seconds

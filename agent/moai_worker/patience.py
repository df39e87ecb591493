"""How long to wait before another try at a Hub, and the words for having given up.

Owns what every part that talks to a Hub shares: ``Retry-After`` and the Hub's rate limit header,
jittered back-off, and the failures HUB_UNREACHABLE and TOKEN_INVALID. Refuses to put addresses with
their queries, headers or control characters of a server into a message.

Runs in a step's process on the container (pure functions).
"""

import email.utils
import random
import re
import time
from typing import Mapping

from .errors import StepError
from .web import public_url


def retry_after_s(headers: Mapping[str, str], default_s: float, longest_s: float = 900.0) -> float:
    """Seconds a server asked us to wait: ``Retry-After`` as seconds or HTTP date (RFC 9110), else
    the reset time ``t=`` of the Hub's ``RateLimit`` header, else ``default_s``; at most
    ``longest_s``, at least 0."""
    asked = (headers.get("Retry-After") or "").strip()
    limit = re.search(r"\bt=(\d{1,6})\b", headers.get("RateLimit") or "")
    wait_s = default_s
    if asked.isdigit():
        wait_s = float(asked)
    elif asked:
        try:
            wait_s = email.utils.parsedate_to_datetime(asked).timestamp() - time.time()
        except (TypeError, ValueError, IndexError):
            wait_s = default_s
    elif limit:
        wait_s = float(limit.group(1))
    return min(max(0.0, wait_s), longest_s)


def backoff_s(attempt: int, base_s: float, cap_s: float) -> float:
    """Full jitter: uniform between 0 and ``base_s * 2**attempt``, capped."""
    return random.uniform(0.0, min(cap_s, base_s * (2 ** min(attempt, 30))))


def describe(error: BaseException) -> str:
    """A network error in a few words, without addresses or headers."""
    text = getattr(error, "strerror", None) or str(error)
    return printable("%s: %s" % (type(error).__name__, text) if text else type(error).__name__)[:200]


def unreachable(endpoint: str, why: str) -> StepError:
    """HUB_UNREACHABLE for an endpoint."""
    return StepError(
        "HUB_UNREACHABLE",
        "%s did not answer (%s)" % (public_url(endpoint), why),
        "check this host's network and its proxy setting, then run again: what was fetched is kept",
    )


def token_invalid(message: str) -> StepError:
    """TOKEN_INVALID; the message must not hold the token."""
    return StepError(
        "TOKEN_INVALID",
        message,
        "make a token with read access in your Hub settings and export it as HF_TOKEN",
    )


def printable(text: str) -> str:
    """Text of a server without control characters, cut to 500 characters."""
    return "".join(c if c.isprintable() else "?" for c in text)[:500]

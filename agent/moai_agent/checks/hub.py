"""Checks of the Hub as seen from the container: token, licence of a model, reachability.

The token goes to the Hub's own address only and is never part of what is said.
"""

from typing import Callable, List

from moai_worker import hub
from moai_worker.errors import StepError

from moai_agent.checks.ground import Check, Ground
from moai_agent.downloads import SILENCE_S

_PROBE = "hf-internal-testing/tiny-random-gpt2"
#: What the plan of a download says about the model itself rather than about the way to it.
_OF_THE_MODEL = ("ACCESS_GATED", "REPO_NOT_FOUND", "REVISION_NOT_FOUND", "FILE_NOT_FOUND", "MODEL_INVALID", "USAGE")


def all_of(ground: Ground) -> List[Check]:
    """Token, licence and reachability."""
    return [_told("token", lambda: _token(ground)), _licence(ground), _told("hub", lambda: _reach(ground))]


def _token(ground: Ground) -> Check:
    if not ground.token:
        return Check("token", "warning", "no Hub token; gated models need one", "export HF_TOKEN=... on the laptop")
    answer = hub.whoami(ground.endpoint, ground.token, proxy=ground.proxy)
    return Check("token", "ok", "signed in as %s (token: %s)" % (answer.get("name") or "?", ground.token_source))


def _licence(ground: Ground) -> Check:
    plan, error = ground.plan()
    if error is not None:
        verdict = "failed" if error.reason in _OF_THE_MODEL else "skipped"
        return Check("licence", verdict, error.message, error.next)
    if plan is None:
        return Check("licence", "skipped", "no model of the Hub was named (--model)" if not ground.model else "a folder needs none")
    if plan.gated:
        return Check("licence", "ok", "%s is gated, and this token may read it" % plan.repo_id)
    return Check("licence", "ok", "%s is open to everybody" % plan.repo_id)


def _reach(ground: Ground) -> Check:
    try:
        hub.plan_download(_PROBE, endpoint=ground.endpoint, timeout_s=10.0, attempts=2, proxy=ground.proxy, silence_s=SILENCE_S)
    except StepError as error:
        if error.reason == "HUB_UNREACHABLE":
            return Check("hub", "failed", error.message, "moai remote set NAME --proxy URL (or export HF_ENDPOINT)")
    return Check("hub", "ok", "%s answers" % ground.endpoint)


def _told(name: str, ask: Callable[[], Check]) -> Check:
    try:
        return ask()
    except StepError as error:
        return Check(name, "failed", error.message, error.next)

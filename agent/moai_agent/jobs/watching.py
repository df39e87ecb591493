"""What a request says about retries, watchers and notices: checked, and put where the supervisor finds it.

Owns the keys ``retries``, ``stop_on``, ``on_finish``, ``webhook``, ``signals`` and ``watched`` of ``spec.json``. The address
of a webhook may hold a secret: it goes into the supervisor's private input and nowhere else. Pure.
"""

from typing import Any, Dict, List

from moai_proto.v1 import job_pb2
from moai_worker import declared, notify, watchers

from moai_agent.errors import AgentError

MAX_RETRIES = 100
_MAX_COMMAND = 16 * 1024


def check(options: job_pb2.JobOptions) -> None:
    """USAGE naming the first thing that cannot be; the address itself is never repeated."""
    if not 0 <= options.retries <= MAX_RETRIES:
        raise AgentError("USAGE", "%d retries are not 0 to %d" % (options.retries, MAX_RETRIES), "--retries 3")
    for name in options.stop_on:
        if name not in watchers.CODES:
            known = ", ".join(watchers.CODES)
            raise AgentError("USAGE", "there is no watcher %r" % name, "--stop-on takes some of %s" % known)
    if "\0" in options.on_finish or len(options.on_finish) > _MAX_COMMAND:
        raise AgentError("USAGE", "the command at the end is longer than %d characters or holds a NUL" % _MAX_COMMAND)
    for what, name in signals(options).items():
        why = declared.problem(name)
        if why:
            raise AgentError("USAGE", "%s takes no %s: %s" % (declared.OPTIONS[what], name, why), "%s SIGUSR1" % declared.OPTIONS[what])
    problem = notify.address_problem(options.webhook) if options.webhook else ""
    if problem:
        raise AgentError("USAGE", "the webhook cannot be used: %s" % problem, "--webhook https://HOST/PATH")


def signals(options: job_pb2.JobOptions) -> Dict[str, str]:
    """What a command can be asked, and the signal it takes for it."""
    given = {"checkpoint": options.on_checkpoint, "stop": options.on_stop}
    return {what: name for what, name in given.items() if name}


def spec(options: job_pb2.JobOptions) -> Dict[str, Any]:
    """What is kept on disk. ``watched``: this supervisor reports NaN itself."""
    return {
        "retries": options.retries,
        "stop_on": sorted(set(options.stop_on)),
        "on_finish": options.on_finish,
        "webhook": bool(options.webhook),
        "signals": signals(options),
        "watched": True,
    }


def private(options: job_pb2.JobOptions) -> Dict[str, Any]:
    """What stays in memory."""
    return {"webhook": options.webhook, "proxy": options.proxy} if options.webhook else {}


def hide(options: job_pb2.JobOptions) -> None:
    """Take the secret out of a copy that is digested."""
    if options.webhook:
        options.webhook = "set"


def inherit(options: job_pb2.JobOptions, earlier: Dict[str, Any]) -> List[str]:
    """Take over what the resumed job was given and this request leaves open; returns what is lost."""
    options.retries = options.retries or int(earlier.get("retries") or 0)
    options.on_finish = options.on_finish or str(earlier.get("on_finish") or "")
    kept = earlier.get("signals") or {}
    options.on_checkpoint = options.on_checkpoint or str(kept.get("checkpoint") or "")
    options.on_stop = options.on_stop or str(kept.get("stop") or "")
    if not options.stop_on:
        options.stop_on.extend(earlier.get("stop_on") or [])
    lost = bool(earlier.get("webhook")) and not options.webhook
    return ["the address of the webhook was kept in memory only and is gone; give it again with --webhook"] if lost else []

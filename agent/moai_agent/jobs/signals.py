"""Talking to a running recipe: a file in the job's ``control/`` folder, read between two training steps.

Owns what can be asked of which job. Refuses what could never be answered.
"""

import time
from typing import Any, Dict

from moai_proto.v1 import job_pb2
from moai_worker import asked, declared
from moai_worker.jobdir import TERMINAL_STATES, read_json, write_json

from moai_agent.errors import AgentError
from moai_agent.jobs.store import Entry

NAMES = {
    job_pb2.JOB_SIGNAL_CHECKPOINT: asked.CHECKPOINT,
    job_pb2.JOB_SIGNAL_STOP: asked.STOP,
    job_pb2.JOB_SIGNAL_EVALUATE: asked.EVALUATE,
    job_pb2.JOB_SIGNAL_LOG_INTERVAL: asked.LOG_INTERVAL,
}


def send(entry: Entry, signal: int, value: int) -> None:
    """Leave a request; the recipe answers with an event. Raises AgentError.

    USAGE (no such signal, no such interval), JOB_FINISHED, UNSUPPORTED (a command of the user's, a training
    that is over, nothing to evaluate on).
    """
    name = NAMES.get(signal)
    if name is None:
        raise AgentError("USAGE", "no signal was named", "checkpoint, stop, evaluate or log-interval=N")
    if name == asked.LOG_INTERVAL and not 1 <= value <= asked.MAX_INTERVAL:
        raise AgentError("USAGE", "a log interval of %d steps is not 1 to %d" % (value, asked.MAX_INTERVAL), "log-interval=10")
    job = entry.job
    if entry.view["state"] in TERMINAL_STATES:
        raise AgentError("JOB_FINISHED", "job %s has ended" % job.id, "moai remote show %s" % job.id)
    step = next((step for step in entry.plan.get("steps", []) if step.get("module") == "train"), None)
    if step is None:
        _ask_command(entry, name)
        return
    state = next((s["state"] for s in entry.view.get("steps", []) if s["name"] == step["name"]), "")
    if state in ("SUCCEEDED", "SKIPPED"):
        raise AgentError("UNSUPPORTED", "the training of job %s is over" % job.id, "moai remote attach %s" % job.id)
    if name == asked.EVALUATE and not _may_evaluate(entry):
        raise AgentError(
            "UNSUPPORTED", "job %s has nothing to evaluate on: its data set has no validation split" % job.id,
            "prepare a data set with a validation split",
        )
    request: Dict[str, Any] = {"time": time.time()}
    if name == asked.LOG_INTERVAL:
        request["value"] = value
    write_json(job.control_file(name), request)


def _ask_command(entry: Entry, name: str) -> None:
    """A command of the user's takes what it declared; its supervisor sends that (``moai_worker.declared``)."""
    job = entry.job
    step = next((step for step in entry.plan.get("steps", []) if (step.get("signals") or {}).get(name)), None)
    if step is None:
        option = declared.OPTIONS.get(name)
        raise AgentError(
            "UNSUPPORTED", "job %s runs a command of its own, which cannot be told that" % job.id,
            "moai remote cancel %s" % job.id + (", or start it with %s SIGNAL" % option if option else ""),
        )
    state = next((s["state"] for s in entry.view.get("steps", []) if s["name"] == step["name"]), "")
    if state != "RUNNING":
        raise AgentError(
            "UNSUPPORTED", "the command of job %s %s" % (job.id, "is over" if state else "does not run yet"),
            "moai remote attach %s" % job.id,
        )
    write_json(job.control_file(name), {"time": time.time()})


def _may_evaluate(entry: Entry) -> bool:
    """What the step ``prepare`` left says; before that nobody knows, and the recipe answers."""
    result = read_json(entry.job.control_file("result-prepare")) or {}
    rows = (result.get("result") or {}).get("rows")
    return not isinstance(rows, dict) or bool(rows.get("validation"))

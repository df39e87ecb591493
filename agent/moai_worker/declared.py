"""Signals that a command of the user's declared for what it can be asked: ``--on-checkpoint``, ``--on-stop``.

The agent leaves a request in the job's ``control/`` folder, as for a recipe; here, in the supervisor, it
becomes the signal that was declared, sent to the command's own process. What the command makes of it is
its own affair. Standard library only.
"""

import os
import signal
from typing import Any, Dict, List

from moai_worker import asked
from moai_worker.jobdir import JobDir, read_json

#: What a command can be asked, and the option that declares how.
OPTIONS = {asked.CHECKPOINT: "--on-checkpoint", asked.STOP: "--on-stop"}
#: They end or stop a process without asking it.
_UNASKED = ("SIGKILL", "SIGSTOP")


def problem(name: str) -> str:
    """Why ``name`` (``SIGUSR1``) cannot be declared; empty when it can."""
    if name in _UNASKED:
        return "%s cannot be caught" % name
    if name.startswith("SIG_") or not name.startswith("SIG") or not hasattr(signal, name):
        return "%s is no signal here" % name
    return ""


def deliver(job: JobDir, step: Dict[str, Any], pid: int) -> List[Dict[str, Any]]:
    """Send what has been asked of the running ``step`` to its process.

    Returns:
        Data of a ``message`` event for each request, which is renamed to ``.done``: it is not repeated for
        a next try.
    """
    told = []
    for what, name in (step.get("signals") or {}).items():
        path = job.control_file(what)
        if what not in OPTIONS or read_json(path) is None or problem(name):
            continue
        os.replace(path, path + ".done")
        try:
            os.kill(pid, getattr(signal, name))
        except ProcessLookupError:
            told.append({"text": "%s came too late: the command has ended" % what, "code": "SIGNAL_SENT", "level": "warning"})
            continue
        told.append({"text": "%s was asked: %s was sent to process %d" % (what, name, pid), "code": "SIGNAL_SENT", "signal": name})
    return told

"""Job folders without an agent: list, read the log, cancel. The degraded path over plain SSH.

``python -I -S worker/main.py moai_worker.inspector`` with one JSON line on stdin: ``{"nonce", "verb",
"job", "name", "offset", "limit", "by", "grace_s"}``. Answers one line ``MOAI1 NONCE {json}``; for ``log``
and ``file`` (``name``: events, agent.log) the bytes follow (``size`` of them). Reads only; ``cancel`` leaves the same request an agent leaves, and
where the disk is too full for that ends the processes itself. Refuses to settle an outcome: what the
folder does not prove stays as it was.
"""

import json
import os
import signal
import sys
import time
from typing import Any, Dict, List, Optional

from moai_worker import identity, jobdir, records, stopping
from moai_worker.evidence import Evidence
from moai_worker.jobdir import TERMINAL_STATES, HostDir, JobDir

_CHUNK = 256 * 1024


def describe(job: JobDir) -> Optional[Dict[str, Any]]:
    """``{"id", "folder", "spec", "plan", "view", "log_bytes"}``; None when it is no job."""
    spec = jobdir.read_json(job.spec)
    if spec is None:
        return None
    plan = jobdir.read_json(job.plan) or {}
    try:
        with open(job.events, "rb") as source:
            journal = source.read()
    except OSError:
        journal = b""
    view = records.read_view(spec, plan, journal)
    if view["state"] not in TERMINAL_STATES:
        _add_evidence(view, Evidence(job))
    return {"id": job.id, "folder": job.path, "spec": spec, "plan": plan, "view": view, "log_bytes": _size(job.log)}


def _add_evidence(view: Dict[str, Any], evidence: Evidence) -> None:
    """What the folder proves beyond its journal, which nobody writes while there is no agent."""
    outcome = evidence.exit or evidence.verdict()
    if outcome is not None:
        end = {"type": "state", "t": outcome.get("end_time"), "q": view["last"], "data": dict(outcome)}
        records.fold(view, end)
        return
    condition = evidence.lost_condition()
    if condition:
        view["conditions"] = [condition]
    if evidence.child_living and view["state"] in ("QUEUED", "STARTING"):
        view["state"] = "RUNNING"
    if evidence.child_living:
        view["pid"] = (evidence.child or {}).get("pid") or 0


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def cancel(job: JobDir, by: str, grace_s: float) -> str:
    """Ask the supervisor, or end the processes; returns what was done, for people."""
    evidence = Evidence(job)
    asked = False
    try:
        jobdir.write_json(job.control_file("cancel"), {"by": by, "grace_s": grace_s, "time": time.time()})
        asked = True
    except OSError as error:
        sys.stderr.write("control/ cannot be written: %s\n" % error)
    supervisor = evidence.supervisor or {}
    if evidence.supervised and asked:
        if identity.describes_living(supervisor):
            os.kill(int(supervisor["pid"]), signal.SIGUSR1)
        return "the supervisor was asked to end the job"
    marker = "MOAI_JOB=%s/%s" % (job.host().host_id, job.id)
    root = int(supervisor["pid"]) if evidence.supervised and identity.describes_living(supervisor) else None
    gone = stopping.stop_all(lambda: stopping.family(root, marker), grace_s, lambda: time.sleep(0.05))
    return "its processes were ended" if gone else "some of its processes could not be ended"


def _find(host: HostDir, text: str) -> JobDir:
    ids = sorted(host.job_ids())
    fits = [i for i in ids if i == text] or [i for i in ids if text and i.startswith(text)]
    if text == "last" and ids:
        fits = [max(ids, key=lambda i: (jobdir.read_json(host.job(i).spec) or {}).get("create_time") or 0)]
    if len(fits) != 1:
        reason = "JOB_AMBIGUOUS" if fits else "JOB_NOT_FOUND"
        raise LookupError(reason, "%r fits %d jobs" % (text, len(fits)) if fits else "there is no job %r" % text)
    return host.job(fits[0])


def answer(asked: Dict[str, Any], host: HostDir) -> Dict[str, Any]:
    """The JSON answer to a request; LookupError (reason, message) for a job that is not there."""
    verb = asked.get("verb")
    if verb == "jobs":
        found = [describe(host.job(job_id)) for job_id in host.job_ids()]
        return {"ok": True, "jobs": [one for one in found if one is not None]}
    job = _find(host, str(asked.get("job") or ""))
    if verb == "job":
        return {"ok": True, "job": describe(job)}
    if verb == "cancel":
        done = cancel(job, str(asked.get("by") or ""), float(asked.get("grace_s") or 10.0))
        return {"ok": True, "done": done, "job": describe(job)}
    if verb in ("log", "file"):
        files = {"log": job.log, "events": job.events, "agent.log": host.agent_log}
        path = files.get(str(asked.get("name") or "log"))
        if path is None:
            raise LookupError("FILE_NOT_FOUND", "the inspector shows no file %r" % asked.get("name"))
        size = _size(path)
        offset = int(asked.get("offset") or 0)
        start = max(0, size + offset) if offset < 0 else min(offset, size)
        return {"ok": True, "path": path, "offset": start, "size": size - start}
    raise LookupError("UNSUPPORTED", "the inspector does not know %r" % verb)


def main(argv: List[str]) -> int:
    """See the module docstring."""
    del argv
    asked = json.loads(sys.stdin.readline())
    home = jobdir.home_folder()
    host = HostDir(home, identity.host_id(home))
    try:
        told = answer(asked, host)
    except LookupError as error:
        told = {"ok": False, "reason": error.args[0], "message": error.args[1]}
    path = told.pop("path", None)
    out = sys.stdout.buffer
    out.write(("MOAI1 %s %s\n" % (asked.get("nonce"), json.dumps(told))).encode("utf-8", "surrogateescape"))
    if path and told["size"]:
        left = told["size"]
        with open(path, "rb") as source:
            source.seek(told["offset"])
            while left:
                data = source.read(min(_CHUNK, left))
                if not data:
                    break
                out.write(data)
                left -= len(data)
    out.flush()
    return 0 if told["ok"] else 1

"""What a job folder proves about its job right now, beyond the journal.

One place for the rules of states without a terminal record (design: unknown is a state). Used by
the agent when it settles a job and by the inspector when there is no agent.
"""

import fcntl
import os
from typing import Any, Dict, Optional

from moai_worker import identity
from moai_worker.jobdir import JobDir, read_json


class Evidence:
    """Facts about the processes of one job.

    Attributes:
        exit: content of ``exit.json``, None while there is none.
        supervised: a living supervisor holds the lock.
        started: a supervisor has held the lock at some time.
        child: description of the last child noted, None between steps.
        child_living: that child lives.
        rebooted: supervisor ran in an earlier start of the container.
    """

    def __init__(self, job: JobDir) -> None:
        self.supervised = False
        self.started = False
        self._outcome = job.control_file("outcome")
        note: Dict[str, Any] = {}
        try:
            fd = os.open(job.lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            fd = -1
        if fd >= 0:
            try:
                try:
                    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    self.supervised = True
                self.started = os.fstat(fd).st_size > 0
            finally:
                os.close(fd)
            note = read_json(job.lock) or {}
        self.supervisor: Optional[Dict[str, Any]] = note.get("supervisor")
        self.child: Optional[Dict[str, Any]] = note.get("child")
        self.child_living = identity.describes_living(self.child)
        boot = (self.supervisor or {}).get("boot")
        self.rebooted = bool(boot) and boot != identity.boot_id()
        # Last, so that an exit recorded while we looked is seen.
        self.exit = read_json(job.exit)

    def verdict(self) -> Optional[Dict[str, Any]]:
        """A terminal state without exit record: ``{"state", "reason"}``; None when not (yet) known."""
        if self.exit is not None or self.supervised or not self.started or self.child_living:
            return None
        recorded = read_json(self._outcome)
        if recorded is not None and recorded.get("state"):
            return recorded  # Killed while it told of an end that it had seen.
        if self.rebooted:
            text = "the container was restarted while the job ran"
            return {"state": "INTERRUPTED", "reason": _reason("CONTAINER_RESTARTED", text, "moai remote resume")}
        text = "the job's supervisor was killed; how the job ended is not known"
        return {"state": "UNKNOWN", "reason": _reason("SUPERVISOR_LOST", text, "look at moai remote logs")}

    def lost_condition(self) -> Optional[Dict[str, str]]:
        """The SUPERVISOR_LOST condition while the child outlives its supervisor."""
        if self.exit is None and self.started and not self.supervised and self.child_living:
            pid = (self.child or {}).get("pid")
            text = "the supervisor was killed; process %s lives on, its outcome will not be known" % pid
            return {"type": "SUPERVISOR_LOST", "message": text}
        return None


def _reason(code: str, message: str, next: str) -> Dict[str, Any]:
    return {"code": code, "message": message, "next": next, "details": {}}

"""The supervisor of one job: starts its steps, outlives everything else, records how it ended.

One tiny process a job, started by the agent's spawner with ``python -I -S worker/main.py
moai_worker.supervisor JOBDIR``; own session, child subreaper, standard library only and everything
imported at start (the payload folder may be gone hours later). It never talks to the agent: it
appends to ``reports.jsonl`` and ``log.times``, reads ``control/`` and writes ``exit.json``.

Its private input (environment of the steps, secrets) comes as one JSON object on file descriptor 3
and stays in memory. What it refuses: to run a job twice (the lock file tells), and to guess an
outcome it did not see.
"""

import errno
import json
import os
import select
import sys
import time
import traceback
from typing import Any, Dict, List, Optional

from moai_worker import cgroup, declared, identity, notify
from moai_worker.endings import Outcome, exit_code, judge, reason, spawn_failure
from moai_worker.jobdir import read_json, write_atomic, write_json
from moai_worker.processes import JobProcesses
from moai_worker.retries import Retries
from moai_worker.tickets import Ticket
from moai_worker.vitals import Vitals
from moai_worker.watchers import CODES, DISK, NAN, STALL, Finding
from moai_worker.watching import Watch

#: Seconds between looks at control/ and the queue when no signal arrives.
_TICK_S = 0.25
#: Seconds without a byte of log after which signs of life are reported; each next wait is twice as long.
_SILENCE_S, _LONGEST_SILENCE_S = 30.0, 480.0


class Supervisor(JobProcesses):
    """Runs the plan of one job folder; see the module docstring."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.ticket: Optional[Ticket] = None
        self.step_records: List[Dict[str, Any]] = []
        self.deadline_s: Optional[float] = None
        self.retries = Retries(int(self.spec.get("retries") or 0), self.limits)
        #: A recipe was told to save and end: why, and when it must have.
        self.winding: Optional[Dict[str, Any]] = None
        #: Size of the log when the running try began.
        self.log_began = 0

    def run(self) -> None:
        """From the queue to exit.json."""
        outcome = self._wait_for_device()
        if outcome is None:
            self._report("state", state="STARTING")
            limit = float(self.spec.get("max_duration_seconds") or 0)
            self.deadline_s = time.monotonic() + limit if limit > 0 else None
            outcome = self._run_steps()
        if self.ticket is not None:
            self.ticket.leave()
        self._tell_end(outcome)
        self._record(outcome)

    def _wait_for_device(self) -> Optional[Outcome]:
        accelerator = self.spec.get("accelerator")
        if not accelerator:
            return None
        self.ticket = Ticket(self.host.queue, accelerator, self.job.id)
        self.ticket.take()
        shown: Optional[List[str]] = None
        while True:
            ahead = self.ticket.ahead()
            if not ahead:
                return None
            if ahead != shown:
                shown = ahead
                text = "waits for accelerator %s behind %s" % (accelerator, ", ".join(ahead))
                condition = {"type": "WAITING_FOR_DEVICE", "message": text}
                self._report("state", state="QUEUED", conditions=[condition])
            self._wait(_TICK_S)
            if self.stop_asked is not None:
                return self._stopped()

    def _run_steps(self) -> Outcome:
        outcome = Outcome("SUCCEEDED", 0)
        for step in self.plan.get("steps", []):
            if self.stop_asked is not None:
                return self._stopped()
            self.attempt = 1
            outcome = self._run_step(step)
            while self._shall_retry(step, outcome):
                self.attempt += 1
                # The wait for it may have been cut short.
                outcome = self._stopped(outcome.code) if self.stop_asked is not None else self._run_step(step)
            self.step_records.append({"name": step["name"], "state": outcome.state, "exit_code": outcome.code})
            if outcome.state == "SKIPPED":
                outcome = Outcome("SUCCEEDED", 0)
            if outcome.state != "SUCCEEDED":
                return outcome
        return outcome

    def _shall_retry(self, step: Dict[str, Any], outcome: Outcome) -> bool:
        """Whether a failed step is tried again, after waiting for that (a request to end cuts the wait short)."""
        again, why_not = self.retries.judge(outcome, self.job.log, self.log_began)
        cause = outcome.reason or {}
        if not again:
            if why_not:
                self._report("message", step["name"], text="not tried again: " + why_not, level="warning", code="NOT_RETRIED")
            return False
        wait_s = self.retries.next_wait_s()
        number, allowed = self.retries.used, self.retries.allowed
        text = "retry %d/%d of %s in %g s: %s" % (number, allowed, step["name"], wait_s, cause.get("message"))
        self._report(
            "message", step["name"], text=text, level="warning", code="RETRYING",
            retry=number, retries=allowed, wait_seconds=wait_s, reason=cause.get("code"),
        )  # fmt: skip
        self._forget_stop()
        condition = {"type": "RETRYING", "message": "tried again in %g s (retry %d of %d)" % (wait_s, number, allowed)}
        self._report("state", state="RUNNING", conditions=[condition])
        end_s = time.monotonic() + wait_s
        while self.stop_asked is None and time.monotonic() < end_s:
            self._wait(min(_TICK_S, max(0.0, end_s - time.monotonic())))
            self._watch_clock(None)
        if self.stop_asked is not None:
            return True
        try:
            head = "[moai] retry %d of %d\n" % (number, allowed)
            os.write(self.log_fd, notify.line_break(self.job.log) + head.encode())
            os.unlink(self.job.control_file("result-" + step["name"]))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
        self._report("state", state="RUNNING")
        return True

    def _forget_stop(self) -> None:
        """What a watcher asked of the try that has ended is not asked of the next one."""
        stop, self.winding = self.job.control_file("stop"), None
        if self.stop_asked is not None and self.stop_asked.get("watcher"):
            self.stop_asked = None
        if (read_json(stop) or {}).get("by") == "supervisor":
            os.unlink(stop)

    def _run_step(self, step: Dict[str, Any]) -> Outcome:
        name = step["name"]
        result_path = self.job.control_file("result-" + name)
        missing = [s for s in step.get("secrets", []) if s not in self.private.get("secrets", {})]
        if missing:
            text = "secret %s is not here any more" % ", ".join(missing)
            return self._end_step(name, Outcome("INTERRUPTED", None, reason("SECRET_NEEDED", text)))
        self.log_began, self.winding, oom_kills = os.fstat(self.log_fd).st_size, None, cgroup.oom_kills()
        watch = Watch(self.job, self.spec, self.plan, step, self.limits, lambda: identity.descendants(os.getpid()))
        try:
            self.child = self._spawn(step)
        except OSError as error:
            return self._end_step(name, spawn_failure(step, error))
        child = identity.describe(self.child.pid)
        self._note(child)
        if self.ticket is not None:
            self.ticket.note_child(child)
        if not self.step_records:
            self._report("state", state="RUNNING")
        vitals, looked_s, silence_s = Vitals(), time.monotonic(), _SILENCE_S
        while self.child_status is None and self.stop_asked is None:
            self._wait(min(self.limits.look_every_s, _TICK_S if self._is_growing() else 4 * _TICK_S))
            now_s = time.monotonic()
            if self.last_time_s > looked_s:
                silence_s = _SILENCE_S
            if now_s - max(self.last_time_s, looked_s) > silence_s:
                looked_s, silence_s = now_s, min(2 * silence_s, _LONGEST_SILENCE_S)
                self._report_vitals(name, vitals)
            self._attend(watch, name)
            self._watch_clock(watch)
            # Once it is reaped, its number may be another's.
            for told in declared.deliver(self.job, step, self.child.pid) if self.child_status is None else ():
                self._report("message", name, **told)
        stopped = self.stop_asked is not None
        if stopped:
            self._report("state", state="STOPPING")
            self._stop_all(float(self.stop_asked.get("grace_s") or 10.0))
        self._drain()
        status = self.child_status
        self.child, self.child_status = None, None
        self._note(None)
        if self.ticket is not None:
            self.ticket.note_child(None)
        if stopped:
            outcome = self._stopped(exit_code(status))
        else:
            result = read_json(result_path)
            outcome = judge(step, status, result, self.job.log, self.log_began, oom_kills)
            if self.winding is not None and outcome.state == "SUCCEEDED" and ((result or {}).get("result") or {}).get("stopped"):
                # It did as it was told; what it was told for is how the job ended.
                self.stop_asked = dict(self.winding, text=self.winding["text"] + "; it saved a checkpoint and ended")
                outcome = self._stopped(outcome.code)
        return self._end_step(name, outcome)

    def _attend(self, watch: Watch, name: str) -> None:
        """Say what the watchers see, and do what was asked for that case."""
        try:
            findings = watch.look(time.monotonic())
        except Exception as error:
            # The edge again: a defect in what only watches must not cost the job.
            traceback.print_exc()
            self._report("message", name, text="watching failed: %r" % error, level="warning", code="INTERNAL")
            findings = []
        for found in findings:
            self._report(
                "message", name, text="%s; %s" % (found.text, found.advice), level="warning",
                code=CODES[found.kind], advice=found.advice, **found.data
            )  # fmt: skip
            if found.kind == STALL:
                condition = {"type": "STALLED", "message": found.text}
                self._report("state", state="RUNNING", conditions=[condition])
                if self.notifier is not None:
                    self.notifier.tell(notify.STALL, "RUNNING", reason("STALLED", found.text, found.advice))
            if found.kind in (self.spec.get("stop_on") or []):
                self._stop_for(found, watch)
        if watch.recovered and self.winding is None:
            self._report("message", name, text="steps come again", code="STALL_ENDED")
            self._report("state", state="RUNNING")
        if self.notifier is not None:
            self.notifier.pump()

    def _stop_for(self, found: Finding, watch: Watch) -> None:
        """``--stop-on``: a recipe saves first where that makes sense, a command is ended like a cancelled one."""
        if watch.is_recipe and found.kind == NAN:
            return  # The recipe ends by itself, and saves nothing that is spoilt.
        text = "stopped by the watcher for %s: %s" % (found.kind, found.text)
        asked = {"state": "FAILED", "code": "WATCHER_STOPPED", "text": text, "next": found.advice, "watcher": found.kind}
        if watch.is_recipe:
            asked.update(text="%s; %s" % (text, found.advice), next="moai remote resume %s" % self.job.id)
        if watch.is_recipe and found.kind != DISK:
            self._wind_down(asked, watch)
        elif self.stop_asked is None:
            self.stop_asked = asked

    def _watch_clock(self, watch: Optional[Watch]) -> None:
        """``--max-duration``, and the time a recipe has to save."""
        now_s = time.monotonic()
        if self.winding is not None:
            if now_s > self.winding["end_s"] and self.stop_asked is None:
                text = "%s; no checkpoint was saved within %g s" % (self.winding["text"], self.winding["allowed_s"])
                self.stop_asked = dict(self.winding, text=text)
            return
        if self.deadline_s is not None and now_s > self.deadline_s and self.stop_asked is None:
            text = "the job ran longer than %g seconds" % self.spec["max_duration_seconds"]
            asked = {"state": "FAILED", "code": "TIMED_OUT", "text": text}
            if watch is not None and watch.is_recipe:
                self._wind_down(dict(asked, next="moai remote resume %s" % self.job.id), watch)
            else:
                self.stop_asked = asked

    def _wind_down(self, asked: Dict[str, Any], watch: Watch) -> None:
        """Tell a recipe to save and end; it has as long as saving ever took, and some more."""
        if self.winding is not None or self.stop_asked is not None:
            return
        allowed_s = max(self.limits.save_grace_s, 3.0 * watch.save_s)
        self.winding = dict(asked, end_s=time.monotonic() + allowed_s, allowed_s=allowed_s)
        try:
            write_json(self.job.control_file("stop"), {"time": time.time(), "by": "supervisor"})
        except OSError:
            self.stop_asked = asked  # A full disk takes neither the request nor a checkpoint.
            return
        self._report("state", state="STOPPING")

    def _report_vitals(self, name: str, vitals: Vitals) -> None:
        """The log is silent: say whether the processes work (see moai_worker.vitals)."""
        values = vitals.sample(self._family())
        try:
            self.reporter.write("metric", {"step": None, "values": values}, step=name)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise

    def _end_step(self, name: str, outcome: Outcome) -> Outcome:
        self._heal_reports()
        result = read_json(self.job.control_file("result-" + name)) or {}
        state = outcome.state if outcome.state in ("SUCCEEDED", "SKIPPED", "CANCELLED") else "FAILED"
        data: Dict[str, Any] = {"name": name, "state": state, "exit_code": outcome.code}
        if outcome.reason:
            data["reason"] = outcome.reason
        if isinstance(result.get("result"), dict):
            data["result"] = result["result"]
        self._report("step", name, **data)
        return outcome

    def _stopped(self, code: Optional[int] = None) -> Outcome:
        asked = self.stop_asked or {}
        state = asked.get("state", "CANCELLED")
        reason_code = asked.get("code") or ("CONTAINER_RESTARTED" if state == "INTERRUPTED" else "CANCELLED")
        details = {"watcher": str(asked["watcher"])} if asked.get("watcher") else {}
        text = asked.get("text") or "the job was cancelled"
        return Outcome(state, code, reason(reason_code, text, asked.get("next") or "", **details))

    def _tell_end(self, outcome: Outcome) -> None:
        """The command and the address of ``--on-finish`` and ``--webhook``, bounded in time.

        How the job ended is on disk before (``control/outcome.json``), so that nothing is unknown when we are
        killed meanwhile. A container that shuts down gives no time for this.
        """
        told = self.notifier
        if told is None or not told.wanted or outcome.state == "INTERRUPTED":
            return
        try:
            write_json(self.job.control_file("outcome"), self._end_record(outcome))
        except OSError as error:
            self._report("message", text="the outcome is not on disk yet: %s" % error, level="warning", code="DISK_FULL")
        self.stop_asked = None
        cancelled = os.path.exists(self.job.control_file("cancel"))
        event = notify.FINISH if outcome.state in ("SUCCEEDED", "CANCELLED") else notify.FAILURE
        told.tell(event, outcome.state, outcome.reason)
        end_s = time.monotonic() + max(self.limits.finish_s, 3 * self.limits.webhook_s + 6 * self.limits.webhook_pause_s) + 10.0
        while not told.pump():
            self._wait(0.05)
            asked = (self.stop_asked or {}).get("state")
            if time.monotonic() > end_s or asked == "INTERRUPTED" or (asked and not cancelled):
                told.cut()
        self._note_time(force=True)

    def _record(self, outcome: Outcome) -> None:
        """Write exit.json, for as long as it takes."""
        for fd in (self.log_fd, self.reporter.fileno()):
            try:
                os.fsync(fd)
            except OSError:
                continue  # Nothing better can be done; exit.json decides.
        value = self._end_record(outcome)
        raw = json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"
        while True:
            try:
                if os.path.exists(self.reserve):
                    os.unlink(self.reserve)
                write_atomic(self.job.exit, raw)
                return
            except FileNotFoundError:
                return  # The job folder was deleted under us; nobody is left to tell.
            except OSError:
                select.select([], [], [], 1.0)

    def _end_record(self, outcome: Outcome) -> Dict[str, Any]:
        """The content of exit.json."""
        return {
            "state": outcome.state,
            "exit_code": outcome.code,
            "reason": outcome.reason,
            "end_time": time.time(),
            "end_monotonic": time.monotonic(),
            "boot": identity.boot_id(),
            "log_bytes": os.fstat(self.log_fd).st_size,
            "steps": self.step_records,
            "retries": self.retries.used,
            "output": self.plan.get("output", ""),
        }


def main(argv: List[str]) -> int:
    """``moai_worker.supervisor JOBDIR``; private input on descriptor 3 (may be absent)."""
    raw = b""
    try:
        with os.fdopen(3, "rb") as source:
            raw = source.read()
    except OSError:
        raw = b""
    supervisor = Supervisor(argv[0])
    if not supervisor.acquire():
        return 0
    supervisor.private = json.loads(raw.decode("utf-8", "surrogateescape") or "{}")
    try:
        supervisor.prepare()
        supervisor.run()
    except Exception:
        # One of the three edges: a defect of ours must leave a record, not a silent orphan.
        text = traceback.format_exc()
        sys.stderr.write(text)
        supervisor._stop_all(5.0)
        last = text.strip().splitlines()[-1]
        supervisor._record(Outcome("UNKNOWN", None, reason("INTERNAL", "the supervisor failed: " + last)))
        return 1
    return 0

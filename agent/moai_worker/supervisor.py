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
import fcntl
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from typing import Any, Dict, List, Optional

from moai_worker import cgroup, identity, launch, notify, stopping
from moai_worker.endings import Outcome, exit_code, judge, reason, spawn_failure
from moai_worker.jobdir import JobDir, read_json, write_atomic, write_json
from moai_worker.reporter import Reporter
from moai_worker.retries import Retries
from moai_worker.tickets import Ticket
from moai_worker.vitals import Vitals
from moai_worker.watchers import CODES, DISK, NAN, STALL, Finding, Limits
from moai_worker.watching import Watch

#: Seconds between looks at control/ and the queue when no signal arrives.
_TICK_S = 0.25
#: Seconds left-over processes of an ended step get before they are stopped.
_DRAIN_S = 2.0
#: Seconds without a byte of log after which signs of life are reported; each next wait is twice as long.
_SILENCE_S, _LONGEST_SILENCE_S = 30.0, 480.0
_RESERVE_BYTES = 64 * 1024


class Supervisor:
    """Runs the plan of one job folder; see the module docstring."""

    def __init__(self, folder: str) -> None:
        self.job = JobDir(folder)
        self.host = self.job.host()
        self.spec = read_json(self.job.spec) or {}
        self.plan = read_json(self.job.plan) or {}
        self.private: Dict[str, Any] = {}
        self.lock_fd = -1
        self.log_fd = -1
        self.times_fd = -1
        self.last_size = -1
        self.last_time_s = 0.0
        self.child: Optional[subprocess.Popen] = None
        self.child_status: Optional[int] = None
        self.ticket: Optional[Ticket] = None
        self.stop_asked: Optional[Dict[str, Any]] = None
        self.step_records: List[Dict[str, Any]] = []
        self.deadline_s: Optional[float] = None
        self.limits = Limits(self.spec.get("watch"))
        self.retries = Retries(int(self.spec.get("retries") or 0), self.limits)
        #: A recipe was told to save and end: why, and when it must have.
        self.winding: Optional[Dict[str, Any]] = None
        self.notifier: Optional[notify.Notifier] = None
        #: Size of the log when the running try began.
        self.log_began = 0
        self.marker = "MOAI_JOB=%s/%s" % (self.host.host_id, self.job.id)

    # -- start ---------------------------------------------------------------------------------

    def acquire(self) -> bool:
        """Take the lock; False when another supervisor has it or had it (a job runs once)."""
        self.lock_fd = os.open(self.job.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        end_s = time.monotonic() + 5.0
        while True:
            try:
                fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # A reader may hold the lock for an instant to look at it (moai_worker.evidence);
                # another supervisor has written itself into the file by the time we give up.
                if os.fstat(self.lock_fd).st_size or time.monotonic() > end_s:
                    return False
                select.select([], [], [], 0.01)
        if os.fstat(self.lock_fd).st_size or os.path.exists(self.job.exit):
            return False
        self._note(None)
        return True

    def _note(self, child: Optional[Dict[str, Any]]) -> None:
        """Write who we are, and which child runs, into the lock file (read by agent and inspector)."""
        value = {"supervisor": identity.describe(os.getpid()), "child": child}
        raw = json.dumps(value).encode() + b"\n"
        os.pwrite(self.lock_fd, raw, 0)
        os.ftruncate(self.lock_fd, len(raw))

    def prepare(self) -> None:
        """Signals, subreaper, limits, files."""
        launch.become_subreaper()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        self.wake_r, wake_w = os.pipe()
        for fd in (self.wake_r, wake_w):
            os.set_blocking(fd, False)
            os.set_inheritable(fd, False)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_term)
        append = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self.log_fd = os.open(self.job.log, append, 0o600)
        self.times_fd = os.open(self.job.log_times, append, 0o600)
        self.reporter = Reporter(self.job.reports)
        self.notifier = notify.Notifier(
            self.job, self.spec, self.plan, self.private, self.limits, self.log_fd,
            lambda text: self._report("message", text=text, level="warning", code="NOTIFY_FAILED"),
        )  # fmt: skip
        # Disk full must not cost the record of the outcome: these blocks are given back for it.
        self.reserve = os.path.join(self.job.control, ".reserve")
        try:
            with open(self.reserve, "wb") as out:
                out.write(b"\0" * _RESERVE_BYTES)
        except OSError as error:
            self._report("message", text="no disk reserve: %s" % error, level="warning", code="DISK_FULL")

    def _on_term(self, *_: Any) -> None:
        # Somebody else ends us (a shutdown, a pkill): nothing is known about the user's wish, so
        # the job is interrupted (resumable), never cancelled or failed.
        if self.stop_asked is None:
            self.stop_asked = {"state": "INTERRUPTED", "text": "the supervisor was asked to end (SIGTERM)"}

    def _report(self, type: str, in_step: str = "", **data: Any) -> None:
        """Append a report; a full disk is survived (events are lost then, the outcome is not)."""
        try:
            self.reporter.write(type, data, step=in_step)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise

    # -- main ----------------------------------------------------------------------------------

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
            outcome = self._run_step(step)
            while self._shall_retry(step, outcome):
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

    # -- child ---------------------------------------------------------------------------------

    def _spawn(self, step: Dict[str, Any]) -> subprocess.Popen:
        env = dict(self.private.get("env") or {})
        env.update(step.get("env") or {})
        for name in step.get("secrets", []):
            env[name] = self.private["secrets"][name]
        env["MOAI_JOB"] = self.marker.partition("=")[2]
        env["MOAI_REPORTS"] = self.job.reports
        env["MOAI_ATTEMPT"] = str(self.retries.used + 1)
        if step.get("module"):
            env["MOAI_STEP"] = step["name"]
        argv = [launch.text(a) for a in step["argv"]]
        return subprocess.Popen(
            argv,
            executable=launch.find_program(argv[0], env, step.get("cwd") or "/"),
            stdin=subprocess.DEVNULL,
            stdout=self.log_fd,
            stderr=self.log_fd,
            cwd=step.get("cwd") or "/",
            env=env,
            start_new_session=True,
            close_fds=True,
            restore_signals=True,
            preexec_fn=lambda: self._begin(step["name"]),
        )

    def _begin(self, name: str) -> None:
        """In the child, before its program: nothing the program reports comes before its own start."""
        pid = os.getpid()
        ticks = identity.start_ticks(pid)
        self._report("step", name, name=name, state="RUNNING", pid=pid, pid_start_ticks=ticks)
        launch.reset_signals()

    def _wait(self, timeout_s: float) -> None:
        """Sleep until a signal or the time-out; then reap, look at control/ and note the time."""
        ready, _, _ = select.select([self.wake_r], [], [], timeout_s)
        if ready:
            try:
                while os.read(self.wake_r, 512):
                    pass
            except BlockingIOError:
                pass
        self._reap()
        self._note_time()
        if self.stop_asked is None:
            asked = read_json(self.job.control_file("cancel"))
            if asked is not None:
                who = str(asked.get("by") or "")
                text = "cancelled by %s" % who if who else "cancelled"
                self.stop_asked = {"state": "CANCELLED", "text": text, "grace_s": asked.get("grace_s")}

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self.child is not None and pid == self.child.pid:
                self.child_status = status
                self.child.returncode = 0  # Reaped here; Popen must not wait for it again.
            elif self.notifier is not None:
                self.notifier.reaped(pid, status)

    def _is_growing(self) -> bool:
        return time.monotonic() - self.last_time_s < 3.0

    def _note_time(self, force: bool = False) -> None:
        """Append size and clocks of the log, at most once a second while it grows."""
        now = time.monotonic()
        if not force and now - self.last_time_s < 1.0:
            return
        size = os.fstat(self.log_fd).st_size
        if size == self.last_size:
            return
        self.last_size, self.last_time_s = size, now
        try:
            os.write(self.times_fd, b"%d %.6f %.6f\n" % (size, time.time(), now))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    def _stop_all(self, grace_s: float) -> None:
        stopping.stop_all(self._family, grace_s, lambda: self._wait(0.05))

    def _family(self) -> Dict[int, int]:
        """All processes of the job; the command that tells of it is none."""
        found = stopping.family(os.getpid(), self.marker)
        others = self.notifier.processes() if self.notifier is not None else set()
        return {pid: ticks for pid, ticks in found.items() if pid not in others}

    def _drain(self) -> None:
        """Left-over processes of an ended step get a moment, then are stopped."""
        end_s = time.monotonic() + _DRAIN_S
        while self._family():
            if time.monotonic() > end_s:
                self._stop_all(_DRAIN_S)
                break
            self._wait(0.05)
        self._note_time(force=True)

    # -- end -----------------------------------------------------------------------------------

    def _heal_reports(self) -> None:
        """A writer killed mid-line must not spoil the next line."""
        try:
            with open(self.job.reports, "rb") as source:
                source.seek(0, os.SEEK_END)
                if source.tell():
                    source.seek(-1, os.SEEK_END)
                    if source.read(1) != b"\n":
                        fd = os.open(self.job.reports, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
                        os.write(fd, b"\n")
                        os.close(fd)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENOENT):
                raise

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

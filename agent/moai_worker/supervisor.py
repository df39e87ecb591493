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

from moai_worker import identity, stopping, verdict
from moai_worker.jobdir import JobDir, read_json, write_atomic
from moai_worker.reporter import Reporter
from moai_worker.tickets import Ticket
from moai_worker.vitals import Vitals

#: Seconds between looks at control/ and the queue when no signal arrives.
_TICK_S = 0.25
#: Seconds left-over processes of an ended step get before they are stopped.
_DRAIN_S = 2.0
#: Seconds without a byte of log after which signs of life are reported; each next wait is twice as long.
_SILENCE_S, _LONGEST_SILENCE_S = 30.0, 480.0
_RESERVE_BYTES = 64 * 1024


class Outcome:
    """How a step or the job ended."""

    def __init__(self, state: str, code: Optional[int] = None, reason: Optional[Dict[str, Any]] = None) -> None:
        self.state = state
        self.code = code
        self.reason = reason


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
        _become_subreaper()
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

    def _report(self, type: str, step: str = "", **data: Any) -> None:
        """Append a report; a full disk is survived (events are lost then, the outcome is not)."""
        try:
            self.reporter.write(type, data, step=step)
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
            self.step_records.append({"name": step["name"], "state": outcome.state, "exit_code": outcome.code})
            if outcome.state == "SKIPPED":
                outcome = Outcome("SUCCEEDED", 0)
            if outcome.state != "SUCCEEDED":
                return outcome
        return outcome

    def _run_step(self, step: Dict[str, Any]) -> Outcome:
        name = step["name"]
        result_path = self.job.control_file("result-" + name)
        missing = [s for s in step.get("secrets", []) if s not in self.private.get("secrets", {})]
        if missing:
            text = "secret %s is not here any more" % ", ".join(missing)
            return self._end_step(name, Outcome("INTERRUPTED", None, _reason("SECRET_NEEDED", text)))
        try:
            self.child = self._spawn(step)
        except OSError as error:
            return self._end_step(name, _spawn_failure(step, error))
        child = identity.describe(self.child.pid)
        self._note(child)
        if self.ticket is not None:
            self.ticket.note_child(child)
        if not self.step_records:
            self._report("state", state="RUNNING")
        vitals, looked_s, silence_s = Vitals(), time.monotonic(), _SILENCE_S
        while self.child_status is None and self.stop_asked is None:
            self._wait(_TICK_S if self._is_growing() else 4 * _TICK_S)
            now_s = time.monotonic()
            if self.last_time_s > looked_s:
                silence_s = _SILENCE_S
            if now_s - max(self.last_time_s, looked_s) > silence_s:
                looked_s, silence_s = now_s, min(2 * silence_s, _LONGEST_SILENCE_S)
                self._report_vitals(name, vitals)
            if self.deadline_s is not None and time.monotonic() > self.deadline_s:
                text = "the job ran longer than %g seconds" % self.spec["max_duration_seconds"]
                self.stop_asked = {"state": "FAILED", "code": "TIMED_OUT", "text": text}
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
            outcome = self._stopped(_exit_code(status))
        else:
            outcome = _judge(step, status, read_json(result_path), self.job.log)
        return self._end_step(name, outcome)

    def _report_vitals(self, name: str, vitals: Vitals) -> None:
        """The log is silent: say whether the processes work (see moai_worker.vitals)."""
        values = vitals.sample(stopping.family(os.getpid(), self.marker))
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
        self._report("step", step=name, **data)
        return outcome

    def _stopped(self, code: Optional[int] = None) -> Outcome:
        asked = self.stop_asked or {}
        state = asked.get("state", "CANCELLED")
        reason_code = asked.get("code") or ("CONTAINER_RESTARTED" if state == "INTERRUPTED" else "CANCELLED")
        return Outcome(state, code, _reason(reason_code, asked.get("text") or "the job was cancelled"))

    # -- child ---------------------------------------------------------------------------------

    def _spawn(self, step: Dict[str, Any]) -> subprocess.Popen:
        env = dict(self.private.get("env") or {})
        env.update(step.get("env") or {})
        for name in step.get("secrets", []):
            env[name] = self.private["secrets"][name]
        env["MOAI_JOB"] = self.marker.partition("=")[2]
        env["MOAI_REPORTS"] = self.job.reports
        if step.get("module"):
            env["MOAI_STEP"] = step["name"]
        argv = [_text(a) for a in step["argv"]]
        return subprocess.Popen(
            argv,
            executable=_find(argv[0], env, step.get("cwd") or "/"),
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
        self._report("step", step=name, name=name, state="RUNNING", pid=pid, pid_start_ticks=ticks)
        _reset_signals()

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
        stopping.stop_all(
            lambda: stopping.family(os.getpid(), self.marker), grace_s, lambda: self._wait(0.05)
        )

    def _drain(self) -> None:
        """Left-over processes of an ended step get a moment, then are stopped."""
        end_s = time.monotonic() + _DRAIN_S
        while stopping.family(os.getpid(), self.marker):
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

    def _record(self, outcome: Outcome) -> None:
        """Write exit.json, for as long as it takes."""
        for fd in (self.log_fd, self.reporter.fileno()):
            try:
                os.fsync(fd)
            except OSError:
                continue  # Nothing better can be done; exit.json decides.
        value = {
            "state": outcome.state,
            "exit_code": outcome.code,
            "reason": outcome.reason,
            "end_time": time.time(),
            "end_monotonic": time.monotonic(),
            "boot": identity.boot_id(),
            "log_bytes": os.fstat(self.log_fd).st_size,
            "steps": self.step_records,
            "output": self.plan.get("output", ""),
        }
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


def _find(program: str, env: Dict[str, str], cwd: str) -> str:
    """Resolve like execvp(3) with the child's PATH, so a missing program is told by name."""
    if "/" in program:
        return program
    for folder in env.get("PATH", "/usr/bin:/bin").split(os.pathsep):
        path = os.path.join(folder or cwd, program)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    raise FileNotFoundError(errno.ENOENT, "not found on PATH", program)


def _text(value: Any) -> str:
    # Arguments travel as JSON with surrogates for bytes that are not UTF-8 (os.fsdecode's way).
    return value if isinstance(value, str) else str(value)


def _reset_signals() -> None:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    os.umask(0o077)


def _exit_code(status: Optional[int]) -> Optional[int]:
    if status is None:
        return None
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


def _reason(code: str, message: str, next: str = "") -> Dict[str, Any]:
    return {"code": code, "message": message, "next": next, "details": {}}


def _spawn_failure(step: Dict[str, Any], error: OSError) -> Outcome:
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and not os.path.isdir(step.get("cwd") or "/"):
        text = "the working folder %s does not exist on the container" % step.get("cwd")
        return Outcome("FAILED", None, _reason("WORKDIR_NOT_FOUND", text, "give another one with --workdir"))
    if error.errno in (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR):
        code = 127 if error.errno == errno.ENOENT else 126
        text = "%s: %s" % (step["argv"][0], error.strerror)
        hint = "check the name, or choose the environment that has it with --env"
        return Outcome("FAILED", code, _reason("COMMAND_NOT_FOUND", text, hint))
    return Outcome("FAILED", None, _reason("START_FAILED", "%s: %s" % (step["argv"][0], error)))


def _judge(
    step: Dict[str, Any], status: Optional[int], result: Optional[Dict[str, Any]], log: str
) -> Outcome:
    """How a step ended, from its wait status and, for our own steps, its result file."""
    code = _exit_code(status)
    if status is not None and os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        if os.WTERMSIG(status) == signal.SIGKILL and _oom_kills() > _OOM_AT_START:
            return Outcome("FAILED", code, _reason("OUT_OF_MEMORY", "the container's memory limit was hit"))
        text = "%s was ended by %s" % (step["name"], name)
        return Outcome("FAILED", code, _reason("COMMAND_KILLED", text))
    if step.get("module"):
        if result and result.get("ok") and code == 0:
            return Outcome("SKIPPED" if result.get("skipped") else "SUCCEEDED", 0)
        if result and isinstance(result.get("error"), dict):
            return Outcome("FAILED", code, result["error"])
        text = "step %s ended with exit code %s and left no result" % (step["name"], code)
        return Outcome("FAILED", code, _reason("INTERNAL", text, "see moai remote logs"))
    if code != 0:
        return Outcome("FAILED", code, _reason("COMMAND_FAILED", "the command ended with exit code %s" % code))
    for path in step.get("expected_paths") or []:
        if not os.path.exists(os.path.join(step.get("cwd") or "/", path)):
            text = "the command ended with exit code 0, but %s is not there" % path
            return Outcome("FAILED", 0, _reason("OUTPUT_MISSING", text))
    if step.get("log_judged"):
        fatal = verdict.fatal_line(log)
        if fatal:
            text = "exit code 0, but the log ends in a fatal message: " + fatal
            return Outcome("FAILED", 0, _reason("FATAL_LINE", text, "rerun with --trust-exit-code to ignore it"))
    return Outcome("SUCCEEDED", 0)


def _oom_kills() -> int:
    """OOM kills counted by this container's cgroup, v2 or v1; 0 when there is no counter."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            with open(path) as source:
                for line in source:
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
        except OSError:
            continue
    return 0


_OOM_AT_START = _oom_kills()


def _become_subreaper() -> None:
    """prctl(PR_SET_CHILD_SUBREAPER): orphans of the job become our children, so none escapes."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(36, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


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
        supervisor._record(Outcome("UNKNOWN", None, _reason("INTERNAL", "the supervisor failed: " + last)))
        return 1
    return 0

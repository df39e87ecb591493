"""The processes of one job: started, adopted, reaped, counted and ended; and the files that tell of them.

Owns what the supervisor holds open: lock, log, the log's clock, reports, the wake-up pipe, the running child.
It decides nothing about the job (``moai_worker.supervisor`` does). Standard library only.
"""

import errno
import fcntl
import json
import os
import resource
import select
import signal
import subprocess
import time
from typing import Any, Dict, Optional

from moai_worker import identity, notify, stopping
from moai_worker.jobdir import JobDir, read_json
from moai_worker.reporter import Reporter
from moai_worker.watchers import Limits

#: Seconds left-over processes of an ended step get before they are stopped.
_DRAIN_S = 2.0
_RESERVE_BYTES = 64 * 1024


class JobProcesses:
    """See the module docstring.

    Attributes:
        private: environment and secrets of the steps. child, child_status: the running step's process and how
        it ended. stop_asked: who wants the job's end: state, text and, where given, code, next, grace_s.
        attempt: number of the running try. last_time_s: when the log last grew.
    """

    def __init__(self, folder: str) -> None:
        self.job = JobDir(folder)
        self.host = self.job.host()
        self.spec = read_json(self.job.spec) or {}
        self.plan = read_json(self.job.plan) or {}
        self.limits = Limits(self.spec.get("watch"))
        self.private: Dict[str, Any] = {}
        self.lock_fd = -1
        self.log_fd = -1
        self.times_fd = -1
        self.last_size = -1
        self.last_time_s = 0.0
        self.child: Optional[subprocess.Popen] = None
        self.child_status: Optional[int] = None
        self.stop_asked: Optional[Dict[str, Any]] = None
        self.notifier: Optional[notify.Notifier] = None
        self.attempt = 1
        self.marker = "MOAI_JOB=%s/%s" % (self.host.host_id, self.job.id)

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
        stopping.become_subreaper()
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

    def _spawn(self, step: Dict[str, Any]) -> subprocess.Popen:
        env = dict(self.private.get("env") or {})
        env.update(step.get("env") or {})
        for name in step.get("secrets", []):
            env[name] = self.private["secrets"][name]
        env["MOAI_JOB"] = self.marker.partition("=")[2]
        env["MOAI_REPORTS"] = self.job.reports
        env["MOAI_ATTEMPT"] = str(self.attempt)
        if step.get("module"):
            env["MOAI_STEP"] = step["name"]
        argv = [text(a) for a in step["argv"]]
        return subprocess.Popen(
            argv,
            executable=find_program(argv[0], env, step.get("cwd") or "/"),
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
        reset_signals()

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


def find_program(program: str, env: Dict[str, str], cwd: str) -> str:
    """Resolve like execvp(3) with the child's PATH, so a missing program is told by name."""
    if "/" in program:
        return program
    for folder in env.get("PATH", "/usr/bin:/bin").split(os.pathsep):
        path = os.path.join(folder or cwd, program)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    raise FileNotFoundError(errno.ENOENT, "not found on PATH", program)


def text(value: Any) -> str:
    """An argument as Popen wants it."""
    # Arguments travel as JSON with surrogates for bytes that are not UTF-8 (os.fsdecode's way).
    return value if isinstance(value, str) else str(value)


def reset_signals() -> None:
    """In a child, before its program: what the supervisor ignores is not the program's business."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    os.umask(0o077)

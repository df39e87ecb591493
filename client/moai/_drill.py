"""A drill: break the way to one's own container on purpose, and measure what came of it.

A small job prints numbered lines whose bytes the laptop can compute itself. While it is followed, the connection
under the follower is cut, the agent is killed with SIGKILL, and the follower is ended and begun anew. Afterwards
the process, the events, the log and the exit code are compared with what must be there. Nothing is filled,
stopped or changed besides: other jobs go on without their agent for the moment it takes to come back.

Runs in the caller's process with a connection of its own; the link that commands share is not cut.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from moai._errors import MoaiError, WaitTimeout
from moai._follow import Follower
from moai._options import JobOptions
from moai._types import Event, HostInfo, JobInfo

if TYPE_CHECKING:
    from moai._host import Host
    from moai._job import Job

EXIT_CODE = 37
#: Each fault is given so long to be over; a first connection to a far container takes seconds.
_BACK_S = 90.0
_HELPER_S = 120.0
_LINES_A_REPORT = 5
#: What is there before the first fault, and again between two.
_SETTLED_LINES = 10


@dataclass(frozen=True)
class DrillFault:
    """One fault. ``name``: link, agent or follower. ``verdict``: back, lost (not within 90 s) or skipped.

    ``back_s``: seconds until the streams went on; None when they did not. ``text``: for people.
    """

    name: str
    verdict: str
    back_s: float | None
    text: str

    def as_dict(self) -> dict[str, Any]:
        """Its part of the JSON document."""
        seconds = None if self.back_s is None else round(self.back_s, 3)
        return {"fault": self.name, "verdict": self.verdict, "back_seconds": seconds, "text": self.text}


@dataclass(frozen=True)
class DrillResult:
    """What a drill found.

    Attributes:
        faults: in the order they were made. lost: a sentence for everything that did not survive; empty when all
        did. process_survived: the job's process was started once and stayed the same. events, metrics, log_bytes:
        received, in order, once. state, exit_code: how the job ended. job_kept: its record was left there, to look at.
    """

    host: str
    job: str
    faults: tuple[DrillFault, ...]
    lost: tuple[str, ...]
    process_survived: bool
    events: int
    metrics: int
    log_bytes: int
    state: str
    exit_code: int | None
    job_kept: bool

    @property
    def passed(self) -> bool:
        """Whether nothing was lost."""
        return not self.lost

    def as_dict(self) -> dict[str, Any]:
        """The document ``moai.drill/1``, without its name."""
        return {
            "host": self.host,
            "job": self.job,
            "job_kept": self.job_kept,
            "passed": self.passed,
            "faults": [one.as_dict() for one in self.faults],
            "survived": {
                "process": self.process_survived,
                "events": self.events,
                "metrics": self.metrics,
                "log_bytes": self.log_bytes,
                "state": self.state,
                "exit_code": self.exit_code,
            },
            "lost": list(self.lost),
        }


def drill(host: Host) -> DrillResult:
    """Cut the connection, kill the agent and restart the follower under a small job of one container.

    Takes about ten seconds on a near container, at most some minutes on one that does not come back. The jobs it
    makes are removed again unless something was lost. Signs in three more times, so where a person must answer
    each sign-in, they are asked each time.

    Raises MoaiError as connecting and ``Host.run`` do; what breaks after the first fault is in the result instead.
    """
    return _Drill(host).run()


class _Drill:
    """One drill. ``host``: looks and submits; the follower has a connection of its own."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.say = host.session.say
        self.faults: list[DrillFault] = []
        self.helpers: list[Job] = []

    def run(self) -> DrillResult:
        info = self.host.info()
        job = self._submit(info, "drill", "ticker", str(_LINES_A_REPORT), str(EXIT_CODE))
        self.say(f"job {job.id} runs; it is followed while things break")
        watch = _Watch(self.host, job)
        try:
            watch.begin()
            watch.settle()
            self._link(watch)
            self._agent(watch, info)
            self._follower(watch)
            self._end(watch, info)
            ended = self._ended(job)
            watch.finish()
        except BaseException:
            # Also Ctrl-C: the job would go on for a quarter of an hour.
            job.cancel(grace_s=1.0)
            raise
        finally:
            watch.stop()
        lost = [*(f"{one.name}: {one.text}" for one in self.faults if one.verdict == "lost"), *judge(watch, ended)]
        for one in [*self.helpers, *([] if lost else [job])]:
            _remove(one)
        return DrillResult(
            self.host.name, job.id, tuple(self.faults), tuple(lost), _is_same(watch.events), len(watch.events),
            len(_steps(watch.events)), len(watch.log), ended.state, ended.exit_code, bool(lost),
        )  # fmt: skip

    def _submit(self, info: HostInfo, name: str, *words: str) -> Job:
        program = files("moai._bootstrap").joinpath("drill_there.py").read_text(encoding="utf-8")
        # In a variable, so that the command of the job stays readable in listings.
        options = JobOptions(name=name, environment=info.python, variables={"DRILL_PROGRAM": program}, max_duration_s=1200.0)
        return self.host.run([info.python, "-I", "-S", "-c", "import os; exec(os.environ['DRILL_PROGRAM'])", *words], options)

    # -- faults --------------------------------------------------------------------------------

    def _link(self, watch: _Watch) -> None:
        if self.host.config.is_local:
            self.faults.append(DrillFault("link", "skipped", None, "this laptop itself: there is no link to cut"))
            return
        self.say("cutting the connection")
        self._broken("link", watch, watch.cut, "the connection was cut; both streams went on")

    def _agent(self, watch: _Watch, before: HostInfo) -> None:
        self.say(f"killing the agent (pid {before.pid})")

        def kill() -> None:
            helper = self._submit(before, "drill-agent", "kill-agent", before.home, before.host_id, str(before.pid), before.incarnation)
            self.helpers.append(helper)
            ended = helper.wait(_HELPER_S, check=False)
            if ended.state != "SUCCEEDED":
                said = b"".join(helper.log()).decode("utf-8", "replace").strip().splitlines()
                raise MoaiError("INTERNAL", f"the agent was not killed: {said[-1] if said else ended.state}", f"moai remote show {helper.id}")

        self._broken("agent", watch, kill, "the agent was killed; another one took over its jobs")
        now = self.host.info()
        if self.faults[-1].verdict == "back" and now.incarnation == before.incarnation:
            self.faults[-1] = DrillFault("agent", "lost", None, f"the agent of before (pid {now.pid}) still runs: nothing was killed")

    def _follower(self, watch: _Watch) -> None:
        self.say("ending the follower, and beginning another where it stopped")
        watch.stop()
        begun_s = time.monotonic()
        watch.begin()
        back = watch.wait_until(lambda: watch.last_s > begun_s, _BACK_S)
        if back:
            took_s, text = watch.last_s - begun_s, "the follower was ended; another one went on at its offset"
            self.faults.append(DrillFault("follower", "back", took_s, text))
        else:
            self.faults.append(DrillFault("follower", "lost", None, watch.trouble or "nothing came within 90 s"))

    def _broken(self, name: str, watch: _Watch, act: Callable[[], None], text: str) -> None:
        """Do it, and wait until every stream that broke goes on."""
        watch.losses.clear()
        watch.returns.clear()
        cut_s = time.monotonic() if name == "link" else None
        try:
            act()
        except MoaiError as error:
            self.faults.append(DrillFault(name, "lost", None, error.message))
            return
        if watch.wait_until(lambda: bool(watch.losses) and len(watch.returns) >= len(watch.losses), _BACK_S):
            # When exactly the agent was killed is known there only; here it is known when that was noticed.
            self.faults.append(DrillFault(name, "back", max(watch.returns) - (cut_s or min(watch.losses)), text))
            watch.settle()
        else:
            why = "the streams noticed nothing" if not watch.losses else watch.trouble or "the streams did not go on within 90 s"
            self.faults.append(DrillFault(name, "lost", None, why))

    def _end(self, watch: _Watch, info: HostInfo) -> None:
        """Let the job end by itself: its process is asked to."""
        started = _started(watch.events)
        if started:
            pid, ticks = started[0]
            helper = self._submit(info, "drill-end", "end-ticker", str(pid), str(ticks))
            self.helpers.append(helper)
            helper.wait(_HELPER_S, check=False)

    def _ended(self, job: Job) -> JobInfo:
        """How the job ended; it is cancelled when nothing of it was seen that could be asked to end."""
        try:
            return job.wait(_HELPER_S, check=False)
        except WaitTimeout:
            job.cancel(grace_s=1.0)
            return job.wait(_HELPER_S, check=False)


class _Watch:
    """Follows the job in two threads and keeps everything that came, in the order it came."""

    def __init__(self, host: Host, job: Job) -> None:
        self._host, self._job = host, job
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._follower: Follower | None = None
        self._own: Host | None = None
        self.events: list[Event] = []
        self.log = bytearray()
        self.misplaced: list[str] = []
        self.losses: list[float] = []
        self.returns: list[float] = []
        self.last_s = 0.0
        self.trouble = ""

    def begin(self) -> None:
        """Connect anew and go on where this watch stopped."""
        from moai._host import Host

        self._own = Host(self._host.config, self._host.session.prompts, link=False)
        self._follower = Follower(self._own.session, self._job.id, self._on_link)
        after, offset = len(self.events), len(self.log)
        follower = self._follower
        self._threads = [
            threading.Thread(target=self._read, args=(follower, loop), name="moai-drill", daemon=True)
            for loop in (lambda: self._read_events(follower, after), lambda: self._read_log(follower, offset))
        ]
        for thread in self._threads:
            thread.start()

    def cut(self) -> None:
        """Break the connection under the follower; it is not told."""
        assert self._own is not None
        self._own.session.cut()

    def stop(self) -> None:
        """End the follower, as closing the laptop's program would."""
        if self._follower is None or self._own is None:
            return
        follower, self._follower = self._follower, None
        follower.close()
        for thread in self._threads:
            thread.join(30.0)
        self._own.close()

    def finish(self) -> None:
        """Wait for the last event and the last byte."""
        self.wait_until(lambda: not any(t.is_alive() for t in self._threads), _BACK_S)

    def settle(self) -> None:
        """Wait for some more lines: the next fault hits a stream that runs."""
        enough = self.log.count(b"\n") + _SETTLED_LINES
        if not self.wait_until(lambda: self.log.count(b"\n") >= enough or bool(self.trouble), _BACK_S):
            self.trouble = self.trouble or "nothing came within 90 s"

    def wait_until(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        """Whether it holds within the time."""
        end_s = time.monotonic() + timeout_s
        with self._changed:
            while not holds():
                left_s = end_s - time.monotonic()
                if left_s <= 0:
                    return False
                self._changed.wait(min(left_s, 0.5))
        return True

    def _read(self, follower: Follower, loop: Callable[[], None]) -> None:
        try:
            loop()
        except MoaiError as error:
            if follower is self._follower:  # else it was ended on purpose
                self.trouble = error.message
        with self._changed:
            self._changed.notify_all()

    def _read_events(self, follower: Follower, after: int) -> None:
        for event in follower.events(after):
            with self._changed:
                if event.sequence != len(self.events) + 1:
                    self.misplaced.append(f"event {event.sequence} came where {len(self.events) + 1} was due")
                self.events.append(event)
                self._changed.notify_all()

    def _read_log(self, follower: Follower, offset: int) -> None:
        for chunk in follower.log(offset):
            with self._changed:
                if chunk.offset != len(self.log):
                    self.misplaced.append(f"byte {chunk.offset} of the log came where {len(self.log)} was due")
                self.log += chunk.data
                self.last_s = time.monotonic()
                self._changed.notify_all()

    def _on_link(self, error: MoaiError | None) -> None:
        self._note(self.returns if error is None else self.losses)

    def _note(self, times: list[float]) -> None:
        with self._changed:
            times.append(time.monotonic())
            self._changed.notify_all()


# -- judging ---------------------------------------------------------------------------------------


def expected_log(lines: int) -> bytes:
    """What the job's log must hold after so many lines and its last one; see ``_bootstrap/drill_there.py``."""
    digest, text = hashlib.sha256(), bytearray()
    for number in range(1, lines + 1):
        line = f"line {number:06d} {digest.hexdigest()[:16]}\n".encode()
        digest.update(line)
        text += line
    return bytes(text) + f"end {lines} {digest.hexdigest()}\n".encode()


def judge(watch: Any, ended: JobInfo) -> list[str]:
    """A sentence for everything that is not as it must be; empty when nothing was lost."""
    events, log = watch.events, bytes(watch.log)
    found = list(watch.misplaced[:5])
    if [one.sequence for one in events] != list(range(1, ended.last_sequence + 1)):
        found.append(f"events: {len(events)} came, the container has 1 to {ended.last_sequence}")
    if not events or not events[-1].is_last or sum(one.is_last for one in events) != 1:
        found.append("events: the end of the job came not exactly once")
    if any(one.type == "gap" for one in events):
        found.append("events: the container itself tells of a gap")
    lines = max(0, log.count(b"\n") - 1)
    if not log.splitlines()[-1:] or log != expected_log(lines):
        found.append(f"log: its {len(log)} bytes are not those the job wrote")
    elif _steps(events) != list(range(1, lines // _LINES_A_REPORT + 1)):
        found.append(f"metrics: {len(_steps(events))} came of {lines // _LINES_A_REPORT}")
    if not _is_same(events):
        found.append("process: it was not started exactly once")
    if (ended.state, ended.exit_code) != ("FAILED", EXIT_CODE):
        found.append(f"exit: {ended.state} with code {ended.exit_code}, not FAILED with {EXIT_CODE}")
    return found


def _started(events: list[Event]) -> list[tuple[int, int]]:
    """(pid, start ticks) of every start of the job's process."""
    steps = [one.data for one in events if one.type == "step" and one.data.get("state") == "RUNNING"]
    return [(int(one.get("pid") or 0), int(one.get("pid_start_ticks") or 0)) for one in steps]


def _is_same(events: list[Event]) -> bool:
    return len(_started(events)) == 1


def _steps(events: list[Event]) -> list[int]:
    return [one.data["step"] for one in events if one.type == "metric" and "tick" in (one.data.get("values") or {})]


def _remove(job: Job) -> None:
    try:
        job.delete()
    except MoaiError as error:
        job.host.session.say(f"job {job.id} stays: {error.message}")

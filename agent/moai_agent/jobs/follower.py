"""Follows one living job: its reports and its log become events of the journal.

One asyncio task a job. It reads only what is new, writes the journal, folds the view and wakes the
watchers. It starts from the journal's cursor, so it may be killed at any byte.
"""

import asyncio
import os
import time
from typing import Any, Dict, List, Optional

from moai_worker import identity, records
from moai_worker.evidence import Evidence
from moai_worker.jobdir import TERMINAL_STATES, JobDir, write_json

from moai_agent.jobs import explain
from moai_agent.jobs.journal import Journal
from moai_agent.jobs.logparse import STATE_VERSION, LogParser
from moai_agent.jobs.throughput import Throughput

_CURSOR_BYTES = 1024 * 1024
_CURSOR_S = 5.0
_READ_BYTES = 1024 * 1024
#: Waits between looks: just after news, with watchers, without.
_FAST_S, _WATCHED_S, _IDLE_S = 0.01, 0.1, 0.5
#: A job without a supervisor after this long was left by an agent killed while submitting.
_UNSTARTED_S = 10.0


class Source:
    """One followed file: where we are, and what is journalled already."""

    def __init__(self, path: str, name: str, offset: int, skip: Any) -> None:
        self.path, self.name, self.offset = path, name, offset
        self.skip_end, self.skip_count = skip or (-1, 0)

    def is_new(self, end: int) -> bool:
        """Whether an event caused by what ends at ``end`` is not in the journal yet."""
        if end < self.skip_end:
            return False
        if end == self.skip_end and self.skip_count > 0:
            self.skip_count -= 1
            return False
        return True

    def read(self) -> bytes:
        """New bytes, at most 1 MiB."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(fd, _READ_BYTES, self.offset)
        finally:
            os.close(fd)


def _parser(state: Any, offset: int, pattern: Optional[str]) -> LogParser:
    """A parser that goes on at ``offset``; with an empty memory when a newer agent left its state in the cursor."""
    if state is None and not offset:
        return LogParser(None, pattern)
    if isinstance(state, dict) and state.get("v") == STATE_VERSION:
        return LogParser(state, pattern)
    return LogParser({"v": STATE_VERSION, "offset": offset}, pattern)


class Follower:
    """See the module docstring. ``view`` is always current; ``changed()`` gives a wake-up event."""

    def __init__(self, job: JobDir, spec: Dict[str, Any], plan: Dict[str, Any]) -> None:
        self.job, self.spec, self.plan = job, spec, plan
        self.journal = Journal(job.events)
        past = self.journal.recover(records.new_view(spec, plan))
        self.view: Dict[str, Any] = past.view or {}
        self.sequence = past.last
        self.reports = Source(job.reports, "reports", past.cursor.get("reports", 0), past.skip.get("reports"))
        self.log = Source(job.log, "log", past.cursor.get("log", 0), past.skip.get("log"))
        self.parser = _parser(past.cursor.get("log_state"), self.log.offset, spec.get("log_pattern") or None)
        self.clock = records.LogClock()
        self.clock_offset = 0
        self.cursor_size, self.cursor_s = self.journal.size, time.monotonic()
        self.log_size = 0
        #: Steps of our own report their figures themselves; what they print for people says the same again.
        steps = plan.get("steps", [])
        self._reporting = bool(steps) and all(step.get("module") for step in steps)
        command = next((step["argv"] for step in reversed(steps) if not step.get("module")), [])
        self.rate = Throughput(command, dict(past.cursor.get("rate") or {}))
        self._pending: List[Dict[str, Any]] = []
        self._watchers: Dict[asyncio.Event, float] = {}
        self._evidence_s = 0.0
        self.orphaned_since: Optional[float] = None
        #: The job's folder was removed while it ran: nothing more will be known of it.
        self.is_removed = False

    @property
    def ended(self) -> bool:
        """The terminal event is in the journal."""
        return self.view.get("state") in TERMINAL_STATES

    # -- watchers ------------------------------------------------------------------------------

    def subscribe(self, batch_s: float = 0.0) -> asyncio.Event:
        """An event that is set whenever journal or log have grown; give it back to unsubscribe.

        Args:
            batch_s: how long the watcher lets news gather; while all do, the files are looked at less often.
        """
        event = asyncio.Event()
        self._watchers[event] = batch_s
        return event

    def unsubscribe(self, event: asyncio.Event) -> None:
        """See ``subscribe``."""
        self._watchers.pop(event, None)

    def _wake(self) -> None:
        for event in self._watchers:
            event.set()

    # -- loop ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow until the terminal event is journalled."""
        wait_s = _FAST_S
        loop = asyncio.get_running_loop()
        while True:
            news = self.advance()
            if news:
                self._wake()
            if self.ended and not self._pending:
                break
            if self.is_removed:
                self.journal.close()
                self._wake()
                return
            if time.monotonic() - self.cursor_s > _CURSOR_S and self.journal.size > self.cursor_size:
                self._write_cursor()
                await loop.run_in_executor(None, self.journal.sync)
            limit_s = _WATCHED_S if self._watchers else _IDLE_S
            fast_s = max(_FAST_S, min(self._watchers.values(), default=0.0) / 2)
            wait_s = fast_s if news else min(wait_s * 1.5, limit_s)
            await asyncio.sleep(wait_s)
        self._write_cursor()
        await loop.run_in_executor(None, self.journal.sync)
        self.journal.close()
        self._wake()

    def advance(self) -> bool:
        """One look at the files; True when anything was new."""
        if self._pending:
            return self._flush()
        evidence = self._look() if self._look_is_due() else None
        if evidence is not None and not os.path.isdir(self.job.path):
            self.is_removed = True
            return False
        fresh = self._read_reports()
        fresh = self._read_log() or fresh
        if fresh:
            self._flush()
            if self.journal.size - self.cursor_size > _CURSOR_BYTES:
                self._write_cursor()
        if evidence is not None and not fresh:
            # Only once both files are read to their end may the outcome follow.
            fresh = self._settle(evidence)
        return fresh

    def _look_is_due(self) -> bool:
        now = time.monotonic()
        if now - self._evidence_s < 0.5 and not os.path.exists(self.job.exit):
            return False
        self._evidence_s = now
        return True

    def _look(self) -> Evidence:
        return Evidence(self.job)

    # -- sources -------------------------------------------------------------------------------

    def _add(self, type: str, data: Dict[str, Any], moment: Optional[float], step: str, src: str, end: int) -> None:
        self.sequence += 1
        event = {
            "q": self.sequence,
            "t": round(moment if moment is not None else time.time(), 6),
            "step": step,
            "type": type,
            "data": data,
        }
        if src:
            event["src"], event["end"] = src, end
        self._pending.append(event)
        records.fold(self.view, event)

    def _flush(self) -> bool:
        """Write what is pending; False while the disk is full (nothing is lost, we try again)."""
        if not self._pending or not self.journal.append(self._pending):
            return False
        self._pending = []
        return True

    def _read_reports(self) -> bool:
        data = self.reports.read()
        whole = data.rfind(b"\n") + 1
        if not whole:
            if len(data) >= records.MAX_REPORT_BYTES:
                self._report_gap(self.reports.offset, self.reports.offset + len(data), "a report without end")
                self.reports.offset += len(data)
                return True
            return False
        offset = self.reports.offset
        for line in data[:whole].split(b"\n")[:-1]:
            end = offset + len(line) + 1
            if line.strip():
                report = records.parse_report(line) if len(line) <= records.MAX_REPORT_BYTES else None
                if report is None:
                    self._report_gap(offset, end, "a line that is not a report")
                elif self.reports.is_new(end):
                    self._add(report["type"], report["data"], report["t"], report["step"], "reports", end)
            offset = end
        self.reports.offset = offset
        return True

    def _report_gap(self, start: int, end: int, text: str) -> None:
        if self.reports.is_new(end):
            data = {"source": "reports", "start_offset": start, "end_offset": end, "text": text}
            self._add("gap", data, None, "", "reports", end)

    def _read_log(self) -> bool:
        data = self.log.read()
        if not data:
            return False
        self.log_size = self.log.offset + len(data)
        self._read_clock()
        for found in self.parser.feed(data, self.log.offset):
            self._add_found(found)
        # The parser keeps the partial last line; the cursor below names its start.
        self.log.offset += len(data)
        return True

    def _add_found(self, found: Any) -> None:
        if self._reporting and (found.type in ("metric", "progress") or found.data.get("phase") == "training"):
            return
        if found.type == "message" and found.data.get("code") == "NAN_LOSS" and self.spec.get("watched"):
            return  # Its supervisor says so, too.
        if self.log.is_new(found.end):
            moment = self.clock.at(found.end)
            if found.type == "metric":
                self.rate.add(found.data, moment if moment is not None else time.time())
            self._add(found.type, found.data, moment, self.view.get("step", ""), "log", found.end)

    def _read_clock(self) -> None:
        try:
            with open(self.job.log_times, "rb") as source:
                source.seek(self.clock_offset)
                data = source.read()
        except FileNotFoundError:
            return
        whole = data.rfind(b"\n") + 1
        self.clock.feed(data[:whole])
        self.clock_offset += whole

    # -- end -----------------------------------------------------------------------------------

    def _settle(self, evidence: Evidence) -> bool:
        """Add what the folder proves beyond its files: lost supervisor, outcome."""
        outcome = evidence.exit
        if outcome is not None:
            if self.log.offset < int(outcome.get("log_bytes") or 0) and os.path.exists(self.job.log):
                size = os.path.getsize(self.job.log)
                if self.log.offset < size:
                    return False
        else:
            outcome = evidence.verdict()
        if outcome is None:
            if not evidence.started and not evidence.supervised:
                self._give_up_unstarted()
                return False
            return self._show_condition(evidence)
        for found in self.parser.finish():
            self._add_found(found)
        self._tell_removed(int(outcome.get("log_bytes") or 0))
        data = {
            "state": outcome["state"],
            "exit_code": outcome.get("exit_code"),
            "reason": explain.refined(outcome.get("reason"), self.parser.fatal, []),
            "output": outcome.get("output") or self.view.get("output") or "",
        }
        self._add("state", data, outcome.get("end_time"), "", "", 0)
        self._flush()
        return True

    def _tell_removed(self, log_bytes: int) -> None:
        """What was written to a file after somebody had removed it is lost, which is said."""
        for source, end in ((self.log, log_bytes), (self.reports, self.reports.offset)):
            if not os.path.exists(source.path) and (end > source.offset or source is self.reports):
                text = "%s was removed while the job ran" % os.path.basename(source.path)
                self._add("gap", {"source": source.name, "start_offset": source.offset, "end_offset": end, "text": text}, None, "", "", 0)

    def _give_up_unstarted(self) -> None:
        """Nothing tells that the job ever ran: an agent was killed while it submitted the job and nobody asked again,
        or the power failed and took what was not on the disk yet. Say so.

        exit.json comes first: a supervisor that starts late after all finds it and ends.
        """
        boot = self.spec.get("boot")
        if boot and boot != identity.boot_id():
            code, hint = "CONTAINER_RESTARTED", "moai remote resume"
            text = "the container was restarted soon after the job was submitted; what it did until then is not recorded"
        elif time.time() - float(self.spec.get("create_time") or 0) < _UNSTARTED_S:
            return
        else:
            code, hint = "START_FAILED", "submit it again"
            text = "the agent was killed while the job was submitted; nothing was run"
        reason = {"code": code, "message": text, "next": hint, "details": {}}
        outcome = {"state": "INTERRUPTED", "reason": reason, "end_time": time.time(), "log_bytes": 0}
        write_json(self.job.exit, outcome)

    def _show_condition(self, evidence: Evidence) -> bool:
        condition = evidence.lost_condition()
        shown = [c for c in self.view.get("conditions", []) if c.get("type") == "SUPERVISOR_LOST"]
        if bool(condition) == bool(shown):
            return False
        data = {"state": self.view["state"], "conditions": [condition] if condition else []}
        self._add("state", data, None, "", "", 0)
        self._flush()
        return True

    def _write_cursor(self) -> None:
        cursor = {
            "q": self.sequence,
            "reports": self.reports.offset,
            "log": self.parser.offset,
            "log_state": self.parser.state(),
            "rate": dict(self.rate.state),
            "view": self.view,
        }
        if not self._pending and self.journal.append([{"cursor": cursor}]):
            self.cursor_size, self.cursor_s = self.journal.size, time.monotonic()

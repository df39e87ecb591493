"""A job as a Python object: look, follow, wait, end, resume.

Runs in the caller's process; every method is a call to the container's agent and survives a broken
link. Forgetting the object changes nothing: the job is a folder on the container.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from moai_proto.v1 import job_pb2, job_pb2_grpc

from moai import _convert, _index
from moai._errors import ENDINGS, MoaiError, WaitTimeout
from moai._follow import Follower, LinkReport
from moai._options import JobOptions, owner, setting, with_token
from moai._types import Event, FileEntry, JobInfo, LogChunk, Report, ResumePlan, SettingChange

if TYPE_CHECKING:
    from pathlib import Path

    from moai._degraded import Inspector
    from moai._host import Host
    from moai._tensorboard import EventFiles

_STUB = job_pb2_grpc.JobServiceStub


class Job:
    """One job of one host. Made by ``Host.run``, ``Host.train``, ``Host.job`` or ``moai.job``.

    Attributes:
        host: where it runs. info: as it was when last asked (``refresh`` asks again).
        SIGNALS: what ``signal`` takes.
    """

    SIGNALS = ("checkpoint", "stop", "evaluate", "log-interval")

    def __init__(self, host: Host, info: JobInfo) -> None:
        self.host = host
        self.info = info

    def __repr__(self) -> str:
        return f"<moai.Job {self.host.name}/{self.info.id} {self.info.state}>"

    def _repr_html_(self) -> str:
        """A table for notebooks: the job as it was when last asked."""
        return self.info._repr_html_()

    @property
    def id(self) -> str:
        """Its id, unique everywhere."""
        return self.info.id

    @property
    def state(self) -> str:
        """The state when last asked."""
        return self.info.state

    def refresh(self) -> JobInfo:
        """Ask the container; also sets ``info``."""
        answer = self.host.session.call(_STUB, "GetJob", job_pb2.GetJobRequest(job=self.id))
        self.info = _convert.job(self.host.name, answer.job)
        return self.info

    def spec_and_plan(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """``spec.json`` and ``plan.json`` as kept on the container (no secret is in them)."""
        answer = self.host.session.call(_STUB, "GetJob", job_pb2.GetJobRequest(job=self.id))
        return json.loads(answer.spec_json), json.loads(answer.plan_json)

    # -- following -----------------------------------------------------------------------------

    def events(self, after: int = 0, follow: bool = True, on_link: LinkReport | None = None) -> Iterator[Event]:
        """Events with a sequence above ``after``: 1..N in order, once, across cuts of the link.

        Blocks while the job runs; ends after the terminal event. ``follow`` False ends at the newest.
        """
        follower = Follower(self.host.session, self.id, on_link)
        try:
            yield from follower.events(after, follow)
        finally:
            follower.close()

    def log(self, offset: int = 0, follow: bool = False, on_link: LinkReport | None = None) -> Iterator[bytes]:
        """The log's bytes from ``offset`` (negative: so many before the end), exactly as written."""
        follower = Follower(self.host.session, self.id, on_link)
        try:
            for chunk in follower.log(offset, follow):
                yield chunk.data
        finally:
            follower.close()

    def stream(self, after: int = 0, offset: int = 0, on_link: LinkReport | None = None) -> Iterator[Event | LogChunk]:
        """Events and log together; the terminal event is the last item, after the whole log."""
        follower = Follower(self.host.session, self.id, on_link)
        try:
            yield from follower.both(after, offset)
        finally:
            follower.close()

    def wait(self, timeout: float | None = None, check: bool = True) -> JobInfo:
        """Block until the job has ended.

        Args:
            timeout: seconds; None waits for ever.
            check: raise unless it SUCCEEDED.

        Raises:
            WaitTimeout: it still runs (and goes on). JobFailed, JobCancelled, JobInterrupted,
            JobUnknown: how it ended, with ``error.job``.
        """
        info = self.refresh()
        if not info.ended:
            info = self._wait_ended(timeout)
        if check and info.state != "SUCCEEDED":
            raise ending(info)
        return info

    def _wait_ended(self, timeout: float | None) -> JobInfo:
        follower = Follower(self.host.session, self.id)
        timer = None
        expired = threading.Event()
        if timeout is not None:

            def expire() -> None:
                expired.set()
                follower.close()

            timer = threading.Timer(max(0.0, timeout), expire)
            timer.daemon = True
            timer.start()
        try:
            for event in follower.events(self.info.last_sequence):
                if event.is_last:
                    return self.refresh()
        except MoaiError:
            if not expired.is_set():
                raise
        finally:
            follower.close()
            if timer is not None:
                timer.cancel()
        if expired.is_set():
            raise WaitTimeout(
                "TIMED_OUT", f"job {self.id} has not ended within {timeout:g} s; it goes on", f"moai remote attach {self.id}"
            )
        # The journal ended without our seeing it (it had ended between two looks).
        return self.refresh()

    # -- changing ------------------------------------------------------------------------------

    def cancel(self, grace_s: float = 10.0, force: bool = False) -> JobInfo:
        """Ask for its end: SIGTERM to every process of it, SIGKILL after ``grace_s``. Idempotent."""
        request = job_pb2.CancelJobRequest(job=self.id, owner=owner(), force=force, grace_seconds=grace_s)
        answer = self.host.session.call(_STUB, "CancelJob", request)
        self.info = _convert.job(self.host.name, answer.job)
        return self.info

    def resume_all(
        self, settings: Mapping[str, Any] | None = None, options: JobOptions | None = None, force: bool = False, start_from: str = ""
    ) -> list[Job]:
        """``resume``, and of a training over several containers every member's too: the leader's new one first."""
        from moai import _group

        return _group.resume(self, settings or {}, options or JobOptions(), force, start_from)

    def members(self) -> list[Job]:
        """The other jobs of a training over several containers; empty for any other job."""
        from moai import _group

        return _group.members(self)

    def delete(self, force: bool = False) -> None:
        """Remove the job folder of an ended job; results in the work folder stay."""
        self.host.session.call(_STUB, "DeleteJob", job_pb2.DeleteJobRequest(job=self.id, owner=owner(), force=force))
        _index.forget(self.id)

    def checkpoint(self, force: bool = False) -> None:
        """Tell a running recipe to save a checkpoint after its current step."""
        self.signal("checkpoint", force=force)

    def stop(self, force: bool = False) -> None:
        """Tell a running recipe to save and end after its current step."""
        self.signal("stop", force=force)

    def signal(self, name: str, value: int | None = None, force: bool = False) -> None:
        """Tell a running recipe something; done after its current step and answered with an event.

        Args:
            name: one of ``SIGNALS``: ``checkpoint``, ``stop`` (save and end), ``evaluate``, ``log-interval``.
            value: for ``log-interval``: training steps between two reports, 1 to 1000000.

        Raises UsageError, Conflict (JOB_FINISHED, JOB_NOT_OWNED), AgentError (UNSUPPORTED: a command of one's
        own, no validation split, a training that is over).
        """
        if name not in self.SIGNALS:
            raise MoaiError("USAGE", f"{name!r} is no signal", f"one of {', '.join(self.SIGNALS)}")
        if (value is not None) != (name == "log-interval"):
            raise MoaiError("USAGE", f"{name} takes {'a number of steps' if value is None else 'no value'}", "log-interval=10")
        signal = "JOB_SIGNAL_" + name.upper().replace("-", "_")
        request = job_pb2.SignalJobRequest(job=self.id, signal=signal, owner=owner(), force=force, value=value or 0)
        self.host.session.call(_STUB, "SignalJob", request)

    def resume(
        self,
        settings: Mapping[str, Any] | None = None,
        options: JobOptions | None = None,
        force: bool = False,
        start_from: str = "",
    ) -> Job:
        """A new job, linked to this ended one, that goes on from a checkpoint; a command starts again.

        Args:
            settings: settings of the recipe to change, for example ``{"max_steps": 40}``.
            start_from: ``latest`` (default), a step, or a checkpoint's folder on the container.

        Raises MoaiError: CHECKPOINT_MISMATCH (the message names the setting), CHECKPOINT_NOT_FOUND (it names
        the steps there), SECRET_NEEDED (a command's secrets are given again), JOB_ACTIVE.
        """
        return self.host.made(self._resume(settings, options, force, start_from, False).job)

    def _resume_at(
        self, settings: Mapping[str, Any], options: JobOptions, force: bool, start_from: str, place: job_pb2.TrainingGroup
    ) -> Job:
        return self.host.made(self._resume(settings, options, force, start_from, False, place).job)

    def plan_resume(self, settings: Mapping[str, Any] | None = None, start_from: str = "", force: bool = False) -> ResumePlan:
        """What ``resume`` would change and where it would begin; starts nothing, refuses the same."""
        answer = self._resume(settings, None, force, start_from, True)
        changes = tuple(
            SettingChange(c.name, json.loads(c.old_value) if c.old_value else None, json.loads(c.new_value)) for c in answer.changes
        )
        return ResumePlan(changes, tuple(answer.fixed_settings), answer.text)

    def _resume(
        self,
        settings: Mapping[str, Any] | None,
        options: JobOptions | None,
        force: bool,
        start_from: str,
        dry_run: bool,
        place: job_pb2.TrainingGroup | None = None,
    ) -> job_pb2.ResumeJobResponse:
        request = job_pb2.ResumeJobRequest(
            job=self.id,
            options=with_token(options or JobOptions()).message(self.host.config),
            settings={k: setting(v) for k, v in (settings or {}).items()},
            force=force,
            start_from=start_from,
            dry_run=dry_run,
            group=place,
        )
        answer: job_pb2.ResumeJobResponse = self.host.session.call(_STUB, "ResumeJob", request, timeout_s=120.0)
        return answer

    def smaller_passes(self) -> dict[str, Any]:
        """Settings to resume with after the device ran out of memory: smaller passes over the same rows a step.

        ``{}`` where it did not, for a command, or when a pass is one row already.
        """
        if self.info.reason is None or self.info.reason.code != "DEVICE_OUT_OF_MEMORY":
            return {}
        told = self.info.reason.details.get("gradient_accumulation")
        if told:
            return {"gradient_accumulation": int(told)}
        inputs = next((s["inputs"] for s in self.spec_and_plan()[1].get("steps", []) if s.get("module") == "train"), None)
        if inputs is None:
            return {}
        values = {**inputs, **(inputs.get("settings") or {})}
        rows, parts = int(values.get("batch_size") or 8), int(values.get("gradient_accumulation") or 1)
        finer = next((n for n in range(parts + 1, rows + 1) if rows % n == 0), None)
        return {"gradient_accumulation": finer} if finer else {}

    def again(self, settings: Mapping[str, Any] | None = None, options: JobOptions | None = None, on: Host | None = None) -> Job:
        """The same job once more, whatever its kind: same request, code and environment; a new id and result folder.

        Args:
            settings: of the recipe, other than before. options: what else is said anew; secrets are given
                again here. on: another container: code and the laptop's files are sent there, and the
                host's ``say`` is told what does not travel.

        Raises MoaiError: UNSUPPORTED (its request was not kept; settings for a command; the result of another job,
        on another container; one of several containers that train as one, see ``again_all``), SECRET_NEEDED,
        FILE_NOT_FOUND (its code or a file of the laptop was cleared away), JOB_NOT_FOUND (the job it is about was).
        """
        from moai import _again

        return _again.again(self, on, settings, options, (on or self.host).session.say)

    def again_all(
        self, settings: Mapping[str, Any] | None = None, options: JobOptions | None = None, on: Host | None = None
    ) -> list[Job]:
        """``again``, and of a training over several containers every member's too: the leader's new one first."""
        from moai import _group

        return _group.again(self, on, settings, options, (on or self.host).session.say)

    # -- results -------------------------------------------------------------------------------

    def pull(
        self, target: str | Path = ".", only: str = "", say: Any = None, left_out: list[FileEntry] | None = None
    ) -> Path:
        """Copy the job's results to ``target/NAME``; see ``Host.pull``. The job may still run.

        Raises NotFound (FILE_NOT_FOUND) when the job has none.
        """
        info = self.refresh()
        if not info.output:
            raise MoaiError("FILE_NOT_FOUND", f"job {self.id} has no result folder", f"moai remote show {self.id}")
        return self.host.pull(info.output, target, only=only, say=say, left_out=left_out)

    def event_files(self) -> EventFiles:
        """The job's TensorBoard event files, kept in the laptop's cache; ``pull`` fetches what is new.

        Raises NotFound (FILE_NOT_FOUND) when the job has no result folder.
        """
        from moai._tensorboard import EventFiles

        info = self.refresh()
        if not info.output:
            raise MoaiError("FILE_NOT_FOUND", f"job {self.id} has no result folder", f"moai remote show {self.id}")
        return EventFiles(self.host.session, f"{info.output}/tensorboard", self.id)

    def toml(self) -> str:
        """A ``moai.toml`` that would repeat this job; secrets are named only. Raises UNSUPPORTED for other kinds."""
        from moai._repeat import job_toml

        return job_toml(self.info, *self.spec_and_plan())

    def report(self, path: str | Path = "") -> Report:
        """Write a post-mortem for support: log, events, phases, versions, device table; secrets taken out.

        Args:
            path: the archive, ``.tar.gz``; default ``moai-report-JOB-TIME.tar.gz`` in the current folder.

        What cannot be had is left out and named in ``missing``. Raises UsageError (the file is there already).
        """
        from moai import _report

        return _report.write(self, path)


class DegradedJob(Job):
    """A job of a host whose agent cannot start: it can be looked at, its log read, and it can be ended."""

    def __init__(self, host: Host, info: JobInfo, inspector: Inspector, why: MoaiError) -> None:
        super().__init__(host, info)
        self.inspector, self.why = inspector, why

    def refresh(self) -> JobInfo:
        """Read the folder again."""
        self.info = self.inspector.job(self.id)
        return self.info

    def log(self, offset: int = 0, follow: bool = False, on_link: LinkReport | None = None) -> Iterator[bytes]:
        """The log to its present end; following needs the agent."""
        if follow:
            raise self.why
        return self.inspector.log(self.id, offset)

    def members(self) -> list[Job]:
        """None that could be asked: what a job was told is read by the agent."""
        return []

    def cancel(self, grace_s: float = 10.0, force: bool = False) -> JobInfo:
        """End it without the agent."""
        theirs = self.info.owner
        if theirs and theirs != owner() and not force:
            raise MoaiError("JOB_NOT_OWNED", f"job {self.id} belongs to {theirs}", "repeat with --force if you mean it")
        self.info = self.inspector.cancel(self.id, grace_s)
        return self.info

    def wait(self, timeout: float | None = None, check: bool = True) -> JobInfo:
        """Poll the folder until the job has ended; see ``Job.wait``."""
        end_s = None if timeout is None else time.monotonic() + timeout
        while not self.refresh().ended:
            if end_s is not None and time.monotonic() > end_s:
                raise WaitTimeout("TIMED_OUT", f"job {self.id} has not ended within {timeout:g} s", "")
            time.sleep(0.5)
        if check and self.info.state != "SUCCEEDED":
            raise ending(self.info)
        return self.info

    def events(self, after: int = 0, follow: bool = True, on_link: LinkReport | None = None) -> Iterator[Event]:
        """Raises what keeps the agent from starting."""
        raise self.why

    def stream(self, after: int = 0, offset: int = 0, on_link: LinkReport | None = None) -> Iterator[Event | LogChunk]:
        """Raises what keeps the agent from starting."""
        raise self.why

    def spec_and_plan(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Raises what keeps the agent from starting."""
        raise self.why


def ending(info: JobInfo) -> MoaiError:
    """The exception of a job that did not succeed."""
    reason = info.reason
    code = reason.code if reason else {"CANCELLED": "CANCELLED", "UNKNOWN": "SUPERVISOR_LOST"}.get(info.state, "COMMAND_FAILED")
    message = reason.message if reason else f"job {info.id} ended as {info.state}"
    error = ENDINGS[info.state](code, message, (reason.next if reason else "") or f"moai remote logs {info.id}")
    error.job = info
    return error


def wait_all(jobs: list[Job], timeout: float | None = None) -> list[JobInfo]:
    """Wait for several jobs; raises WaitTimeout when one has not ended in time, nothing else."""
    end_s = None if timeout is None else time.monotonic() + timeout
    return [job.wait(None if end_s is None else max(0.0, end_s - time.monotonic()), check=False) for job in jobs]

"""JobService."""

import asyncio
import json
import os
from typing import Any, AsyncIterator

from moai_proto.v1 import job_pb2, job_pb2_grpc
from moai_worker import jobdir
from moai_worker.jobdir import TERMINAL_STATES

from moai_agent import convert
from moai_agent.errors import AgentError
from moai_agent.jobs import foreign, resume, signals, submit
from moai_agent.jobs.journal import JournalReader
from moai_agent.jobs.store import Entry

_CHUNK = 512 * 1024
_BATCH = 200
#: A page ends early rather than not fit its message of 4 MiB.
_MOST_BYTES = 3 * 1024 * 1024
_MAX_BATCH_S = 1.0


class JobServicer(job_pb2_grpc.JobServiceServicer):
    """See job.proto."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        self._store = agent.store

    async def RunCommand(self, request: job_pb2.RunCommandRequest, context: Any) -> job_pb2.RunCommandResponse:
        """A command as a job."""
        entry = await submit.command(self._agent, request)
        return job_pb2.RunCommandResponse(job=convert.job(entry))

    async def GetJob(self, request: job_pb2.GetJobRequest, context: Any) -> job_pb2.GetJobResponse:
        """One job with its loss curve."""
        try:
            entry = self._store.find(request.job)
        except AgentError as error:
            why = foreign.explain(self._agent.config, request.job) if error.reason == "JOB_NOT_FOUND" else ""
            if not why:
                raise
            raise AgentError("JOB_NOT_FOUND", why, "moai remote jobs --others", {"elsewhere": "1"})
        return job_pb2.GetJobResponse(
            job=convert.job(entry, losses=True),
            # Read anew: a step may have added the commit it fetched.
            spec_json=json.dumps(jobdir.read_json(entry.job.spec) or entry.spec, sort_keys=True),
            plan_json=json.dumps(entry.plan, sort_keys=True),
        )

    async def ListJobs(self, request: job_pb2.ListJobsRequest, context: Any) -> job_pb2.ListJobsResponse:
        """Newest first, in pages."""
        size = min(max(0, request.page_size) or 100, 1000)
        token = request.page_token or "0"
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise AgentError("USAGE", "%r is no page of a list of jobs" % token[:40], "begin without a page token")
        start = int(token)
        entries = foreign.entries(self._agent.config) if request.others_wanted else self._store.entries()
        others = 0 if request.others_wanted else len(foreign.folders(self._agent.config))
        page, held = [], 0
        for entry in entries[start : start + size]:
            one = convert.job(entry)
            held += one.ByteSize()
            if page and held > _MOST_BYTES:
                break
            page.append(one)
        more = str(start + len(page)) if start + len(page) < len(entries) else ""
        return job_pb2.ListJobsResponse(jobs=page, next_page_token=more, other_count=others)

    async def CancelJob(self, request: job_pb2.CancelJobRequest, context: Any) -> job_pb2.CancelJobResponse:
        """Idempotent."""
        entry = self._store.find(request.job)
        self._store.check_owner(entry, request.owner, request.force)
        self._store.cancel(entry, request.owner, request.grace_seconds)
        return job_pb2.CancelJobResponse(job=convert.job(entry))

    async def ResumeJob(self, request: job_pb2.ResumeJobRequest, context: Any) -> job_pb2.ResumeJobResponse:
        """A linked job that goes on."""
        self._agent.offers.take(request.group.port)
        made = await resume.resume(self._agent, request)
        return made.message(convert.job(made.entry) if made.entry is not None else None)

    async def DeleteJob(self, request: job_pb2.DeleteJobRequest, context: Any) -> job_pb2.DeleteJobResponse:
        """Only the job folder."""
        entry = self._store.find(request.job)
        self._store.check_owner(entry, request.owner, request.force)
        self._store.delete(entry)
        return job_pb2.DeleteJobResponse(id=entry.job.id)

    async def SignalJob(self, request: job_pb2.SignalJobRequest, context: Any) -> job_pb2.SignalJobResponse:
        """To a running recipe."""
        entry = self._store.find(request.job)
        self._store.check_owner(entry, request.owner, request.force)
        signals.send(entry, request.signal, request.value)
        return job_pb2.SignalJobResponse(job=convert.job(entry))

    async def WatchEvents(
        self, request: job_pb2.WatchEventsRequest, context: Any
    ) -> AsyncIterator[job_pb2.WatchEventsResponse]:
        """The journal from a sequence; the file is the buffer, so a slow reader costs no memory."""
        entry = self._store.find(request.job)
        reader = JournalReader(entry.job.events, request.after_sequence)
        follower = self._store.follower(entry.job.id)
        if request.after_sequence > (entry.view.get("last") or 0):
            raise AgentError(
                "SEQUENCE_OUT_OF_RANGE",
                "job %s has %d events, not %d" % (entry.job.id, entry.view.get("last") or 0, request.after_sequence),
                "name one of these, or 0 for all",
            )
        batch_s = min(max(0.0, request.batch_seconds), _MAX_BATCH_S)
        wake = follower.subscribe(batch_s) if follower else asyncio.Event()
        try:
            while True:
                wake.clear()
                ended = follower is None or (follower.ended and follower.journal._fd < 0)
                batch = [convert.event(record) for record in reader.read(_BATCH)]
                if batch:
                    yield job_pb2.WatchEventsResponse(events=batch)
                    if batch_s and not ended and len(batch) < _BATCH:
                        await asyncio.sleep(batch_s)
                    continue
                if ended or request.follow_disabled:
                    return
                _check_there(follower)
                await self._pause(wake)
        finally:
            if follower:
                follower.unsubscribe(wake)

    async def ReadLog(self, request: job_pb2.ReadLogRequest, context: Any) -> AsyncIterator[job_pb2.ReadLogResponse]:
        """Raw bytes; end_reached only when the job has ended and all was sent."""
        entry = self._store.find(request.job)
        size = _size(entry.job.log)
        offset = max(0, size + request.offset) if request.offset < 0 else request.offset
        if offset > size:
            raise AgentError(
                "OFFSET_OUT_OF_RANGE",
                "the log of %s has %d bytes, not %d" % (entry.job.id, size, offset),
                "name one of these, or -N for the last N bytes",
            )
        left = request.limit_bytes or None
        follower = self._store.follower(entry.job.id)
        wake = follower.subscribe() if follower else asyncio.Event()
        fd = os.open(entry.job.log, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while left is None or left > 0:
                wake.clear()
                ended = follower is None or follower.ended
                data = os.pread(fd, min(_CHUNK, left or _CHUNK), offset)
                if data:
                    yield job_pb2.ReadLogResponse(offset=offset, data=data)
                    offset += len(data)
                    left = left - len(data) if left is not None else None
                    continue
                if ended or not request.follow:
                    yield job_pb2.ReadLogResponse(offset=offset, end_reached=_has_ended(self._store, entry))
                    return
                _check_there(follower)
                await self._pause(wake)
        finally:
            os.close(fd)
            if follower:
                follower.unsubscribe(wake)

    async def _pause(self, wake: asyncio.Event) -> None:
        try:
            await asyncio.wait_for(wake.wait(), 1.0)
        except asyncio.TimeoutError:
            return


def _check_there(follower: Any) -> None:
    if follower is not None and follower.is_removed:
        text = "the folder of job %s was removed while it was followed, and with it the record of its end" % follower.job.id
        raise AgentError("JOB_NOT_FOUND", text, "its command may go on: look for it there, with ps")


def _has_ended(store: Any, entry: Entry) -> bool:
    now = store.entry_or_none(entry.job.id)
    return now is None or now.view["state"] in TERMINAL_STATES


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError as error:
        raise AgentError("FILE_NOT_FOUND", "the log cannot be read: %s" % error.strerror, "moai remote show JOB --events tells what happened")



"""Streams of one job that survive cuts: events by sequence, log by offset, nothing twice, nothing lost.

A stream that ends without its end marker was cut and is asked again from where it stopped, for as long
as the caller listens: a dead link is never the end of a job. Runs in the caller's process; two threads
when events and log are followed together.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from moai_proto.v1 import job_pb2, job_pb2_grpc

from moai import _convert
from moai._errors import HostUnreachable, MoaiError
from moai._rpc import Backoff, Session
from moai._types import Event, LogChunk

#: Items kept between the network and a slow reader; the container's disk is the real buffer.
_QUEUE_ITEMS = 64

#: Why a container cannot bring up its agent at the moment: killed as it started, no time, no space. The job goes on there.
_NO_AGENT = ("AGENT_FAILED", "DISK_FULL", "HOME_NOT_WRITABLE")

LinkReport = Callable[[MoaiError | None], None]
"""Told of a lost link (the error) and of its return (None)."""


def _ignore(error: MoaiError | None) -> None:
    """The LinkReport of callers who do not care."""


class Follower:
    """Follows one job.

    Args:
        session: of the job's host. job_id: the full id.
        on_link: see LinkReport; called from the reading thread.
        patient: also the first connection is tried again; else its failure is raised.
        batch_s: seconds (0 to 1) in which the container lets events gather; a message costs more than an event.
    """

    def __init__(self, session: Session, job_id: str, on_link: LinkReport | None = None, batch_s: float = 0.0, patient: bool = False) -> None:
        self._patient = patient
        self._batch_s = batch_s
        self._session, self._job = session, job_id
        self._on_link = on_link or _ignore
        self._closed = threading.Event()
        self._calls: dict[int, Any] = {}
        self._lock = threading.Lock()

    # -- one stream ----------------------------------------------------------------------------

    def events(self, after: int = 0, follow: bool = True) -> Iterator[Event]:
        """Events with a sequence above ``after``, in order, once; ends with the terminal event.

        With ``follow`` False it ends at the newest event. Raises MoaiError when the container refuses
        (no such job, sign-in needed); never for a lost link.
        """
        last = after

        def request() -> job_pb2.WatchEventsRequest:
            return job_pb2.WatchEventsRequest(job=self._job, after_sequence=last, follow_disabled=not follow, batch_seconds=self._batch_s)

        def is_done() -> bool:
            return not follow or self._ended_at(last)

        for answer in self._again("WatchEvents", request, is_done, follow):
            for message in answer.events:
                if message.sequence <= last:
                    continue
                if message.sequence != last + 1:
                    raise MoaiError(
                        "INTERNAL", f"the journal of {self._job} jumps from event {last} to {message.sequence}"
                    )
                last = message.sequence
                event = _convert.event(self._session.host.name, self._job, message)
                yield event
                if event.is_last:
                    return

    def _ended_at(self, last: int) -> bool:
        """Whether the job has ended and has no event above ``last``: then its stream ends without a terminal one."""
        answer = self._session.call(job_pb2_grpc.JobServiceStub, "GetJob", job_pb2.GetJobRequest(job=self._job))
        info = _convert.job(self._session.host.name, answer.job)
        return info.ended and info.last_sequence <= last

    def log(self, offset: int = 0, follow: bool = True) -> Iterator[LogChunk]:
        """Bytes of the log from ``offset`` (negative: so many before the end), in order, once."""
        at = offset

        def request() -> job_pb2.ReadLogRequest:
            return job_pb2.ReadLogRequest(job=self._job, offset=at, follow=follow)

        ended = False

        def is_done() -> bool:
            return ended or not follow

        for answer in self._again("ReadLog", request, is_done, follow):
            if answer.data:
                at = answer.offset + len(answer.data)
                yield LogChunk(self._session.host.name, self._job, answer.offset, answer.data)
            if answer.end_reached:
                ended = True
                return

    def _again(self, method: str, request: Callable[[], Any], is_done: Callable[[], bool], follow: bool = True) -> Iterator[Any]:
        """The messages of a stream that is asked again whenever it was cut.

        Args:
            follow: the caller waits for news, so also for an agent that cannot start at the moment.
        """
        backoff = Backoff()
        lost = connected_once = False
        while not self._closed.is_set():
            try:
                for answer in self._session.stream(job_pb2_grpc.JobServiceStub, method, request(), self._opened):
                    connected_once = True
                    backoff.tries = 0
                    if lost:
                        lost = False
                        self._on_link(None)
                    yield answer
                if is_done():
                    return
                # Cut without an error (an agent that was asked to leave): the same as an error.
            except MoaiError as error:
                if self._closed.is_set():
                    return
                # A login that runs nothing may be a relay that was killed while it dialled; a refused sign-in stays
                # refused, and asking on only gets the laptop banned.
                is_away = isinstance(error, HostUnreachable) and error.reason != "SIGN_IN_FAILED"
                # A silent job's stream has brought nothing yet: that it was cut shows that there was an agent.
                was_there = connected_once or bool(backoff.tries)
                if not is_away and not (follow and was_there and error.reason in _NO_AGENT and error.details.get("phase") != "install"):
                    raise
                away = error.reason == "LINK_LOST" or (self._patient and error.reason == "HOST_UNREACHABLE")
                if not connected_once and not away and not backoff.tries:
                    raise
                if not lost:
                    lost = True
                    self._on_link(error)
            self._pause(backoff.next_s())

    def _opened(self, call: Any) -> None:
        with self._lock:
            # One stream a thread: a new call replaces the one that was cut.
            self._calls[threading.get_ident()] = call
            closed = self._closed.is_set()
        if closed:
            call.cancel()

    def _pause(self, seconds: float) -> None:
        """Wait, but not across a sleep of the laptop: on waking the link is tried at once."""
        end_s = time.monotonic() + seconds
        skew_s = time.time() - time.monotonic()
        while not self._closed.is_set():
            left_s = end_s - time.monotonic()
            if left_s <= 0 or abs(time.time() - time.monotonic() - skew_s) > 5.0:
                return
            self._closed.wait(min(left_s, 1.0))

    def close(self) -> None:
        """End all streams of this follower; harmless when repeated."""
        with self._lock:
            self._closed.set()
            calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            call.cancel()

    # -- both streams --------------------------------------------------------------------------

    def both(self, after: int = 0, offset: int = 0) -> Iterator[Event | LogChunk]:
        """Events and log together; the terminal event comes last, after the whole log."""
        items: queue.Queue[Any] = queue.Queue(_QUEUE_ITEMS)
        threads = [
            threading.Thread(target=self._pump, args=(items, make), name="moai-follow", daemon=True)
            for make in (lambda: self.events(after), lambda: self.log(offset))
        ]
        for thread in threads:
            thread.start()
        last: Event | None = None
        running = len(threads)
        try:
            while running:
                item = items.get()
                if item is None:
                    running -= 1
                elif isinstance(item, BaseException):
                    raise item
                elif isinstance(item, Event) and item.is_last:
                    last = item
                else:
                    yield item
            if last is not None:
                yield last
        finally:
            self.close()

    def _pump(self, items: queue.Queue[Any], make: Callable[[], Iterator[Any]]) -> None:
        try:
            for item in make():
                if not self._put(items, item):
                    return
            self._put(items, None)
        except Exception as error:  # An edge: handed to the reader, who raises it.
            self._put(items, error)

    def _put(self, items: queue.Queue[Any], item: Any) -> bool:
        while not self._closed.is_set():
            try:
                items.put(item, timeout=0.5)
                return True
            except queue.Full:
                continue
        return False

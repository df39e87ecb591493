"""One stream of several jobs: a thread a job follows it, one reader gets everything.

Owns the threads and the queue between them. Refuses to let one host end the others' stream: what cannot be
followed is told at once and raised when the rest has ended.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from moai._errors import MoaiError, WaitTimeout
from moai._follow import Follower
from moai._job import Job
from moai._types import Event, LogChunk

_QUEUE_ITEMS = 256
#: A message to the laptop costs about 1 ms of its CPU, whatever is in it: so for each job followed beside others
#: its events are let gather a little longer. 64 jobs: some 300 messages a second at most.
_BATCH_S, _MAX_BATCH_S = 0.003, 0.2

OnLink = Callable[[str, "MoaiError | None"], None]


class _Gathering:
    """What the threads have in common with the reader. They know nothing of the stream itself, so that one
    nobody holds any more is collected, and ends them."""

    def __init__(self, on_link: OnLink | None) -> None:
        self.items: queue.Queue[Any] = queue.Queue(_QUEUE_ITEMS)
        self.closed = threading.Event()
        self._on_link = on_link

    def teller(self, name: str) -> Callable[[MoaiError | None], None]:
        """``on_link`` of one host."""

        def told(error: MoaiError | None) -> None:
            if self._on_link is not None:
                self._on_link(name, error)

        return told

    def pump(self, name: str, follower: Follower, log: bool) -> None:
        """Follow one job until it has ended or cannot be followed."""
        try:
            for item in follower.both() if log else follower.events():
                if not self._put(item):
                    return
            self._put(None)
        except MoaiError as error:
            self.teller(name)(error)
            self._put(error)
        except Exception as error:  # An edge: a defect, raised by the reader.
            self._put(error)

    def _put(self, item: Any) -> bool:
        while not self.closed.is_set():
            try:
                self.items.put(item, timeout=0.5)
                return True
            except queue.Full:
                continue
        return False


class EventStream(Iterator["Event | LogChunk"]):
    """What ``Fleet.events`` gives: an iterator, asynchronous too, and a context manager.

    One reader at a time; ``close`` may be called from any thread and wakes the reader.
    """

    def __init__(self, jobs: Iterable[Job], log: bool, on_link: OnLink | None, timeout: float | None) -> None:
        wanted = list(jobs)
        self._shared = _Gathering(on_link)
        self._followers: list[Follower] = []
        self._running = len(wanted)
        self._failed: list[MoaiError] = []
        self._timeout = timeout
        self._end_s = None if timeout is None else time.monotonic() + timeout
        batch_s = 0.0 if len(wanted) == 1 else min(_MAX_BATCH_S, len(wanted) * _BATCH_S)
        for job in wanted:
            name = job.host.name
            follower = Follower(job.host.session, job.id, self._shared.teller(name), batch_s, patient=True)
            self._followers.append(follower)
            threading.Thread(target=self._shared.pump, args=(name, follower, log), name=f"moai-{job.id}", daemon=True).start()

    # -- reading -------------------------------------------------------------------------------

    def __iter__(self) -> EventStream:
        return self

    def __next__(self) -> Event | LogChunk:
        while self._running and not self._shared.closed.is_set():
            item = self._next_item()
            if item is None:
                self._running -= 1
            elif isinstance(item, MoaiError):
                self._running -= 1
                self._failed.append(item)
            elif isinstance(item, BaseException):
                self.close()
                raise item
            else:
                return item  # type: ignore[no-any-return]
        was_closed = self._shared.closed.is_set()
        self.close()
        if self._failed and not was_closed:
            raise self._failed.pop(0)
        raise StopIteration

    def _next_item(self) -> Any:
        """The next one of the queue; None right away once closed. Raises WaitTimeout."""
        try:
            # ``close`` leaves something in the queue, so that this wakes up.
            return self._shared.items.get(timeout=None if self._end_s is None else max(0.0, self._end_s - time.monotonic()))
        except queue.Empty:
            self.close()
            message = f"{self._running} jobs have not ended within {self._timeout:g} s; they go on"
            raise WaitTimeout("TIMED_OUT", message, "follow them again: fleet.events(jobs)") from None

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event | LogChunk:
        """The next item, for ``async for`` inside a running event loop; a cancelled task closes the stream."""
        import asyncio

        def take() -> Event | LogChunk | None:
            return next(self, None)

        try:
            item = await asyncio.to_thread(take)
        except asyncio.CancelledError:
            self.close()
            raise
        if item is None:
            raise StopAsyncIteration
        return item

    # -- ending --------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop following; the jobs go on. Harmless when repeated, and from any thread."""
        self._shared.closed.set()
        for follower in self._followers:
            follower.close()
        try:
            self._shared.items.put_nowait(None)
        except queue.Full:
            return  # The reader has something to wake up for.

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

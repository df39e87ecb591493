"""One stream of a download: fetch a range of a file, whatever the network does meanwhile.

Owns what happens between asking for a range and having its bytes on disk: the request and its
redirect, 206, 200 where a range was asked for, 416, signed addresses that expired, 429 and 5xx with
``Retry-After``, broken, short, stalled and trickling bodies, a full disk. Scheduling, verification
and progress belong to ``download``.

A try that brought less than 64 KiB counts as useless. The stream gives up when ``max_attempts``
tries in a row were useless and no stream of the download got anything useful for ``patience_s``.

Runs in a step's process on the container, one ``Fetcher`` a thread.
"""

import errno
import http.client
import re
import threading
import time
from typing import Callable, Dict, NamedTuple, Optional

from .errors import StepError
from .hub import Hub, Plan, PlanFile, Subject, file_path
from .hubcache import mount_of, not_writable
from .partfile import DiskError, PartFile, StaleWrite
from .patience import backoff_s, describe, printable, retry_after_s
from .web import NETWORK_ERRORS, Web, origin

_MIB = 1024 * 1024
#: A try that brought less counts as useless.
USEFUL_BYTES = 64 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
#: Answers of a file store that mean: this signed address is no longer good.
_EXPIRED = (400, 401, 403, 404, 410)
_REFUSED = (401, 403, 404, 410, 451)


class Options(NamedTuple):
    """Limits of a download; bytes, seconds and counts as the names say.

    ``streams``: connections to begin with; up to ``most_streams`` where more of them are faster (see
    ``growth``), not more than ``streams`` when it is less.
    """

    streams: int = 4
    most_streams: int = 16
    segment_bytes: int = 64 * _MIB
    persist_bytes: int = 16 * _MIB
    persist_s: float = 5.0
    read_bytes: int = 256 * 1024
    floor_bytes_per_s: float = 64 * 1024.0
    stall_s: float = 60.0
    timeout_s: float = 30.0
    backoff_base_s: float = 0.5
    backoff_cap_s: float = 30.0
    max_attempts: int = 8
    patience_s: float = 900.0
    max_restarts: int = 3
    reserve_bytes: int = 256 * _MIB
    lock_poll_s: float = 0.5


class Stopped(Exception):
    """The download was stopped; what is on disk is kept."""


class Retry(Exception):
    """A try failed for a cause that may pass; ``reason`` is used if it does not."""

    def __init__(self, why: str, reason: str = "DOWNLOAD_STALLED", wait_s: Optional[float] = None) -> None:
        super().__init__(why)
        self.why, self.reason, self.wait_s = why, reason, wait_s


class RestartFile(Exception):
    """The server has another version of the file than the bytes here."""


class Shared:
    """What the streams of one download share."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.stop = threading.Event()
        self.fetched_bytes = 0
        self.last_useful_s = time.monotonic()
        self.hub_pause_until_s = 0.0
        self.warn = warn
        self._lock = threading.Lock()

    def count(self, size_bytes: int) -> None:
        """Add bytes that came over the network."""
        with self._lock:
            self.fetched_bytes += size_bytes


class Source:
    """One file being fetched: its partial file and what was learnt about its server."""

    def __init__(self, file: PlanFile, part: PartFile) -> None:
        self.file = file
        self.part = part
        self.location: Optional[str] = None
        self.restarts = 0
        self.corrupt = 0
        self.finishing = False
        self._lock = threading.Lock()

    def restart(self, generation: int) -> int:
        """Drop all bytes of ``generation``; returns the new one. Raises StaleWrite when another
        stream did so already, DiskError."""
        with self._lock:
            if generation != self.part.generation:
                raise StaleWrite()
            return self.part.restart(generation)


class Task:
    """A range ``[pos, end)`` of a file, and how far the best try got."""

    def __init__(self, source: Source, generation: int, pos: int, end: int) -> None:
        self.source, self.generation, self.pos, self.end = source, generation, pos, end
        self.best = pos
        self.whole = False


class Fetcher:
    """Runs tasks on its own connections.

    Args:
        token: sent to the endpoint only.
    """

    def __init__(
        self, plan: Plan, endpoint: str, token: Optional[str], options: Options, shared: Shared
    ) -> None:
        self._plan, self._options, self._shared = plan, options, shared
        self._hub = Hub(endpoint, token)
        self._web = Web(options.timeout_s)

    def close(self) -> None:
        """Close the connections."""
        self._web.close()
        self._hub.close()

    def abort(self) -> None:
        """From another thread: end a wait for the network."""
        self._web.abort()

    def run(self, task: Task) -> bool:
        """Fetch a task to its end. True when its file was started again, so that its ranges have to
        be handed out anew; a task of an older version simply ends.

        Raises Stopped, or StepError when trying again is of no use.
        """
        useless = 0
        while task.pos < task.end:
            try:
                self._attempt(task)
                failure = None
            except StaleWrite:
                return False
            except RestartFile as error:
                return self._restart(task, str(error))
            except DiskError as error:
                failure = _disk_failure(error, task.source.part.path)
            except Retry as error:
                failure = error
            except NETWORK_ERRORS as error:
                task.source.location = None
                failure = Retry(describe(error), "HUB_UNREACHABLE")
            if self._shared.stop.is_set():
                raise Stopped()
            useful = task.pos - task.best >= USEFUL_BYTES or task.pos >= task.end
            task.best = max(task.best, task.pos)
            if useful:
                useless = 0
                self._shared.last_useful_s = time.monotonic()
            if failure is not None:
                useless += 1
                self._pause(task, failure, useless)
        return False

    def _restart(self, task: Task, why: str) -> bool:
        source = task.source
        source.location = None
        try:
            source.restart(task.generation)
        except StaleWrite:
            return False
        except DiskError as error:
            raise not_writable(source.part.path, error.error)
        source.restarts += 1
        quiet_s = time.monotonic() - self._shared.last_useful_s
        if source.restarts > self._options.max_restarts and quiet_s >= self._options.patience_s:
            raise self._gave_up(task, Retry(why, "DOWNLOAD_CORRUPT"))
        wait_s = backoff_s(source.restarts - 1, self._options.backoff_base_s, self._options.backoff_cap_s)
        if self._shared.stop.wait(wait_s):
            raise Stopped()
        return True

    def _pause(self, task: Task, failure: Retry, useless: int) -> None:
        options, shared = self._options, self._shared
        quiet_s = time.monotonic() - shared.last_useful_s
        if useless >= options.max_attempts and quiet_s >= options.patience_s:
            raise self._gave_up(task, failure)
        wait_s = failure.wait_s
        if wait_s is None:
            wait_s = backoff_s(useless - 1, options.backoff_base_s, options.backoff_cap_s)
        if failure.reason == "DISK_FULL" and useless == 1:
            shared.warn("The disk is full; the download waits for space: %s" % failure.why)
        if shared.stop.wait(wait_s):
            raise Stopped()

    def _gave_up(self, task: Task, failure: Retry) -> StepError:
        path = task.source.file.path
        if failure.reason == "DISK_FULL":
            return StepError(
                "DISK_FULL", failure.why, "free space and run again; what was fetched is kept", {"file": path}
            )
        return StepError(
            failure.reason,
            "%s of %s could not be fetched: %s" % (path, self._plan.repo_id, failure.why),
            "check this host's network and its proxy setting, then run again: what was fetched is kept",
            {"file": path},
        )

    def _attempt(self, task: Task) -> None:
        source, plan = task.source, self._plan
        hub_url = self._hub.endpoint + file_path(plan, source.file.path)
        used = source.location
        if used is None:
            self._await_hub()
        headers: Dict[str, str] = {}
        if not task.whole or task.pos:
            headers["Range"] = "bytes=%d-%d" % (task.pos, task.end - 1)
        response, final = self._web.request(
            "GET", used or hub_url, headers, self._hub.token, self._hub.endpoint
        )
        clean, sized = False, response.length is not None
        try:
            source.location = None if final == hub_url else final
            end = self._judge(task, response, final, used is not None)
            etag = etag_of(response)
            # A store whose machines disagree about the ETag must not keep us going round for ever:
            # after some restarts the digest alone decides.
            patient = source.restarts < self._options.max_restarts
            if not source.part.accept(task.generation, etag) and patient:
                raise RestartFile("its ETag changed during the download")
            self._web.set_read_timeout(final, self._options.stall_s)
            self._read(task, response, min(end, task.end))
            clean = sized and task.pos == end
        finally:
            if clean:
                self._web.done(final, response)
            else:
                self._web.drop(final)

    def _judge(self, task: Task, response: http.client.HTTPResponse, final: str, remembered: bool) -> int:
        """Where the body of an answer ends; adopts a whole file. Raises for every other answer."""
        source, size_bytes = task.source, task.source.file.size_bytes
        if response.status == 206:
            found = _CONTENT_RANGE.fullmatch((response.getheader("Content-Range") or "").strip())
            low, high = (int(found.group(1)), int(found.group(2))) if found else (-1, -1)
            if found and found.group(3) not in ("*", str(size_bytes)):
                raise RestartFile("its length is now %s instead of %d bytes" % (found.group(3), size_bytes))
            if low != task.pos or not low <= high < size_bytes:
                source.location = None
                raise Retry("the server answered with another range than asked for", "DOWNLOAD_CORRUPT")
            return high + 1
        if response.status == 200:
            if response.length is not None and response.length != size_bytes:
                raise RestartFile("it comes with %d instead of %d bytes" % (response.length, size_bytes))
            if task.pos or task.end != size_bytes:
                # The server ignores ranges: this stream takes the whole file, the others let go.
                task.best = task.best if task.whole else 0
                task.generation = source.restart(task.generation)
                task.pos, task.end = 0, size_bytes
            task.whole = True
            return size_bytes
        if response.status == 416:
            raise RestartFile("the server has no byte %d of it" % task.pos)
        self._refused(source, response, final, remembered)
        raise Retry("status %d" % response.status, "HUB_UNREACHABLE")

    def _refused(
        self, source: Source, response: http.client.HTTPResponse, final: str, remembered: bool
    ) -> None:
        status = response.status
        at_hub = origin(final) == origin(self._hub.endpoint)
        source.location = None
        if status in _EXPIRED and (remembered or not at_hub):
            # Signed addresses live minutes to hours: ask the Hub for a new one. At once the first
            # time; one that is refused although it is new is an ordinary failure.
            wait_s = 0.0 if remembered else None
            raise Retry("the file store refused the address (%d)" % status, wait_s=wait_s)
        if at_hub and status in _REFUSED:
            plan = self._plan
            subject = Subject(plan.repo_id, plan.repo_type, plan.commit, source.file.path)
            raise self._hub.refusal(status, response.headers, subject)
        if status == 429 or status >= 500:
            wait_s = retry_after_s(response.headers, -1.0)
            asked = response.getheader("Retry-After") or response.getheader("RateLimit")
            if asked and at_hub:
                self._shared.hub_pause_until_s = time.monotonic() + wait_s
            why = "status %d" % status
            raise Retry(why, "HUB_UNREACHABLE", wait_s if asked else None)

    def _await_hub(self) -> None:
        """Keep to the pause the Hub asked any of our streams for."""
        while True:
            wait_s = self._shared.hub_pause_until_s - time.monotonic()
            if wait_s <= 0:
                return
            if self._shared.stop.wait(wait_s):
                raise Stopped()

    def _read(self, task: Task, response: http.client.HTTPResponse, end: int) -> None:
        options, part = self._options, task.source.part
        window_start_s, window_bytes = time.monotonic(), 0
        while task.pos < end:
            try:
                # One receive at a time, so that a trickle comes back here to be noticed.
                data = response.read1(min(options.read_bytes, end - task.pos))
            except NETWORK_ERRORS as error:
                raise Retry("the connection broke (%s)" % describe(error))
            if not data:
                raise Retry("the connection ended early")
            part.write(task.generation, task.pos, data)
            task.pos += len(data)
            window_bytes += len(data)
            self._shared.count(len(data))
            if self._shared.stop.is_set():
                raise Stopped()
            now_s = time.monotonic()
            if now_s - window_start_s >= options.stall_s:
                if window_bytes < options.floor_bytes_per_s * options.stall_s:
                    raise Retry("only %d bytes came in %d s" % (window_bytes, options.stall_s))
                window_start_s, window_bytes = now_s, 0
                self._shared.last_useful_s = now_s
            if part.wants_persist():
                part.persist()
                part.hash_some(4 * options.persist_bytes)
                window_start_s += time.monotonic() - now_s  # the disk's time is not the network's


def etag_of(response: http.client.HTTPResponse) -> str:
    """The ETag of an answer without quotes and weakness mark; empty when there is none."""
    tag = (response.getheader("ETag") or "").strip()
    return printable(tag[2:] if tag.startswith("W/") else tag).strip('"')


def _disk_failure(error: DiskError, path: str) -> Retry:
    if error.error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Retry("no space left on %s to write %s" % (mount_of(path), path), "DISK_FULL")
    raise not_writable(path, error.error)

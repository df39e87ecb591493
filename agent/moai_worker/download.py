"""Fetch the files of a plan: several streams, resumable, verified, published whole.

Owns the transfer as a whole: which stream takes which range, verification, progress, one process a
repository at a time. ``fetch`` gets the ranges, ``partfile`` knows what of a file is on disk,
``hubcache`` where it belongs, ``hub`` what there is.

Versions never mix: bytes are bound to the ETag of the answer they came with, and an answer with
another one starts that file again. ETags are compared here instead of by ``If-Range``: the head of
the answer tells before a byte is taken, and a file store that treats ``If-Range`` wrongly cannot
turn every range into a whole file. What decides is the Hub's digest, compared before a file gets
its name.

Refuses to publish what does not match, to send the token anywhere but the endpoint, and to start
without enough space.

Runs in a step's process on the container.
"""

import concurrent.futures
import os
import shutil
import threading
import time
from collections import deque
from typing import Any, Deque, Dict, List, Mapping, Optional, Set

from . import othercache
from .errors import StepError
from .fetch import Fetcher, Options, Shared, Source, Stopped, Task
from .growth import Growth
from .hub import DEFAULT_ENDPOINT, Plan, PlanFile
from .hubcache import (
    CacheTarget,
    FolderTarget,
    RepoLock,
    check_space,
    human,
    mount_of,
    not_writable,
    unique_files,
)
from .partfile import DiskError, PartFile
from .transferprogress import Progress

_TICK_S = 0.25
#: While another process downloads more files than this, its progress is not read from the disk.
_WATCHED_FILES = 2000


def download(
    plan: Plan,
    cache_dir: str,
    endpoint: str = DEFAULT_ENDPOINT,
    token: Optional[str] = None,
    report: Any = None,
    streams: int = 0,
    options: Optional[Options] = None,
    elsewhere: Optional[Mapping[str, str]] = None,
) -> str:
    """Bring a plan into a Hub cache; returns the snapshot folder.

    Files whose content is in the cache already are not fetched. What an earlier, killed run
    persisted is used. Another process downloading the same repository is waited for.

    Args:
        cache_dir: the cache folder, ``HF_HOME/hub``.
        report: a ``Reporter`` (``phase``, ``progress`` and ``message`` are called), or None.
        streams: parallel connections, 1 to 32; 0 = few, and more where more are faster.
        elsewhere: files of the plan that lie on this machine already, path by etag; they are
            verified and linked or copied instead of fetched.

    Raises StepError DISK_FULL, HOME_NOT_WRITABLE, DOWNLOAD_CORRUPT, DOWNLOAD_STALLED,
    HUB_UNREACHABLE, and every refusal ``plan_download`` knows.
    """
    return _run(plan, CacheTarget(cache_dir, plan), endpoint, token, report, streams, options, elsewhere)


def download_to_folder(
    plan: Plan,
    folder: str,
    endpoint: str = DEFAULT_ENDPOINT,
    token: Optional[str] = None,
    report: Any = None,
    streams: int = 0,
    options: Optional[Options] = None,
    elsewhere: Optional[Mapping[str, str]] = None,
) -> str:
    """Like ``download``, but the files get their own names in a plain folder, which is returned.

    Files that are there with the right content are kept, others of the plan are replaced in one
    step each, files not in the plan are not touched.
    """
    return _run(plan, FolderTarget(folder, plan), endpoint, token, report, streams, options, elsewhere)


def _run(
    plan: Plan,
    target: Any,
    endpoint: str,
    token: Optional[str],
    report: Any,
    streams: int,
    options: Optional[Options],
    elsewhere: Optional[Mapping[str, str]],
) -> str:
    options = options or Options()
    if streams:
        options = options._replace(streams=max(1, min(32, streams)), most_streams=0)
    transfer = Transfer(plan, target, endpoint, token, report, options, elsewhere)
    try:
        with RepoLock(target.lock_path, transfer.waiting, transfer.shared.stop, options.lock_poll_s):
            transfer.run()
            return target.finish()
    except OSError as error:
        raise not_writable(target.root, error)


class Transfer:
    """One download: a queue of ranges, the streams that take them, the files they complete."""

    def __init__(
        self,
        plan: Plan,
        target: Any,
        endpoint: str,
        token: Optional[str],
        report: Any,
        options: Options,
        elsewhere: Optional[Mapping[str, str]] = None,
    ) -> None:
        self._plan, self._target, self._options = plan, target, options
        self._endpoint, self._token = endpoint, token
        self._elsewhere = dict(elsewhere or {})
        self._progress = Progress(report, plan)
        self.shared = Shared(self._progress.warn)
        self._changed = threading.Condition()
        self._tasks: Deque[Task] = deque()
        self._unopened: Deque[Source] = deque()
        self._active: List[Source] = []
        self._busy = self._serving = self._wanted = 0
        self._finished_bytes = 0
        self._unopened_bytes = 0
        self._files_done = 0
        self._names: Dict[str, int] = {}
        for file in plan.files:
            self._names[file.etag] = self._names.get(file.etag, 0) + 1
        self._told_waiting = self._told_taking = False

    def waiting(self) -> None:
        """Another process holds the repository: say so, and show how far it is."""
        if not self._told_waiting:
            self._told_waiting = True
            self._progress.phase(
                "waiting", "Another job is downloading %s; waiting for it" % self._plan.repo_id
            )
        files = unique_files(self._plan.files)
        if len(files) <= _WATCHED_FILES:
            self._progress.show(sum(self._bytes_here(file) for file in files), 0, 0)

    def run(self) -> None:
        """Fetch everything that is missing. Raises StepError."""
        here, missing_bytes, held_bytes = 0, 0, 0
        for file in sorted(
            unique_files(self._plan.files), key=lambda f: (f.size_bytes > self._options.segment_bytes, f.path)
        ):
            if self._target.present(file):
                here += 1
                self._count_file(file)
                continue
            if file.etag in self._elsewhere and self._take(file, self._elsewhere[file.etag]):
                self._count_file(file)
                continue
            source = Source(file, self._part(file))
            part_bytes = source.part.load()
            held_bytes += part_bytes
            missing_bytes += file.size_bytes - part_bytes
            self._unopened.append(source)
        self._unopened_bytes = held_bytes
        if self._unopened:
            check_space(self._target.root, missing_bytes, len(self._unopened), self._options.reserve_bytes)
            self._progress.phase("downloading", self._summary(missing_bytes, held_bytes, here))
            self._stream_all()
        if self._files_done != len(self._plan.files):
            raise RuntimeError("%d of %d files came" % (self._files_done, len(self._plan.files)))
        self._show(force=True)

    def _take(self, file: PlanFile, path: str) -> bool:
        """Use a file of another cache; False when it is not what the Hub announces."""
        hashed = [0]

        def on_bytes(size_bytes: int) -> None:
            hashed[0] += size_bytes
            self._progress.show(self._finished_bytes + hashed[0], 0, self._files_done)

        if not self._told_taking:
            self._told_taking = True
            self._progress.phase("verifying", "Verifying files that are here already (%s)" % os.path.dirname(path))
        base = self._target.part_base(file)
        if not (self._target.may_link and othercache.same_file_system(path, os.path.dirname(base))):
            check_space(self._target.root, file.size_bytes, 1, self._options.reserve_bytes)
        taken = othercache.take(file, path, base, self._target.may_link, on_bytes)
        if taken is None:
            self._progress.warn("%s is not what the Hub announces for %s; it is fetched" % (path, file.path))
            return False
        self._target.publish(file, taken)
        self._part(file).discard()
        return True

    def _stream_all(self) -> None:
        options = self._options
        growth = Growth(options.streams, max(options.streams, options.most_streams), time.monotonic())
        fetchers: List[Fetcher] = []
        running: List[Any] = []
        pending: Set[Any] = set()
        pool = concurrent.futures.ThreadPoolExecutor(
            max_workers=max(options.streams, options.most_streams), thread_name_prefix="download"
        )
        try:
            while True:
                with self._changed:
                    self._wanted = growth.wanted
                    new, self._serving = growth.wanted - self._serving, max(self._serving, growth.wanted)
                    more_to_do = bool(self._unopened or self._tasks)
                    busy = self._busy
                for _ in range(new):
                    fetcher = Fetcher(self._plan, self._endpoint, self._token, options, self.shared)
                    fetchers.append(fetcher)
                    running.append(pool.submit(self._serve, fetcher))
                    pending.add(running[-1])
                done, pending = concurrent.futures.wait(
                    pending, timeout=_TICK_S, return_when=concurrent.futures.FIRST_COMPLETED
                )
                self._show()
                if not pending or any(future.exception() is not None for future in done):
                    break
                growth.look(time.monotonic(), self.shared.fetched_bytes, busy, more_to_do)
        finally:
            self.shared.stop.set()
            for fetcher in fetchers:
                fetcher.abort()
            with self._changed:
                self._changed.notify_all()
            pool.shutdown(wait=True)
            self._keep_parts()
        failures = [future.exception() for future in running if future.exception() is not None]
        for failure in sorted(failures, key=lambda f: isinstance(f, Stopped)):
            raise failure  # type: ignore[misc]

    def _serve(self, fetcher: Fetcher) -> None:
        """One stream: take tasks until there are none."""
        try:
            while True:
                task = self._next_task()
                if task is None:
                    return
                try:
                    again = fetcher.run(task)
                    if not again and task.source.part.complete():
                        again = self._complete(task.source)
                    if again:
                        self._hand_out(task.source)
                finally:
                    with self._changed:
                        self._busy -= 1
                        self._changed.notify_all()
        finally:
            fetcher.close()

    def _next_task(self) -> Optional[Task]:
        with self._changed:
            while not self.shared.stop.is_set():
                if self._serving > self._wanted:
                    self._serving -= 1  # more connections did not pay: this one goes
                    return None
                while self._tasks:
                    task = self._tasks.popleft()
                    if task.generation == task.source.part.generation:
                        self._busy += 1
                        return task
                if self._unopened:
                    source = self._unopened.popleft()
                    self._unopened_bytes -= source.part.done_bytes()
                    self._active.append(source)
                    self._queue_ranges(source)
                elif not self._busy:
                    return None
                else:
                    self._changed.wait(1.0)
            return None

    def _hand_out(self, source: Source) -> None:
        with self._changed:
            self._queue_ranges(source)
            self._changed.notify_all()

    def _queue_ranges(self, source: Source) -> None:
        part, size_bytes = source.part, source.file.size_bytes
        # Generation first: ranges of a version that is dropped meanwhile are then recognised as old.
        generation = part.generation
        gaps = part.missing(self._options.segment_bytes) or [(size_bytes, size_bytes)]
        # In front, so that started files are finished before new ones are opened.
        self._tasks.extendleft(
            Task(source, generation, start, end) for start, end in reversed(gaps)
        )

    def _complete(self, source: Source) -> bool:
        """All bytes are here: verify and publish. True when the file has to be fetched again."""
        with self._changed:
            if source.finishing:
                return False
            source.finishing = True
        part, file = source.part, source.file
        generation = part.generation
        try:
            digest = part.digest()
            if digest == file.etag:
                part.finish()
                self._target.publish(file, part.path)
                part.forget_sidecar()
                self._count_file(file, source)
                return False
            source.corrupt += 1
            if digest:
                part.restart(generation)
        except DiskError as error:
            raise error.error
        if digest and source.corrupt > 1:
            raise StepError(
                "DOWNLOAD_CORRUPT",
                "%s of %s came twice with other content than the Hub announces (digest %s, not %s)"
                % (file.path, self._plan.repo_id, digest[:16], file.etag[:16]),
                "a proxy or cache on the way may alter files: check it, then run again",
                {"file": file.path, "expected": file.etag, "found": digest},
            )
        with self._changed:
            source.finishing = False
        source.location = None
        return bool(digest)

    def _count_file(self, file: Any, source: Optional[Source] = None) -> None:
        with self._changed:
            names = self._names[file.etag]
            self._finished_bytes += file.size_bytes * names
            self._files_done += names
            if source is not None:
                self._active.remove(source)

    def _keep_parts(self) -> None:
        for source in self._active:
            try:
                source.part.close()
            except DiskError:
                continue  # a full disk: what was persisted before is still there

    def _show(self, force: bool = False) -> None:
        with self._changed:
            active = list(self._active)
            done_bytes, files_done = self._finished_bytes + self._unopened_bytes, self._files_done
        done_bytes += sum(source.part.kept_bytes() for source in active)
        self._progress.show(done_bytes, self.shared.fetched_bytes, files_done, force=force)

    def _part(self, file: Any) -> PartFile:
        return PartFile(
            self._target.part_base(file),
            file.size_bytes,
            file.etag,
            self._options.persist_bytes,
            self._options.persist_s,
        )

    def _bytes_here(self, file: Any) -> int:
        if self._target.present(file):
            return file.size_bytes * self._names[file.etag]
        return self._part(file).load()

    def _summary(self, missing_bytes: int, held_bytes: int, here: int) -> str:
        root = self._target.root
        text = "%s of %s into %s (%s free on %s)" % (
            human(missing_bytes),
            self._plan.repo_id,
            root,
            human(shutil.disk_usage(root).free),
            mount_of(root),
        )
        if held_bytes:
            text += "; %s were here from an earlier run" % human(held_bytes)
        if here:
            text += "; %d files were here already" % here
        return text

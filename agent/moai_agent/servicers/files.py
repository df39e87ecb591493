"""FileService: one file at a time, verified, published by rename."""

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import stat
from typing import Any, AsyncIterator, Iterator, List

from moai_proto.v1 import file_pb2, file_pb2_grpc
from moai_worker import jobdir

from moai_agent import convert, housekeeping, work
from moai_agent.cleaning import Cleaner, Wanted
from moai_agent.errors import AgentError
from moai_agent.snapshots import Snapshots

_CHUNK = 512 * 1024
_MAX_FILES = 100000
_NAME = re.compile(r"^[^/\0]{1,200}$")
_SHA256 = re.compile(r"^[0-9a-f]{64}\Z")
#: What a file is called until it is whole; left behind only by an agent that was killed.
_PART = ".moai-part-"

#: Items of one answer; a message holds 4 MiB.
_MOST_ITEMS = 8000
_MAX_CONTENT = 64 * 1024 * 1024


@contextlib.contextmanager
def _disk_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = "DISK_FULL" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "HOME_NOT_WRITABLE"
        raise AgentError(reason, "%s cannot be kept: %s" % (what, error.strerror), "free some space there")


class FileServicer(file_pb2_grpc.FileServiceServicer):
    """See file.proto."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    def _resolve(self, path: str) -> str:
        if not path or "\0" in path:
            raise AgentError("USAGE", "no path was given", "name a file or folder")
        home = self._agent.registry.login().get("HOME") or os.path.expanduser("~")
        if path.startswith("~/") or path == "~":
            path = os.path.join(home, path[2:])
        return os.path.normpath(os.path.join(home, path))

    async def CompareFiles(
        self, request: file_pb2.CompareFilesRequest, context: Any
    ) -> file_pb2.CompareFilesResponse:
        """Regular files only; links and devices are left out."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, self._compare, request)

    def _compare(self, request: file_pb2.CompareFilesRequest) -> file_pb2.CompareFilesResponse:
        root = self._resolve(request.path)
        if os.path.isfile(root):
            root = os.path.realpath(root)  # GetFiles follows no link.
            entry = _entry(root, os.path.basename(root), request.digest_wanted)
            return file_pb2.CompareFilesResponse(root=root, is_file=True, files=[entry])
        if not os.path.isdir(root):
            raise AgentError("FILE_NOT_FOUND", "there is no file or folder %s on the container" % root, "check the path")
        found: List[file_pb2.FileEntry] = []
        for folder, folders, files in os.walk(root):
            folders.sort()
            for name in sorted(n for n in files if not n.startswith(_PART)):
                path = os.path.join(folder, name)
                if len(found) >= _MAX_FILES:
                    raise AgentError("USAGE", "%s holds more than %d files" % (root, _MAX_FILES), "name a folder in it")
                try:
                    if stat.S_ISREG(os.lstat(path).st_mode):
                        found.append(_entry(path, os.path.relpath(path, root), request.digest_wanted))
                except FileNotFoundError:
                    continue  # Removed since the folder was read, as old checkpoints are.
        return file_pb2.CompareFilesResponse(root=root, files=found)

    async def GetFiles(
        self, request: file_pb2.GetFilesRequest, context: Any
    ) -> AsyncIterator[file_pb2.GetFilesResponse]:
        """Bytes from an offset; no message for an empty rest."""
        path = self._resolve(request.path)
        try:
            # Without O_NONBLOCK a pipe nobody writes to would hold up the whole agent.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise AgentError("FILE_NOT_FOUND", "%s: %s" % (path, error.strerror), "check the path")
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise AgentError("FILE_NOT_FOUND", "%s is not a regular file" % path, "check the path")
            offset = request.offset
            while True:
                data = os.pread(fd, _CHUNK, offset)
                if not data:
                    return
                yield file_pb2.GetFilesResponse(data=data)
                offset += len(data)
        finally:
            os.close(fd)

    async def PutFiles(
        self, request_iterator: AsyncIterator[file_pb2.PutFilesRequest], context: Any
    ) -> file_pb2.PutFilesResponse:
        """Write to a temp name beside the target, compare size and digest, rename.

        A first message with the digest only asks whether the file is there already.
        """
        loop = asyncio.get_running_loop()
        digest, size, temp, fd = hashlib.sha256(), 0, "", -1
        first, wanted = None, ""
        try:
            async for message in request_iterator:
                if first is None:
                    first = message
                    if first.sha256:
                        return await loop.run_in_executor(None, self._find, first)
                    folder = self._folder_for(first)
                    temp = os.path.join(folder, _PART + os.urandom(8).hex())
                    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                if message.data:
                    _write_all(fd, message.data)
                    digest.update(message.data)
                    size += len(message.data)
                wanted = message.sha256 or wanted
            if first is None:
                raise AgentError("USAGE", "an empty stream of files", "name a file")
            if size != first.size_bytes or digest.hexdigest() != wanted:
                raise AgentError(
                    "DOWNLOAD_CORRUPT",
                    "%s changed while it was sent, or arrived altered (%d of %d bytes)"
                    % (first.name or os.path.basename(first.path), size, first.size_bytes),
                    "push it again",
                )
            target = self._target(first, wanted)
            os.fchmod(fd, (first.mode or 0o600) & 0o700)
            # Seconds for a large file: calls and keepalives must not wait for it.
            await loop.run_in_executor(None, os.fsync, fd)
            os.replace(temp, target)
            return file_pb2.PutFilesResponse(path=target)
        except OSError as error:
            reason = "DISK_FULL" if error.errno in (28, 122) else "HOME_NOT_WRITABLE"
            if isinstance(error, (FileExistsError, NotADirectoryError)):
                reason = "USAGE"
            remedy = "free some space there" if reason == "DISK_FULL" else "name another place there"
            asked = (first.path or first.name) if first is not None else ""
            place = error.filename if error.filename not in (None, temp) else asked
            raise AgentError(reason, "%s: %s" % (place, error.strerror), remedy)
        finally:
            if fd >= 0:
                os.close(fd)
            if temp and os.path.exists(temp):
                os.unlink(temp)

    def _snapshots(self, asked: str) -> Snapshots:
        home = self._agent.registry.login().get("HOME") or os.path.expanduser("~")
        return Snapshots(work.asked(asked, home) or work.folder(self._agent.config))

    async def PlanSnapshot(
        self, request: file_pb2.PlanSnapshotRequest, context: Any
    ) -> file_pb2.PlanSnapshotResponse:
        """Registered at once; contents follow."""
        loop = asyncio.get_running_loop()
        with _disk_errors("the snapshot"):
            snapshot, missing = await loop.run_in_executor(
                None, lambda: self._snapshots(request.work).plan(request.files, request.base, request.gone)
            )
        return file_pb2.PlanSnapshotResponse(id=snapshot, missing=missing, base=request.base if snapshot else "")

    async def PutContents(
        self, request_iterator: AsyncIterator[file_pb2.PutContentsRequest], context: Any
    ) -> file_pb2.PutContentsResponse:
        """Content after content; small files of code, so each is held until its digest is known."""
        loop = asyncio.get_running_loop()
        snapshots: Any = None
        sha256, pieces, size, count = "", [], 0, 0
        with _disk_errors("the snapshot"):
            async for message in request_iterator:
                if snapshots is None:
                    snapshots = await loop.run_in_executor(None, self._snapshots, message.work)
                sha256 = message.sha256 or sha256
                pieces.append(message.data)
                size += len(message.data)
                if size > _MAX_CONTENT:
                    raise AgentError("USAGE", "a file of the snapshot is larger than 64 MiB", "list it in .gitignore; push it apart")
                if message.last:
                    await loop.run_in_executor(None, snapshots.put, sha256, pieces)
                    sha256, pieces, size, count = "", [], 0, count + 1
        return file_pb2.PutContentsResponse(count=count)

    def _inventory(self, asked: str, jobs: Any, limit_s: float = 0.0, entries: int = 0) -> housekeeping.Inventory:
        home = self._agent.registry.login().get("HOME") or os.path.expanduser("~")
        counter = housekeeping.Counter(limit_s, entries)
        return housekeeping.Inventory(self._agent.config, jobs, work.asked(asked, home), counter, home)

    async def DiskUsage(self, request: file_pb2.DiskUsageRequest, context: Any) -> file_pb2.DiskUsageResponse:
        """Counted within bounds."""
        jobs = housekeeping.known_jobs(self._agent.store.entries())

        def count() -> file_pb2.DiskUsageResponse:
            inventory = self._inventory(request.work, jobs, request.limit_seconds, request.limit_entries)
            items = [convert.stored(item) for item in housekeeping.folded(inventory.items(), _MOST_ITEMS)]
            places = [inventory.home, inventory.config.home] + inventory.works + [i.path for i in items if i.kind == "results"]
            mounts = [file_pb2.DiskMount(path=p, free_bytes=f, total_bytes=t) for p, f, t in housekeeping.mounts_of(places)]
            return file_pb2.DiskUsageResponse(items=items, mounts=mounts, stopped=inventory.counter.stopped)

        return await asyncio.get_running_loop().run_in_executor(None, count)

    async def CleanFiles(self, request: file_pb2.CleanFilesRequest, context: Any) -> file_pb2.CleanFilesResponse:
        """Chosen anew each time; only what was named goes."""
        store = self._agent.store
        named = store.find(request.results_job) if request.results_job else None
        if named is not None:
            store.check_owner(named, request.owner, request.force)
        jobs = housekeeping.known_jobs(store.entries())
        wanted = Wanted(
            older_s=max(0.0, request.older_seconds),
            checkpoints=request.checkpoints_wanted,
            keep_checkpoints=max(0, request.keep_checkpoints),
            logs=request.logs_wanted,
            results_of=named.job.id if named is not None else "",
            owner=request.owner,
            force=request.force,
        )

        def clean() -> file_pb2.CleanFilesResponse:
            cleaner = Cleaner(self._inventory(request.work, jobs, housekeeping.MOST_S), wanted).choose()
            with _disk_errors("the cleaning"):
                gone = cleaner.going if request.dry_run else cleaner.remove(list(request.paths))
            kept = [item for item in cleaner.staying if item.kept_because]
            return file_pb2.CleanFilesResponse(
                items=[convert.stored(i) for i in gone], kept=[convert.stored(i) for i in kept]
            )

        return await asyncio.get_running_loop().run_in_executor(None, clean)

    def _find(self, wanted: file_pb2.PutFilesRequest) -> file_pb2.PutFilesResponse:
        if not _SHA256.match(wanted.sha256):
            raise AgentError("USAGE", "%r is no SHA-256 in hex" % wanted.sha256, "give 64 hex digits, or none")
        path = self._target(wanted, wanted.sha256)
        if not _is_there(path, wanted):
            raise AgentError("FILE_NOT_FOUND", "%s is not there with this content" % path, "send it")
        return file_pb2.PutFilesResponse(path=path)

    def _folder_for(self, first: file_pb2.PutFilesRequest) -> str:
        if first.path:
            folder = os.path.dirname(self._target(first, ""))
            os.makedirs(folder, mode=0o700, exist_ok=True)
            return folder
        self._check_name(first.name)
        return jobdir.make_private(os.path.join(work.folder(self._agent.config), "uploads"))

    @staticmethod
    def _check_name(name: str) -> None:
        if not _NAME.match(name) or name in (".", ".."):
            raise AgentError("USAGE", "%r is not the name of a file" % name, "name another one")

    def _target(self, first: file_pb2.PutFilesRequest, digest: str) -> str:
        if first.path:
            path = self._resolve(first.path)
            if os.path.isdir(path):
                if not first.name:
                    raise AgentError("USAGE", "%s is a folder on the container" % path, "name another place there")
                self._check_name(first.name)
                path = os.path.join(path, first.name)
            return path
        self._check_name(first.name)
        folder = os.path.join(work.folder(self._agent.config), "uploads", digest[:16])
        return os.path.join(jobdir.make_private(folder), first.name)


def _is_there(target: str, wanted: file_pb2.PutFilesRequest) -> bool:
    try:
        facts = os.lstat(target)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size != wanted.size_bytes or (facts.st_mode ^ wanted.mode) & 0o100:
            return False
        return _sha256(target) == wanted.sha256
    except OSError:
        return False


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _entry(path: str, name: str, digest_wanted: bool) -> file_pb2.FileEntry:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise AgentError("USAGE", "the name of %r is not UTF-8 and cannot be sent" % path, "rename it there")
    facts = os.stat(path)
    try:
        digest = _sha256(path) if digest_wanted else ""
    except PermissionError as error:
        raise AgentError("FILE_NOT_FOUND", "%s: %s" % (path, error.strerror), "chmod u+r it there")
    return file_pb2.FileEntry(
        path=name.replace(os.sep, "/"), size_bytes=facts.st_size, sha256=digest, mode=facts.st_mode & 0o777
    )


def _sha256(path: str) -> str:
    running = hashlib.sha256()
    with open(path, "rb") as source:
        for block in iter(lambda: source.read(1024 * 1024), b""):
            running.update(block)
    return running.hexdigest()

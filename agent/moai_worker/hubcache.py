"""Where downloaded files end up: the Hub cache other libraries read, or a plain folder.

Owns the layout on disk. ``CacheTarget`` is the documented cache of ``huggingface_hub``
(huggingface.co/docs/huggingface_hub/guides/manage-cache): ``models--ORG--NAME/blobs/<etag>``,
``snapshots/<commit>/<path>`` as relative links into ``blobs``, ``refs/<revision>`` holding the commit.
Links and refs are written after the last file is verified, so a snapshot folder that exists is
whole, and ``from_pretrained`` opens it offline. ``FolderTarget`` puts the files under their own
names and keeps its partial files in ``.moai-download``.

Also the two guards of a download: one process a repository at a time (``RepoLock``) and enough
space before the first byte (``check_space``).

Refuses to write outside the target, also through links that lie in it already.
Runs in a step's process on the container.
"""

import errno
import fcntl
import json
import os
import shutil
import stat
import threading
from typing import Any, Callable, Dict, List, Sequence

from .errors import StepError
from .hub import Plan, PlanFile
from .partfile import PART_SUFFIX, file_digest

#: Left free beside what is downloaded, so that logs and records can still be written.
RESERVE_BYTES = 256 * 1024 * 1024


def repo_folder(plan: Plan) -> str:
    """Name of a repository's folder in a Hub cache."""
    return "%ss--%s" % (plan.repo_type, plan.repo_id.replace("/", "--"))


class CacheTarget:
    """The Hub cache folder (``HF_HOME/hub``).

    Args:
        cache_dir: created if missing.

    Raises StepError HOME_NOT_WRITABLE when the folders cannot be made.
    """

    #: Nobody writes into a blob, so it may share its bytes with another cache.
    may_link = True

    def __init__(self, cache_dir: str, plan: Plan) -> None:
        self.plan = plan
        name = repo_folder(plan)
        self.root = os.path.join(os.path.abspath(cache_dir), name)
        self.lock_path = os.path.join(os.path.abspath(cache_dir), ".locks", name, "moai-download.lock")
        self.blobs = os.path.join(self.root, "blobs")
        self.snapshot = os.path.join(self.root, "snapshots", plan.commit)
        make_folders(self.blobs)

    def part_base(self, file: PlanFile) -> str:
        """Path without suffix of the partial file; the same for every run and every revision."""
        return os.path.join(self.blobs, file.etag)

    def present(self, file: PlanFile) -> bool:
        """Whether the finished file is here already (name and size; it was verified before it got
        its name)."""
        try:
            found = os.lstat(os.path.join(self.blobs, file.etag))
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == file.size_bytes

    def publish(self, file: PlanFile, part_path: str) -> None:
        """Give a verified file its final name. Raises OSError."""
        os.replace(part_path, os.path.join(self.blobs, file.etag))
        sync_folder(self.blobs)

    def finish(self) -> str:
        """Link the snapshot, write the ref, return the snapshot folder. Raises OSError."""
        for file in self.plan.files:
            link = os.path.join(self.snapshot, *file.path.split("/"))
            _refuse_escape(os.path.dirname(link), self.root)
            make_folders(os.path.dirname(link))
            blob = os.path.join(self.blobs, file.etag)
            _link(os.path.relpath(blob, os.path.dirname(link)), blob, link)
        if self.plan.revision != self.plan.commit:
            ref = os.path.join(self.root, "refs", *self.plan.revision.split("/"))
            _refuse_escape(os.path.dirname(ref), self.root)
            make_folders(os.path.dirname(ref))
            write_atomically(ref, self.plan.commit.encode("ascii"))
        sync_folder(self.root)
        return self.snapshot


class FolderTarget:
    """A plain folder: files under their own names, nothing shared between revisions.

    Args:
        folder: created if missing. Files that are not in the plan stay as they are.

    Raises StepError HOME_NOT_WRITABLE when the folders cannot be made.
    """

    may_link = False

    def __init__(self, folder: str, plan: Plan) -> None:
        self.plan = plan
        self.root = os.path.abspath(folder)
        self._own = os.path.join(self.root, ".moai-download")
        self.lock_path = os.path.join(self._own, "lock")
        self._paths: Dict[str, List[str]] = {}
        for file in plan.files:
            self._paths.setdefault(file.etag, []).append(self._final(file))
        make_folders(self._own)
        self._known = self._load_known()

    def part_base(self, file: PlanFile) -> str:
        """Path without suffix of the partial file."""
        return os.path.join(self._own, file.etag)

    def present(self, file: PlanFile) -> bool:
        """Whether this file, with this content, is here under every name it has. A file we did not
        write, or that changed since, is hashed."""
        return all(self._holds(path, file) for path in self._paths[file.etag])

    def publish(self, file: PlanFile, part_path: str) -> None:
        """Put a verified file under its name (every name, if several share the content); a
        previous file is replaced in one step. Raises OSError."""
        paths = self._paths[file.etag]
        for path in paths:
            _refuse_escape(os.path.dirname(path), self.root)
            make_folders(os.path.dirname(path))
        for path in paths[1:]:
            temporary = "%s-copy%s" % (self.part_base(file), PART_SUFFIX)
            shutil.copyfile(part_path, temporary)
            os.replace(temporary, path)
        os.replace(part_path, paths[0])
        for path in paths:
            sync_folder(os.path.dirname(path))
            self._remember(path, file)

    def finish(self) -> str:
        """Note what was written, so that a repeat need not hash it; returns the folder. Raises OSError."""
        raw = json.dumps(self._known, sort_keys=True).encode("utf-8")
        write_atomically(os.path.join(self._own, "files.json"), raw)
        return self.root

    def _final(self, file: PlanFile) -> str:
        if file.path.split("/")[0] == ".moai-download":
            raise StepError("MODEL_INVALID", "The repository holds %s; refused" % file.path, "use the cache")
        return os.path.join(self.root, *file.path.split("/"))

    def _holds(self, path: str, file: PlanFile) -> bool:
        try:
            found = os.lstat(path)
        except OSError:
            return False
        if not stat.S_ISREG(found.st_mode) or found.st_size != file.size_bytes:
            return False
        if self._known.get(path) == [file.etag, found.st_size, found.st_mtime_ns]:
            return True
        if file_digest(path, file.etag) != file.etag:
            return False
        self._remember(path, file)
        return True

    def _remember(self, path: str, file: PlanFile) -> None:
        found = os.lstat(path)
        self._known[path] = [file.etag, found.st_size, found.st_mtime_ns]

    def _load_known(self) -> Dict[str, Any]:
        try:
            with open(os.path.join(self._own, "files.json"), "rb") as stream:
                known = json.loads(stream.read().decode("utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}


class RepoLock:
    """At most one process downloads into a target at a time; a context manager.

    The kernel frees the lock when its holder dies, however it dies, so a waiting process takes over
    within ``poll_s``.

    Args:
        on_wait: called once each ``poll_s`` while another process holds the lock.
        stop: set it to give up waiting.

    Raises StepError CANCELLED when ``stop`` is set, HOME_NOT_WRITABLE when the file cannot be made.
    """

    def __init__(
        self, path: str, on_wait: Callable[[], None], stop: threading.Event, poll_s: float = 0.5
    ) -> None:
        self._path, self._on_wait, self._stop, self._poll_s = path, on_wait, stop, poll_s
        self._fd = -1

    def __enter__(self) -> "RepoLock":
        make_folders(os.path.dirname(self._path))
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self._path, flags, 0o666)
        except OSError as error:
            raise not_writable(self._path, error)
        while not self._try_lock():
            self._on_wait()
            if self._stop.wait(self._poll_s):
                self.__exit__()
                raise StepError("CANCELLED", "Stopped while another job was downloading", "")
        return self

    def __exit__(self, *_: Any) -> None:
        os.close(self._fd)

    def _try_lock(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EINTR):
                return False
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                return True  # no locks on this file system: publishing stays atomic, bytes may come twice
            raise
        return True


def check_space(folder: str, need_bytes: int, files: int, reserve_bytes: int = RESERVE_BYTES) -> None:
    """Raise StepError DISK_FULL when ``need_bytes`` plus the reserve, or ``files`` new names with
    their links, do not fit on the file system of ``folder``."""
    free_bytes = shutil.disk_usage(folder).free
    mount = mount_of(folder)
    if need_bytes and need_bytes + reserve_bytes > free_bytes:
        raise disk_full(mount, need_bytes + reserve_bytes, free_bytes)
    facts = os.statvfs(folder)
    if facts.f_files and need_bytes and facts.f_favail < 3 * files + 16:
        raise StepError(
            "DISK_FULL",
            "The download makes about %d files and links, but %s has room for %d more"
            % (3 * files + 16, mount, facts.f_favail),
            "delete files on %s, or choose a work folder on another mount" % mount,
            {"mount": mount, "need_inodes": str(3 * files + 16), "free_inodes": str(facts.f_favail)},
        )


def disk_full(mount: str, need_bytes: int, free_bytes: int) -> StepError:
    """DISK_FULL with need, have and mount."""
    return StepError(
        "DISK_FULL",
        "The download needs %s, but only %s are free on %s" % (human(need_bytes), human(free_bytes), mount),
        "free space on %s, or choose a work folder on another mount; what was fetched is kept" % mount,
        {"mount": mount, "need_bytes": str(need_bytes), "free_bytes": str(free_bytes)},
    )


def mount_of(path: str) -> str:
    """The mount point a path lies on."""
    path = os.path.realpath(path)
    while not os.path.ismount(path):
        path = os.path.dirname(path)
    return path


def human(size_bytes: float) -> str:
    """A size in decimal units, as the Hub shows them: ``132.1 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size_bytes) < 1000:
            return "%.1f %s" % (size_bytes, unit) if unit != "B" else "%d B" % size_bytes
        size_bytes /= 1000.0
    return "%.1f TB" % size_bytes


def unique_files(files: Sequence[PlanFile]) -> List[PlanFile]:
    """One file for each content: equal contents under several names are fetched once."""
    first: Dict[str, PlanFile] = {}
    for file in files:
        first.setdefault(file.etag, file)
    return list(first.values())


def make_folders(path: str) -> None:
    """Make a folder and its parents. Raises StepError HOME_NOT_WRITABLE."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise not_writable(path, error)


def write_atomically(path: str, data: bytes) -> None:
    """Replace a small file in one step: temporary file, fsync, rename, fsync of the folder."""
    temporary = "%s.%d%s" % (path, os.getpid(), PART_SUFFIX)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(temporary, path)
    sync_folder(os.path.dirname(path))


def sync_folder(path: str) -> None:
    """fsync a folder, so that its renames survive a power cut; file systems that cannot are left alone."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(fd)


def _link(relative: str, blob: str, link: str) -> None:
    if os.path.islink(link):
        if os.readlink(link) == relative:
            return
    elif os.path.isfile(link) and os.path.samefile(link, blob):
        return
    temporary = "%s.%d.link%s" % (blob, os.getpid(), PART_SUFFIX)
    if os.path.lexists(temporary):
        os.unlink(temporary)
    try:
        os.symlink(relative, temporary)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        os.link(blob, temporary)  # a file system without symbolic links
    os.replace(temporary, link)


def _refuse_escape(folder: str, root: str) -> None:
    real, inside = os.path.realpath(folder), os.path.realpath(root)
    if real != inside and not real.startswith(inside + os.sep):
        raise StepError(
            "HOME_NOT_WRITABLE",
            "%s leads out of %s; nothing was written there" % (folder, root),
            "remove the link, or choose another folder",
        )


def not_writable(path: str, error: OSError) -> StepError:
    """The failure an OSError of writing below ``path`` is: DISK_FULL or HOME_NOT_WRITABLE."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        mount = mount_of(path)
        return StepError(
            "DISK_FULL",
            "No space left on %s to write %s" % (mount, path),
            "free space on %s, or choose a work folder on another mount; what was fetched is kept" % mount,
            {"mount": mount, "path": path},
        )
    return StepError(
        "HOME_NOT_WRITABLE",
        "Cannot write %s: %s" % (path, error.strerror or type(error).__name__),
        "choose a work folder you can write to",
        {"path": path},
    )

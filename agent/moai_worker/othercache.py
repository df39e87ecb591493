"""Files of a plan that another Hub cache on this machine holds already: used instead of fetched.

Owns the search of other caches and the taking over of one file. On the same file system a file is
hard-linked, so it costs no space and outlives its first cache; otherwise a whole snapshot is read
where it is, and single files are copied. Each is hashed once before it is used: ``huggingface_hub``
does not, and a wrong file of the right length would otherwise live on.

Refuses to change, move or delete anything in a cache that is not ours: files it left unfinished are
named only. Runs in a step's process on the container.
"""

import json
import os
import stat
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from .hub import Plan
from .hubcache import make_folders, repo_folder, write_atomically
from .hubfiles import PlanFile
from .partfile import PART_SUFFIX, new_hash

_STEP_BYTES = 1024 * 1024
_MARK = ".moai-verified"


class Found(NamedTuple):
    """What another cache holds of a plan: paths by etag, and the snapshot when it is whole."""

    cache: str
    blobs: Dict[str, str]
    snapshot: Optional[str]


def search(plan: Plan, caches: Sequence[str], own: str) -> Optional[Found]:
    """The cache, other than ``own``, that holds most bytes of a plan; None when none holds any."""
    best, most = None, 0
    for cache in caches:
        if os.path.realpath(cache) == os.path.realpath(own):
            continue
        found = _look(plan, cache)
        held = sum({file.etag: file.size_bytes for file in plan.files if file.etag in found.blobs}.values())
        if held > most or (found.blobs and best is None):
            best, most = found, held
    return best


def _look(plan: Plan, cache: str) -> Found:
    root = os.path.join(cache, repo_folder(plan))
    blobs: Dict[str, str] = {}
    for file in plan.files:
        path = os.path.join(root, "blobs", file.etag)
        if _is_file(path, file.size_bytes):
            blobs[file.etag] = path
    snapshot = os.path.join(root, "snapshots", plan.commit)
    whole = all(_leads_to(os.path.join(snapshot, file.path), blobs.get(file.etag)) for file in plan.files)
    return Found(cache, blobs, snapshot if whole else None)


def same_file_system(one: str, other: str) -> bool:
    """Whether two existing paths lie on one file system (a hard link is possible)."""
    return os.stat(one).st_dev == os.stat(other).st_dev


def take(
    file: PlanFile, path: str, base: str, may_link: bool, on_bytes: Callable[[int], None]
) -> Optional[str]:
    """Bring a file of another cache beside its place, hashed; returns where, to be renamed by the
    caller. None when it is not what it should be or cannot be read.

    Args:
        base: path without suffix, as of a partial file; another name is used, because a linked file
            must never be written to.
        may_link: a hard link will do. on_bytes: called with the bytes of each piece hashed.

    Raises OSError when the target cannot be written.
    """
    temporary = "%s-taken%s" % (base, PART_SUFFIX)
    _remove(temporary)
    linked = may_link
    try:
        if may_link:
            os.link(path, temporary)
    except OSError:
        linked = False  # another file system, or the kernel protects links to files of others
    try:
        digest = _digest(path, file, None, on_bytes) if linked else _copied(path, temporary, file, on_bytes)
    except BaseException:
        _remove(temporary)
        raise
    if digest != file.etag:
        _remove(temporary)
        return None
    return temporary


def verify_in_place(plan: Plan, found: Found, own: str, on_bytes: Callable[[int], None]) -> List[str]:
    """Paths of a whole snapshot whose content is wrong; empty when all of it can be used.

    What was found right is remembered below ``own`` by size and time, so a repeat costs nothing.
    Raises OSError when that cannot be written, StepError HOME_NOT_WRITABLE.
    """
    mark = os.path.join(own, _MARK, "%s--%s.json" % (repo_folder(plan), plan.commit))
    known = _read(mark)
    wrong = []
    for file in plan.files:
        path = found.blobs[file.etag]
        facts = os.stat(path)
        state = [path, facts.st_size, facts.st_mtime_ns]
        if known.get(file.etag) == state:
            on_bytes(file.size_bytes)
        elif _digest(path, file, None, on_bytes) == file.etag:
            known[file.etag] = state
        else:
            wrong.append(path)
    make_folders(os.path.dirname(mark))
    write_atomically(mark, json.dumps(known, sort_keys=True).encode("utf-8"))
    return wrong


def unfinished(plan: Plan, caches: Sequence[str]) -> Iterator[Tuple[str, int, int]]:
    """``(folder, files, bytes)`` of what ``huggingface_hub`` left half fetched of a repository. Its
    2.x gives each try a new name, so after a kill nothing ever uses or removes them."""
    for cache in caches:
        folder = os.path.join(cache, repo_folder(plan), "blobs")
        sizes = []
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            if name.endswith(".incomplete"):
                try:
                    # What it takes on the disk: such files are sparse.
                    sizes.append(os.lstat(os.path.join(folder, name)).st_blocks * 512)
                except OSError:
                    continue  # finished or removed meanwhile
        if sizes:
            yield folder, len(sizes), sum(sizes)


def _copied(path: str, target: str, file: PlanFile, on_bytes: Callable[[int], None]) -> Optional[str]:
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        digest = _digest(path, file, fd, on_bytes)
        os.fsync(fd)
        return digest
    finally:
        os.close(fd)


def _digest(path: str, file: PlanFile, copy_to: Optional[int], on_bytes: Callable[[int], None]) -> Optional[str]:
    running = new_hash(file.etag, file.size_bytes)
    try:
        stream = open(path, "rb", buffering=0)
    except OSError:
        return None
    with stream:
        while True:
            try:
                data = stream.read(_STEP_BYTES)
            except OSError:
                return None  # it cannot be read: it is fetched instead
            if not data:
                return str(running.hexdigest())
            running.update(data)
            view = memoryview(data)
            while copy_to is not None and view:
                view = view[os.write(copy_to, view) :]
            on_bytes(len(data))


def _is_file(path: str, size_bytes: int) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == size_bytes and os.access(path, os.R_OK)


def _leads_to(path: str, blob: Optional[str]) -> bool:
    try:
        return blob is not None and os.path.samefile(path, blob)
    except OSError:
        return False


def _read(path: str) -> Dict[str, object]:
    try:
        with open(path, "rb") as stream:
            value = json.loads(stream.read().decode("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _remove(path: str) -> None:
    if os.path.lexists(path):
        os.unlink(path)

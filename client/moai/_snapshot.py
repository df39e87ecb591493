"""Code of the laptop for a job: which files, what they contain, and sending only what is missing there.

A snapshot is a list of paths and digests; a job gets a copy of its own, so that a later edit or snapshot
never changes a job that waits in a queue. Which files is git's decision (its ignore rules, also outside a
repository); secrets and version control never travel. Runs in the caller's process.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from moai_proto.v1 import file_pb2, file_pb2_grpc

from moai import _bases, _digests, _files
from moai._errors import MoaiError

if TYPE_CHECKING:
    from moai._rpc import Session

MAX_FILES = 20000
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_BYTES = 1024 * 1024 * 1024
#: More than this to send is said first.
LARGE_BYTES = 100 * 1000 * 1000
_CHUNK = 512 * 1024
_GIT_S = 60.0
_RETRIES = 3


class File(NamedTuple):
    """A file of a snapshot; a plain tuple, because there are thousands and most have not changed."""

    path: str
    sha256: str
    size_bytes: int
    executable: bool = False


@dataclass(frozen=True)
class Code:
    """A folder as it is now: files sorted by path, where each content lies, and sizes.

    ``root`` is the repository's top (else the folder itself), ``inside`` the folder below it that was
    named. ``left_out`` are names that were not taken: links, devices, secrets.
    """

    root: Path
    inside: str
    files: tuple[File, ...]
    sources: dict[str, str | bytes]
    size_bytes: int
    left_out: tuple[str, ...]


def collect(folder: Path) -> Code:
    """Read a folder. Raises MoaiError: FILE_NOT_HERE; USAGE for what is too large or cannot be named."""
    if not folder.is_dir():
        raise MoaiError("FILE_NOT_HERE", f"{folder} is no folder on the laptop", "--sync DIR, often --sync .")
    folder = folder.resolve()
    top = _git(folder, "rev-parse", "--show-toplevel")
    root = Path(os.fsdecode(top.rstrip(b"\n"))) if top else folder
    inside = folder.relative_to(root).as_posix() if folder != root else ""
    files: dict[str, File] = {}
    sources: dict[str, str | bytes] = {}
    left_out: list[str] = []
    total = 0
    # Beside the reading of files: git looks at all of them too.
    with ThreadPoolExecutor(1) as beside, _files.on_laptop():
        record = beside.submit(lambda: list(_record(root))) if top else None
        digests = _digests.Digests(root)
        skipped: dict[str, bool] = {}
        for relative in _names(root, bool(top)):
            if relative.startswith(".moai/"):
                continue  # Ours: what was recorded of another copy, and its mark of being whole.
            path = f"{root}/{relative}"
            try:
                facts = os.lstat(path)
            except FileNotFoundError:
                continue  # Deleted, but still in git's index.
            folder_name, _, name = relative.rpartition("/")
            if folder_name not in skipped:
                skipped[folder_name] = any(_files.is_skipped(part) for part in folder_name.split("/"))
            if not stat.S_ISREG(facts.st_mode) or skipped[folder_name] or _files.is_skipped(name):
                left_out.append(relative)
                continue
            total += facts.st_size
            _check(root, relative, facts.st_size, total, len(files))
            digest = digests.of(relative, path, facts)
            files[relative] = File(relative, digest, facts.st_size, bool(facts.st_mode & stat.S_IXUSR))
            sources[digest] = path
        digests.save()
    if not files:
        raise MoaiError("FILE_NOT_HERE", f"{folder} holds no file to send", f"these never travel: {', '.join(_files.SKIPPED)}, and what .gitignore names")
    if record is not None:
        for name, content in record.result():
            digest = hashlib.sha256(content).hexdigest()
            files[name] = File(name, digest, len(content))
            sources[digest] = content
            total += len(content)
    return Code(root, inside, tuple(files[name] for name in sorted(files)), sources, total, tuple(left_out))


@dataclass(frozen=True)
class Sent:
    """The snapshot's id there, and the digests that had to travel."""

    id: str
    digests: tuple[str, ...]


def send(session: Session, code: Code, work: str) -> str:
    """Register it on the container and send what is missing there; its id. Raises MoaiError.

    Says first how much that is when it is much. Where the last snapshot of this folder is remembered, only
    the difference is told. A file that changes while it is read is refused there by its digest
    (DOWNLOAD_CORRUPT).
    """

    def contents(digests: list[str], work: str) -> Iterator[file_pb2.PutContentsRequest]:
        for digest in digests:
            source = code.sources[digest]
            yield from pieces(digest, Path(source).read_bytes() if isinstance(source, str) else source, work)

    base = _bases.Base(session.host.name, work, code.root)
    sent = send_files(session, code.files, contents, work, str(code.root), lambda missing: _warn(session, code, missing), base)
    base.save(sent.id, code.files)
    return sent.id


def send_files(
    session: Session,
    files: Sequence[File],
    contents: Callable[[list[str], str], Iterator[file_pb2.PutContentsRequest]],
    work: str,
    what: str,
    before: Callable[[list[str]], None] | None = None,
    base: _bases.Base | None = None,
) -> Sent:
    """Register files and send what is missing.

    Args:
        contents: the pieces of the digests it is given. what: whose files, for an error.
        before: told the digests that are missing, before the first is sent.
        base: what was registered before, so that only the difference has to be told.
    """
    answer = _register(session, files, work, base)
    travelled = tuple(answer.missing)
    if travelled and before is not None:
        before(list(travelled))
    for _ in range(_RETRIES):
        missing = list(answer.missing)
        if not missing:
            break
        with _files.on_laptop():
            stored = session.upload(
                file_pb2_grpc.FileServiceStub, "PutContents", lambda: contents(missing, work), timeout_s=3600.0  # noqa: B023
            )
        if stored.count == len(missing):
            return Sent(str(answer.id), travelled)  # Each was compared with its digest there.
        answer = _register(session, files, work, None)
    if answer.missing:
        raise MoaiError("DOWNLOAD_CORRUPT", f"{len(answer.missing)} files of {what} did not arrive", "submit again")
    return Sent(str(answer.id), travelled)


def _register(session: Session, files: Sequence[File], work: str, base: _bases.Base | None) -> file_pb2.PlanSnapshotResponse:
    """PlanSnapshot: the difference to ``base`` where that is known there, else all files."""
    if base is not None and base.id:
        changed, gone = base.difference(files)
        answer = _plan(session, changed, file_pb2.PlanSnapshotRequest(work=work, base=base.id, gone=gone))
        # An agent that does not know the field takes the difference for all files, and does not name the base.
        if answer.id and answer.base == base.id:
            return answer
    return _plan(session, files, file_pb2.PlanSnapshotRequest(work=work))


def _plan(session: Session, files: Sequence[File], request: file_pb2.PlanSnapshotRequest) -> file_pb2.PlanSnapshotResponse:
    for file in files:
        request.files.add(path=file.path, sha256=file.sha256, size_bytes=file.size_bytes, executable=file.executable)
    answer: file_pb2.PlanSnapshotResponse = session.call(file_pb2_grpc.FileServiceStub, "PlanSnapshot", request, timeout_s=120.0)
    return answer


def pieces(digest: str, content: bytes, work: str) -> Iterator[file_pb2.PutContentsRequest]:
    """One content as messages of PutContents."""
    for start in range(0, len(content) or 1, _CHUNK):
        piece = content[start : start + _CHUNK]
        last = start + _CHUNK >= len(content)
        yield file_pb2.PutContentsRequest(sha256=digest if start == 0 else "", data=piece, last=last, work=work)


def _warn(session: Session, code: Code, missing: list[str]) -> None:
    """Much code is mostly data that nobody meant to send: say how much, and which files are the largest."""
    wanted = set(missing)
    sizes = {file.sha256: file for file in code.files if file.sha256 in wanted}
    total = sum(file.size_bytes for file in sizes.values())
    if total <= LARGE_BYTES:
        return
    largest = sorted(sizes.values(), key=lambda file: -file.size_bytes)[:3]
    named = ", ".join(f"{file.path} {file.size_bytes / 1e6:.0f} MB" for file in largest)
    session.say(f"warning: {total / 1e6:.0f} MB of code in {len(sizes)} files are sent; largest: {named}; what is data belongs into {code.root}/.gitignore")


def _check(root: Path, relative: str, size: int, total: int, count: int) -> None:
    if size > MAX_FILE_BYTES:
        raise MoaiError(
            "USAGE", f"{relative} has {size / 1e6:.0f} MB; code files have at most {MAX_FILE_BYTES / 1e6:.0f} MB",
            f"name it in {root}/.gitignore, and send data with moai remote push",
        )  # fmt: skip
    if total > MAX_BYTES or count >= MAX_FILES:
        raise MoaiError(
            "USAGE", f"{root} is too large for code: more than {MAX_FILES} files or {MAX_BYTES / 1e9:.1f} GB",
            f"name its data in {root}/.gitignore, or sync a smaller folder",
        )  # fmt: skip
    try:
        relative.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MoaiError("USAGE", f"the name of {relative!r} is not UTF-8 and cannot be sent", "rename it") from error


def _names(root: Path, is_repository: bool) -> list[str]:
    """Relative names by git's ignore rules; without git, all of the folder but SKIPPED."""
    asked = ("ls-files", "-z", "--others", "--exclude-standard")
    if is_repository:
        found = _git(root, *asked, "--cached")
    else:
        with tempfile.TemporaryDirectory(prefix="moai-") as empty:
            made = _git(root, "init", "--quiet", "--bare", empty)
            found = None if made is None else _git(root, f"--git-dir={empty}", f"--work-tree={root}", *asked)
    if found is None:
        return [path.relative_to(root).as_posix() for path in _files.tree(root)]
    return sorted({os.fsdecode(name) for name in found.split(b"\0") if name})


def _record(root: Path) -> Iterator[tuple[str, bytes]]:
    """What the copy cannot tell of itself: the commit, and how the files differ from it."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit:
        yield ".moai/commit", commit
        changes = _git(root, "diff", "--no-color", "--no-ext-diff", "HEAD", "--", ".", *(f":(exclude,glob)**/{n}" for n in _files.SKIPPED))
        if changes and len(changes) <= MAX_FILE_BYTES:
            yield ".moai/dirty.diff", changes


def _git(folder: Path, *arguments: str) -> bytes | None:
    """Output of git, or None: no git, no repository, or it failed."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=_GIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None

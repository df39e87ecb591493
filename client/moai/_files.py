"""Files between laptop and container: verified, resumed where they stopped, published by rename.

Names that come from the container are untrusted on pull: nothing is ever written outside the target.
Runs in the caller's process.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch, translate
from pathlib import Path, PurePosixPath
from typing import Any

from moai_proto.v1 import file_pb2, file_pb2_grpc

from moai._errors import HostUnreachable, MoaiError
from moai._rpc import Backoff, Session
from moai._types import FileEntry

_CHUNK = 512 * 1024
_STUB = file_pb2_grpc.FileServiceStub
_MAX_CUTS = 20
#: Tries with another newest checkpoint.
_RENEWALS = 3
_CHECKPOINT = re.compile(r"checkpoints/checkpoint-(\d+)/moai-checkpoint\.json")

#: Reports (file name, bytes of it done, its size).
Report = Callable[[str, int, int], None]

#: Never sent by push: secrets and version control.
SKIPPED = (
    ".git", ".env", ".env.*", "__pycache__", ".venv", "node_modules", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "id_*_sk",
    "*.pem", "*.ppk",
)  # fmt: skip
_SKIPPED = re.compile("|".join(f"(?:{translate(pattern)})" for pattern in SKIPPED))
#: Controls, half characters, line ends and what reorders text (UAX 9): no name written here holds them.
_REFUSED = ("Cc", "Cs", "Zl", "Zp")
_BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def listing(session: Session, path: str, digest: bool = True) -> tuple[str, bool, list[FileEntry]]:
    """(absolute path, is a file, entries) of a file or folder on the container."""
    request = file_pb2.CompareFilesRequest(path=path, digest_wanted=digest)
    answer = session.call(_STUB, "CompareFiles", request, timeout_s=600.0)
    files = [FileEntry(f.path, f.size_bytes, f.sha256, f.mode) for f in answer.files]
    return answer.root, answer.is_file, files


def pull(
    session: Session,
    path: str,
    target: Path,
    only: str = "",
    say: Report | None = None,
    left_out: list[FileEntry] | None = None,
) -> Path:
    """Copy a file or folder from the container into the folder ``target``.

    Args:
        path: on the container. only: a pattern on relative names (``*.safetensors``), or a part of a result:
            ``final`` leaves checkpoints and event files out, ``adapter`` also a merged copy, ``checkpoint`` takes
            the newest complete checkpoint alone. left_out: is filled with what of ``path`` stays there.

    Returns the copy's path. Files that are there already with the same content are not sent again.
    Raises MoaiError: FILE_NOT_FOUND, DOWNLOAD_CORRUPT, USAGE (a hostile name), LINK_LOST.
    """
    for attempt in range(_RENEWALS):
        try:
            return _pull(session, path, target, only, say, left_out)
        except MoaiError as error:
            # A training that goes on removes its oldest checkpoint: then there is a newer one.
            if error.reason != "FILE_NOT_FOUND" or only != "checkpoint" or attempt + 1 == _RENEWALS:
                raise
            newest = newest_checkpoint(listing(session, path, digest=False)[2])
            if not newest:
                raise
    raise AssertionError("unreachable")


def _pull(
    session: Session, path: str, target: Path, only: str, say: Report | None, left_out: list[FileEntry] | None
) -> Path:
    root, is_file, everything = listing(session, path, digest=not only)
    name = PurePosixPath(root).name
    _check_name(name)
    newest = newest_checkpoint(everything) if only == "checkpoint" else ""
    entries = [e for e in everything if _is_wanted(e.path, only, newest)]
    if left_out is not None:
        taken = {e.path for e in entries}
        left_out[:] = [e for e in everything if e.path not in taken]
    if not entries:
        raise MoaiError("FILE_NOT_FOUND", f"nothing in {root} fits {only!r}" if only else f"{root} holds no file", "check the path, or --only")
    if only:
        # Digests of what is wanted only: reading the checkpoints that stay there may take minutes.
        entries = _with_digests(session, root, is_file, entries, newest)
    base = target if is_file else target / name
    seen: dict[str, str] = {}
    for entry in entries:
        for part in PurePosixPath(entry.path).parts or ("",):
            _check_name(part)
        twin = seen.setdefault(unicodedata.normalize("NFC", entry.path).casefold(), entry.path)
        if twin != entry.path and not _is_case_sensitive(target):
            raise MoaiError("USAGE", f"{twin} and {entry.path} differ only in case, which this disk cannot keep", "pull one with --only")
    for entry in entries:
        remote, local = (root, entry.path) if is_file else (f"{root}/{entry.path}", f"{name}/{entry.path}")
        with on_laptop():
            _pull_one(session, remote, _inside(target, local), entry, say)
    return base / entries[0].path if is_file else base


@contextmanager
def on_laptop() -> Iterator[None]:
    """Failures of the laptop's own files as MoaiError."""
    try:
        yield
    except OSError as error:
        reason = "DISK_FULL" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "FILE_NOT_HERE"
        next_ = "free some space, then repeat it: what arrived is kept" if reason == "DISK_FULL" else "name another path here"
        raise MoaiError(reason, f"{error.filename or 'the file'} on the laptop: {error.strerror or error}", next_) from error


def newest_checkpoint(entries: Iterable[FileEntry]) -> str:
    """``checkpoints/checkpoint-N`` with the greatest N that is complete (its mark is written last); "" for none."""
    found = [_CHECKPOINT.fullmatch(entry.path) for entry in entries]
    numbers = [int(match.group(1)) for match in found if match]
    return f"checkpoints/checkpoint-{max(numbers)}" if numbers else ""


def _with_digests(session: Session, root: str, is_file: bool, entries: list[FileEntry], newest: str) -> list[FileEntry]:
    if is_file:
        return listing(session, root)[2]
    if newest:
        return [replace(e, path=f"{newest}/{e.path}") for e in listing(session, f"{root}/{newest}")[2]]
    complete = []
    for entry in entries:
        [found] = listing(session, f"{root}/{entry.path}")[2]
        complete.append(replace(found, path=entry.path))
    return complete


def _is_wanted(path: str, only: str, newest: str = "") -> bool:
    top, inside, _ = path.partition("/")
    if not only:
        return True
    if only in ("final", "adapter"):
        aside = top.startswith("checkpoints") or top == "tensorboard" or ".partial-" in top or (only == "adapter" and top == "merged")
        return not (inside and aside)
    if only == "checkpoint":
        return bool(newest) and path.startswith(newest + "/")
    return fnmatch(path, only) or fnmatch(PurePosixPath(path).name, only)


def _check_name(name: str) -> None:
    hostile = not name or name in (".", "..") or any(c in "/" + _BIDI or unicodedata.category(c) in _REFUSED for c in name)
    if hostile or len(os.fsencode(name)) > 255:
        raise MoaiError("USAGE", f"the container names a file {name!r}, which is not written here", "rename it there, or leave it out with --only")


def _is_case_sensitive(folder: Path) -> bool:
    folder = folder.absolute()
    with on_laptop():
        folder.mkdir(parents=True, exist_ok=True)
    return not (folder / folder.name.swapcase()).exists() or folder.name == folder.name.swapcase()


def _inside(base: Path, relative: str) -> Path:
    """The path below ``base``; no part on the way may be a link that leads out."""
    path = base
    for part in PurePosixPath(relative).parts[:-1]:
        path = path / part
        if path.is_symlink():
            raise MoaiError("USAGE", f"{path} is a link; nothing is written through it", f"rm {path}")
    return path / PurePosixPath(relative).name


def _pull_one(session: Session, remote: str, local: Path, entry: FileEntry, say: Report | None) -> None:
    local.parent.mkdir(parents=True, exist_ok=True)
    if local.is_symlink() or (local.exists() and not local.is_file()):
        raise MoaiError("USAGE", f"{local} is there and is not a file", f"rm {local}")
    if local.exists() and local.stat().st_size == entry.size_bytes and file_digest(local) == entry.sha256:
        if say:
            say(entry.path, entry.size_bytes, entry.size_bytes)
        return
    # Cut: the name itself may be as long as a name can be.
    part = local.with_name(f".{local.name[:40]}.{entry.sha256[:12]}.part")
    digest, done = hashlib.sha256(), 0
    if part.is_symlink():
        part.unlink()
    with open(part, "ab+") as out:
        out.seek(0)
        while block := out.read(1024 * 1024):
            digest.update(block)
            done += len(block)
        backoff, cuts = Backoff(), 0
        while done < entry.size_bytes:
            try:
                for answer in session.stream(_STUB, "GetFiles", file_pb2.GetFilesRequest(path=remote, offset=done)):
                    # Not more than was announced: a log that grows is as it was when it was listed.
                    data = answer.data[: entry.size_bytes - done]
                    out.write(data)
                    digest.update(data)
                    done += len(data)
                    backoff.tries = cuts = 0
                    if say:
                        say(entry.path, done, entry.size_bytes)
                    if done >= entry.size_bytes:
                        break
                if done < entry.size_bytes:
                    break  # The file became shorter: the digest tells.
            except HostUnreachable as error:
                cuts += 1
                if cuts > _MAX_CUTS or error.reason not in ("LINK_LOST", "HOST_UNREACHABLE"):
                    raise
                time.sleep(backoff.next_s())
        out.flush()
        os.fsync(out.fileno())
    if digest.hexdigest() != entry.sha256:
        part.unlink()
        raise MoaiError("DOWNLOAD_CORRUPT", f"{remote} changed while it was copied, or arrived altered", "pull it again")
    os.chmod(part, (entry.mode or 0o600) & 0o755 | 0o600)
    os.replace(part, local)
    if say:
        say(entry.path, done, entry.size_bytes)


def push(session: Session, local: Path, target: str = "", say: Report | None = None) -> str:
    """Copy a file or folder to the container.

    Args:
        target: where on the container, made if missing. A file goes into a folder that is there or ends
            with ``/``; a folder becomes ``target`` itself, or ``target/NAME`` when that ends with ``/``.
            Empty: a content-addressed place in the work folder (files only).

    Returns the absolute path there. What is there with the same content is not sent again. Links, devices
    and the names in SKIPPED are left out.
    Raises MoaiError: FILE_NOT_HERE, USAGE, DISK_FULL, HOME_NOT_WRITABLE, DOWNLOAD_CORRUPT, LINK_LOST.
    """
    if local.is_file():
        where = target + local.name if target.endswith("/") else target
        with on_laptop():
            try:
                return _push_one(session, local, where, local.name, "", None, file_digest(local))
            except MoaiError as error:
                if error.reason not in ("FILE_NOT_FOUND", "BUNDLE_CORRUPT"):  # The second: agents before this question.
                    raise
            return _push_one(session, local, where, local.name, local.name, say)
    if not local.is_dir():
        raise MoaiError("FILE_NOT_HERE", f"{local} does not exist on the laptop", "check the path")
    base = (target + local.resolve().name) if target.endswith("/") else (target or local.resolve().name)
    paths = list(tree(local))
    if not paths:
        raise MoaiError("FILE_NOT_HERE", f"{local} holds no file to send", f"these are never sent: {', '.join(SKIPPED)}")
    root, there = _known(session, base)
    folders = {str(folder) for entry in there for folder in PurePosixPath(entry).parents}
    for path in paths:
        relative = path.relative_to(local).as_posix()
        if relative in folders:
            raise MoaiError("USAGE", f"{root}/{relative} is a folder there and a file here", "name another place there")
        with on_laptop():
            if _is_same(path, there.get(relative)):
                continue
            root = _push_one(session, path, f"{base}/{relative}", "", relative, say)[: -len(relative) - 1]
    return root


def _known(session: Session, base: str) -> tuple[str, dict[str, FileEntry]]:
    """What is there already: absolute path and files by relative name; nothing when it cannot be listed."""
    try:
        root, is_file, entries = listing(session, base)
    except MoaiError as error:
        if error.reason in ("FILE_NOT_FOUND", "USAGE"):
            return base, {}
        raise
    if is_file:
        raise MoaiError("USAGE", f"{root} is a file there and a folder here", "name another place there")
    return root, {entry.path: entry for entry in entries}


def _is_same(path: Path, known: FileEntry | None) -> bool:
    facts = path.stat()
    if known is None or known.size_bytes != facts.st_size or (known.mode ^ facts.st_mode) & stat.S_IXUSR:
        return False
    return known.sha256 == file_digest(path)


def tree(folder: Path) -> Iterator[Path]:
    """Regular files below a folder, sorted, without links and SKIPPED names."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not is_skipped(f) and not os.path.islink(os.path.join(parent, f)))
        for name in sorted(names):
            path = Path(parent) / name
            if not is_skipped(name) and stat.S_ISREG(path.lstat().st_mode):
                yield path


def _check_sendable(path: Path) -> None:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise MoaiError("USAGE", f"the name of {str(path)!r} is not UTF-8 and cannot be sent", "rename it") from error


def is_skipped(name: str) -> bool:
    """Whether a name never travels."""
    return _SKIPPED.match(name) is not None


def _push_one(session: Session, local: Path, target: str, name: str, shown: str, say: Report | None, sha256: str = "") -> str:
    """Send one file; with ``sha256`` only ask for its path, FILE_NOT_FOUND if it is not there yet.

    Args:
        name: below ``target`` if that is a folder there; empty: a folder is an error. shown: for ``say``.
    """
    _check_sendable(local)
    with open(local, "rb") as source:
        facts = os.fstat(source.fileno())

        def requests() -> Iterator[Any]:
            digest, done = hashlib.sha256(), 0
            yield file_pb2.PutFilesRequest(
                path=target, name=name, size_bytes=facts.st_size, mode=facts.st_mode & 0o777, sha256=sha256
            )
            if sha256:
                return
            source.seek(0)
            while block := source.read(_CHUNK):
                digest.update(block)
                done += len(block)
                if say:
                    say(shown, done, facts.st_size)
                yield file_pb2.PutFilesRequest(data=block)
            yield file_pb2.PutFilesRequest(sha256=digest.hexdigest())

        answer = session.upload(_STUB, "PutFiles", requests, timeout_s=24 * 3600.0)
    return str(answer.path)


def file_digest(path: Path | str) -> str:
    """Hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as source:
        while block := source.read(1024 * 1024):
            digest.update(block)
    return digest.hexdigest()

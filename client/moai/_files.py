"""Files between laptop and container: verified, resumed where they stopped, published by rename.

Names that come from the container are untrusted on pull: nothing is ever written outside the target.
Runs in the caller's process.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from moai_proto.v1 import file_pb2, file_pb2_grpc

from moai._errors import LinkLost, MoaiError
from moai._rpc import Backoff, Session
from moai._types import FileEntry

_CHUNK = 512 * 1024
_STUB = file_pb2_grpc.FileServiceStub
_MAX_CUTS = 20

#: Reports (file name, bytes of it done, its size).
Report = Callable[[str, int, int], None]

#: Never sent by push: secrets and version control.
SKIPPED = (".git", ".env", "__pycache__", ".venv", "node_modules", "id_rsa", "id_ed25519", "*.pem")


def listing(session: Session, path: str, digest: bool = True) -> tuple[str, bool, list[FileEntry]]:
    """(absolute path, is a file, entries) of a file or folder on the container."""
    request = file_pb2.CompareFilesRequest(path=path, digest_wanted=digest)
    answer = session.call(_STUB, "CompareFiles", request, timeout_s=600.0)
    files = [FileEntry(f.path, f.size_bytes, f.sha256, f.mode) for f in answer.files]
    return answer.root, answer.is_file, files


def pull(session: Session, path: str, target: Path, only: str = "", say: Report | None = None) -> Path:
    """Copy a file or folder from the container into the folder ``target``.

    Args:
        path: on the container. only: a pattern on relative names (``*.safetensors``), or ``final`` to
            leave checkpoints out.

    Returns the copy's path. Files that are there already with the same content are not sent again.
    Raises MoaiError: FILE_NOT_FOUND, DOWNLOAD_CORRUPT, USAGE (a hostile name), LINK_LOST.
    """
    root, is_file, entries = listing(session, path)
    name = PurePosixPath(root).name
    _check_name(name)
    entries = [e for e in entries if _is_wanted(e.path, only)]
    if not entries:
        raise MoaiError("FILE_NOT_FOUND", f"nothing in {root} fits {only!r}" if only else f"{root} holds no file", "")
    base = target if is_file else target / name
    seen: dict[str, str] = {}
    for entry in entries:
        for part in PurePosixPath(entry.path).parts:
            _check_name(part)
        twin = seen.setdefault(entry.path.casefold(), entry.path)
        if twin != entry.path and not _is_case_sensitive(target):
            raise MoaiError("USAGE", f"{twin} and {entry.path} differ only in case, which this disk cannot keep", "pull one with --only")
    for entry in entries:
        remote = root if is_file else f"{root}/{entry.path}"
        _pull_one(session, remote, _inside(base, entry.path), entry, say)
    return base / entries[0].path if is_file else base


def _is_wanted(path: str, only: str) -> bool:
    if not only:
        return True
    if only == "final":
        return not path.startswith("checkpoints/")
    return fnmatch(path, only) or fnmatch(PurePosixPath(path).name, only)


def _check_name(name: str) -> None:
    hostile = not name or name in (".", "..") or "/" in name or "\0" in name or any(not c.isprintable() for c in name)
    if hostile or len(os.fsencode(name)) > 255:
        raise MoaiError("USAGE", f"the container names a file {name!r}, which is not written here", "")


def _is_case_sensitive(folder: Path) -> bool:
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
    if local.exists() and local.stat().st_size == entry.size_bytes and _sha256(local) == entry.sha256:
        if say:
            say(entry.path, entry.size_bytes, entry.size_bytes)
        return
    part = local.with_name(f".{local.name}.{entry.sha256[:12]}.part")
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
                    out.write(answer.data)
                    digest.update(answer.data)
                    done += len(answer.data)
                    backoff.tries = 0
                    if say:
                        say(entry.path, done, entry.size_bytes)
                if done < entry.size_bytes:
                    break  # The file became shorter: the digest tells.
            except LinkLost:
                cuts += 1
                if cuts > _MAX_CUTS:
                    raise
                import time

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
        target: where on the container; a folder ends with ``/`` or takes the same name. Empty: a
            content-addressed place in the work folder (files only).

    Returns the absolute path there. Links, devices and the names in SKIPPED are left out.
    Raises MoaiError: FILE_NOT_HERE, DISK_FULL, HOME_NOT_WRITABLE, LINK_LOST.
    """
    if local.is_file():
        where = target + local.name if target.endswith("/") else target
        return _push_one(session, local, where, local.name, say)
    if not local.is_dir():
        raise MoaiError("FILE_NOT_HERE", f"{local} does not exist on the laptop", "")
    base = (target + local.resolve().name) if target.endswith("/") else (target or local.resolve().name)
    there = _known(session, base)
    last = ""
    for path in _tree(local):
        relative = path.relative_to(local).as_posix()
        known = there.get(relative)
        if known and known.size_bytes == path.stat().st_size and known.sha256 == _sha256(path):
            continue
        last = _push_one(session, path, f"{base}/{relative}", relative, say)
        last = last[: -len(relative) - 1]
    return last or base


def _known(session: Session, base: str) -> dict[str, FileEntry]:
    try:
        return {entry.path: entry for entry in listing(session, base)[2]}
    except MoaiError as error:
        if error.reason == "FILE_NOT_FOUND":
            return {}
        raise


def _tree(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not _is_skipped(f) and not os.path.islink(os.path.join(parent, f)))
        for name in sorted(names):
            path = Path(parent) / name
            if not _is_skipped(name) and stat.S_ISREG(path.lstat().st_mode):
                yield path


def _is_skipped(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in SKIPPED)


def _push_one(session: Session, local: Path, target: str, name: str, say: Report | None) -> str:
    size = local.stat().st_size

    def requests() -> Iterator[Any]:
        digest, done = hashlib.sha256(), 0
        first = file_pb2.PutFilesRequest(
            path=target, name="" if target else local.name, size_bytes=size, mode=local.stat().st_mode & 0o777
        )
        yield first
        with open(local, "rb") as source:
            while block := source.read(_CHUNK):
                digest.update(block)
                done += len(block)
                if say:
                    say(name, done, size)
                yield file_pb2.PutFilesRequest(data=block)
        yield file_pb2.PutFilesRequest(sha256=digest.hexdigest())

    answer = session.upload(_STUB, "PutFiles", requests, timeout_s=24 * 3600.0)
    return str(answer.path)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as source:
        while block := source.read(1024 * 1024):
            digest.update(block)
    return digest.hexdigest()

"""The laptop's cache folder: one builder at a time, whole files or none.

Owns locking and atomic writes below ``MOAI_CACHE``. A lock is ``flock`` on a file that is never
removed (removing it would let two holders in); the kernel frees it when its holder dies. Runs on the
laptop, in any number of processes at once. Refuses nothing; turns file-system errors into reasons.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from moai._errors import MoaiError


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, waiting for whoever holds it.

    Args:
        path: the lock file; made (with its folder) when missing, never removed.

    Raises:
        OSError: the file cannot be made or locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one, the whole new one, or none.

    Args:
        path: the file, in a folder that exists; only the owner may read it.
        data: its content.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn an `OSError` of the block into a reason a person can act on.

    Args:
        what: what was being done, for the message, for example ``"keep the agent's bundle"``.

    Raises:
        MoaiError: DISK_FULL or BUNDLE_UNAVAILABLE.
    """
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        message = f"Could not {what}: {error.strerror or error}{where}."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MoaiError(
                "DISK_FULL", message, "Free space there, or point MOAI_CACHE elsewhere."
            ) from error
        raise MoaiError(
            "BUNDLE_UNAVAILABLE", message, "Point MOAI_CACHE to a local folder you can write to."
        ) from error

"""The bundle's file format: a gzip-compressed ustar archive with one possible form for given contents.

Owns writing it (sorted, no folders, no times, no owners) and reading it back from strangers. Reading is
strict: the only accepted archive is, byte for byte before compression, the one `encode` would write for
the files found in it, which leaves no room for links, devices, odd modes, duplicate names, extended
headers or trailing data. Refuses names outside the three folders of a bundle, and sizes far beyond a
real one before they are in memory. Runs on the laptop. ustar: POSIX.1-2017, pax, "ustar Interchange
Format".
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from moai._errors import MoaiError

MANIFEST = "manifest.json"
# A real bundle is 7 MB, 17 MB unpacked, 300 files.
MAX_ARCHIVE_BYTES = 64 * 2**20
MAX_UNPACKED_BYTES = 128 * 2**20
# Measured on the 3.8 bundle: level 1 6.9 MB in 0.25 s, 5 6.3 MB in 0.4 s, 6 6.3 MB in 0.7 s, 9 6.2 MB in
# 1.9 s. The 1 % between 5 and 6 is 6 ms of a 10 MB/s link; the 10 % to level 1 is 60 ms for every host.
GZIP_LEVEL = 5

_BLOCK = 512
_NAME = re.compile(r"manifest\.json|(agent|lib|worker)(/[A-Za-z0-9_+-][A-Za-z0-9_.+-]*)+")
_PROGRAM = re.compile(r"worker/[a-z_]+\.py|.*\.so(\.[0-9.]+)?")


def encode(files: Mapping[str, bytes]) -> bytes:
    """Write an archive.

    Args:
        files: content by path in the archive.

    Returns:
        The archive's bytes; the same for the same files and the same zlib.

    Raises:
        MoaiError: INTERNAL when a path is not one a bundle may hold.
    """
    return gzip.compress(_tar(files), GZIP_LEVEL, mtime=0)


def decode(path: Path) -> dict[str, bytes]:
    """Read an archive that may be hostile.

    Returns:
        Content by path.

    Raises:
        MoaiError: BUNDLE_CORRUPT when it is not an archive `encode` could have written.
        OSError: the file cannot be read.
    """
    if path.exists() and not path.is_file():
        raise _refused(path, "it is not a plain file")
    if path.stat().st_size > MAX_ARCHIVE_BYTES:
        raise _refused(path, f"it is larger than {MAX_ARCHIVE_BYTES >> 20} MiB")
    data = path.read_bytes()
    unzip = zlib.decompressobj(wbits=31)
    try:
        plain = unzip.decompress(data, MAX_UNPACKED_BYTES)
    except zlib.error as error:
        raise _refused(path, f"it is not a gzip file: {error}") from error
    if unzip.unconsumed_tail:
        raise _refused(path, f"it unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB")
    if not unzip.eof or unzip.unused_data:
        raise _refused(path, "it is cut short" if not unzip.eof else "there is data after its end")
    files = _members(path, plain)
    if _tar(files) != plain:
        raise _refused(path, "it was not written by `moai bundle build`")
    return files


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            if not _NAME.fullmatch(name):
                raise MoaiError("INTERNAL", f"{name!r} is no path for a bundle.")
            info = tarfile.TarInfo(name)
            info.size = len(files[name])
            info.mode = 0o755 if _PROGRAM.fullmatch(name) else 0o644
            archive.addfile(info, io.BytesIO(files[name]))
    return buffer.getvalue()


def _members(path: Path, plain: bytes) -> dict[str, bytes]:
    """Read plain files' headers one by one; no other kind of entry is interpreted."""
    files: dict[str, bytes] = {}
    position = 0
    while plain[position : position + _BLOCK].strip(b"\0"):
        try:
            info = tarfile.TarInfo.frombuf(plain[position : position + _BLOCK], "ascii", "backslashreplace")
        except tarfile.HeaderError as error:
            raise _refused(path, f"an entry cannot be read: {error}") from error
        if info.type != tarfile.REGTYPE:
            raise _refused(path, f"{info.name!r} is not a plain file")
        if not _NAME.fullmatch(info.name):
            raise _refused(path, f"{info.name!r} is outside a bundle's folders")
        position += _BLOCK
        if info.size < 0 or position + info.size > len(plain):
            raise _refused(path, f"{info.name!r} is cut short")
        files[info.name] = plain[position : position + info.size]
        position += -(-info.size // _BLOCK) * _BLOCK
    return files


def _refused(path: Path, why: str) -> MoaiError:
    return MoaiError(
        "BUNDLE_CORRUPT",
        f"{path} is not an agent bundle: {why}. Nothing of it was used.",
        "Make it again with `moai bundle build` and copy it in binary mode.",
    )

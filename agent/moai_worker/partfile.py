"""A file that is only partly here: which ranges are on disk, and what they hash to so far.

Owns two files beside the final name: ``<etag>.moai-part`` (the bytes, each at its final offset,
holes sparse) and ``<etag>.ranges.moai-part`` (JSON: which ranges are safely on disk and which
version of the file they belong to). Neither is ever taken for a finished file.

Order of writing: bytes, fdatasync, then the sidecar (temporary name, fsync, rename). So the sidecar
never claims bytes that are not there, whatever kills the process or the machine; what is lost is
at most the bytes since the last ``persist`` of the file.

The hash covers the contiguous prefix and grows with it, reading back what was written, so that a
finished file needs no second pass. Its state is not stored: after a restart the prefix is hashed
again, which also finds bytes that went bad on disk meanwhile.

Refuses writes of an older generation (see ``restart``), so two versions of a file never mix.
Runs in a step's process on the container; every method may be called from several threads.
"""

import hashlib
import json
import os
import threading
import time
from typing import Any, List, Optional, Tuple

#: Bytes hashed between two looks at the generation.
_HASH_STEP_BYTES = 1024 * 1024
PART_SUFFIX = ".moai-part"
SIDECAR_SUFFIX = ".ranges.moai-part"

Range = Tuple[int, int]


class StaleWrite(Exception):
    """The file was started again meanwhile; the bytes belong to a version nobody wants."""


class DiskError(Exception):
    """The disk refused a write or read; ``error`` is the OSError."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def add_range(ranges: List[Range], start: int, end: int) -> List[Range]:
    """Ranges (half open, sorted, disjoint) with one more merged in."""
    merged: List[Range] = []
    for low, high in sorted(ranges + [(start, end)]):
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged


def missing_ranges(ranges: List[Range], size_bytes: int, longest_bytes: int) -> List[Range]:
    """What of ``[0, size_bytes)`` is not covered, in pieces of at most ``longest_bytes``."""
    gaps, at = [], 0
    for low, high in ranges + [(size_bytes, size_bytes)]:
        while at < low:
            end = min(low, at + longest_bytes)
            gaps.append((at, end))
            at = end
        at = max(at, high)
    return gaps


class PartFile:
    """One partial file of known size and digest.

    Args:
        base: path without suffix; its folder must exist when bytes are written.
        etag: git blob SHA-1 (40 hex digits) or SHA-256 (64) of the whole content.
        persist_bytes, persist_s: ``wants_persist`` turns true after so many bytes not yet in the sidecar,
            or so many seconds after it was written, whichever comes first.
    """

    def __init__(
        self, base: str, size_bytes: int, etag: str, persist_bytes: int = 16 * 1024 * 1024, persist_s: float = 5.0
    ) -> None:
        self.path = base + PART_SUFFIX
        self.sidecar_path = base + SIDECAR_SUFFIX
        self.size_bytes = size_bytes
        self.etag = etag
        self.persist_bytes = persist_bytes
        self.persist_s = persist_s
        self.generation = 0
        self.validator = ""  # the ETag of the answers the bytes came from; empty while unknown
        self._ranges: List[Range] = []
        self._unpersisted_bytes = 0
        self._kept_bytes = 0
        self._persisted_s = time.monotonic()
        self._fd = -1
        self._lock = threading.Lock()
        self._persist_lock = threading.Lock()
        self._hash_lock = threading.Lock()
        self._hash: Any = None
        self._hashed_bytes = 0
        self._hash_generation = -1

    def load(self) -> int:
        """Take over what an earlier run left; returns the bytes already here. A sidecar that does
        not fit the file (other size or digest, bytes missing, not JSON) counts as nothing."""
        try:
            with open(self.sidecar_path, "rb") as stream:
                state = json.loads(stream.read(4 * 1024 * 1024).decode("utf-8"))
            here_bytes = os.stat(self.path).st_size
            ranges = [(int(low), int(high)) for low, high in state["ranges"]]
            usable = (state["version"], state["size"], state["etag"]) == (1, self.size_bytes, self.etag)
            validator = str(state["validator"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        limit = min(here_bytes, self.size_bytes)
        if not usable or any(not 0 <= low < high <= limit for low, high in ranges):
            return 0
        with self._lock:
            for low, high in ranges:
                self._ranges = add_range(self._ranges, low, high)
            self.validator = validator
            self._kept_bytes = _covered(self._ranges)
            return self._kept_bytes

    def done_bytes(self) -> int:
        """Bytes written so far, persisted or not."""
        with self._lock:
            return _covered(self._ranges)

    def kept_bytes(self) -> int:
        """Bytes that a kill now would leave: what people are shown, so that it never goes back."""
        with self._lock:
            return self._kept_bytes

    def missing(self, longest_bytes: int) -> List[Range]:
        """Ranges still to fetch, in order."""
        with self._lock:
            return missing_ranges(self._ranges, self.size_bytes, longest_bytes)

    def complete(self) -> bool:
        """Whether every byte is there (not whether it is right: see ``digest``)."""
        return self.done_bytes() == self.size_bytes

    def accept(self, generation: int, validator: str) -> bool:
        """Bind the bytes to the ETag of their answer. False when the bytes here came with another
        one; an answer without ETag fits everything. Raises StaleWrite for an old generation."""
        with self._lock:
            if generation != self.generation:
                raise StaleWrite()
            if not self.validator or not self._ranges:
                self.validator = validator or self.validator
            return not validator or validator == self.validator

    def write(self, generation: int, offset: int, data: bytes) -> None:
        """Put bytes at their offset. Raises StaleWrite or DiskError."""
        # Under the lock, so that no byte of an old version can land after a restart.
        with self._lock:
            if generation != self.generation:
                raise StaleWrite()
            try:
                self._open()
                view = memoryview(data)
                at = offset
                while view:
                    wrote = os.pwrite(self._fd, view, at)
                    view, at = view[wrote:], at + wrote
            except OSError as error:
                raise DiskError(error)
            self._ranges = add_range(self._ranges, offset, offset + len(data))
            self._unpersisted_bytes += len(data)

    def wants_persist(self) -> bool:
        """Whether more than ``persist_bytes``, or any bytes older than ``persist_s``, would be lost by a
        kill now."""
        if not self._unpersisted_bytes:
            return False
        return self._unpersisted_bytes >= self.persist_bytes or time.monotonic() - self._persisted_s >= self.persist_s

    def persist(self) -> None:
        """Make what was written so far survive a kill or a power cut. Raises DiskError."""
        with self._persist_lock:
            with self._lock:
                if self._fd < 0 or not self._unpersisted_bytes:
                    return
                ranges, fd = list(self._ranges), os.dup(self._fd)
                taken_bytes, generation, validator = self._unpersisted_bytes, self.generation, self.validator
            try:
                try:
                    os.fdatasync(fd)
                finally:
                    os.close(fd)
                self._write_sidecar(ranges, validator)
            except OSError as error:
                raise DiskError(error)
            with self._lock:
                self._persisted_s = time.monotonic()
                if generation == self.generation:
                    self._unpersisted_bytes -= taken_bytes
                    self._kept_bytes = _covered(ranges)

    def restart(self, generation: int) -> int:
        """Forget every byte, because they belong to another version or are wrong.

        Returns the new generation; when ``generation`` is already old, nothing happens and the
        current one is returned. Raises DiskError.
        """
        with self._persist_lock, self._lock:
            if generation != self.generation:
                return self.generation
            self.generation += 1
            self._ranges, self.validator, self._unpersisted_bytes, self._kept_bytes = [], "", 0, 0
            self._close()
            self._remove()
            return self.generation

    def hash_some(self, limit_bytes: int, wait: bool = False) -> None:
        """Hash on from where the hash stands, up to the end of the contiguous prefix or
        ``limit_bytes``. Does nothing while another thread hashes, unless ``wait``."""
        if not self._hash_lock.acquire(blocking=wait):
            return
        try:
            with self._lock:
                generation = self.generation
                end = self._ranges[0][1] if self._ranges and self._ranges[0][0] == 0 else 0
            if self._hash_generation != generation or self._hash is None:
                self._hash, self._hashed_bytes = new_hash(self.etag, self.size_bytes), 0
                self._hash_generation = generation
            end = min(end, self._hashed_bytes + limit_bytes)
            while self._hashed_bytes < end:
                with self._lock:
                    if generation != self.generation:
                        return
                    try:
                        self._open()
                        fd = os.dup(self._fd)
                    except OSError as error:
                        raise DiskError(error)
                try:
                    data = os.pread(fd, min(_HASH_STEP_BYTES, end - self._hashed_bytes), self._hashed_bytes)
                except OSError as error:
                    raise DiskError(error)
                finally:
                    os.close(fd)
                if not data:
                    return
                self._hash.update(data)
                self._hashed_bytes += len(data)
        finally:
            self._hash_lock.release()

    def digest(self) -> str:
        """Hash what is left and return the digest of the whole file, in hex (empty when bytes are
        missing). Compare with ``etag``. Raises DiskError."""
        self.hash_some(self.size_bytes + 1, wait=True)
        with self._hash_lock:
            if self._hash_generation != self.generation or self._hashed_bytes != self.size_bytes:
                return ""
            return self._hash.hexdigest()

    def finish(self) -> None:
        """Flush the complete file to disk and close it; it is then ready to be renamed. Raises DiskError."""
        with self._persist_lock, self._lock:
            try:
                self._open()  # a file of no bytes was never written to
                os.ftruncate(self._fd, self.size_bytes)
                os.fsync(self._fd)
            except OSError as error:
                raise DiskError(error)
            self._close()

    def forget_sidecar(self) -> None:
        """After the rename: the sidecar has nothing left to describe."""
        try:
            os.unlink(self.sidecar_path)
        except FileNotFoundError:
            return

    def discard(self) -> None:
        """Remove what an earlier run left: the file came another way. Raises OSError."""
        for path in (self.sidecar_path, self.path):
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue

    def close(self) -> None:
        """Persist and close, keeping the partial file for a later run. Raises DiskError."""
        self.persist()
        with self._persist_lock, self._lock:
            self._close()

    def _open(self) -> None:
        if self._fd < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self.path, flags, 0o666)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _remove(self) -> None:
        for path in (self.sidecar_path, self.path):
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise DiskError(error)

    def _write_sidecar(self, ranges: List[Range], validator: str) -> None:
        state = {
            "version": 1,
            "size": self.size_bytes,
            "etag": self.etag,
            "validator": validator,
            "ranges": ranges,
        }
        temporary = self.sidecar_path + ".tmp" + PART_SUFFIX
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            os.write(fd, json.dumps(state).encode("utf-8"))
            os.fsync(fd)
        finally:
            os.close(fd)
        # No fsync of the folder: if the rename is lost, the older sidecar is still true.
        os.replace(temporary, self.sidecar_path)


def new_hash(etag: str, size_bytes: int) -> Any:
    """A running hash whose hex digest is ``etag`` for the right content: SHA-256 for 64 digits,
    else git's blob id, SHA-1 over ``blob <size>\\0`` and the content (gitformat-pack, git-hash-object)."""
    if len(etag) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size_bytes)


def file_digest(path: str, etag: str) -> Optional[str]:
    """Digest of a file of the kind ``etag`` is; None when it cannot be read."""
    try:
        with open(path, "rb") as stream:
            running = new_hash(etag, os.fstat(stream.fileno()).st_size)
            for data in iter(lambda: stream.read(_HASH_STEP_BYTES), b""):
                running.update(data)
    except OSError:
        return None
    return running.hexdigest()


def _covered(ranges: List[Range]) -> int:
    return sum(high - low for low, high in ranges)

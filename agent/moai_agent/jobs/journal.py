"""The journal of one job: ``events.jsonl``, written by this agent only.

Owns appending, recovery after a kill, and reading from a sequence. Each event that comes from a file
(``log``, ``reports``) carries that source and the offset after what caused it, so a new agent goes on
exactly where the last line stops. Appends are single writes to the page cache, which survive the
death of the agent; fdatasync follows at cursors and at the end, because after a power cut the same
events can be derived again from the same files.
"""

import errno
import fcntl
import os
from typing import Any, BinaryIO, Dict, Iterator, List, Optional, Tuple

from moai_worker import records

#: The last cursor line lies within this many bytes of the end (follower writes one every 1 MiB).
_TAIL_BYTES = 4 * 1024 * 1024
#: So much is read line by line.
_NEAR_BYTES = 256 * 1024


class Recovered:
    """What a journal told about the past.

    Attributes:
        last: greatest sequence. view: the folded view. cursor: the last cursor record or {}.
        skip: source -> (end, count): events of the source up to offset ``end`` are journalled, and
        ``count`` of them end exactly there.
    """

    def __init__(self) -> None:
        self.last = 0
        self.view: Optional[Dict[str, Any]] = None
        self.cursor: Dict[str, Any] = {}
        self.skip: Dict[str, Tuple[int, int]] = {}


class Journal:
    """Append side; one per job and agent. Raises BlockingIOError when another process writes it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise
        self.size = os.fstat(self._fd).st_size

    def close(self) -> None:
        """Release the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def recover(self, fresh_view: Dict[str, Any]) -> Recovered:
        """Read the tail, drop a torn last line, fold what is there over ``fresh_view``."""
        start = max(0, self.size - _TAIL_BYTES)
        data = os.pread(self._fd, self.size - start, start)
        if start:
            border = data.find(b"\n") + 1
            start, data = start + border, data[border:]
        found = Recovered()
        found.view = fresh_view
        good = 0
        for good, record in records.scan(data):
            cursor = record.get("cursor")
            if cursor is not None:
                found.cursor, found.skip = cursor, {}
                found.last = cursor.get("q", found.last)
                if cursor.get("view"):
                    found.view.update(cursor["view"])
                continue
            found.last = record["q"]
            records.fold(found.view, record)
            source, end = record.get("src"), record.get("end")
            if source:
                old_end, count = found.skip.get(source, (-1, 0))
                found.skip[source] = (end, count + 1 if end == old_end else 1)
        if start + good < self.size:
            os.ftruncate(self._fd, start + good)
            self.size = start + good
        return found

    def append(self, items: List[Dict[str, Any]]) -> bool:
        """Write the records as one block; False (and nothing written) while the disk is full."""
        block = b"".join(records.encode(item) for item in items)
        done = 0
        try:
            while done < len(block):
                done += os.pwrite(self._fd, block[done:], self.size + done)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            os.ftruncate(self._fd, self.size)
            return False
        self.size += done
        return True

    def sync(self) -> None:
        """Make what was appended durable."""
        os.fdatasync(self._fd)


class JournalReader:
    """Reads events after a sequence from the file, as far as it goes; call again for more."""

    def __init__(self, path: str, after: int) -> None:
        self._path = path
        self._after = after
        self._offset = -1

    def read(self, limit: int = 500) -> Iterator[Dict[str, Any]]:
        """At most ``limit`` further events, in order; ends at the present end of the file."""
        count = 0
        try:
            source = open(self._path, "rb")
        except FileNotFoundError:
            return
        with source:
            if self._offset < 0:
                self._offset = self._begin(source)
            size = _NEAR_BYTES
            while count < limit:
                begin = self._offset
                source.seek(begin)
                block = source.read(size)
                start = 0
                while count < limit:
                    stop = block.find(b"\n", start)
                    if stop < 0:
                        break
                    line = block[start:stop]
                    start = stop + 1
                    if self._is_old(line):
                        continue
                    record = records.decode(line)
                    if record is not None and "q" in record:
                        self._after = record["q"]
                        count += 1
                        self._offset = begin + start
                        yield record
                self._offset = begin + start
                if not start:
                    if len(block) < size:
                        return
                    size *= 2  # One line is longer than that.

    def _begin(self, source: BinaryIO) -> int:
        """Where to begin: a line before which all are old. By halves, since sequences only grow: looking at every
        line of a long journal would hold up all other callers for seconds."""
        low, high = 0, source.seek(0, os.SEEK_END)
        while self._after and high - low > _NEAR_BYTES:
            middle = (low + high) // 2
            source.seek(middle)
            block = source.read(_NEAR_BYTES)
            at = block.find(b"\n") + 1
            while at and not block.startswith(b'{"q":', at + 9):
                at = block.find(b"\n", at) + 1
            end = block.find(b"\n", at)
            if at and end > 0 and self._is_old(block[at:end]):
                low = middle + at
            else:
                high = middle
        return low

    def _is_old(self, line: bytes) -> bool:
        # Sequence and cursor are the first key of their line, so old lines are skipped unparsed.
        if line[9:14] == b'{"q":':
            stop = line.find(b",", 14, 40)
            return int(line[14:stop]) <= self._after
        return True

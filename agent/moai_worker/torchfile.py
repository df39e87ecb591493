"""Write a dataset as a self-contained ``.pt`` file, streaming, without torch.

Owns the byte layout of that one file: a ZIP archive as ``torch.save`` writes it (torch docs, "Serialization
semantics", and ``torch/csrc/jit/serialization``: members are stored uncompressed under one top folder,
``data.pkl`` is a protocol-2 pickle, ``data/<key>`` is a raw storage aligned to 64 bytes, ``byteorder`` and
``version`` are short texts). The pickle holds ``{"train": [{"input_ids": row}, ...], ...}`` where every row
is an int64 view of one storage a split, so plain ``torch.load`` opens it (also with ``weights_only=True``)
and a ``DataLoader`` takes each list as it is. Runs in the step's process; refuses rows of unequal length.

The pickle is made from the row counts alone, after the data went by: memory stays at one batch of rows.
"""

import os
import struct
import sys
import zlib
from array import array
from itertools import zip_longest
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple, Union

#: One row, or several rows back to back: machine-order int64 in a buffer, or a plain list of ints.
Row = Union[List[int], "array[int]", bytes, bytearray, memoryview]

_TOP = "archive"
_ALIGN_BYTES = 64  # torch: kFieldAlignment, so that a storage can be memory-mapped
_FLUSH_BYTES = 4 << 20
_ROWS_A_CHUNK = 4096
#: Sizes and offsets from here on need the ZIP64 fields (APPNOTE.TXT 4.4.8); a variable for the tests.
_ZIP64_FROM = 0xFFFFFFFF


class TorchFileWriter:
    """Writes one ``.pt``; nothing is at ``path`` until ``close`` succeeded.

    Args:
        path: where the finished file goes; its folder must exist. A file there is replaced.
        row_length: number of ids in every row (the block size), at least 1.
        attention_mask: also store a mask for every row, as a second int64 view of the same storage.
        labels: also store labels for every row, as a further view after the mask.
        state: what ``checkpoint`` returned to a writer that was killed: goes on from there. The file it
            wrote must still be there.

    Use it as a context manager, or call ``close`` or ``abort``. Not for several threads.

    Raises:
        OSError: disk full, folder missing (from any method; call ``abort`` then).
        ValueError: wrong order of calls, a row of another length, a split named twice.
    """

    def __init__(
        self,
        path: str,
        row_length: int,
        attention_mask: bool = False,
        labels: bool = False,
        state: Optional[Dict[str, Any]] = None,
    ) -> None:
        if row_length < 1:
            raise ValueError("row_length must be at least 1, not {}".format(row_length))
        self._path = os.path.abspath(path)
        folder, name = os.path.split(self._path)
        self._temp = os.path.join(folder, ".{}.partial".format(name))
        self._row_length = row_length
        self._mask = attention_mask
        self._labels = labels
        self._splits: List[Tuple[str, int]] = []
        self._open_split: Optional[str] = None
        self._rows = 0
        self._pending = bytearray()
        self._file = open(self._temp, "wb" if state is None else "r+b", buffering=0)
        self._zip = _StoredZip(self._file)
        if state is not None:
            self._splits = [(name, rows) for name, rows in state["splits"]]
            self._open_split, self._rows = state["open_split"], state["rows"]
            self._zip.restore(state["zip"])

    def __enter__(self) -> "TorchFileWriter":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def begin_split(self, name: str) -> None:
        """Start a split (``train``, ``validation``...); the one before must be ended."""
        if self._open_split is not None:
            raise ValueError("split {!r} is not ended".format(self._open_split))
        if name in [done for done, _ in self._splits]:
            raise ValueError("split {!r} was written before".format(name))
        self._open_split, self._rows = name, 0
        self._zip.begin("{}/data/{}".format(_TOP, len(self._splits)))

    def write_rows(
        self, rows: Union[Row, Iterable[Row]], masks: Optional[Union[Row, Iterable[Row]]] = None
    ) -> int:
        """Append rows to the open split.

        Args:
            rows: a buffer of int64 in machine order holding any number of rows back to back, or an
                iterable of rows (lists of ints, ``array('q')`` or buffers).
            masks: the same for the attention masks; needed exactly when the file stores masks.

        Returns:
            How many rows were added.
        """
        if self._open_split is None:
            raise ValueError("no split is open")
        if (masks is not None) != self._mask:
            raise ValueError("masks must be given exactly when the file was opened with attention_mask")
        before = self._rows
        if masks is None:
            for piece in _pieces(rows):
                self._rows += self._count(piece)
                self._add(piece)
        else:
            for row, mask in zip_longest(self._single(rows), self._single(masks)):
                if row is None or mask is None:
                    raise ValueError("there are not as many masks as rows")
                self._rows += 1
                self._add(row)
                self._add(mask)
        return self._rows - before

    def write_wide(self, rows: memoryview) -> int:
        """Append rows as they lie in the file: int64 ids, then mask, then labels, as far as stored.

        Returns:
            How many rows were added.
        """
        if self._open_split is None:
            raise ValueError("no split is open")
        width = 8 * self._row_length * (1 + self._mask + self._labels)
        count, rest = divmod(rows.nbytes, width)
        if rest:
            raise ValueError("{} bytes are no whole number of rows of {}".format(rows.nbytes, width))
        self._rows += count
        self._add(rows.cast("B"))
        return count

    def checkpoint(self) -> Dict[str, Any]:
        """Flush to the disk; what a new writer needs to go on here after this one was killed (JSON)."""
        self._flush()
        os.fsync(self._file.fileno())
        return {
            "splits": self._splits,
            "open_split": self._open_split,
            "rows": self._rows,
            "zip": self._zip.state(),
        }

    def end_split(self) -> int:
        """Finish the open split and return its number of rows (may be 0)."""
        if self._open_split is None:
            raise ValueError("no split is open")
        self._flush()
        self._zip.end()
        self._splits.append((self._open_split, self._rows))
        self._open_split = None
        return self._rows

    def close(self) -> None:
        """Complete the file, flush it to the disk and put it in place. Repeating does nothing."""
        if self._file.closed:
            return
        try:
            if self._open_split is not None:
                self.end_split()
            self._zip.begin(_TOP + "/data.pkl")
            for chunk in pickle_chunks(self._splits, self._row_length, self._mask, self._labels):
                self._zip.write(chunk)
            self._zip.end()
            for name, text in (("byteorder", sys.byteorder), ("version", "3\n")):
                self._zip.begin("{}/{}".format(_TOP, name))
                self._zip.write(text.encode("ascii"))
                self._zip.end()
            self._zip.finish()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._temp, self._path)
        except BaseException:
            self.abort()
            raise
        sync_folder(os.path.dirname(self._path))

    def abort(self) -> None:
        """Drop what was written; a file that stood at ``path`` before stays. Repeating does nothing."""
        self._file.close()
        if os.path.exists(self._temp):
            os.unlink(self._temp)

    def _count(self, piece: memoryview) -> int:
        count, rest = divmod(piece.nbytes, 8 * self._row_length)
        if rest:
            raise ValueError(
                "{} bytes are no whole number of rows of {} ids".format(piece.nbytes, self._row_length)
            )
        return count

    def _single(self, rows: Union[Row, Iterable[Row]]) -> Iterator[memoryview]:
        size = 8 * self._row_length
        for piece in _pieces(rows):
            for index in range(self._count(piece)):
                yield piece[index * size : (index + 1) * size]

    def _add(self, piece: memoryview) -> None:
        if piece.nbytes >= _FLUSH_BYTES:
            self._flush()
            self._zip.write(piece)
            return
        self._pending += piece
        if len(self._pending) >= _FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._zip.write(self._pending)
            self._pending = bytearray()


def _pieces(rows: Union[Row, Iterable[Row]]) -> Iterator[memoryview]:
    """Buffers of whole rows, as bytes."""
    if isinstance(rows, (bytes, bytearray, memoryview, array)):
        yield memoryview(rows).cast("B")
        return
    for row in rows:
        buffer = array("q", row) if isinstance(row, (list, tuple)) else row
        yield memoryview(buffer).cast("B")


def sync_folder(folder: str) -> None:
    """Flush a folder's entries to the disk, so that a rename in it survives a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def pickle_chunks(
    splits: List[Tuple[str, int]], row_length: int, attention_mask: bool, labels: bool = False
) -> Iterator[bytes]:
    """The pickle of ``{split: [{"input_ids": tensor, ...}, ...]}``, in chunks (opcodes: pickletools).

    Args:
        splits: name and number of rows of each, in the order of their storages ``0``, ``1``...
        row_length: ids in a row. attention_mask: rows carry a mask right after their ids. labels: and
            labels after that.

    Only opcodes that torch's restricted unpickler knows are used. What repeats (function, class, keys, shape,
    storage) is put in the memo once, so a row costs about 30 bytes; each tensor still gets its own
    OrderedDict of hooks, since a shared one would hand one tensor's hooks to all.
    """
    # Memo: 0 rebuild, 1 OrderedDict, 2 shape, 3 stride, 4 "input_ids", 5 and 6 the further columns in use,
    # then the storages.
    more = [name for name, used in (("attention_mask", attention_mask), ("labels", labels)) if used]
    per_row = row_length * (1 + len(more))
    first_storage = 6 if len(more) < 2 else 7
    yield b"\x80\x02}q\xff("  # protocol 2, the outer dict, MARK for its items
    known = False
    for key, (name, rows) in enumerate(splits):
        yield _text(name) + b"]"
        if rows == 0:
            continue
        keys = [b"h" + bytes([5 + n]) for n in range(len(more))]
        if not known:
            # Values can only be memoised while on the stack, so the first row spells everything out.
            known = True
            rebuild, hooks = b"ctorch._utils\n_rebuild_tensor_v2\nq\x00", b"ccollections\nOrderedDict\nq\x01"
            shape, stride = _int(row_length) + b"\x85q\x02", b"K\x01\x85q\x03"
            ids_key = _text("input_ids") + b"q\x04"
            first_keys = [_text(column) + b"q" + bytes([5 + n]) for n, column in enumerate(more)]
        else:
            rebuild, hooks, shape, stride, ids_key, first_keys = b"h\x00", b"h\x01", b"h\x02", b"h\x03", b"h\x04", keys
        again = b"h" + bytes([first_storage + key])
        # persistent id: ("storage", type, key, location, number of elements), then BINPERSID
        persistent = b"(" + _text("storage") + b"ctorch\nLongStorage\n" + _text(str(key)) + _text("cpu")
        persistent += _int(rows * per_row) + b"tQ" + b"q" + again[1:]
        yield b"(}" + ids_key + rebuild + b"(" + persistent + b"K\x00" + shape + stride + b"\x89" + hooks + b")RtRs"
        tail = b"h\x02h\x03\x89h\x01)RtRs"
        for number, column_key in enumerate(first_keys, 1):
            yield column_key + b"h\x00(" + again + _int(number * row_length) + tail
        head_ids = b"}h\x04h\x00(" + again
        heads = [column_key + b"h\x00(" + again for column_key in keys]
        for first in range(1, rows, _ROWS_A_CHUNK):
            chunk = []
            for row in range(first, min(rows, first + _ROWS_A_CHUNK)):
                chunk.append(head_ids + _int(row * per_row) + tail)
                for number, head in enumerate(heads, 1):
                    chunk.append(head + _int(row * per_row + number * row_length) + tail)
            yield b"".join(chunk)
        yield b"e"  # APPENDS: the rows since MARK go into the list
    yield b"u."  # SETITEMS, STOP


def _text(value: str) -> bytes:
    raw = value.encode("utf-8")
    return b"X" + struct.pack("<I", len(raw)) + raw  # BINUNICODE


def _int(value: int) -> bytes:
    """BININT where it fits, else LONG1 (the only wider integer of torch's restricted unpickler)."""
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


class _StoredZip:
    """A ZIP of uncompressed, aligned members of unknown length (APPNOTE.TXT 4.3).

    ``zipfile`` can write such members too, but cannot be abandoned half-way without writing again.
    """

    def __init__(self, file) -> None:
        self._file = file
        self._at = 0
        self._done: List[Tuple[bytes, int, int, int]] = []  # name, offset, size, crc
        self._name = b""
        self._start = 0
        self._size = 0
        self._crc = 0

    def state(self) -> Dict[str, Any]:
        done = [[name.decode("ascii"), offset, size, crc] for name, offset, size, crc in self._done]
        name = self._name.decode("ascii")
        return {"at": self._at, "done": done, "name": name, "start": self._start, "size": self._size, "crc": self._crc}

    def restore(self, state: Dict[str, Any]) -> None:
        self._done = [(name.encode("ascii"), offset, size, crc) for name, offset, size, crc in state["done"]]
        self._name, self._start = state["name"].encode("ascii"), state["start"]
        self._size, self._crc, self._at = state["size"], state["crc"], state["at"]
        if os.fstat(self._file.fileno()).st_size < self._at:
            raise ValueError("the file is shorter than its checkpoint")
        self._file.truncate(self._at)
        self._file.seek(self._at)

    def begin(self, name: str) -> None:
        self._name, self._start, self._size, self._crc = name.encode("ascii"), self._at, 0, 0
        self._put(self._local_header())

    def write(self, data: Union[bytes, bytearray, memoryview]) -> None:
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        self._put(data)

    def end(self) -> None:
        self._file.seek(self._start)
        _write_all(self._file, self._local_header())
        self._file.seek(self._at)
        self._done.append((self._name, self._start, self._size, self._crc))

    def finish(self) -> None:
        """The central directory; ZIP64 records only where a number needs them."""
        start = self._at
        for name, offset, size, crc in self._done:
            extra = b""
            size_field, offset_field = size, offset
            if size >= _ZIP64_FROM or offset >= _ZIP64_FROM:
                # All three together: torch 1.13's reader adds a narrow size to a wide offset's 0xFFFFFFFF.
                size_field = offset_field = 0xFFFFFFFF
                extra = struct.pack("<HHQQQ", 1, 24, size, size, offset)
            versions_flags_method_date = (45, 45, 0, 0, 0, 0x21)
            lengths_disk_attributes = (len(name), len(extra), 0, 0, 0, 0)
            self._put(b"PK\x01\x02" + struct.pack("<HHHHHH", *versions_flags_method_date))
            self._put(struct.pack("<III", crc, size_field, size_field))
            self._put(struct.pack("<HHHHHI", *lengths_disk_attributes))
            self._put(struct.pack("<I", offset_field) + name + extra)
        length, count = self._at - start, len(self._done)
        if start + length >= _ZIP64_FROM:
            record = self._at
            self._put(
                struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, start)
            )
            self._put(struct.pack("<4sIQI", b"PK\x06\x07", 0, record, 1))
            start = 0xFFFFFFFF
        self._put(struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, length, start, 0))

    def _local_header(self) -> bytes:
        # The sizes always sit in a ZIP64 field: they are unknown when the header is first written. The second
        # field ("FB", as torch pads) moves the data to the next multiple of 64.
        wide = struct.pack("<HHQQ", 1, 16, self._size, self._size)
        bare = self._start + 30 + len(self._name) + len(wide) + 4
        pad = -bare % _ALIGN_BYTES
        extra = wide + b"FB" + struct.pack("<H", pad) + b"Z" * pad
        fixed = b"PK\x03\x04" + struct.pack("<HHHHH", 45, 0, 0, 0, 0x21)
        fixed += struct.pack("<IIIHH", self._crc, 0xFFFFFFFF, 0xFFFFFFFF, len(self._name), len(extra))
        return fixed + self._name + extra

    def _put(self, data: Union[bytes, bytearray, memoryview]) -> None:
        _write_all(self._file, data)
        self._at += len(data)


def _write_all(file, data: Union[bytes, bytearray, memoryview]) -> None:
    """Unbuffered files may take less than they were given."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]

"""The folder of a prepared dataset: its Arrow files, its checks, and how it is put in place.

Owns the layout that ``datasets.load_from_disk`` reads (``dataset_dict.json``; a folder a split with
``data-*.arrow`` in the Arrow streaming format, ``state.json`` and ``dataset_info.json``), written directly
so that nothing is copied through a cache first, and the marker file that tells a finished folder of ours
from any other. Runs in the prepare step; pyarrow is imported inside functions only. Refuses to replace a
folder without the marker.
"""

import hashlib
import json
import os
import re
import shutil
import struct
import zipfile
from array import array
from typing import Any, Dict, List, Optional, Tuple

from .datafiles import package_missing
from .errors import StepError
from .torchfile import sync_folder

#: Written last, so a folder that holds it is complete.
MARKER = "moai-dataset.json"
#: A shard ends here, and a run that was killed goes on behind the last whole shard.
_SHARD_BYTES = 64 << 20
#: ``Sequence`` is what every version of datasets reads; from version 4 on it is called ``List``.
_COLUMNS = (("input_ids", "int32"), ("attention_mask", "int8"), ("labels", "int32"))


class ArrowSplitWriter:
    """Writes one split's folder, in shards; use as a context manager.

    Args:
        folder: the dataset's folder. name: of the split, and of its folder.
        block_size: ids in a row. labels: also store labels.
        state: what ``end_shard`` returned to a writer that was killed.

    Raises:
        StepError: PACKAGE_MISSING without pyarrow. OSError: disk full.
    """

    def __init__(
        self, folder: str, name: str, block_size: int, labels: bool = False, state: Optional[Dict[str, Any]] = None
    ) -> None:
        self._arrow = _pyarrow()
        self._folder = os.path.join(folder, name)
        self._name = name
        self._block = block_size
        self._columns = _COLUMNS if labels else _COLUMNS[:2]
        self._schema = self._arrow.schema(
            [(name, self._arrow.list_(getattr(self._arrow, kind)())) for name, kind in self._columns]
        )
        # datasets names its caches after the fingerprint: other rows need another one.
        self._digests: List[str] = list(state["digests"]) if state else []
        self._digest: Any = None
        self._sink: Any = None
        self._writer: Any = None
        self._shard_bytes = 0
        self.rows: int = state["rows"] if state else 0

    def __enter__(self) -> "ArrowSplitWriter":
        os.makedirs(self._folder, exist_ok=True)
        for name in os.listdir(self._folder):
            if name not in [_shard(index) for index in range(len(self._digests))]:
                os.unlink(os.path.join(self._folder, name))
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            if self._sink is not None:
                self._sink.close()  # the folder is thrown away: the end of the stream is not needed
            return
        if self._sink is not None or not self._digests:
            self._begin_shard()
            self.end_shard()
        names = []
        for index in range(len(self._digests)):
            names.append("data-{:05d}-of-{:05d}.arrow".format(index, len(self._digests)))
            os.rename(os.path.join(self._folder, _shard(index)), os.path.join(self._folder, names[-1]))
        features = {
            name: {"feature": {"dtype": kind, "_type": "Value"}, "_type": "Sequence"} for name, kind in self._columns
        }
        write_json(
            os.path.join(self._folder, "dataset_info.json"),
            {"citation": "", "description": "", "features": features, "homepage": "", "license": ""},
        )
        fingerprint = hashlib.blake2b("\n".join([self._name] + self._digests).encode("utf-8"), digest_size=8)
        write_json(
            os.path.join(self._folder, "state.json"),
            {
                "_data_files": [{"filename": name} for name in names],
                "_fingerprint": fingerprint.hexdigest(),
                "_format_columns": None,
                "_format_kwargs": {},
                "_format_type": None,
                "_output_all_columns": False,
                "_split": self._name,
            },
        )

    def write(self, *columns: Any) -> bool:
        """Append rows: numpy arrays, rows by block size, one a column; True when the shard should end."""
        arrow = self._arrow
        self._begin_shard()
        rows = len(columns[0])
        starts = arrow.array(range(0, rows * self._block + 1, self._block), type=arrow.int32())
        lists = []
        for column in columns:
            flat = column.reshape(-1)
            lists.append(arrow.ListArray.from_arrays(starts, arrow.array(flat)))
            self._shard_bytes += flat.nbytes
            self._digest.update(flat)
        self._writer.write_batch(arrow.RecordBatch.from_arrays(lists, schema=self._schema))
        self.rows += rows
        return self._shard_bytes >= _SHARD_BYTES

    def end_shard(self) -> Dict[str, Any]:
        """Complete the open shard on the disk; what a new writer needs to go on behind it (JSON)."""
        if self._sink is not None:
            self._writer.close()
            self._sink.flush()
            os.fsync(self._sink.fileno())
            self._sink.close()
            self._digests.append(self._digest.hexdigest())
            self._sink = self._writer = None
        return {"digests": self._digests, "rows": self.rows}

    def _begin_shard(self) -> None:
        if self._sink is None:
            self._sink = open(os.path.join(self._folder, _shard(len(self._digests))), "wb")
            self._writer = self._arrow.ipc.new_stream(self._sink, self._schema)
            self._shard_bytes = 0
            self._digest = hashlib.blake2b(digest_size=8)


def _shard(index: int) -> str:
    return "shard-{:05d}".format(index)


def check_folder(
    folder: str, torch_name: str, rows: Dict[str, int], block_size: int, torch_columns: int
) -> None:
    """Read the written files back: rows in every split, their length, the sizes of the storages, and that
    the ids of sampled rows are the same in Arrow and in the ``.pt``.

    Args:
        torch_columns: how many of ids, masks and labels a row of the ``.pt`` has.

    Raises:
        StepError: DATASET_INVALID; what was written is not what was meant (a damaged disk, or a defect).
    """
    arrow = _pyarrow()
    for name, expected in rows.items():
        found = 0
        samples: List[Tuple[int, Any]] = []
        for file in sorted(os.listdir(os.path.join(folder, name))):
            if file.endswith(".arrow"):
                # Opened shard by shard: what is mapped counts as memory of this process.
                with arrow.memory_map(os.path.join(folder, name, file)) as mapped:
                    for batch in arrow.ipc.open_stream(mapped):
                        for column in batch.columns:
                            if column.offsets.to_pylist() != list(range(0, (len(column) + 1) * block_size, block_size)):
                                raise _unequal(name, "rows of another length than {}".format(block_size))
                        if batch.num_rows and (not samples or found >= 16 * samples[-1][0]):
                            samples.append((found, batch.column(0)[0].as_py()))
                        if batch.num_rows:
                            last = (found + batch.num_rows - 1, batch.column(0)[batch.num_rows - 1].as_py())
                        found += batch.num_rows
        if found != expected:
            raise _unequal(name, "{} rows instead of {}".format(found, expected))
        if found:
            _compare_torch(folder, torch_name, list(rows).index(name), block_size, torch_columns, samples + [last], name)
    with zipfile.ZipFile(os.path.join(folder, torch_name)) as archive:
        for key, (name, expected) in enumerate(rows.items()):
            size_bytes = archive.getinfo("archive/data/{}".format(key)).file_size
            if size_bytes != expected * block_size * 8 * torch_columns:
                raise _unequal(name, "{} bytes in {}".format(size_bytes, torch_name))


def _compare_torch(
    folder: str, torch_name: str, key: int, block_size: int, torch_columns: int, samples: List[Tuple[int, Any]], split: str
) -> None:
    path = os.path.join(folder, torch_name)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("archive/data/{}".format(key))
    with open(path, "rb") as file:
        file.seek(info.header_offset + 26)
        name_bytes, extra_bytes = struct.unpack("<HH", file.read(4))
        start = info.header_offset + 30 + name_bytes + extra_bytes
        for row, ids in samples:
            file.seek(start + row * block_size * 8 * torch_columns)
            if array("q", file.read(8 * block_size)).tolist() != ids:
                raise _unequal(split, "row {} differs between Arrow and {}".format(row, torch_name))


def finished(folder: str, key: str) -> Optional[Dict[str, Any]]:
    """The description in a finished folder made with ``key`` whose files all have their size; else None."""
    described = marker_of(folder)
    if described is None or described.get("key") != key:
        return None
    return described if described.get("files") == sizes(folder) else None


def refuse_foreign(folder: str) -> None:
    """Raise USAGE when ``folder`` holds something that is not a prepared dataset."""
    if not os.path.lexists(folder) or marker_of(folder) is not None:
        return
    if os.path.isdir(folder) and not os.path.islink(folder) and not os.listdir(folder):
        return
    raise StepError(
        "USAGE",
        "{} exists and is no dataset prepared by moai, so it is not replaced".format(folder),
        "choose another --output, or move it away",
        {"path": folder},
    )


def publish(partial: str, folder: str) -> None:
    """Put ``partial`` in place of ``folder``; a former one is removed only after that."""
    sync_folder(partial)
    former = "{}.old-{}".format(folder, os.getpid())
    if os.path.lexists(folder):
        os.rename(folder, former)
    os.rename(partial, folder)
    sync_folder(os.path.dirname(folder))
    shutil.rmtree(former, ignore_errors=True)


def sweep(parent: str, name: str, keep: str = "") -> None:
    """Remove half-built and replaced folders of killed runs, but for ``keep``; only for the holder of the lock."""
    for entry in os.listdir(parent):
        for kind in (".partial-", ".old-"):
            if entry.startswith(name + kind) and entry != keep and re.match("^[0-9a-f]+$", entry[len(name + kind) :]):
                shutil.rmtree(os.path.join(parent, entry), ignore_errors=True)


def sizes(folder: str) -> Dict[str, int]:
    """Size in bytes of every file below ``folder``, by relative path, without the marker."""
    found = {}
    for base, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(base, name)
            relative = os.path.relpath(path, folder)
            if relative != MARKER:
                found[relative] = os.path.getsize(path)
    return found


def write_json(path: str, value: Any) -> None:
    """Write and flush to the disk (the folder it is in is not public yet, so in place)."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())


def marker_of(folder: str) -> Optional[Dict[str, Any]]:
    """What a prepared folder says of itself; None when it is no such folder, or not a finished one."""
    try:
        with open(os.path.join(folder, MARKER), encoding="utf-8") as file:
            described = json.load(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return described if isinstance(described, dict) else None


def _unequal(split: str, what: str) -> StepError:
    return StepError(
        "DATASET_INVALID",
        "the written split {!r} does not hold what was meant: {}".format(split, what),
        "run again; if it happens twice, the disk or file system is at fault",
    )


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        raise package_missing("datasets", "writing Arrow files", error) from error
    return pyarrow

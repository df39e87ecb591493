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
import shutil
import zipfile
from array import array
from typing import Any, Dict, List, Optional

from .datafiles import package_missing
from .errors import StepError
from .torchfile import sync_folder

#: Written last, so a folder that holds it is complete.
MARKER = "moai-dataset.json"
_SHARD_BYTES = 500 << 20
#: ``Sequence`` is what every version of datasets reads; from version 4 on it is called ``List``.
_FEATURES = {
    "input_ids": {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "Sequence"},
    "attention_mask": {"feature": {"dtype": "int8", "_type": "Value"}, "_type": "Sequence"},
}


class ArrowSplitWriter:
    """Writes one split's folder; use as a context manager.

    Args:
        folder: the dataset's folder. name: of the split, and of its folder.
        block_size: ids in a row.

    Raises:
        StepError: PACKAGE_MISSING without pyarrow. OSError: disk full.
    """

    def __init__(self, folder: str, name: str, block_size: int) -> None:
        self._arrow = _pyarrow()
        self._folder = os.path.join(folder, name)
        self._name = name
        self._block = block_size
        self._schema = self._arrow.schema(
            [
                ("input_ids", self._arrow.list_(self._arrow.int32())),
                ("attention_mask", self._arrow.list_(self._arrow.int8())),
            ]
        )
        self._shards: List[str] = []
        self._sink: Any = None
        self._writer: Any = None
        self._shard_bytes = 0
        # datasets names its caches after the fingerprint: other rows need another one.
        self._digest = hashlib.blake2b(name.encode("utf-8"), digest_size=8)
        self.rows = 0

    def __enter__(self) -> "ArrowSplitWriter":
        os.mkdir(self._folder)
        self._next_shard()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            self._sink.close()  # the folder is thrown away: the end of the stream is not needed
            return
        self._end_shard()
        names = []
        for index, path in enumerate(self._shards):
            names.append("data-{:05d}-of-{:05d}.arrow".format(index, len(self._shards)))
            os.rename(path, os.path.join(self._folder, names[-1]))
        write_json(
            os.path.join(self._folder, "dataset_info.json"),
            {"citation": "", "description": "", "features": _FEATURES, "homepage": "", "license": ""},
        )
        write_json(
            os.path.join(self._folder, "state.json"),
            {
                "_data_files": [{"filename": name} for name in names],
                "_fingerprint": self._digest.hexdigest(),
                "_format_columns": None,
                "_format_kwargs": {},
                "_format_type": None,
                "_output_all_columns": False,
                "_split": self._name,
            },
        )

    def write(self, ids: "array[int]", masks: bytearray) -> None:
        """Append rows: int64 ids back to back, and one mask byte an id."""
        arrow = self._arrow
        rows = len(masks) // self._block
        offsets = array("i", range(0, len(masks) + 1, self._block))
        starts = arrow.Array.from_buffers(arrow.int32(), rows + 1, [None, arrow.py_buffer(offsets)])
        columns = []
        for kind, raw, stored in ((arrow.int64(), ids, arrow.int32()), (arrow.int8(), masks, arrow.int8())):
            flat = arrow.Array.from_buffers(kind, len(masks), [None, arrow.py_buffer(raw)])
            columns.append(arrow.ListArray.from_arrays(starts, flat.cast(stored)))
        if self._shard_bytes >= _SHARD_BYTES:
            self._end_shard()
            self._next_shard()
        self._writer.write_batch(arrow.RecordBatch.from_arrays(columns, schema=self._schema))
        self._shard_bytes += 5 * len(masks)
        self.rows += rows
        self._digest.update(ids)
        self._digest.update(masks)

    def _next_shard(self) -> None:
        self._shards.append(os.path.join(self._folder, "shard-{:05d}".format(len(self._shards))))
        self._sink = open(self._shards[-1], "wb")
        self._writer = self._arrow.ipc.new_stream(self._sink, self._schema)
        self._shard_bytes = 0

    def _end_shard(self) -> None:
        self._writer.close()
        self._sink.flush()
        os.fsync(self._sink.fileno())
        self._sink.close()


def check_folder(
    folder: str, torch_name: str, rows: Dict[str, int], block_size: int, torch_mask: bool
) -> None:
    """Read the written files back: rows in every split, their length, the sizes of the storages.

    Raises:
        StepError: DATASET_INVALID; what was written is not what was meant (a damaged disk, or a defect).
    """
    arrow = _pyarrow()
    for name, expected in rows.items():
        found = 0
        for file in sorted(os.listdir(os.path.join(folder, name))):
            if file.endswith(".arrow"):
                with arrow.memory_map(os.path.join(folder, name, file)) as mapped:
                    for batch in arrow.ipc.open_stream(mapped):
                        for column in batch.columns:
                            offsets = column.offsets.to_pylist()
                            if any(b - a != block_size for a, b in zip(offsets, offsets[1:])):
                                raise _unequal(name, "rows of another length than {}".format(block_size))
                        found += batch.num_rows
        if found != expected:
            raise _unequal(name, "{} rows instead of {}".format(found, expected))
    with zipfile.ZipFile(os.path.join(folder, torch_name)) as archive:
        for key, (name, expected) in enumerate(rows.items()):
            size_bytes = archive.getinfo("archive/data/{}".format(key)).file_size
            if size_bytes != expected * block_size * 8 * (2 if torch_mask else 1):
                raise _unequal(name, "{} bytes in {}".format(size_bytes, torch_name))


def finished(folder: str, key: str) -> Optional[Dict[str, Any]]:
    """The description in a finished folder made with ``key`` whose files all have their size; else None."""
    described = _marker(folder)
    if described is None or described.get("key") != key:
        return None
    return described if described.get("files") == sizes(folder) else None


def refuse_foreign(folder: str) -> None:
    """Raise USAGE when ``folder`` holds something that is not a prepared dataset."""
    if not os.path.lexists(folder) or _marker(folder) is not None:
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


def sweep(parent: str, name: str) -> None:
    """Remove half-built and replaced folders of killed runs; only for the holder of the lock."""
    for entry in os.listdir(parent):
        for kind in (".partial-", ".old-"):
            if entry.startswith(name + kind) and entry[len(name + kind) :].isdigit():
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


def _marker(folder: str) -> Optional[Dict[str, Any]]:
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

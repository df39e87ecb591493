"""Read the rows of one data file: jsonl, json, csv, tsv, txt or parquet.

Owns naming the place of a bad row: file and line (of parquet: row).
Rows are streamed, except for a ``.json`` that is one big document, which is read whole. Runs in the prepare
step; pyarrow is imported only for parquet. Text is read by textfiles.py, which tells UTF-8 from CP949.
"""

import csv
import json
import re
import sys
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from . import textfiles
from .errors import StepError
from .textfiles import bad as _bad

#: A row and where it stands in its file: (file, 1-based line or row number, values by column).
PlacedRow = Tuple[str, int, Dict[str, Any]]

#: Kind of file by extension.
KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".parquet": "parquet",
}
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
#: Rows decoded at once; other readers of columns use it too.
BATCH_ROWS = 256


#: Reads rows of a split, all or those whose byte in a map of one byte a row is not 0.
Reader = Callable[[Sequence[str], Optional[bytearray]], Iterator[PlacedRow]]


class Split:
    """One split of a source.

    Attributes:
        name: ``train``, ``validation``, ``test`` or what the source calls it.
        columns: names of the columns (of a text file: ``text``).
        rows: number of rows, counted without decoding them.
        notes: what a person should know of its files.
    """

    def __init__(
        self, name: str, columns: List[str], rows: int, read: Reader, notes: Optional[List[str]] = None
    ) -> None:
        self.name = name
        self.columns = columns
        self.rows = rows
        self.notes = notes or []
        self._read = read

    def read(self, columns: Sequence[str], wanted: Optional[bytearray] = None) -> Iterator[PlacedRow]:
        """Iterate over the rows, at least with ``columns``; every call starts at the first row.

        Args:
            wanted: one byte a row, 0 for those to leave out, which are hardly looked at; None: all.

        Raises:
            StepError: DATASET_INVALID at a row that cannot be read, with file and line.
        """
        return self._read(columns, wanted)


def file_splits(path: str, kind: str) -> Dict[str, Split]:
    if kind == "json":
        return _json_splits(path)
    return {"train": joined("train", [file_split(path, kind)])}


def file_split(path: str, kind: str, name: str = "train") -> Split:
    if kind == "parquet":
        return _parquet_split(path, name)
    if kind == "json":
        found = _json_splits(path)
        return found["train"] if list(found) == ["train"] else joined(name, list(found.values()))
    facts = textfiles.scan(path)
    encoding = facts.encoding
    reader = {"jsonl": _read_jsonl, "csv": _read_csv, "text": _read_text}[kind]

    def read(columns: Sequence[str], wanted: Optional[bytearray] = None) -> Iterator[PlacedRow]:
        return reader(path, encoding, wanted)

    rows, first = facts.rows, next(reader(path, encoding, None), None)
    if kind == "csv":  # a quoted field may span lines, so rows must be parsed to be counted
        rows = sum(1 for _ in reader(path, encoding, None))
    note = facts.note(path)
    return Split(name, list(first[2]) if first else [], rows, read, [note] if note else [])


def _read_jsonl(path: str, encoding: str, wanted: Optional[bytearray]) -> Iterator[PlacedRow]:
    index = -1
    for number, line in textfiles.lines(path, encoding):
        if line.isspace() or not line:
            continue
        index += 1
        if wanted is not None and not (index < len(wanted) and wanted[index]):
            continue
        try:
            row = json.loads(textfiles.text(path, number, line))
        except (ValueError, RecursionError) as error:
            raise _bad(path, number, "not JSON ({})".format(error)) from error
        if not isinstance(row, dict):
            raise _bad(path, number, "a {} instead of an object".format(type(row).__name__))
        yield path, number, row


def _read_text(path: str, encoding: str, wanted: Optional[bytearray]) -> Iterator[PlacedRow]:
    index = -1
    for number, raw in textfiles.lines(path, encoding):
        if raw.isspace() or not raw:
            continue
        index += 1
        if wanted is None or (index < len(wanted) and wanted[index]):
            yield path, number, {"text": textfiles.text(path, number, raw).rstrip("\r\n")}


def _read_csv(path: str, encoding: str, wanted: Optional[bytearray]) -> Iterator[PlacedRow]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # articles are longer than the default 128 KiB
    delimiter = "\t" if path.lower().endswith(".tsv") else ","
    decoded = (textfiles.text(path, number, raw) for number, raw in textfiles.lines(path, encoding))
    reader = csv.reader(decoded, delimiter=delimiter, strict=True)
    header: List[str] = []
    index = -1
    try:
        for cells in reader:
            if not cells:
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                if len(set(header)) != len(header) or "" in header:
                    raise _bad(path, reader.line_num, "the header has an empty or repeated column name")
                continue
            if len(cells) != len(header):
                raise _bad(path, reader.line_num, "{} fields instead of {}".format(len(cells), len(header)))
            index += 1
            if wanted is None or (index < len(wanted) and wanted[index]):
                yield path, reader.line_num, dict(zip(header, cells))
    except csv.Error as error:
        raise _bad(path, reader.line_num, "not CSV ({})".format(error)) from error


def _json_splits(path: str) -> Dict[str, Split]:
    """A ``.json`` file: an array of objects, ``{"data": [...]}``, ``{split: [...]}``, or JSON lines."""
    with open(path, "rb") as file:
        raw = file.read()
    if not raw.strip(b"\xef\xbb\xbf \t\r\n"):
        return {"train": Split("train", [], 0, lambda columns, wanted: iter(()))}
    facts = textfiles.scan(path)
    try:
        document = json.loads(raw.decode("cp949" if facts.encoding == "cp949" else "utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _bad(path, raw.count(b"\n", 0, error.start) + 1, "not {}".format(facts.encoding)) from error
    except ValueError as error:
        if raw.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and "Extra data" in str(error):
            del raw
            return {"train": file_split(path, "jsonl")}
        raise _bad(path, getattr(error, "lineno", 1), "not JSON ({})".format(error)) from error
    if isinstance(document, dict) and document and all(isinstance(rows, list) for rows in document.values()):
        groups = {
            ("train" if key == "data" else split_of(key) or key): rows for key, rows in document.items()
        }
    elif isinstance(document, list):
        groups = {"train": document}
    elif isinstance(document, dict):
        groups = {"train": [document]}
    else:
        raise _bad(path, 1, "neither an array of objects nor an object of arrays")
    notes = [facts.note(path)] if facts.note(path) else []
    return {name: _list_split(path, name, rows, notes) for name, rows in groups.items()}


def _list_split(path: str, name: str, rows: List[Any], notes: List[str]) -> Split:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise _bad(path, number, "a {} instead of an object".format(type(row).__name__), "row")

    def read(columns: Sequence[str], wanted: Optional[bytearray] = None) -> Iterator[PlacedRow]:
        for number, row in enumerate(rows, 1):
            if wanted is None or wanted[number - 1]:
                yield path, number, row

    return Split(name, list(rows[0]) if rows else [], len(rows), read, notes)


def _parquet_split(path: str, name: str) -> Split:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise package_missing("datasets", "reading parquet files", error) from error
    try:
        with open(path, "rb") as file:
            described = parquet.ParquetFile(file)
            columns, rows = list(described.schema_arrow.names), described.metadata.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise _bad(path, 0, "not a complete parquet file ({})".format(str(error)[:200])) from error

    def read(asked: Sequence[str], wanted: Optional[bytearray] = None) -> Iterator[PlacedRow]:
        number = 0
        try:
            with open(path, "rb") as file:
                keep = [column for column in columns if column in asked] or columns[:1]
                for batch in parquet.ParquetFile(file).iter_batches(BATCH_ROWS, columns=keep):
                    if wanted is not None and not any(wanted[number : number + batch.num_rows]):
                        number += batch.num_rows
                        continue
                    for row in batch.to_pylist():
                        number += 1
                        if wanted is None or wanted[number - 1]:
                            yield path, number, row
        except (pyarrow.ArrowException, OSError) as error:
            what = "damaged here or within the {} rows after it ({})".format(BATCH_ROWS - 1, str(error)[:200])
            raise _bad(path, number + 1, what, "row") from error

    return Split(name, columns, rows, read)


def joined(name: str, parts: List[Split]) -> Split:
    """Several files of one split, one after the other."""

    def read(columns: Sequence[str], wanted: Optional[bytearray] = None) -> Iterator[PlacedRow]:
        before = 0
        for part in parts:
            own = None if wanted is None else wanted[before : before + part.rows]
            before += part.rows
            if own is None or any(own):
                for placed in part.read(columns, own):
                    yield placed

    filled = [part for part in parts if part.rows] or parts
    columns = [column for column in filled[0].columns if all(column in part.columns for part in filled)]
    return Split(name, columns, sum(part.rows for part in parts), read, [note for part in parts for note in part.notes])


def split_of(name: str) -> Optional[str]:
    """The split a file or folder name speaks of; words are separated by anything but letters."""
    words = [_SPLIT_WORDS.get(word) for word in re.split(r"[^a-z]+", name.lower())]
    named = [word for word in words if word]
    return named[0] if named else None


def package_missing(package: str, purpose: str, error: ImportError) -> StepError:
    """PACKAGE_MISSING for ``package`` in the environment this step runs in."""
    broken = (
        "" if isinstance(error, ModuleNotFoundError) else " (it is there but does not load: {})".format(error)
    )
    return StepError(
        "PACKAGE_MISSING",
        "{} needs the package {}, which {} cannot import{}".format(purpose, package, sys.executable, broken),
        "moai remote env install --env {} {}".format(sys.executable, package),
        {"package": package, "python": sys.executable},
    )

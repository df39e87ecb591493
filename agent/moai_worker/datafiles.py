"""Read the rows of one data file: jsonl, json, csv, tsv, txt or parquet.

Owns naming the place of a bad row: file and line (of parquet: row). Text is UTF-8, with or without a BOM.
Rows are streamed, except for a ``.json`` that is one big document, which is read whole. Runs in the prepare
step; pyarrow is imported only for parquet. Refuses bytes that are not UTF-8 instead of guessing another
encoding.
"""

import csv
import json
import re
import sys
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from .errors import StepError

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


class Split:
    """One split of a source.

    Attributes:
        name: ``train``, ``validation``, ``test`` or what the source calls it.
        columns: names of the columns (of a text file: ``text``).
        rows: number of rows, counted without decoding them.
    """

    def __init__(
        self, name: str, columns: List[str], rows: int, read: Callable[[Sequence[str]], Iterator[PlacedRow]]
    ) -> None:
        self.name = name
        self.columns = columns
        self.rows = rows
        self._read = read

    def read(self, columns: Sequence[str]) -> Iterator[PlacedRow]:
        """Iterate over the rows, at least with ``columns``; every call starts at the first row.

        Raises:
            StepError: DATASET_INVALID at a row that cannot be read, with file and line.
        """
        return self._read(columns)


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
    reader = {"jsonl": _read_jsonl, "csv": _read_csv, "text": _read_text}[kind]

    def read(columns: Sequence[str]) -> Iterator[PlacedRow]:
        return reader(path)

    rows, first = 0, None
    if kind == "csv":  # a quoted field may span lines, so rows must be parsed to be counted
        for placed in reader(path):
            first = first or placed
            rows += 1
    else:
        with open(path, "rb") as file:
            rows = sum(1 for line in file if line.strip(b"\xef\xbb\xbf \t\r\n"))
        first = next(reader(path), None)
    return Split(name, list(first[2]) if first else [], rows, read)


def _lines(path: str) -> Iterator[Tuple[int, str]]:
    """Numbered lines with their ends; a byte that is no UTF-8 is named by its line."""
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            if number == 1 and raw.startswith(b"\xef\xbb\xbf"):
                raw = raw[3:]
            try:
                yield number, raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _bad(
                    path, number, "byte {} of the line is not UTF-8".format(error.start + 1)
                ) from error


def _read_jsonl(path: str) -> Iterator[PlacedRow]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _bad(path, number, "not JSON ({})".format(error)) from error
        if not isinstance(row, dict):
            raise _bad(path, number, "a {} instead of an object".format(type(row).__name__))
        yield path, number, row


def _read_text(path: str) -> Iterator[PlacedRow]:
    for number, line in _lines(path):
        if line.strip():
            yield path, number, {"text": line.rstrip("\r\n")}


def _read_csv(path: str) -> Iterator[PlacedRow]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # articles are longer than the default 128 KiB
    delimiter = "\t" if path.lower().endswith(".tsv") else ","
    reader = csv.reader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
    header: List[str] = []
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
            yield path, reader.line_num, dict(zip(header, cells))
    except csv.Error as error:
        raise _bad(path, reader.line_num, "not CSV ({})".format(error)) from error


def _json_splits(path: str) -> Dict[str, Split]:
    """A ``.json`` file: an array of objects, ``{"data": [...]}``, ``{split: [...]}``, or JSON lines."""
    with open(path, "rb") as file:
        raw = file.read()
    if not raw.strip(b"\xef\xbb\xbf \t\r\n"):
        return {"train": Split("train", [], 0, lambda columns: iter(()))}
    try:
        document = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _bad(path, raw.count(b"\n", 0, error.start) + 1, "not UTF-8") from error
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
    return {name: _list_split(path, name, rows) for name, rows in groups.items()}


def _list_split(path: str, name: str, rows: List[Any]) -> Split:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise _bad(path, number, "a {} instead of an object".format(type(row).__name__), "row")

    def read(columns: Sequence[str]) -> Iterator[PlacedRow]:
        return ((path, number, row) for number, row in enumerate(rows, 1))

    return Split(name, list(rows[0]) if rows else [], len(rows), read)


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

    def read(wanted: Sequence[str]) -> Iterator[PlacedRow]:
        number = 0
        try:
            with open(path, "rb") as file:
                keep = [column for column in columns if column in wanted] or columns[:1]
                for batch in parquet.ParquetFile(file).iter_batches(BATCH_ROWS, columns=keep):
                    for row in batch.to_pylist():
                        number += 1
                        yield path, number, row
        except (pyarrow.ArrowException, OSError) as error:
            raise _bad(path, number + 1, "damaged ({})".format(str(error)[:200]), "row") from error

    return Split(name, columns, rows, read)


def joined(name: str, parts: List[Split]) -> Split:
    """Several files of one split, one after the other."""

    def read(columns: Sequence[str]) -> Iterator[PlacedRow]:
        for part in parts:
            for placed in part.read(columns):
                yield placed

    filled = [part for part in parts if part.rows] or parts
    columns = [column for column in filled[0].columns if all(column in part.columns for part in filled)]
    return Split(name, columns, sum(part.rows for part in parts), read)


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


def _bad(path: str, number: int, what: str, unit: str = "line") -> StepError:
    where = "{}, {} {}".format(path, unit, number) if number else path
    return StepError(
        "DATASET_INVALID",
        "{}: {}".format(where, what),
        "correct or remove that {} and run again".format(unit),
        {"file": path, unit: str(number)},
    )

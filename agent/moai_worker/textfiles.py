"""Which encoding a text file has, how many lines it holds, and reading them.

Owns telling UTF-8 (with or without a BOM) from CP949, the superset of EUC-KR that Korean Windows writes,
by looking at every line once; a file that mixes the two is refused with the line where it changes. Nothing
is guessed beyond these: bytes that are neither are named by line and place. Standard library only.
"""

import re
from typing import Iterator, NamedTuple, Optional, Tuple

from .errors import StepError

_BLANK = b"\xef\xbb\xbf \t\r\n"
_BOM = b"\xef\xbb\xbf"
#: Three or four bytes that only UTF-8 would put so; two bytes may be a CP949 syllable by chance.
_SURELY_UTF8 = re.compile(rb"[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")


class TextFile(NamedTuple):
    """``encoding`` is ``utf-8`` or ``cp949``; ``rows`` counts lines that are not blank; ``bom``: has one."""

    encoding: str
    rows: int
    bom: bool

    def note(self, path: str) -> str:
        """What a person should know of it; empty for plain UTF-8."""
        if self.encoding == "cp949":
            return "{} is CP949 (EUC-KR), not UTF-8: read as that".format(path)
        return "{} begins with a byte-order mark (BOM), which was left out".format(path) if self.bom else ""


def scan(path: str) -> TextFile:
    """Read the file once.

    Raises:
        StepError: DATASET_INVALID for UTF-16, mixed encodings, or bytes that are neither.
    """
    rows = utf8 = cp949 = 0
    surely_utf8: Optional[int] = None
    not_utf8: Optional[int] = None
    bom = False
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                bom = line.startswith(_BOM)
                if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise bad(path, 1, "the file is UTF-16", unit="file", next_step="save it as UTF-8")
            if line.strip(_BLANK):
                rows += 1
            if line.isascii():
                continue
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                if not_utf8 is None:
                    not_utf8 = number
                try:
                    line.decode("cp949")
                except UnicodeDecodeError:
                    raise bad(
                        path, number, "byte {} of the line is neither UTF-8 nor CP949 (EUC-KR)".format(error.start + 1)
                    ) from error
                cp949 += 1
            else:
                utf8 += 1
                if surely_utf8 is None and _SURELY_UTF8.search(line):
                    surely_utf8 = number
    if not_utf8 is None:
        return TextFile("utf-8", rows, bom)
    if surely_utf8 is not None or bom:
        convert = "convert the file to UTF-8 as a whole and run again"
        if utf8 >= cp949 or surely_utf8 is None:
            raise bad(path, not_utf8, "the line is CP949 (EUC-KR) in a file that begins as UTF-8", next_step=convert)
        raise bad(path, surely_utf8, "the line is UTF-8 in a file that is otherwise CP949 (EUC-KR)", next_step=convert)
    return TextFile("cp949", rows, False)


def lines(path: str, encoding: str = "utf-8") -> Iterator[Tuple[int, bytes]]:
    """Numbered lines as UTF-8 with their ends, without a BOM.

    Raises:
        StepError: DATASET_INVALID at a line that does not decode (the file changed since it was scanned).
    """
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            if number == 1 and raw.startswith(_BOM):
                raw = raw[3:]
            if encoding != "utf-8" and not raw.isascii():
                raw = text(path, number, raw, encoding).encode("utf-8")
            yield number, raw


def text(path: str, number: int, raw: bytes, encoding: str = "utf-8") -> str:
    """A line decoded."""
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        name = "UTF-8" if encoding == "utf-8" else "CP949 (EUC-KR)"
        raise bad(path, number, "byte {} of the line is not {}".format(error.start + 1, name)) from error


def bad(path: str, number: int, what: str, unit: str = "line", next_step: str = "") -> StepError:
    """DATASET_INVALID at a place of a file."""
    where = "{}, {} {}".format(path, unit, number) if number and unit != "file" else path
    return StepError(
        "DATASET_INVALID",
        "{}: {}".format(where, what),
        next_step or "correct or remove that {} and run again".format(unit),
        {"file": path, unit: str(number)},
    )

"""Remote text for a terminal: control sequences out, plain text and (for logs) colours through.

Everything that comes from a container is hostile until it is cleaned here: names, messages, logs.
The log itself is never changed on disk or in a pipe.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

#: Controls that reorder or hide text (UAX 9; zero-width characters): shown as their number.
_INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]|[\U000e0000-\U000e007f]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
#: One whole escape sequence: CSI, OSC/DCS/SOS/PM/APC up to their end, or two bytes (ECMA-48, 5.4-5.6).
_ESCAPE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x9b[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)|[\x90\x98\x9d-\x9f][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]"
)
_SGR = re.compile(r"\x1b\[[0-9;:]*m\Z")
#: The start of a sequence that may go on in the next chunk.
_PARTIAL = re.compile(r"(?:\x1b|[\x90\x98\x9b\x9d-\x9f])[^\x07\x9c]{0,4096}\Z")


def clean(text: str, newlines: bool = False) -> str:
    """One line (or, with ``newlines``, several) that cannot move the cursor, ring or lie."""
    text = _ESCAPE.sub("", text)
    if not newlines:
        text = text.replace("\n", " ").replace("\t", " ")
    text = _CONTROL.sub(lambda m: "\n" if m.group() == "\n" else "", text)
    return _INVISIBLE.sub(lambda m: f"<U+{ord(m.group()):04X}>", text)


class LogCleaner:
    """Bytes of a log, in any pieces, as text for a terminal; colours stay when ``colour``.

    A sequence that is split between two pieces is recognised; ``finish`` gives up the rest.
    """

    def __init__(self, colour: bool) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._colour, self._rest = colour, ""

    def feed(self, data: bytes) -> str:
        """The text of the next piece."""
        text = self._rest + self._decode(data)
        self._rest = ""
        partial = _PARTIAL.search(text)
        if partial and not _ESCAPE.match(text, partial.start()):
            text, self._rest = text[: partial.start()], text[partial.start() :]
        return self._through(text)

    def finish(self) -> str:
        """What was held back, cleaned, with colours switched off."""
        text, self._rest = self._rest + self._decode(b"", True), ""
        return self._through(text) + ("\x1b[0m" if self._colour else "")

    def _through(self, text: str) -> str:
        if "\x1b" in text or any("\x7f" <= c <= "\x9f" for c in text):
            keep = self._colour
            text = _ESCAPE.sub(lambda m: m.group() if keep and _SGR.match(m.group()) else "", text)
            text = re.sub(r"\x1b(?!\[[0-9;:]*m)", "", text)
        return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]", "", text)


def width(text: str) -> int:
    """Columns of a text on a terminal, by East Asian width (UAX 11); ambiguous characters take one."""
    if text.isascii():
        return len(text)
    columns = 0
    for char in text:
        if unicodedata.combining(char):
            continue
        columns += 2 if unicodedata.east_asian_width(char) in "WF" else 1
    return columns


def fit(text: str, columns: int) -> str:
    """The text cut to ``columns``, ending in an ellipsis when something is missing."""
    if width(text) <= columns:
        return text
    out, used = [], 0
    for char in text:
        step = width(char)
        if used + step > columns - 1:
            break
        out.append(char)
        used += step
    return "".join(out) + "…"


def pad(text: str, columns: int) -> str:
    """The text cut or filled with blanks to exactly ``columns``."""
    text = fit(text, columns)
    return text + " " * (columns - width(text))

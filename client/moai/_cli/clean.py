"""Remote text for a terminal: control sequences out, plain text and (for logs) colours through.

Everything that comes from a container is hostile until it is cleaned here: names, messages, logs.
The log itself is never changed on disk or in a pipe.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

#: Characters that reorder text or are not seen (UAX 9, UAX 31; half a surrogate pair): shown as their number.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    "\ufff9-\ufffb\ud800-\udfff\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
#: C0 and C1 but tab, line feed and carriage return.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
#: What ends an OSC, DCS, SOS, PM or APC string; a line's end too, so that a stray start hides one line at most.
_STRING_END = re.compile("[\x07\x18\x1a\x1b\x9c\n]")
_SGR = re.compile("[0-9;:]*")
_MAX_SGR = 256
_TEXT, _ESCAPE, _CSI, _STRING = range(4)


class LogCleaner:
    """Bytes of a log, in any pieces, as text for a terminal; colours stay when ``colour``.

    A small parser of ECMA-48 sequences that keeps its state between pieces: what it lets through does not
    depend on where they were cut. Only SGR (colours) can survive, and only whole.
    """

    def __init__(self, colour: bool) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._colour, self._state, self._held = colour, _TEXT, ""

    def feed(self, data: bytes) -> str:
        """The text of the next piece."""
        return self.through(self._decode(data))

    def finish(self) -> str:
        """What was held back, cleaned, with colours switched off. An unfinished sequence is dropped."""
        text = self.through(self._decode(b"", True))
        self._state, self._held = _TEXT, ""
        return text + ("\x1b[0m" if self._colour else "")

    def through(self, text: str) -> str:
        """The next piece, decoded already."""
        out: list[str] = []
        at = 0
        while at < len(text):
            if self._state == _TEXT:
                found = _CONTROL.search(text, at)
                out.append(text[at : found.start() if found else len(text)])
                at = found.end() if found else len(text)
                if found:
                    self._start(found.group())
            elif self._state == _STRING:
                found = _STRING_END.search(text, at)
                at = len(text) if found is None else found.start() if found.group() in "\x1b\n" else found.end()
                self._state = _STRING if found is None else _TEXT
            else:
                at += self._within(text[at], out)
        return "".join(out)

    def _start(self, control: str) -> None:
        """A control character in plain text: it begins a sequence, or is dropped."""
        self._held = ""
        if control == "\x1b":
            self._state = _ESCAPE
        elif control == "\x9b":
            self._state, self._held = _CSI, "\x9b"  # Never let through: not every terminal takes it for CSI.
        elif control in "\x90\x98\x9d\x9e\x9f":
            self._state = _STRING

    def _within(self, char: str, out: list[str]) -> int:
        """The next character of an escape or control sequence; 1 when it was taken, 0 when it ends it."""
        if not " " <= char <= "~":
            self._state = _TEXT  # A control or foreign character: the sequence is off, the character counts.
            return 0
        if self._state == _ESCAPE:
            if char == "[" and not self._held:
                self._state = _CSI
            elif char in "]PX^_" and not self._held:
                self._state = _STRING
            elif char <= "/":
                self._held = char  # An intermediate byte: "[" and the like mean something else after it.
            else:
                self._state = _TEXT
        elif char <= "?":
            self._held = (self._held + char)[: _MAX_SGR + 1]
        else:
            self._state = _TEXT
            if char == "m" and self._colour and len(self._held) <= _MAX_SGR and _SGR.fullmatch(self._held):
                out.append(f"\x1b[{self._held}m")
        return 1


def clean(text: str, newlines: bool = False) -> str:
    """One line (or, with ``newlines``, several) that cannot move the cursor, ring or lie."""
    if text.isascii() and text.isprintable():
        return text
    cleaner = LogCleaner(colour=False)
    text = (cleaner.through(text) + cleaner.finish()).replace("\r", "")
    if not newlines:
        text = text.replace("\n", " ").replace("\t", " ")
    return _INVISIBLE.sub(lambda m: f"<U+{ord(m.group()):04X}>", text)


def width(text: str) -> int:
    """Columns of a text on a terminal, by East Asian width (UAX 11); ambiguous characters take one."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(char: str) -> int:
    # Vowels and finals of decomposed Hangul (as macOS names files) join the syllable before them.
    if "\u1160" <= char <= "\u11ff" or "\ud7b0" <= char <= "\ud7ff" or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


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
    return "".join(out) + "…" if columns > 0 else ""


def pad(text: str, columns: int) -> str:
    """The text cut or filled with blanks to exactly ``columns``."""
    text = fit(text, columns)
    return text + " " * (columns - width(text))

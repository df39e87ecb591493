"""Who answers when a host or a key needs a person.

Owns the questions on the terminal and nothing else: no answer is kept, logged or put into the
environment. Secrets are read from the terminal itself (``/dev/tty``), so a redirected standard
input never becomes a password. Runs on the laptop, in the thread that connects.
"""

from __future__ import annotations

import getpass
import os
from typing import Protocol

from moai._errors import MoaiError


class Prompter(Protocol):
    """Asks a person. ``available`` False means that nobody is there; then nothing may be asked."""

    @property
    def available(self) -> bool:
        """Whether somebody can be asked."""

    def confirm(self, text: str) -> bool:
        """Shows ``text`` and waits for a yes; everything else is a no."""

    def secret(self, text: str) -> str:
        """Asks for a password or passphrase, without echo."""

    def answer(self, text: str, echo: bool) -> str:
        """Asks a question of the server (a one-time code); shows what is typed only if ``echo``."""


class NoPrompter:
    """For scripts, cron and reconnects: every question is an error that names what a person must do."""

    available = False

    def __init__(self, name: str = "") -> None:
        self._name = name

    def confirm(self, text: str) -> bool:
        """Raises HOST_KEY_UNKNOWN with ``text``."""
        raise MoaiError("HOST_KEY_UNKNOWN", text, next=f"moai remote trust {self._name or 'NAME'}")

    def secret(self, text: str) -> str:
        """Raises SIGN_IN_NEEDED."""
        raise self._needed(text)

    def answer(self, text: str, echo: bool) -> str:
        """Raises SIGN_IN_NEEDED."""
        raise self._needed(text)

    def _needed(self, text: str) -> MoaiError:
        return MoaiError(
            "SIGN_IN_NEEDED",
            f"the host asks for an answer and nobody can be asked here: {text.strip()}",
            next=f"moai remote up {self._name or 'NAME'}",
        )


class TerminalPrompts:
    """Asks on the controlling terminal of this process, even when stdin and stdout are redirected."""

    @property
    def available(self) -> bool:
        """Whether this process has a controlling terminal that can be opened."""
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        except OSError:
            return False
        return True

    def confirm(self, text: str) -> bool:
        """Shows ``text``; only ``yes`` (or ``y``) typed in full is a yes."""
        return self.answer(f"{text}\nContinue (yes/no)? ", echo=True).strip().lower() in ("y", "yes")

    def secret(self, text: str) -> str:
        """Asks without echo. Raises KeyboardInterrupt on Ctrl-C, SIGN_IN_NEEDED on end of file."""
        return self.answer(text, echo=False)

    def answer(self, text: str, echo: bool) -> str:
        """Asks on the terminal; control characters in ``text`` (it may come from a server) are dropped."""
        shown = printable(text)
        if not self.available:
            # getpass would fall back to standard input, which may be a file.
            raise MoaiError("SIGN_IN_NEEDED", f"there is no terminal to ask on: {shown.strip()}")
        try:
            if not echo:
                return getpass.getpass(shown)
            with open("/dev/tty", "r+b", buffering=0) as terminal:
                terminal.write(shown.encode("utf-8", "replace"))
                line = bytearray()
                while not line.endswith(b"\n"):
                    piece = terminal.read(1024)
                    if not piece:
                        raise EOFError
                    line += piece
        except (EOFError, OSError) as error:
            raise MoaiError(
                "SIGN_IN_NEEDED", f"no answer could be read from the terminal to: {shown.strip()}"
            ) from error
        return line.decode("utf-8", "replace").rstrip("\r\n")


def printable(text: str) -> str:
    """``text`` without the control characters with which a server could rewrite the terminal."""
    return "".join(char for char in text if char in "\n\t" or char.isprintable())

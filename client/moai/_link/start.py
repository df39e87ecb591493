"""The start of a holder: the order on stdin, the talk with the command, the first connection.

Started by ``client._start`` with one JSON line on stdin; talks to that command over stdin/stdout in JSON
lines (questions for a person, progress, ready or error). Imports no gRPC: connecting waits for the network
and for the container most of its time, and gRPC is imported meanwhile.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from moai._config import HostConfig
from moai._errors import MoaiError
from moai._link.upstream import Upstream, open_upstream
from moai._ssh import lean


class Starter:
    """The command that started us, as long as it listens; a Prompter for the first connection."""

    def __init__(self, interactive: bool, name: str) -> None:
        self.available = interactive
        self._name = name
        self._lock = threading.Lock()

    def tell(self, **message: Any) -> None:
        """One JSON line; a starter that is gone is no error."""
        with self._lock:
            try:
                sys.stdout.write(json.dumps(message) + "\n")
                sys.stdout.flush()
            except (OSError, ValueError):
                self.available = False

    def say(self, text: str) -> None:
        """Progress for people."""
        self.tell(say=text)

    def _ask(self, kind: str, text: str, echo: bool = False) -> str:
        if not self.available:
            raise MoaiError(
                "SIGN_IN_NEEDED", f"the host asks for an answer and nobody can be asked here: {text.strip()}",
                f"moai remote up {self._name}",
            )
        self.tell(ask=kind, text=text, echo=echo)
        line = sys.stdin.readline()
        if not line:
            self.available = False
            raise MoaiError("SIGN_IN_NEEDED", "the command that was asked has ended", f"moai remote up {self._name}")
        answer = json.loads(line)
        if answer.get("error"):
            raise MoaiError(**answer["error"])
        return str(answer["answer"])

    def confirm(self, text: str) -> bool:
        """See Prompter."""
        if not self.available:
            raise MoaiError("HOST_KEY_UNKNOWN", text, f"moai remote trust {self._name}")
        return self._ask("confirm", text) == "yes"

    def secret(self, text: str) -> str:
        """See Prompter."""
        return self._ask("secret", text)

    def answer(self, text: str, echo: bool) -> str:
        """See Prompter."""
        return self._ask("answer", text, echo)

    def leave(self) -> None:
        """Nobody can be asked from now on; the pipes are closed so the command is not held up."""
        self.available = False
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1):
            os.dup2(null, fd)
        os.close(null)


class FirstUpstream:
    """The first connection, made in a thread from the moment this is made."""

    def __init__(self, host: HostConfig, starter: Starter, folder: Path) -> None:
        self._made: tuple[Upstream, Any] | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._make, args=(host, starter, folder), name="first", daemon=True)
        self._thread.start()

    def _make(self, host: HostConfig, starter: Starter, folder: Path) -> None:
        try:
            self._made = open_upstream(host, starter, starter.say, folder)
        except BaseException as error:  # Handed to whoever asks for the result.
            self._error = error

    def result(self) -> tuple[Upstream, Any]:
        """What ``open_upstream`` returned or raised."""
        self._thread.join()
        if self._made is None:
            raise self._error or RuntimeError("no connection was made")
        return self._made


def main() -> int:
    """One JSON line on stdin: ``{"host": {...}, "path", "interactive"}``."""
    gc.set_threshold(20_000, 20, 50)
    # The order may come a moment later (client.prepare_links): this is what takes longest.
    lean.load()
    import moai._ssh.connect  # noqa: F401

    line = sys.stdin.readline()
    if not line:
        return 0  # Started ahead, and not needed after all.
    order = json.loads(line)
    order["host"]["groups"] = tuple(order["host"]["groups"])
    host = HostConfig(**order["host"])
    path = Path(order["path"])
    starter = Starter(bool(order["interactive"]), host.name)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    # Each answer of the network must not wait 5 ms for the import beside it.
    sys.setswitchinterval(0.0005)
    first = FirstUpstream(host, starter, path.parent)
    import asyncio

    from moai._link.holder import hold

    sys.setswitchinterval(0.005)
    code = asyncio.run(hold(host, starter, path, first))
    # Threads of a connection that is being closed must not keep the process.
    os._exit(code)

"""A byte stream to the agent on a container: one exec channel, one handshake line.

The remote command line is constant (C-shells, fish and noisy rc files leave it alone); everything
variable goes over its stdin. What the login prints before the handshake is skipped, up to 1 MiB.
Runs on the laptop, in the holder of the link or in the command itself.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from moai._errors import MoaiError
from moai._ssh.seam import Connection, Stream

#: Reads one line of sh from stdin and runs it; no ``!``, no newline, no double quote outside.
REMOTE_LINE = "exec /bin/sh -c 'IFS= read -r l && eval \"$l\"'"

_MAX_NOISE_BYTES = 1024 * 1024
_HANDSHAKE_S = 40.0
_NEXT_CHANNEL_S = 3.0

_DIAL = (
    'M="${MOAI_HOME:-$HOME/.moai}"; case "$M" in "~/"*) M="$HOME/${M#??}";; esac; h=; IFS= read -r h </proc/sys/kernel/hostname; f="$M/hosts/$h.dial"; '
    # What others made is not run (-O: it is ours); the folders of a payload are writable by their owner only.
    'if [ -r "$f" ] && [ -O "$f" ]; then { IFS= read -r p; IFS= read -r d; } <"$f"; r="$M/payload/$d/worker/relay.py"; '
    'if [ -x "$p" ] && [ -r "$r" ] && [ -O "$M/payload/$d" ]; then exec "$p" -I -S "$r" NONCE MODE; fi; fi; '
    'echo \'MOAI1 NONCE {"ok": false, "reason": "NOT_INSTALLED", "message": ""}\''
)


@dataclass
class Handshake:
    """What the relay said first.

    Attributes:
        facts: pid, digest, version, protocol range, incarnation, boot, host_id, run folder.
        secret: what the agent wants in every call's metadata.
        rest: bytes that came after the line already.
    """

    facts: dict[str, Any]
    secret: str
    rest: bytes = field(default=b"", repr=False)


class NotInstalled(Exception):
    """The host answered, and no agent is installed there (or a half of one)."""


def dial(connection: Connection, mode: str = "") -> tuple[Stream, Handshake]:
    """Start the relay; afterwards the stream speaks gRPC with the agent.

    Args:
        connection: an authenticated connection.
        mode: "" to relay, ``restart`` to end a running agent first.

    Raises:
        NotInstalled: bootstrap first. MoaiError: AGENT_FAILED, DISK_FULL, HOME_NOT_WRITABLE,
        SHELL_RESTRICTED, LINK_LOST, or what connecting can raise.
    """
    nonce = secrets.token_hex(8)
    line = _DIAL.replace("NONCE", nonce).replace("MODE", mode)
    stream = open_channel(connection)
    try:
        stream.sendall(line.encode() + b"\n")
        answer, rest = read_answer(stream, nonce, _HANDSHAKE_S)
        if not answer.get("ok"):
            if answer.get("reason") == "NOT_INSTALLED":
                raise NotInstalled
            raise MoaiError(
                answer.get("reason", "AGENT_FAILED"), answer.get("message", ""), "moai remote up", {}
            )
        secret = answer.pop("secret", None)
        counts = [answer.get(name, 0) for name in ("pid", "protocol_min", "protocol_max")]
        if not isinstance(secret, str) or not secret.isascii() or not all(isinstance(one, int) for one in counts):
            raise MoaiError("LINK_LOST", "the host's answer arrived altered: it lacks what an agent says of itself", "try again")
        return stream, Handshake(answer, secret, rest)
    except BaseException:
        stream.close()
        raise


def open_channel(connection: Connection) -> Stream:
    """A channel that runs ``REMOTE_LINE``.

    Where sshd allows one session a connection (``MaxSessions 1``), the next one is refused until it has
    forgotten the one before, which takes it a moment: so a refusal is repeated for a few seconds.
    """
    end_s = time.monotonic() + _NEXT_CHANNEL_S
    while True:
        try:
            return connection.open_exec(REMOTE_LINE)
        except MoaiError as error:
            if error.details.get("phase") != "channel open" or time.monotonic() > end_s:
                raise
            time.sleep(0.02)


def read_answer(stream: Stream, nonce: str, timeout_s: float) -> tuple[dict[str, Any], bytes]:
    """The JSON of the line ``MOAI1 NONCE {...}`` and what follows it.

    Raises NotInstalled when the command ended without one although a shell ran it, SHELL_RESTRICTED
    when the login runs no commands, LINK_LOST when it took longer than ``timeout_s``.
    """
    mark = f"MOAI1 {nonce} ".encode()
    seen = bytearray()
    timed_out = threading.Event()

    def give_up() -> None:
        timed_out.set()
        stream.close()

    timer = threading.Timer(timeout_s, give_up)
    timer.daemon = True
    timer.start()
    try:
        while True:
            start = seen.find(mark)
            stop = seen.find(b"\n", start + len(mark)) if start >= 0 else -1
            if stop >= 0:
                body = bytes(seen[start + len(mark) : stop])
                return _answer(body), bytes(seen[stop + 1 :])
            if len(seen) > _MAX_NOISE_BYTES:
                raise MoaiError(
                    "SHELL_RESTRICTED", "the login printed more than 1 MiB instead of running a command",
                    "make its rc files silent for non-interactive shells",
                )
            data = stream.recv(64 * 1024)
            if not data:
                break
            seen += data
    finally:
        timer.cancel()
    if timed_out.is_set():
        raise MoaiError("LINK_LOST", f"the host did not answer within {timeout_s:g} s", "try again")
    raise _ended_early(stream, bytes(seen))


def _answer(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        text = body[:200].decode("utf-8", "replace")
        raise MoaiError("LINK_LOST", f"the host's answer arrived altered: {text}", "try again")
    return answer


def _ended_early(stream: Stream, seen: bytes) -> Exception:
    status = stream.exit_status(5.0)
    failure = getattr(stream, "failure", None)
    known = failure() if failure is not None else None
    if isinstance(known, Exception):
        return known
    said = (stream.recv_stderr_tail() + b"\n" + seen).decode("utf-8", "replace").strip()
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
    if status is None:
        return MoaiError("LINK_LOST", "the connection ended before the host answered", "try again")
    if status in (126, 127):
        return NotInstalled()
    return MoaiError(
        "SHELL_RESTRICTED",
        f"the login does not run commands (exit {status}{': ' + last[:200] if last else ''})",
        "ask for a login that allows `ssh HOST command`",
    )

"""Bring the agent to a container that has none: probe, bundle, send, switch.

Uses nothing there but sh and a Python 3.8+; uses no index when the bundle is cached. Runs on the
laptop, wherever a dial found nothing installed.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from moai import _paths
from moai._bootstrap.targets import Target
from moai._dial import open_channel, read_answer
from moai._errors import MoaiError
from moai._ssh.seam import Connection

_PROBE_S = 60.0
_INSTALL_S = 600.0
_CHUNK = 256 * 1024

# Reads the interpreter and the length of its program from stdin, so the line itself is constant.
_RUN = (
    'IFS= read -r p && IFS= read -r n && exec "$p" -I -S -c '
    '\'import sys; exec(compile(sys.stdin.buffer.read(int(sys.argv[1])), "install", "exec"))\' "$n"'
)

Say = Callable[[str], None]


def probe(connection: Connection) -> tuple[dict[str, str], set[str], str]:
    """Facts of the Python to use, payload folders that are there, and the state folder."""
    stream = open_channel(connection)
    # What the login prints must not pass for an answer: every line of ours carries this.
    nonce = "-" + secrets.token_hex(8)
    script = f"N={nonce}\n".encode() + files("moai._bootstrap").joinpath("probe.sh").read_bytes()
    timer = threading.Timer(_PROBE_S, stream.close)
    timer.daemon = True
    timer.start()
    try:
        stream.sendall(b"exec /bin/sh -s\n" + script)
        stream.shutdown_write()
        output = bytearray()
        while data := stream.recv(64 * 1024):
            output += data
        status = stream.exit_status(5.0)
    finally:
        timer.cancel()
        stream.close()
    facts: dict[str, str] = {}
    refused: list[str] = []
    payloads: set[str] = set()
    home, is_complete = "", False
    for line in output.decode("utf-8", "replace").split("\n"):
        marked, _, rest = line.partition(" ")
        word = marked.removesuffix(nonce) if marked.endswith(nonce) else ""
        if word == "MOAI-HOME":
            home = rest
        elif word == "MOAI-PAYLOAD":
            payloads.add(rest)
        elif word == "MOAI-NONE":
            is_complete = True
        elif word == "MOAI-PY":
            found = json.loads(rest)
            if found["ok"] == "1":
                facts = found
            else:
                refused.append(f"{found['executable']} ({found['python_version']}: {found['why']})")
    if not facts and not is_complete and (home or status is None):
        # Cut off by the network or by our timer: what was not seen may still be there.
        raise MoaiError(
            "LINK_LOST", "the connection ended while a Python was looked for there",
            "try again; if it always ends there, large packets get lost on the way: try a smaller MTU on the laptop",
        )
    if not home:
        raise MoaiError(
            "SHELL_RESTRICTED",
            "the login does not run commands through a shell",
            "ask for a login with a shell",
        )
    if not facts:
        seen = "; found only " + ", ".join(sorted(set(refused))) if refused else ""
        raise MoaiError(
            "PYTHON_NOT_FOUND",
            f"no Python 3.8 or newer with ssl and ctypes was found on the container{seen}",
            "install one there (a conda or miniforge folder in the home is enough)",
        )
    return facts, payloads, home


def install(connection: Connection, say: Say) -> str:
    """Install the agent of this moai; returns its digest folder. Idempotent.

    Raises MoaiError: PYTHON_NOT_FOUND, PLATFORM_UNSUPPORTED, BUNDLE_UNAVAILABLE, BUNDLE_CORRUPT,
    DISK_FULL, HOME_NOT_WRITABLE, LINK_LOST, SHELL_RESTRICTED.
    """
    from moai._bootstrap import bundle as bundles

    facts, payloads, home = probe(connection)
    bundle = bundles.build(Target.from_facts(facts), _paths.cache_folder(), say)
    present = bundle.folder_name in payloads
    if not present:
        say(f"sending the agent ({bundle.size_bytes / 1e6:.1f} MB) to {home}")
    _send(connection, facts["executable"], bundle.path, bundle.digest, 0 if present else bundle.size_bytes)
    return bundle.folder_name


def _send(connection: Connection, python: str, path: Path, digest: str, size: int) -> None:
    nonce = secrets.token_hex(8)
    program = files("moai._bootstrap").joinpath("remote_install.py").read_bytes()
    header = json.dumps({"nonce": nonce, "digest": digest, "size": size}).encode()
    stream = open_channel(connection)
    try:
        stream.sendall(
            _RUN.encode() + b"\n" + python.encode() + b"\n%d\n" % len(program) + program + header + b"\n"
        )
        if size:
            _stream_file(stream, path)
        answer, _ = read_answer(stream, nonce, _INSTALL_S)
    finally:
        stream.close()
    if not answer.get("ok"):
        raise MoaiError(
            str(answer.get("reason", "AGENT_FAILED")),
            f"the agent could not be installed: {answer.get('message', '')}",
            "free some space there, or set MOAI_HOME to a folder with space"
            if answer.get("reason") == "DISK_FULL"
            else "",
        )


def _stream_file(stream: Any, path: Path) -> None:
    with path.open("rb") as source:
        while block := source.read(_CHUNK):
            try:
                stream.sendall(block)
            except MoaiError:
                # The far side may have answered (disk full) and hung up: its answer tells more.
                return

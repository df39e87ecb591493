"""Find the holder of a host, or start one; relay its questions to the terminal.

Twenty commands at once start one holder: a lock file per host orders them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moai import _paths
from moai._config import HostConfig
from moai._errors import MoaiError
from moai._link.nursery import Child, Nursery
from moai._ssh.prompts import Prompter
from moai._version import __version__
from moai._withheld import environment

#: A first bootstrap fetches wheels; everything in it has its own, shorter bound.
_START_S = 900.0

#: Not ``-m``: Python would import from the folder the command was typed in before anything else, and a
#: project may well have a ``json.py`` or a ``select.py``.
_PROGRAM = "import sys; sys.path[:1] == [''] and sys.path.pop(0); from moai._link.start import main; sys.exit(main())"


def socket_path(host: HostConfig) -> Path:
    """Where the holder of this host listens; differs when its settings differ, or moai itself after an update."""
    return _links() / f"{_key(host)}-{hashlib.sha256(__version__.encode()).hexdigest()[:6]}.sock"


def socket_paths(host: HostConfig) -> list[Path]:
    """Where holders of this host may listen, those of other versions of moai among them."""
    return sorted(_links().glob(f"{_key(host)}*.sock"))


def _links() -> Path:
    return _paths.own(_paths.cache_folder() / "links")


def _key(host: HostConfig) -> str:
    key = json.dumps([asdict(host), os.environ.get("MOAI_SSH_CONFIG", ""), str(_paths.config_folder())])
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def is_listening(path: Path) -> bool:
    """Whether a holder accepts connections there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(5.0)
    fd = None
    try:
        target = str(path)
        if len(os.fsencode(path)) >= 100:
            fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            target = f"/proc/self/fd/{fd}/{path.name}"
        sock.connect(target)
        return True
    except OSError:
        return False
    finally:
        sock.close()
        if fd is not None:
            os.close(fd)


def ensure_holder(host: HostConfig, prompts: Prompter, say: Callable[[str], None]) -> Path:
    """The socket of a live holder; starts one when there is none.

    Raises MoaiError as connecting and bootstrapping do; HOST_UNREACHABLE when the holder itself fails.
    """
    path = socket_path(host)
    if is_listening(path):
        return path
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock_within(lock, _START_S, host)
        if not is_listening(path):
            _start(host, path, prompts, say)
        return path
    finally:
        os.close(lock)


def _lock_within(fd: int, timeout_s: float, host: HostConfig) -> None:
    end_s = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end_s:
                raise MoaiError(
                    "HOST_UNREACHABLE", f"another command has been connecting to {host.name} for {timeout_s:g} s",
                    f"moai remote disconnect {host.name}",
                ) from None
            time.sleep(0.02)


_NURSERY = _PROGRAM.replace("_link.start", "_link.nursery")

#: Processes started ahead by ``prepare_links``, by socket path; each waits for its order.
_spares: dict[Path, subprocess.Popen[bytes]] = {}

#: Forks the holders of many hosts (``prepare_links``); one a process.
_nursery: Nursery | None = None
_nursery_lock = threading.Lock()


def prepare_links(hosts: Iterable[HostConfig]) -> None:
    """Start the holders that will be needed while the caller still imports gRPC.

    A process that gets no order ends with the caller. For several hosts it is one process that forks them.
    """
    wanted = [path for path in (socket_path(host) for host in hosts if not host.is_local) if path not in _spares]
    missing = [path for path in wanted if not is_listening(path)]
    if len(missing) > 1:
        _prepare_nursery()
    if len(wanted) != 1 or not missing:
        return
    (path,) = missing
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # Another command is making the link.
    finally:
        os.close(lock)
    _spares[path] = _spawn(path)


def _prepare_nursery() -> None:
    global _nursery
    if sys.platform != "linux":
        return
    with _nursery_lock:
        if _nursery is not None and not _nursery.is_usable:
            _nursery.close()
            _nursery = None
        if _nursery is None:
            _nursery = Nursery(_NURSERY)


def _bear(path: Path) -> Child | None:
    """A holder from the nursery; None when there is none, or none with this process's variables."""
    log = _log(path)
    try:
        with _nursery_lock:
            return _nursery.bear(log) if _nursery is not None and _nursery.is_usable else None
    except OSError:
        return None  # It has left, or ran out of descriptors: start one the usual way.
    finally:
        os.close(log)


def _log(path: Path) -> int:
    return os.open(path.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def _spawn(path: Path) -> subprocess.Popen[bytes]:
    log = _log(path)
    try:
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, "moai._link.holder"],  # The last word is for people who read ps.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            env=environment(GRPC_ENABLE_FORK_SUPPORT="0"),
        )
    finally:
        os.close(log)


def _start(host: HostConfig, path: Path, prompts: Prompter, say: Callable[[str], None]) -> None:
    process: subprocess.Popen[bytes] | Child = _spares.pop(path, None) or _bear(path) or _spawn(path)
    assert process.stdin and process.stdout
    order = {"host": asdict(host), "path": str(path), "interactive": prompts.available}
    try:
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
        _converse(process, host, path, prompts, say)
    except BaseException:
        # Its whole session: it may be fetching wheels with a child of its own.
        if isinstance(process, Child):
            process.kill()
        else:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise
    finally:
        process.stdin.close()
        process.stdout.close()
    if not isinstance(process, Child):
        # The holder outlives us on purpose; Popen must not complain about that.
        process.returncode = 0


def _converse(
    process: subprocess.Popen[bytes] | Child, host: HostConfig, path: Path, prompts: Prompter, say: Callable[[str], None]
) -> None:
    assert process.stdin and process.stdout
    end_s = time.monotonic() + _START_S
    pending = b""
    while True:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, end_s - time.monotonic()))
        data = os.read(process.stdout.fileno(), 65536) if ready else b""
        if not data:
            raise MoaiError("HOST_UNREACHABLE", f"the link to {host.name} ended while it was made: {_last_line(path)}", "")
        pending += data
        *lines, pending = pending.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message.get("ready"):
                return
            if isinstance(process, Child) and "pid" in message:
                process.pid = int(message["pid"])
            if message.get("error"):
                raise MoaiError(**message["error"])
            if message.get("say"):
                say(message["say"])
            if message.get("ask"):
                answer = json.dumps(_answer(message, prompts)).encode() + b"\n"
                process.stdin.write(answer)
                process.stdin.flush()


def _answer(message: dict[str, Any], prompts: Prompter) -> dict[str, Any]:
    try:
        if message["ask"] == "confirm":
            return {"answer": "yes" if prompts.confirm(message["text"]) else "no"}
        if message["ask"] == "secret":
            return {"answer": prompts.secret(message["text"])}
        return {"answer": prompts.answer(message["text"], message["echo"])}
    except MoaiError as error:
        return {"error": {"reason": error.reason, "message": error.message, "next": error.next}}


def _last_line(path: Path) -> str:
    try:
        lines = path.with_suffix(".log").read_text("utf-8", "replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1][:300] if lines else "it left no message"

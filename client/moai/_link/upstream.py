"""One dialled agent: SSH connection, relay stream, bridge socket. Blocking; no gRPC here.

gRPC in Python dials addresses, not file descriptors, so the stream is bridged to a Unix socket that
accepts exactly one connection and is removed at once. When either side ends, everything of this
upstream is closed: a new one is made from scratch, because gRPC's own reconnect would dial a socket
that is gone.
"""

from __future__ import annotations

import math
import os
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moai import _paths, _skew
from moai._config import HostConfig
from moai._dial import Handshake, NotInstalled, dial
from moai._errors import MoaiError
from moai._ssh.prompts import Prompter
from moai._ssh.seam import Connection, Stream
from moai._version import __version__

_CHUNK = 256 * 1024
_PROTOCOL = 1
#: Our own channel dials at once.
_ACCEPT_S = 60.0
#: ``up`` on a fresh host follows the install of the link's own start by a moment.
_NEW_S = 10.0


class Upstream:
    """A live way to one agent.

    Attributes:
        address: gRPC target of the bridge; good for one connection.
        handshake: what the relay said.
        ended: set once either side has closed.
    """

    def __init__(self, connection: Connection, stream: Stream, handshake: Handshake, folder: Path, is_installed: bool = False) -> None:
        self.handshake = handshake
        self._installed_s = time.monotonic() if is_installed else -math.inf
        self.ended = threading.Event()
        self._connection, self._stream = connection, stream
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._path, self.address, self._folder_fd = _bind(self._listener, folder)
        self._listener.listen(1)
        self._peer: socket.socket | None = None
        self._is_released = False
        threading.Thread(target=self._serve, name="bridge", daemon=True).start()

    def _serve(self) -> None:
        try:
            # Not by accept's own timeout: after the shutdown in ``close`` it would spin until that is over.
            self._listener.setblocking(False)
            waiter = select.poll()
            waiter.register(self._listener, select.POLLIN)
            waiter.poll(_ACCEPT_S * 1000)
            peer, _ = self._listener.accept()
        except OSError:
            self.close()
            return
        finally:
            self._listener.close()
            _unlink(self._path)
            if self._folder_fd is not None:
                os.close(self._folder_fd)
        peer.setblocking(True)
        self._peer = peer
        threading.Thread(target=self._upload, args=(peer,), name="bridge-up", daemon=True).start()
        try:
            if self.handshake.rest:
                peer.sendall(self.handshake.rest)
            while data := self._stream.recv(_CHUNK):
                peer.sendall(data)
        except (OSError, MoaiError):
            pass  # Either side is gone; close() below tells everybody.
        finally:
            self.close()

    def _upload(self, peer: socket.socket) -> None:
        try:
            while data := peer.recv(_CHUNK):
                self._stream.sendall(data)
        except (OSError, MoaiError):
            pass  # As above.
        finally:
            self.close()

    def was_just_installed(self) -> bool:
        """Whether this moai's agent was installed on the way here, seconds ago: there is nothing to bring up. True once."""
        installed_s, self._installed_s = self._installed_s, -math.inf
        return not self.ended.is_set() and time.monotonic() - installed_s < _NEW_S

    def close(self) -> None:
        """End everything; harmless when repeated, and safe from any thread."""
        if self.ended.is_set():
            return
        self.ended.set()
        self._stream.close()
        if not self._is_released:
            self._connection.close()
        for sock in (self._peer, self._listener):
            if sock is not None:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # Not connected any more.
        _unlink(self._path)


    def release(self) -> Connection:
        """End stream and bridge but not the connection, which is the caller's from now on."""
        self._is_released = True
        self.close()
        return self._connection


def _bind(listener: socket.socket, folder: Path) -> tuple[Path, str, int | None]:
    name = f"b{os.getpid()}-{secrets.token_hex(4)}.sock"
    path = folder / name
    if len(os.fsencode(path)) < 100:
        listener.bind(str(path))
        os.chmod(path, 0o600)
        return path, f"unix:{path}", None
    # sun_path holds about 107 bytes: go through an open folder (Linux).
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    short = f"/proc/self/fd/{fd}/{name}"
    listener.bind(short)
    os.chmod(short, 0o600)
    return path, f"unix:{short}", fd


def _unlink(path: Path) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        return


def open_connection(host: HostConfig, prompts: Prompter, expected_key: Any = None) -> Connection:
    """An authenticated SSH connection by the host's transport (paramiko or the user's ssh)."""
    from moai._ssh.resolve import resolve

    resolved = resolve(host.address, host.ssh_config or None)
    own = str(_paths.known_hosts_file())
    if host.transport == "openssh":
        from moai._ssh.openssh import OpenSshConnection

        return OpenSshConnection(resolved, own, name=host.name)
    from moai._ssh.connect import connect

    return connect(resolved, prompts, own, expected_key=expected_key, name=host.name)


def open_upstream(
    host: HostConfig,
    prompts: Prompter,
    say: Callable[[str], None],
    folder: Path,
    mode: str = "",
    expected_key: Any = None,
    connection: Connection | None = None,
) -> tuple[Upstream, Any]:
    """Connect, dial, bootstrap if needed.

    Args:
        mode: "" as needed; ``up`` installs this moai's agent and restarts it when it differs, unless a newer one
            runs; ``up-force`` also then.
        expected_key: host key of this session's earlier connection.
        connection: one that stands already, without a session on it; closed when this fails.

    Returns the upstream and the host key seen (None with OpenSSH).
    """
    connection = connection or open_connection(host, prompts, expected_key)
    try:
        stream, handshake, installed = _dial_or_install(connection, say, mode)
        _check_protocol(handshake)
        is_new = bool(installed) and handshake.facts.get("digest") == installed
        return Upstream(connection, stream, handshake, folder, is_new), getattr(connection, "host_key", None)
    except BaseException:
        connection.close()
        raise


def _dial_or_install(connection: Connection, say: Callable[[str], None], mode: str) -> tuple[Stream, Handshake, str]:
    """The dialled stream, and the digest of what was installed because nothing was there ("" else, and for ``up``)."""
    if mode in ("up", "up-force"):
        if mode == "up":
            _refuse_downgrade(connection)
        wanted = _install(connection, say)
        stream, handshake = dial(connection)
        if handshake.facts.get("digest") == wanted:
            return stream, handshake, ""
        stream.close()
        return (*dial(connection, "restart"), "")
    try:
        return (*dial(connection), "")
    except NotInstalled:
        say("no agent there yet; bringing one up")
    wanted = _install(connection, say)
    try:
        return (*dial(connection), wanted)
    except NotInstalled:
        text = "the agent was installed but cannot be started"
        raise MoaiError("AGENT_FAILED", text, "moai remote up", {"phase": "install"}) from None


def _install(connection: Connection, say: Callable[[str], None]) -> str:
    from moai._bootstrap.install import install  # Not loaded by the many links that find an agent.

    try:
        return install(connection, say)
    except MoaiError as error:
        # Who follows a job does not try this again and again: each try sends megabytes.
        error.details.setdefault("phase", "install")
        raise


def _refuse_downgrade(connection: Connection) -> None:
    """CLIENT_TOO_OLD when the agent there is of a newer moai than this one."""
    try:
        stream, handshake = dial(connection)
    except (NotInstalled, MoaiError):
        return  # Nothing there, or nothing that can be used: what follows says more.
    stream.close()
    theirs = str(handshake.facts.get("version"))
    if _skew.is_newer(theirs, __version__):
        raise MoaiError(
            "CLIENT_TOO_OLD",
            f"the agent there is of moai {theirs}, this is {__version__}: it would be replaced by an older one",
            "update moai on the laptop; moai remote up --force replaces it all the same",
        )


def _check_protocol(handshake: Handshake) -> None:
    low, high = handshake.facts.get("protocol_min", 0), handshake.facts.get("protocol_max", 0)
    if low > _PROTOCOL:
        raise MoaiError("CLIENT_TOO_OLD", f"the agent speaks protocol {low} and newer", "update moai on the laptop")
    if high < _PROTOCOL:
        raise MoaiError("AGENT_TOO_OLD", f"the agent speaks protocol {high} and older", "moai remote up")

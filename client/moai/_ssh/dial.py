"""The bytes under an SSH connection: a TCP socket or a ProxyCommand, each bounded in time.

Owns sockets and the ProxyCommand child, nothing of SSH. Every failure is HOST_UNREACHABLE and names
the phase and the address. Runs on the laptop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

from moai._errors import MoaiError
from moai._ssh.resolve import Resolved

# What has not been acknowledged for this long is a dead link. paramiko counts no keepalive replies,
# so without this a blackholed connection is never noticed (measured: nothing after 150 s).
TCP_USER_TIMEOUT_MS = 15_000
_DARWIN_RXT_CONNDROPTIME_S = 0x80
_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}


@dataclass(frozen=True)
class Timeouts:
    """How long each phase of connecting may take, in seconds (0 < value).

    ``person_s`` is how long a person may take for one answer; the others are waits for the machine.
    """

    tcp_s: float = 15.0
    banner_s: float = 15.0
    key_exchange_s: float = 15.0
    auth_s: float = 15.0
    channel_s: float = 15.0
    person_s: float = 300.0


DEFAULT_TIMEOUTS = Timeouts()


def unreachable(resolved: Resolved, phase: str, why: str, next: str = "") -> MoaiError:
    """HOST_UNREACHABLE with the phase and the address in message and details."""
    return MoaiError(
        "HOST_UNREACHABLE",
        f"{resolved.alias} ({resolved.address}): {why} [{phase}]",
        next=next or _ssh_line(resolved),
        details={"phase": phase, "address": resolved.address, "host": resolved.alias},
    )


def _ssh_line(resolved: Resolved) -> str:
    typed = resolved.typed
    if typed is None:
        return f"ssh -v {resolved.alias}"
    port = f"-p {typed.port} " if typed.port else ""
    return f"ssh -v {port}{typed.user + '@' if typed.user else ''}{typed.host}"


def open_tcp(resolved: Resolved, timeouts: Timeouts) -> socket.socket:
    """A connected TCP socket; every address of the name is tried within one time limit.

    Raises:
        MoaiError: HOST_UNREACHABLE, phase ``name lookup`` or ``TCP connect``.
    """
    limit_s = resolved.connect_timeout_s or timeouts.tcp_s
    family = _FAMILIES.get(resolved.address_family, socket.AF_UNSPEC)
    try:
        found = socket.getaddrinfo(resolved.hostname, resolved.port, family, socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        why = f"the name {resolved.hostname} has no address ({getattr(error, 'strerror', None) or error})"
        raise unreachable(resolved, "name lookup", why) from error
    deadline = time.monotonic() + limit_s
    why = f"no answer in {limit_s:g} s"
    for family, kind, protocol, _name, address in found:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            break
        sock = socket.socket(family, kind, protocol)
        try:
            if resolved.bind_address:
                sock.bind((resolved.bind_address, 0))
            sock.settimeout(left_s)
            sock.connect(address)
            _tune(sock)
        except OSError as error:
            sock.close()
            if isinstance(error, TimeoutError):
                why = f"{address[0]} did not answer in {limit_s:g} s"
            else:
                why = f"{address[0]}: {error.strerror or error}"
            continue
        return sock
    raise unreachable(resolved, "TCP connect", why)


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
    elif sys.platform == "darwin":
        sock.setsockopt(socket.IPPROTO_TCP, _DARWIN_RXT_CONNDROPTIME_S, TCP_USER_TIMEOUT_MS // 1000)


class ProxyCommandChild:
    """The user's ProxyCommand, speaking over one end of a socket pair (a real socket for paramiko).

    It runs in its own session, so that Ctrl-C in the terminal does not end the connection.
    """

    def __init__(self, resolved: Resolved) -> None:
        ours, theirs = socket.socketpair()
        shell = os.environ.get("SHELL") or "/bin/sh"
        try:
            self._process = subprocess.Popen(
                [shell, "-c", "exec " + resolved.proxy_command],
                stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            ours.close()
            raise unreachable(resolved, "ProxyCommand", f"{shell}: {error.strerror}") from error
        finally:
            theirs.close()
        self.sock = ours

    def close(self) -> None:
        """Ends the socket and the child with everything in its session. Harmless when repeated."""
        self.sock.close()
        if self._process.returncode is None:
            # It may already have ended by itself, when its socket closed.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(timeout=2.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

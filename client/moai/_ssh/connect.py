"""An authenticated paramiko connection whose host key was judged before anything else was said.

Owns the order of connecting: bytes, key exchange, host key, sign-in. Refuses to authenticate to a key
that is unknown, changed or revoked; never asks for agent, X11 or port forwarding; offers no SHA-1, DSA
or CBC. Repeats nothing by itself. Runs on the laptop; one paramiko thread a connection.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import paramiko

from moai._errors import MoaiError
from moai._ssh import auth, hostkey
from moai._ssh.dial import DEFAULT_TIMEOUTS, ProxyCommandChild, Timeouts, open_tcp, unreachable
from moai._ssh.known_hosts import HostKey, Judgement
from moai._ssh.prompts import NoPrompter, Prompter
from moai._ssh.resolve import Resolved, resolve
from moai._ssh.stream import ChannelStream
from moai._ssh.transport import OneServiceTransport

KEEPALIVE_S = 10
MAX_JUMPS = 8
# At most this many key exchanges at once in a process: 60 at once take four times as long as 8.
MAX_HANDSHAKES = 16
WINDOW_BYTES = 2**24
PACKET_BYTES = 2**17
MIN_PARAMIKO = (5, 0)

_handshakes = threading.BoundedSemaphore(MAX_HANDSHAKES)
_LOG_NAME = "moai.ssh"
# Without a handler paramiko's tracebacks would go to the terminal.
logging.getLogger(_LOG_NAME).addHandler(logging.NullHandler())

_DISABLED = {
    "keys": ["ssh-rsa", "ssh-dss"],
    "pubkeys": ["ssh-rsa", "ssh-dss", "ssh-rsa-cert-v01@openssh.com"],
    "kex": [
        "diffie-hellman-group1-sha1",
        "diffie-hellman-group14-sha1",
        "diffie-hellman-group-exchange-sha1",
    ],
    "ciphers": ["aes128-cbc", "aes192-cbc", "aes256-cbc", "3des-cbc", "blowfish-cbc"],
    "macs": ["hmac-md5", "hmac-md5-96", "hmac-sha1", "hmac-sha1-96"],
}
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr", "aes192-ctr")


@dataclass(frozen=True)
class Offered:
    """What a host showed in key exchange, and what our files say about it; nothing was authenticated."""

    key: HostKey
    judgement: Judgement


class SshConnection:
    """An authenticated connection (``seam.Connection``). Safe to use from several threads."""

    def __init__(
        self,
        resolved: Resolved,
        transport: paramiko.Transport,
        under: list[Callable[[], None]],
        timeouts: Timeouts,
    ) -> None:
        self.resolved = resolved
        self.transport = transport
        self._under = under
        self._timeouts = timeouts
        self.host_key = hostkey.offered_key(transport)

    @property
    def fingerprint(self) -> str:
        """SHA256 fingerprint of the host key of this session."""
        return str(self.host_key.fingerprint)

    @property
    def is_alive(self) -> bool:
        """Whether the connection still stands, as far as is known here."""
        return bool(self.transport.is_active() and self.transport.is_authenticated())

    def open_exec(self, command: str) -> ChannelStream:
        """Runs ``command`` on a new channel; see ``seam.Connection.open_exec``."""
        return ChannelStream.open(self.transport, command, self.resolved, self._timeouts.channel_s)

    def close(self) -> None:
        """Ends this connection, then the jump connections and the ProxyCommand under it."""
        _close(self.transport, self._under)

    def __enter__(self) -> SshConnection:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def connect(
    resolved: Resolved,
    prompts: Prompter,
    own_known_hosts: str,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
    *,
    expected_key: HostKey | None = None,
    pinned_fingerprint: str = "",
    name: str = "",
) -> SshConnection:
    """Connects, judges the host key, signs in.

    Args:
        resolved: from ``resolve()``. Jump hosts are resolved and judged in the same way.
        prompts: who answers questions; with ``BatchMode yes`` nobody.
        own_known_hosts: our own file, read beside the user's; new keys are added there only.
        timeouts: limits of each phase; ``ConnectTimeout`` of the configuration replaces ``tcp_s``.
        expected_key: the key of an earlier session; any other ends as HOST_KEY_CHANGED.
        pinned_fingerprint: ``SHA256:...``; an unknown host must show it and is then remembered unasked.
        name: how messages call the host; the alias if empty.

    Raises:
        MoaiError: HOST_UNREACHABLE (with phase and address), HOST_KEY_UNKNOWN, HOST_KEY_CHANGED,
            HOST_KEY_REVOKED, SIGN_IN_NEEDED, SIGN_IN_FAILED, CONFIG_INVALID. None of them is retried.
    """
    name = name or resolved.alias
    if resolved.batch_mode:
        prompts = NoPrompter(name)
    policy = hostkey.Policy(resolved, own_known_hosts, name, expected_key, pinned_fingerprint)
    transport, under = _exchange_keys(resolved, prompts, policy, timeouts, ())
    try:
        policy.settle(hostkey.offered_key(transport), prompts)
        auth.authenticate(transport, resolved, prompts, timeouts, name)
        alive_s = resolved.server_alive_interval_s
        transport.set_keepalive(int(min(KEEPALIVE_S, alive_s) if alive_s >= 1 else KEEPALIVE_S))
        return SshConnection(resolved, transport, under, timeouts)
    except BaseException:
        _close(transport, under)
        raise


def offered_host_key(
    resolved: Resolved,
    prompts: Prompter,
    own_known_hosts: str,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
    name: str = "",
) -> Offered:
    """The host key the host shows now, for ``moai remote trust``; leaves before any authentication.

    Jump hosts on the way are judged and signed in to as usual. Raises what ``connect`` does.
    """
    policy = hostkey.Policy(resolved, own_known_hosts, name or resolved.alias)
    transport, under = _exchange_keys(resolved, prompts, policy, timeouts, ())
    try:
        key = hostkey.offered_key(transport)
        return Offered(key, policy.judge(key))
    finally:
        _close(transport, under)


def _exchange_keys(
    resolved: Resolved, prompts: Prompter, policy: hostkey.Policy, timeouts: Timeouts, jumped: tuple[str, ...]
) -> tuple[OneServiceTransport, list[Callable[[], None]]]:
    """A transport after key exchange, not yet judged, and how to close what lies under it."""
    _check_paramiko()
    under: list[Callable[[], None]] = []
    try:
        sock: object
        if resolved.proxy_command:
            child = ProxyCommandChild(resolved)
            under.append(child.close)
            sock = child.sock
        elif resolved.proxy_jump:
            sock = _through_jumps(resolved, prompts, policy.own_known_hosts, timeouts, under, jumped)
        else:
            tcp = open_tcp(resolved, timeouts)
            under.append(tcp.close)
            sock = tcp
        with _handshakes:
            return _handshake(sock, resolved, policy, timeouts), under
    except BaseException:
        _close(None, under)
        raise


def _through_jumps(
    resolved: Resolved,
    prompts: Prompter,
    own_known_hosts: str,
    timeouts: Timeouts,
    under: list[Callable[[], None]],
    jumped: tuple[str, ...],
) -> paramiko.Channel:
    """Connects hop by hop; returns the channel from the last hop to ``resolved``.

    The first hop may have a jump of its own in the configuration; for the later ones the way is given.
    """
    jumped = (*jumped, resolved.address)
    hops = [resolve(hop, resolved.ssh_config) for hop in resolved.proxy_jump]
    if len(jumped) > MAX_JUMPS or any(hop.address in jumped for hop in hops):
        raise MoaiError(
            "CONFIG_INVALID",
            f"ProxyJump of {resolved.alias} goes in a circle: {' <- '.join((*jumped, hops[0].address))}",
            next="exclude the jump host from its own ProxyJump in ~/.ssh/config",
        )
    channel: paramiko.Channel | None = None
    for hop, following in zip(hops, [*hops[1:], resolved], strict=True):
        policy = hostkey.Policy(hop, own_known_hosts, hop.alias)
        if channel is None:
            transport, below = _exchange_keys(hop, prompts, policy, timeouts, jumped)
            under[:0] = below
        else:
            with _handshakes:
                transport = _handshake(channel, hop, policy, timeouts)
        under.insert(0, transport.close)
        policy.settle(hostkey.offered_key(transport), prompts)
        auth.authenticate(transport, hop, prompts, timeouts, hop.alias)
        transport.set_keepalive(KEEPALIVE_S)
        try:
            channel = transport.open_channel(
                "direct-tcpip",
                (following.hostname, following.port),
                ("127.0.0.1", 0),
                timeout=timeouts.channel_s,
            )
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise unreachable(
                following, f"through jump host {hop.alias}", str(error) or "no answer"
            ) from error
        under.insert(0, channel.close)
    if channel is None:
        raise MoaiError("CONFIG_INVALID", f"ProxyJump of {resolved.alias} names no host")
    return channel


def _handshake(
    sock: object, resolved: Resolved, policy: hostkey.Policy, timeouts: Timeouts
) -> OneServiceTransport:
    transport = OneServiceTransport(
        sock,
        default_window_size=WINDOW_BYTES,
        default_max_packet_size=PACKET_BYTES,
        disabled_algorithms=_DISABLED,
        strict_kex=True,
    )
    transport.set_log_channel(_LOG_NAME)
    transport.use_compression(False)
    transport.banner_timeout = timeouts.banner_s
    transport.handshake_timeout = timeouts.key_exchange_s
    transport.channel_timeout = timeouts.channel_s
    options = transport.get_security_options()
    options.ciphers = [cipher for cipher in _CIPHERS if cipher in options.ciphers]
    options.key_types = policy.order_algorithms(options.key_types)
    done = threading.Event()
    try:
        transport.start_client(event=done)
        # Two waits: a host that says nothing and one that stops in the middle are different faults.
        if not done.wait(timeouts.banner_s) and not transport.remote_version:
            why = f"connected, but no SSH greeting in {timeouts.banner_s:g} s"
            raise unreachable(resolved, "SSH greeting", why)
        if not done.is_set() and not done.wait(timeouts.key_exchange_s):
            why = f"key exchange did not finish in {timeouts.key_exchange_s:g} s"
            raise unreachable(resolved, "key exchange", why)
        if not transport.is_active():
            phase = "key exchange" if transport.remote_version else "SSH greeting"
            raise unreachable(resolved, phase, _why(transport.get_exception(), phase))
        return transport
    except BaseException:
        transport.close()
        raise


def _why(error: BaseException | None, phase: str) -> str:
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        return f"no algorithm that both sides accept: {error}"
    if error is None or isinstance(error, (EOFError, OSError)):
        return (
            "the host closed the connection"
            if phase == "key exchange"
            else "the host closed without an SSH greeting"
        )
    return str(error)


def _check_paramiko() -> None:
    version = tuple(int(part) for part in paramiko.__version__.split(".")[:2])
    if version < MIN_PARAMIKO:
        raise MoaiError(
            "CONFIG_INVALID",
            f"paramiko {paramiko.__version__} accepts SHA-1 signatures; 5.0 or newer is needed",
            next="pip install --upgrade 'paramiko>=5.0'",
        )


def _close(transport: paramiko.Transport | None, under: list[Callable[[], None]]) -> None:
    """Closes from the top down: a transport must not find its socket gone before it has ended."""
    if transport is not None:
        transport.close()
    for close in under:
        close()

"""The user's keys: which files and agent keys may be offered, and how they are opened.

Owns reading of private and public key files and the connection to ssh-agent. Refuses private keys
that others can read, as OpenSSH does. Keeps no passphrase. Runs on the laptop; private keys stay in
this process and are never sent anywhere.
"""

from __future__ import annotations

import base64
import binascii
import os
import socket
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from paramiko.agent import AgentSSH

from moai._ssh.known_hosts import parse_key
from moai._ssh.resolve import Resolved

AGENT_TIMEOUT_S = 60.0
"""How long the agent may take for a signature: it may ask its user for a touch or a consent."""

_CLASSES = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
_OPENSSH_MAGIC = b"openssh-key-v1\0"


@dataclass
class Identity:
    """A key that may be offered: in the agent (``key`` set) or in a file not opened yet."""

    label: str
    path: str = ""
    key: paramiko.PKey | None = None
    encrypted: bool = False


@dataclass
class Identities:
    """What there is to offer, in order; ``skipped`` says why configured files are not offered."""

    offered: list[Identity] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    agent: SocketAgent | None = None

    def close(self) -> None:
        """Ends the connection to the agent."""
        if self.agent is not None:
            self.agent.close()


class SocketAgent(AgentSSH):  # type: ignore[misc]
    """An ssh-agent at a given socket (paramiko's own only knows SSH_AUTH_SOCK)."""

    def __init__(self, path: str) -> None:
        super().__init__()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(AGENT_TIMEOUT_S)
            sock.connect(path)
            self._connect(sock)
        except BaseException:
            sock.close()
            raise

    def close(self) -> None:
        """Ends the connection to the agent."""
        self._close()


def find_identities(resolved: Resolved) -> Identities:
    """Agent keys and key files in OpenSSH's order: configured agent keys, other agent keys, files.

    With IdentitiesOnly an agent key is offered only if a configured file is its public part. Files
    that need a passphrase come last, so that nobody is asked for one that is not needed.
    """
    found = Identities()
    files = [path for path in dict.fromkeys(resolved.identity_files) if os.path.exists(path) or _pub(path)]
    public = {blob: path for path in files if (blob := public_blob(path)) is not None}
    agent_keys = _agent_keys(resolved, found)
    configured = [key for key in agent_keys if key.blob in public]
    others = [] if resolved.identities_only else [key for key in agent_keys if key.blob not in public]
    for key in configured + others:
        found.offered.append(Identity(f"agent key {key.comment or key.get_name()}", key=key))
    in_agent = {public[key.blob] for key in configured}
    plain: list[Identity] = []
    encrypted: list[Identity] = []
    for path in files:
        if path in in_agent:
            continue
        identity = _file_identity(path, found)
        if identity is not None:
            (encrypted if identity.encrypted else plain).append(identity)
    found.offered += plain + encrypted
    return found


def load_key(path: str, passphrase: str | None = None) -> paramiko.PKey | None:
    """The private key of a file, or None when the passphrase is wrong or the kind is not supported."""
    for key_class in _CLASSES:
        try:
            return key_class.from_private_key_file(path, password=passphrase)
        except (paramiko.SSHException, ValueError, TypeError, OSError, IndexError):
            continue
    return None


def public_blob(path: str) -> bytes | None:
    """The public part of a key file, without a passphrase: from ``PATH.pub``, or from the file itself."""
    for candidate in (path + ".pub", path):
        try:
            data = Path(candidate).read_bytes()
        except OSError:
            continue
        key = parse_key(data.split(b"\n", 1)[0])
        if key is not None:
            return bytes(key.blob)
        payload = _openssh_payload(data)
        if payload is not None:
            return payload[1]
    return None


def is_encrypted(path: str) -> bool:
    """Whether a private key file needs a passphrase."""
    data = Path(path).read_bytes()
    payload = _openssh_payload(data)
    return payload[0] != b"none" if payload is not None else b"ENCRYPTED" in data


def _pub(path: str) -> bool:
    return os.path.exists(path + ".pub")


def _file_identity(path: str, found: Identities) -> Identity | None:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            return None
        data = Path(path).read_bytes()
        if b"PRIVATE KEY" not in data:
            found.skipped.append(f"{path} (no private key in it, and the agent does not hold it)")
            return None
        if mode & 0o077 and os.stat(path).st_uid == os.getuid():
            found.skipped.append(f"{path} (others can read it: chmod 600)")
            return None
        return Identity(path, path=path, encrypted=is_encrypted(path))
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            found.skipped.append(f"{path} ({error.strerror})")
        return None


def _agent_keys(resolved: Resolved, found: Identities) -> list[paramiko.AgentKey]:
    path = resolved.identity_agent
    if path == "SSH_AUTH_SOCK":
        path = os.environ.get("SSH_AUTH_SOCK", "")
    if path in ("", "none"):
        return []
    try:
        found.agent = SocketAgent(path)
    except (OSError, paramiko.SSHException) as error:
        found.skipped.append(f"agent at {path} ({error})")
        return []
    return list(found.agent.get_keys())


def _openssh_payload(data: bytes) -> tuple[bytes, bytes] | None:
    """(cipher, public blob) of an OpenSSH private key file (PROTOCOL.key), or None for other formats."""
    begin, end = b"-----BEGIN OPENSSH PRIVATE KEY-----", b"-----END OPENSSH PRIVATE KEY-----"
    if begin not in data or end not in data:
        return None
    try:
        raw = base64.b64decode(data.split(begin, 1)[1].split(end, 1)[0])
    except binascii.Error:
        return None
    if not raw.startswith(_OPENSSH_MAGIC):
        return None
    fields, position = [], len(_OPENSSH_MAGIC)
    # Cipher, KDF and its options are strings; then comes the number of keys, then the public key.
    for skip in (0, 0, 0, 4):
        position += skip
        if position + 4 > len(raw):
            return None
        (size,) = struct.unpack(">I", raw[position : position + 4])
        fields.append(raw[position + 4 : position + 4 + size])
        position += 4 + size
    return fields[0], fields[3]

"""Whether a host key is the one this machine knows, judged as OpenSSH judges it.

Owns the reading of known_hosts files (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT": plain and hashed names,
wildcards, negation, ``[host]:port``, ``@revoked``, ``@cert-authority``) and the writing of our own file.
Refuses to write any other file, and a line it cannot read costs only that line. paramiko's reader is
not used: it gives up a whole file for one marker and knows no wildcards. Runs on the laptop.
"""

from __future__ import annotations

import base64
import binascii
import enum
import fcntl
import hashlib
import hmac
import os
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SSH_PORT = 22
_TYPES = (
    "ssh-ed25519", "ssh-rsa", "ssh-dss", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com",
)  # fmt: skip
_FIELDS = {"ssh-rsa": 2, "ssh-dss": 4, "ssh-ed25519": 1, "sk-ssh-ed25519@openssh.com": 2,
           "sk-ecdsa-sha2-nistp256@openssh.com": 3}  # fmt: skip
MIN_RSA_BITS = 1024


class HostKey(NamedTuple):
    """A public host key: its type (``ssh-rsa`` for every RSA key) and its wire form (RFC 4253, 6.6)."""

    key_type: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """As OpenSSH prints it: ``SHA256:`` and unpadded base64."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")

    @property
    def line(self) -> str:
        """``type base64``, as it stands in a known_hosts file."""
        return f"{self.key_type} {base64.b64encode(self.blob).decode()}"


class Verdict(enum.Enum):
    """What the files say about a key."""

    OK = "ok"
    UNKNOWN = "unknown"
    CHANGED = "changed"
    REVOKED = "revoked"


@dataclass(frozen=True)
class Entry:
    """One key that a file holds for the host. ``marker`` is ``""``, ``@revoked`` or ``@cert-authority``."""

    marker: str
    key: HostKey
    file: str
    line_number: int


@dataclass(frozen=True)
class Judgement:
    """A verdict and what it rests on. ``note`` is set where we are stricter than OpenSSH, and says why."""

    verdict: Verdict
    entries: tuple[Entry, ...] = ()
    note: str = ""

    @property
    def known(self) -> tuple[Entry, ...]:
        """The plain entries: keys this host may have."""
        return tuple(entry for entry in self.entries if not entry.marker)


def lookup_name(host: str, port: int, host_key_alias: str = "") -> str:
    """How known_hosts names the host: the alias, ``host``, or ``[host]:port`` off port 22."""
    if host_key_alias:
        return host_key_alias
    host = host.lower()
    return host if port == SSH_PORT else f"[{host}]:{port}"


def judge(
    host: str, port: int, host_key_alias: str, key: HostKey, files: Sequence[str | os.PathLike[str]]
) -> Judgement:
    """What ``files`` say about ``key`` offered by ``host``; files that do not exist say nothing.

    As in OpenSSH all files count together, any plain entry of another key means CHANGED (of
    another type too), and off port 22 an entry for the bare name still makes a key known.
    """
    entries = tuple(read_entries(lookup_name(host, port, host_key_alias), files))
    bare: tuple[Entry, ...] = ()
    if not host_key_alias and port != SSH_PORT:
        bare = tuple(read_entries(host.lower(), files))
    for group, note in ((entries, ""), (bare, "the key is revoked for this host on its usual port")):
        if any(entry.marker == "@revoked" and entry.key.blob == key.blob for entry in group):
            return Judgement(Verdict.REVOKED, group, note)
    plain = [entry for entry in entries if not entry.marker]
    if any(entry.key == key for entry in plain):
        return Judgement(Verdict.OK, entries)
    if plain:
        return Judgement(Verdict.CHANGED, entries)
    if any(entry.key == key for entry in bare if not entry.marker):
        return Judgement(Verdict.OK, bare)
    note = ""
    if any(entry.marker == "@cert-authority" for entry in entries + bare):
        note = 'a @cert-authority entry covers this host; only transport = "openssh" can check certificates'
    return Judgement(Verdict.UNKNOWN, entries, note)


def known_types(
    host: str, port: int, host_key_alias: str, files: Sequence[str | os.PathLike[str]]
) -> tuple[str, ...]:
    """Types of the keys known for the host, best source first, to be asked for first in a handshake."""
    names = [lookup_name(host, port, host_key_alias)]
    if not host_key_alias and port != SSH_PORT:
        names.append(host.lower())
    for name in names:
        types = [entry.key.key_type for entry in read_entries(name, files) if not entry.marker]
        if types:
            return tuple(dict.fromkeys(types))
    return ()


def read_entries(name: str, files: Sequence[str | os.PathLike[str]]) -> Iterator[Entry]:
    """Every readable entry of ``files`` whose pattern covers ``name``, in order."""
    for file in files:
        try:
            data = Path(file).read_bytes()
        except OSError:
            # OpenSSH passes over files it cannot open: the host is then unknown, never trusted.
            continue
        for number, line in enumerate(data.split(b"\n"), 1):
            parsed = _parse_line(line)
            if parsed is not None and _covers(parsed[1], name):
                key = parse_key(parsed[2])
                if key is not None:
                    yield Entry(parsed[0], key, os.fspath(file), number)


def parse_key(text: bytes) -> HostKey | None:
    """A ``type base64 [comment]`` text as a key, or None when it is not a key OpenSSH would take."""
    words = text.split(None, 1)
    if len(words) != 2:
        return None
    key_type = words[0].decode("ascii", "replace")
    encoded = words[1].replace(b"\t", b" ").split(b" ")[0].strip()
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    return HostKey(key_type, blob) if key_type in _TYPES and _is_key(key_type, blob) else None


def remember(
    path: str | os.PathLike[str],
    host: str,
    port: int,
    key: HostKey,
    host_key_alias: str = "",
    hash_names: bool = False,
) -> None:
    """Adds ``key`` for the host to our own file (0600, in a 0700 folder), atomically; twice is once.

    Args:
        path: our own known_hosts file, never the user's.
        hash_names: store the name hashed, as ``HashKnownHosts yes`` asks.
    """
    name = lookup_name(host, port, host_key_alias)

    def add(lines: list[bytes]) -> list[bytes]:
        stored = _hash_name(name) if hash_names else name
        return [*lines, f"{stored} {key.line}".encode()]

    if not any(entry.key == key and not entry.marker for entry in read_entries(name, [path])):
        _rewrite(Path(path), add)


def forget(path: str | os.PathLike[str], host: str, port: int, host_key_alias: str = "") -> int:
    """Removes the host's plain entries from our own file; returns how many. Markers and wildcards stay."""
    name = lookup_name(host, port, host_key_alias)
    removed = 0

    def without(lines: list[bytes]) -> list[bytes]:
        nonlocal removed
        kept = []
        for line in lines:
            parsed = _parse_line(line)
            if parsed is not None and not parsed[0] and _is_exactly(parsed[1], name):
                removed += 1
            else:
                kept.append(line)
        return kept

    if Path(path).exists():
        _rewrite(Path(path), without)
    return removed


def _parse_line(line: bytes) -> tuple[str, bytes, bytes] | None:
    """(marker, host patterns, rest) of a line; None for blanks, comments and unknown markers."""
    line = line.strip(b" \t\r")
    if not line or line.startswith(b"#"):
        return None
    marker = ""
    if line.startswith(b"@"):
        word, _, line = line.replace(b"\t", b" ").partition(b" ")
        marker = word.decode("ascii", "replace")
        if marker not in ("@revoked", "@cert-authority"):
            return None
        line = line.lstrip(b" ")
    words = line.replace(b"\t", b" ").split(b" ", 1)
    return (marker, words[0], words[1].strip()) if len(words) == 2 else None


def _covers(patterns: bytes, name: str) -> bool:
    """Whether a host field covers ``name``: hashed, or patterns of which none negates it."""
    if patterns.startswith(b"|"):
        return _hash_matches(patterns, name)
    found = False
    lowered = name.lower()
    for pattern in patterns.decode("utf-8", "surrogateescape").lower().split(","):
        if pattern.startswith("!"):
            if _glob(pattern[1:], lowered):
                return False
        elif _glob(pattern, lowered):
            found = True
    return found


def _is_exactly(field: bytes, name: str) -> bool:
    if field.startswith(b"|"):
        return _hash_matches(field, name)
    return field.decode("utf-8", "surrogateescape").lower() == name.lower()


def _glob(pattern: str, text: str) -> bool:
    """``*`` and ``?`` only. Not fnmatch: there ``[host]:port`` would be a set of characters."""
    star, mark, p, t = -1, 0, 0, 0
    while t < len(text):
        if p < len(pattern) and pattern[p] == "*":
            star, mark, p = p, t, p + 1
        elif p < len(pattern) and pattern[p] in ("?", text[t]):
            p, t = p + 1, t + 1
        elif star >= 0:
            mark += 1
            p, t = star + 1, mark
        else:
            return False
    return not pattern[p:].strip("*")


def _hash_matches(field: bytes, name: str) -> bool:
    parts = field.split(b"|")
    if len(parts) != 4 or parts[1] != b"1":
        return False
    try:
        salt, digest = base64.b64decode(parts[2], validate=True), base64.b64decode(parts[3], validate=True)
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)


def _hash_name(name: str) -> str:
    salt = os.urandom(20)
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def _is_key(key_type: str, blob: bytes) -> bool:
    """Whether the blob is a complete key of that type: the right fields and nothing behind them."""
    fields = list(_strings(blob))
    if not fields or fields[-1] is None or fields[0] != key_type.encode():
        return False
    body = [field for field in fields[1:] if field is not None]
    if len(body) != _FIELDS.get(key_type, 2):
        return False
    if "ed25519" in key_type:
        return len(body[0]) == 32
    if key_type == "ssh-rsa":
        return int.from_bytes(body[1], "big").bit_length() >= MIN_RSA_BITS and body[1][0] < 0x80
    if "nistp" in key_type:
        curve = key_type.split("@")[0].rsplit("-", 1)[1]
        point_bytes = {"nistp256": 65, "nistp384": 97, "nistp521": 133}[curve]
        return body[0] == curve.encode() and len(body[1]) == point_bytes and body[1][0] == 4
    return True


def _strings(blob: bytes) -> Iterable[bytes | None]:
    """The length-prefixed fields of a key; a last None stands for a torn one."""
    position = 0
    while position < len(blob):
        if position + 4 > len(blob):
            yield None
            return
        (size,) = struct.unpack(">I", blob[position : position + 4])
        position += 4 + size
        if position > len(blob):
            yield None
            return
        yield blob[position - size : position]


def _rewrite(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Replaces our file under a lock: two commands that learn a key at once lose neither."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        old = path.read_bytes().split(b"\n") if path.exists() else []
        new = change([line for line in old if line])
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(b"".join(line + b"\n" for line in new))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        os.close(lock)

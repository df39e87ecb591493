"""The decision about a host key: go on, ask a person, or stop.

Owns the rules around ``known_hosts.judge``: StrictHostKeyChecking, what a reconnect expects, pinned
fingerprints, RevokedHostKeys, and the words shown. Refuses by raising before anything was authenticated.
There is no setting that accepts a changed key. Runs on the laptop.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moai._errors import MoaiError
from moai._ssh.known_hosts import HostKey, Judgement, Verdict, judge, known_types, lookup_name, remember
from moai._ssh.prompts import Prompter
from moai._ssh.resolve import Resolved

if TYPE_CHECKING:
    import paramiko

_RSA = ("rsa-sha2-512", "rsa-sha2-256")
#: First bytes of a key revocation list (OpenSSH, PROTOCOL.krl).
_KRL_MAGIC = b"SSHKRL\n\0"


def offered_key(transport: paramiko.Transport) -> HostKey:
    """The key the host proved to hold in this transport's key exchange."""
    key = transport.get_remote_server_key()
    return HostKey(key.get_name(), key.asbytes())


@dataclass(frozen=True)
class Policy:
    """How one host's key is judged. ``expected_key`` and ``pinned_fingerprint`` as in ``connect``."""

    resolved: Resolved
    own_known_hosts: str
    name: str
    expected_key: HostKey | None = None
    pinned_fingerprint: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that counts: the user's, the system's, ours."""
        return (
            *self.resolved.user_known_hosts_files,
            *self.resolved.global_known_hosts_files,
            self.own_known_hosts,
        )

    @property
    def _host(self) -> tuple[str, int, str]:
        return self.resolved.hostname, self.resolved.port, self.resolved.host_key_alias

    def order_algorithms(self, supported: tuple[str, ...]) -> list[str]:
        """Host key algorithms to offer: the expected and known types first, within HostKeyAlgorithms.

        Asking for a type we do not know, while we know another, would look like a changed key.
        """
        allowed = list(supported)
        if self.resolved.host_key_algorithms:
            configured = [name for name in self.resolved.host_key_algorithms if name in supported]
            allowed = configured or allowed
        first = [] if self.expected_key is None else [self.expected_key.key_type]
        first += known_types(*self._host, self.files)
        wanted = [name for key_type in first for name in (_RSA if key_type == "ssh-rsa" else (key_type,))]
        return sorted(allowed, key=lambda name: wanted.index(name) if name in wanted else len(wanted))

    def judge(self, key: HostKey) -> Judgement:
        """What files and RevokedHostKeys say about ``key``."""
        if self.resolved.revoked_host_keys and _is_revoked(self.resolved.revoked_host_keys, key):
            return Judgement(Verdict.REVOKED, note=f"listed in {self.resolved.revoked_host_keys}")
        return judge(*self._host, key, self.files)

    def settle(self, key: HostKey, prompts: Prompter) -> None:
        """Returns when ``key`` may be used; asks and remembers if that is allowed.

        Raises:
            MoaiError: HOST_KEY_CHANGED, HOST_KEY_REVOKED or HOST_KEY_UNKNOWN.
        """
        judgement = self.judge(key)
        if judgement.verdict is Verdict.REVOKED:
            raise self._error("HOST_KEY_REVOKED", key, f"is marked as revoked{_because(judgement.note)}", "")
        if self.expected_key is not None and key != self.expected_key:
            raise self._changed(key, f"this session began with {self.expected_key.fingerprint}")
        if self.pinned_fingerprint and key.fingerprint != self.pinned_fingerprint:
            raise self._changed(key, f"the pinned one is {self.pinned_fingerprint}")
        if judgement.verdict is Verdict.CHANGED:
            known = "; ".join(
                f"{entry.key.key_type} {entry.key.fingerprint} ({entry.file}:{entry.line_number})"
                for entry in judgement.known
            )
            raise self._changed(key, f"known is {known}")
        if judgement.verdict is Verdict.UNKNOWN and self.expected_key is None:
            self._learn(key, prompts, judgement.note)

    def _learn(self, key: HostKey, prompts: Prompter, note: str) -> None:
        shown = f"{key.key_type} {key.fingerprint}"
        if not self.pinned_fingerprint and self.resolved.strict_host_key_checking != "accept-new":
            if self.resolved.strict_host_key_checking == "yes":
                raise self._unknown(key, f"is not known{_because(note)} and StrictHostKeyChecking is yes")
            if not prompts.available:
                raise self._unknown(key, f"is not known{_because(note)} and nobody can be asked here")
            question = (
                f"The host key of {self.name} ({self.resolved.address}) is not known{_because(note)}.\n"
                f"It is {shown}"
            )
            if not prompts.confirm(question):
                raise self._unknown(key, "was not confirmed")
        if self.own_known_hosts in (
            *self.resolved.user_known_hosts_files,
            *self.resolved.global_known_hosts_files,
        ):
            raise MoaiError(
                "CONFIG_INVALID", f"{self.own_known_hosts} belongs to ssh; moai does not write to it"
            )
        remember(self.own_known_hosts, *self._host[:2], key, self._host[2], self.resolved.hash_known_hosts)

    def _changed(self, key: HostKey, known: str) -> MoaiError:
        return self._error(
            "HOST_KEY_CHANGED", key, f"is not the known one: {known}. Nothing was sent to it",
            f"moai remote trust {self.name}",
        )  # fmt: skip

    def _unknown(self, key: HostKey, what: str) -> MoaiError:
        return self._error("HOST_KEY_UNKNOWN", key, what, f"moai remote trust {self.name}")

    def _error(self, reason: str, key: HostKey, what: str, next: str) -> MoaiError:
        return MoaiError(
            reason,
            f"the host key of {self.name} ({self.resolved.address}), {key.key_type} {key.fingerprint}, {what}",
            next=next or "ask who runs the host for its new key",
            details={
                "host": self.name,
                "address": self.resolved.address,
                "known_hosts_name": lookup_name(*self._host),
                "offered_fingerprint": key.fingerprint,
                "offered_key_type": key.key_type,
            },
        )


def _because(note: str) -> str:
    return f" ({note})" if note else ""


def _is_revoked(file: str, key: HostKey) -> bool:
    """Whether RevokedHostKeys names the key: a list of public keys, or a KRL (read by ssh-keygen).

    A file that is not there or cannot be read revokes all, as in OpenSSH (sshkey_check_revoked).
    """
    try:
        raw = Path(file).read_bytes()
    except OSError:
        return True
    if not raw.startswith(_KRL_MAGIC):
        return any(_same_key(line, key) for line in raw.splitlines())
    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder, "key.pub")
        candidate.write_text(key.line + "\n")
        try:
            result = subprocess.run(
                ["ssh-keygen", "-Q", "-f", file, str(candidate)],
                stdin=subprocess.DEVNULL, capture_output=True, timeout=10.0, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return True
    return result.returncode != 0


def _same_key(line: bytes, key: HostKey) -> bool:
    words = line.split()
    return len(words) >= 2 and not line.startswith(b"#") and words[1] == key.line.split()[1].encode()

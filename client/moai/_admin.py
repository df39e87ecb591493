"""Housekeeping of hosts on the laptop: settings, host keys, links, carried bundles.

Runs in the laptop's process; only ``trust`` and ``disconnect`` touch anything beyond our own files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moai import _config, _paths
from moai._config import HostConfig
from moai._errors import MoaiError
from moai._ssh.prompts import Prompter


def add_host(name: str, address: str, make_default: bool = False, **settings: Any) -> HostConfig:
    """Write a host to the settings file; existing ones are changed. Raises UsageError."""
    from moai._ssh.names import parse_target

    if address != _config.LOCAL:
        parse_target(address)
    changes = {"address": address, **{k: v for k, v in settings.items() if v}}
    _config.save_host(name, changes, make_default)
    return _config.load().hosts[name]


def change_host(name: str, **changes: Any) -> HostConfig:
    """Change settings of a configured host; None removes one. Raises UsageError (HOST_UNKNOWN)."""
    _known(name)
    _config.save_host(name, changes)
    return _config.load().hosts[name]


def remove_host(name: str) -> None:
    """Forget a host: settings and link. Nothing on the container changes."""
    host = _known(name)
    disconnect(host)
    _config.remove_host(name)


def set_default_host(name: str) -> None:
    """The host used when none is named."""
    _known(name)
    _config.set_default(name)


def _known(name: str) -> HostConfig:
    hosts = _config.load().hosts
    if name not in hosts:
        import difflib

        near = difflib.get_close_matches(name, hosts, n=1)
        hint = f"did you mean {near[0]}?" if near else "moai remote list"
        raise MoaiError("HOST_UNKNOWN", f"no host is configured as {name!r}", hint)
    return hosts[name]


@dataclass(frozen=True)
class HostKeyOffer:
    """The key a host shows now. ``verdict`` is known, unknown, changed or revoked; ``known`` lists what
    our files hold for it; ``replaceable`` says that only our own entry stands against it."""

    name: str
    address: str
    fingerprint: str
    verdict: str
    known: tuple[str, ...]
    replaceable: bool


def host_key(name: str, prompts: Prompter | None = None) -> HostKeyOffer:
    """Ask a host for its key; nothing is authenticated and nothing is written."""
    offered, resolved, own = _offer(name, prompts)
    judged = offered.judgement
    known = tuple(f"{e.key.key_type} {e.key.fingerprint} ({e.file}:{e.line_number})" for e in judged.entries)
    foreign = [e for e in judged.entries if Path(e.file) != Path(own)]
    verdict = judged.verdict.value
    return HostKeyOffer(
        name, resolved.address, offered.key.fingerprint, verdict, known, verdict in ("unknown", "changed") and not foreign
    )


def trust(name: str, fingerprint: str, prompts: Prompter | None = None) -> None:
    """Remember a host's key in our own file, replacing only our own entry.

    Args:
        fingerprint: ``SHA256:...`` that the host must show now.

    Raises HostKeyError when it shows another one, or when the user's own file holds another key.
    """
    from moai._ssh.known_hosts import forget, lookup_name, remember

    offered, resolved, own = _offer(name, prompts)
    if offered.key.fingerprint != fingerprint:
        raise MoaiError(
            "HOST_KEY_CHANGED",
            f"{name} shows {offered.key.fingerprint}, not {fingerprint}",
            "compare it with what the container's owner tells you",
        )
    foreign = [e for e in offered.judgement.entries if Path(e.file) != Path(own)]
    if offered.judgement.verdict.value in ("changed", "revoked") and foreign:
        raise MoaiError(
            "HOST_KEY_CHANGED",
            f"your own file holds another key for {name}: {foreign[0].file}:{foreign[0].line_number}",
            f"ssh-keygen -R '{lookup_name(resolved.hostname, resolved.port, resolved.host_key_alias)}' -f {foreign[0].file}",
        )
    forget(own, resolved.hostname, resolved.port, resolved.host_key_alias)
    remember(own, resolved.hostname, resolved.port, offered.key, resolved.host_key_alias, resolved.hash_known_hosts)


def _offer(name: str, prompts: Prompter | None) -> tuple[Any, Any, str]:
    from moai._ssh.connect import offered_host_key
    from moai._ssh.prompts import NoPrompter
    from moai._ssh.resolve import resolve

    host = _config.load().pick(name)[0]
    if host.is_local:
        raise MoaiError("UNSUPPORTED", "the laptop itself has no host key to trust", "")
    resolved = resolve(host.address, host.ssh_config or None)
    own = str(_paths.known_hosts_file())
    return offered_host_key(resolved, prompts or NoPrompter(name), own, name=name), resolved, own


def disconnect(host: HostConfig) -> bool:
    """End the link of a host, that of a version of moai before this one too; True when there was one. Jobs and agent go on."""
    if host.is_local:
        return False
    from moai._link.client import is_listening, socket_paths
    from moai._rpc import close_link

    found = [path for path in socket_paths(host) if is_listening(path)]
    for path in found:
        close_link(path)
    return bool(found)


def is_linked(host: HostConfig) -> bool:
    """Whether a link to the host is up."""
    from moai._link.client import is_listening, socket_path

    return not host.is_local and is_listening(socket_path(host))


def ssh_command(name: str) -> list[str]:
    """The argv of the user's own ssh to a host."""
    host = _config.load().pick(name)[0]
    if host.is_local:
        return [os.environ.get("SHELL") or "/bin/sh", "-l"]
    from moai._ssh.names import parse_target

    target = parse_target(host.address)
    argv = ["ssh"]
    config = host.ssh_config or os.environ.get("MOAI_SSH_CONFIG", "")
    if config:
        argv += ["-F", config]
    if target.port:
        argv += ["-p", str(target.port)]
    return [*argv, "--", f"{target.user}@{target.host}" if target.user else target.host]


def build_bundle(name: str, path: Path) -> Path:
    """Make the agent's bundle for a target (``cp38-x86_64-glibc2.31``) and copy it to ``path``."""
    from moai._bootstrap import bundle
    from moai._bootstrap.targets import Target

    return bundle.export(bundle.build(Target.parse(name), _paths.cache_folder()), path)


def add_bundle(path: Path) -> str:
    """Put a carried bundle into the cache, checked file by file; returns its digest."""
    from moai._bootstrap import bundle

    return bundle.add(path, _paths.cache_folder()).digest

"""What the shell completes, from settings and cache of the laptop: no host is asked, nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import moai

T = TypeVar("T")


def _quietly(ask: Callable[[], Iterable[T]]) -> list[T]:
    """The answers; none when the settings are broken: a completion has nowhere to say so."""
    try:
        return list(ask())
    except (moai.MoaiError, OSError):
        return []


def host_names(incomplete: str) -> list[str]:
    """Values of ``--on``: names, ``@groups``, ``all`` and ``local``; also after a comma."""

    def ask() -> list[str]:
        hosts = moai.config().hosts
        groups = sorted({f"@{group}" for host in hosts.values() for group in host.groups})
        return [*hosts, *groups, "all", "local"]

    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in _quietly(ask) if name.startswith(last)]


def configured(incomplete: str) -> list[str]:
    """Names of configured hosts."""
    return [name for name in _quietly(lambda: moai.config().hosts) if name.startswith(incomplete)]


def job_names(incomplete: str) -> list[str]:
    """Ids of jobs this laptop knows, the newest first, and ``last``; as ``HOST/ID`` once a slash is typed."""
    known = _quietly(moai.known_jobs)
    names = [f"{host}/{job}" for job, host in known] if "/" in incomplete else [job for job, _ in known] + ["last"]
    return [name for name in names if name.startswith(incomplete)][:100]


def environments(incomplete: str) -> list[str]:
    """Names of environments that were listed before."""
    return [name for name in _quietly(moai.environment_names) if name.startswith(incomplete)]

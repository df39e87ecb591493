"""``jobs.json`` in the laptop's cache: which host a job id belongs to, so job verbs need no ``--on``.

A convenience, rebuilt from the hosts when it is lost or broken; several commands may write it at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moai import _paths

_MAX_JOBS = 5000


def _path() -> Path:
    return _paths.cache_folder() / "jobs.json"


def _read() -> dict[str, dict[str, Any]]:
    try:
        value = json.loads(_path().read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    jobs = value.get("jobs") if isinstance(value, dict) else None
    return {k: v for k, v in jobs.items() if isinstance(v, dict)} if isinstance(jobs, dict) else {}


@contextmanager
def _locked() -> Iterator[None]:
    fd = os.open(_path().with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def remember(job_id: str, host: str, host_id: str = "") -> None:
    """Note a job, and the container it is on; a cache that cannot be written costs only the convenience."""
    try:
        with _locked():
            jobs = _read()
            jobs[job_id] = {"host": host, "time": time.time(), "host_id": host_id}
            newest = sorted(jobs.items(), key=lambda item: -float(item[1].get("time") or 0))[:_MAX_JOBS]
            temp = _path().with_name(f".jobs.{os.getpid()}")
            temp.write_text(json.dumps({"jobs": dict(newest)}))
            os.replace(temp, _path())
    except OSError:
        return


def remember_if_new(job_id: str, host: str, host_id: str = "") -> None:
    """Note a job somebody looked at; one that is known keeps its place in the order."""
    if job_id not in _read():
        remember(job_id, host, host_id)


def container_of(job_id: str) -> str:
    """Host id of the container a known job was submitted on; "" when it was not noted."""
    return str((_read().get(job_id) or {}).get("host_id") or "")


def known_jobs() -> list[tuple[str, str]]:
    """(job id, host) of every known job, the newest first; no host is asked."""
    newest = sorted(_read().items(), key=lambda item: -float(item[1].get("time") or 0))
    return [(job_id, str(entry.get("host") or "")) for job_id, entry in newest]


def remember_environments(host: str, names: list[str]) -> None:
    """Note the names of a host's environments, for completion."""
    try:
        with _locked():
            known = _environments()
            if known.get(host) == names:
                return
            known[host] = names
            temp = _path().with_name(f".environments.{os.getpid()}")
            temp.write_text(json.dumps(known))
            os.replace(temp, _path().with_name("environments.json"))
    except OSError:
        return


def _environments() -> dict[str, list[str]]:
    try:
        value = json.loads(_path().with_name("environments.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def environment_names(host: str = "") -> list[str]:
    """Names of environments seen there, or anywhere; no host is asked."""
    known = _environments()
    picked = [known.get(host, [])] if host else list(known.values())
    return sorted({str(name) for names in picked for name in names})


def find(text: str) -> list[tuple[str, str]]:
    """(job id, host) of an exact id, else of every id that begins so; ``last`` is the newest."""
    jobs = _read()
    if text == "last":
        newest = sorted(jobs.items(), key=lambda item: -float(item[1].get("time") or 0))[:1]
        return [(job_id, str(entry["host"])) for job_id, entry in newest]
    if text in jobs:
        return [(text, str(jobs[text]["host"]))]
    return [(job_id, str(entry["host"])) for job_id, entry in jobs.items() if text and job_id.startswith(text)]


def forget(job_id: str) -> None:
    """A deleted job."""
    try:
        with _locked():
            jobs = _read()
            if jobs.pop(job_id, None) is not None:
                temp = _path().with_name(f".jobs.{os.getpid()}")
                temp.write_text(json.dumps({"jobs": jobs}))
                os.replace(temp, _path())
    except OSError:
        return

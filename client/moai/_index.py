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


def remember(job_id: str, host: str) -> None:
    """Note a job; a cache that cannot be written costs only the convenience."""
    try:
        with _locked():
            jobs = _read()
            jobs[job_id] = {"host": host, "time": time.time()}
            newest = sorted(jobs.items(), key=lambda item: -float(item[1].get("time") or 0))[:_MAX_JOBS]
            temp = _path().with_name(f".jobs.{os.getpid()}")
            temp.write_text(json.dumps({"jobs": dict(newest)}))
            os.replace(temp, _path())
    except OSError:
        return


def remember_if_new(job_id: str, host: str) -> None:
    """Note a job somebody looked at; one that is known keeps its place in the order."""
    if job_id not in _read():
        remember(job_id, host)


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

"""Code that no job needs any more goes by itself, 14 days later; results never.

Owns the daily look at ``WORK/code`` while nothing runs: copies of deleted jobs, snapshots and contents that
nothing names, mirrors nobody fetched from. A copy in which something was written after it was laid out is
kept and named, and so is one that another container made (work folders may be shared). Blocking; refuses
to run beside a call or a job. Every other cleaning is asked for by name.
"""

import contextlib
import fcntl
import json
import os
import shutil
import sys
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence, Set, Tuple

from moai_worker import jobdir

from moai_agent.config import Config

KEEP_S = 14 * 86400.0
#: Between two looks, and how long nobody may have called before one.
EVERY_S, QUIET_S = 86400.0, 120.0
#: In a copy: who made it, that it is whole, and since when its job is gone.
OWNER, MARKER, GONE = ".moai/owner", ".moai/snapshot", ".moai/gone"


class Expired(NamedTuple):
    """``removed`` paths, the ``bytes`` they took, and ``kept``: (copy of a deleted job, why it stays)."""

    removed: List[str]
    bytes: int
    kept: List[Tuple[str, str]]


def remember(config: Config, work: str) -> None:
    """Note a work folder that got code; it may be another one than the container's own."""
    kept = jobdir.read_json(config.host.settings) or {}
    if work not in kept.get("code_works", []):
        kept["code_works"] = kept.get("code_works", []) + [work]
        jobdir.write_json(config.host.settings, kept)


def is_due(config: Config, idle_s: float, active: int) -> bool:
    """Whether it is quiet, and a day since the last look."""
    if active or idle_s < QUIET_S:
        return False
    try:
        return time.time() - os.path.getmtime(_stamp(config)) > EVERY_S
    except OSError:
        return True


def look(config: Config, go_on: Callable[[], bool]) -> List[Expired]:
    """Look through all work folders; ``go_on`` False ends it between two removals."""
    found = []
    plans = {job: jobdir.read_json(config.host.job(job).plan) or {} for job in config.host.job_ids()}
    for work in (jobdir.read_json(config.host.settings) or {}).get("code_works", []):
        if os.path.isdir(os.path.join(work, "code")):
            found.append(expire(work, plans, config.host_id, time.time(), go_on))
    kept = [{"path": path, "why": why} for one in found for path, why in one.kept]
    size = sum(one.bytes for one in found)
    jobdir.write_json(_stamp(config), {"time": time.time(), "removed": sum(len(one.removed) for one in found), "bytes": size, "kept": kept})
    for one in kept:
        sys.stderr.write("code of a deleted job is kept: %(path)s (%(why)s)\n" % one)
    return found


def expire(
    work: str, plans: Dict[str, Dict[str, Any]], host_id: str, now: float, go_on: Callable[[], bool] = lambda: True
) -> Expired:
    """One work folder; ``plans`` are those of all jobs that are there, by id."""
    code = os.path.join(work, "code")
    inputs = [s["inputs"] for plan in plans.values() for s in plan.get("steps", []) if s.get("module") in ("code", "gitcode")]
    targets = {i["target"] for i in inputs}
    names = {os.path.basename(i["manifest"]) for i in inputs if i.get("manifest")}
    result = Expired([], 0, [])
    size = 0
    for copy in _members(os.path.join(code, "jobs")):
        if not go_on():
            return Expired(result.removed, size, result.kept)
        if os.path.basename(copy) in plans or copy in targets:
            _forget(copy)
        else:
            size += _judge_copy(copy, host_id, now, result)
    for copy in _members(os.path.join(code, "jobs")):
        names.add(_read(os.path.join(copy, MARKER)) + ".json")
    size += _snapshots(code, names, now, result.removed, go_on)
    size += _mirrors(os.path.join(code, "git"), now, result.removed)
    return Expired(result.removed, size, result.kept)


def _judge_copy(copy: str, host_id: str, now: float, result: Expired) -> int:
    if _read(os.path.join(copy, OWNER)) != host_id or not os.path.exists(os.path.join(copy, MARKER)):
        return 0  # Another container's, of an early version, or being made.
    gone = os.path.join(copy, GONE)
    if not os.path.exists(gone):
        # The deletion itself left no trace here: the time counts from the first look after it.
        jobdir.write_atomic(gone, b"%d\n" % now)
    elif now - float(_read(gone) or now) > KEEP_S:
        written = _written(copy)
        if written:
            result.kept.append((copy, "%s and %d more were written by the job" % (written[0], len(written) - 1) if len(written) > 1 else "%s was written by the job" % written[0]))
            return 0
        size = sum(os.lstat(path).st_size for path in _files(copy))
        _remove(copy)
        result.removed.append(copy)
        return size
    return 0


def _written(copy: str) -> List[str]:
    """Files that changed after the copy was whole; by the time of change, which no program can set back."""
    since = os.stat(os.path.join(copy, MARKER)).st_mtime
    found = []
    for path in _files(copy):
        name = os.path.relpath(path, copy)
        # Looking at a repository refreshes its index; Python's own caches are made again.
        if name.startswith(".moai" + os.sep) or name == os.path.join(".git", "index") or "__pycache__" in name.split(os.sep):
            continue
        if os.lstat(path).st_ctime > since:
            found.append(name)
    return sorted(found)


def _snapshots(code: str, names: Set[str], now: float, removed: List[str], go_on: Callable[[], bool]) -> int:
    folder = os.path.join(code, "snapshots")
    size, used = 0, set()
    for path in _members(folder):
        if os.path.basename(path) in names or now - os.path.getmtime(path) <= KEEP_S:
            used.update(entry["sha256"] for entry in _entries(path))
        else:
            os.unlink(path)
            removed.append(path)
    for group in _members(os.path.join(code, "contents")):
        for path in _members(group):
            if not go_on():
                return size  # A call may register a snapshot that names it.
            if os.path.basename(path) not in used and now - os.path.getmtime(path) > KEEP_S:
                size += os.path.getsize(path)
                os.unlink(path)
                removed.append(path)
    return size


def _mirrors(folder: str, now: float, removed: List[str]) -> int:
    size = 0
    for mirror in _members(folder):
        lock = mirror[: -len(".git")] + ".lock"
        if not mirror.endswith(".git") or not os.path.exists(lock) or now - os.path.getmtime(lock) <= KEEP_S:
            continue
        with _held(lock) as ours:
            if ours:
                size += sum(os.lstat(path).st_size for path in _files(mirror))
                _remove(mirror)
                removed.append(mirror)
    return size


@contextlib.contextmanager
def _held(path: str) -> Iterator[bool]:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(fd)


def _remove(folder: str) -> None:
    """Renamed first, so that half of it is never taken for the whole."""
    aside = os.path.join(os.path.dirname(folder), ".deleted-%s-%s" % (os.path.basename(folder)[:80], os.urandom(4).hex()))
    os.rename(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _forget(copy: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(copy, GONE))


def _files(folder: str) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        for name in names:
            yield os.path.join(parent, name)


def _entries(path: str) -> Sequence[Dict[str, Any]]:
    try:
        with open(path, "rb") as source:
            return list(json.loads(source.read().decode("utf-8")))
    except (OSError, ValueError):
        return []


def _read(path: str) -> str:
    try:
        with open(path) as source:
            return source.read(200).strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _members(folder: str) -> List[str]:
    try:
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if not name.startswith(".")]
    except OSError:
        return []


def _stamp(config: Config) -> str:
    return os.path.join(config.host.run, "expiry.json")

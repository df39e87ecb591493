"""Take moai off the laptop: settings, cache and state of the laptop itself; nothing of ours keeps running.

Runs in the laptop's process. Containers are not asked; ``Host.remove_agent`` does that.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moai import _paths
from moai._errors import MoaiError

_END_S = 15.0


#: What moai writes into its cache folder; that folder may be one of the user's own, with more in it.
_CACHED = (
    "bundles", "wheels", "links", "digests", "tensorboard", "top.json", ".top.*", "no-*", "jobs.json", "jobs.lock", "environments.json", "last-look.json", ".jobs.*", ".environments.*",
)  # fmt: skip


@dataclass(frozen=True)
class Trace:
    """Something of moai on the laptop: ``what`` is settings, cache or state; a file, or a folder with all in it."""

    what: str
    path: Path
    size_bytes: int
    file_count: int


def traces() -> list[Trace]:
    """What moai has written on this laptop, as it is now."""
    from moai._local import state_folder

    places = [("settings", _paths.config_file()), ("settings", _paths.known_hosts_file()), ("state", state_folder())]
    cache = _paths.cache_folder()
    places += [("cache", path) for pattern in _CACHED for path in sorted(cache.glob(pattern))]
    return [Trace(what, path, *_counted(path)) for what, path in places if path.exists()]


def _counted(path: Path) -> tuple[int, int]:
    if not path.is_dir():
        return path.lstat().st_size, 1
    size = files = 0
    for parent, _, names in os.walk(path):
        for name in names:
            try:
                size += os.lstat(os.path.join(parent, name)).st_size
                files += 1
            except OSError:
                continue  # Removed since its folder was read.
    return size, files


def running_here() -> list[str]:
    """Ids of the laptop's own jobs (``--on local``) that have not ended; starts no agent."""
    from moai._local import state_folder

    found = []
    for folder in state_folder().glob("hosts/*/jobs/*"):
        if folder.name.startswith(".") or (folder / "exit.json").exists() or not (folder / "supervisor.lock").exists():
            continue
        if _is_locked(folder / "supervisor.lock"):
            found.append(folder.name)
    return sorted(found)


def _is_locked(path: Path) -> bool:
    import fcntl

    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def uninstall(force: bool = False) -> list[Trace]:
    """Remove settings, cache and the laptop's own state; end every link and the laptop's own agent.

    Args:
        force: end the laptop's own running jobs first.

    Returns what was removed. Raises Conflict (JOB_ACTIVE) naming the jobs that run here. Results in the
    laptop's work folder, and everything on containers, stay. The package goes with the tool that brought it.
    """
    running = running_here()
    if running and not force:
        raise MoaiError(
            "JOB_ACTIVE", f"{len(running)} jobs run on this laptop: {', '.join(running[:8])}",
            f"moai remote cancel {running[0]} --on local, or repeat with --force",
        )
    found = traces()
    if any(one.what == "state" for one in found):
        _remove_local(running)
    _end_links()
    for one in found:
        if one.what == "state":
            continue
        if one.path.is_dir() and not one.path.is_symlink():
            shutil.rmtree(one.path, ignore_errors=True)
        else:
            one.path.unlink(missing_ok=True)
    for folder in (_paths.config_folder(), _paths.cache_folder()):
        try:
            folder.rmdir()
        except OSError:
            continue  # Something of somebody else lies there.
    return found


def _remove_local(running: list[str]) -> None:
    from moai._api import connect

    with connect("local") as host:
        for job_id in running:
            job = host.job(job_id)
            job.cancel(force=True)
            job.wait(60.0, check=False)
        host.remove_agent()


def _end_links() -> int:
    """End every holder, of configured hosts or not; returns how many there were."""
    from moai._link.client import is_listening

    ended = 0
    for path in (_paths.cache_folder() / "links").glob("*.sock"):
        if not is_listening(path):
            continue
        _close(path)
        ended += 1
        end_s = time.monotonic() + _END_S
        while is_listening(path):
            if time.monotonic() > end_s:
                raise MoaiError("TIMED_OUT", f"a link holder ({path}) does not end", f"fuser -k {path}")
            time.sleep(0.05)
    return ended


def _close(path: Path) -> Any:
    import grpc

    from moai._rpc import CHANNEL_OPTIONS, _address, to_error

    with grpc.insecure_channel(_address(path), options=CHANNEL_OPTIONS) as channel:
        try:
            return json.loads(channel.unary_unary("/moai.Link/Close")(b"{}", timeout=_END_S))
        except grpc.RpcError as error:
            told = to_error(error)
            if told.reason != "LINK_LOST":  # It left before its answer did.
                raise told from error
            return {}

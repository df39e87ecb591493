"""Removal of what nothing needs any more, and of moai itself. Results and models are never touched unnamed.

Owns the rules of what may go. Each thing is checked again at its removal: it is renamed first, looked at
once more, and put back when a job began to use it meanwhile; so half of it is never seen. Blocking.
"""

import contextlib
import fcntl
import os
import shutil
import time
from typing import Any, Iterator, List, NamedTuple, Optional

from moai_worker import jobdir
from moai_worker.jobdir import TERMINAL_STATES

from moai_agent import housekeeping
from moai_agent.errors import AgentError
from moai_agent.housekeeping import InUse, Inventory, Item, Known

#: What was made so recently may belong to a submission that is under way.
_FRESH_S = 3600.0


class Wanted(NamedTuple):
    """What a cleaning is asked for; see CleanFilesRequest."""

    older_s: float = 0.0
    checkpoints: bool = False
    keep_checkpoints: int = 1
    logs: bool = False
    results_of: str = ""
    owner: str = ""
    force: bool = False


class Cleaner:
    """One cleaning of one container.

    Args:
        inventory: what is there. wanted: what may go. now: seconds since the epoch.
    """

    def __init__(self, inventory: Inventory, wanted: Wanted, now: Optional[float] = None) -> None:
        self.inventory, self.wanted = inventory, wanted
        self.config, self.home = inventory.config, inventory.home
        self.now = time.time() if now is None else now
        self.going: List[Item] = []
        self.staying: List[Item] = []

    # -- choosing ------------------------------------------------------------------------------

    def choose(self) -> "Cleaner":
        """Fill ``going`` and ``staying``; nothing is changed."""
        if self.wanted.results_of:
            self._choose_results()
            return self
        leaving = [one for one in self.inventory.jobs if self._judge_job(one)]
        gone = set() if self.wanted.logs else {one.job.id for one in leaving}
        kept = [one.job for one in self.inventory.jobs if one.job.id not in gone]
        in_use = InUse(self.config, self.home, kept)
        for folder in self.inventory.works:
            copies = self._choose_copies(folder, in_use, gone)
            self._choose_snapshots(folder, copies)
            root = os.path.join(folder, "uploads")
            for path in housekeeping.members(root):
                item = self._rooted(Item("upload", path), folder)
                self._judge(item, in_use.why(path, folder, True))
        self._choose_bundles(in_use)
        for item in self.inventory.partials():
            self._rooted(item, os.path.dirname(item.path))
            self._judge(item, in_use.why(item.path, item.root), _FRESH_S)
        if self.wanted.checkpoints:
            self._choose_checkpoints(in_use)
        return self

    @staticmethod
    def _rooted(item: Item, root: str) -> Item:
        item.root = root
        return item

    def _judge(self, item: Item, why: str, older_s: Optional[float] = None) -> bool:
        """Count an item and put it where it belongs."""
        self.inventory.counter.add(item, item.path)
        wanted_s = max(self.wanted.older_s, _FRESH_S) if older_s is None else older_s
        if not why and self.now - item.changed < wanted_s:
            why = "it was changed less than %s ago" % _span(wanted_s)
        if not why and item.partial:
            why = "there was no time to look through it"
        item.kept_because = why
        (self.staying if why else self.going).append(item)
        return not why

    def _judge_job(self, one: Known) -> bool:
        job = one.job
        item = Item("log" if self.wanted.logs else "job", job.log if self.wanted.logs else job.path, job.id, one.state)
        theirs = one.spec.get("owner") or ""
        why = ""
        if one.state not in TERMINAL_STATES or not housekeeping.has_ended(job):
            why = "it has not ended"
        elif theirs and theirs != self.wanted.owner and not self.wanted.force:
            why = "it belongs to %s" % theirs
        elif self.now - (one.end or _changed(job.path)) < self.wanted.older_s:
            why = "it ended less than %s ago" % _span(self.wanted.older_s)
        if self.wanted.logs and not os.path.exists(job.log):
            return not why
        return self._judge(item, why, 0.0)

    def _choose_copies(self, folder: str, in_use: InUse, gone: Any) -> List[str]:
        """Judge the code copies; the paths of those that stay."""
        stay = []
        for item in self.inventory.copies(folder):
            self._rooted(item, folder)
            why = in_use.why(item.path, folder, True)
            if not why and item.job in self.inventory.by_id and item.job not in gone:
                why = "its job stays"
            if not why:
                made = _made_by_job(folder, item.path)
                why = made and "%s; moai remote pull them, or moai remote clean --results %s" % (made, item.job)
            if not self._judge(item, why):
                stay.append(item.path)
        return stay

    def _choose_snapshots(self, folder: str, copies: List[str]) -> None:
        """One item for everything that no job and no copy needs: manifests, and contents no manifest names."""
        code = os.path.join(folder, "code")
        item = Item("snapshot", code)
        for path in self._unused_snapshots(folder, copies):
            self.inventory.counter.add(item, path)
        if item.files:
            self.going.append(item)

    def _unused_snapshots(self, folder: str, copies: List[str]) -> List[str]:
        used = {housekeeping.marker_of(path) for path in copies}
        for job_id in self.config.host.job_ids():
            for step in (jobdir.read_json(self.config.host.job(job_id).plan) or {}).get("steps", []):
                if step.get("module") == "code" and not any(i.job == job_id for i in self.going if i.kind == "job"):
                    used.add(os.path.splitext(os.path.basename(step["inputs"]["manifest"]))[0])
        limit = self.now - max(self.wanted.older_s, _FRESH_S)
        manifests = [p for p in housekeeping.members(os.path.join(folder, "code", "snapshots")) if p.endswith(".json")]
        unused = [p for p in manifests if os.path.basename(p)[:-5] not in used and _changed(p) < limit]
        named = set()
        for path in set(manifests) - set(unused):
            named.update(_digests(path))
        for group in housekeeping.members(os.path.join(folder, "code", "contents")):
            unused += [p for p in housekeeping.members(group) if os.path.basename(p) not in named and _changed(p) < limit]
        return unused

    def _choose_bundles(self, in_use: InUse) -> None:
        root = os.path.join(self.config.home, "payload")
        pointed = _pointed_at(self.config.home)
        for path in housekeeping.members(root):
            why = in_use.why(path, root)
            if os.path.basename(path) in pointed:
                why = "an agent runs from it"
            self._judge(self._rooted(Item("bundle", path), root), why, _FRESH_S)

    def _choose_checkpoints(self, in_use: InUse) -> None:
        for item in self.inventory.results():
            found = housekeeping.checkpoints_of(item.path)
            keep = self.wanted.keep_checkpoints
            if item.state != "SUCCEEDED":
                keep = max(1, keep)  # The newest one is all there is of a run that did not end well.
            one = self.inventory.by_id.get(item.job)
            theirs = (one.spec.get("owner") or "") if one else ""
            root = os.path.dirname(item.path)
            root = os.path.dirname(root) if os.path.dirname(root) in self.inventory.works else root
            for path in found[: len(found) - keep] if keep else found:
                why = in_use.why(path, root)
                if not item.state:
                    why = why or "no job here is known to have made it"
                elif theirs and theirs != self.wanted.owner and not self.wanted.force:
                    why = why or "it belongs to %s" % theirs
                self._judge(self._rooted(Item("checkpoint", path, item.job, item.state), root), why, 0.0)

    def _choose_results(self) -> None:
        one = self.inventory.by_id[self.wanted.results_of]
        if one.state not in TERMINAL_STATES:
            raise AgentError("JOB_ACTIVE", "job %s still runs" % one.job.id, "moai remote cancel %s" % one.job.id)
        in_use = InUse(self.config, self.home)
        output = os.path.abspath(one.plan["output"]) if one.plan.get("output") else ""
        for folder in self.inventory.works:
            for root, path, kind in (
                (os.path.join(folder, "runs"), output, "results"),
                (os.path.join(folder, "code", "jobs"), os.path.join(folder, "code", "jobs", one.job.id), "code"),
            ):
                if path.startswith(root + os.sep) and os.path.isdir(path):
                    self._judge(self._rooted(Item(kind, path, one.job.id, one.state), folder), in_use.why(path, folder), 0.0)
        inside = any(output == item.path for item in self.going + self.staying)
        if output and os.path.isdir(output) and not inside and one.spec.get("kind") == "train":
            item = Item("results", output, one.job.id, one.state)
            self._judge(item, "you chose this folder; remove it yourself", 0.0)

    # -- removing ------------------------------------------------------------------------------

    def remove(self, only: List[str]) -> List[Item]:
        """Remove what was chosen (of it only these paths, when any is named); what really went.

        Jobs first, each under its supervisor's lock. Everything else is looked at again, renamed, looked at
        once more, and only then removed.
        """
        wanted = [item for item in self.going if not only or item.path in only]
        jobs = [item for item in wanted if item.kind in ("job", "log")]
        snapshots = [item for item in wanted if item.kind == "snapshot"]
        with self._alone():
            gone = [item for item in jobs if self._remove_job(item)]
            others = [item for item in wanted if item not in jobs and item not in snapshots]
            gone += self._take_away(others)
            for item in snapshots:
                copies = housekeeping.members(os.path.join(item.path, "jobs"))
                for path in self._unused_snapshots(os.path.dirname(item.path), copies):
                    os.unlink(path)
                gone.append(item)
        self.going = gone
        return gone

    def _take_away(self, items: List[Item]) -> List[Item]:
        """Rename what is free, look again, put back what came into use meanwhile, remove the rest."""
        if not items:
            return []
        aside = {}
        for item in self._free(items):
            folder, name = os.path.split(item.path)
            aside[item.path] = os.path.join(folder, ".deleted-%s-%s" % (name.lstrip(".")[:80], os.urandom(4).hex()))
            try:
                os.rename(item.path, aside[item.path])
            except FileNotFoundError:
                del aside[item.path]  # Somebody else removed it.
        moved = [item for item in items if item.path in aside]
        free = self._free(moved)
        for item in moved:
            if item not in free:
                os.rename(aside[item.path], item.path)
        for item in free:
            _delete(aside[item.path])
        return free

    def _free(self, items: List[Item]) -> List[Item]:
        # Results that were named go although the record of their job stays.
        kept = [] if self.wanted.results_of else [self.config.host.job(job_id) for job_id in self.config.host.job_ids()]
        in_use = InUse(self.config, self.home, kept)
        for item in items:
            item.kept_because = in_use.why(item.path, item.root, item.kind in ("code", "upload"))
        return [item for item in items if not item.kept_because]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One cleaning at a time, and none beside an installation."""
        fds = []
        try:
            for path in (os.path.join(self.config.host.run, "cleaning.lock"), os.path.join(self.config.home, "payload", ".lock")):
                jobdir.make_private(os.path.dirname(path))
                fds.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                try:
                    fcntl.flock(fds[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise AgentError("TIMED_OUT", "another cleaning or installation is under way here", "try again in a moment")
            yield
        finally:
            for fd in fds:
                os.close(fd)

    def _remove_job(self, item: Item) -> bool:
        """Under its supervisor's lock, so that a supervisor that starts now is seen and none can start."""
        job = self.config.host.job(item.job)
        try:
            fd = os.open(job.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return False  # Somebody deleted it.
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        try:
            if jobdir.read_json(job.exit) is None and not os.path.getsize(job.lock):
                return False  # Never started: an agent may be just about to.
            if item.kind == "log":
                for path in (job.log, job.log_times):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                return True
            aside = os.path.join(os.path.dirname(job.path), ".deleted-%s-%s" % (job.id, os.urandom(4).hex()))
            os.rename(job.path, aside)
            _delete(aside)
            return True
        finally:
            os.close(fd)


def _delete(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        os.unlink(path)


def _made_by_job(folder: str, copy: str) -> str:
    """What a job left in its copy of the code beside the code itself, in words; "" when nothing."""
    snapshot = housekeeping.marker_of(copy)
    if not snapshot:
        return ""  # Never finished: no command has run in it.
    known = housekeeping.manifest(folder, snapshot)
    if known is None:
        return "what the job made in it can no longer be told from the code"
    made = 0
    for parent, folders, names in os.walk(copy):
        folders[:] = [f for f in folders if f != "__pycache__" and os.path.join(parent, f) != os.path.join(copy, ".moai")]
        for name in names:
            path = os.path.join(parent, name)
            if known.get(os.path.relpath(path, copy)) != os.lstat(path).st_size:
                made += 1
    return "it holds %d files that the job made or changed" % made if made else ""


def _digests(path: str) -> List[str]:
    import json

    try:
        with open(path, "rb") as source:
            return [str(e["sha256"]) for e in json.loads(source.read().decode("utf-8"))]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _pointed_at(home: str) -> Any:
    """Digests of bundles that any container sharing this home dials or runs, or a job there may use."""
    found = set()
    hosts = os.path.join(home, "hosts")
    for path in housekeeping.members(hosts):
        if path.endswith(".dial"):
            with open(path) as source:
                found.update(line.strip() for line in source.read(4096).splitlines())
            continue
        found.add(str((jobdir.read_json(os.path.join(path, "run", "agent.json")) or {}).get("digest") or "")[:16])
        for folder in housekeeping.members(os.path.join(path, "jobs")):
            job = jobdir.JobDir(folder)
            if jobdir.read_json(job.exit) is None:
                found.add(str((jobdir.read_json(job.spec) or {}).get("agent_digest") or ""))
    return found


def _changed(path: str) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return time.time()


def _span(seconds: float) -> str:
    for unit, count in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= count:
            return "%g %s" % (round(seconds / count, 1), unit)
    return "%g s" % seconds



"""What moai keeps on this container, by kind, job and age; and what a job that has not ended may use.

Owns nothing: it reads folders that others own and counts within bounds (seconds, entries), and says when
it stopped. Blocking; run it in an executor. ``cleaning`` removes by what is found here.
"""

import json
import os
import re
import stat
import time
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple

from moai_worker import checkpoints, identity, jobdir
from moai_worker.evidence import Evidence

from moai_agent import work
from moai_agent.config import Config

LIMIT_S, MOST_S = 20.0, 300.0
LIMIT_ENTRIES = 1000000
#: Names of what is half-made or half-deleted, in any folder of ours.
PARTIAL = (".new-", ".deleted-", ".moai-part-", ".tmp-")
#: Folders of the work folder whose members are one item each, and the kind of these.
MEMBERS = (("uploads", "upload"), ("prepared", "prepared"), ("envs", "environment"))

_TOKEN = re.compile(r"""(?:^|[\s'"=:,;|&<>()\[\]{}])((?:~|(?=/))/[^\s'"=:,;|&<>()\[\]{}]+)""")


class Item:
    """Something on disk: ``kind`` as in file.proto, path, job and its state, bytes, files, newest change."""

    def __init__(self, kind: str, path: str, job: str = "", state: str = "") -> None:
        self.kind, self.path, self.job, self.state = kind, path, job, state
        self.size_bytes, self.files, self.changed, self.partial = 0, 0, 0.0, False
        self.kept_because = ""
        #: See ``InUse.why``; only of what a cleaning judges.
        self.root = ""


class Known(NamedTuple):
    """A job as the inventory needs it: its folder, what was asked, and its view."""

    job: jobdir.JobDir
    spec: Dict[str, Any]
    plan: Dict[str, Any]
    state: str
    end: Optional[float]


def known_jobs(entries: Iterable[Any]) -> List[Known]:
    """The store's entries, taken on the event loop, in the form that may leave it."""
    return [Known(e.job, e.spec, e.plan, e.view["state"], e.view.get("end")) for e in entries]


class Counter:
    """Counts bytes and files; stops after ``limit_s`` seconds or ``limit_entries`` names."""

    def __init__(self, limit_s: float = 0.0, limit_entries: int = 0) -> None:
        self._limit_s = min(limit_s or LIMIT_S, MOST_S)
        self._most = limit_entries or LIMIT_ENTRIES
        self._end = time.monotonic() + self._limit_s
        self.entries = 0
        self.stopped = ""
        self._seen: Set[Tuple[int, int]] = set()

    def add(self, item: Item, path: str, leave_out: Iterable[str] = ()) -> None:
        """Add what lies at ``path``, less some paths below it; links are not followed, hard links count once."""
        left = set(leave_out)
        stack = [path]
        while stack:
            here = stack.pop()
            if self.stopped or self._over():
                item.partial = True
                return
            try:
                facts = os.lstat(here)
            except OSError:
                continue  # Removed since its folder was read.
            self.entries += 1
            self._count(item, facts)
            if stat.S_ISDIR(facts.st_mode):
                try:
                    stack += [p for p in (os.path.join(here, n) for n in os.listdir(here)) if p not in left]
                except OSError:
                    item.partial = True

    def _count(self, item: Item, facts: os.stat_result) -> None:
        item.changed = max(item.changed, facts.st_mtime)
        if stat.S_ISDIR(facts.st_mode):
            return
        item.files += 1
        key = (facts.st_dev, facts.st_ino)
        if facts.st_nlink > 1 and key in self._seen:
            return
        if facts.st_nlink > 1:
            self._seen.add(key)
        item.size_bytes += facts.st_blocks * 512

    def _over(self) -> bool:
        if self.entries >= self._most:
            self.stopped = "counting ended after %d files and folders" % self.entries
        elif self.entries % 256 == 0 and time.monotonic() > self._end:
            self.stopped = "counting ended after %g s (%d files and folders)" % (self._limit_s, self.entries)
        return bool(self.stopped)


class Inventory:
    """Everything of ours on this container.

    Args:
        config: of the agent. jobs: of its store. asked: a work folder beside the container's own; "" = none.
        counter: counts and bounds. home: the login's.
    """

    def __init__(self, config: Config, jobs: List[Known], asked: str, counter: Counter, home: str = "") -> None:
        self.config, self.jobs, self.counter = config, jobs, counter
        self.home = home or os.path.expanduser("~")
        self.by_id = {one.job.id: one for one in jobs}
        self.works = self._works(asked)

    def _works(self, asked: str) -> List[str]:
        found = [work.folder(self.config)] + ([asked] if asked else [])
        for one in self.jobs:
            for step in one.plan.get("steps", []):
                if step.get("module") == "code":
                    found.append(os.path.dirname(os.path.dirname(os.path.dirname(step["inputs"]["target"]))))
            folder = os.path.dirname(one.plan.get("output") or "")
            if os.path.basename(folder) == "runs":
                found.append(os.path.dirname(folder))
        return list(dict.fromkeys(os.path.abspath(path) for path in found))

    def items(self) -> List[Item]:
        """All items, counted; those counted last may be partial when the bound was reached."""
        found: List[Item] = []
        for item, paths, left_out in self._plan():
            for path in paths:
                self.counter.add(item, path, left_out)
            if item.files or item.partial or os.path.isdir(item.path):
                found.append(item)
        return found

    def _plan(self) -> Iterator[Tuple[Item, List[str], List[str]]]:
        """(item, paths to count, paths left out): small and certain things first, the largest last."""
        for item in self.partials():
            yield item, [item.path], []
        for one in self.jobs:
            job = one.job
            logs = [job.log, job.log_times]
            yield Item("job", job.path, job.id, one.state), [job.path], logs
            yield Item("log", job.log, job.id, one.state), logs, []
        yield Item("agent", self.config.host.run), [self.config.host.run], []
        for path in members(os.path.join(self.config.home, "payload")):
            yield Item("bundle", path), [path], []
        for folder in self.works:
            for item in self.copies(folder):
                yield item, [item.path], []
            code = os.path.join(folder, "code")
            yield Item("snapshot", code), [os.path.join(code, "contents"), os.path.join(code, "snapshots")], []
            for name, kind in MEMBERS:
                for path in members(os.path.join(folder, name)):
                    yield Item(kind, path), [path], []
        for item in self.results():
            for checkpoint in checkpoints_of(item.path):
                yield Item("checkpoint", checkpoint, item.job, item.state), [checkpoint], []
            yield item, [item.path], checkpoints_of(item.path)
        for folder in self._hub_folders():
            for path in members(folder):
                yield Item("model", path), [path], []

    def partials(self) -> List[Item]:
        """What killed processes left half-made or half-deleted."""
        places = [self.config.host.jobs, os.path.join(self.config.home, "payload")]
        for folder in self.works:
            uploads = os.path.join(folder, "uploads")
            places += [uploads] + members(uploads)
            places += [os.path.join(folder, name) for name in ("runs", "prepared", os.path.join("code", "jobs"))]
        return [
            Item("partial", path) for place in places for path in members(place, hidden=True)
            if os.path.basename(path).startswith(PARTIAL)
        ]  # fmt: skip

    def copies(self, folder: str) -> List[Item]:
        """The code copies of a work folder, each with its job."""
        return [self._of_job("code", path, os.path.basename(path)) for path in members(os.path.join(folder, "code", "jobs"))]

    def results(self) -> List[Item]:
        """Result folders: those below ``runs/`` and those that training jobs were told to write."""
        told = {os.path.abspath(j.plan["output"]): j.job.id for j in reversed(self.jobs) if j.plan.get("output") and j.spec.get("kind") == "train"}
        paths = [path for folder in self.works for path in members(os.path.join(folder, "runs"))]
        paths += [path for path in told if os.path.isdir(path)]
        return [self._of_job("results", path, told.get(path, "")) for path in dict.fromkeys(paths)]

    def _of_job(self, kind: str, path: str, job: str) -> Item:
        one = self.by_id.get(job)
        return Item(kind, path, job, one.state if one else "")

    def _hub_folders(self) -> List[str]:
        homes = [os.path.join(folder, "huggingface") for folder in self.works]
        for one in self.jobs:
            homes += [s["env"]["HF_HOME"] for s in one.plan.get("steps", []) if (s.get("env") or {}).get("HF_HOME")]
        return [os.path.join(h, part) for h in dict.fromkeys(homes) for part in ("hub", "datasets")]


def folded(items: List[Item], most: int) -> List[Item]:
    """The largest ``most`` items; the others as one item a kind, so that an answer always fits its message."""
    if len(items) <= most:
        return items
    ordered = sorted(items, key=lambda item: -item.size_bytes)
    rest: Dict[str, Item] = {}
    for item in ordered[most:]:
        sum_ = rest.setdefault(item.kind, Item(item.kind, "(smaller ones)"))
        sum_.size_bytes += item.size_bytes
        sum_.files += item.files
        sum_.changed = max(sum_.changed, item.changed)
    return ordered[:most] + list(rest.values())


def members(folder: str, hidden: bool = False) -> List[str]:
    """Paths of what lies in a folder; none when there is no folder. ``hidden``: only names with a dot first."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [os.path.join(folder, name) for name in names if name.startswith(".") == hidden]


def checkpoints_of(output: str) -> List[str]:
    """Checkpoint folders of a result folder, lowest step first."""
    return [one.path for one in checkpoints.list_checkpoints(os.path.join(output, "checkpoints"))]


# -- what is in use --------------------------------------------------------------------------------


def has_ended(job: jobdir.JobDir) -> bool:
    """Whether nothing of a job can still run, as its folder and the processes prove it."""
    evidence = Evidence(job)
    if evidence.supervised or evidence.child_living:
        return False
    return evidence.exit is not None or evidence.verdict() is not None


class InUse:
    """Paths that jobs of these folders, and this user's processes, may use right now.

    Args:
        config: of the agent; its own payload counts. kept: jobs whose inputs stay too (they may be resumed).
    """

    def __init__(self, config: Config, home: str, kept: Iterable[jobdir.JobDir] = ()) -> None:
        self._home = home
        self.living: List[str] = []
        self._of_jobs: Set[str] = set()
        self._of_kept: Set[str] = set()
        for job_id in config.host.job_ids():
            job = config.host.job(job_id)
            if not has_ended(job):
                self.living.append(job_id)
                self._of_jobs |= self._named(job) | {job.path}
        for job in kept:
            self._of_kept |= self._named(job)
        self._of_processes = set(_process_paths(home))
        self._of_processes.add(os.path.realpath(config.payload))

    def why(self, path: str, root: str, resumable: bool = False) -> str:
        """Why ``path`` must stay; "" when nothing uses it.

        Args:
            root: the work folder, or what else holds it: somebody who names this folder, or one between the
                two, uses all that is in it. resumable: also what a job that is kept would need if it were resumed.
        """
        real, top = os.path.realpath(path), os.path.realpath(root)
        for found, wide, text in (
            (self._of_jobs, True, "a job that has not ended uses it"),
            (self._of_processes, True, "a process uses it"),
            # A record that stays may well name the work folder: that alone keeps nothing.
            (self._of_kept if resumable else set(), False, "a job that stays may be resumed with it"),
        ):
            if any(_touch(real, one, top, wide) for one in found):
                return text
        return ""

    def _named(self, job: jobdir.JobDir) -> Set[str]:
        """Every absolute path that the job's plan and order name."""
        found: Set[str] = set()
        for value in (jobdir.read_json(job.plan) or {}, jobdir.read_json(job.spec) or {}):
            for text in _texts(value):
                found.update(self._paths(text))
        return found

    def _paths(self, text: str) -> Iterator[str]:
        # A path with a blank in it is one text of its own in a plan, and a piece of a command otherwise.
        for piece in [text] + _TOKEN.findall(text):
            if piece.startswith("~/"):
                piece = os.path.join(self._home, piece[2:])
            if piece.startswith("/") and "\0" not in piece:
                yield os.path.realpath(piece)


def _touch(item: str, used: str, root: str, wide: bool) -> bool:
    if used == item or used.startswith(item + "/"):
        return True
    return item.startswith(used + "/") and (used.startswith(root + "/") or (wide and used == root))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            # A password is no path, and a path in a name is none that is used.
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _process_paths(home: str) -> Iterator[str]:
    """Absolute paths that processes of this user stand in, hold open or were started with."""
    me = os.getuid()
    for pid in identity.process_table():
        base = "/proc/%d" % pid
        try:
            if os.stat(base).st_uid != me:
                continue
            with open(base + "/cmdline", "rb") as source:
                words = [os.fsdecode(word) for word in source.read().split(b"\0")]
            links = [base + "/cwd"] + ["%s/fd/%s" % (base, fd) for fd in os.listdir(base + "/fd")]
        except OSError:
            continue  # It has ended, or is not ours to look at.
        for word in words:
            for piece in [word] + _TOKEN.findall(word):
                if piece.startswith("/"):
                    yield os.path.realpath(piece)
        for link in links:
            try:
                target = os.readlink(link)
            except OSError:
                continue
            if target.startswith("/"):
                yield target


def mounts_of(paths: Iterable[str]) -> List[Tuple[str, int, int]]:
    """(mount point, free bytes, bytes used and free) of the file systems that these paths lie on."""
    found: Dict[str, Tuple[str, int, int]] = {}
    for path in paths:
        while not os.path.lexists(path):
            path = os.path.dirname(path)
        try:
            facts = os.statvfs(path)
        except OSError:
            continue
        point = identity.mount_of(path)[0]
        # As df(1): what is reserved for root is not there for this user.
        usable = facts.f_blocks - facts.f_bfree + facts.f_bavail
        found[point] = (point, facts.f_bavail * facts.f_frsize, usable * facts.f_frsize)
    return list(found.values())


def marker_of(copy: str) -> str:
    """Id of the snapshot a finished code copy was made from; "" when it is not whole."""
    try:
        with open(os.path.join(copy, ".moai", "snapshot")) as source:
            return source.read(64).strip()
    except OSError:
        return ""


def manifest(folder: str, snapshot: str) -> Optional[Dict[str, int]]:
    """Path -> size of a registered snapshot; None when it is not there."""
    try:
        with open(os.path.join(folder, "code", "snapshots", snapshot + ".json"), "rb") as source:
            return {str(e["path"]): int(e["size"]) for e in json.loads(source.read().decode("utf-8"))}
    except (OSError, ValueError, KeyError, TypeError):
        return None

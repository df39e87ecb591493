"""Take moai off this container: what it keeps for itself goes, what it was asked to make stays.

Goes: this container's jobs, logs, agent and identity; code copies, uploads and prepared sets; the bundles,
once no other container of this home is left. Stays: results, models, environments, and everything of other
containers. Folders that are empty then go too. Blocking.
"""

import contextlib
import glob
import os
import shutil
import time
from typing import Any, List, Tuple

from moai_worker import identity, jobdir

from moai_agent import housekeeping, work
from moai_agent.errors import AgentError
from moai_agent.housekeeping import Counter, Item

_LEAVING_S = 10.0
#: Members of a work folder that moai made for itself.
_OWN = (("code", "code"), ("uploads", "upload"), ("prepared", "prepared"))
_MADE = (("runs", "results"), ("huggingface", "model"), ("envs", "environment"))


class Removal:
    """What would go and what would stay.

    Args:
        config: of the agent. works: work folders, the container's own first. counter: counts and bounds.
    """

    def __init__(self, config: Any, works: List[str], counter: Counter) -> None:
        self.config, self.counter = config, counter
        self.works = list(dict.fromkeys([work.folder(config)] + works))
        self.others = [p for p in housekeeping.members(os.path.join(config.home, "hosts")) if os.path.isdir(p) and p != config.host.path]
        self.going, self.staying = self._choose()

    def _choose(self) -> Tuple[List[Item], List[Item]]:
        going = [self._counted("job", self.config.host.path)]
        staying: List[Item] = []
        if not self.others:
            going.append(self._counted("bundle", os.path.join(self.config.home, "payload")))
        for folder in self.works:
            for name, kind in _OWN + _MADE:
                path = os.path.join(folder, name)
                if not os.path.isdir(path):
                    continue
                item = self._counted(kind, path)
                if (name, kind) in _MADE:
                    item.kept_because = "you asked for it"
                elif self.others:
                    item.kept_because = "another container uses this home"
                if item.files or not item.kept_because:
                    (staying if item.kept_because else going).append(item)
        return [item for item in going if os.path.isdir(item.path)], staying

    def _counted(self, kind: str, path: str) -> Item:
        item = Item(kind, path)
        self.counter.add(item, path)
        return item

    def check(self) -> None:
        """JOB_ACTIVE naming the jobs that have not ended."""
        end_s = time.monotonic() + _LEAVING_S
        while True:
            jobs = [self.config.host.job(job_id) for job_id in self.config.host.job_ids()]
            living = [job.id for job in jobs if not housekeeping.has_ended(job)]
            # A supervisor has recorded the end a moment before it leaves.
            leaving = living and all(os.path.exists(self.config.host.job(job_id).exit) for job_id in living)
            if not leaving or time.monotonic() > end_s:
                break
            time.sleep(0.05)
        if living:
            raise AgentError(
                "JOB_ACTIVE", "%d jobs have not ended: %s" % (len(living), ", ".join(sorted(living)[:8])),
                "moai remote cancel %s, or repeat with --force" % sorted(living)[0],
            )

    def run(self) -> None:
        """Remove. Raises JOB_ACTIVE; then everything is as it was."""
        host = self.config.host
        aside = os.path.join(host.path, ".deleted-jobs-%s" % os.urandom(4).hex())
        # Nothing can be submitted from here on; what was submitted a moment ago is found by the second look.
        self.check()
        os.rename(host.jobs, aside)
        try:
            moved = [jobdir.JobDir(path) for path in housekeeping.members(aside)]
            if not all(housekeeping.has_ended(job) for job in moved):
                raise AgentError("JOB_ACTIVE", "a job was submitted just now", "moai remote jobs")
        except AgentError:
            os.rename(aside, host.jobs)
            raise
        home = self.config.home
        for item in self.going:
            shutil.rmtree(item.path, ignore_errors=True)
        name = identity.hostname()
        files = glob.glob(os.path.join(glob.escape(os.path.join(home, "hosts")), "*.dial"))
        files = [f for f in files if not self.others or os.path.basename(f)[: -len(".dial")] == name]
        files += [os.path.join(folder, ".id-" + name) for folder in (os.path.join(home, "hosts"), identity.shared_folder())]
        for path in files:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        folders = [os.path.join(folder, name) for folder in self.works for name in ("huggingface/hub", "huggingface", "runs", "envs")]
        for path in folders + self.works + [identity.shared_folder(), os.path.join(home, "hosts"), home]:
            _remove_empty(path)


def _remove_empty(path: str) -> None:
    with contextlib.suppress(OSError):  # Not empty, or not there: it stays as it is.
        os.rmdir(path)

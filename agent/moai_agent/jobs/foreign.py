"""Jobs of other containers whose folders lie in this home: a shared home, or an earlier container's disk.

They are shown as they were last recorded and never followed, ended or removed from here: whether their
processes live cannot be seen in this container. Blocking.
"""

import os
from typing import Any, List

from moai_worker import jobdir

from moai_agent.config import Config
from moai_agent.jobs.store import Entry, tail_view

#: The condition beside their state.
CONDITION = "NOT_THIS_CONTAINER"
_MOST = 1000


def folders(config: Config) -> List[jobdir.JobDir]:
    """Job folders of every other host id in this home, at most 1000."""
    hosts = os.path.join(config.home, "hosts")
    found: List[jobdir.JobDir] = []
    for name in sorted(_names(hosts)):
        other = jobdir.HostDir(config.home, name)
        if name != config.host_id and not name.startswith(".") and os.path.isdir(other.jobs):
            found += [other.job(job_id) for job_id in other.job_ids()]
    return found[:_MOST]


def _names(folder: str) -> List[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def entries(config: Config) -> List[Entry]:
    """They, newest first."""
    found = []
    for job in folders(config):
        spec = jobdir.read_json(job.spec)
        if spec is None:
            continue
        plan = jobdir.read_json(job.plan) or {}
        view = tail_view(job, spec, plan)
        view["conditions"] = [{"type": CONDITION, "message": _told(job)}]
        found.append(Entry(job, spec, plan, view))
    return sorted(found, key=lambda e: e.spec.get("create_time") or 0, reverse=True)


def _told(job: jobdir.JobDir) -> str:
    return "of container %s, not of this one; as last recorded" % job.host().host_id


def explain(config: Config, text: str) -> str:
    """Why a job that was not found here is not ours, when another container's folder fits; else ""."""
    fits: List[Any] = [job for job in folders(config) if text and job.id.startswith(text)]
    if not fits:
        return ""
    return "job %s is of container %s, which shares this home or was here before this one (%s); its folder is %s" % (
        fits[0].id, fits[0].host().host_id, config.host_id, fits[0].path,
    )  # fmt: skip

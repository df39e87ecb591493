"""Step ``code`` of a job whose code is a git repository: this job's own clone at one commit.

Owns the copy's folder and the record of the commit (``.moai/commit`` in it, ``git.commit`` in spec.json, an
event). Repeating it with a finished copy does nothing. Runs on the agent's Python; standard library only.
"""

import os
from typing import Any, Dict

from ..errors import StepError
from ..gitrepo import Repository, check
from ..jobdir import JobDir, read_json, write_json
from .code import MARKER, sign

#: Name of the secret for https addresses.
TOKEN = "GIT_TOKEN"


def run(inputs: Dict[str, Any], report: Any) -> Dict[str, Any]:
    """Clone.

    Args:
        inputs: ``url``, ``revision`` ("" = the default branch), ``submodules``, ``mirrors`` (folder of
            the shared mirrors), ``target``, ``job`` (the job folder), ``folder`` (inside the copy, in which the
            command runs; "" = its top).

    Returns ``path``, ``commit`` and ``reused``. Raises StepError: COMMAND_NOT_FOUND (no git there),
    REPO_NOT_FOUND, REVISION_NOT_FOUND, GIT_REFUSED, GIT_UNREACHABLE, DISK_FULL, WORKDIR_NOT_FOUND.
    """
    url, target = inputs["url"], inputs["target"]
    check(url, inputs["revision"])
    recorded = os.path.join(target, os.path.dirname(MARKER), "commit")
    if os.path.exists(os.path.join(target, MARKER)):
        with open(recorded) as source:
            return {"path": target, "commit": source.read().strip(), "reused": True}
    job = JobDir(inputs["job"])
    repository = Repository(url, inputs["mirrors"], job.control, os.environ.get(TOKEN, ""), report)
    commit = repository.fetch(inputs["revision"])
    report.message(
        "{} at {} is commit {}.".format(url, inputs["revision"] or "its default branch", commit), code="COMMIT", commit=commit, url=url
    )
    spec = read_json(job.spec)
    if spec is not None:
        spec.setdefault("git", {})["commit"] = commit
        write_json(job.spec, spec)
    repository.copy(commit, target, bool(inputs.get("submodules")))
    if not os.path.isdir(os.path.join(target, inputs.get("folder") or "")):
        raise StepError("WORKDIR_NOT_FOUND", "commit {} of {} has no folder {}".format(commit[:12], url, inputs["folder"]), "name one of its folders")
    os.makedirs(os.path.dirname(recorded), exist_ok=True)
    with open(recorded, "w") as out:
        out.write(commit + "\n")
    sign(target, inputs["job"], "git {}".format(commit))
    return {"path": target, "commit": commit}

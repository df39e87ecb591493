"""Step ``code``: this job's own copy of a snapshot, laid out before its command runs.

Owns the copy's folder. Files are copied, not linked: what a job changes is its own. Repeating it with a
finished copy does nothing. Runs on the agent's Python; standard library only.
"""

import json
import os
import shutil
from typing import Any, Dict

from ..errors import StepError
from ..jobdir import JobDir

#: Written last: where it is, the copy is whole.
MARKER = ".moai/snapshot"
#: Host id of the container whose job it is; work folders may be shared.
OWNER = ".moai/owner"


def run(inputs: Dict[str, Any], report: Any) -> Dict[str, Any]:
    """Copy.

    Args:
        inputs: ``manifest`` (JSON list of path, sha256, size, executable), ``contents`` (folder of
            contents by digest), ``target``, ``job`` (the job folder, whose host the copy belongs to).
            ``shared``: the target is for many jobs, so it appears whole.

    Returns ``path``, ``files``, ``bytes`` and ``reused``. Raises StepError FILE_NOT_FOUND.
    """
    target = inputs["target"]
    name = os.path.splitext(os.path.basename(inputs["manifest"]))[0]
    marker = os.path.join(target, MARKER)
    try:
        with open(inputs["manifest"], "rb") as source:
            entries = json.loads(source.read().decode("utf-8"))
    except (OSError, ValueError) as error:
        raise StepError("FILE_NOT_FOUND", "the snapshot {} cannot be read: {}".format(name, error), "submit again")
    size = sum(entry["size"] for entry in entries)
    result = {"path": target, "files": len(entries), "bytes": size}
    if os.path.exists(marker):
        return dict(result, reused=True)
    report.phase("copying", "{} files of the snapshot {}".format(len(entries), name[:8]))
    if not inputs.get("shared"):
        _lay_out(entries, inputs["contents"], target)
        sign(target, inputs.get("job") or "", name)
        return result
    partial = "{}.partial-{}".format(target, os.getpid())
    shutil.rmtree(partial, ignore_errors=True)
    _lay_out(entries, inputs["contents"], partial)
    sign(partial, "", name)
    try:
        os.rename(partial, target)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        if not os.path.exists(marker):  # another job's copy came first, and is whole
            raise
    return result


def _lay_out(entries: Any, contents: str, target: str) -> None:
    for entry in entries:
        path = os.path.join(target, entry["path"])
        os.makedirs(os.path.dirname(path), exist_ok=True)
        content = os.path.join(contents, entry["sha256"][:2], entry["sha256"])
        try:
            shutil.copyfile(content, path)
        except FileNotFoundError:
            raise StepError("FILE_NOT_FOUND", "{} of the snapshot is gone".format(entry["path"]), "submit again")
        os.chmod(path, 0o700 if entry["executable"] else 0o600)


def sign(target: str, job: str, name: str) -> None:
    """Note whose copy it is, then that it is whole; what changes in it afterwards is the job's."""
    marker = os.path.join(target, MARKER)
    os.makedirs(os.path.dirname(marker), exist_ok=True)
    if job:
        with open(os.path.join(target, OWNER), "w") as out:
            out.write(JobDir(job).host().host_id + "\n")
    with open(marker, "w") as out:
        out.write(name + "\n")

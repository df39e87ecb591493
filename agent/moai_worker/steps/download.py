"""The download step: a model or dataset of a Hub becomes a folder on this container.

Owns the step's inputs and result, and where the token comes from: ``HF_TOKEN`` in this process's
environment, else the container's own login file as ``huggingface_hub`` stores it
(``HF_TOKEN_PATH``, ``HF_HOME/token``, ``~/.cache/huggingface/token``). The token goes into requests
to the endpoint and nowhere else: not into reports, errors or the result.

Refuses nothing itself; ``hub`` and ``download`` do. Runs as a job's step on the container.
"""

import os
from typing import Any, Dict, Mapping, Optional, Tuple

from ..download import download, download_to_folder
from ..hub import DEFAULT_ENDPOINT, plan_download
from ..hubcache import CacheTarget, human


def run(inputs: Mapping[str, Any], report: Any) -> Dict[str, Any]:
    """Download a repository, or accept a folder that is here already.

    Args:
        inputs: ``repo_id`` (``ORG/NAME``, or an absolute or ``~`` path of a folder, returned as it
            is), ``repo_type`` (``model``, default, or ``dataset``), ``revision`` (``main``),
            ``endpoint`` (``HF_ENDPOINT``, else the public Hub), ``hf_home`` (``HF_HOME``, else
            ``~/.cache/huggingface``; the cache is ``hub`` below it), ``output`` (a plain folder
            instead of the cache), ``token_env`` (``HF_TOKEN``), ``allow`` and ``ignore`` (lists of
            patterns), ``streams`` (4).
        report: a ``Reporter``.

    Returns ``path`` (the folder), ``commit`` (empty for a folder that was here), ``bytes``, ``files``;
    ``reused`` is true when nothing had to be fetched.
    Raises StepError.
    """
    repo_id = str(inputs["repo_id"])
    repo_type = str(inputs.get("repo_type") or "model")
    local = os.path.expanduser(repo_id)
    if os.path.isabs(local) and os.path.isdir(local):
        size_bytes, files = _measure(local)
        report.phase("downloading", "Nothing to download: %s is a folder here" % local)
        report.artifact(repo_type, local)
        return {"path": local, "commit": "", "bytes": size_bytes, "files": files, "reused": True}
    endpoint = str(inputs.get("endpoint") or os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT)
    hf_home = _hf_home(inputs.get("hf_home"))
    token, source = find_token(str(inputs.get("token_env") or "HF_TOKEN"), hf_home)
    revision = str(inputs.get("revision") or "main")
    report.phase("downloading", "Asking %s about %s" % (endpoint, repo_id), token_from=source)
    plan = plan_download(
        repo_id, repo_type, revision, endpoint, token, inputs.get("allow"), inputs.get("ignore")
    )
    if plan.left_out:
        report.message(
            "%d files are left out: %s%s"
            % (
                len(plan.left_out),
                ", ".join("%s (%s)" % pair for pair in plan.left_out[:5]),
                ", ..." if len(plan.left_out) > 5 else "",
            )
        )
    report.phase(
        "downloading",
        "%s at %s: %d files, %s" % (repo_id, plan.commit[:12], len(plan.files), human(plan.total_bytes)),
        commit=plan.commit,
        bytes=plan.total_bytes,
        files=len(plan.files),
    )
    streams = int(inputs.get("streams") or 4)
    here = False
    if inputs.get("output"):
        folder = os.path.expanduser(str(inputs["output"]))
        path = download_to_folder(plan, folder, endpoint, token, report, streams)
    else:
        cache = os.path.join(hf_home, "hub")
        target = CacheTarget(cache, plan)
        here = all(target.present(file) for file in plan.files)
        path = download(plan, cache, endpoint, token, report, streams)
    report.artifact(repo_type, path, commit=plan.commit, repo_id=repo_id)
    result = {"path": path, "commit": plan.commit, "bytes": plan.total_bytes, "files": len(plan.files)}
    return dict(result, reused=True) if here else result


def find_token(name: str, hf_home: str) -> Tuple[Optional[str], str]:
    """The Hub token and where it was found (``environment``, ``login file`` or ``none``).

    Args:
        name: environment variable looked at first; its value wins over every file.
        hf_home: folder whose ``token`` file is looked at after ``HF_TOKEN_PATH``.
    """
    value = os.environ.get(name, "").strip()
    if value:
        return value, "environment"
    places = [
        os.environ.get("HF_TOKEN_PATH", ""),
        os.path.join(os.environ.get("HF_HOME", ""), "token") if os.environ.get("HF_HOME") else "",
        os.path.join(hf_home, "token"),
        os.path.join(os.path.expanduser("~"), ".cache", "huggingface", "token"),
    ]
    for place in places:
        try:
            with open(os.path.expanduser(place), "r", encoding="ascii") as stream:
                value = stream.read(8192).strip()
        except (OSError, ValueError):
            continue  # absent, unreadable or not a token: the next place
        if value:
            return value, "login file"
    return None, "none"


def _hf_home(given: Any) -> str:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    chosen = given or os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")
    return os.path.abspath(os.path.expanduser(str(chosen)))


def _measure(folder: str) -> Tuple[int, int]:
    size_bytes = files = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                size_bytes += os.stat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue  # a dangling link
            files += 1
    return size_bytes, files

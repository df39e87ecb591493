"""The download step: a model or dataset of a Hub becomes a folder on this container.

Owns the step's inputs and result, and the order of things: token, plan (waiting for access when
asked to), what is here already, fetching. The token comes from ``HF_TOKEN`` in this process's
environment, else from the container's own login (``hubhome``). It goes into requests to the endpoint
and nowhere else: not into reports, errors or the result.

Refuses nothing itself; ``hub`` and ``download`` do. Runs as a job's step on the container.
"""

import os
import threading
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Mapping, Optional, Sequence, Tuple

from .. import othercache, xet
from ..access import when_granted
from ..download import download, download_to_folder
from ..hub import DEFAULT_ENDPOINT, Plan, plan_download
from ..hubcache import CacheTarget, FolderTarget, RepoLock, check_space, human, unique_files
from ..hubhome import caches, find_token, hf_home
from ..transferprogress import Progress

#: Why files were left out is told of so many.
_TOLD = 5


def run(inputs: Mapping[str, Any], report: Any) -> Dict[str, Any]:
    """Download a repository, or accept a folder that is here already.

    Args:
        inputs: ``repo_id`` (``ORG/NAME``, or an absolute or ``~`` path of a folder, returned as it
            is), ``repo_type`` (``model``, default, or ``dataset``), ``revision`` (``main``),
            ``endpoint`` (``HF_ENDPOINT``, else the public Hub), ``hf_home`` (``HF_HOME``, else
            ``~/.cache/huggingface``; the cache is ``hub`` below it), ``output`` (a plain folder
            instead of the cache), ``token_env`` (``HF_TOKEN``), ``allow`` and ``ignore`` (lists of
            patterns), ``streams`` (1 to 32; absent or 0 = 4, and up to 16 where they are faster), ``wait_for_access`` (seconds to wait for a
            gated repository; absent or 0 = not at all), ``python`` (the environment's, for files that
            need hf-xet).
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
    home = hf_home(str(inputs.get("hf_home") or ""))
    token, source = find_token(str(inputs.get("token_env") or "HF_TOKEN"), home)
    revision = str(inputs.get("revision") or "main")
    report.phase("downloading", "Asking %s about %s" % (endpoint, repo_id), token_from=source)

    def ask() -> Plan:
        return plan_download(
            repo_id, repo_type, revision, endpoint, token, inputs.get("allow"), inputs.get("ignore")
        )

    wait_s = float(inputs.get("wait_for_access") or 0.0)
    plan = when_granted(ask, wait_s, report, bool(token)) if wait_s > 0 else ask()
    _tell(plan, report)
    streams = int(inputs.get("streams") or 0)
    cache = os.path.join(home, "hub")
    output = os.path.expanduser(str(inputs["output"])) if inputs.get("output") else ""
    found = othercache.search(plan, caches(), "" if output else cache)
    _tell_unfinished(plan, report, [cache] + ([found.cache] if found else []))
    elsewhere = dict(found.blobs) if found else {}
    here = False
    if output:
        folder_target = FolderTarget(output, plan)
        with _by_xet(plan, folder_target, inputs, endpoint, token, report, elsewhere):
            path = download_to_folder(plan, output, endpoint, token, report, streams, None, elsewhere)
    else:
        target = CacheTarget(cache, plan)
        here = all(target.present(file) for file in plan.files)
        path = "" if here or found is None else _in_place(plan, found, target, cache, report)
        here = here or bool(path)
        if not path:
            with _by_xet(plan, target, inputs, endpoint, token, report, elsewhere):
                path = download(plan, cache, endpoint, token, report, streams, None, elsewhere)
    report.artifact(repo_type, path, commit=plan.commit, repo_id=repo_id)
    result = {"path": path, "commit": plan.commit, "bytes": plan.total_bytes, "files": len(plan.files)}
    return dict(result, reused=True) if here else result


def _tell(plan: Plan, report: Any) -> None:
    if plan.left_out:
        shown = ", ".join("%s (%s)" % pair for pair in plan.left_out[:_TOLD])
        more = ", ..." if len(plan.left_out) > _TOLD else ""
        report.message("%d files are left out: %s%s" % (len(plan.left_out), shown, more))
    report.phase(
        "downloading",
        "%s at %s: %d files, %s" % (plan.repo_id, plan.commit[:12], len(plan.files), human(plan.total_bytes)),
        commit=plan.commit,
        bytes=plan.total_bytes,
        files=len(plan.files),
    )


def _tell_unfinished(plan: Plan, report: Any, places: Sequence[str]) -> None:
    for folder, files, size_bytes in othercache.unfinished(plan, places):
        report.message(
            "%d unfinished files of huggingface_hub take %s in %s; unless it is downloading there now: rm %s/*.incomplete"
            % (files, human(size_bytes), folder, folder)
        )


@contextmanager
def _by_xet(
    plan: Plan,
    target: Any,
    inputs: Mapping[str, Any],
    endpoint: str,
    token: Optional[str],
    report: Any,
    elsewhere: Dict[str, str],
) -> Iterator[None]:
    """Fetch what plain HTTP does not give out, one job at a time, and add it to ``elsewhere``."""
    missing = [f for f in unique_files(plan.files) if f.xet and f.etag not in elsewhere and not target.present(f)]
    files = xet.only_by_xet(plan, missing, endpoint, token) if missing else []
    if not files:
        yield
        return
    folder = os.path.join(os.path.dirname(target.part_base(files[0])), "xet.moai-part")
    told = threading.Event()

    def waiting() -> None:
        if not told.is_set():
            told.set()
            report.phase("waiting", "Another job is downloading %s; waiting for it" % plan.repo_id)

    with RepoLock(target.lock_path + ".xet", waiting, threading.Event()):
        files = [file for file in files if not target.present(file)]
        try:
            if files:
                check_space(target.root, sum(file.size_bytes for file in files), len(files))
                python = str(inputs.get("python") or "")
                elsewhere.update(xet.bring(plan, files, python, folder, endpoint, token, report))
            yield
        finally:
            xet.clear(folder)


def _in_place(plan: Plan, found: othercache.Found, target: CacheTarget, cache: str, report: Any) -> str:
    """A whole snapshot on another file system is read where it is; empty when it cannot be."""
    if found.snapshot is None or othercache.same_file_system(found.snapshot, target.blobs):
        return ""
    progress = Progress(report, plan)
    progress.phase("verifying", "%s is here already, in %s; verifying it" % (plan.repo_id, found.cache))
    hashed = [0]

    def on_bytes(size_bytes: int) -> None:
        hashed[0] += size_bytes
        progress.show(hashed[0], 0, 0)

    wrong = othercache.verify_in_place(plan, found, cache, on_bytes)
    if wrong:
        progress.warn("%s is not what the Hub announces; the repository is taken from the Hub" % wrong[0])
        return ""
    progress.show(plan.total_bytes, 0, len(plan.files), force=True)
    return found.snapshot


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

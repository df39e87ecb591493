"""What a download would fetch here: the Hub's list beside the caches, the disk and the token there are.

Blocking; runs in the agent's worker threads. Nothing is written, and no byte of a file is fetched.
"""

import os
import shutil
from typing import Mapping, Tuple

from moai_proto.v1 import model_pb2
from moai_worker import hub, hubhome, othercache
from moai_worker.hubcache import RESERVE_BYTES, repo_folder, unique_files

#: Files named in an answer; the rest is counted.
_MOST_FILES = 1000
#: A person waits for a plan: without any answer it is given up after this.
SILENCE_S = 4.0


def token_of(given: str, login: Mapping[str, str], hf_home: str = "") -> Tuple[str, str]:
    """The Hub token of a request and where it comes from, as PlanDownloadResponse tells it; ("", "")
    without one."""
    if given:
        return given, "laptop"
    token, source = hubhome.find_token("HF_TOKEN", hf_home, login)
    if not token:
        return "", ""
    return token, "HF_TOKEN of the login" if source == "environment" else source


def plan(
    request: model_pb2.PlanDownloadRequest, login: Mapping[str, str], folder: str
) -> model_pb2.PlanDownloadResponse:
    """Answer PlanDownload.

    Args:
        login: variables of the login shell. folder: the work folder.

    Raises StepError with the reasons of ``hub.plan_download``.
    """
    repo = request.repo
    endpoint = (repo.endpoint or login.get("HF_ENDPOINT") or hub.DEFAULT_ENDPOINT).rstrip("/")
    hf_home = login.get("HF_HOME") or os.path.join(folder, "huggingface")
    token, source = token_of(request.token, login, hf_home)
    made = hub.plan_download(
        repo.id,
        repo_type=repo.type or "model",
        revision=repo.revision or "main",
        endpoint=endpoint,
        token=token or None,
        proxy=request.proxy,
        silence_s=SILENCE_S,
    )
    here, other = held(made, hf_home, login, bool(request.output))
    missing = sum(file.size_bytes for file in unique_files(made.files) if file.etag not in here)
    if request.output:
        home = login.get("HOME") or os.path.expanduser("~")
        target = os.path.normpath(os.path.join(home, os.path.expanduser(request.output)))
    else:
        target = hf_home if login.get("HF_HOME") else folder
    place = existing(target)
    largest = sorted(made.files, key=lambda file: (-file.size_bytes, file.path))[:_MOST_FILES]
    page = "%s/%s%s" % (endpoint, "datasets/" if made.repo_type == "dataset" else "", made.repo_id)
    return model_pb2.PlanDownloadResponse(
        commit=made.commit,
        size_bytes=made.total_bytes,
        file_count=len(made.files),
        left_out={str(path): str(why) for path, why in made.left_out[:_MOST_FILES]},
        free_bytes=shutil.disk_usage(place).free,
        folder=place,
        files=[model_pb2.PlannedFile(path=f.path, size_bytes=f.size_bytes, here=f.etag in here) for f in largest],
        missing_bytes=missing,
        needed_bytes=missing + RESERVE_BYTES if missing else 0,
        gated=made.gated,
        page=page,
        token_source=source,
        other_cache=other,
    )


def held(made: hub.Plan, hf_home: str, login: Mapping[str, str], is_folder: bool = False) -> Tuple[set, str]:
    """Etags of the files that need not be fetched, and the other cache that holds some of them."""
    own = os.path.join(hf_home, "hub")
    blobs = os.path.join(own, repo_folder(made), "blobs")
    here = {f.etag for f in made.files if not is_folder and _size(os.path.join(blobs, f.etag)) == f.size_bytes}
    found = othercache.search(made, hubhome.caches(login), "" if is_folder else own)
    if found is None or here.issuperset(found.blobs):
        return here, ""
    return here | set(found.blobs), found.cache


def existing(path: str) -> str:
    """The nearest folder above that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return -1

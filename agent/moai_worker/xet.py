"""Files that only Xet storage gives out: fetched by hf-xet in the user's environment, or refused at once.

The Hub keeps large files in Xet storage and also serves them over plain HTTP, which is what
``download`` uses. Where plain HTTP is refused (documented for files above 50 GB) the protocol itself
is needed, and its only implementation is the ``hf_xet`` package. So: one byte of the largest file is
asked for first; only when that is refused is hf-xet looked for, and without it the step ends before
anything is fetched.

Owns the child that runs hf-xet, and a watch on it: hf-xet can hang without a word, so a child that
brings no byte for a minute is killed and started again, and given up after a second such minute. What it
fetched is verified like everything else.

Refuses to give the token to anything but that child's environment. Runs in a step's process.
"""

import os
import shutil
import signal
import subprocess
import threading
import time
from typing import Any, Dict, List, Mapping, Optional, Sequence

from .errors import StepError
from .hub import Plan, file_path
from .hubcache import human, make_folders
from .hubfiles import PlanFile
from .web import NETWORK_ERRORS, Web, origin

#: huggingface_hub's constants.MAX_HTTP_DOWNLOAD_SIZE: above it the Hub promises nothing over plain HTTP.
LARGE_BYTES = 50 * 1000**3
_REFUSED = (400, 401, 403, 404, 405, 410, 413, 451)
_TRIES = 2
_TICK_S = 1.0
_HAS_XET = "import hf_xet, huggingface_hub"
#: Prints where each file is; the library decides by the Hub's answer that it is Xet.
_FETCH = (
    "import sys\n"
    "from huggingface_hub import hf_hub_download\n"
    "repo, kind, commit, folder = sys.argv[1:5]\n"
    "for path in sys.argv[5:]:\n"
    "    print(hf_hub_download(repo, path, repo_type=kind, revision=commit, cache_dir=folder), flush=True)\n"
)


def only_by_xet(
    plan: Plan, missing: Sequence[PlanFile], endpoint: str, token: Optional[str], proxy: str = ""
) -> List[PlanFile]:
    """Of the missing files, those that plain HTTP does not give out: one byte of the largest is asked
    for, above and below the documented limit. A network that fails proves nothing and counts as fine."""
    found: List[PlanFile] = []
    stored = [file for file in missing if file.xet]
    for group in (
        [file for file in stored if file.size_bytes > LARGE_BYTES],
        [file for file in stored if file.size_bytes <= LARGE_BYTES],
    ):
        if group and _refuses(plan, max(group, key=lambda file: file.size_bytes), endpoint, token, proxy):
            found += group
    return found


def _refuses(plan: Plan, file: PlanFile, endpoint: str, token: Optional[str], proxy: str) -> bool:
    web = Web(30.0, proxy)
    url = endpoint.rstrip("/") + file_path(plan, file.path)
    last = max(0, file.size_bytes - 1)
    try:
        response, final = web.request("GET", url, {"Range": "bytes=%d-%d" % (last, last)}, token, endpoint)
        # What the Hub itself refuses has other causes, which the download tells.
        return response.status in _REFUSED and origin(final) != origin(endpoint)
    except NETWORK_ERRORS:
        return False
    finally:
        web.close()


def bring(
    plan: Plan,
    files: Sequence[PlanFile],
    python: str,
    folder: str,
    endpoint: str,
    token: Optional[str],
    report: Any,
    stall_s: float = 60.0,
) -> Dict[str, str]:
    """Fetch files by hf-xet; returns where each lies, by etag, to be verified and taken from there.

    Args:
        python: interpreter of the user's environment; empty = there is none. folder: made, on the target's
            file system; the caller removes it with ``clear``. stall_s: seconds without a byte before the
            child is killed.

    Raises StepError XET_REQUIRED before anything is fetched, DOWNLOAD_STALLED, HUB_UNREACHABLE.
    """
    size_bytes = sum(file.size_bytes for file in files)
    if not python or not _has_xet(python):
        raise StepError(
            "XET_REQUIRED",
            "%s of %s (%s) is given out by Xet storage only, and %s has no hf_xet"
            % (files[0].path, plan.repo_id, human(files[0].size_bytes), python or "the container"),
            "moai remote env install --env ENV huggingface_hub hf_xet, then run again with --env ENV",
            {"file": files[0].path},
        )
    make_folders(folder)
    report.phase("downloading", "%s of %s by hf-xet" % (human(size_bytes), plan.repo_id))
    env = dict(os.environ, HF_ENDPOINT=endpoint, HF_XET_CACHE=os.path.join(folder, "xet"))
    env.update({"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_SYMLINKS_WARNING": "1"})
    env.pop("HF_HUB_DISABLE_XET", None)
    if token:
        env["HF_TOKEN"] = token
    argv = [python, "-c", _FETCH, plan.repo_id, plan.repo_type, plan.commit, folder] + [file.path for file in files]
    for attempt in range(_TRIES):
        paths = _watched(argv, env, folder, size_bytes, report, stall_s)
        if paths is not None and len(paths) == len(files):
            return {file.etag: os.path.realpath(path) for file, path in zip(files, paths)}
        if attempt + 1 < _TRIES:
            report.message("hf-xet brought nothing for %.0f s; it is started again" % stall_s, level="warning")
    raise StepError(
        "DOWNLOAD_STALLED",
        "hf-xet brought nothing of %s for %.0f s, twice" % (files[0].path, stall_s),
        "check that this host reaches the Xet storage (cas-server.xethub.hf.co), then run again",
        {"file": files[0].path},
    )


def clear(folder: str) -> None:
    """Remove what ``bring`` made; what was taken has its own link or copy."""
    shutil.rmtree(folder, ignore_errors=True)


def _has_xet(python: str) -> bool:
    try:
        done = subprocess.run(
            [python, "-c", _HAS_XET], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _watched(
    argv: Sequence[str], env: Mapping[str, str], folder: str, size_bytes: int, report: Any, stall_s: float
) -> Optional[List[str]]:
    """Paths the child printed; None when it hung and was killed. Raises StepError when it failed."""
    child = subprocess.Popen(
        argv, env=dict(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    told: List[bytes] = [b"", b""]
    readers = [
        threading.Thread(target=_drain, args=(stream, told, number), daemon=True)
        for number, stream in enumerate((child.stdout, child.stderr))
    ]
    for reader in readers:
        reader.start()
    held, changed_s, ended = _held(folder), time.monotonic(), False
    try:
        while not ended:
            try:
                child.wait(min(_TICK_S, stall_s / 4))
                ended = True
            except subprocess.TimeoutExpired:
                now = _held(folder)
                if now > held:
                    held, changed_s = now, time.monotonic()
                    report.progress(min(held, size_bytes), size_bytes, "bytes")
                elif time.monotonic() - changed_s > stall_s:
                    return None
    finally:
        if not ended:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        for reader in readers:
            reader.join(5.0)
    if child.returncode != 0:
        last = (told[1].decode("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
        raise StepError(
            "HUB_UNREACHABLE",
            "hf-xet failed (exit code %d): %s" % (child.returncode, last[:300]),
            "check this host's network, then run again",
        )
    return told[0].decode("utf-8", "replace").split("\n")[:-1]


def _drain(stream: Any, told: List[bytes], number: int) -> None:
    with stream:
        for piece in iter(lambda: stream.read1(65536), b""):
            told[number] = (told[number] + piece)[-1024 * 1024 :]


def _held(folder: str) -> int:
    """Bytes on the disk below a folder, holes not counted."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
            except OSError:
                continue  # renamed meanwhile
    return total

"""Downloads from a Hub on loopback that sends by sendfile: against curl with sha256sum, and huggingface_hub.

Ours is hashed while it arrives; so is curl's, by ``sha256sum`` after each file; the library checks lengths
only. The disk is shared by all three, so each round begins with nothing left to write back.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from fakes.sshd import wait_until
from measure import Row, rate, run, timed

_REPO = Path(__file__).resolve().parents[1]
_TRAIN = _REPO / ".venv-train/bin/python"
_ROUNDS = min(3, int(os.environ.get("MOAI_BENCH_ROUNDS") or 3))
#: A repository of shards, as models have them; less of it where the disk is small.
_SHARDS = 16
_SHARD_BYTES = 256 * 1024 * 1024
_LIMIT = 20_000_000.0
_OURS = """
import sys
from moai_worker.download import download
from moai_worker.hub import plan_download
endpoint, cache = sys.argv[1:]
download(plan_download("org/big", endpoint=endpoint), cache, endpoint)
"""
_LIBRARY = "import sys; from huggingface_hub import snapshot_download; snapshot_download('org/big', cache_dir=sys.argv[1])"
_CURL = 'set -e; for name in $3; do curl -sfL -o "$2/$name" "$1/org/big/resolve/main/$name"; sha256sum "$2/$name" > "$2/sum"; done'


def _shards(folder: Path) -> list[str]:
    folder.mkdir(parents=True)
    free = shutil.disk_usage(folder).free
    count = _SHARDS if free > 4 * _SHARDS * _SHARD_BYTES else _SHARDS // 4
    names = [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    for name in names:
        with open(folder / name, "wb") as out:
            for _ in range(_SHARD_BYTES // (1 << 20)):
                out.write(os.urandom(1 << 20))
    return names


@contextmanager
def _hub(root: Path, work: Path, limit: float = 0.0) -> Iterator[str]:
    """The stand-in's address, served by a process of its own."""
    port = work / f"port-{limit:.0f}"
    argv = [sys.executable, str(_REPO / "tests/fakes/hub.py"), "--root", str(root), "--port-file", str(port), "--rate", str(limit)]
    with subprocess.Popen(argv) as server:
        try:
            wait_until(port.exists, "the Hub to have read its files", 120)
            yield port.read_text().strip()
        finally:
            server.terminate()


def _medians(work: Path, rounds: int, *ways: Callable[[Path], None]) -> list[float]:
    """Seconds of each way into an empty folder, alternately."""
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, kept in zip(ways, times, strict=True):
            target = work / "target"
            target.mkdir()
            os.sync()
            kept.append(timed(lambda way=way, target=target: way(target)))
            shutil.rmtree(target)
    return [statistics.median(one) for one in times]


def rows(folder: Path) -> list[Row]:
    """All rows of this file."""
    names = _shards(folder / "root/models/org/big")
    total = len(names) * _SHARD_BYTES
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
    env["PYTHONPATH"] = str(_REPO / "agent")
    found: list[Row] = []

    def ours(endpoint: str) -> Callable[[Path], None]:
        return lambda target: run([sys.executable, "-c", _OURS, endpoint, str(target)], env)

    def curl(endpoint: str) -> Callable[[Path], None]:
        return lambda target: run(["sh", "-c", _CURL, "sh", endpoint, str(target), " ".join(names)], env)

    def library(endpoint: str) -> Callable[[Path], None]:
        theirs = dict(env, HF_ENDPOINT=endpoint, HF_HUB_DISABLE_PROGRESS_BARS="1")
        theirs.pop("PYTHONPATH")
        return lambda target: run([str(_TRAIN), "-c", _LIBRARY, str(target)], dict(theirs, HF_HOME=str(target / "home")))

    has_library = _TRAIN.exists() and subprocess.run([_TRAIN, "-c", "import huggingface_hub"], check=False).returncode == 0
    if not has_library:
        print("!!! .venv-train has no huggingface_hub: its rows are SKIPPED", file=sys.stderr)
    size = f"{total / 1e9:.1f} GB in {len(names)} files"
    with _hub(folder / "root", folder) as endpoint:
        ways = [ours(endpoint), curl(endpoint)] + ([library(endpoint)] if has_library else [])
        mine, other, *theirs = _medians(folder, _ROUNDS, *ways)
        ratio = other / mine
        found.append(
            Row(f"{size} from loopback, hash checked", "`curl` + `sha256sum`", rate(total, mine), rate(total, other), ratio, ">= 1.0x", ratio >= 1)
        )
        for seconds in theirs:
            found.append(Row("the same", "`snapshot_download`, nothing hashed", rate(total, mine), rate(total, seconds), seconds / mine, "-", True))
    if has_library:
        with _hub(folder / "root", folder, _LIMIT) as endpoint:
            mine, other = _medians(folder, 1, ours(endpoint), library(endpoint))
        ratio = other / mine
        found.append(
            Row("the same, 20 MB/s a connection", "`snapshot_download`, defaults", rate(total, mine), rate(total, other), ratio, ">= 1.5x", ratio >= 1.5)
        )
    for row in found:
        print(row.line(), flush=True)
    return found

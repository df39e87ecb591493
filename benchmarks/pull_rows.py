"""Fetching results: a folder of large files by pull against scp, on loopback and on a link of 50 MB/s.

``MOAI_BENCH_PULL_MB``: size of the folder (1024). The link is a relay in a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from fakes.box import Box
from measure import Row, rate, run, side_by_side
from spine import ROUNDS, Bench

_SIZE = int(os.environ.get("MOAI_BENCH_PULL_MB") or 1024) << 20
_LINK = 50e6
#: As a model of this size is: some shards, hardly compressible.
_SHARDS = 4
_RELAY = "import sys, time; from throttle import Throttle\nwith Throttle(int(sys.argv[1]), float(sys.argv[2])) as link:\n print(link.port, flush=True)\n sys.stdin.read()"


def results(folder: Path) -> Path:
    """A folder as a training leaves it, of random bytes."""
    folder.mkdir(parents=True)
    piece = os.urandom(8 << 20)
    for number in range(_SHARDS):
        with open(folder / f"model-{number + 1:05d}-of-{_SHARDS:05d}.safetensors", "wb") as out:
            for at in range(_SIZE // _SHARDS // len(piece)):
                # Each piece is another one, or equal parts would travel once.
                out.write(piece[at + number :] + piece[: at + number])
    (folder / "config.json").write_text("{}")
    return folder


@contextlib.contextmanager
def link(port: int, bytes_per_s: float) -> Iterator[int]:
    """The port of a relay to ``port`` with a rate."""
    relay = subprocess.Popen(
        [sys.executable, "-c", _RELAY, str(port), str(bytes_per_s)], cwd=Path(__file__).parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield int(relay.stdout.readline())  # type: ignore[union-attr]
    finally:
        relay.kill()
        relay.wait()


def compare(bench: Bench, source: Path, folder: Path, rounds: int) -> tuple[float, float]:
    """Seconds of pull and of scp, each into an empty folder."""
    here, copied = folder / "pulled", folder / "copied"

    def clear() -> None:
        for target in (here, copied):
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
        os.sync()

    def ours() -> None:
        run(bench.moai("remote", "pull", str(source), str(here)), bench.env)

    def theirs() -> None:
        run(["scp", "-q", "-r", *bench.ssh_options, f"{bench.box.alias}:{source}", str(copied)], bench.env)

    return side_by_side(ours, theirs, rounds, before=clear)


def rows(folder: Path) -> list[Row]:
    """All rows of this file."""
    shutil.rmtree(folder, ignore_errors=True)
    found: list[Row] = []
    what, against = f"pull {_SIZE >> 20} MiB, each byte checked", "`scp -r`"
    with Box(folder / "box", look_alike=False) as box:
        bench = Bench(box)
        source = results(box.home / "results")
        bench.ours("remote", "up")
        ours, theirs = compare(bench, source, folder, max(3, ROUNDS // 3))
        found.append(Row(f"{what}, loopback", against, rate(_SIZE, ours), rate(_SIZE, theirs), ours / theirs, ">= 60 MB/s", _SIZE / ours >= 60e6))
        print(found[-1].line(), flush=True)
        bench.ours("remote", "disconnect")
        with link(box.sshd.port, _LINK) as port:
            box.sshd.ssh_config(box.ssh_config, alias=box.alias, Port=str(port), HostKeyAlias=box.sshd.known_hosts_name)
            bench.ours("remote", "up")
            ours, theirs = compare(bench, source, folder, max(3, ROUNDS // 4))
        row = Row(f"{what}, link of 50 MB/s", against, rate(_SIZE, ours), rate(_SIZE, theirs), ours / theirs, "<= 1.1x", ours <= 1.1 * theirs)
        print(row.line(), flush=True)
        found.append(row)
    return found

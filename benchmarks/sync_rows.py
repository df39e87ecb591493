"""Sending code that changed a little: a snapshot against rsync over the same ssh."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

from fakes.box import Box
from measure import Row, ms, run, side_by_side
from spine import ROUNDS, Bench

_SEND = "import sys, moai; moai.connect('box').send_code(sys.argv[1])"


def project(folder: Path, files: int) -> Path:
    """A git repository of so many source files of 0.2 to 12 kB in folders of 25."""
    made = random.Random(7)
    for number in range(files):
        path = folder / f"package{number // 500}" / f"part{number // 25}" / f"module{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"x{made.random()} = {made.random()}\n" for _ in range(made.randint(5, 300))))
    who = ["git", "-C", str(folder), "-c", "user.name=b", "-c", "user.email=b@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*who, *words], check=True, capture_output=True)
    return folder


def incremental(bench: Bench, folder: Path, files: int, changed: int) -> list[Row]:
    """``changed`` files of ``files`` were edited since the last time, on either side."""
    code = project(folder / f"code{files}", files)
    paths = sorted(code.rglob("module*.py"))
    count = [0]

    def edit() -> None:
        count[0] += 1
        for path in random.Random(count[0]).sample(paths, changed):
            with path.open("a") as out:
                out.write(f"y = {count[0]}\n")

    def ours() -> None:
        run([sys.executable, "-c", _SEND, str(code)], bench.env)

    def theirs() -> None:
        shell = " ".join(["ssh", *bench.ssh_options])
        run(["rsync", "-az", "--delete", "--exclude=.git", "-e", shell, f"{code}/", f"{bench.box.alias}:{bench.box.home}/rsync{files}/"], bench.env)

    ours(), theirs()
    warm, rsync = side_by_side(ours, theirs, ROUNDS, before=edit)

    def disconnected() -> None:
        edit()
        bench.ours("remote", "disconnect")

    cold, rsync_again = side_by_side(ours, theirs, max(3, ROUNDS // 2), before=disconnected)
    what = f"sync of {files} files, {changed} changed"
    against = "`rsync -az` over the same ssh"
    return [
        Row(f"{what}, link up", against, ms(warm), ms(rsync), warm / rsync, "<= 1.0x", warm <= rsync),
        Row(f"{what}, first (no link)", against, ms(cold), ms(rsync_again), cold / rsync_again, "<= 1.5x", cold <= 1.5 * rsync_again),
    ]


def rows(folder: Path) -> list[Row]:
    """All rows of this file; none without rsync."""
    if shutil.which("rsync") is None:
        print("SKIPPED: rsync is not installed (apt-get install rsync)", file=sys.stderr)
        return []
    shutil.rmtree(folder, ignore_errors=True)
    found: list[Row] = []
    with Box(folder / "box", look_alike=False) as box:
        bench = Bench(box)
        bench.ours("remote", "up")
        for files, changed in ((2000, 1), (5000, 10)):
            made = incremental(bench, folder, files, changed)
            for row in made:
                print(row.line(), flush=True)
            found += made
    return found


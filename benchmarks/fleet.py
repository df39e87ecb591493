"""Many containers at once: devices, bootstrap, one merged stream, and what one host more costs.

Each look-alike has its own sshd, home and agent on this machine, so whatever containers and laptop spend is paid
by the same cores. ``MOAI_BENCH_FLEET``: how many (64). The other side is OpenSSH through ``xargs -P 16``.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from fakes.box import kill_below
from fakes.many import Many
from measure import Row, ms, run, side_by_side, timed

HOSTS = int(os.environ.get("MOAI_BENCH_FLEET") or 64)
FRESH = 16
ROUNDS = max(3, int(os.environ.get("MOAI_BENCH_ROUNDS") or 10) // 2)
EVENTS, RATE = 500, 50
CONSOLE = str(Path(sys.executable).with_name("moai"))


class Bench:
    """Containers, and both ways to them."""

    def __init__(self, many: Many) -> None:
        self.many = many
        self.env = dict(many.laptop.env)
        self.env.pop("PYTHONPATH", None)
        self.options = ["-F", str(many.ssh_config), "-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "LogLevel=ERROR"]

    def ours(self, *words: str) -> None:
        """Run moai as the laptop's user."""
        run([CONSOLE, "remote", *words], self.env)

    def theirs(self, script: str, names: list[str]) -> None:
        """Run a line of sh for each host, sixteen at once; ``$1`` is the host, ``$2`` what follows its name."""
        argv = ["xargs", "-P", "16", "-L", "1", "sh", "-c", script, "sh"]
        done = subprocess.run(argv, input="\n".join(names).encode(), env=self.env, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{script} ended with {done.returncode}: {done.stderr[-800:]!r}")

    @property
    def ssh(self) -> str:
        """``ssh`` with its options, for a line of sh."""
        return " ".join(["ssh", *self.options])


def load() -> str:
    """The machine's load, for the row."""
    return f"load {os.getloadavg()[0]:.0f}"


def devices(bench: Bench) -> list[Row]:
    """The accelerators of all in one command, without links and with."""
    ask = ("devices", "--on", "all", "--json")
    look = f'{bench.ssh} "$1" \'"$HOME"/.moreh/bin/moreh-smi\''
    names = bench.many.names

    def theirs() -> None:
        bench.theirs(look, names)

    first, ssh = side_by_side(lambda: bench.ours(*ask), theirs, ROUNDS, before=lambda: bench.ours("disconnect", "all"))
    bench.ours(*ask)
    warm, ssh_again = side_by_side(lambda: bench.ours(*ask), theirs, ROUNDS)
    against = "`xargs -P 16 ssh HOST moreh-smi`"
    return [
        Row(f"devices of {HOSTS} hosts, first ({load()})", against, ms(first), ms(ssh), first / ssh, "<= 0.8x", first <= 0.8 * ssh),
        Row(f"devices of {HOSTS} hosts, links up ({load()})", against, ms(warm), ms(ssh_again), warm / ssh_again, "<= 0.4x", warm <= 0.4 * ssh_again),
    ]


def one_more(bench: Bench) -> list[Row]:
    """What a host more costs: the slope of ``devices`` at the end against that at the beginning."""
    counts = sorted({1, HOSTS // 4, HOSTS // 2, HOSTS})
    times: dict[int, list[float]] = {n: [] for n in counts}
    for _ in range(2 * ROUNDS):
        for n in counts:
            times[n].append(timed(lambda n=n: bench.ours("devices", "--on", ",".join(bench.many.names[:n]), "--json")))
    at = {n: statistics.median(found) for n, found in times.items()}
    half = HOSTS // 2
    early, late = (at[half] - at[1]) / (half - 1), (at[HOSTS] - at[half]) / (HOSTS - half)
    shown = ", ".join(f"{n}: {ms(t)}" for n, t in at.items())
    what = f"one host more, of {half + 1} to {HOSTS}, links up ({shown}; {load()})"
    return [Row(what, f"of hosts 2 to {half}", f"{late * 1000:.1f} ms", f"{early * 1000:.1f} ms", late / early, "<= 1.2x", late <= 1.2 * early)]


_WRITER = r"""
import json, os, sys, time
out = os.open(os.environ["MOAI_REPORTS"], os.O_WRONLY | os.O_APPEND)
sys.stdin = open(os.path.expanduser("~/go"), "r+b", buffering=0)
sys.stdin.read(1)
start = time.monotonic()
for n in range(int(sys.argv[1])):
    time.sleep(max(0.0, start + n / float(sys.argv[2]) - time.monotonic()))
    line = {"t": time.time(), "step": "", "type": "metric", "data": {"step": n, "values": {"loss": 1.0}}}
    os.write(out, json.dumps(line).encode() + b"\n")
"""

_READER = r"""
import json, sys, threading, time
import moai
count, rate, homes = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
fleet = moai.Fleet("all")
jobs = fleet.run(["python3", "writer.py", str(count), rate]).check()
words = [open(home + "/go", "r+b", buffering=0) for home in homes]
def go():
    while any(job.refresh().state != "RUNNING" for job in jobs.values()):
        time.sleep(0.2)
    for word in words:
        word.write(b"g")
        time.sleep(1 / float(rate) / len(words))
threading.Thread(target=go, daemon=True).start()
ages, steps = [], {name: [] for name in jobs}
for item in fleet.events(jobs.values()):
    if item.type == "metric":
        ages.append(time.time() - item.time.timestamp())
        steps[item.host].append(item.data["step"])
lost = sum(found != list(range(count)) for found in steps.values())
print(json.dumps({"ages": ages, "lost": lost}))
"""


def merged(bench: Bench) -> list[Row]:
    """How old an event is when a program that follows all has it."""
    for one in bench.many.containers:
        (one.home / "writer.py").write_text(_WRITER)
        if not (one.home / "go").exists():
            os.mkfifo(one.home / "go")
    homes = json.dumps([str(one.home) for one in bench.many.containers])
    done = subprocess.run([sys.executable, "-c", _READER, str(EVENTS), str(RATE), homes], env=bench.env, check=False, capture_output=True, timeout=300)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:].decode("utf-8", "replace"))
    found = json.loads(done.stdout)
    ages = sorted(found["ages"])
    missing = HOSTS * EVENTS - len(ages)
    p50, p99 = ages[len(ages) // 2], ages[int(0.99 * len(ages))]
    shown = f"p50 {ms(p50)}, p99 {ms(p99)}, {missing} lost"
    good = p99 <= 0.5 and missing == 0 and found["lost"] == 0
    return [Row(f"merged events, {HOSTS} hosts x {RATE}/s ({load()})", "-", shown, "-", None, "p99 <= 500 ms, 0 lost", good)]


def bootstrap(bench: Bench) -> list[Row]:
    """Sixteen fresh hosts, the bundle cached, against copying and unpacking that bundle."""
    names = bench.many.names[:FRESH]
    hosts = ",".join(names)
    rounds = itertools.count()

    def fresh() -> None:
        bench.ours("disconnect", hosts)
        number = next(rounds)
        for one in bench.many.containers[:FRESH]:
            kill_below(one.home)
            # Put aside, not deleted: for a minute ext4 gives out no inode of a deleted file again, and searches its tables
            # for others whenever a file is made. No fresh container pays for that.
            for used in (".moai", "unpacked"):
                if (one.home / used).exists():
                    (one.home / used).rename(one.folder / f"{used}-{number}")

    fresh()
    bench.ours("up", hosts)
    bundle = max((bench.many.laptop.folder / "cache" / "bundles").glob("*-cp*.tar.gz"), key=lambda path: path.stat().st_mtime)
    options = " ".join(bench.options)
    # A login begins in the home of whoever runs this, not in the container's.
    places = [f"{name} {one.home}" for name, one in zip(names, bench.many.containers, strict=False)]
    copy = f'scp -q {options} {bundle} "$1:$2/bundle.tar.gz" && {bench.ssh} "$1" "cd $2 && mkdir -p unpacked && tar xzf bundle.tar.gz -C unpacked"'
    mine, other = side_by_side(lambda: bench.ours("up", hosts), lambda: bench.theirs(copy, places), ROUNDS, before=fresh)
    what = f"bootstrap of {len(names)} fresh hosts, bundle cached ({load()})"
    return [Row(what, "`xargs -P 16`: `scp` + `tar x`", f"{mine:.2f} s", f"{other:.2f} s", mine / other, "<= 1.3x", mine <= 1.3 * other)]


def _up(bench: Bench) -> None:
    """Eight at a time: sixty-four agents that start at once on the cores of one machine take longer than any may."""
    names = bench.many.names
    for first in range(0, len(names), 8):
        bench.ours("up", ",".join(names[first : first + 8]))


def rows(folder: Path) -> list[Row]:
    """All rows of this file."""
    found: list[Row] = []
    parts: list[Callable[[Bench], list[Row]]] = [devices, one_more, merged, bootstrap]
    wanted = os.environ.get("MOAI_BENCH_PARTS", "").split()
    with Many(folder / "many", HOSTS) as many:
        bench = Bench(many)
        took_s = timed(lambda: _up(bench))
        print(f"{HOSTS} hosts came up in {took_s:.1f} s ({load()})", file=sys.stderr)
        for part in parts:
            if wanted and part.__name__ not in wanted:
                continue
            made = part(bench)
            for row in made:
                print(row.line(), flush=True)
            found += made
    return found

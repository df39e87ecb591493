"""The way to a container and back: devices, bootstrap, submission, events, logs, idling, start-up."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from fakes.box import Box
from fakes.sshd import wait_until
from measure import Row, ms, rate, run, side_by_side
from throttle import Throttle

ROUNDS = int(os.environ.get("MOAI_BENCH_ROUNDS") or 10)
SLOW_LINK = 10_000_000.0
CONSOLE = str(Path(sys.executable).with_name("moai"))


class Bench:
    """A box with a running agent, and both ways to it."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.env = dict(box.laptop.env)
        self.env.pop("PYTHONPATH", None)
        self.ssh_options = ["-F", str(box.ssh_config), "-o", "ControlMaster=no", "-o", "ControlPath=none"]

    def moai(self, *words: str) -> list[str]:
        """argv of the console script, as a user has it."""
        return [CONSOLE, *words]

    def ssh(self, *words: str) -> list[str]:
        """argv of the user's ssh."""
        return ["ssh", *self.ssh_options, self.box.alias, *words]

    def ours(self, *words: str) -> None:
        """Run moai as the laptop's user."""
        run(self.moai(*words), self.env)

    def theirs(self, *words: str) -> None:
        """Run ssh as the laptop's user."""
        run(self.ssh(*words), self.env)


def devices(bench: Bench) -> list[Row]:
    """A repeated and a first look at the accelerators."""
    tool = bench.box.kit.tools + "/moreh-smi"
    ask = ("remote", "devices", "--json")
    bench.ours(*ask)
    warm, ssh = side_by_side(lambda: bench.ours(*ask), lambda: bench.theirs(tool), ROUNDS)
    cold, ssh_again = side_by_side(
        lambda: bench.ours(*ask), lambda: bench.theirs(tool), ROUNDS, before=lambda: bench.ours("remote", "disconnect")
    )
    against = "`ssh HOST moreh-smi`"
    return [
        Row("`devices --json`, link up", against, ms(warm), ms(ssh), warm / ssh, "<= 1.0x", warm <= ssh),
        Row("`devices --json`, first (no link)", against, ms(cold), ms(ssh_again), cold / ssh_again, "<= 2.0x", cold <= 2 * ssh_again),
    ]


def bootstrap(folder: Path) -> list[Row]:
    """A fresh host, bundle cached: on loopback, and through a slow link against scp and tar."""
    times, slow, scp = [], [], []
    for number in range(max(3, ROUNDS // 2)):
        with Box(folder / f"b{number}", look_alike=False) as box:
            bench = Bench(box)
            start_s = time.perf_counter()
            bench.ours("remote", "up")
            times.append(time.perf_counter() - start_s)
            bundle = next((box.laptop.folder / "cache" / "bundles").glob("*.tar.gz"))
        with Box(folder / f"s{number}", look_alike=False) as box, Throttle(box.sshd.port, SLOW_LINK) as link:
            box.sshd.ssh_config(box.ssh_config, alias="box", Port=str(link.port), HostKeyAlias=box.sshd.known_hosts_name)
            bench = Bench(box)
            start_s = time.perf_counter()
            bench.ours("remote", "up")
            slow.append(time.perf_counter() - start_s)
            start_s = time.perf_counter()
            run(["scp", "-q", *bench.ssh_options, str(bundle), f"{box.alias}:{box.home}/bundle.tar.gz"], bench.env)
            bench.theirs(f"mkdir -p {box.home}/unpacked && tar xzf {box.home}/bundle.tar.gz -C {box.home}/unpacked")
            scp.append(time.perf_counter() - start_s)
    here, there, copied = map(statistics.median, (times, slow, scp))
    return [
        Row("bootstrap of a fresh host, bundle cached", "loopback", f"{here:.2f} s", "-", None, "<= 5 s", here <= 5),
        Row(
            "the same through a 10 MB/s link", "`scp` + `tar x`", f"{there:.2f} s", f"{copied:.2f} s", there / copied,
            "<= 1.3x + 2 s", there <= 1.3 * copied + 2,
        ),
    ]  # fmt: skip


def submission(bench: Bench) -> list[Row]:
    """From Enter to the first line of the job on the screen."""
    (bench.box.home / "job.py").write_text("print('hello')\nimport time\ntime.sleep(1)\n")

    def first_line(argv: list[str]) -> float:
        start_s = time.perf_counter()
        with subprocess.Popen(argv, env=bench.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            line = child.stdout.readline()
            took_s = time.perf_counter() - start_s
            assert line == b"hello\n", line
            child.stdout.read()
        return took_s

    mine, other = [], []
    for _ in range(ROUNDS):
        mine.append(first_line(bench.moai("remote", "run", "--", "python3", "-u", "job.py")))
        other.append(first_line(bench.ssh("python3", "-u", str(bench.box.home / "job.py"))))
    ours, theirs = statistics.median(mine), statistics.median(other)
    return [
        Row("submit to first log line", "`ssh HOST python -u job.py`", ms(ours), ms(theirs), ours / theirs, "+ <= 0.5 s", ours <= theirs + 0.5)
    ]


_WRITER = r"""
import json, os, sys, time
out = os.open(os.environ["MOAI_REPORTS"], os.O_WRONLY | os.O_APPEND)
start = time.monotonic()
for n in range(int(sys.argv[1])):
    while time.monotonic() < start + n / 1000.0:
        time.sleep(0.0005)
    line = {"t": time.time(), "step": "", "type": "metric", "data": {"step": n, "values": {"loss": 1.0}}}
    os.write(out, json.dumps(line).encode() + b"\n")
"""


def events(bench: Bench) -> list[Row]:
    """How old an event is when a Python program on the laptop has it, at 1000 a second."""
    (bench.box.home / "writer.py").write_text(_WRITER)
    count = 5000
    code = (
        "import moai, time, json, sys\n"
        "job = moai.connect('box').run(['python3', 'writer.py', sys.argv[1]])\n"
        "ages = [time.time() - e.time.timestamp() for e in job.events() if e.type == 'metric']\n"
        "print(json.dumps(ages))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(count)], env=bench.env, check=True, capture_output=True)
    ages = sorted(json.loads(done.stdout))
    assert len(ages) == count, len(ages)
    p50, p99 = ages[len(ages) // 2], ages[int(0.99 * len(ages))]
    shown = f"p50 {ms(p50)}, p99 {ms(p99)}"
    return [Row("event written to event on the laptop, 1000/s", "-", shown, "-", None, "p99 <= 100 ms", p99 <= 0.1)]


def log_lines(bench: Bench) -> list[Row]:
    """A million lines of 100 bytes."""
    count = 1_000_000
    code = f"import sys\nfor n in range({count}): sys.stdout.write('%09d %s\\n' % (n, 'x' * 89))\n"
    (bench.box.home / "lines.py").write_text(code)
    bench.ours("remote", "run", "--name", "lines", "--", "python3", "lines.py")
    job = json.loads(subprocess.run(bench.moai("remote", "show", "last", "--json"), env=bench.env, check=True, capture_output=True).stdout)
    log = job["folder"] + "/log"
    size = os.path.getsize(log)
    assert size == 100 * count, size

    def sink(argv: list[str]) -> None:
        with open(os.devnull, "wb") as null:
            subprocess.run(argv, env=bench.env, stdin=subprocess.DEVNULL, stdout=null, stderr=subprocess.DEVNULL, check=True)

    ours, theirs = side_by_side(
        lambda: sink(bench.moai("remote", "logs", job["job"])), lambda: sink(bench.ssh("cat", log)), max(3, ROUNDS // 2)
    )
    ratio = theirs / ours
    return [Row("10^6 log lines of 100 B to the laptop", "`ssh HOST cat log`", rate(size, ours), rate(size, theirs), ratio, ">= 0.4x", ratio >= 0.4)]


def idle(bench: Bench) -> list[Row]:
    """What the agent costs while nothing happens (the link keeps its connection open)."""
    bench.ours("remote", "devices", "--json")
    pid = bench.box.agent_pids()[0]
    clock = os.sysconf("SC_CLK_TCK")

    def cpu_s() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / clock

    settle_s = time.monotonic() + 3
    wait_until(lambda: time.monotonic() > settle_s, "the agent to settle", 5)
    before_s, start_s = cpu_s(), time.monotonic()
    end_s = start_s + 20
    wait_until(lambda: time.monotonic() > end_s, "twenty seconds", 25)
    share = (cpu_s() - before_s) / (time.monotonic() - start_s) * 100
    status = Path(f"/proc/{pid}/status").read_text()
    rss_mb = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) * 1024 / 1e6
    return [
        Row("agent idle, memory", "-", f"{rss_mb:.0f} MB", "-", None, "<= 60 MB", rss_mb <= 60),
        Row("agent idle, CPU", "-", f"{share:.2f} %", "-", None, "< 0.5 %", share < 0.5),
    ]


def help_text(bench: Bench) -> list[Row]:
    """The first thing anybody types."""
    ours, theirs = side_by_side(
        lambda: run(bench.moai("--help"), bench.env), lambda: run([sys.executable, "-c", "pass"], bench.env), ROUNDS
    )
    return [Row("`moai --help`", "`python -c pass`", ms(ours), ms(theirs), ours / theirs, "+ <= 200 ms", ours <= theirs + 0.2)]


def rows(folder: Path) -> list[Row]:
    """All rows of this file."""
    shutil.rmtree(folder, ignore_errors=True)
    found: list[Row] = []
    with Box(folder / "box") as box:
        bench = Bench(box)
        bench.ours("remote", "up")
        for part in (devices, submission, events, log_lines, idle, help_text):
            made = part(bench)
            for row in made:
                print(row.line(), flush=True)
            found += made
    made = bootstrap(folder)
    for row in made:
        print(row.line(), flush=True)
    return found + made



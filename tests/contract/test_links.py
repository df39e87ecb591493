"""The way to the container breaks in every manner a network has, several times inside one job.

Rows L1, L2, L3, L5, L7, L8, L12 and L13 of the fault list in docs/reliability.md, through a proxy in user space,
so without root. What the link does against it: pings that are answered end to end, new connections with growing
pauses, and streams that go on at a sequence and an offset. ``MOAI_TEST_SEEDS`` says how many orders of faults; the short suite takes the first.
"""

import hashlib
import os
import random
import shutil
import time
from pathlib import Path

import oracles
import pytest
from fakes import box as boxes
from fakes.box import Box
from fakes.proxy import Proxy, attempts_a_minute, mark
from fakes.sshd import find_sshd, wait_until
from test_kills import EXIT, Listener

SEEDS = int(os.environ.get("MOAI_TEST_SEEDS") or 5)
LINES, METRICS = 3000, 300
SIZE = LINES * len(f"line 000001 {'0' * 16} café\n".encode())
QUICK = ("reset", "close", "cut_up", "cut_down", "flip_up", "flip_down", "refuse")
STALLS = ("stall", "stall_up", "stall_down")
#: A link is taken for dead after this long without an answer, and tried again within so long after it is healed.
NOTICED_S, BACK_S = 20.0, 15.0


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    if find_sshd() is None:
        pytest.skip("SKIPPED LOUDLY: sshd is not installed (apt-get install openssh-server)")
    with Box(tmp_path_factory.mktemp("links"), look_alike=False) as one:
        shutil.copy(Path(boxes.__file__).with_name("ticker.py"), one.home / "ticker.py")
        yield one


@pytest.fixture
def way(box):
    """The proxy, with the laptop's ssh settings leading through it."""
    with Proxy(box.sshd.host, box.sshd.port) as proxy:
        box.sshd.ssh_config(
            box.ssh_config, alias=box.alias, Port=str(proxy.port), HostKeyAlias=f"[{box.sshd.host}]:{box.sshd.port}"
        )
        yield proxy
        box.moai("remote", "disconnect")


def submit(box: Box, folder: Path, pace_s: float, lines: int = LINES, metrics: int = METRICS) -> str:
    folder.mkdir()
    done = box.moai("remote", "run", "--detach", "--", "python3", "ticker.py", str(folder), str(lines), str(metrics), str(EXIT), str(pace_s))
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class Breaker:
    """Breaks the way, heals it, and waits until the listener has what it missed."""

    def __init__(self, way: Proxy, dice: random.Random, log: Path, listen: Listener) -> None:
        self.way, self.dice, self.log, self.listen = way, dice, log, listen
        self.seen = listen.folder / "log"

    def _is_tried_again(self, before: int) -> bool:
        """A new connection has come, or the listener needs none: with only the way up held, the rest of a job still
        comes down."""
        return self.way.connections > before or self.listen.process.poll() is not None

    def apply(self, kind: str) -> None:
        at, before = size_of(self.log), self.way.connections
        if kind in STALLS:
            self.way.stall(*{"stall_up": ["up"], "stall_down": ["down"]}.get(kind, []))
            # A new connection is only tried when the old one has been given up.
            wait_until(lambda: self._is_tried_again(before), f"{kind} to be noticed", NOTICED_S + BACK_S + 5.0)
        elif kind == "refuse":
            self.way.refuse()
        elif kind.startswith("cut_"):
            # Little goes up while one only follows: pings, and SSH's own window messages.
            self.way.cut_after(kind[4:], self.dice.randrange(1, 40 if kind == "cut_up" else 4000))
        elif kind.startswith("flip_"):
            self.way.flip_at(kind[5:], self.dice.randrange(1, 4000))
            self.way.close()  # so that the position is reached on a fresh connection: in the handshake or just after
        else:
            getattr(self.way, kind)()
        if kind in ("cut_up", "cut_down"):
            wait_until(lambda: self._is_tried_again(before), f"{kind} to hit", NOTICED_S + BACK_S)
        self.way.resume()
        wait_until(lambda: size_of(self.seen) >= at, f"the listener to have what came before {kind}", NOTICED_S + BACK_S)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.faults) for seed in range(1, SEEDS))])
def test_nothing_is_lost_whatever_the_network_does(box, way, tmp_path, seed):
    dice = random.Random(seed)
    order = list(QUICK)
    dice.shuffle(order)
    # Last, because it takes longest to be noticed: the job must not end before the others have hit.
    order.append(STALLS[seed % len(STALLS)])
    points = sorted(dice.uniform(0.02, 0.9) for _ in order)
    folder, kept = tmp_path / "job", tmp_path / "listener"
    job = submit(box, folder, pace_s=15.0)
    listen = Listener(box, job, kept)
    listen.start()
    log = box.job_dir(job) / "log"
    breaker = Breaker(way, dice, log, listen)
    try:
        for kind, point in zip(order, points):
            wait_until(lambda: size_of(log) >= point * SIZE, f"the log to reach {point:.0%} (seed {seed})", 60.0)
            breaker.apply(kind)
        listen.wait(90.0)
    finally:
        if listen.process.poll() is None:
            listen.kill()
    assert way.connections >= len(QUICK) - 2, "the faults hit nothing"
    events = oracles.read_events(kept / "events")
    oracles.check_ev(events)
    oracles.check_log((kept / "log").read_bytes(), (folder / "sha256").read_text())
    oracles.check_exit(events, "FAILED", EXIT)
    oracles.check_one(folder, events)
    assert oracles.metrics_of(events) == list(range(1, METRICS + 1))


@pytest.mark.faults
def test_l4_a_way_that_stays_down_is_tried_seldom_and_taken_up_again(box, way, tmp_path):
    """At most 4 attempts a minute once the pauses have grown; the job never notices."""
    folder, kept = tmp_path / "job", tmp_path / "listener"
    job = submit(box, folder, pace_s=2.0, lines=200, metrics=20)
    listen = Listener(box, job, kept)
    listen.start()
    try:
        wait_until(lambda: size_of(kept / "events") > 0, "the listener to follow", 30.0)
        way.silent()  # accepted and never answered, so that every attempt is seen
        way.reset()
        box_job = box.job_dir(job)
        wait_until(lambda: (box_job / "exit.json").exists(), "the job to end by itself", 30.0)
        marks = [mark(way)]
        end_s = time.monotonic() + 30.0
        wait_until(lambda: time.monotonic() > end_s, "half a minute of a dead way", 40.0)
        marks.append(mark(way))
        assert marks[1][1] - marks[0][1] <= 3, f"{attempts_a_minute(marks):.1f} attempts a minute"
        way.resume()
        way.reset()
        listen.wait(60.0)
    finally:
        if listen.process.poll() is None:
            listen.kill()
    events = oracles.read_events(kept / "events")
    oracles.check_ev(events)
    oracles.check_log((kept / "log").read_bytes(), (folder / "sha256").read_text())


def test_l7_a_slow_way_never_slows_the_job(box, way, tmp_path):
    """1 Mbit/s, and a job that writes 6 MB at once: the disk is the buffer, every byte arrives."""
    path = tmp_path / "out"
    program = "import sys,hashlib;d=(b'x'*99+b'\\n')*60000;sys.stdout.buffer.write(d);open(sys.argv[1],'w').write(hashlib.sha256(d).hexdigest())"
    way.slow(125_000.0)
    done = box.moai("remote", "run", "--detach", "--", "python3", "-c", program, str(path))
    assert done.returncode == 0, done.stderr.decode()
    job = done.stdout.decode().strip()
    wait_until(lambda: (box.job_dir(job) / "exit.json").exists(), "the job to end", 20.0)
    assert path.exists(), "the job ended at its own speed, while most of its output has not passed"
    assert way.bytes["down"] < 6_000_000
    way.resume()
    logs = box.moai("remote", "logs", job, timeout=120)
    assert hashlib.sha256(logs.stdout).hexdigest() == path.read_text()


def test_l8_two_hundred_milliseconds_there_and_back_are_usable(box, way):
    box.moai("remote", "run", "--", "true")
    way.delay(0.1, jitter=0.02)
    done = box.moai("remote", "run", "--", "sh", "-c", "echo far away", timeout=60)
    assert done.returncode == 0 and done.stdout == b"far away\n", done.stderr.decode()


@pytest.mark.parametrize("where", [0, *(pytest.param(at, marks=pytest.mark.faults) for at in (20, 700, 2500))])
def test_l12_a_server_that_falls_silent_is_named_within_its_bound(box, way, where):
    """Before the banner, in the key exchange, in authentication, in opening the channel."""
    box.moai("remote", "disconnect")
    if where:
        way.cut_after("down", where)
        way.stall("up") if where > 2000 else None
    else:
        way.silent()
    done = box.moai("remote", "run", "--no-link", "--", "true", timeout=60)
    assert done.returncode == 4, (done.returncode, done.stderr.decode())
    lines = [line for line in done.stderr.decode().splitlines() if line.startswith(("error:", "  next:"))]
    assert lines and "Traceback" not in done.stderr.decode()


@pytest.mark.parametrize("position", [900, *(pytest.param(at, marks=pytest.mark.faults) for at in (0, 30, 1800, 3000))])
def test_l13_one_wrong_bit_ends_the_connection_and_nothing_is_believed(box, way, position):
    box.moai("remote", "disconnect")
    way.flip_at("down", position)
    done = box.moai("remote", "run", "--", "sh", "-c", "echo same; exit 5", "--exit-code", "job", timeout=60)
    assert b"Traceback" not in done.stderr
    # Either the connection was made again (the bit is flipped once), or the failure is typed; never other bytes.
    assert done.stdout in (b"same\n", b"same\n"[:0]) and done.returncode in (3, 4, 5), done.stderr.decode()

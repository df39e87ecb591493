"""Packets are lost, addresses change, routers forget, large packets vanish: what a user-space proxy cannot do, TCP being below it.

Rows L6, L9, L10 and L11 of the fault list in docs/reliability.md. Laptop and container are in network namespaces of
their own (root), joined by a wire that this test carries packet by packet.
"""

import os
import shutil
import signal
import time
from pathlib import Path

import oracles
import pytest
from e2e.reach import holders, ready
from fakes import box as boxes
from fakes.box import Box
from fakes.rooted import need_root
from fakes.sshd import wait_until
from fakes.wire import Wire
from test_kills import EXIT, Listener

pytestmark = [pytest.mark.faults, need_root, pytest.mark.usefixtures("need_sshd"), pytest.mark.timeout(1200)]
METRICS = 100
FULL = bool(os.environ.get("MOAI_TEST_SEEDS"))


@pytest.fixture
def far(tmp_path):
    """(container, wire): a container that is reached over the wire only."""
    ready()
    with Wire() as wire:
        with Box(tmp_path, look_alike=False, listen=wire.box.address, command_prefix=wire.box.inside) as box:
            box.laptop.inside = wire.laptop.inside
            shutil.copy(Path(boxes.__file__).with_name("ticker.py"), box.home / "ticker.py")
            yield box, wire
        boxes.kill_below(tmp_path)


class Followed:
    """A ticker on the container and a listener on the laptop; ``finish`` asks all four oracles."""

    def __init__(self, box: Box, folder: Path, pace_s: float, lines: int = 1000, gate: str = "") -> None:
        self.box, self.folder, self.kept = box, folder / "job", folder / "listener"
        self.folder.mkdir()
        words = ["remote", "run", "-d", "--", "python3", "ticker.py", str(self.folder), str(lines), str(METRICS), str(EXIT), str(pace_s)]
        done = box.moai(*words, *([gate] if gate else []))
        assert done.returncode == 0, done.stderr.decode()
        self.job = done.stdout.decode().strip()
        self.listen = Listener(box, self.job, self.kept)
        self.listen.start()
        wait_until(lambda: self.seen() > 0, "the listener to follow", 60.0)

    def __enter__(self) -> "Followed":
        return self

    def __exit__(self, *_: object) -> None:
        if self.listen.process.poll() is None:
            self.listen.kill()

    def seen(self) -> int:
        """Bytes of the log that have arrived."""
        path = self.kept / "log"
        return path.stat().st_size if path.exists() else 0

    def written(self) -> int:
        """Bytes of the log on the container."""
        return (self.box.job_dir(self.job) / "log").stat().st_size

    def catches_up(self, timeout_s: float) -> float:
        """Wait until what is written now has arrived; the seconds it took."""
        goal, begun_s = self.written(), time.monotonic()
        wait_until(lambda: self.seen() >= goal, f"{goal} bytes to arrive", timeout_s)
        return time.monotonic() - begun_s

    def finish(self, timeout_s: float) -> None:
        self.listen.wait(timeout_s)
        events = oracles.read_events(self.kept / "events")
        oracles.check_ev(events)
        oracles.check_log((self.kept / "log").read_bytes(), (self.folder / "sha256").read_text())
        oracles.check_exit(events, "FAILED", EXIT)
        oracles.check_one(self.folder, events)
        # A silent job's signs of life are metrics without a step.
        assert [step for step in oracles.metrics_of(events) if step is not None] == list(range(1, METRICS + 1))


@pytest.mark.parametrize("loss", [0.05, 0.3])
def test_l6_lost_packets_cost_time_and_nothing_else(far, tmp_path, loss):
    """For two minutes each in the long run. No event but the job's own: nobody took it for lost."""
    box, wire = far
    pace_s = 120.0 if FULL else 25.0
    with Followed(box, tmp_path, pace_s) as one:
        wire.loss, carried = loss, wire.passed
        one.finish(pace_s + 240.0)
    share = wire.lost / (wire.lost + wire.passed - carried)
    print(f"L6: {wire.lost} packets lost, {share:.1%}; {wire.connections} connections")
    assert wire.lost > 20 and share > 0.7 * loss, "the fault hit nothing"
    states = [e["data"]["state"] for e in oracles.read_events(one.kept / "events") if e["type"] == "state"]
    assert states == ["STARTING", "RUNNING", "FAILED"], states
    # And a new command still gets through, or says within its bounds that it cannot.
    done = box.moai("remote", "logs", one.job, timeout=180)
    assert b"Traceback" not in done.stderr and done.returncode in (0, 4), done.stderr.decode()
    if done.returncode == 0:
        oracles.check_log(done.stdout, (one.folder / "sha256").read_text())


def test_l9_a_laptop_whose_address_changes_comes_back_by_the_new_one(far, tmp_path):
    box, wire = far
    with Followed(box, tmp_path, 60.0) as one:
        for last in (3, 4):
            before, begun_s = wire.connections, time.monotonic()
            wire.laptop.move_to(f"{wire.laptop.address.rpartition('.')[0]}.{last}")
            wait_until(lambda: wire.connections > before, "the new address to be used", 25.0)
            one.catches_up(25.0)
            took_s = time.monotonic() - begun_s
            print(f"L9: back after {took_s:.1f} s, {wire.connections - before} attempts")
            assert took_s < 25.0
        one.finish(90.0)


def test_l10_a_router_that_forgets_silent_flows_is_kept_awake(far, tmp_path):
    """A job that says nothing for more than four times what the router remembers; then the same with the laptop asleep."""
    box, wire = far
    wire.memory_s, gate = 15.0, tmp_path / "gate"
    with Followed(box, tmp_path, 0.0, gate=str(gate)) as one:
        one.catches_up(30.0)
        before, end_s = wire.connections, time.monotonic() + (600.0 if FULL else 65.0)
        wait_until(lambda: time.monotonic() > end_s, "a long silence", 700.0)
        assert (wire.connections, wire.forgotten) == (before, 0), "the flow was forgotten, or made anew without need"
        (holder,) = holders(box)
        for pid in (holder, one.listen.process.pid):
            os.kill(pid, signal.SIGSTOP)
        end_s = time.monotonic() + 2 * wire.memory_s
        wait_until(lambda: time.monotonic() > end_s, "the laptop to sleep", 60.0)
        for pid in (holder, one.listen.process.pid):
            os.kill(pid, signal.SIGCONT)
        gate.touch()
        one.finish(60.0)
    assert wire.connections > before and wire.forgotten > 0, "this router forgets nothing"


@pytest.mark.parametrize("most", [1200, 600])
def test_l11_where_large_packets_vanish_connecting_ends_in_words(far, most):
    """With 600 bytes the key exchange never ends; with 1200 it does, and what is sent then never arrives, twice."""
    box, wire = far
    wire.most_bytes = most
    begun_s = time.monotonic()
    done = box.moai("remote", "run", "--no-link", "--", "true", timeout=120)
    took_s = time.monotonic() - begun_s
    text = done.stderr.decode()
    assert wire.too_large > 0, "no packet was too large"
    assert done.returncode == 4 and "next:" in text and "Traceback" not in text, (done.returncode, text)
    assert ("[key exchange] [HOST_UNREACHABLE]" if most == 600 else "MTU") in text, text
    assert took_s < (30.0 if most == 600 else 45.0) and len(text.splitlines()) <= 5, (took_s, text)


def test_l11_a_hole_that_opens_under_a_followed_job_is_noticed_and_nothing_is_lost(far, tmp_path):
    box, wire = far
    with Followed(box, tmp_path, 40.0, lines=200_000) as one:
        wire.most_bytes, before = 1200, wire.connections
        wait_until(lambda: wire.connections > before, "the hole to be noticed", 40.0)
        wire.most_bytes = 0
        print(f"L11: {wire.too_large} packets lost; back after {one.catches_up(30.0):.1f} s")
        one.finish(120.0)
    assert wire.too_large > 0

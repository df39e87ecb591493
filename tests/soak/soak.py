"""A day of faults in minutes: one container, several followed jobs at a time, something broken every other second.

``make soak`` (SOAK_FAULTS, SOAK_SEED, SOAK_REPORT). Each round starts jobs and breaks agent, relay, link, laptop
program, SSH sessions and the network between until they have ended; then EV, LOG, EXIT and ONE are checked for each of
them, and after the last round CLEAN. The report is JSON; exit code 0 only without a violation. A seed repeats the
order of faults and their moments in the jobs' output.
"""

import argparse
import collections
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TESTS.parent / name) for name in ("client", "proto", "agent")] + [str(_TESTS), str(_TESTS / "contract")]

import oracles
from fakes import box as boxes
from fakes.box import Box
from fakes.proxy import Proxy
from fakes.sshd import wait_until
from test_kills import KINDS, Fault, Listener

JOBS, LINES, METRICS, EXIT, PACE_S = 3, 4000, 400, 37, 12.0
WAYS = ("reset", "close", "cut_up", "cut_down", "flip_up", "flip_down", "refuse", "pause", "slow", "delay")
#: A stream that has not gone on so long after a fault was healed is a violation.
BACK_S = 60.0


class Soak:
    """One run. ``violations`` are sentences; everything else is for the report."""

    def __init__(self, folder: Path, seed: int, wanted: int) -> None:
        self.folder, self.seed, self.wanted = folder, seed, wanted
        self.dice = random.Random(seed)
        self.done: collections.Counter = collections.Counter()
        self.violations: list[str] = []
        self.back: dict[str, list[float]] = collections.defaultdict(list)
        self.jobs = self.rounds = 0
        self.agent_kib = 0

    def run(self) -> None:
        with Box(self.folder / "box", look_alike=False) as box, Proxy(box.sshd.host, box.sshd.port, self.seed) as way:
            shutil.copy(Path(boxes.__file__).with_name("ticker.py"), box.home / "ticker.py")
            key = f"[{box.sshd.host}]:{box.sshd.port}"
            box.sshd.ssh_config(box.ssh_config, alias=box.alias, Port=str(way.port), HostKeyAlias=key)
            while sum(self.done.values()) < self.wanted and len(self.violations) < 20:
                self.round(box, way)
                print(f"round {self.rounds}: {sum(self.done.values())} of {self.wanted} faults, {len(self.violations)} violations", flush=True)
            self.clean(box)

    def round(self, box: Box, way: Proxy) -> None:
        self.rounds += 1
        place = self.folder / f"round{self.rounds}"
        listeners, folders = {}, {}
        for number in range(JOBS):
            folder = place / f"job{number}"
            folder.mkdir(parents=True)
            words = ["python3", "ticker.py", str(folder), str(LINES), str(METRICS), str(EXIT), str(PACE_S)]
            done = box.moai("remote", "run", "--detach", "--", *words)
            if done.returncode:
                self.violations.append(f"round {self.rounds}: a job could not be submitted: {done.stderr.decode()[-300:]}")
                return
            job = done.stdout.decode().strip()
            listen = Listener(box, job, place / f"listen{number}")
            listen.start()
            listeners[job], folders[job] = listen, folder
        self.jobs += len(listeners)
        try:
            while any(not (box.job_dir(job) / "exit.json").exists() for job in listeners) and sum(self.done.values()) < self.wanted:
                self.fault(box, way, listeners)
            way.resume()
            for job, listen in listeners.items():
                self.settle(box, job, listen, folders[job])
        finally:
            way.resume()
            for listen in listeners.values():
                if listen.process.poll() is None:
                    listen.kill()

    def fault(self, box: Box, way: Proxy, listeners: dict) -> None:
        """One fault at a random moment, healed, and the wait until a stream goes on."""
        job = self.dice.choice([one for one, listen in listeners.items() if listen.process.poll() is None] or list(listeners))
        listen, kind = listeners[job], self.dice.choice(KINDS + WAYS)
        seen, produced = listen.folder / "log", box.job_dir(job) / "log"
        at = _size(produced) + self.dice.randrange(1000, 20000)
        _wait(lambda: _size(produced) >= at or listen.process.poll() is not None, 10.0)
        if kind in KINDS:
            getattr(Fault(box, listen), kind)()
        else:
            self._break(way, kind)
        self.done[kind] += 1
        self.agent_kib = max([self.agent_kib, *(_rss_kib(pid) for pid in box.agent_pids())])
        begun_s, before = time.monotonic(), _size(seen)
        if _wait(lambda: _size(seen) > before or listen.process.poll() is not None, BACK_S):
            self.back[kind].append(time.monotonic() - begun_s)
        else:
            self.violations.append(f"round {self.rounds}: {kind}: the stream of {job} did not go on within {BACK_S:g} s")

    def _break(self, way: Proxy, kind: str) -> None:
        if kind in ("reset", "close", "refuse"):
            getattr(way, kind)()
        elif kind.startswith("cut_"):
            way.cut_after(kind[4:], self.dice.randrange(1, 40 if kind == "cut_up" else 4000))
        elif kind.startswith("flip_"):
            way.flip_at(kind[5:], self.dice.randrange(4000))
            way.reset()
        elif kind == "pause":
            way.stall(*self.dice.choice([(), ("up",), ("down",)]))
        elif kind == "slow":
            way.slow(20_000.0)
        else:
            way.delay(0.2, 0.1)
        end_s = time.monotonic() + self.dice.uniform(0.1, 1.5)
        _wait(lambda: time.monotonic() > end_s, 3.0)
        way.resume()

    def settle(self, box: Box, job: str, listen: Listener, folder: Path) -> None:
        """The oracles of one job."""
        try:
            listen.wait(120.0)
            events = oracles.read_events(listen.folder / "events")
            oracles.check_ev(events)
            oracles.check_log((listen.folder / "log").read_bytes(), (folder / "sha256").read_text())
            oracles.check_exit(events, "FAILED", EXIT)
            oracles.check_one(folder, events)
            assert oracles.metrics_of(events) == list(range(1, METRICS + 1)), "metrics"
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1].name
            self.violations.append(f"round {self.rounds}: {job}: {where}: {type(error).__name__}: {str(error)[:300]}")

    def clean(self, box: Box) -> None:
        """CLEAN: what is left running is one agent; the way is closed."""
        box.moai("remote", "disconnect")
        extra: dict = {}

        def is_clean() -> bool:
            agent = box.agent_pids()
            extra.clear()
            for pid, argv in boxes.processes_of(box.home).items():
                if pid not in agent and boxes.parent_of(pid) not in agent:
                    extra[pid] = " ".join(argv)[:120]
            return len(agent) <= 1 and not extra and not box.sshd.session_pids()

        # A relay whose laptop is gone without a word leaves after 60 s of silence.
        if not _wait(is_clean, 75.0):
            self.violations.append(f"left behind: {len(box.agent_pids())} agents, {len(box.sshd.session_pids())} sessions, {extra}")

    def report(self, seconds: float) -> dict:
        """The document."""
        slow = {kind: round(max(times), 2) for kind, times in sorted(self.back.items())}
        return {
            "seed": self.seed, "faults": sum(self.done.values()), "by_kind": dict(sorted(self.done.items())),
            "jobs": self.jobs, "rounds": self.rounds, "violations": self.violations,
            "slowest_back_seconds": slow, "agent_rss_mib": round(self.agent_kib / 1024, 1), "seconds": round(seconds),
            "python": platform.python_version(), "system": platform.platform(),
        }  # fmt: skip


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _rss_kib(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as source:
            return next((int(line.split()[1]) for line in source if line.startswith("VmHWM:")), 0)
    except OSError:
        return 0


def _wait(holds, timeout_s: float) -> bool:
    try:
        wait_until(holds, "it", timeout_s)
        return True
    except AssertionError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--report", type=Path, default=Path("soak-report.json"))
    asked = parser.parse_args()
    os.environ.pop("MOAI_HOME", None)
    # Ended from outside, everything it started is ended, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    seed = random.SystemRandom().randrange(2**31) if asked.seed is None else asked.seed
    print(f"seed {seed}", flush=True)
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="moai-soak-") as folder:
        soak = Soak(Path(folder), seed, asked.faults)
        try:
            soak.run()
        except Exception:
            soak.violations.append("the run itself ended early: " + traceback.format_exc()[-800:])
        told = soak.report(time.monotonic() - begun_s)
    asked.report.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(told, indent=1))
    return 1 if soak.violations or soak.jobs == 0 else 0


if __name__ == "__main__":
    sys.exit(main())

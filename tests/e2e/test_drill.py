"""``moai remote drill``: what it breaks comes back, what it must not touch stays, and a loss would be seen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import moai
import moai._drill as drill
import pytest
from e2e.reach import Job, kill, one_agent, ready, said
from fakes.box import Box
from moai_worker import identity

SCHEMA = json.loads((Path(moai.__file__).parent / "schemas" / "drill-1.json").read_text(encoding="utf-8"))
THERE = Path(moai.__file__).parent / "_bootstrap" / "drill_there.py"


def test_a_drill_breaks_everything_loses_nothing_and_leaves_nothing(tmp_path, need_sshd):
    ready()
    with Box(tmp_path) as box:
        other = Job(box, "sleep", "300")
        agent = one_agent(box)
        refused = box.moai("remote", "drill")
        assert refused.returncode == 2 and b"1 job(s) run" in refused.stderr and b"--yes" in refused.stderr, said(refused)
        assert one_agent(box) == agent
        done = box.moai("remote", "drill", "--yes", "--json")
        assert done.returncode == 0, said(done)
        told = json.loads(done.stdout)
        jsonschema.Draft202012Validator(SCHEMA).validate(told)
        assert [one["fault"] for one in told["faults"]] == ["link", "agent", "follower"]
        assert {one["verdict"] for one in told["faults"]} == {"back"} and told["passed"] and not told["lost"]
        assert (told["survived"]["state"], told["survived"]["exit_code"]) == ("FAILED", 37)
        assert one_agent(box) != agent
        other.assert_unharmed()
        jobs = json.loads(box.moai("remote", "jobs", "--json").stdout)["jobs"]
        assert [one["job"] for one in jobs] == [other.id], "the drill left jobs behind"


# -- what a loss looks like --------------------------------------------------------------------------


def event(sequence: int, type: str, **data) -> moai.Event:
    return moai.Event("h", "j", sequence, None, "", type, data)


@pytest.fixture
def sound():
    """Everything that came of a drill in which nothing was lost, and how the job ended."""
    events = [
        event(1, "step", state="RUNNING", pid=7, pid_start_ticks=1),
        event(2, "metric", step=1, values={"tick": 5}),
        event(3, "metric", step=2, values={"tick": 10}),
        event(4, "state", state="FAILED", exit_code=37),
    ]
    return SimpleNamespace(events=events, log=bytearray(drill.expected_log(12)), misplaced=[]), SimpleNamespace(
        state="FAILED", exit_code=37, last_sequence=4
    )


def test_a_sound_drill_has_lost_nothing(sound):
    assert drill.judge(*sound) == []


@pytest.mark.parametrize("where", [0, 100, 300])
def test_a_byte_lost_doubled_or_altered_is_a_loss(sound, where):
    watch, ended = sound
    for spoil in (lambda log: log.pop(where), lambda log: log.insert(where, log[where]), lambda log: log.__setitem__(where, log[where] ^ 1)):
        watch.log = bytearray(drill.expected_log(12))
        spoil(watch.log)
        assert any(line.startswith("log:") for line in drill.judge(watch, ended))


def test_an_event_lost_doubled_or_of_another_process_is_a_loss(sound):
    watch, ended = sound
    whole = list(watch.events)
    second = event(5, "step", state="RUNNING", pid=8, pid_start_ticks=2)
    for events, word in (
        (whole[:2] + whole[3:], "events:"),
        (whole[:2] + whole[1:], "events:"),
        (whole[:3], "events:"),
        (whole[:3] + [second, replace(whole[3], sequence=5)], "process:"),
        (whole[:1] + [event(2, "gap")] + whole[2:], "gap"),
    ):
        watch.events = events
        assert any(word in line for line in drill.judge(watch, ended)), (word, drill.judge(watch, ended))


def test_another_exit_is_a_loss(sound):
    watch, ended = sound
    ended.state, ended.exit_code = "UNKNOWN", None
    assert any(line.startswith("exit:") for line in drill.judge(watch, ended))


# -- what it may signal ------------------------------------------------------------------------------


def asked(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-I", "-S", str(THERE), *words], capture_output=True, text=True, timeout=30)


def test_only_the_agent_that_answered_is_ever_killed(tmp_path):
    """Facts of another incarnation, of another start, or of a process that is no agent: refused, and it lives."""
    run = tmp_path / "hosts" / "h-1" / "run"
    run.mkdir(parents=True)
    with subprocess.Popen(["sleep", "300"], start_new_session=True) as other:
        try:
            ticks = identity.start_ticks(other.pid)
            assert ticks is not None
            for facts, word in (
                ({"pid": other.pid, "incarnation": "b", "start_ticks": ticks}, "replaced"),
                ({"pid": os.getpid(), "incarnation": "a", "start_ticks": ticks}, "replaced"),
                ({"pid": other.pid, "incarnation": "a", "start_ticks": ticks}, "not an agent"),
            ):
                (run / "agent.json").write_text(json.dumps(facts))
                done = asked("kill-agent", str(tmp_path), "h-1", str(other.pid), "a")
                assert done.returncode == 1 and word in done.stderr and "Traceback" not in done.stderr, done.stderr
            done = asked("end-ticker", str(other.pid), str(ticks + 1))
            assert done.returncode == 1 and "another one" in done.stderr
            assert other.poll() is None
        finally:
            kill(other.pid)
        assert other.wait(10) == -signal.SIGKILL

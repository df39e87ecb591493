"""Tries again by the supervisor alone: what is worth it, how often, after which wait, and what ends it."""

import signal

import pytest
from fakes.supervised import Supervised
from moai_worker.endings import Outcome, reason
from moai_worker.retries import Retries
from moai_worker.watchers import Limits

QUICK = {"retry_first_s": 0.05, "retry_longest_s": 0.1}

#: Fails in the way named by its argument until it was started ``need`` times; counts its starts in ``starts``.
FLAKY = """
import os, signal
need, way = int(os.environ["NEED"]), os.environ["WAY"]
with open("starts", "a") as out: out.write(os.environ["MOAI_ATTEMPT"] + "\\n")
count = len(open("starts").read().split())
print("start", count, flush=True)
if count < need:
    if way == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if way == "mistake": raise ModuleNotFoundError("No module named 'nothing'")
    if way == "device": raise RuntimeError("NCCL error: the device was lost")
print("done")
"""


@pytest.fixture
def job(tmp_path):
    made = []

    def make(steps, **more):
        made.append(Supervised(tmp_path / str(len(made)), steps, **more))
        return made[-1]

    yield make
    for one in made:
        one.kill()


def flaky(job, need, way, retries, **more):
    return job(
        [{"name": "train", "script": FLAKY, "env": {"NEED": str(need), "WAY": way}, "log_judged": True}],
        retries=retries, watch=dict(QUICK, **more),
    )  # fmt: skip


def starts(one):
    return (one.work / "starts").read_text().split()


@pytest.mark.parametrize("way", ["kill", "device"])
def test_a_step_that_died_is_run_again_until_it_ends_well(job, way):
    one = flaky(job, need=3, way=way, retries=5)
    end = one.end()
    assert (end["state"], end["exit_code"], end["retries"]) == ("SUCCEEDED", 0, 2)
    assert starts(one) == ["1", "2", "3"]
    said = [(m["retry"], m["retries"], m["wait_seconds"]) for m in one.reports("message") if m["code"] == "RETRYING"]
    assert said == [(1, 5, 0.05), (2, 5, 0.1)]
    assert "[moai] retry 1 of 5\nstart 2\n" in one.log()
    conditions = [state["conditions"][0]["type"] for state in one.reports("state") if state.get("conditions")]
    assert conditions == ["RETRYING", "RETRYING"]
    assert [s["state"] for s in one.reports("step")] == ["RUNNING", "FAILED", "RUNNING", "FAILED", "RUNNING", "SUCCEEDED"]


def test_the_tries_are_counted(job):
    one = flaky(job, need=9, way="kill", retries=2)
    end = one.end()
    assert (end["state"], end["exit_code"], end["reason"]["code"]) == ("FAILED", 128 + signal.SIGKILL, "COMMAND_KILLED")
    assert len(starts(one)) == 3
    assert "all 2 retries are used" in one.message("NOT_RETRIED")["text"]


def test_what_would_fail_the_same_way_is_not_tried_again(job):
    one = flaky(job, need=9, way="mistake", retries=3)
    assert one.end()["state"] == "FAILED"
    assert len(starts(one)) == 1
    assert "ModuleNotFoundError" in one.message("NOT_RETRIED")["text"] and "RETRYING" not in one.codes()


@pytest.mark.parametrize(
    ("code", "exit_code", "details", "log", "again"),
    [
        ("COMMAND_KILLED", 139, {}, "", True), ("COMMAND_FAILED", 1, {}, "RuntimeError: NCCL error\n", True),
        ("COMMAND_FAILED", 1, {}, "no reason\n", True), ("COMMAND_FAILED", 2, {}, "", "mistake in the command"),
        ("COMMAND_FAILED", 127, {}, "", "mistake in the command"), ("FATAL_LINE", 0, {}, "ConnectionError: x\n", True),
        ("COMMAND_FAILED", 1, {}, "torch.cuda.OutOfMemoryError: CUDA out of memory.\n", "smaller"),
        ("COMMAND_FAILED", 1, {}, "TypeError: x\n[moai] | ConnectionError: of ours\n", "TypeError"),
        ("OUT_OF_MEMORY", 137, {"cause": "oom_kill"}, "", True), ("OUT_OF_MEMORY", 1, {}, "", "smaller"),
        ("DEVICE_OUT_OF_MEMORY", 1, {}, "", "smaller"), ("TRAINING_FAILED", 1, {}, "", True),
        ("TRAINING_FAILED", 1, {"cause": "loss"}, "", "same loss"), ("INTERNAL", 1, {"cause": "no_result"}, "", True),
        ("INTERNAL", 1, {}, "", "INTERNAL"), ("HUB_UNREACHABLE", 1, {}, "", True), ("DEVICE_TOOL_FAILED", 1, {}, "", True),
        ("USAGE", 1, {}, "", "USAGE"), ("ACCESS_GATED", 1, {}, "", "ACCESS_GATED"), ("DATASET_INVALID", 1, {}, "", "DATASET_INVALID"),
        ("TIMED_OUT", None, {}, "", ""), ("WATCHER_STOPPED", None, {"watcher": "nan"}, "", ""),
        ("WATCHER_STOPPED", None, {"watcher": "stall"}, "", True), ("WATCHER_STOPPED", None, {"watcher": "memory"}, "", True),
    ],
)  # fmt: skip
def test_the_cause_decides(tmp_path, code, exit_code, details, log, again):
    path = tmp_path / "log"
    path.write_text("KeyError: of an earlier try\n" + log)
    outcome = Outcome("FAILED", exit_code, reason(code, "x", **details))
    tried, why_not = Retries(1, Limits()).judge(outcome, str(path), len("KeyError: of an earlier try\n"))
    assert tried is (again is True)
    assert why_not == "" if again in (True, "") else again in why_not


def test_the_waits_double_up_to_five_minutes():
    retries = Retries(9, Limits())
    assert [retries.next_wait_s() for _ in range(7)] == [10, 20, 40, 80, 160, 300, 300]


def test_without_retries_nothing_is_said_of_them(job):
    one = flaky(job, need=9, way="kill", retries=0)
    assert one.end()["state"] == "FAILED"
    assert one.codes() == [] and len(starts(one)) == 1


def test_a_cancel_during_the_wait_ends_the_job(job):
    one = flaky(job, need=9, way="kill", retries=3, retry_first_s=600, retry_longest_s=600)
    one.until(lambda: "RETRYING" in one.codes(), "the retry to be announced")
    one.control("cancel", {"by": "mina"})
    end = one.end()
    assert (end["state"], end["reason"]["code"]) == ("CANCELLED", "CANCELLED")
    assert len(starts(one)) == 1


def test_a_time_limit_counts_during_the_wait(job):
    one = job(
        [{"name": "train", "script": FLAKY, "env": {"NEED": "9", "WAY": "kill"}}],
        retries=3, watch={"retry_first_s": 600, "retry_longest_s": 600}, max_duration_seconds=1.0,
    )  # fmt: skip
    end = one.end()
    assert (end["state"], end["reason"]["code"]) == ("FAILED", "TIMED_OUT")
    assert "NOT_RETRIED" not in one.codes()


def test_the_end_of_an_earlier_try_says_nothing_about_a_later_one(job):
    script = """
import os
print("RuntimeError: gone" if os.environ["MOAI_ATTEMPT"] == "1" else "all is well")
"""
    one = job([{"name": "train", "script": script, "log_judged": True}], retries=1, watch=QUICK)
    end = one.end()
    assert end["state"] == "SUCCEEDED", end
    assert one.message("RETRYING")["reason"] == "FATAL_LINE"


#: A stand-in for a step of ours: what the runner leaves, without its imports.
MODULE = """
import json, os, sys
control = os.path.join(os.path.dirname(os.environ["MOAI_REPORTS"]), "control")
first = os.environ["MOAI_ATTEMPT"] == "1"
error = {"code": %r, "message": "as told", "next": "", "details": json.loads(%r)}
with open(os.path.join(control, "result-train.json"), "w") as out:
    json.dump({"ok": not first, "result": {}, "error": error if first else None}, out)
sys.exit(1 if first else 0)
"""


def test_a_typed_reason_of_a_step_of_ours_decides(job):
    script = MODULE % ("TRAINING_FAILED", "{}")
    one = job([{"name": "train", "module": "train", "inputs": {}, "script": script}], retries=1, watch=QUICK)
    assert one.end()["state"] == "SUCCEEDED" and one.codes() == ["RETRYING"]


def test_only_the_failed_step_is_run_again(job):
    first = 'open("first", "a").write("x")'
    one = job(
        [{"name": "one", "script": first}, {"name": "two", "script": FLAKY, "env": {"NEED": "2", "WAY": "kill"}}],
        retries=1, watch=QUICK,
    )  # fmt: skip
    end = one.end()
    assert [step["state"] for step in end["steps"]] == ["SUCCEEDED", "SUCCEEDED"]
    assert (one.work / "first").read_text() == "x" and len(starts(one)) == 2

"""Tries again by the supervisor alone: what is worth it, how often, after which wait, and what ends it."""

import json
import signal

import pytest
from fakes.supervised import Supervised

QUICK = {"retry_first_s": 0.05, "retry_longest_s": 0.1}

#: Fails in the way named by its argument until it was started ``need`` times; counts its starts in ``starts``.
FLAKY = """
import os, signal, sys
need, way = int(os.environ["NEED"]), os.environ["WAY"]
with open("starts", "a") as out: out.write(os.environ["MOAI_ATTEMPT"] + "\\n")
count = len(open("starts").read().split())
print("start", count, flush=True)
if count < need:
    if way == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if way == "mistake": raise ModuleNotFoundError("No module named 'nothing'")
    if way == "memory": raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
    if way == "device": raise RuntimeError("NCCL error: the device was lost")
    sys.exit(int(way))
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


@pytest.mark.parametrize("way", ["kill", "device", "1"])
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


@pytest.mark.parametrize(
    ("way", "word"), [("mistake", "ModuleNotFoundError"), ("memory", "smaller"), ("2", "exit code 2"), ("127", "mistake in the command")]
)
def test_what_would_fail_the_same_way_is_not_tried_again(job, way, word):
    one = flaky(job, need=9, way=way, retries=3)
    assert one.end()["state"] == "FAILED"
    assert len(starts(one)) == 1
    assert word in one.message("NOT_RETRIED")["text"] and "RETRYING" not in one.codes()


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
        retries=3, watch={"retry_first_s": 600, "retry_longest_s": 600}, max_duration_seconds=1.5,
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


@pytest.mark.parametrize(
    ("code", "details", "again"),
    [
        ("TRAINING_FAILED", {}, True), ("TRAINING_FAILED", {"cause": "loss"}, False), ("USAGE", {}, False),
        ("DEVICE_OUT_OF_MEMORY", {}, False), ("OUT_OF_MEMORY", {}, False), ("HUB_UNREACHABLE", {}, True),
        ("ACCESS_GATED", {}, False), ("DATASET_INVALID", {}, False), ("DEVICE_TOOL_FAILED", {}, True),
    ],
)  # fmt: skip
def test_typed_reasons_of_our_own_steps_decide(job, code, details, again):
    script = MODULE % (code, json.dumps(details))
    one = job([{"name": "train", "module": "train", "inputs": {}, "script": script}], retries=1, watch=QUICK)
    assert one.end()["state"] == ("SUCCEEDED" if again else "FAILED")
    assert one.codes() == (["RETRYING"] if again else ["NOT_RETRIED"])


def test_only_the_failed_step_is_run_again(job):
    first = 'open("first", "a").write("x")'
    one = job(
        [{"name": "one", "script": first}, {"name": "two", "script": FLAKY, "env": {"NEED": "2", "WAY": "kill"}}],
        retries=1, watch=QUICK,
    )  # fmt: skip
    end = one.end()
    assert [step["state"] for step in end["steps"]] == ["SUCCEEDED", "SUCCEEDED"]
    assert (one.work / "first").read_text() == "x" and len(starts(one)) == 2

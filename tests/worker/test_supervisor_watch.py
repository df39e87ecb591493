"""Watchers in a real supervisor: what is said, what is ended when asked, and what a recipe may save first."""

import time

import pytest
from fakes.supervised import Supervised

#: Looks often, and waits little, so that nothing here waits for a clock of minutes.
QUICK = {
    "look_every_s": 0.05, "stall_least_s": 0.5, "disk_every_s": 0.05, "memory_every_s": 0.05, "spike_least": 5,
    "retry_first_s": 0.05,
}  # fmt: skip

PRELUDE = """
import json, os, sys, time
def wait_for(path):
    end = time.monotonic() + 60
    while not os.path.exists(path):
        assert time.monotonic() < end, path
        time.sleep(0.01)
def step(number, loss=2.0):
    print("step %d/100 | loss %s" % (number, loss), flush=True)
    time.sleep(0.1)
"""


@pytest.fixture
def job(tmp_path):
    made = []

    def make(script, recipe=False, **more):
        step = {"name": "train", "script": PRELUDE + script, "env": {"WORK": str(tmp_path)}}
        if recipe:
            step.update(module="train", inputs={"output": str(tmp_path)})
        watch = dict(QUICK, **more.pop("watch", {}))
        made.append(Supervised(tmp_path / str(len(made)), [step], watch=watch, **more))
        return made[-1]

    yield make
    for one in made:
        one.kill()


STALLING = "for number in range(1, 8): step(number)\nwait_for('go')\nstep(8); wait_for('end')\n"


def conditions(one):
    return [[c["type"] for c in state.get("conditions") or []] for state in one.reports("state")]


def test_a_stall_is_a_condition_with_numbers_and_goes_when_a_step_comes(job):
    one = job(STALLING)
    one.until(lambda: "STALLED" in one.codes(), "the stall")
    said = one.message("STALLED")
    assert said["step"] == 7 and said["waited_seconds"] >= 0.5 and said["usual_seconds"] > 0
    assert "since step 7" in said["text"] and said["advice"] in said["text"]
    assert conditions(one)[-1] == ["STALLED"]
    (one.work / "go").touch()
    one.until(lambda: "STALL_ENDED" in one.codes(), "the end of the stall")
    assert conditions(one)[-1] == []
    (one.work / "end").touch()
    assert one.end()["state"] == "SUCCEEDED", "a watcher ends nothing by itself"


def test_nan_and_spike_are_said_once_each_and_change_nothing(job):
    losses = [2.0, 2.01, 1.99, 2.0, 2.02, 2.0, 9.0, 9.5, "nan", "nan"]
    one = job("for number, loss in enumerate(%r, 1): step(number, loss)\nwait_for('end')\n" % (losses,))
    one.until(lambda: "NAN_LOSS" in one.codes(), "NaN")
    (one.work / "end").touch()
    assert one.end()["state"] == "SUCCEEDED"
    assert one.message("LOSS_SPIKE")["step"] == 7 and one.message("NAN_LOSS")["step"] == 9


@pytest.mark.parametrize(
    ("kind", "script", "watch"),
    [
        ("nan", "step(1, 'nan'); wait_for('never')", {}),
        ("spike", "for number in range(1, 9): step(number)\nstep(9, 50); wait_for('never')", {}),
        ("disk", "wait_for('never')", {"disk_share": 2.0, "disk_bytes": 1e30}),
        ("memory", "wait_for('never')", {"memory_share": 0.0, "memory_own_share": 0.0}),
    ],
)  # fmt: skip
def test_a_command_is_ended_when_asked_for_and_says_by_which_watcher(job, kind, script, watch):
    one = job(script, stop_on=[kind], watch=watch)
    end = one.end()
    assert (end["state"], end["reason"]["code"]) == ("FAILED", "WATCHER_STOPPED")
    assert end["reason"]["details"] == {"watcher": kind} and kind in end["reason"]["message"] and end["reason"]["next"]


def test_a_stalled_command_with_retries_is_started_again(job):
    script = "if os.environ['MOAI_ATTEMPT'] == '1':\n    for number in range(1, 8): step(number)\n    wait_for('never')\nstep(8)\n"
    one = job(script, stop_on=["stall"], retries=1)
    assert one.end()["state"] == "SUCCEEDED"
    assert one.message("RETRYING")["reason"] == "WATCHER_STOPPED"


#: What the recipe does, without its libraries: reports, looks at control/ between steps, leaves a result.
RECIPE = """
control = os.path.join(os.path.dirname(os.environ["MOAI_REPORTS"]), "control")
def say(type, **data):
    with open(os.environ["MOAI_REPORTS"], "a") as out:
        out.write(json.dumps({"t": time.time(), "step": "train", "type": type, "data": data}) + "\\n")
def train(losses, hang=False):
    say("phase", phase="training", text="")
    stopped = False
    for number, loss in enumerate(losses, 1):
        say("metric", step=number, values={"loss": loss})
        if os.path.exists(os.path.join(control, "stop.json")):
            say("phase", phase="saving", text="")
            stopped = True
            break
        time.sleep(0.1)
    if hang: wait_for("never")
    with open(os.path.join(control, "result-train.json"), "w") as out:
        json.dump({"ok": True, "result": {"stopped": stopped, "steps": number}}, out)
"""


def test_a_recipe_saves_and_ends_when_a_watcher_stops_it(job):
    one = job(RECIPE + "train([2.0] * 8 + [50.0] + [2.0] * 900)", recipe=True, stop_on=["spike"])
    end = one.end()
    assert (end["state"], end["reason"]["code"]) == ("FAILED", "WATCHER_STOPPED")
    assert "it saved a checkpoint and ended" in end["reason"]["message"]
    assert [state["state"] for state in one.reports("state")] == ["STARTING", "RUNNING", "STOPPING"]


def test_the_time_limit_lets_a_recipe_save_first(job):
    one = job(RECIPE + "train([2.0] * 900)", recipe=True, max_duration_seconds=1.0)
    end = one.end()
    assert (end["state"], end["reason"]["code"]) == ("FAILED", "TIMED_OUT")
    assert "it saved a checkpoint and ended" in end["reason"]["message"]
    assert end["reason"]["next"] == "moai remote resume calm-fox-0001"


def test_a_recipe_that_does_not_answer_is_ended_after_its_grace(job):
    one = job(RECIPE + "train([2.0] * 8, hang=True)", recipe=True, max_duration_seconds=1.0, watch={"save_grace_s": 0.3})
    end = one.end()
    assert (end["state"], end["reason"]["code"]) == ("FAILED", "TIMED_OUT")
    assert "no checkpoint was saved within 0.3 s" in end["reason"]["message"]


def test_a_stalled_recipe_is_started_again_without_the_request_that_ended_it(job):
    script = RECIPE + "train([2.0] * 8, hang=os.environ['MOAI_ATTEMPT'] == '1')"
    one = job(script, recipe=True, stop_on=["stall"], retries=1, watch={"save_grace_s": 0.3})
    end = one.end()
    assert end["state"] == "SUCCEEDED" and end["retries"] == 1
    assert not (one.folder / "control" / "stop.json").exists()


def test_phases_of_the_recipe_are_no_stall(job):
    script = RECIPE + "train([2.0] * 8)\nsay('phase', phase='evaluating', text='')\nwait_for('go')\n"
    one = job(script, recipe=True)
    one.until(lambda: any(r.get("phase") == "evaluating" for r in one.reports("phase")), "the evaluation")
    end_s = time.monotonic() + 0.8
    one.until(lambda: time.monotonic() > end_s, "some looks")
    assert "STALLED" not in one.codes()
    (one.work / "go").touch()
    assert one.end()["state"] == "SUCCEEDED"


def test_a_recipe_hears_of_the_disk_before_the_next_checkpoint(job):
    script = RECIPE + "say('phase', phase='training', text='', checkpoint_bytes=10**18)\nwait_for('go')\ntrain([2.0])"
    one = job(script, recipe=True)
    said = one.until(lambda: [m for m in one.reports("message") if m["code"] == "DISK_LOW"], "the warning")[0]
    assert said["needed_bytes"] >= 10**18 and "next checkpoint" in said["text"]
    (one.work / "go").touch()
    assert one.end()["state"] == "SUCCEEDED"

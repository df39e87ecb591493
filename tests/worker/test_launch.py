"""Which CUDA devices a training takes, whom it waits for, and torchrun around the same step.

``nvidia-smi`` is a look-alike that prints the tables of ``--help-query-gpu``; the processes torchrun starts
are real ones, on the CPU with gloo, because the look-alike's devices do not exist.
"""

import json
import os
import subprocess
import sys

import pytest
from fakes import tinymodel
from fakes.news import write_jsonl
from fakes.stepchild import StepChild
from moai_worker import launch
from moai_worker.errors import StepError

AGENT = os.path.join(os.path.dirname(__file__), "..", "..", "agent")


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """A fake nvidia-smi: ``smi(gpus, apps)`` sets what it prints; each is a list of CSV lines."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\ncase "$1" in *compute-apps*) cat "{0}/apps";; *) cat "{0}/gpus";; esac\n'.format(tmp_path))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", "{}:{}".format(tool.parent, os.environ["PATH"]))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def show(gpus, apps=()):
        (tmp_path / "gpus").write_text("".join(line + "\n" for line in gpus))
        (tmp_path / "apps").write_text("".join(line + "\n" for line in apps))
        return str(tool.parent)

    return show


FOUR = ["{0}, GPU-{0}aaa, 81559, 0".format(number) for number in range(4)]


def test_devices_are_listed_with_their_holders(smi):
    smi(FOUR[:2] + ["2, GPU-2aaa, 81559, 40000"], ["GPU-1aaa, {}".format(os.getpid()), "GPU-1aaa, 999999999"])
    free, held, foreign = launch.list_devices()
    assert (free.index, free.uuid, free.total_mib, free.holders) == ("0", "GPU-0aaa", 81559, [])
    assert held.holders[0].startswith("process {} (".format(os.getpid())) and held.holders[1] == "process 999999999"
    assert foreign.holders == ["a process outside this container (40000 MiB)"]


@pytest.mark.parametrize(("visible", "left"), [("1,3", ["1", "3"]), ("GPU-2aaa", ["2"]), ("", []), ("9", [])])
def test_the_jobs_own_choice_of_devices_is_kept(smi, monkeypatch, visible, left):
    smi(FOUR)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [device.index for device in launch.list_devices()] == left


@pytest.mark.parametrize(
    ("asked", "batch", "parts", "free", "chosen"),
    [
        ("", 8, 1, "0123", "0123"),
        ("", 6, 1, "0123", "012"),  # three share six rows, four do not
        ("", 8, 2, "13", "13"),
        ("", 7, 1, "123", "1"),
        ("", 8, 1, "", ""),
        ("all", 8, 1, "0123", "0123"),
        ("all", 8, 1, "012", ""),
        ("2", 8, 1, "123", "12"),
        ("2", 8, 1, "3", ""),
        ("3,1", 8, 1, "0123", "31"),
        ("0,", 8, 1, "0123", "0"),
        ("0,1", 8, 1, "123", ""),
    ],
)
def test_devices_are_chosen_so_that_each_gets_the_same_share(asked, batch, parts, free, chosen):
    assert launch.choose(asked, batch, parts, list("0123"), list(free)) == list(chosen)


@pytest.mark.parametrize("asked", ["5", "0", "two", "1,7", "1,1", "-1", "3"])
def test_what_cannot_be_shared_or_is_not_there_is_named(asked):
    with pytest.raises(StepError) as caught:
        launch.choose(asked, 8, 1, list("0123"), list("0123"))
    assert caught.value.reason == "USAGE" and caught.value.next
    assert asked in caught.value.message or "8 rows cannot be shared by 3 devices" in caught.value.message


class Recorder:
    def __init__(self):
        self.phases, self.messages = [], []

    def phase(self, name, text="", **more):
        self.phases.append(text)

    def message(self, text, **more):
        self.messages.append((text, more))


def test_a_device_somebody_holds_is_waited_for_and_the_holder_named(smi, monkeypatch):
    smi(FOUR[:1], ["GPU-0aaa, 4242424"])
    monkeypatch.setattr(launch, "_LOOK_S", 0)

    class Freeing(Recorder):
        def phase(self, name, text="", **more):
            super().phase(name, text, **more)
            smi(FOUR[:1])

    report = Freeing()
    launch.spread({"batch_size": 8}, report)
    assert "device 0: process 4242424" in report.phases[0] and len(report.phases) == 1
    assert os.environ.pop("CUDA_VISIBLE_DEVICES") == "0" and report.messages[0][0] == "Training on CUDA device 0."


def test_without_devices_nothing_changes_unless_some_were_asked_for(monkeypatch):
    monkeypatch.setattr(launch, "list_devices", lambda: [])
    launch.spread({}, Recorder())
    with pytest.raises(StepError, match="no CUDA device") as caught:
        launch.spread({"gpus": "2"}, Recorder())
    assert caught.value.reason == "UNSUPPORTED"


def test_on_moai_several_devices_are_refused_with_what_to_do_instead(monkeypatch):
    monkeypatch.setattr(launch, "is_moreh", lambda: True)
    launch.spread({}, Recorder())
    with pytest.raises(StepError, match="one device, and spans GPUs and nodes by itself") as caught:
        launch.spread({"gpus": "4"}, Recorder())
    assert caught.value.reason == "UNSUPPORTED" and "flavor" in caught.value.next


# --- real processes -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def python():
    found = tinymodel.train_python()
    if found is None:
        pytest.skip("no train environment: set MOAI_TRAIN_PYTHON or make .venv-train")
    return found


def start(python, job, inputs, env):
    """The step as the supervisor starts it: ``main.py train train JOB``; returns the exit code and the result."""
    (job / "control").mkdir(parents=True, exist_ok=True)
    plan = {"steps": [{"name": "train", "module": "train", "inputs": inputs}]}
    (job / "plan.json").write_text(json.dumps(plan))
    command = [python, os.path.join(AGENT, "main.py"), "train", "train", str(job)]
    with open(str(job / "log"), "ab") as log:
        code = subprocess.call(command, env=dict(os.environ, **env), stdout=log, stderr=log, timeout=240)
    return code, json.loads((job / "control" / "result-train.json").read_text())


@pytest.mark.skipif(sys.version_info < (3, 9), reason="the processes are those of the train environment; once is enough")
def test_two_processes_train_as_one_would_and_each_has_its_log(python, smi, tmp_path):
    model = str(tinymodel.build(tmp_path / "model", python, vocab_size=400, hidden=32, max_length=128))
    (tmp_path / "child").mkdir()
    child = StepChild(python, tmp_path / "child")
    try:
        made = child.run(
            "prepare",
            {
                "source": write_jsonl(str(tmp_path / "news.jsonl"), 40, sentences=1), "model": model,
                "template": "summarize", "block_size": 64, "output": str(tmp_path / "prepared"),
            },
        )  # fmt: skip
        inputs = {
            "model": model, "dataset": made["result"]["path"], "method": "full", "max_steps": 4, "batch_size": 4,
            "learning_rate": 1e-3, "save_steps": 2, "logging_steps": 1, "seed": 5,
        }  # fmt: skip
        alone = child.run("train", dict(inputs, output=str(tmp_path / "alone")))["result"]
    finally:
        child.close()
    smi(FOUR[:2])
    job = tmp_path / "job"
    code, outcome = start(python, job, dict(inputs, output=str(tmp_path / "two"), gpus="2"), {})
    assert code == 0, (job / "log").read_text()[-3000:]
    assert outcome["ok"] and outcome["result"]["steps"] == 4
    mine = json.loads((tmp_path / "two" / "moai-training.json").read_text())["losses"]
    theirs = json.loads((tmp_path / "alone" / "moai-training.json").read_text())["losses"]
    assert [step for step, _ in mine] == [step for step, _ in theirs] == [1, 2, 3, 4]
    # The rows of a step are the same; only the order of adding differs, and which rows share a forward pass.
    assert [loss for _, loss in mine] == pytest.approx([loss for _, loss in theirs], rel=2e-3)
    assert alone["steps"] == 4
    log = (job / "log").read_text()
    assert log.count("step 4/4 |") == 1 and (job / "log.rank1").exists()
    reports = [json.loads(line) for line in (job / "reports.jsonl").read_text().splitlines()]
    assert [r["data"]["devices"] for r in reports if r["data"].get("code") == "DEVICES_CHOSEN"] == ["0,1"]
    assert [r["data"]["step"] for r in reports if r["type"] == "metric" and "loss" in r["data"]["values"]] == [1, 2, 3, 4]
    # Again, one step further: the checkpoint of two processes is continued by two.
    code, outcome = start(python, job, dict(inputs, output=str(tmp_path / "two"), gpus="2", max_steps=5), {})
    assert code == 0, (job / "log").read_text()[-3000:]
    assert outcome["result"]["resumed_from"].endswith("checkpoint-4") and outcome["result"]["steps"] == 5


@pytest.mark.skipif(sys.version_info < (3, 9), reason="as above")
def test_a_failure_of_the_processes_is_one_typed_reason(python, smi, tmp_path):
    smi(FOUR[:2])
    job = tmp_path / "job"
    inputs = {"model": str(tmp_path), "dataset": str(tmp_path), "output": str(tmp_path / "out"), "batch_size": 4, "gpus": "2"}
    code, outcome = start(python, job, inputs, {})
    assert code != 0 and not outcome["ok"] and outcome["error"]["code"] == "MODEL_INVALID", outcome

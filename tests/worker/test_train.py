"""The training recipe with real Trainer steps on a tiny Llama, on the CPU.

Skipped where there is no train environment. One child process serves most tests: importing torch and
transformers costs more than a run. This file is long because its runs share that child.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from fakes import tinymodel
from fakes.news import write_jsonl
from fakes.stepchild import StepChild
from moai_worker import checkpoints

STEPS = 8


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.fixture(scope="module")
def python():
    found = tinymodel.train_python()
    if found is None:
        pytest.skip("no train environment: set MOAI_TRAIN_PYTHON or make .venv-train")
    return found


@pytest.fixture(scope="module")
def child(python, tmp_path_factory):
    child = StepChild(python, tmp_path_factory.mktemp("child"))
    yield child
    child.close()


@pytest.fixture(scope="module")
def model(python, tmp_path_factory):
    return str(
        tinymodel.build(tmp_path_factory.mktemp("model"), python, vocab_size=600, hidden=32, max_length=128)
    )


@pytest.fixture(scope="module")
def dataset(child, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    inputs = {
        "source": write_jsonl(str(folder / "news.jsonl"), 84, sentences=1), "model": model,
        "template": "summarize", "block_size": 96, "output": str(folder / "prepared"),
        "validation_fraction": 0.1,
    }  # fmt: skip
    return child.run("prepare", inputs)["result"]["path"]


@pytest.fixture
def inputs(model, dataset, tmp_path):
    """Sensible inputs; keyword arguments override them."""

    def make(**given):
        base = {
            "model": model, "dataset": dataset, "output": str(tmp_path / "out"), "max_steps": STEPS,
            "batch_size": 8, "learning_rate": 0.003, "save_steps": 3, "device": "cpu",
        }  # fmt: skip
        return dict(base, **given)

    return make


@pytest.fixture(scope="module")
def reference(child, model, dataset, tmp_path_factory):
    """An uninterrupted full run and what it reported."""
    output = tmp_path_factory.mktemp("reference") / "out"
    outcome = child.run("train", {
        "model": model, "dataset": dataset, "output": str(output), "max_steps": STEPS, "batch_size": 8,
        "learning_rate": 0.003, "save_steps": 3, "eval_steps": 4, "device": "cpu",
    })  # fmt: skip
    assert "result" in outcome, outcome
    return outcome["result"], child.reports(), output


def losses(output) -> list:
    return json.loads((Path(str(output)) / "moai-training.json").read_text())["losses"]


def assert_same_curve(output, expected_output, rel=1e-5):
    mine, expected = losses(output), losses(expected_output)
    assert [step for step, _ in mine] == [step for step, _ in expected]
    assert [loss for _, loss in mine] == pytest.approx([loss for _, loss in expected], rel=rel)


def test_full_training_lowers_the_loss_and_leaves_a_model_that_opens(child, reference):
    result, _, output = reference
    assert (result["steps"], result["method"], result["stopped"]) == (STEPS, "full", False)
    assert result["final_loss"] < result["first_loss"] - 0.3
    assert [Path(path).name for path in result["checkpoints"]] == ["checkpoint-3", "checkpoint-6"]
    verified = child.run("verify", {"path": str(output), "method": "full", "load": True})["result"]
    assert verified["loaded"] and verified["files"] >= 4
    assert verified["bytes"] < sum(item.stat().st_size for item in output.rglob("*") if item.is_file())


def test_a_run_reports_its_phases_every_step_and_what_it_made(reference):
    _, reports, output = reference
    phases = [line["phase"] for line in reports if "phase" in line]
    assert phases[0] == "loading" and phases[-1] == "saving"
    assert {"loading", "training", "evaluating", "saving"} == set(phases)
    metrics = [line for line in reports if "values" in line]
    lines = [line for line in metrics if "loss" in line["values"]]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    for name in ("learning_rate", "grad_norm", "epoch", "tokens_per_second", "step_seconds"):
        assert all(line["values"][name] >= 0 for line in lines), name
    assert [line["step"] for line in metrics if "eval_loss" in line["values"]] == [4, 8]
    progress = [line for line in reports if "done" in line]
    assert (progress[-1]["done"], progress[-1]["total"], progress[-1]["unit"]) == (STEPS, STEPS, "steps")
    made = [(line["kind"], line["step"], line["path"]) for line in reports if "kind" in line]
    folder = str(output / "checkpoints" / "checkpoint-")
    assert made == [
        ("checkpoint", 3, folder + "3"), ("checkpoint", 6, folder + "6"), ("model", STEPS, str(output)),
    ]  # fmt: skip


def test_the_tokenizer_is_passed_on_byte_for_byte(reference, model):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (reference[2] / name).read_bytes() == (Path(model) / name).read_bytes()


def test_a_run_killed_after_a_checkpoint_resumes_there_and_ends_as_if_it_had_not_been(
    python, child, inputs, reference, tmp_path
):
    victim = StepChild(python, tmp_path)
    assert victim.run("train", inputs(), hold_at=5) == {"held": 5}
    assert [line["step"] for line in victim.reports("artifact")] == [3]
    victim.kill()
    # Killed while saving, a newer checkpoint may be there in part.
    folder = tmp_path / "out" / "checkpoints"
    torn = folder / "checkpoint-5"
    shutil.copytree(str(folder / "checkpoint-3"), str(torn))
    (torn / "trainer_state.json").unlink()

    outcome = child.run("train", inputs())
    assert outcome["result"]["resumed_from"] == str(folder / "checkpoint-3")
    assert outcome["result"]["steps"] == STEPS
    lines = [line["step"] for line in child.reports("metric") if "loss" in line["values"]]
    assert lines == list(range(4, STEPS + 1))
    assert child.reports("progress")[0]["done"] == 3
    assert not torn.exists()
    assert_same_curve(tmp_path / "out", reference[2])

    summary = json.loads((tmp_path / "out" / "moai-training.json").read_text())
    # Held at step 5 and killed: what it had kept last is the checkpoint of step 3.
    assert [(run["start_step"], run["step"]) for run in summary["runs"]] == [(0, 3), (3, STEPS)]
    assert summary["seconds"] == pytest.approx(sum(run["seconds"] for run in summary["runs"]), abs=0.002)
    assert all(run["seconds"] > 0 for run in summary["runs"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| runs | 2: steps 1 to 3, 4 to {} |".format(STEPS) in card and "| steps | {} |".format(STEPS) in card
    # Two more steps, by a job that goes on after this one: all three count.
    assert child.run("train", inputs(max_steps=STEPS + 2))["result"]["steps"] == STEPS + 2
    longer = json.loads((tmp_path / "out" / "moai-training.json").read_text())
    assert [(run["start_step"], run["step"]) for run in longer["runs"]] == [(0, 3), (3, STEPS), (6, STEPS + 2)]
    assert longer["seconds"] > summary["seconds"]


@pytest.fixture(scope="module")
def dropping(model, tmp_path_factory):
    """The model with dropout in its attention: masks are drawn anew at every step."""
    folder = tmp_path_factory.mktemp("dropping") / "model"
    shutil.copytree(model, str(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(dict(config, attention_dropout=0.2)))
    return str(folder)


@pytest.mark.parametrize("method", [pytest.param("full", marks=pytest.mark.faults), "lora"])
def test_every_loss_of_a_resumed_run_is_the_uninterrupted_runs_with_dropout_over_two_epochs(
    python, child, inputs, dropping, method, tmp_path
):
    """Shuffled anew each epoch, masks drawn at each step; float noise is all that may differ (1e-5).

    LoRA ends by kill -9 in the second epoch, full by a stop in it (by kill -9: the test above).
    """
    more = dict(
        model=dropping, method=method, max_steps=14, learning_rate=0.003 if method == "full" else 0.02,
        lora={"r": 4, "alpha": 8, "dropout": 0.1}, control=str(tmp_path),
    )  # fmt: skip
    whole = child.run("train", inputs(output=str(tmp_path / "whole"), save_steps=None, **more))["result"]
    # 9 steps an epoch.
    if method == "lora":
        victim = StepChild(python, tmp_path)
        assert victim.run("train", inputs(**more), hold_at=11) == {"held": 11}
        victim.kill()
    else:
        assert child.run("train", inputs(**more), hold_at=10) == {"held": 10}
        (tmp_path / "stop.json").write_text("{}")
        assert child.go_on()["result"]["steps"] == 11
    again = child.run("train", inputs(**more))["result"]
    begun = {"lora": "checkpoint-9", "full": "checkpoint-11"}[method]
    assert (again["resumed_from"], again["steps"]) == (str(tmp_path / "out" / "checkpoints" / begun), whole["steps"])
    assert_same_curve(tmp_path / "out", tmp_path / "whole")


@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.faults)])
def test_resumed_with_smaller_passes_the_curve_goes_on_as_before(child, inputs, method, tmp_path):
    """Batch 8 in one pass until step 3, then in 4 passes of 2: the same rows a step, in the same order.

    Sums in another order: 1e-4. Dropout is off; its masks depend on the size of a pass.
    """
    more = dict(
        method=method, learning_rate=0.003 if method == "full" else 0.02, scheduler="constant", keep_checkpoints=9,
        max_steps=12,
    )  # fmt: skip
    child.run("train", inputs(output=str(tmp_path / "whole"), save_steps=None, **more))
    child.run("train", inputs(**dict(more, max_steps=3)))
    state = tmp_path / "out" / "checkpoints" / "checkpoint-3" / "trainer_state.json"
    assert json.loads(state.read_text())["train_batch_size"] == 8
    child.run("train", inputs(gradient_accumulation=4, **more))
    assert json.loads(state.read_text())["train_batch_size"] == 2, "versions up to 4.45 obey this number"
    assert [line["step"] for line in child.reports("metric")] == list(range(4, 13))
    assert_same_curve(tmp_path / "out", tmp_path / "whole", rel=1e-4)


def test_a_rate_changed_at_a_resume_counts_and_an_older_step_is_begun_from(child, inputs, reference, tmp_path):
    shutil.copytree(str(reference[2]), str(tmp_path / "out"))
    folder = tmp_path / "out" / "checkpoints"
    asked = inputs(resume=str(folder / "checkpoint-3"), learning_rate=0.001, settings={"weight_decay": 0.5})
    result = child.run("train", asked)["result"]
    rates = [line["values"]["learning_rate"] for line in child.reports("metric") if "loss" in line["values"]]
    assert rates == pytest.approx([0.001 * (STEPS - step) / STEPS for step in range(3, STEPS)], rel=1e-6)
    assert result["resumed_from"] == str(folder / "checkpoint-3")
    # Those of the run that went on differently are kept, elsewhere.
    assert os.listdir(str(tmp_path / "out" / "checkpoints-before-1")) == ["checkpoint-6"]
    error = child.run("train", inputs(resume=str(folder / "checkpoint-4")))["error"]
    assert error["code"] == "CHECKPOINT_NOT_FOUND" and "3, 6" in error["next"]


def test_a_checkpoint_that_does_not_fit_is_left_out_and_said_and_the_result_is_saved(child, inputs, tmp_path):
    child.code(
        "import shutil, moai_worker.callbacks as c\n"
        "c.whole = c.shutil\n"
        "def usage(path):\n"
        "    full = shutil.disk_usage(path)\n"
        "    import os\n"
        "    return full._replace(free=10 if os.path.isdir(path + '/checkpoints/checkpoint-3') else full.free)\n"
        "class Small: disk_usage = staticmethod(usage)\n"
        "c.shutil = Small\n"
    )
    try:
        result = child.run("train", inputs())["result"]
    finally:
        child.code("import moai_worker.callbacks as c\nc.shutil = c.whole")
    assert [Path(path).name for path in result["checkpoints"]] == ["checkpoint-3"], "the old one stays"
    warned = [line for line in child.reports("message") if line["code"] == "DISK_FULL"]
    assert [line["step"] for line in warned] == [6] and warned[0]["level"] == "warning"
    assert result["steps"] == STEPS and (tmp_path / "out" / "model.safetensors").exists()


def test_out_of_device_memory_names_the_command_that_goes_on(child, inputs, monkeypatch):
    code = (
        "import torch, transformers, os\n"
        "os.environ['MOAI_JOB'] = 'host/swift-otter-7f3a'\n"
        "transformers.Trainer.kept = transformers.Trainer.training_step\n"
        "def fail(*a, **k): raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')\n"
        "transformers.Trainer.training_step = fail"
    )
    child.code(code)
    try:
        error = child.run("train", inputs())["error"]
    finally:
        child.code("import transformers, os\ntransformers.Trainer.training_step = transformers.Trainer.kept\ndel os.environ['MOAI_JOB']")
    assert error["code"] == "DEVICE_OUT_OF_MEMORY" and error["details"]["gradient_accumulation"] == "2"
    assert error["next"] == "moai remote resume swift-otter-7f3a --set gradient_accumulation=2"


def test_a_running_recipe_evaluates_saves_and_changes_its_log_interval_within_a_step(child, inputs, tmp_path):
    control = tmp_path / "control"
    control.mkdir()
    assert child.run("train", inputs(control=str(control), save_steps=None), hold_at=2) == {"held": 2}
    (control / "evaluate.json").write_text("{}")
    (control / "checkpoint.json").write_text("{}")
    (control / "log-interval.json").write_text('{"value": 2}')
    result = child.go_on()["result"]
    assert (result["steps"], result["stopped"]) == (STEPS, False)
    assert [Path(path).name for path in result["checkpoints"]] == ["checkpoint-3"]
    assert [line["step"] for line in child.reports("message") if line["code"] == "CHECKPOINT_SAVED"] == [3]
    said = {line["signal"]: line for line in child.reports("message") if line["code"] == "SIGNAL_DONE"}
    assert sorted(said) == ["evaluate", "log-interval"] and {line["step"] for line in said.values()} == {3}
    metrics = child.reports("metric")
    assert [line["step"] for line in metrics if "eval_loss" in line["values"]] == [3]
    assert said["evaluate"]["value"] == [m["values"]["eval_loss"] for m in metrics if "eval_loss" in m["values"]][0]
    assert said["log-interval"]["value"] == 2
    assert [line["step"] for line in metrics if "loss" in line["values"]] == [1, 2, 3, 4, 6, 8]
    assert sorted(os.listdir(str(control))) == ["checkpoint.json.done", "evaluate.json.done", "log-interval.json.done"]
    training = [line for line in child.reports() if line.get("phase") == "training"]
    made = [line["size_bytes"] for line in child.reports("artifact") if line["kind"] == "checkpoint"]
    assert 0.8 * made[0] < training[0]["checkpoint_bytes"] < 1.2 * made[0]


def test_a_stopped_run_leaves_a_checkpoint_and_a_model_and_goes_on_when_asked(
    child, inputs, reference, tmp_path
):
    control = tmp_path / "control"
    control.mkdir()
    (control / "stop.json").write_text("{}")
    result = child.run("train", inputs(control=str(control)))["result"]
    assert (result["steps"], result["total_steps"], result["stopped"]) == (1, STEPS, True)
    codes = [line["code"] for line in child.reports("message")]
    assert codes.index("STOPPING") < codes.index("CHECKPOINT_SAVED")
    assert "result" in child.run("verify", {"path": result["path"], "method": "full"})
    # The request is fulfilled: the resumed run does not stop again.
    result = child.run("train", inputs(control=str(control)))["result"]
    assert (result["steps"], result["stopped"]) == (STEPS, False)
    assert_same_curve(tmp_path / "out", reference[2])


def test_a_run_killed_while_saving_its_result_only_saves_again(child, inputs, reference, tmp_path):
    result = child.run("train", inputs(max_steps=6))["result"]
    (tmp_path / "out" / "model.safetensors").unlink()
    (tmp_path / "out" / "moai-training.json").unlink()
    again = child.run("train", inputs(max_steps=6))["result"]
    assert not [line for line in child.reports("metric")]
    assert (again["steps"], again["final_loss"]) == (6, result["final_loss"])
    summary = json.loads((tmp_path / "out" / "moai-training.json").read_text())
    assert [(run["start_step"], run["step"]) for run in summary["runs"]] == [(0, 6)], "the time of its training is not lost"
    assert summary["seconds"] > 0
    assert "result" in child.run("verify", {"path": again["path"], "method": "full", "load": True})


def test_lora_leaves_an_adapter_that_opens_on_its_base_and_resumes(child, inputs, model, tmp_path):
    asked = inputs(
        method="lora", learning_rate=0.02, keep_checkpoints=1, gradient_checkpointing=True,
        settings={"weight_decay": "0.01"}, gradient_accumulation=2, max_steps=6,
    )  # fmt: skip
    result = child.run("train", asked)["result"]
    assert result["final_loss"] < result["first_loss"]
    before = losses(tmp_path / "out")
    assert [Path(path).name for path in result["checkpoints"]] == ["checkpoint-6"]
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == model
    assert sorted(config["target_modules"]) == ["q_proj", "v_proj"] and config["r"] == 8
    assert not (tmp_path / "out" / "model.safetensors").exists()
    wanted = {"path": result["path"], "method": "lora", "model": model, "load": True}
    assert child.run("verify", wanted)["result"]["loaded"]
    longer = child.run("train", dict(asked, max_steps=STEPS))["result"]
    assert (longer["resumed_from"], longer["steps"]) == (result["checkpoints"][0], STEPS)
    # The curve of the earlier part is carried along.
    assert losses(tmp_path / "out")[:6] == before and len(losses(tmp_path / "out")) == STEPS


def test_moreh_parallelization_is_switched_on_once_where_it_exists(child, inputs, tmp_path):
    code = """
import torch, types
calls = []
torch.moreh = types.SimpleNamespace(option=types.SimpleNamespace(
    enable_advanced_parallelization=lambda: calls.append("on")))
torch.moreh_calls = calls
"""
    child.code(code)
    try:
        child.run("train", inputs(max_steps=1, save_steps=None))
    finally:
        calls = child.code("import torch\nanswer = torch.moreh_calls\ndel torch.moreh, torch.moreh_calls")
    assert calls == ["on"]
    assert (
        json.loads((tmp_path / "out" / "moai-training.json").read_text())["advanced_parallelization"] is True
    )


def test_labels_follow_the_mask_and_not_the_pad_id(child):
    code = """
from moai_worker import train_data
batch = train_data.collate([{"input_ids": [5, 0, 7, 0], "attention_mask": [1, 1, 1, 0]},
                            {"input_ids": [0, 9], "attention_mask": [1, 1]}])
answer = {name: value.tolist() for name, value in batch.items()}
"""
    batch = child.code(code)
    assert batch["labels"] == [[5, 0, 7, -100], [0, 9, -100, -100]]
    assert batch["attention_mask"] == [[1, 1, 1, 0], [1, 1, 0, 0]]


@pytest.fixture(scope="module")
def bad_data(child, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    code = """
import datasets
good = {"input_ids": [[1, 2, 3]] * 8, "attention_mask": [[1, 1, 1]] * 8}
def save(name, data, split="train"):
    datasets.DatasetDict({split: datasets.Dataset.from_dict(data)}).save_to_disk(folder + "/" + name)
save("no_mask", {"input_ids": good["input_ids"]})
save("no_train", good, "test")
save("big_id", dict(good, input_ids=[[1, 2, 600]] * 8))
save("long_row", {"input_ids": [[1] * 129] * 8, "attention_mask": [[1] * 129] * 8})
save("uneven", dict(good, attention_mask=[[1, 1]] * 8))
save("few", good)
"""
    child.code(code, folder=str(folder))
    (folder / "not_one").mkdir()
    return folder


@pytest.mark.parametrize(
    ("name", "in_message"),
    [
        ("no_mask", "lacks attention_mask"), ("no_train", "no split train"), ("big_id", "token id 600"),
        ("long_row", "129 tokens"), ("uneven", "differ in length"), ("missing", "no dataset folder"),
        ("not_one", "opening the dataset"), ("few", "8 rows are fewer than one step's batch_size of 9"),
    ],
)  # fmt: skip
def test_a_dataset_that_would_train_wrong_is_refused(child, inputs, bad_data, name, in_message):
    error = child.run("train", inputs(dataset=str(bad_data / name), batch_size=9))["error"]
    assert error["code"] == "DATASET_INVALID" and in_message in error["message"] and error["next"]


def test_an_epoch_is_rows_divided_by_batch_and_the_rest_is_left_out(child, inputs, bad_data):
    asked = inputs(dataset=str(bad_data / "few"), batch_size=3, epochs=2, max_steps=None, save_steps=None)
    result = child.run("train", asked)["result"]
    assert (result["steps"], result["total_steps"]) == (4, 4)
    # With a third, partial batch in each epoch, four steps would be an epoch and a third.
    assert child.reports("metric")[-1]["values"]["epoch"] == 2.0


def test_a_model_that_would_compute_something_else_is_refused(child, inputs, model, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(model, str(broken))
    code = """
from safetensors.torch import load_file, save_file
path = folder + "/model.safetensors"
tensors = load_file(path)
del tensors["model.norm.weight"]
save_file(tensors, path, metadata={"format": "pt"})
"""
    child.code(code, folder=str(broken))
    error = child.run("train", inputs(model=str(broken)))["error"]
    assert error["code"] == "MODEL_INVALID" and "model.norm.weight" in error["message"]
    cut(broken / "model.safetensors")
    error = child.run("train", inputs(model=str(broken)))["error"]
    assert error["code"] == "MODEL_INVALID" and "instead of" in error["message"]
    (broken / "config.json").unlink()
    assert child.run("train", inputs(model=str(broken)))["error"]["code"] == "MODEL_INVALID"
    assert child.run("train", inputs(model=str(tmp_path / "none")))["error"]["code"] == "MODEL_INVALID"


def test_mistakes_in_the_request_are_found_before_training(child, inputs, tmp_path):
    error = child.run("train", inputs(settings={"weigth_decay": 1}))["error"]
    assert error["code"] == "USAGE" and "weight_decay" in error["next"]
    error = child.run("train", inputs(scheduler="zigzag"))["error"]
    assert error["code"] == "USAGE" and "zigzag" in error["message"]
    error = child.run("train", inputs(method="lora", lora={"targets": ["nope"]}))["error"]
    assert error["code"] == "USAGE" and "q_proj" in error["next"]
    error = child.run("train", inputs(resume=str(tmp_path / "checkpoint-9")))["error"]
    assert error["code"] == "CHECKPOINT_NOT_FOUND" and "checkpoint-9" in error["message"]


def test_a_loss_that_explodes_is_said_and_not_saved(child, inputs, tmp_path):
    error = child.run("train", inputs(learning_rate=1e30, save_steps=2, settings={"max_grad_norm": 0}))[
        "error"
    ]
    assert error["code"] == "TRAINING_FAILED" and "loss became" in error["message"]
    assert not (tmp_path / "out" / "moai-training.json").exists()
    chosen, _ = checkpoints.newest_complete(str(tmp_path / "out" / "checkpoints"))
    assert chosen is None or chosen.step < int(error["details"]["step"])


def test_checkpoints_of_another_run_are_never_continued(child, inputs, reference, tmp_path):
    shutil.copytree(str(reference[2]), str(tmp_path / "out"))
    error = child.run("train", inputs(batch_size=4))["error"]
    assert error["code"] == "CHECKPOINT_MISMATCH" and "batch_size: 8 there, 4 here" in error["message"]
    result = child.run("train", inputs(batch_size=4, resume=False, max_steps=1))["result"]
    assert result["resumed_from"] is None and result["checkpoints"] == []
    aside = tmp_path / "out" / "checkpoints-before-1"
    assert [item.step for item in checkpoints.list_checkpoints(str(aside))] == [3, 6]


def test_verify_names_what_is_missing(child, reference, tmp_path):
    copy = tmp_path / "out"
    shutil.copytree(str(reference[2]), str(copy))
    cut(copy / "model.safetensors")
    error = child.run("verify", {"path": str(copy), "method": "full"})["error"]
    assert error["code"] == "OUTPUT_MISSING" and "model.safetensors" in error["message"]
    (copy / "model.safetensors").unlink()
    assert child.run("verify", {"path": str(copy)})["error"]["code"] == "OUTPUT_MISSING"
    error = child.run("verify", {"path": str(copy), "method": "lora"})["error"]
    assert "adapter_config.json" in error["message"]
    assert child.run("verify", {"path": str(tmp_path / "none")})["error"]["code"] == "OUTPUT_MISSING"

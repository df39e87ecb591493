"""A job as a moai.toml, and flags kept in one: what goes in comes out again."""

import types
from pathlib import Path

import moai
import pytest
from moai._cli.settings import merge
from moai._repeat import edit_project, job_toml
from moai_agent.jobs import plans
from moai_proto.v1 import training_pb2


def project(tmp_path: Path, text: str) -> moai.Project:
    (tmp_path / "moai.toml").write_text(text)
    found = moai.load_project(tmp_path)
    assert found is not None
    return found


def spec_of(**values):
    return {"environment": {"name": "pytorch"}, **values}


def info_of(kind="train", command="train a/b on c/d (lora)"):
    return types.SimpleNamespace(id="swift-otter-7f3a", host="kt", command=command, kind=kind, environment="pytorch")


@pytest.fixture
def training():
    """What a training was asked for, as the contract carries it."""
    spec = training_pb2.TrainingSpec(model="org/model", model_revision="v2", method="lora", max_steps=40, batch_size=4, learning_rate=2e-4)
    spec.dataset.source, spec.dataset.template, spec.dataset.block_size, spec.dataset.sample = "org/data:3.0.0", "summarize", 512, 100
    spec.settings.update({"warmup_steps": "20", "lora": '{"r": 16}', "save_steps": "5", "pack": "true", "validation_fraction": "0.1"})
    spec.gpus = "2"
    return spec


def plan_of(tmp_path, spec, job="one"):
    place = plans.Place(str(tmp_path / job), "/m/main.py", "/usr/bin/python3", "/data", "/data/hf", "https://hub", "/home/u")
    output = "/data/runs/model-" + job
    return {"steps": plans.train_steps(place, spec, output), "output": output}


def inputs(plan):
    """What the steps of a plan are given, less what belongs to one run."""
    return {s["name"]: {k: v for k, v in s["inputs"].items() if k not in ("output", "control", "path", "card")} for s in plan["steps"]}


def test_a_training_repeats_with_every_value(tmp_path, training):
    plan = plan_of(tmp_path, training)
    text = job_toml(info_of(), spec_of(secrets=["HF_TOKEN", "WANDB_API_KEY"], variables={"A": "1"}, accelerator="default"), plan)
    found = project(tmp_path, text)
    assert (found.host, found.environment, found.secrets, found.variables) == ("kt", "pytorch", ["WANDB_API_KEY"], {"A": "1"})
    recipe, settings = merge({}, {}, found)
    again = training_pb2.TrainingSpec(method=recipe["method"].value, max_steps=recipe["max_steps"].value)
    again.model, again.model_revision = recipe["model"].value, recipe["model_revision"].value
    again.batch_size, again.learning_rate = recipe["batch_size"].value, recipe["learning_rate"].value
    again.dataset.source, again.dataset.template = recipe["dataset"].value, recipe["template"].value
    again.dataset.block_size, again.dataset.sample = recipe["block_size"].value, recipe["sample"].value
    again.gpus = recipe["gpus"].value
    from moai._options import setting

    again.settings.update({key: setting(value.value) for key, value in settings.items()})
    theirs, ours = inputs(plan), inputs(plan_of(tmp_path, again))
    lora = theirs["train"].pop("lora")
    assert ours["train"]["settings"].pop("lora.r") == lora["r"] == 16, "a table of the recipe is written with a dot"
    assert ours == theirs


def test_a_command_is_a_comment_to_type_and_the_rest_values(tmp_path):
    steps = [{"name": "command", "argv": ["/bin/bash", "-c", 'source x\nexec "$@"', "sh", "python", "a b.py"], "cwd": "/home/u/p"}]
    spec = spec_of(setup="source x", name="nightly\n", max_duration_seconds=90.0, log_pattern=r"(?P<step>\d+)")
    text = job_toml(info_of("command", "python 'a b.py'\n# evil"), spec, {"steps": steps})
    assert "# moai remote run -- python 'a b.py'\n" in text and "--max-duration 90s" in text
    found = project(tmp_path, text)
    assert (found.setup, found.workdir, found.log.pattern, found.name) == ("source x", "/home/u/p", r"(?P<step>\d+)", "nightly\n")


def test_other_kinds_are_refused_by_name():
    with pytest.raises(moai.AgentError) as caught:
        job_toml(info_of("install"), spec_of(), {"steps": [{"name": "install", "module": "install"}]})
    assert caught.value.reason == "UNSUPPORTED"


def test_values_go_before_tables_and_comments_stay(tmp_path):
    path = tmp_path / "moai.toml"
    path.write_text('# top\nhost = "kt"  # the big one\n\n# what is trained\n[train]\nmodel = "a/b" # mine\n\n[variables]\nX = "1"\n')
    edit = edit_project({"name": "n", "train": {"method": "lora", "settings": {"warmup_steps": 3}}, "variables": {"Y": "2"}}, path)
    assert not edit.replaces and edit.diff and path.read_text() == edit.before, "nothing is written yet"
    edit.write()
    found = moai.load_project(tmp_path)
    assert (found.host, found.name, found.train.model, found.train.method) == ("kt", "n", "a/b", "lora")
    assert found.train.settings == {"warmup_steps": 3} and found.variables == {"X": "1", "Y": "2"}
    text = path.read_text()
    assert all(comment in text for comment in ("# top", "# the big one", "# what is trained", "# mine"))
    assert edit_project({"name": "n"}, path).diff == ""
    assert edit_project({"name": "other"}, path).replaces


def test_a_new_file_and_one_that_would_be_wrong(tmp_path):
    edit = edit_project({"host": "kt", "train": {"model": "a/b"}}, tmp_path / "moai.toml")
    assert edit.before == "" and edit.write().exists()
    with pytest.raises(moai.UsageError) as caught:
        edit_project({"train": {"batch_size": -1}}, tmp_path / "moai.toml")
    assert caught.value.reason == "CONFIG_INVALID"

"""The steps of what follows a training, and what is refused before there is a job."""

import json
import os
from types import SimpleNamespace

import pytest
from moai_agent.errors import AgentError
from moai_agent.jobs import after, plans, submit
from moai_proto.v1 import dataset_pb2, training_pb2


@pytest.fixture
def place(tmp_path):
    return plans.Place(
        job_path=str(tmp_path / "jobs" / "swift-otter-7f3a"), main_py="/payload/worker/main.py", python="/env/bin/python",
        work=str(tmp_path / "work"), hf_home=str(tmp_path / "hf"), endpoint="https://hub.example", cwd=str(tmp_path),
    )  # fmt: skip


def spec(**values):
    made = training_pb2.TrainingSpec(model="org/base", dataset=dataset_pb2.DatasetSpec(source="org/news"), method="lora")
    settings = values.pop("settings", {})
    for name, value in values.items():
        setattr(made, name, value)
    for name, value in settings.items():
        made.settings[name] = value
    return made


def names(steps):
    return [step["name"] for step in steps]


def test_the_right_to_write_is_asked_first_and_the_merged_model_goes(place):
    steps = plans.train_steps(place, spec(upload_repo="me/x", upload_private=True, settings={"merged_output": "true"}), "/out")
    assert names(steps) == [
        "check-upload", "download", "download-dataset", "prepare", "train", "verify", "merge", "verify-merged", "upload",
    ]  # fmt: skip
    by_name = {step["name"]: step for step in steps}
    assert by_name["check-upload"]["inputs"]["check_only"] is True and by_name["check-upload"]["optional_secrets"] == ["HF_TOKEN"]
    assert by_name["upload"]["inputs"]["path"] == "/out/merged" and by_name["upload"]["optional_secrets"] == ["HF_TOKEN"]
    assert by_name["upload"]["inputs"]["private"] is True and by_name["upload"]["inputs"]["base_model"] == "org/base"
    assert "merged_output" not in json.dumps(by_name["train"]["inputs"]["settings"])
    assert "HF_TOKEN" not in by_name["train"]["optional_secrets"] and "WANDB_API_KEY" in by_name["train"]["optional_secrets"]


def test_a_smoke_run_merges_and_asks_but_uploads_nothing(place):
    steps = plans.train_steps(place, spec(upload_repo="me/x", smoke=True, settings={"merged_output": "true"}), "/out")
    assert names(steps)[0] == "check-upload" and names(steps)[-3:] == ["generate", "merge", "verify-merged"]


def test_a_plain_training_is_as_it_was_with_words_for_its_card(place):
    steps = plans.train_steps(place, spec(settings={"eval_steps": "5", "early_stop": "2"}), "/out", {"moai": "0.1.0"})
    assert names(steps) == ["download", "download-dataset", "prepare", "train", "verify"]
    inputs = steps[3]["inputs"]
    assert (inputs["eval_steps"], inputs["early_stop"]) == (5, 2)
    card = inputs["card"]
    assert card["command"] == "moai remote train --model org/base --dataset org/news --method lora --set early_stop=2 --set eval_steps=5"
    assert card["dataset_path"] == {"from": "download-dataset", "key": "path"} and card["moai"] == "0.1.0"


def test_a_merged_full_training_is_refused():
    with pytest.raises(AgentError) as caught:
        submit.check_training(spec(method="full", settings={"merged_output": "true"}))
    assert caught.value.reason == "USAGE" and "--method lora" in caught.value.next


def trained(place, method="lora"):
    """A job as the store shows it."""
    steps = plans.train_steps(place, spec(method=method, settings={"trust_remote_code": "true"}), "/out")
    job = SimpleNamespace(id="calm-fox-12ab", path=place.job_path, control_file=lambda name: os.path.join(place.job_path, name + ".json"))
    os.makedirs(place.job_path)
    for name, path in (("download", "/hub/base"), ("download-dataset", "/hub/news")):
        with open(job.control_file("result-" + name), "w") as file:
            json.dump({"result": {"path": path}}, file)
    return SimpleNamespace(job=job, plan={"steps": steps}, view={"output": "/out"}, spec={"kind": "train"})


def test_a_job_is_measured_on_the_rows_it_was_trained_with(place):
    entry = trained(place)
    [step] = after.evaluate_steps(place, training_pb2.EvaluateRequest(model="calm", rouge=True), "/out", entry)
    inputs, prepare = step["inputs"], entry.plan["steps"][2]["inputs"]
    assert (inputs["model"], inputs["base_model"], inputs["dataset"]) == ("/out", "/hub/base", prepare["output"])
    assert inputs["rouge"]["source"] == "/hub/news" and inputs["trust_remote_code"] is True
    assert inputs["output"] == os.path.join(place.job_path, "evaluation.json")


def test_another_data_set_is_prepared_with_the_jobs_template_and_length(place):
    entry = trained(place)
    entry.plan["steps"][2]["inputs"].update(template="mistral", block_size=512)
    request = training_pb2.EvaluateRequest(model="calm", dataset=dataset_pb2.DatasetSpec(source="org/other"), rouge=True)
    steps = after.evaluate_steps(place, request, "/out", entry)
    assert names(steps) == ["download-dataset", "prepare", "evaluate"]
    assert (steps[1]["inputs"]["template"], steps[1]["inputs"]["block_size"], steps[1]["inputs"]["model"]) == ("mistral", 512, "/hub/base")
    assert steps[2]["inputs"]["dataset"] == {"from": "prepare", "key": "path"}
    assert steps[2]["inputs"]["rouge"]["source"] == {"from": "download-dataset", "key": "path"}


def test_a_hub_model_is_fetched_once_and_a_prepared_folder_has_no_texts(place, tmp_path):
    request = training_pb2.EvaluateRequest(model="org/m", dataset=dataset_pb2.DatasetSpec(source="org/other"))
    steps = after.evaluate_steps(place, request, "org/m", None)
    assert names(steps) == ["download", "download-dataset", "prepare", "evaluate"]
    assert steps[-1]["inputs"]["model"] == {"from": "download", "key": "path"}
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "dataset_dict.json").write_text("{}")
    request = training_pb2.EvaluateRequest(model="org/m", dataset=dataset_pb2.DatasetSpec(source="./set"))
    steps = after.evaluate_steps(place, request, "org/m", None)
    assert names(steps) == ["download", "evaluate"] and steps[1]["inputs"]["dataset"] == str(tmp_path / "set")
    request.rouge = True
    with pytest.raises(AgentError) as caught:
        after.evaluate_steps(place, request, "org/m", None)
    assert caught.value.reason == "USAGE" and "token ids only" in caught.value.message

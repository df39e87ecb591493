"""What a resumed job may change and where it begins, on job folders made by hand."""

import json
import struct
import zipfile

import pytest
from moai_agent.errors import AgentError
from moai_agent.jobs import resume
from moai_agent.jobs.store import Entry
from moai_worker.jobdir import JobDir


def checkpoint(folder, step):
    """A complete checkpoint as the Trainer leaves it."""
    path = folder / ("checkpoint-%d" % step)
    path.mkdir(parents=True)
    header = json.dumps({"w": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\1" * 8)
    for name in ("optimizer.pt", "scheduler.pt"):
        with zipfile.ZipFile(str(path / name), "w") as archive:
            archive.writestr("data.pkl", "x" * 100)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return path


@pytest.fixture
def entry(tmp_path):
    """An ended training with a setting from --set and one of the recipe's own."""
    inputs = {
        "model": {"from": "download", "key": "path"}, "output": str(tmp_path / "out"), "method": "lora", "batch_size": 8,
        "max_steps": 100, "learning_rate": 1e-4, "resume": False, "settings": {"weight_decay": 0.1, "lora.r": 4},
    }  # fmt: skip
    plan = {"steps": [{"name": "train", "module": "train", "inputs": inputs, "argv": ["python", "/x/worker/main.py"]}]}
    return Entry(JobDir(str(tmp_path / "swift-otter")), {}, plan, {})


def look(entry, start_from="", **asked):
    """The four answers."""
    return resume._look(entry, resume._recipe(entry.plan), asked, start_from)


def refused(reason, *arguments, **asked):
    """The AgentError of a look."""
    with pytest.raises(AgentError) as caught:
        look(*arguments, **asked)
    assert caught.value.reason == reason
    return caught.value


def test_the_diff_has_what_differs_only_from_wherever_it_was_set(entry):
    _, changes, _, text = look(entry, learning_rate=2e-4, weight_decay=0.1, warmup_steps=5, gradient_accumulation=2, seed=1)
    assert changes == [
        ("gradient_accumulation", 1, 2), ("learning_rate", 1e-4, 2e-4), ("seed", None, 1), ("warmup_steps", None, 5),
    ]  # fmt: skip
    assert "step 0" in text, "without a checkpoint the seed may change"


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [("batch_size", 4, "batch_size (8 -> 4)"), ("seed", 7, "seed (unset -> 7)"), ("lora.r", 8, "lora.r (4 -> 8)"), ("method", "full", "method (lora -> full)"), ("template", "chat", "template (unset -> chat)")],
)  # fmt: skip
def test_what_the_checkpoint_depends_on_is_refused_with_both_values(entry, tmp_path, name, value, shown):
    checkpoint(tmp_path / "out" / "checkpoints", 10)
    error = refused("CHECKPOINT_MISMATCH", entry, **{name: value})
    assert shown in str(error) and "moai remote again swift-otter" in error.next
    assert ("gradient_accumulation" in error.next) == (name == "batch_size")
    if name in ("batch_size", "seed"):
        look(entry, **{name: value, "resume": False})  # Starting over breaks nothing.


def test_where_it_begins(entry, tmp_path):
    folder = tmp_path / "out" / "checkpoints"
    checkpoint(folder, 10)
    second = checkpoint(folder, 20)
    assert look(entry)[0] is True and "step 20" in look(entry, "latest")[3]
    begin, _, _, text = look(entry, "10")
    assert begin == str(folder / "checkpoint-10") and "step 20 are set aside" in text
    assert look(entry, str(second))[0] == str(second)
    error = refused("CHECKPOINT_NOT_FOUND", entry, "15")
    assert "steps there: 10, 20" in error.next
    (second / "optimizer.pt").unlink()
    error = refused("CHECKPOINT_NOT_FOUND", entry, "20")
    assert "optimizer.pt is missing" in str(error) and "--from 10" in error.next


def test_passes_that_do_not_divide_the_rows_are_refused_with_those_that_do(entry):
    error = refused("USAGE", entry, gradient_accumulation=3)
    assert "1, 2, 4, 8" in error.next


def test_a_job_that_was_told_to_start_over_goes_on_when_resumed(entry, tmp_path):
    checkpoint(tmp_path / "out" / "checkpoints", 10)
    begin = look(entry)[0]
    inputs = json.loads(json.dumps(entry.plan["steps"][0]["inputs"]))
    resume._change(inputs, {"resume": begin, "lora.r": 4, "learning_rate": 1.0, "eval_steps": 3})
    assert inputs["resume"] is True and inputs["learning_rate"] == 1.0
    assert inputs["settings"] == {"weight_decay": 0.1, "lora.r": 4, "eval_steps": 3}


def test_a_command_has_no_settings_and_no_checkpoints_and_says_that_it_starts_again(tmp_path):
    plan = {"steps": [{"name": "train", "argv": ["python", "train.py"], "secrets": ["WANDB_API_KEY"]}]}
    entry = Entry(JobDir(str(tmp_path / "swift-otter")), {}, plan, {})
    assert "started again" in look(entry)[3]
    assert "--set lr" in str(refused("UNSUPPORTED", entry, lr=1))
    assert "--from 3" in str(refused("UNSUPPORTED", entry, "3"))

"""Parts of a result pulled by name, and TensorBoard's files as they grow; over the agent on this machine."""

import json
import os

import moai
import pytest
from moai._tensorboard import EventFiles


@pytest.fixture
def result(tmp_path):
    """A folder as a training leaves it, checkpoint-9 being written."""
    folder = tmp_path / "there" / "run"
    for name in (
        "adapter_model.safetensors", "README.md", "merged/model.safetensors", "tensorboard/events.out.tfevents.1",
        "checkpoints/checkpoint-2/model.safetensors", "checkpoints/checkpoint-2/moai-checkpoint.json",
        "checkpoints/checkpoint-10/model.safetensors", "checkpoints/checkpoint-10/moai-checkpoint.json",
        "checkpoints/checkpoint-11/model.safetensors", "checkpoints-before-1/checkpoint-99/moai-checkpoint.json",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


PARTS = {
    "adapter": ["README.md", "adapter_model.safetensors"],
    "final": ["README.md", "adapter_model.safetensors", "merged/model.safetensors"],
    "checkpoint": ["checkpoints/checkpoint-10/moai-checkpoint.json", "checkpoints/checkpoint-10/model.safetensors"],
    "README*": ["README.md"],
}


def test_a_part_of_a_result_is_pulled_and_the_rest_is_told(local, result, tmp_path):
    everything = files_below(result)
    for at, (only, expected) in enumerate(PARTS.items()):
        here = tmp_path / f"here{at}"
        done = local.moai("remote", "pull", str(result), str(here), "--only", only, "--on", "local", "--json")
        assert done.returncode == 0, done.stderr.decode()
        told = json.loads(done.stdout)
        assert files_below(here / "run") == expected and told["files"] == len(expected)
        assert told["left_out"]["files"] == len(everything) - len(expected)
        assert told["left_out"]["bytes"] == sum(os.path.getsize(result / n) for n in everything if n not in expected)
        for name in expected:
            assert (here / "run" / name).read_text() == name


def test_without_a_complete_checkpoint_nothing_is_pulled(local, result, tmp_path):
    for mark in (result / "checkpoints").glob("*/moai-checkpoint.json"):
        mark.unlink()
    done = local.moai("remote", "pull", str(result), str(tmp_path / "here"), "--only", "checkpoint", "--on", "local")
    assert done.returncode == 1 and b"FILE_NOT_FOUND" in done.stderr
    shown = local.moai("remote", "pull", str(result), str(tmp_path / "here"), "--only", "final", "--on", "local")
    assert b"left out by --only final: " in shown.stderr and b"checkpoints-before-1/checkpoint-99" in shown.stderr


def test_event_files_grow_by_what_is_new(local, tmp_path):
    there = tmp_path / "run" / "tensorboard"
    with moai.connect("local") as host:
        files = EventFiles(host.session, str(there), "swift-otter-7f3a")
        with pytest.raises(moai.NotFound) as caught:
            files.pull()
        assert "report_to=tensorboard" in caught.value.next
        (there / "train").mkdir(parents=True)
        source = there / "train" / "events.out.tfevents.1"
        source.write_bytes(b"a" * 1000)
        (there / "hparams.txt").write_text("not an event file")
        assert files.pull() == 1000 and files.pull() == 0
        with open(source, "ab") as out:
            out.write(b"b" * 10)
        assert files.pull() == 10
        copy = files.folder / "train" / "events.out.tfevents.1"
        assert copy.read_bytes() == source.read_bytes() and files_below(files.folder) == ["train/events.out.tfevents.1"]
        source.write_bytes(b"new")
        assert files.pull() == 3 and copy.read_bytes() == b"new"
        copy.unlink()
        copy.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(moai.UsageError):
            files.pull()
        assert not (tmp_path / "elsewhere").exists()

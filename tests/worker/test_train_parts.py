"""The parts of the training recipe that need no torch: settings, checkpoints on disk, the watch.

They run on any Python; the runs with real steps are in test_train.py.
"""

import json
import math
import os
import struct
import sys
import zipfile
from pathlib import Path

import pytest
from moai_worker import callbacks, checkpoints, compat
from moai_worker.errors import StepError
from moai_worker.train_settings import TrainSettings, refuse_unknown


class Recorder:
    """Keeps what a step reports."""

    def __init__(self):
        self.seen = []

    def __getattr__(self, name):
        return lambda *args, **data: self.seen.append((name, args, data))

    def of(self, name):
        return [entry[1:] for entry in self.seen if entry[0] == name]


def settings(**inputs):
    return TrainSettings(dict({"model": "/m", "dataset": "/d", "output": "/o"}, **inputs))


# --- settings -------------------------------------------------------------------------------------


def test_settings_given_as_text_become_values_and_own_names_are_inputs():
    asked = {
        "learning_rate": "2e-4",
        "lora.r": "4",
        "weight_decay": "0.1",
        "scheduler": "cosine",
        "bf16": "False",
    }
    read = settings(method="lora", settings=asked)
    assert (read.learning_rate, read.lora["r"], read.scheduler, read.bf16) == (2e-4, 4, "cosine", False)
    assert read.extra == {"weight_decay": 0.1}


@pytest.mark.parametrize(
    ("inputs", "in_message", "in_next"),
    [
        ({"method": "qlora"}, "qlora", "lora"),
        ({"batch_size": 0}, "batch_size", "at least 1"),
        ({"max_steps": 2.5}, "2.5", "whole number"),
        ({"seed": True}, "seed", "whole number"),
        ({"settings": {"per_device_train_batch_size": 4}}, "per_device_train_batch_size", "batch_size"),
        ({"lora": {"rank": 4}}, "rank", "alpha"),
        ({"model": ""}, "model", "folder"),
    ],
)
def test_a_wrong_setting_is_a_usage_error_that_names_it(inputs, in_message, in_next):
    with pytest.raises(StepError) as caught:
        settings(**inputs)
    assert caught.value.reason == "USAGE"
    assert in_message in caught.value.message and in_next in caught.value.next


def test_an_unknown_setting_is_refused_with_the_nearest_names():
    with pytest.raises(StepError) as caught:
        refuse_unknown(["weigth_decay"], ["weight_decay", "optim"], "transformers 9")
    assert caught.value.reason == "USAGE" and "weight_decay" in caught.value.next


def test_a_batch_that_cannot_be_shared_is_refused_with_numbers():
    read = settings(batch_size=6, gradient_accumulation=2)
    assert read.micro_batch(1) == 3
    with pytest.raises(StepError) as caught:
        read.micro_batch(2)
    assert caught.value.reason == "USAGE" and "multiple of 4" in caught.value.next


# --- one process, one device ----------------------------------------------------------------------


@pytest.mark.parametrize(("named", "left"), [("2,3", "2"), ("1", "1")])
def test_one_process_uses_one_cuda_device_and_says_so(monkeypatch, named, left):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "0")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    report = Recorder()
    compat.prepare_process(report)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == left
    assert len(report.of("message")) == (1 if named != left else 0)


def test_a_launcher_keeps_its_devices(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    compat.prepare_process(Recorder())
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("Error Code 4: OUT_OF_MEMORY\n>> Memory requested : 9 bytes"), "DEVICE_OUT_OF_MEMORY"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "DEVICE_OUT_OF_MEMORY"),
        (OSError(28, "No space left on device"), "DISK_FULL"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0"), "DISK_FULL"),
        (ModuleNotFoundError("No module named 'jinja2'", name="jinja2"), "PACKAGE_MISSING"),
        (RuntimeError("something else"), "TRAINING_FAILED"),
    ],
)
def test_a_librarys_error_becomes_the_reason_a_person_can_act_on(error, reason):
    failure = compat.failure(error, "training at step 3", "TRAINING_FAILED", "look")
    assert failure.reason == reason and "step 3" in failure.message and failure.next


def test_a_missing_package_is_named_with_the_python_that_lacks_it():
    with pytest.raises(StepError) as caught:
        compat.require(("json", "no_such_package"))
    assert caught.value.reason == "PACKAGE_MISSING"
    assert sys.executable in caught.value.message and caught.value.next == "moai remote env install --env {} no_such_package".format(
        sys.executable
    )


# --- checkpoints on disk --------------------------------------------------------------------------


def safetensors(path: Path, size: int = 64) -> None:
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\1" * size)


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / "checkpoint-{}".format(step)
    path.mkdir(parents=True)
    safetensors(path / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt"):
        with zipfile.ZipFile(str(path / name), "w") as archive:
            archive.writestr("data.pkl", "x" * 100)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("name", ["trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt"])
@pytest.mark.parametrize("damage", [Path.unlink, cut])
def test_a_checkpoint_with_a_missing_or_cut_file_is_not_chosen(tmp_path, name, damage):
    good = checkpoint(tmp_path, 2)
    damage(checkpoint(tmp_path, 4) / name)
    chosen, rejected = checkpoints.newest_complete(str(tmp_path))
    assert chosen == checkpoints.Checkpoint(2, str(good))
    assert [item.step for item, _ in rejected] == [4] and rejected[0][1]


def test_a_sealed_checkpoint_that_lost_bytes_later_is_not_chosen(tmp_path):
    path = checkpoint(tmp_path, 2)
    (path / "rng_state.pth").write_bytes(b"12345")
    checkpoints.seal(str(path), 2, {"seed": 1})
    assert checkpoints.newest_complete(str(tmp_path))[0].step == 2
    (path / "rng_state.pth").write_bytes(b"123")
    assert checkpoints.newest_complete(str(tmp_path))[0] is None


def test_every_shard_an_index_names_must_be_there(tmp_path):
    safetensors(tmp_path / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert "model-00002-of-00002.safetensors is missing" in checkpoints.weights_problem(str(tmp_path))
    (tmp_path / names["b"]).write_bytes(b"")
    assert "empty" in checkpoints.weights_problem(str(tmp_path))
    safetensors(tmp_path / names["b"])
    assert checkpoints.weights_problem(str(tmp_path)) == ""


def test_rotation_keeps_the_newest_complete_ones_and_the_protected_one(tmp_path):
    paths = [checkpoint(tmp_path, step) for step in (1, 2, 10, 20)]
    (paths[3] / "trainer_state.json").unlink()
    removed = checkpoints.rotate(str(tmp_path), 1, protect=str(paths[0]))
    assert removed == [str(paths[1])]
    assert [item.step for item in checkpoints.list_checkpoints(str(tmp_path))] == [1, 10, 20]


# --- between two steps ----------------------------------------------------------------------------


class Flags:
    """Stands in for TrainerControl and TrainerState."""

    def __init__(self, **values):
        self.should_save = self.should_log = self.should_evaluate = self.should_training_stop = False
        self.__dict__.update(values)


def watch_of(room=(10**9,), **inputs):
    clock = [100.0]
    watch = callbacks.StepWatch(
        Recorder(), 10, 50.0, settings(batch_size=4, **inputs), {"seed": 1}, clock=lambda: clock[0],
        sizes=(300, 100), free=lambda path: room[0],
    )  # fmt: skip
    return watch, clock


def test_throughput_is_tokens_between_step_lines_over_the_wall_clock(capsys):
    watch, clock = watch_of(save_minutes=0)
    watch.on_train_begin(None, Flags(global_step=0), Flags())
    for step, seconds in ((1, 60.0), (3, 8.0)):
        clock[0] += seconds
        watch.step = step
        watch.on_log(None, Flags(global_step=step), Flags(), logs={"loss": 2.0, "learning_rate": 1e-5})
    values = [args[1] for args, _ in watch.report.of("metric")]
    assert values[0]["tokens_per_second"] == pytest.approx(4 * 50 / 60.0, abs=0.01)
    assert values[1]["tokens_per_second"] == 2 * 4 * 50 / 8.0
    assert values[1]["step_seconds"] == 4.0
    # The first window (attach, compile) does not spoil the estimate: 7 steps of 4 s are left.
    args = watch.report.of("progress")[-1][0]
    assert args[:3] == (3, 10, "steps") and args[4] == 28.0
    assert "step 3/10" in capsys.readouterr().out


def test_a_loss_that_is_not_a_number_stops_before_it_is_saved():
    watch, _ = watch_of(save_steps=1)
    control = Flags(should_save=True, should_evaluate=True)
    watch.on_log(None, Flags(global_step=3), control, logs={"loss": math.nan})
    assert control.should_training_stop and not control.should_save and not control.should_evaluate
    assert watch.bad_loss[0] == 3


def test_without_save_steps_a_checkpoint_is_made_by_the_clock():
    watch, clock = watch_of()
    watch.on_train_begin(None, Flags(global_step=0), Flags())
    early, late = Flags(), Flags()
    clock[0] += 29 * 60
    watch.on_step_end(None, Flags(global_step=1), early)
    clock[0] += 2 * 60
    watch.on_step_end(None, Flags(global_step=2), late)
    assert not early.should_save and late.should_save and late.should_log


def test_before_each_checkpoint_the_disk_is_asked_and_the_next_one_is_tried(tmp_path):
    """Room for a checkpoint is not enough: the result has to fit behind it."""
    room = [399]
    watch, _ = watch_of(room, save_steps=2, control=str(tmp_path))
    (tmp_path / "checkpoint.json").write_text("{}")
    full, enough = Flags(), Flags()
    watch.on_step_end(None, Flags(global_step=2), full)
    assert not full.should_save and (tmp_path / "checkpoint.json.done").exists()
    said = watch.report.of("message")[0]
    assert said[1]["code"] == "DISK_FULL" and said[1]["level"] == "warning" and "step 2" in said[0][0]
    room[0] = 400
    watch.on_step_end(None, Flags(global_step=4), enough)
    assert enough.should_save and len(watch.report.of("message")) == 1
    # What a checkpoint really took is what the next one is taken to need.
    checkpoint(tmp_path / "run", 4)
    watch.on_save(Flags(output_dir=str(tmp_path / "run")), Flags(global_step=4), enough)
    later = Flags()
    watch.on_step_end(None, Flags(global_step=6), later)
    assert not later.should_save


def test_a_stop_without_room_for_a_checkpoint_still_stops(tmp_path):
    watch, _ = watch_of([0], save_minutes=0, control=str(tmp_path))
    (tmp_path / "stop.json").write_text("{}")
    control = Flags()
    watch.on_step_end(None, Flags(global_step=4), control)
    assert control.should_training_stop and not control.should_save and watch.stopped


@pytest.mark.parametrize(("batch", "parts", "processes", "finer"), [(8, 1, 1, 2), (8, 2, 1, 4), (6, 2, 1, 3), (8, 8, 1, None), (8, 1, 2, 2), (7, 1, 1, 7)])
def test_smaller_passes_over_the_same_rows(batch, parts, processes, finer):
    read = settings(batch_size=batch, gradient_accumulation=parts)
    assert read.finer(processes) == finer
    if finer:
        settings(batch_size=batch, gradient_accumulation=finer).micro_batch(processes)


def test_an_early_checkpoint_that_recorded_its_passes_is_still_this_runs(tmp_path):
    path = checkpoint(tmp_path, 2)
    checkpoints.seal(str(path), 2, {"seed": 1, "gradient_accumulation": 1})
    assert checkpoints.differences(str(path), {"seed": 1}) == []
    assert checkpoints.differences(str(path), {"seed": 2}) == ["seed: 1 there, 2 here"]


def test_the_rows_of_a_pass_are_written_into_a_sealed_checkpoint_that_stays_whole(tmp_path):
    path = checkpoint(tmp_path, 2)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": 2, "train_batch_size": 8}))
    checkpoints.seal(str(path), 2, {})
    assert checkpoints.adapt_batch(str(path), 16) and not checkpoints.adapt_batch(str(path), 16)
    assert checkpoints.newest_complete(str(tmp_path))[0].step == 2
    assert json.loads((path / "trainer_state.json").read_text()) == {"global_step": 2, "train_batch_size": 16}


def test_a_request_is_consumed_only_when_its_checkpoint_is_complete(tmp_path):
    watch, _ = watch_of(save_minutes=0, control=str(tmp_path))
    request = tmp_path / "checkpoint.json"
    request.write_text("{}")
    control = Flags()
    watch.on_step_end(None, Flags(global_step=4), control)
    assert control.should_save and request.exists()
    path = checkpoint(tmp_path / "run", 4)
    watch.on_save(Flags(output_dir=str(tmp_path / "run")), Flags(global_step=4), control)
    assert not request.exists() and (tmp_path / "checkpoint.json.done").exists()
    assert (path / checkpoints.MARK).exists()
    assert [data["code"] for _, data in watch.report.of("message")] == ["CHECKPOINT_SAVED"]


def asked(folder, name, value):
    (folder / (name + ".json")).write_text(json.dumps(value))


def test_what_cannot_be_done_is_said_and_not_asked_again(tmp_path):
    watch, _ = watch_of(save_minutes=0, control=str(tmp_path))
    asked(tmp_path, "evaluate", {})
    asked(tmp_path, "log-interval", {"value": 0})
    control = Flags()
    watch.on_step_end(Flags(), Flags(global_step=4), control)
    assert not control.should_evaluate and not control.should_save
    said = [(data["code"], data["signal"]) for _, data in watch.report.of("message")]
    assert said == [("UNSUPPORTED", "evaluate"), ("UNSUPPORTED", "log-interval")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluate.json.done", "log-interval.json.done"]


def test_all_ranks_take_the_new_log_interval_and_a_later_try_keeps_it(tmp_path):
    sent = []
    first, _ = watch_of(save_minutes=0, control=str(tmp_path))
    first.agree = lambda value: sent.append(value) or value
    asked(tmp_path, "log-interval", {"value": 25})
    first.on_step_end(Flags(), Flags(global_step=4), Flags())
    other, _ = watch_of(save_minutes=0)
    other.leader, other.agree = False, lambda value: sent[-1]
    args, state = Flags(), Flags(global_step=4)
    other.on_step_end(args, state, Flags())
    assert (args.logging_steps, state.logging_steps) == (25, 25) and not other.report.of("message")
    later, _ = watch_of(save_minutes=0, control=str(tmp_path))
    args, state = Flags(), Flags(global_step=4)
    later.on_train_begin(args, state, Flags())
    assert (args.logging_steps, state.logging_steps) == (25, 25)

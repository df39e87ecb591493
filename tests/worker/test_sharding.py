"""One copy a device or one over all: what decides, and what the Trainer is told."""

import sys
import types

import pytest
from moai_worker import checkpoints, compat, sharding
from moai_worker.errors import StepError


class Recorder:
    def __init__(self):
        self.said = []

    def message(self, text, **more):
        self.said.append((text, more))


@pytest.fixture
def devices(monkeypatch, tmp_path):
    """Two processes of torchrun on devices of 80 GB, and a bf16 model of 1 MB of weights."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(compat, "has_moreh", lambda: False)
    monkeypatch.setattr(compat, "accelerator_available", lambda device: device != "cpu")
    cuda = types.SimpleNamespace(
        current_device=lambda: 0, get_device_properties=lambda index: types.SimpleNamespace(total_memory=80e9)
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    (tmp_path / "model.safetensors").write_bytes(b"")
    return str(tmp_path)


def sparse(folder, size):
    with open(folder + "/model.safetensors", "r+b") as out:
        out.truncate(size)


@pytest.mark.parametrize(
    ("parameters", "wanted", "method", "device", "sharded"),
    [
        (1e9, "auto", "full", None, False),  # 16 GB of state
        (8e9, "auto", "full", None, True),  # 128 GB
        (8e9, "auto", "lora", None, False),
        (8e9, "ddp", "full", None, False),
        (1e9, "fsdp", "full", None, True),
        (8e9, "fsdp", "full", "cpu", False),
    ],
)
def test_the_models_state_against_a_devices_memory_decides(devices, parameters, wanted, method, device, sharded):
    sparse(devices, int(2 * parameters))
    report = Recorder()
    assert sharding.is_sharded(wanted, method, devices, {"torch_dtype": "bfloat16"}, device, report) is sharded
    if sharded and wanted == "auto":
        assert "128 GB" in report.said[0][0] and report.said[0][1]["code"] == "SHARDED"


def test_without_torchrun_nothing_is_spread(devices, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE")
    sparse(devices, int(16e9))
    assert not sharding.is_sharded("auto", "full", devices, {"torch_dtype": "bfloat16"}, None, Recorder())


def test_another_word_is_refused():
    with pytest.raises(StepError, match="'zero'"):
        sharding.check("zero")


@pytest.mark.parametrize(("version", "fsdp"), [((4, 41, 2), "full_shard auto_wrap"), ((5, 24, 0), True)])
def test_the_installed_trainer_is_told_in_its_own_words(monkeypatch, version, fsdp):
    monkeypatch.setattr(compat, "version_of", lambda name: version)
    told = sharding.arguments()
    assert told["fsdp"] == fsdp and told["fsdp_config"]["state_dict_type"] == "FULL_STATE_DICT"


def test_a_checkpoint_with_the_whole_state_under_fsdps_names_is_complete(tmp_path):
    import zipfile

    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    (folder / "trainer_state.json").write_text('{"global_step": 2}')
    for name in ("optimizer.bin", "scheduler.pt", "model.safetensors"):
        with zipfile.ZipFile(str(folder / name), "w") as out:
            out.writestr("data", "x")
    header = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    assert checkpoints.why_incomplete(str(folder)) == ""
    (folder / "optimizer.bin").write_bytes(b"cut")
    assert checkpoints.why_incomplete(str(folder)) == "optimizer.bin is cut off"

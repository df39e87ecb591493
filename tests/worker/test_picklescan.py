"""Weights in pickle format: what would run is told before anything is loaded, and honest files pass."""

import io
import json
import os
import pickle
import subprocess
import zipfile

import pytest
from fakes import tinymodel
from moai_worker import picklescan
from moai_worker.torchfile import pickle_chunks


class Fires(object):
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path, how=os.mkdir):
        self.path, self.how = str(path), how

    def __reduce__(self):
        return self.how, (self.path,)


def archive(path, data, name="archive/data.pkl", **more):
    with zipfile.ZipFile(str(path), "w") as out:
        out.writestr(name, data)
        for other, raw in more.items():
            out.writestr(other + "/data.pkl", raw)
    return str(path)


HONEST = b"".join(pickle_chunks([("train", 2)], 8, True))


def test_honest_weights_pass(tmp_path):
    assert picklescan.problem(archive(tmp_path / "pytorch_model.bin", HONEST)) == ""


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_what_would_run_is_told_and_does_not_run(tmp_path, protocol):
    fired = tmp_path / "fired"
    evil = pickle.dumps({"weight": Fires(fired)}, protocol=protocol)
    pickle.loads(pickle.dumps(Fires(tmp_path / "proof"), protocol=protocol))
    assert (tmp_path / "proof").exists(), "the canary works"
    cases = [
        archive(tmp_path / "a.bin", evil), archive(tmp_path / "b.bin", HONEST, other=evil), archive(tmp_path / "c.bin", HONEST, **{"archive/x": evil}),
    ]  # fmt: skip
    for name, raw in (("d.bin", evil), ("e.bin", pickle.dumps(1, 2) + evil), ("f.bin", b"".join([pickle.dumps(1, 2)] * 4) + evil)):
        (tmp_path / name).write_bytes(raw)
        cases.append(str(tmp_path / name))
    for path in cases:
        found = picklescan.problem(path)
        assert found, path
        assert protocol > 3 or "mkdir" in found, found
    assert not fired.exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"not a pickle", b"\x80\x02}q\x00.", HONEST[:-20], b"cos\nsystem\n", b"\x80\x02(S'x'\nios\nsystem\n.", b"\x80\x02\x82\x01.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.", b"\x80\x02ctorch\nload\n.", b"\x80\x02ctorch.hub\nload\n.", b"\x80\x02c__builtin__\neval\n.",
        b"\x80\x02cbuiltins\ngetattr\n.", b"\x80\x02ccollections\nOrderedDict.__init__\n.", b"\x80\x02c torch\n FloatStorage\n.", b"G" * 100,
    ],
)  # fmt: skip
def test_what_is_no_plain_state_of_a_model_is_refused(tmp_path, raw):
    (tmp_path / "x.bin").write_bytes(raw)
    assert picklescan.problem(str(tmp_path / "x.bin"))
    if raw != b"\x80\x02}q\x00.":
        assert picklescan.problem(archive(tmp_path / "y.bin", raw))
    assert picklescan.problem(str(tmp_path)) and picklescan.problem(str(tmp_path / "gone"))


def test_two_entries_of_one_name_are_refused(tmp_path):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as out:
        out.writestr("archive/data.pkl", HONEST)
        with pytest.warns(UserWarning):
            out.writestr("archive/data.pkl", HONEST)
    (tmp_path / "x.bin").write_bytes(raw.getvalue())
    assert "two entries" in picklescan.problem(str(tmp_path / "x.bin"))


def test_of_a_folder_what_a_library_would_open_is_asked(tmp_path):
    covers = ("model.safetensors",)
    evil = pickle.dumps(Fires(tmp_path / "fired"), protocol=2)
    archive(tmp_path / "pytorch_model.bin", HONEST)
    (tmp_path / "training_args.bin").write_bytes(evil)  # Lies in many repositories; nobody loads it.
    assert picklescan.folder_problem(str(tmp_path), covers) == ""
    (tmp_path / "other.bin").write_bytes(evil)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"w": "other.bin"}}))
    assert "other.bin" in picklescan.folder_problem(str(tmp_path), covers)
    (tmp_path / "decoy.safetensors").write_bytes(b"")
    assert picklescan.folder_problem(str(tmp_path), covers)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert picklescan.folder_problem(str(tmp_path), covers) == ""
    assert not (tmp_path / "fired").exists()


WITH_TORCH = r"""
import collections, os, pickle, shutil, sys
sys.path.insert(0, sys.argv[1])
folder = sys.argv[2]
import torch
from moai_worker import modelfiles, picklescan
from moai_worker.errors import StepError
state = collections.OrderedDict(a=torch.zeros(3), b=torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)), c=torch.arange(4), d=torch.tensor(True))
for name, more in (("new.bin", {}), ("old.bin", {"_use_new_zipfile_serialization": False})):
    torch.save(state, os.path.join(folder, name), **more)
    assert picklescan.problem(os.path.join(folder, name)) == "", picklescan.problem(os.path.join(folder, name))
model = os.path.join(folder, "model")
loaded = modelfiles.load_model(model, torch.float32)
os.unlink(os.path.join(model, "model.safetensors"))
torch.save(loaded.state_dict(), os.path.join(model, "pytorch_model.bin"))
modelfiles.load_model(model, torch.float32)
class Fires:
    def __reduce__(self):
        return os.mkdir, (os.path.join(folder, "fired"),)
for more in ({}, {"_use_new_zipfile_serialization": False}):
    torch.save(dict(loaded.state_dict(), x=Fires()), os.path.join(model, "pytorch_model.bin"), **more)
    try:
        modelfiles.load_model(model, torch.float32)
    except StepError as error:
        assert error.reason == "MODEL_INVALID" and "mkdir" in error.message and error.next, error.message
    else:
        raise SystemExit("it was loaded")
assert not os.path.exists(os.path.join(folder, "fired"))
print("ok")
"""


def test_files_of_the_real_torch_pass_and_a_canary_never_fires(tmp_path):
    python = tinymodel.train_python()
    if python is None:
        pytest.skip("no train environment: set MOAI_TRAIN_PYTHON or make .venv-train")
    tinymodel.build(tmp_path / "model", python, vocab_size=600, hidden=32, max_length=128)
    agent = os.path.dirname(os.path.dirname(picklescan.__file__))
    done = subprocess.run([str(python), "-c", WITH_TORCH, agent, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=240)
    assert done.returncode == 0 and done.stdout.endswith(b"ok\n"), done.stderr.decode()[-3000:]

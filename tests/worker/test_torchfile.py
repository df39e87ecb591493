"""The streamed ``.pt``: its bytes on any Python, and torch itself where an environment has it."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from array import array
from collections import OrderedDict

import pytest
from fakes import tinymodel
from moai_worker import torchfile
from moai_worker.torchfile import TorchFileWriter, pickle_chunks

_TORCH_TIMEOUT_S = 120


class _Storage:
    def __init__(self, key, count):
        self.key, self.count = key, count


class _Reader(pickle.Unpickler):
    """Stands in for torch: a tensor becomes (storage key, its length, offset, size, stride, hooks)."""

    def find_class(self, module, name):
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("collections", "OrderedDict"): OrderedDict,
            ("torch", "LongStorage"): "int64",
        }
        return known[(module, name)]

    def persistent_load(self, pid):
        word, kind, key, location, count = pid
        assert (word, kind, location) == ("storage", "int64", "cpu")
        return _Storage(key, count)

    @staticmethod
    def _tensor(storage, offset, size, stride, requires_grad, hooks):
        assert requires_grad is False and hooks == OrderedDict() and type(hooks) is OrderedDict
        return (storage.key, storage.count, offset, size, stride, hooks)


def _rows(count, length, start=0):
    return [[start + length * row + i for i in range(length)] for row in range(count)]


def _write(path, splits, length, mask=False):
    with TorchFileWriter(str(path), length, mask) as writer:
        for name, rows in splits.items():
            writer.begin_split(name)
            writer.write_rows(rows, [[1] * length for _ in rows] if mask else None)
            assert writer.end_split() == len(rows)
    return path


def _read(path):
    """The structure as plain lists, read with the standard library alone."""
    with zipfile.ZipFile(str(path)) as archive:
        assert archive.testzip() is None
        with archive.open("archive/data.pkl") as file:
            tree = _Reader(file).load()
        read = {}
        for name, rows in tree.items():
            read[name] = []
            for row in rows:
                values = {}
                for column, (key, count, offset, size, stride, _) in row.items():
                    data = array("q", archive.read("archive/data/" + key))
                    assert len(data) == count and stride == (1,)
                    values[column] = data[offset : offset + size[0]].tolist()
                read[name].append(values)
        return read


def test_rows_come_back_as_written(tmp_path):
    splits = {"train": _rows(5, 4), "validation": _rows(2, 4, 1000), "empty": []}
    read = _read(_write(tmp_path / "x.pt", splits, 4))
    assert read == {name: [{"input_ids": row} for row in rows] for name, rows in splits.items()}


def test_masks_stand_beside_their_ids(tmp_path):
    with TorchFileWriter(str(tmp_path / "x.pt"), 3, attention_mask=True) as writer:
        writer.begin_split("train")
        writer.write_rows([[7, 8, 0], [9, 0, 0]], [[1, 1, 0], [1, 0, 0]])
    assert _read(tmp_path / "x.pt")["train"] == [
        {"input_ids": [7, 8, 0], "attention_mask": [1, 1, 0]},
        {"input_ids": [9, 0, 0], "attention_mask": [1, 0, 0]},
    ]


def test_lists_arrays_and_joined_buffers_are_the_same_rows(tmp_path):
    rows = _rows(6, 5)
    joined = array("q", sum(rows, []))
    forms = {
        "list": rows,
        "arrays": (array("q", row) for row in rows),
        "bytes": [array("q", row).tobytes() for row in rows],
        "joined array": joined,
        "joined bytes": joined.tobytes(),
        "joined pieces": [joined.tobytes()[:80], memoryview(joined.tobytes())[80:]],
    }
    with TorchFileWriter(str(tmp_path / "x.pt"), 5) as writer:
        for name, form in forms.items():
            writer.begin_split(name)
            assert writer.write_rows(form) == 6
            writer.end_split()
    read = _read(tmp_path / "x.pt")
    assert all(read[name] == [{"input_ids": row} for row in rows] for name in forms)


def test_storages_are_stored_and_aligned_for_memory_mapping(tmp_path):
    path = _write(
        tmp_path / "x.pt", {"train": _rows(3, 7), "validation": _rows(1, 7), "test": _rows(2, 7)}, 7
    )
    with zipfile.ZipFile(str(path)) as archive, open(str(path), "rb") as raw:
        names = archive.namelist()
        assert archive.read("archive/version") == b"3\n"
        assert archive.read("archive/byteorder").decode() == sys.byteorder
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            raw.seek(info.header_offset + 26)
            name_length, extra_length = struct.unpack("<HH", raw.read(4))
            assert (info.header_offset + 30 + name_length + extra_length) % 64 == 0, info.filename
    assert sorted(names) == sorted(
        [
            "archive/data/0",
            "archive/data/1",
            "archive/data/2",
            "archive/data.pkl",
            "archive/byteorder",
            "archive/version",
        ]
    )


def test_every_tensor_has_hooks_of_its_own(tmp_path):
    path = _write(tmp_path / "x.pt", {"train": _rows(3, 2)}, 2)
    with zipfile.ZipFile(str(path)) as archive:
        with archive.open("archive/data.pkl") as file:
            rows = _Reader(file).load()["train"]
    hooks = [row["input_ids"][5] for row in rows]
    assert len(hooks) == 3 and len({id(each) for each in hooks}) == 3


def test_equal_rows_make_equal_bytes(tmp_path):
    first = _write(tmp_path / "a.pt", {"train": _rows(9, 3)}, 3).read_bytes()
    assert first == _write(tmp_path / "b.pt", {"train": _rows(9, 3)}, 3).read_bytes()


def test_offsets_beyond_two_to_the_31_are_exact():
    length = 1 << 30
    tree = _Reader(io.BytesIO(b"".join(pickle_chunks([("train", 5)], length, False)))).load()
    assert [row["input_ids"][2] for row in tree["train"]] == [i * length for i in range(5)]
    assert tree["train"][0]["input_ids"][1] == 5 * length


def test_the_pickle_is_made_in_small_chunks():
    chunks = [len(chunk) for chunk in pickle_chunks([("train", 20000)], 1024, True)]
    assert max(chunks) < 512 * 1024 and sum(chunks) < 20000 * 80


def test_big_files_use_zip64(tmp_path, monkeypatch):
    plain = _write(tmp_path / "plain.pt", {"train": _rows(40, 8), "validation": _rows(3, 8)}, 8)
    monkeypatch.setattr(torchfile, "_ZIP64_FROM", 1000)
    wide = _write(tmp_path / "wide.pt", {"train": _rows(40, 8), "validation": _rows(3, 8)}, 8)
    assert b"PK\x06\x06" in wide.read_bytes() and b"PK\x06\x06" not in plain.read_bytes()
    assert _read(wide) == _read(plain)


@pytest.mark.parametrize("earlier", [None, b"the file before"])
def test_an_error_leaves_what_was_there_before(tmp_path, earlier):
    path = tmp_path / "x.pt"
    if earlier:
        path.write_bytes(earlier)
    with pytest.raises(KeyError):
        with TorchFileWriter(str(path), 2) as writer:
            writer.begin_split("train")
            writer.write_rows([[1, 2]])
            assert len(os.listdir(str(tmp_path))) == (2 if earlier else 1)
            raise KeyError("stop")
    assert os.listdir(str(tmp_path)) == (["x.pt"] if earlier else [])
    assert not earlier or path.read_bytes() == earlier


def test_a_full_disk_at_the_end_leaves_nothing(tmp_path, monkeypatch):
    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torchfile.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        _write(tmp_path / "x.pt", {"train": _rows(2, 2)}, 2)
    assert os.listdir(str(tmp_path)) == []


def test_rows_of_another_length_and_missing_masks_are_refused(tmp_path):
    writer = TorchFileWriter(str(tmp_path / "x.pt"), 3, attention_mask=True)
    writer.begin_split("train")
    with pytest.raises(ValueError, match="whole number of rows of 3"):
        writer.write_rows([[1, 2]], [[1, 1]])
    with pytest.raises(ValueError, match="as many masks as rows"):
        writer.write_rows([[1, 2, 3], [4, 5, 6]], [[1, 1, 1]])
    with pytest.raises(ValueError, match="attention_mask"):
        writer.write_rows([[1, 2, 3]])
    with pytest.raises(ValueError, match="not ended"):
        writer.begin_split("validation")
    writer.end_split()
    with pytest.raises(ValueError, match="written before"):
        writer.begin_split("train")
    with pytest.raises(ValueError, match="no split is open"):
        writer.write_rows([[1, 2, 3]], [[1, 1, 1]])
    writer.abort()


# --- torch itself ---------------------------------------------------------------------------------

_LOOK = r"""
import json, sys, warnings
warnings.simplefilter("error")
import torch
from torch.utils.data import DataLoader
seen = {"torch": torch.__version__, "files": {}}
for path in sys.argv[1:]:
    data = torch.load(path)
    batches = list(DataLoader(data["train"], 4, shuffle=True, drop_last=True))
    first, second = data["train"][0]["input_ids"], data["train"][1]["input_ids"]
    seen["files"][path] = {
        "rows": {name: [row["input_ids"].tolist() for row in rows] for name, rows in data.items()},
        "columns": sorted(data["train"][0]), "dtype": str(first.dtype),
        "batches": [list(batch["input_ids"].shape) for batch in batches],
        "shared": first.storage().data_ptr() == second.storage().data_ptr() if torch.__version__ < "2"
        else first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr(),
    }
    if torch.__version__ >= "2":
        mapped = torch.load(path, mmap=True, weights_only=True)
        assert torch.equal(mapped["train"][-1]["input_ids"], data["train"][-1]["input_ids"])
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen_by_torch(tmp_path_factory):
    python = tinymodel.train_python()
    if python is None:
        pytest.skip(
            "no train environment (.venv-train or MOAI_TRAIN_PYTHON), so no torch to load the file with"
        )
    probe = "import importlib.util, sys; sys.exit(0 if importlib.util.find_spec('torch') else 7)"
    if subprocess.run([python, "-c", probe], timeout=_TORCH_TIMEOUT_S).returncode == 7:
        pytest.skip("{} has no torch to load the file with".format(python))
    folder = tmp_path_factory.mktemp("torch")
    plain = _write(folder / "plain.pt", {"train": _rows(11, 6), "validation": _rows(2, 6, 500)}, 6)
    masked = _write(folder / "masked.pt", {"train": _rows(11, 6)}, 6, mask=True)
    held, torchfile._ZIP64_FROM = torchfile._ZIP64_FROM, 100
    try:
        wide = _write(folder / "wide.pt", {"train": _rows(11, 6), "validation": _rows(2, 6, 500)}, 6)
    finally:
        torchfile._ZIP64_FROM = held
    shown = subprocess.run(
        [python, "-c", _LOOK, str(plain), str(masked), str(wide)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=_TORCH_TIMEOUT_S,
    )
    assert shown.returncode == 0, shown.stderr[-2000:]
    return {os.path.basename(path): facts for path, facts in json.loads(shown.stdout)["files"].items()}


def test_plain_torch_load_gives_int64_rows_of_one_storage(seen_by_torch):
    facts = seen_by_torch["plain.pt"]
    assert facts["rows"] == {"train": _rows(11, 6), "validation": _rows(2, 6, 500)}
    assert (facts["dtype"], facts["shared"], facts["columns"]) == ("torch.int64", True, ["input_ids"])


def test_torch_loads_masks_and_zip64_files(seen_by_torch):
    assert seen_by_torch["masked.pt"]["columns"] == ["attention_mask", "input_ids"]
    assert seen_by_torch["masked.pt"]["rows"] == {"train": _rows(11, 6)}
    assert seen_by_torch["wide.pt"]["rows"] == seen_by_torch["plain.pt"]["rows"]


def test_a_data_loader_makes_whole_batches_of_the_train_list(seen_by_torch):
    assert seen_by_torch["plain.pt"]["batches"] == [[4, 6], [4, 6]]

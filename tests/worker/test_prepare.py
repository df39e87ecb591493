"""The prepare step as the train environment's Python runs it: real tokenizer, real Arrow, real torch.

One child process imports the libraries once and serves every test; whatever it is asked runs with the
network cut off. Without a train environment everything here is skipped. The file is long because a
second one would need a second child, and its imports are most of the time taken.
"""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from fakes import tinymodel
from fakes.news import news, write_jsonl
from fakes.preparechild import ANSWER_TIMEOUT_S, Child


@pytest.fixture(scope="module")
def python():
    found = tinymodel.train_python()
    if found is None:
        pytest.skip("no train environment: set MOAI_TRAIN_PYTHON or make .venv-train")
    return found


@pytest.fixture(scope="module")
def child(python, tmp_path_factory):
    child = Child(python, tmp_path_factory.mktemp("child") / "log")
    yield child
    child.close()


@pytest.fixture(scope="module")
def model(python, tmp_path_factory):
    return str(tinymodel.build(tmp_path_factory.mktemp("model"), python, weights=False))


@pytest.fixture
def step(child, model, tmp_path):
    """Call the step with sensible inputs; keyword arguments override them."""

    def call(**inputs):
        wanted = {
            "source": str(tmp_path / "in.jsonl"),
            "model": model,
            "output": str(tmp_path / "out"),
            "block_size": 64,
        }
        wanted.update(inputs)
        return child.ask("answer = run(**inputs)", inputs=wanted)

    write_jsonl(str(tmp_path / "in.jsonl"), 40)
    return call


def _left(tmp_path):
    return sorted(name for name in os.listdir(str(tmp_path)) if name.startswith((".", "out")))


# --- What comes out -------------------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [16, 97, 300])
def test_ids_equal_the_tokenizers_own_row_by_row(child, model, step, tmp_path, block_size):
    rows = news(25, sentences=9) + [
        {"article": "é" * 50, "highlights": "\u65e5\u672c"},
        {"article": "", "highlights": "x"},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    got = step(block_size=block_size, validation_fraction=0)["result"]
    facts = child.ask(
        """
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(model)
tokenizer.pad_token_id = 0
texts = ["[SUMMARIZE] {article} [/SUMMARIZE]\\n{highlights}</s>".format(**row) for row in rows]
own = [tokenizer(text, truncation=True, max_length=block, padding="max_length") for text in texts]
full = [len(tokenizer(text)["input_ids"]) for text in texts]
answer = [arrow(out)["train"], {c: [row[c] for row in own] for c in ("input_ids", "attention_mask")}, full]
""",
        model=model,
        rows=rows,
        block=block_size,
        out=got["path"],
    )
    written, own, full = facts
    assert written["input_ids"] == own["input_ids"]
    assert written["attention_mask"] == own["attention_mask"]
    assert got["truncated_share"] == pytest.approx(sum(n > block_size for n in full) / len(rows), abs=1e-6)
    assert got["rows"] == {"train": 27} and got["pad_token_id"] == 0 and got["reused"] is False


def test_the_torch_file_holds_the_same_rows_and_feeds_a_data_loader(child, step):
    got = step(torch_attention_mask=True)["result"]
    answer = child.ask(
        """
import importlib.util
answer = None
if importlib.util.find_spec("torch"):
    import torch
    from torch.utils.data import DataLoader
    data = torch.load(got["torch_file"])
    batches = [list(b["input_ids"].shape) for b in DataLoader(data["train"], 8, shuffle=True, drop_last=True)]
    rows = {n: {c: [r[c].tolist() for r in part] for c in part[0]} for n, part in data.items()}
    answer = [rows == arrow(got["path"]), batches]
""",
        got=got,
    )
    if answer is None:
        pytest.skip("this train environment has no torch to load the .pt with")
    assert answer == [True, [[8, 64]] * 4]


def test_the_reports_tell_phases_rows_and_the_pad_token(step, tmp_path):
    seen = step()["seen"]
    assert [entry[1] for entry in seen if entry[0] == "phase"] == [
        "reading",
        "loading",
        "tokenizing",
        "checking",
    ]
    progress = [entry for entry in seen if entry[0] == "progress"]
    assert progress[-1][1:4] == [40, 40, "rows"] and progress[-1][4] > 0 and progress[-1][5] == 0
    assert [entry[1] for entry in seen if entry[0] == "message"] == [
        "PAD_TOKEN",
        "ENDING_NOT_A_TOKEN",
        "ENGINE",
    ]
    assert seen[-1] == ["artifact", "dataset", str(tmp_path / "out")]


def test_the_marker_tells_what_it_was_made_from(step, tmp_path):
    import hashlib

    got = step()["result"]
    told = json.loads((tmp_path / "out" / "moai-dataset.json").read_text())
    raw = Path(got["torch_file"]).read_bytes()
    assert told["torch_file_sha256"] == hashlib.sha256(raw).hexdigest()
    assert told["rows"] == {"train": 38, "validation": 2} == got["rows"]
    assert told["basis"]["template"].startswith("[SUMMARIZE]") and told["vocab_size"] > 300
    assert {"python", "transformers", "pyarrow"} <= set(told["versions"])
    assert sorted(os.listdir(str(tmp_path / "out"))) == [
        "dataset_dict.json",
        "llama3_dataset.pt",
        "moai-dataset.json",
        "train",
        "validation",
    ]


# --- Which rows -----------------------------------------------------------------------------------


def test_validation_rows_are_cut_off_once_and_always_the_same(child, step, tmp_path):
    first = step(output=str(tmp_path / "out1"))["result"]
    second = step(output=str(tmp_path / "out2"))["result"]
    whole = step(output=str(tmp_path / "out3"), validation_fraction=0)["result"]
    one, two, all_rows = (child.ask("answer = arrow(p)", p=got["path"]) for got in (first, second, whole))
    assert one == two
    assert sorted(one["train"]["input_ids"] + one["validation"]["input_ids"]) == sorted(
        all_rows["train"]["input_ids"]
    )
    assert Path(first["torch_file"]).read_bytes() == Path(second["torch_file"]).read_bytes()


def test_few_rows_and_sources_with_validation_are_not_cut(step, tmp_path):
    write_jsonl(str(tmp_path / "few.jsonl"), 19)
    assert step(source=str(tmp_path / "few.jsonl"))["result"]["rows"] == {"train": 19}
    folder = tmp_path / "splits"
    folder.mkdir()
    for name, count in (("train", 30), ("valid", 4), ("test", 3)):
        write_jsonl(str(folder / (name + ".jsonl")), count)
    got = step(source=str(folder), output=str(tmp_path / "out2"))["result"]
    assert got["rows"] == {"train": 30, "validation": 4, "test": 3}
    sampled = step(source=str(folder), output=str(tmp_path / "out3"), sample=3)["result"]
    assert sampled["rows"] == {"train": 3, "validation": 3, "test": 3}
    only = step(source=str(folder), output=str(tmp_path / "out4"), split="test")["result"]
    assert only["rows"] == {"train": 3}
    error = step(source=str(folder), split="dev2")["error"]
    assert error["code"] == "DATASET_INVALID"
    assert all(name in error["message"] for name in ("'dev2'", "train", "validation", "test"))


def test_blank_rows_are_left_out_and_said_so(step, tmp_path):
    rows = news(5) + [{"article": " ", "highlights": None}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    got = step()
    assert got["result"]["rows"] == {"train": 5}
    assert "1 rows" in [entry for entry in got["seen"] if entry[1] == "ROWS_SKIPPED"][0][2]
    (tmp_path / "in.jsonl").write_text(json.dumps(rows[-1]) + "\n")
    assert step()["error"]["code"] == "DATASET_EMPTY"


def test_parquet_saved_and_declared_datasets_give_the_same_rows(child, step, tmp_path):
    expected = None
    child.ask(
        """
import datasets
data = datasets.Dataset.from_list(rows)
data.to_parquet(base + "/x.parquet")
datasets.DatasetDict({"train": data}).save_to_disk(base + "/saved")
import os
os.makedirs(base + "/hub/3.0.0"); os.makedirs(base + "/hub/1.0.0")
data.to_parquet(base + "/hub/3.0.0/train-00000-of-00001.parquet")
data.select([0]).to_parquet(base + "/hub/1.0.0/train-00000-of-00001.parquet")
open(base + "/hub/README.md", "w").write('''---
license: apache-2.0
configs:
- config_name: 1.0.0
  data_files:
  - split: train
    path: 1.0.0/train-*
- config_name: 3.0.0
  data_files:
  - split: train
    path: 3.0.0/train-*
---
# about
''')
answer = None
""",
        rows=news(12),
        base=str(tmp_path),
    )
    write_jsonl(str(tmp_path / "in.jsonl"), 12)
    cache = str(tmp_path / "cache")
    for index, (source, config) in enumerate(
        [("in.jsonl", None), ("x.parquet", None), ("saved", None), ("hub", "3.0.0")]
    ):
        got = step(
            source=str(tmp_path / source),
            config=config,
            output=str(tmp_path / "out{}".format(index)),
            cache_dir=cache,
        )
        rows = child.ask("answer = arrow(p)", p=got["result"]["path"])
        expected = expected or rows
        assert rows == expected and got["result"]["rows"] == {"train": 12}, source
    error = step(source=str(tmp_path / "hub"), output=str(tmp_path / "no"), cache_dir=cache)["error"]
    assert error["code"] == "DATASET_INVALID" and "3.0.0" in error["message"]
    (tmp_path / "x.parquet").write_bytes((tmp_path / "x.parquet").read_bytes()[:-100])
    assert step(source=str(tmp_path / "x.parquet"))["error"]["code"] == "DATASET_INVALID"


# --- Padding --------------------------------------------------------------------------------------


def test_pad_token_and_side_follow_the_inputs_and_the_tutorial(child, model, step, tmp_path):
    eos = child.ask(
        "from transformers import AutoTokenizer; answer = AutoTokenizer.from_pretrained(model).eos_token_id",
        model=model,
    )
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "ab"}) + "\n")
    got = step(template="qwen")["result"]
    row = child.ask("answer = arrow(p)['train']", p=got["path"])
    assert got["pad_token_id"] == eos and row["input_ids"][0][:40] == [eos] * 40
    assert row["attention_mask"][0][0] == 0 and row["attention_mask"][0][-1] == 1
    assert step(template="mistral", pad_token_id=5)["result"]["pad_token_id"] == 5
    assert step(pad_token_id=10**6, template="mistral")["error"]["code"] == "TOKENIZER_FAILED"


# --- Again, and never half ------------------------------------------------------------------------


def test_the_same_inputs_are_reused_and_other_inputs_are_not(step, tmp_path):
    assert step()["result"]["reused"] is False
    stamp = os.stat(str(tmp_path / "out" / "llama3_dataset.pt")).st_mtime_ns
    again = step()
    assert again["result"]["reused"] is True and again["result"]["rows"] == {"train": 38, "validation": 2}
    assert [entry[0] for entry in again["seen"]] == ["message", "artifact"]
    assert os.stat(str(tmp_path / "out" / "llama3_dataset.pt")).st_mtime_ns == stamp
    assert step(block_size=32)["result"]["reused"] is False
    assert step(template="{highlights}", block_size=32)["result"]["reused"] is False
    write_jsonl(str(tmp_path / "in.jsonl"), 41)
    assert step(template="{highlights}", block_size=32)["result"]["reused"] is False
    os.truncate(str(tmp_path / "out" / "llama3_dataset.pt"), 100)
    assert step(template="{highlights}", block_size=32)["result"]["reused"] is False
    assert _left(tmp_path) == [".out.lock", "out"]


def test_a_prepared_folder_is_used_as_it_is(child, model, step, tmp_path):
    made = step()["result"]
    out = str(tmp_path / "out")
    adopted = step(source=out, block_size=32)
    assert adopted["result"] == dict(made, reused=True)
    assert [entry[0] for entry in adopted["seen"]] == ["message", "artifact"] and "as it was prepared" in str(adopted["seen"][0])
    error = step(source=out, output=str(tmp_path / "elsewhere"))["error"]
    assert error["code"] == "USAGE" and str(tmp_path / "in.jsonl") in error["next"]
    os.truncate(os.path.join(out, "llama3_dataset.pt"), 100)
    error = step(source=out)["error"]
    assert error["code"] == "DATASET_INVALID" and "another size" in error["message"]


def test_a_model_with_another_vocabulary_does_not_train_on_it(child, model, step, tmp_path):
    step()
    other = tmp_path / "other"
    shutil.copytree(model, str(other))

    def check(size=1 << 20):
        ask = "from moai_worker import train_data\nfrom moai_worker.errors import StepError\nanswer = None"
        ask += "\ntry: train_data.check_marker(path, other, size)\nexcept StepError as error: answer = error.as_dict()"
        return child.ask(ask, path=str(tmp_path / "out"), other=str(other), size=size)

    assert check() is None and "is padded with id" in check(0)["message"]
    text = (other / "tokenizer.json").read_text(encoding="utf-8")
    (other / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    assert check() is None, "other bytes, the same vocabulary"
    told = json.loads(text)
    first, second = sorted(told["model"]["vocab"], key=told["model"]["vocab"].get)[-2:]
    ids = told["model"]["vocab"]
    ids[first], ids[second] = ids[second], ids[first]
    (other / "tokenizer.json").write_text(json.dumps(told), encoding="utf-8")
    error = check()
    assert error["code"] == "DATASET_INVALID" and "so do their vocabularies" in error["message"]


def test_the_texts_behind_a_prepared_folder_are_found_as_long_as_they_are_the_same(child, model, step, tmp_path):
    step()
    ask = "from moai_worker.steps.prepare import raw_rows; answer = [row['article'] for row in raw_rows(inputs, 'validation')]"
    own = {"source": str(tmp_path / "in.jsonl"), "model": model, "output": str(tmp_path / "out"), "block_size": 64}
    behind = dict(own, source=str(tmp_path / "out"))
    texts = child.ask(ask, inputs=own)
    assert len(texts) == 2 and child.ask(ask, inputs=behind) == texts
    write_jsonl(str(tmp_path / "in.jsonl"), 41)
    guarded = ask.replace("; answer", "\nfrom moai_worker.errors import StepError\ntry: answer")
    error = child.ask(guarded + "\nexcept StepError as error: answer = error.as_dict()", inputs=behind)
    assert error["code"] == "DATASET_INVALID" and "has changed since" in error["message"]


def test_a_folder_of_somebody_else_is_never_replaced(step, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    error = step()["error"]
    assert error["code"] == "USAGE" and error["next"]
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine" and _left(tmp_path) == [".out.lock", "out"]


def test_a_disk_that_fills_up_leaves_the_former_dataset(child, step, tmp_path):
    assert step()["result"]
    before = (tmp_path / "out" / "llama3_dataset.pt").read_bytes()
    child.ask(
        """
import os
def full(fd): raise OSError(28, "No space left on device")
held, os.fsync, answer = os.fsync, full, None
prepare._held = held
"""
    )
    try:
        error = step(block_size=32)["error"]
    finally:
        child.ask("import os; os.fsync, answer = prepare._held, None")
    assert error["code"] == "DISK_FULL" and str(tmp_path / "out") in error["message"] and error["next"]
    assert (tmp_path / "out" / "llama3_dataset.pt").read_bytes() == before
    assert _left(tmp_path) == [".out.lock", "out"]


def test_too_small_a_disk_is_noticed_before_the_work(child, step, tmp_path):
    child.ask(
        """
import collections, shutil
prepare._held = shutil.disk_usage
shutil.disk_usage = lambda path: collections.namedtuple("usage", "total used free")(1 << 30, 1 << 30, 1000)
answer = None
"""
    )
    try:
        got = step()
    finally:
        child.ask("import shutil; shutil.disk_usage, answer = prepare._held, None")
    assert (
        got["error"]["code"] == "DISK_FULL" and int(got["error"]["details"]["needed_bytes"]) == 40 * 64 * 13
    )
    assert "tokenizing" not in [entry[1] for entry in got["seen"]] and _left(tmp_path) == [".out.lock"]


def test_a_killed_run_leaves_no_dataset_and_the_next_one_cleans_up(python, model, step, tmp_path):
    doomed = Child(python, tmp_path / "doomed.log")
    doomed.send(
        """
import sys
def stop(self, *a, **k):
    answers.write('"here"\\n'); answers.flush(); sys.stdin.readline()
answers = __import__("__main__").answers
__import__("__main__").Report.progress = stop
answer = run(**inputs)
""",
        inputs={
            "source": str(tmp_path / "in.jsonl"),
            "model": model,
            "output": str(tmp_path / "out"),
            "block_size": 64,
        },
    )
    assert doomed.answer() == "here"
    os.kill(doomed.process.pid, signal.SIGKILL)
    doomed.process.wait(ANSWER_TIMEOUT_S)
    doomed.process.stdin.close()
    doomed.process.stdout.close()
    lock, partial = _left(tmp_path)
    assert lock == ".out.lock" and partial.startswith("out.partial-")
    assert step()["result"]["rows"] == {"train": 38, "validation": 2}
    assert _left(tmp_path) == [".out.lock", "out"]


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(child, python, model, step, tmp_path):
    write_jsonl(str(tmp_path / "in.jsonl"), 1500)
    small = "from moai_worker import preparedset, encoding; preparedset._SHARD_BYTES, encoding._BATCH_ROWS = 40000, 64\n"
    options = {"torch_attention_mask": True, "mask_prompt": True, "block_size": 64, "pack": True}
    doomed = Child(python, tmp_path / "doomed.log")
    doomed.send(
        small
        + """
import sys, __main__
prepare._NICE = 10
answers, seen = __main__.answers, []
def stop(self, *a, **k):
    seen.append(a)
    if len(seen) == 14:
        answers.write('"here"\\n'); answers.flush(); sys.stdin.readline()
__main__.Report.progress = stop
answer = run(**inputs)
""",
        inputs=dict(options, source=str(tmp_path / "in.jsonl"), model=model, output=str(tmp_path / "out")),
    )
    assert doomed.answer() == "here"
    assert os.getpriority(os.PRIO_PROCESS, doomed.process.pid) == 10  # others on the machine go first
    os.kill(doomed.process.pid, signal.SIGKILL)
    doomed.process.wait(ANSWER_TIMEOUT_S)
    doomed.process.stdin.close()
    doomed.process.stdout.close()
    child.ask(small + "answer = None")
    try:
        got = step(**options)
        whole = step(output=str(tmp_path / "whole"), **options)
    finally:
        child.ask(
            "from moai_worker import preparedset, encoding; preparedset._SHARD_BYTES, encoding._BATCH_ROWS = 64 << 20, 256; answer = None"
        )
    said = {entry[1]: entry[2] for entry in got["seen"] if entry[0] == "message"}
    row = int(said["RESUMED"].split(" row ")[1].split()[0])
    assert row >= 14 * 64 - 2 * 64 and row % 64 == 0  # at most the open shard was lost
    assert "RESUMED" not in [entry[1] for entry in whole["seen"]]
    files = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*") if p.is_file())
    assert len([name for name in files if name.suffix == ".arrow"]) > 3
    for name in files:
        if name.name != "moai-dataset.json":
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    described = [json.loads((tmp_path / where / "moai-dataset.json").read_text()) for where in ("out", "whole")]
    assert described[0] == described[1]
    assert [name for name in _left(tmp_path) if "partial" in name] == []


def test_two_runs_for_one_folder_take_turns(child, model, tmp_path):
    write_jsonl(str(tmp_path / "in.jsonl"), 5)
    got = child.ask(
        """
import fcntl, __main__
held = open(base + "/.out.lock", "w")
fcntl.flock(held, fcntl.LOCK_EX)
own = __main__.Report.phase
def phase(self, name, text="", **data):
    own(self, name)
    if name == "waiting":
        held.close()
__main__.Report.phase = phase
answer = run(source=base + "/in.jsonl", model=model, output=base + "/out")
__main__.Report.phase = own
held.close()
""",
        base=str(tmp_path),
        model=model,
    )
    assert got["seen"][0] == ["phase", "waiting"] and got["result"]["rows"] == {"train": 5}


# --- Failures -------------------------------------------------------------------------------------


def test_what_the_user_got_wrong_is_named(step, tmp_path):
    error = step(template="{artikle}</s>")["error"]
    assert error["code"] == "COLUMN_MISSING" and "'article'" in error["next"]
    assert step(template="{article.x}")["error"]["code"] == "TEMPLATE_INVALID"
    assert step(source=str(tmp_path / "no.jsonl"))["error"]["code"] == "FILE_NOT_FOUND"
    assert step(model=str(tmp_path / "no"))["error"]["code"] == "FILE_NOT_FOUND"
    assert step(block_size=1)["error"]["code"] == "USAGE"
    assert step(file_name="../x.pt")["error"]["code"] == "USAGE"
    assert step(source="")["error"]["code"] == "USAGE"
    (tmp_path / "in.jsonl").write_text(json.dumps(news(1)[0]) + "\n" + '{"article": "x"}\n')
    error = step()["error"]
    assert error["code"] == "DATASET_INVALID" and error["details"] == {
        "file": str(tmp_path / "in.jsonl"),
        "line": "2",
    }
    assert not any(name.startswith("out") for name in _left(tmp_path))


def test_a_tokenizer_that_is_broken_absent_or_of_another_model_is_refused(model, step, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    assert step(model=str(broken))["error"]["code"] == "TOKENIZER_FAILED"
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        source = Path(model) / name
        if source.exists():
            (broken / name).write_bytes(source.read_bytes())
    (broken / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "NEW"}}')
    error = step(model=str(broken))["error"]
    assert error["code"] == "TOKENIZER_FAILED" and str(broken) in error["message"]
    (broken / "tokenizer.json").write_bytes((Path(model) / "tokenizer.json").read_bytes())
    (broken / "config.json").write_text('{"model_type": "llama", "vocab_size": 50}')
    error = step(model=str(broken))["error"]
    assert error["code"] == "TOKENIZER_FAILED" and "below 50" in error["message"]


@pytest.mark.parametrize("package, named", [("transformers", "transformers"), ("pyarrow", "datasets")])
def test_a_missing_package_is_named_with_its_python(python, model, step, tmp_path, package, named):
    bare = Child(python, tmp_path / "bare.log")
    try:
        got = bare.ask(
            "import sys; sys.modules[package] = None; answer = run(**inputs)",
            package=package,
            inputs={"source": str(tmp_path / "in.jsonl"), "model": model, "output": str(tmp_path / "out")},
        )
    finally:
        bare.close()
    assert got["error"]["code"] == "PACKAGE_MISSING"
    assert got["error"]["details"]["package"] == named
    assert got["error"]["next"].startswith("moai remote env install --env ") and got["error"]["next"].endswith(" " + named)


# --- Labels, packs, templates ---------------------------------------------------------------------


def test_labels_leave_out_prompts_and_padding(child, model, step, tmp_path):
    for side in ("right", "left"):
        template = "summarize" if side == "right" else "qwen"
        rows = news(30) if side == "right" else [{"prompt": r["article"] + "### Output:\n" + r["highlights"]} for r in news(30)]
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        got = step(template=template, mask_prompt=True, block_size=256, validation_fraction=0, output=str(tmp_path / side))["result"]
        answer = child.ask(
            """
from transformers import AutoTokenizer
import importlib.util
tokenizer = AutoTokenizer.from_pretrained(model)
rows = arrow(path)["train"]
texts = []
for ids, mask, labels in zip(rows["input_ids"], rows["attention_mask"], rows["labels"]):
    assert all(l in (-100, i) for l, i in zip(labels, ids)) and all(l == -100 for l, m in zip(labels, mask) if not m)
    told = [n for n, l in enumerate(labels) if l != -100]
    assert told == list(range(told[0], told[-1] + 1))
    texts.append([tokenizer.decode([i for i, l, m in zip(ids, labels, mask) if m and l == -100]), tokenizer.decode([l for l in labels if l != -100])])
same = True
if importlib.util.find_spec("torch"):
    import torch
    data = torch.load(torch_file)["train"]
    same = [[r["labels"].tolist(), r["input_ids"].tolist()] for r in data] == [list(p) for p in zip(rows["labels"], rows["input_ids"])]
answer = [texts, same, sorted(rows)]
""",
            model=model,
            path=got["path"],
            torch_file=got["torch_file"],
        )
        texts, same, columns = answer
        assert same and columns == ["attention_mask", "input_ids", "labels"]
        for (prompt, answered), row in zip(texts, news(30)):
            assert prompt.endswith("[/SUMMARIZE]\n" if side == "right" else "### Output:\n")
            assert answered.startswith(row["highlights"][:20])


def test_rows_cut_before_their_answer_are_told_and_refused_when_they_are_all(step, tmp_path):
    rows = [{"article": "word " * 200, "highlights": "x"}] * 3
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    error = step(mask_prompt=True)["error"]
    assert error["code"] == "DATASET_INVALID" and "before its answer" in error["message"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows + news(3)))
    got = step(mask_prompt=True, block_size=200)
    assert any(entry[1] == "ROWS_WITHOUT_ANSWER" and "3 of 6" in entry[2] for entry in got["seen"] if entry[0] == "message")


def test_packs_hold_every_row_once_with_an_end_between(child, model, step, tmp_path):
    got = step(pack=True, block_size=50, validation_fraction=0)["result"]
    flat, own, eos = child.ask(
        """
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(model)
rows = arrow(path)["train"]
assert all(len(r) == 50 for r in rows["input_ids"]) and all(set(m) == {1} for m in rows["attention_mask"])
own = []
for row in news:
    own += tokenizer("[SUMMARIZE] {article} [/SUMMARIZE]\\n{highlights}</s>".format(**row))["input_ids"] + [tokenizer.eos_token_id]
answer = [[i for r in rows["input_ids"] for i in r], own, tokenizer.eos_token_id]
""",
        model=model,
        path=got["path"],
        news=news(40),
    )
    assert flat == own[: len(flat)] and 0 <= len(own) - len(flat) < 50 and got["truncated_share"] == 0
    error = step(pack=True, block_size=1 << 20)["error"]
    assert error["code"] == "DATASET_EMPTY" and "fills a block" in error["message"]


def test_jinja_and_chat_templates(child, model, step, tmp_path):
    rows = [{"messages": [{"role": "user", "content": r["article"]}, {"role": "assistant", "content": r["highlights"]}]} for r in news(4)]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    talker = tmp_path / "talker"
    talker.mkdir()
    for file in Path(model).iterdir():
        (talker / file.name).write_bytes(file.read_bytes())
    config = json.loads((talker / "tokenizer_config.json").read_text())
    config["chat_template"] = (
        "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    (talker / "tokenizer_config.json").write_text(json.dumps(config))
    chat = {"source": str(tmp_path / "chat.jsonl"), "model": str(talker), "template": "chat", "block_size": 300, "validation_fraction": 0}
    got = step(mask_prompt=True, **chat)["result"]
    texts = child.ask(
        """
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(model)
rows = arrow(path)["train"]
own = [tokenizer.apply_chat_template(r["messages"], tokenize=True, return_dict=False) for r in news]
used = [[i for i, m in zip(ids, mask) if m] for ids, mask in zip(rows["input_ids"], rows["attention_mask"])]
answer = [used == own, [tokenizer.decode([l for l in labels if l != -100]) for labels in rows["labels"]]]
""",
        model=str(talker),
        path=got["path"],
        news=rows,
    )
    assert texts == [True, [r["messages"][1]["content"] + "</assistant>\n" for r in rows]]
    assert step(**dict(chat, model=model))["error"]["code"] == "TEMPLATE_INVALID"
    (tmp_path / "bad.jsonl").write_text(json.dumps({"messages": "hello"}) + "\n")
    error = step(**dict(chat, source=str(tmp_path / "bad.jsonl")))["error"]
    assert error["code"] == "TEMPLATE_INVALID" and "bad.jsonl, row or line 1" in error["message"]
    jinja = "{% if article %}{{ article | upper }}{% endif %} > {{ highlights }}"
    shown = step(template=jinja, block_size=300, output=str(tmp_path / "jinja"), validation_fraction=0)["result"]
    text = child.ask(
        "from transformers import AutoTokenizer\nanswer = AutoTokenizer.from_pretrained(m).decode(arrow(p)['train']['input_ids'][0], skip_special_tokens=True)",
        m=model,
        p=shown["path"],
    )
    first = news(1)[0]
    assert text.startswith(first["article"].upper()[:40])
    assert step(template="{% if %}")["error"]["code"] == "TEMPLATE_INVALID"
    assert step(template="{% if 1 %}{{ artikle }}{% endif %}")["error"]["code"] == "COLUMN_MISSING"
    assert "unsafe" in step(template="{% if 1 %}{{ article.__class__.__mro__ }}{% endif %}")["error"]["message"]


# --- Bad data -------------------------------------------------------------------------------------


def test_korean_windows_files_are_read_and_said(child, model, step, tmp_path):
    rows = [{"article": "서울의 도서관 %d" % n, "highlights": "요약 %d" % n} for n in range(5)]
    text = "article,highlights\r\n" + "".join("{article},{highlights}\r\n".format(**row) for row in rows)
    (tmp_path / "utf8.csv").write_bytes(b"\xef\xbb\xbf" + text.encode("utf-8"))
    (tmp_path / "korean.csv").write_bytes(text.encode("cp949"))
    one = step(source=str(tmp_path / "utf8.csv"), output=str(tmp_path / "out1"))
    two = step(source=str(tmp_path / "korean.csv"), output=str(tmp_path / "out2"))
    assert Path(one["result"]["torch_file"]).read_bytes() == Path(two["result"]["torch_file"]).read_bytes()
    said = [[entry[2] for entry in got["seen"] if entry[1] == "ENCODING"] for got in (one, two)]
    assert "BOM" in said[0][0] and "CP949" in said[1][0] and "korean.csv" in said[1][0]


def test_bad_rows_deep_in_a_source_are_named_and_nothing_is_left(child, step, tmp_path):
    lines = [json.dumps(row).encode() for row in news(300)]
    for number, line, words in (
        (277, json.dumps({"article": "서울 도서관", "highlights": "x"}, ensure_ascii=False).encode("cp949"), "line 277"),
        (290, b'{"article": "x \\ud83d y", "highlights": "z"}', "line 290"),
        (283, b'{"article": ["x"], "highlights": "z"}', "line 283"),
        (299, b'{"article": "x", "highlights"', "line 299"),
    ):
        bad = list(lines)
        bad[number - 1] = line
        if number == 277:
            bad[3] = json.dumps({"article": "한국어", "highlights": "x"}, ensure_ascii=False).encode("utf-8")
        (tmp_path / "in.jsonl").write_bytes(b"\n".join(bad) + b"\n")
        error = step()["error"]
        assert error["code"] in ("DATASET_INVALID", "TEMPLATE_INVALID") and words in error["message"], error
        assert "in.jsonl" in error["message"] and error["next"]
        assert _left(tmp_path) == [".out.lock"]


def test_a_truncated_or_damaged_parquet_file_is_named(child, step, tmp_path):
    offset = child.ask(
        """
import pyarrow as a, pyarrow.parquet as p
p.write_table(a.table({"article": ["x%d" % n for n in range(4000)], "highlights": ["y"] * 4000}), path, row_group_size=1000, use_dictionary=False)
answer = p.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
""",
        path=str(tmp_path / "x.parquet"),
    )
    whole = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(whole[: len(whole) // 2])
    error = step(source=str(tmp_path / "x.parquet"))["error"]
    assert error["code"] == "DATASET_INVALID" and "x.parquet" in error["message"] and "complete parquet" in error["message"]
    (tmp_path / "x.parquet").write_bytes(whole[:offset] + b"\xff" * 20 + whole[offset + 20 :])
    error = step(source=str(tmp_path / "x.parquet"))["error"]
    assert error["code"] == "DATASET_INVALID" and "x.parquet, row 1793: damaged here or within" in error["message"]
    assert not any(name.startswith("out") for name in _left(tmp_path))


def test_a_row_of_ten_megabytes_is_said_and_cut(step, tmp_path):
    rows = news(3) + [{"article": "long words " * 950000, "highlights": "z"}] + news(2)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    got = step()
    said = [entry[2] for entry in got["seen"] if entry[1] == "ROW_LONG"]
    assert len(said) == 1 and "line 4" in said[0] and "10.5 million" in said[0] and got["result"]["rows"] == {"train": 6}


def test_a_preview_shows_rows_and_writes_nothing_else(child, model, step, tmp_path):
    got = child.ask(
        """
from moai_worker.steps import preview
import __main__, json
report = __main__.Report()
result = preview.run({"source": source, "model": model, "block_size": 100, "preview": 2, "mask_prompt": True, "file": file}, report)
answer = [result, json.load(open(file))]
""",
        source=str(tmp_path / "in.jsonl"),
        model=model,
        file=str(tmp_path / "preview.json"),
    )
    result, told = got
    first = news(1)[0]
    assert result["rows"] == {"train": 38, "validation": 2} and result["measured"] == 38
    assert len(told["samples"]) == 2 and told["samples"][0]["text"].startswith("[SUMMARIZE] " + first["article"][:30])
    assert told["samples"][0]["prompt"].endswith("[/SUMMARIZE]\n")
    assert told["samples"][0]["count"] >= len(told["samples"][0]["ids"]) and 0 <= told["truncated_share"] <= 1
    assert sorted(os.listdir(str(tmp_path))) == ["in.jsonl", "preview.json"]

"""After a training, with a real tiny model on the CPU: early stop, the best model kept, evaluate, merge, trackers.

One child and two short trainings serve all tests: importing torch and transformers costs more than they do.
"""

import json
import math
import shutil
from pathlib import Path

import pytest
from fakes import tinymodel
from fakes.news import write_jsonl
from fakes.stepchild import StepChild
from moai_worker import callbacks, trackers, train_settings
from moai_worker.errors import StepError

#: Stands in for a tracker: the writer transformers takes when tensorboard itself is not installed.
_WRITER = """
import os, json
class SummaryWriter:
    def __init__(self, log_dir=None):
        os.makedirs(log_dir, exist_ok=True)
        self.file = open(os.path.join(log_dir, "events.out.tfevents.1"), "a")
    def add_scalar(self, name, value, step): self.file.write(json.dumps([name, value, step]) + "\\n")
    def add_text(self, *a): pass
    def add_hparams(self, *a, **k): pass
    def flush(self): self.file.flush()
    def close(self): self.file.close()
"""


@pytest.fixture(scope="module")
def child(tmp_path_factory):
    python = tinymodel.train_python()
    if python is None:
        pytest.skip("no train environment: set MOAI_TRAIN_PYTHON or make .venv-train")
    child = StepChild(python, tmp_path_factory.mktemp("child"))
    yield child
    child.close()


@pytest.fixture(scope="module")
def model(child, tmp_path_factory):
    python = tinymodel.train_python()
    return str(tinymodel.build(tmp_path_factory.mktemp("model"), python, vocab_size=600, hidden=32, max_length=128))


@pytest.fixture(scope="module")
def made_from(model, tmp_path_factory):
    """Inputs of the prepare step."""
    folder = tmp_path_factory.mktemp("data")
    return {
        "source": write_jsonl(str(folder / "news.jsonl"), 44, sentences=1), "model": model, "template": "summarize",
        "block_size": 64, "output": str(folder / "prepared"), "validation_fraction": 0.1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def dataset(child, made_from):
    return child.run("prepare", made_from)["result"]["path"]


@pytest.fixture(scope="module")
def early(child, model, dataset, tmp_path_factory):
    """A LoRA run whose rate is far too high: the evaluations get worse, and it ends early."""
    output = tmp_path_factory.mktemp("early") / "out"
    (output / "checkpoints").mkdir(parents=True)
    outcome = child.run("train", {
        "model": model, "dataset": dataset, "output": str(output), "method": "lora", "max_steps": 30, "batch_size": 8,
        "learning_rate": 3.0, "device": "cpu", "card": {"model": "org/tiny", "command": "moai remote train"},
        "settings": {"eval_steps": "1", "early_stop": "3", "keep_best": "true", "save_steps": "2", "keep_checkpoints": 1},
        "scheduler": "constant",
    })  # fmt: skip
    assert "result" in outcome, outcome
    return outcome["result"], child.reports(), output


def test_a_run_that_gets_worse_ends_early_and_leaves_its_best_model(child, early, dataset):
    result, reports, output = early
    evaluations = [(line["step"], line["values"]["eval_loss"]) for line in reports if "eval_loss" in line.get("values", {})]
    best = min(evaluations, key=lambda pair: pair[1])
    assert result["stopped_early"] and not result["stopped"] and result["steps"] < 30
    assert result["best"] == {"step": best[0], "loss": best[1]} and best[0] < result["steps"]
    assert len(evaluations) - evaluations.index(best) - 1 == 3
    [told] = [line for line in reports if line.get("code") == "EARLY_STOP"]
    assert (told["step"], told["best_step"]) == (result["steps"], best[0])
    # The best checkpoint outlived the rotation to one, and its weights are the result's.
    names = sorted(Path(path).name for path in result["checkpoints"])
    assert "checkpoint-%d" % best[0] in names
    summary = json.loads((output / "moai-training.json").read_text())
    assert summary["best"] == result["best"] and summary["settings"]["early_stop"] == 3
    measured = child.run("evaluate", {"model": str(output), "dataset": dataset, "device": "cpu", "output": str(output / "x.json")})
    assert measured["result"]["figures"]["loss"] == pytest.approx(best[1], abs=0.02)
    card = (output / "README.md").read_text()
    assert "ended early" in card and 'base_model: "org/tiny"' in card and "PeftModel" in card


def test_what_counts_as_an_improvement():
    def history(*losses):
        return [{"step": 1, "loss": 9.0}] + [{"step": at, "eval_loss": loss} for at, loss in enumerate(losses, 1)]

    assert callbacks.best_of(history()) == (None, 0)
    assert callbacks.best_of(history(3.0, 2.0, 2.0, 2.5)) == ((2, 2.0), 2), "equal is no improvement"
    assert callbacks.best_of(history(math.nan, 2.0, math.nan, math.inf)) == ((2, 2.0), 2)
    assert callbacks.best_of(history(3.0, 4.0, 1.0)) == ((3, 1.0), 0)


def test_early_stop_without_evaluations_is_refused_before_anything_is_loaded():
    paths = {"model": "/m", "dataset": "/d", "output": "/o"}
    for name, value in (("early_stop", "2"), ("keep_best", "true")):
        with pytest.raises(StepError) as caught:
            train_settings.TrainSettings(dict(paths, settings={name: value}))
        assert caught.value.reason == "USAGE" and "eval_steps" in caught.value.next
    assert train_settings.TrainSettings(dict(paths, settings={"eval_steps": 5, "early_stop": 2})).early_stop == 2


def test_loss_and_perplexity_are_those_of_the_tokens(child, early, model, dataset, tmp_path):
    code = """
import torch, transformers, datasets
net = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
total = count = 0
for row in datasets.load_from_disk(dataset)["validation"]:
    ids = [i for i, m in zip(row["input_ids"], row["attention_mask"]) if m]
    with torch.no_grad():
        logits = net(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    for at in range(len(ids) - 1):
        total -= float(logits[at, ids[at + 1]])
        count += 1
answer = [total / count, count]
"""
    expected, count = child.code(code, model=model, dataset=dataset)
    asked = {"model": str(early[2]), "dataset": dataset, "compare": True, "device": "cpu", "output": str(tmp_path / "e.json")}
    found = child.run("evaluate", asked)["result"]
    assert found["base_figures"]["loss"] == pytest.approx(expected, abs=1e-4) and found["tokens"] == count
    assert found["base_figures"]["perplexity"] == pytest.approx(math.exp(expected), rel=1e-3)
    assert found["split"] == "validation" and found["figures"]["loss"] != found["base_figures"]["loss"]
    kept = json.loads((tmp_path / "e.json").read_text())
    assert kept["figures"] == found["figures"]


def test_rouge_compares_the_answers_with_the_held_out_rows(child, early, dataset, made_from, tmp_path):
    asked = {
        "model": str(early[2]), "dataset": dataset, "rows": 2, "rouge": made_from, "max_new_tokens": 4, "device": "cpu",
        "output": str(tmp_path / "e.json"),
    }  # fmt: skip
    scores = child.run("evaluate", asked)["result"]["figures"]["rouge"]
    assert scores["rows"] == 2 and all(0 <= scores[name] <= 1 for name in ("rouge1", "rouge2", "rougeL"))
    code = """
from moai_worker import templates
from moai_worker.steps import evaluate, prepare
prompts, answers = evaluate.references(made_from, templates.load("summarize"), "validation", 99)
rows = list(prepare.raw_rows(made_from, "validation"))
answer = [[p.text for p in prompts], answers, rows]
"""
    prompts, answers, rows = child.code(code, made_from=made_from)
    assert answers == [row["highlights"] for row in rows] and len(rows) == 4
    assert prompts == ["[SUMMARIZE] %s [/SUMMARIZE]\n" % row["article"] for row in rows]


@pytest.mark.parametrize(
    ("changed", "code", "named"),
    [
        ({"split": "test"}, "DATASET_INVALID", "train, validation"),
        ({"split": "all"}, "USAGE", "all"),
        ({"model": "/nowhere"}, "MODEL_INVALID", "/nowhere"),
        ({"dataset": "/nowhere"}, "DATASET_INVALID", "/nowhere"),
    ],
)
def test_what_cannot_be_measured_is_told(child, early, dataset, tmp_path, changed, code, named):
    asked = dict({"model": str(early[2]), "dataset": dataset, "device": "cpu", "output": str(tmp_path / "e")}, **changed)
    error = child.run("evaluate", asked)["error"]
    assert error["code"] == code and named in error["message"] and error["next"]


def test_a_merged_model_computes_what_the_adapter_does(child, early, model, tmp_path):
    output = tmp_path / "merged"
    adapter = str(early[2])
    merged = child.run("merge", {"adapter": adapter, "output": str(output)})["result"]
    assert merged["by"] == "shards" and not merged["reused"] and merged["tensors"] == 4
    assert any("MB of memory" in line["text"] for line in child.reports("message"))
    code = """
import peft, torch, transformers
ids = torch.arange(1, 50).view(1, -1)
base = transformers.AutoModelForCausalLM.from_pretrained(model)
wanted = peft.PeftModel.from_pretrained(base, adapter).eval()(ids).logits
found, info = transformers.AutoModelForCausalLM.from_pretrained(output, output_loading_info=True)
plain = transformers.AutoModelForCausalLM.from_pretrained(model).eval()(ids).logits
answer = [float((found.eval()(ids).logits - wanted).abs().max()), float((plain - wanted).abs().max()),
          sorted(info["missing_keys"])]
"""
    off, changed, missing = child.code(code, model=model, adapter=adapter, output=str(output))
    assert off < 1e-3 < changed and missing == []
    assert "result" in child.run("verify", {"path": str(output), "method": "full", "load": True})
    assert (output / "tokenizer.json").read_bytes() == (Path(model) / "tokenizer.json").read_bytes()
    assert "merged" in (output / "README.md").read_text()
    assert child.run("merge", {"adapter": adapter, "output": str(output)})["result"]["reused"]
    # What shards cannot do, peft does, with the same result; a base in parts keeps its parts.
    code = """
from moai_worker.steps import merge
from moai_worker.reporter import Reporter
import os
merge.why_not_by_shards, kept = (lambda *a: "a test says so"), merge.why_not_by_shards
try:
    answer = merge.run({"adapter": adapter, "output": output}, Reporter(os.devnull))
finally:
    merge.why_not_by_shards = kept
"""
    by_peft = child.code(code, adapter=adapter, output=str(tmp_path / "by_peft"))
    assert by_peft["by"] == "peft"
    code = """
import safetensors.torch as s
a, b = s.load_file(one + "/model.safetensors"), s.load_file(two + "/model.safetensors")
answer = [sorted(a) == sorted(b), max(float((a[k] - b[k]).abs().max()) for k in a)]
"""
    same, off = child.code(code, one=str(output), two=str(tmp_path / "by_peft"))
    assert same and off < 1e-4


def test_what_there_is_nothing_to_merge_of_is_refused(child, early, model, tmp_path):
    error = child.run("merge", {"adapter": model})["error"]
    assert error["code"] == "USAGE" and "nothing to merge" in error["message"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    error = child.run("merge", {"adapter": str(early[2]), "output": str(tmp_path / "mine")})["error"]
    assert error["code"] == "USAGE" and (tmp_path / "mine" / "thesis.txt").read_text() == "x"
    odd = tmp_path / "odd"
    shutil.copytree(str(early[2]), str(odd))
    config = json.loads((odd / "adapter_config.json").read_text())
    (odd / "adapter_config.json").write_text(json.dumps(dict(config, use_dora=True)))
    code = "from moai_worker.steps import merge; import json\nanswer = merge.why_not_by_shards(odd, model, config)"
    assert child.code(code, odd=str(odd), model=model, config=dict(config, use_dora=True)) == "it uses use_dora"
    assert child.code(code, odd=str(odd), model=model, config=config) == ""


def test_a_tracker_gets_the_figures_and_the_files_lie_beside_the_result(child, model, dataset, tmp_path):
    (tmp_path / "tensorboardX.py").write_text(_WRITER)
    child.code("import sys; sys.path.insert(0, folder)", folder=str(tmp_path))
    output = tmp_path / "out"
    output.mkdir()
    (output / "README.md").write_text("# mine\n")
    outcome = child.run("train", {
        "model": model, "dataset": dataset, "output": str(output), "method": "lora", "max_steps": 2, "batch_size": 8,
        "save_steps": 5, "device": "cpu", "settings": {"report_to": "tensorboard"},
    })  # fmt: skip
    child.code("import os; os.environ.pop('TENSORBOARD_LOGGING_DIR', None)")
    assert "result" in outcome, outcome
    lines = [json.loads(line) for line in (output / "tensorboard" / "events.out.tfevents.1").read_text().splitlines()]
    assert [step for name, _, step in lines if name == "train/loss"] == [1, 2]
    assert (output / "README.md").read_text() == "# mine\n", "peft writes a card while it saves; ours would too"
    # What is missing is found before the model is loaded.
    refused = child.run("train", {
        "model": model, "dataset": dataset, "output": str(tmp_path / "no"), "device": "cpu", "settings": {"report_to": "wandb"},
    })  # fmt: skip
    assert refused["error"]["code"] == "PACKAGE_MISSING" and "wandb" in refused["error"]["next"]
    assert [line["text"] for line in child.reports("phase")] == ["libraries"]


def test_trackers_are_named(monkeypatch, tmp_path):
    assert trackers.wanted(None) == trackers.wanted("none") == trackers.wanted([]) == []
    assert trackers.wanted("wandb, tensorboard") == trackers.wanted(["wandb", "tensorboard"]) == ["wandb", "tensorboard"]
    for value in ("all", [1]):
        with pytest.raises(StepError):
            trackers.wanted(value)
    (tmp_path / "wandb.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(StepError) as caught:
        trackers.prepare("wandb", str(tmp_path), None)
    assert caught.value.reason == "SECRET_NEEDED" and "--secret WANDB_API_KEY" in caught.value.next

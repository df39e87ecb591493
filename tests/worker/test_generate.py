"""Generation with a real tiny model and an adapter trained for a few steps, on the CPU."""

import json
import shutil
from pathlib import Path

import pytest
from fakes import tinymodel
from fakes.news import news, write_jsonl
from fakes.stepchild import StepChild
from moai_worker import templates
from moai_worker.errors import StepError
from moai_worker.steps.generate import read_prompts

ARTICLE = news(1, seed=99, sentences=1)[0]["article"]


def prompts_of(template=None, **inputs):
    return [prompt.text for prompt in read_prompts(inputs, templates.load(template) if template else None)]


def test_the_summarize_prompt_has_the_tutorials_shape():
    expected = "[SUMMARIZE] Rain. [/SUMMARIZE]\n"
    assert prompts_of("summarize", prompts=["Rain."]) == [expected]


def test_rows_of_a_file_may_carry_the_answer_too(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"article": "Rain.", "highlights": "Wet."}, "Sun."]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    expected = ["[SUMMARIZE] Rain. [/SUMMARIZE]\n", "[SUMMARIZE] Sun. [/SUMMARIZE]\n"]
    assert prompts_of("summarize", prompt_file=str(path)) == expected
    assert prompts_of(prompts=["As it is"], prompt_file=str(path)) == ["As it is", "Rain.", "Sun."]


@pytest.mark.parametrize(
    ("content", "reason", "named"),
    [
        ('{"article": "a"}\n{oops\n', "DATASET_INVALID", "line 2"),
        ("[1]\n", "DATASET_INVALID", "line 1"),
        ('{"title": "a"}\n', "COLUMN_MISSING", "title"),
        ("", "USAGE", "no prompts"),
        (None, "FILE_NOT_FOUND", "rows.jsonl"),
    ],
)
def test_a_wrong_prompt_file_is_named_with_its_line(tmp_path, content, reason, named):
    path = tmp_path / "rows.jsonl"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(StepError) as caught:
        prompts_of(prompt_file=str(path))
    assert caught.value.reason == reason and named in caught.value.message and caught.value.next


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
    folder = tmp_path_factory.mktemp("model")
    python = tinymodel.train_python()
    return tinymodel.build(folder, python, vocab_size=600, hidden=32, max_length=128)


@pytest.fixture(scope="module")
def adapter(child, model, tmp_path_factory):
    """An adapter that has learned something within a few steps at a high rate."""
    folder = tmp_path_factory.mktemp("train")
    prepared = child.run("prepare", {
        "source": write_jsonl(str(folder / "news.jsonl"), 40, sentences=0), "model": str(model),
        "template": "summarize", "block_size": 48, "output": str(folder / "prepared"),
    })["result"]  # fmt: skip
    outcome = child.run("train", {
        "model": str(model), "dataset": prepared["path"], "output": str(folder / "adapter"), "method": "lora",
        "max_steps": 8, "batch_size": 8, "learning_rate": 0.1, "device": "cpu",
        "lora": {"r": 8, "targets": ["q_proj", "v_proj", "o_proj", "down_proj", "up_proj"]},
    })  # fmt: skip
    return outcome["result"]["path"]


@pytest.fixture
def answer(child, tmp_path):
    """Run the step; returns its outcome and the lines of the answer file."""

    def call(**inputs):
        output = tmp_path / "answers" / "out.jsonl"
        base = {"output": str(output), "device": "cpu", "max_new_tokens": 12}
        outcome = child.run("generate", dict(base, **inputs))
        lines = []
        if "result" in outcome:
            assert outcome["result"] == {"count": len(inputs["prompts"]), "output": str(output)}
            lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
        return outcome, lines

    return call


def test_an_adapter_and_its_base_answer_side_by_side(answer, child, adapter, model):
    prompts = [ARTICLE, news(2, seed=5, sentences=0)[1]["article"]]
    outcome, lines = answer(model=adapter, prompts=prompts, template="summarize", compare=True)
    assert [line["prompt"] for line in lines] == ["[SUMMARIZE] %s [/SUMMARIZE]\n" % text for text in prompts]
    assert all(line["text"] != line["base_text"] for line in lines)
    # The base's half is what the base alone says.
    _, alone = answer(model=str(model), prompts=prompts, template="summarize")
    assert [line["text"] for line in alone] == [line["base_text"] for line in lines]
    assert [line["base_text"] for line in alone] == [None, None]
    # Greedy: asking again gives the same.
    _, again = answer(model=adapter, prompts=prompts, template="summarize", compare=True)
    assert again == lines
    assert child.reports("progress")[-1]["done"] == 2
    assert "[2/2] [SUMMARIZE]" in child.log() and "  base:" in child.log()


def test_a_moved_base_model_can_be_named(answer, adapter, model, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(str(model), str(moved))
    lost = tmp_path / "adapter"
    shutil.copytree(adapter, str(lost))
    config = json.loads((lost / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "gone")
    (lost / "adapter_config.json").write_text(json.dumps(config))
    outcome, _ = answer(model=str(lost), prompts=["a"])
    assert outcome["error"]["code"] == "MODEL_INVALID" and "gone" in outcome["error"]["message"]
    _, lines = answer(model=str(lost), prompts=["a"], base_model=str(moved))
    _, expected = answer(model=adapter, prompts=["a"])
    assert lines == expected


def test_a_long_article_is_shortened_but_keeps_the_closing_marker(answer, child, model):
    code = """
from transformers import AutoTokenizer
from moai_worker import templates
from moai_worker.steps.generate import Prompt
tokenizer = AutoTokenizer.from_pretrained(model)
prompt = Prompt({"article": article, "highlights": "x " * 9000}, templates.load("summarize"))
ids, cut = prompt.fitting(tokenizer, 60)
answer = [len(ids), cut, tokenizer.decode(ids, skip_special_tokens=True)]
"""
    count, cut, text = child.code(code, model=str(model), article=ARTICLE * 20)
    assert cut and 50 <= count <= 60
    assert text.startswith("[SUMMARIZE] " + ARTICLE[:20]) and text.endswith(" [/SUMMARIZE]\n")
    outcome, lines = answer(model=str(model), prompts=[ARTICLE * 20], template="summarize")
    assert outcome["result"]["count"] == 1
    assert any("shortened" in line["text"] for line in child.reports("message"))


def test_what_cannot_be_answered_is_refused_before_loading(answer, model, tmp_path):
    outcome, _ = answer(model=str(tmp_path / "none"), prompts=["a"])
    assert outcome["error"]["code"] == "MODEL_INVALID"
    outcome, _ = answer(model=str(model), prompts=["a"], compare=True)
    assert outcome["error"]["code"] == "USAGE" and "base_model" in outcome["error"]["next"]
    outcome, _ = answer(model=str(model), prompts=[])
    assert outcome["error"]["code"] == "USAGE"
    bare = tmp_path / "bare"
    shutil.copytree(str(model), str(bare))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (Path(str(bare)) / name).unlink()
    outcome, _ = answer(model=str(bare), prompts=["a"])
    assert outcome["error"]["code"] == "TOKENIZER_FAILED"

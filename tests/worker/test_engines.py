"""Engines: the ids of the model's own tokenizer, whichever program makes them; and what happens when one will not.

The fast libraries run in a process of this checkout's Python where they are installed; fakes of them, made
of ``tokenizers`` itself, lie, die and hang. Everything runs in one child of the train environment.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import tinymodel, tokenizers
from fakes.news import news
from fakes.preparechild import Child

_REPO = Path(__file__).resolve().parents[2]
_WORKER = _REPO / "agent" / "moai_worker" / "engine_worker.py"
#: A library of the fast kind: what it does to the ids is up to MISCHIEF.
_FAKE = '''
import json, os, sys, time
from array import array
from tokenizers import Tokenizer as Real
class Tokenizer:
    calls = 0
    @classmethod
    def from_json_str(cls, text):
        MISCHIEF_AT_LOAD
        self = cls(); self.real = Real.from_str(text); return self
    def encode_batch_flat(self, texts, add_special_tokens):
        Tokenizer.calls += 1
        rows = [row.ids for row in self.real.encode_batch(texts, add_special_tokens=False)]
        MISCHIEF
        offsets = array("Q", [0])
        for row in rows: offsets.append(offsets[-1] + len(row))
        return b"".join(array("I", row).tobytes() for row in rows), offsets.tobytes()
'''


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
def models(python, tmp_path_factory):
    return tokenizers.build(tmp_path_factory.mktemp("tokenizers"), python)


@pytest.fixture
def step(child, models, tmp_path):
    rows = news(40, sentences=6) + [
        {"article": "é" * 50 + " \u65e5\u672c \U0001f468\u200d\U0001f469 \x00", "highlights": "안녕 세계"},
        {"article": "</s> <s> [INST] a  b\t\n\n", "highlights": "\ufeff\u00a0x"},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def call(kind="bpe", **inputs):
        wanted = {
            "source": str(tmp_path / "in.jsonl"),
            "model": str(models / kind),
            "output": str(tmp_path / "out"),
            "block_size": 48,
            "pad_token_id": 0,
            "validation_fraction": 0,
            "jobs": 2,
        }
        wanted.update(inputs)
        return child.ask("answer = run(**inputs)", inputs=wanted)

    return call


def _fast_python():
    """A Python that has the fast libraries, or None."""
    for path in (_REPO / ".venv" / "bin" / "python", Path(sys.executable)):
        if path.exists() and subprocess.call([str(path), "-c", "import fastokens, gigatoken"], stderr=subprocess.DEVNULL) == 0:
            return str(path)
    return None


def _fake(folder, mischief="", at_load=""):
    package = folder / "wheels" / "fastokens"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "_native.py").write_text(_FAKE.replace("MISCHIEF_AT_LOAD", at_load or "pass").replace("MISCHIEF", mischief or "pass"))
    return str(folder / "wheels")


def _own_rows(child, got, model, block):
    """The rows written, and what the model's own tokenizer gives row by row."""
    return child.ask(
        """
import json
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(model)
tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
texts = ["[SUMMARIZE] {article} [/SUMMARIZE]\\n{highlights}</s>".format(**json.loads(line)) for line in open(source)]
own = [tokenizer(text, truncation=True, max_length=block, padding="max_length") for text in texts]
answer = [arrow(out)["train"], {c: [list(row[c]) for row in own] for c in ("input_ids", "attention_mask")}]
""",
        model=model,
        block=block,
        out=got["path"],
        source=got["path"] + "/../in.jsonl",
    )


def _messages(got):
    return [(code, text) for what, code, text in (entry for entry in got["seen"] if entry[0] == "message")]


@pytest.mark.parametrize("kind", tokenizers.KINDS)
@pytest.mark.parametrize("engine", ["tokenizers", "gigatoken", "fastokens"])
def test_ids_are_those_of_the_models_own_tokenizer(child, models, step, python, kind, engine, tmp_path):
    fast = None if engine == "tokenizers" else _fast_python()
    if engine != "tokenizers" and fast is None:
        pytest.skip("no Python here has gigatoken and fastokens: pip install -e '.[dev]' in .venv")
    candidates = [{"name": engine, "python": fast, "folder": ""}] if fast else []
    got = step(kind, engine="auto" if fast else "tokenizers", engines=candidates)
    written, own = _own_rows(child, got["result"], str(models / kind), 48)
    assert written["input_ids"] == own["input_ids"]
    assert written["attention_mask"] == own["attention_mask"]
    if kind == "bpe" or engine == "tokenizers":
        assert got["result"]["engine"] == engine  # no silent fallback where it is known to work
    else:
        assert got["result"]["engine"] == engine or "ENGINE_REFUSED" in [code for code, _ in _messages(got)]


def test_any_unicode_gives_the_same_ids(child, models):
    hypothesis = pytest.importorskip("hypothesis")
    from hypothesis import strategies

    fast = _fast_python()
    child.ask(
        """
import __main__
from moai_worker import engines, modeltokenizer, rendering
__main__.held = []
for kind in kinds:
    own = modeltokenizer.ModelTokenizer(models + "/" + kind, rendering.load("{a}").named, 40, True, __main__.Report())
    chosen = engines.Chooser("tokenizers", [], "", own, [], folder, 1, __main__.Report(), 40).next()
    __main__.held.append((own, chosen))
    if fast and kind != "unigram":
        candidates = [{"name": "fastokens", "python": fast, "folder": ""}]
        chosen = engines.Chooser("auto", candidates, "", own, [], models + "/" + kind, 1, __main__.Report(), 40).next()
        __main__.held.append((own, chosen))
answer = [chosen.name for _, chosen in __main__.held]
""",
        kinds=list(tokenizers.KINDS),
        models=str(models),
        folder=str(models),
        fast=fast,
    )

    # Lone surrogates are no text: a row that holds one is refused with its place.
    words = strategies.text(strategies.characters(exclude_categories=("Cs",)), max_size=60)

    @hypothesis.settings(max_examples=40, deadline=None, database=None, derandomize=True)
    @hypothesis.given(strategies.lists(words, min_size=1, max_size=12))
    def same(texts):
        unlike = child.ask(
            """
import __main__
from moai_worker import engines
answer = [(c.name, t) for own, c in __main__.held for t in [engines.difference(c, own, texts, False)] if t is not None]
""",
            texts=texts,
        )
        assert unlike == []

    try:
        same()
    finally:
        child.ask("import __main__\nfor own, chosen in __main__.held: chosen.close()\nanswer = None")


@pytest.mark.parametrize("mischief", ["rows = [[i + 1 for i in row] for row in rows]", "rows[-1] = rows[-1][:-1]"])
def test_an_engine_with_other_ids_is_refused(step, python, tmp_path, mischief):
    fake = [{"name": "fastokens", "python": python, "folder": _fake(tmp_path, mischief)}]
    got = step(engines=fake)
    assert got["result"]["engine"] == "tokenizers"
    said = dict(_messages(got))
    assert "fastokens" in said["ENGINE_REFUSED"] and "other ids" in said["ENGINE_REFUSED"]
    error = step(engines=fake, engine="fastokens", block_size=40)["error"]
    assert error["code"] == "ENGINE_UNAVAILABLE" and "other ids" in error["message"] and error["next"]


@pytest.mark.parametrize(
    "mischief, at_load, words",
    [
        ("if Tokenizer.calls > 1: os._exit(7)", "", "exit code 7"),
        ("if Tokenizer.calls > 1: os.write(3, b'x' * 100)", "", "no frame"),
        ("", "raise RuntimeError('no such model')", "no such model"),
        ("", "os._exit(3)", "exit code 3"),
        ("", "os.write(3, b'garbage\\n')", "nonsense"),
    ],
)
def test_an_engine_that_fails_is_replaced_and_said(child, models, step, python, tmp_path, mischief, at_load, words):
    fake = [{"name": "fastokens", "python": python, "folder": _fake(tmp_path, mischief, at_load)}]
    got = step(engines=fake)
    assert got["result"]["engine"] == "tokenizers"
    assert words in dict(_messages(got))["ENGINE_REFUSED"]
    written, own = _own_rows(child, got["result"], str(models / "bpe"), 48)
    assert written["input_ids"] == own["input_ids"]


def test_an_engine_that_hangs_is_given_up(child, step, python, tmp_path):
    fake = [{"name": "fastokens", "python": python, "folder": _fake(tmp_path, "time.sleep(1000)")}]
    child.ask("from moai_worker import engine_process as e; prepare._held, e.BATCH_S, answer = e.BATCH_S, 0.2, None")
    try:
        got = step(engines=fake)
    finally:
        child.ask("from moai_worker import engine_process as e; e.BATCH_S, answer = prepare._held, None")
    assert got["result"]["engine"] == "tokenizers" and "in time" in dict(_messages(got))["ENGINE_REFUSED"]


def test_an_engine_that_is_not_there_is_named(step, tmp_path):
    error = step(engine="gigatoken", engine_note="the container has no Python 3.10")["error"]
    assert error["code"] == "ENGINE_UNAVAILABLE" and "no Python 3.10" in error["message"]
    assert step(engine="speedy")["error"]["code"] == "USAGE"
    got = step(engines=[{"name": "fastokens", "python": str(tmp_path / "python3"), "folder": ""}])
    assert "cannot be run" in dict(_messages(got))["ENGINE_REFUSED"]


def test_the_worker_speaks_frames_and_leaves_when_its_parent_does(python, tmp_path):
    got = subprocess.run(
        [sys.executable, "-I", str(_WORKER), "fastokens", str(tmp_path), str(tmp_path / "no.json"), "right", "1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=60,
    )
    assert got.returncode == 1 and "error" in json.loads(got.stdout.decode())


def test_a_tokenizer_written_in_python_runs_in_several_processes(child, models, tmp_path, step, python):
    """A slow tokenizer as models bring it along: its own code, characters as ids."""
    folder = tmp_path / "slow"
    folder.mkdir()
    (folder / "tokenization_slow.py").write_text(
        """
from transformers import PreTrainedTokenizer
class SlowTokenizer(PreTrainedTokenizer):
    @property
    def vocab_size(self): return 300
    def get_vocab(self): return {"<c%d>" % i: i for i in range(300)}
    def _tokenize(self, text, **k): return ["<c%d>" % (ord(c) % 297 + 3) for c in text]
    def _convert_token_to_id(self, token): return int(token[2:-1]) if token.startswith("<c") else 1
    def _convert_id_to_token(self, i): return "<c%d>" % i
    def save_vocabulary(self, *a, **k): return ()
"""
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "SlowTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_slow.SlowTokenizer", None]}})
    )
    (folder / "config.json").write_text(json.dumps({"vocab_size": 310}))
    got = step(model=str(folder), trust_remote_code=True)
    assert got["result"]["engine"] == "transformers" and "in 2 processes" in dict(_messages(got))["ENGINE"]
    one = step(model=str(folder), trust_remote_code=True, jobs=1, output=str(tmp_path / "one"))
    assert Path(got["result"]["torch_file"]).read_bytes() == Path(one["result"]["torch_file"]).read_bytes()
    assert step(model=str(folder), trust_remote_code=True, engine="fastokens", block_size=8)["error"]["code"] == "ENGINE_UNAVAILABLE"
    assert not [name for name in os.listdir(str(tmp_path)) if ".partial-" in name]

"""The prepare step in the environment of a MoAI container: Python 3.8, torch 1.13.1, transformers 4.41.

Needs ``MOAI_ENV_PYTHON`` (``make test-moai-env`` makes that environment and sets it); skipped otherwise.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from fakes import tokenizers
from fakes.news import write_jsonl
from fakes.preparechild import Child

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
_PYTHON = os.environ.get("MOAI_ENV_PYTHON", "")
_REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def python():
    if not _PYTHON:
        pytest.skip("no MoAI-like environment: make test-moai-env")
    return _PYTHON


@pytest.fixture(scope="module")
def child(python, tmp_path_factory):
    child = Child(python, tmp_path_factory.mktemp("child") / "log")
    yield child
    child.close()


@pytest.fixture(scope="module")
def models(python, tmp_path_factory):
    return tokenizers.build(tmp_path_factory.mktemp("tokenizers"), python)


@pytest.mark.parametrize("kind", tokenizers.KINDS)
def test_the_step_gives_the_tokenizers_own_ids_there(child, models, tmp_path, kind):
    write_jsonl(str(tmp_path / "in.jsonl"), 30)
    fast = _REPO / ".venv" / "bin" / "python"
    got = child.ask(
        "answer = run(**inputs)",
        inputs={
            "source": str(tmp_path / "in.jsonl"), "model": str(models / kind), "output": str(tmp_path / "out"), "block_size": 400,
            "pad_token_id": 0, "validation_fraction": 0, "mask_prompt": True, "torch_attention_mask": True,
            "engines": [{"name": "fastokens", "python": str(fast), "folder": ""}],
        },
    )  # fmt: skip
    written, own = child.ask(
        """
import json
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(model)
tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
texts = ["[SUMMARIZE] {article} [/SUMMARIZE]\\n{highlights}</s>".format(**json.loads(line)) for line in open(source)]
answer = [arrow(out)["train"]["input_ids"], [tokenizer(t, truncation=True, max_length=400, padding="max_length")["input_ids"] for t in texts]]
""",
        model=str(models / kind),
        source=str(tmp_path / "in.jsonl"),
        out=got["result"]["path"],
    )
    assert written == own


def test_plain_torch_load_opens_the_file_alone_and_a_trainers_loop_reads_it(child, python, models, tmp_path):
    write_jsonl(str(tmp_path / "in.jsonl"), 60)
    inputs = {
        "source": str(tmp_path / "in.jsonl"), "model": str(models / "bpe"), "output": str(tmp_path / "out"), "block_size": 64,
        "cache_dir": str(tmp_path / "cache"),
    }  # fmt: skip
    got = child.ask("answer = run(**inputs)", inputs=inputs)["result"]
    kept = tmp_path / "llama3_dataset.pt"
    shutil.copy(got["torch_file"], str(kept))
    own = child.ask("answer = arrow(path)['train']['input_ids']", path=got["path"])
    for gone in ("out", "cache"):
        shutil.rmtree(str(tmp_path / gone), ignore_errors=True)
    script = r"""
import json, sys, torch
from torch.utils.data import DataLoader
dataset = torch.load(sys.argv[1])
def collate(batch):
    return torch.stack([row["input_ids"] for row in batch])
loader = DataLoader(dataset["train"], batch_size=8, shuffle=False, drop_last=True)
rows, shapes = [], set()
for step, batch in enumerate(loader, start=1):
    input_ids = batch["input_ids"]
    labels = input_ids.clone()
    labels[labels == 0] = -100
    rows += input_ids.tolist(); shapes.add((tuple(input_ids.shape), str(input_ids.dtype)))
print(json.dumps([torch.__version__, rows, sorted(map(str, shapes)), len(dataset["train"]), len(dataset["validation"])]))
"""
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "none")}
    done = subprocess.run([python, "-c", script, str(kept)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    version, rows, shapes, train, validation = json.loads(done.stdout.decode())
    assert version.startswith("1.13") and (train, validation) == (57, 3)
    assert shapes == ["((8, 64), 'torch.int64')"] and rows == own[: len(rows)] and len(rows) == 56

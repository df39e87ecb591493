"""What other libraries make of the stand-in Hub and of our cache entries: transformers, datasets.

Needs the train environment (torch, transformers, datasets); skipped loudly elsewhere. One child
does all of it, because importing these libraries is most of the time.
"""

import json
import os
import subprocess
import sys

import pytest
from fakes.hub import HubServer
from fakes.hub_repos import folder_files
from moai_worker.download import download
from moai_worker.hub import plan_download

NO_LIBRARY = "SKIPPED LOUDLY: transformers, torch and datasets are not in this interpreter"
MAKE = """
import sys
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast
config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                     num_attention_heads=2, num_key_value_heads=2)
AutoModelForCausalLM.from_config(config).save_pretrained(sys.argv[1])
words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(sys.argv[1])
"""
LOAD = """
import os, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("org/tiny")
print(type(model).__name__, AutoTokenizer.from_pretrained("org/tiny")("a")["input_ids"])
if len(sys.argv) > 1:
    from datasets import load_dataset
    for name in sys.argv[1:]:
        print(load_dataset(name)["train"].num_rows, next(iter(load_dataset(name, split="train", streaming=True))))
# A streamed data set leaves threads of pyarrow and aiohttp; now and then the end of Python aborts on one.
sys.stdout.flush()
os._exit(0)
"""


def run(code, *args, **env):
    return subprocess.run(
        [sys.executable, "-c", code] + list(args),
        env=dict(os.environ, HF_HUB_DISABLE_PROGRESS_BARS="1", **env),
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
    ).stdout.decode()


def test_transformers_and_datasets_load_from_the_stand_in_and_offline_from_our_cache(tmp_path, monkeypatch):
    for library in ("torch", "transformers", "datasets"):
        pytest.importorskip(library, reason=NO_LIBRARY)
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("HF_"):
            monkeypatch.delenv(name)
    parquet = pytest.importorskip("pyarrow.parquet", reason=NO_LIBRARY)
    arrow = pytest.importorskip("pyarrow", reason=NO_LIBRARY)
    run(MAKE, str(tmp_path / "model"))
    parquet.write_table(arrow.table({"n": [1, 2, 3]}), str(tmp_path / "x.parquet"))
    lines = "\n".join(json.dumps({"n": i}) for i in range(5))
    with HubServer() as hub:
        hub.add_model("org/tiny", dict(folder_files(str(tmp_path / "model")), **{"tf_model.h5": b"x"}))
        hub.add_dataset("org/lines", {"train.jsonl": lines.encode(), "README.md": b"# data\n"})
        hub.add_dataset("org/table", {"data/train-00000-of-00001.parquet": str(tmp_path / "x.parquet")})
        env = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "theirs")}
        out = run(LOAD, "org/lines", "org/table", **env).split("\n")
        assert out[:3] == ["LlamaForCausalLM [0]", "5 {'n': 0}", "3 {'n': 1}"]
        plan = plan_download("org/tiny", endpoint=hub.endpoint)
        assert [path for path, _ in plan.left_out] == ["tf_model.h5"]
        download(plan, str(tmp_path / "ours" / "hub"), hub.endpoint)
    assert run(LOAD, HF_HOME=str(tmp_path / "ours"), HF_HUB_OFFLINE="1").startswith("LlamaForCausalLM [0]")

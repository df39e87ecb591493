"""A tiny Llama as an ordinary Hugging Face folder, made in seconds and without a network.

The heavy work runs in a child with the train environment's Python (torch and transformers live only
there); this module itself needs the standard library alone. Like Llama 3, the tokenizer is
byte-level BPE, puts a beginning-of-text token first, has **no** pad token, its id 0 is ``!``, and
``</s>`` is not a special token.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Optional, Union

from .news import news

_REPO = Path(__file__).resolve().parents[2]
_BUILD_TIMEOUT_S = 300

#: Runs in the child: reads a JSON request from stdin, writes the folder.
_CHILD = r"""
import json, sys
want = json.load(sys.stdin)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

bos, eos = "<|begin_of_text|>", "<|end_of_text|>"
tok = Tokenizer(models.BPE())
tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tok.decoder = decoders.ByteLevel()
tok.train_from_iterator(want["texts"], trainers.BpeTrainer(
    vocab_size=want["vocab_size"] - 2, show_progress=False,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
tok.add_special_tokens([bos, eos])
tok.post_processor = processors.TemplateProcessing(
    single=bos + " $A", pair=bos + " $A $B", special_tokens=[(bos, tok.token_to_id(bos))])
fast = PreTrainedTokenizerFast(tokenizer_object=tok, bos_token=bos, eos_token=eos,
                               model_max_length=want["max_length"], clean_up_tokenization_spaces=False)
fast.save_pretrained(want["folder"])
if want["weights"]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(want["seed"])
    config = LlamaConfig(
        vocab_size=want["vocab_size"], hidden_size=want["hidden"], intermediate_size=2 * want["hidden"],
        num_hidden_layers=want["layers"], num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=want["max_length"], tie_word_embeddings=True,
        bos_token_id=tok.token_to_id(bos), eos_token_id=tok.token_to_id(eos))
    LlamaForCausalLM(config).save_pretrained(want["folder"], safe_serialization=True)
"""


def train_python() -> Optional[str]:
    """The Python of the train environment, or None when there is none.

    ``MOAI_TRAIN_PYTHON`` wins (an empty value means none); else ``.venv-train/bin/python`` of the
    checkout.
    """
    named = os.environ.get("MOAI_TRAIN_PYTHON")
    if named is not None:
        return named or None
    here = _REPO / ".venv-train" / "bin" / "python"
    return str(here) if here.exists() else None


def build(
    folder: Union[str, Path],
    python: Union[str, Path] = sys.executable,
    weights: bool = True,
    vocab_size: int = 2000,
    hidden: int = 64,
    layers: int = 2,
    max_length: int = 2048,
    seed: int = 1,
) -> Path:
    """Create ``folder`` with config.json, model.safetensors and the tokenizer's files.

    Args:
        folder: made if missing; a folder that already holds a finished build is left as it is.
        python: interpreter with transformers and tokenizers (and torch when ``weights``).
        weights: False writes the tokenizer only, for environments without torch.
        vocab_size, hidden, layers, max_length: size of the model; the tokenizer has at most
            ``vocab_size`` entries.
        seed: of the random weights.

    Returns:
        The folder as a Path.

    Raises:
        RuntimeError: the child failed; the message ends with what it printed.
    """
    folder = Path(folder)
    done = folder / ("model.safetensors" if weights else "tokenizer.json")
    if done.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = news(400, seed=3)
    texts = ["[SUMMARIZE] {article} [/SUMMARIZE]\n{highlights}</s>".format(**row) for row in rows]
    want = {
        "folder": str(folder),
        "weights": weights,
        "vocab_size": vocab_size,
        "hidden": hidden,
        "layers": layers,
        "max_length": max_length,
        "seed": seed,
        "texts": texts,
    }
    child = subprocess.run(
        [str(python), "-c", _CHILD],
        input=json.dumps(want),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        encoding="utf-8",
        timeout=_BUILD_TIMEOUT_S,
        env=dict(os.environ, HF_HUB_OFFLINE="1", PYTHONUTF8="1"),
    )
    if child.returncode != 0 or not done.exists():
        raise RuntimeError(
            "the tiny model could not be built with {}:\n{}".format(python, child.stdout[-2000:])
        )
    return folder

"""Small tokenizers of the three kinds models come with, trained in seconds from made-up news.

``bpe``: byte-level BPE with a beginning-of-text token (Llama 3's kind); ``sentencepiece``: BPE over "\\u2581"
with byte fallback and an unknown token (Llama 2's); ``tekken``: byte-level BPE split by tiktoken's pattern
(Mistral Nemo's); ``unigram``: sentencepiece's other model, with a normaliser and an end token (T5's). The
work runs in a child with the train environment's Python.
"""

import json
import subprocess
from pathlib import Path
from typing import Union

from .news import news

KINDS = ("bpe", "sentencepiece", "tekken", "unigram")
_BUILD_TIMEOUT_S = 120
_CHILD = r"""
import json, os, sys
want = json.load(sys.stdin)
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
texts = want["texts"]

def save(name, tok, **special):
    folder = os.path.join(want["folder"], name)
    PreTrainedTokenizerFast(tokenizer_object=tok, clean_up_tokenization_spaces=False, **special).save_pretrained(folder)
    json.dump({"vocab_size": tok.get_vocab_size()}, open(os.path.join(folder, "config.json"), "w"))

def framed(tok, before="", after=""):
    ids = [(t, tok.token_to_id(t)) for t in (before, after) if t]
    single = " ".join(p for p in (before, "$A", after) if p)
    tok.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)

tok = Tokenizer(models.BPE())
tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tok.decoder = decoders.ByteLevel()
tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=900, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
tok.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
framed(tok, "<|begin_of_text|>")
save("bpe", tok, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")

tok = Tokenizer(models.BPE())
pattern = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
           r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
tok.decoder = decoders.ByteLevel()
tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=900, show_progress=False, special_tokens=["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
framed(tok, "<s>")
save("tekken", tok, bos_token="<s>", eos_token="</s>", unk_token="<unk>")

tok = Tokenizer(models.BPE())
tok.pre_tokenizer = pre_tokenizers.Metaspace()
tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=700, show_progress=False))
model = json.loads(tok.to_str())["model"]
first = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % n for n in range(256)]
vocab = {t: n for n, t in enumerate(first + [t for t in sorted(model["vocab"], key=model["vocab"].get) if t not in first])}
merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
tok.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
tok.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
tok.add_special_tokens(["<unk>", "<s>", "</s>"])
framed(tok, "<s>")
save("sentencepiece", tok, bos_token="<s>", eos_token="</s>", unk_token="<unk>")

tok = Tokenizer(models.Unigram())
tok.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
tok.pre_tokenizer = pre_tokenizers.Metaspace()
tok.decoder = decoders.Metaspace()
tok.train_from_iterator(texts, trainers.UnigramTrainer(vocab_size=500, show_progress=False, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>"))
framed(tok, "", "</s>")
save("unigram", tok, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
"""


def build(folder: Union[str, Path], python: str) -> Path:
    """Make ``folder/KIND`` for each of ``KINDS``."""
    texts = [row["article"] + " " + row["highlights"] for row in news(300)] + ["안녕하세요 세계 여러분", "café naïve Zürich 東京"]
    done = subprocess.run(
        [python, "-c", _CHILD],
        input=json.dumps({"texts": texts, "folder": str(folder)}).encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_BUILD_TIMEOUT_S,
    )
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:].decode("utf-8", "replace"))
    return Path(folder)

"""The model's own tokenizer: loaded offline, with what must be known to make rows of its ids.

Owns the pad token and side, the special tokens that frame a text, the vocabulary that ids must fit, and
which files decide what the tokenizer does. Runs in the prepare and preview steps; transformers is imported
inside functions only. Refuses the network, and code inside the model's folder unless trusted.
"""

import errno
import hashlib
import json
import os
import sys
from typing import Any, Dict, List, Optional

from .datafiles import package_missing
from .errors import StepError

_TOKENIZER_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model.v3",
    "tekken.json",
    "sentencepiece.bpe.model",
    "tiktoken.model",
    "chat_template.jinja",
    "chat_template.json",
)


class TokenizerErrors:
    """Turns what the tokenizer libraries raise into TOKENIZER_FAILED.

    A class rather than an ``except`` list because tokenizers raises bare ``Exception`` for a damaged file,
    beside OSError, ValueError, KeyError, ImportError and AttributeError from transformers. Nothing is
    swallowed.
    """

    def __init__(self, model: str, doing: str) -> None:
        self._model = model
        self._doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if not isinstance(error, Exception) or isinstance(error, (StepError, MemoryError)):
            return
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return
        text = " ".join(str(error).split())[:400] or type(error).__name__
        raise StepError(
            "TOKENIZER_FAILED",
            "the tokenizer in {} {}: {}".format(self._model, self._doing, text),
            "check that the folder is complete, and that transformers in {} is not older than the one that "
            "wrote it".format(sys.executable),
        ) from error


class ModelTokenizer:
    """The tokenizer of a model and the settings of rows made with it.

    Args:
        model: folder of the model or of its tokenizer.
        named: tutorial settings (``templates.Named``): pad rule and side where the tokenizer leaves them open.
        block_size: ids in every row.
        specials: whether special tokens frame a text (a chat template writes them itself).
        report: a ``Reporter``, told which pad token is used and what may surprise.
        pad_token_id: overrides the tokenizer's own. trust_remote_code: let code in the model's folder run.

    Attributes:
        own: the transformers tokenizer. is_fast: it has a ``tokenizers`` backend.
        pad_token_id, side: what fills short rows, and on which side. cut_left: which end of a long row goes.
        prefix, suffix: ids that frame every text. eos: id of the end-of-text token, or None.
        vocab_size: ids are below it.
    """

    def __init__(
        self,
        model: str,
        named: Any,
        block_size: int,
        specials: bool,
        report: Any,
        pad_token_id: Optional[int] = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.model, self.block_size, self.specials = model, block_size, specials
        self.trust_remote_code = trust_remote_code
        self.own = load_tokenizer(model, trust_remote_code)
        self.is_fast = bool(getattr(self.own, "is_fast", False)) and getattr(self.own, "backend_tokenizer", None) is not None
        self.side: str = named.padding_side or self.own.padding_side
        self.cut_left: bool = getattr(self.own, "truncation_side", "right") == "left"
        self.pad_token_id = self._pad(pad_token_id, named.pad, report)
        self.eos: Optional[int] = self.own.eos_token_id
        self.vocab_size = vocab_size(model, self.own)
        self.prefix, self.suffix = self._frame() if specials else ([], [])
        self._check_fit(report)

    def row(self, text: str, whole: bool = False) -> List[int]:
        """The ids that the model's own tokenizer gives, cut at the block size or ``whole``."""
        options: Dict[str, Any] = {} if whole else {"truncation": True, "max_length": self.block_size}
        with TokenizerErrors(self.model, "failed on a text"):
            return list(self.own(text, add_special_tokens=self.specials, **options)["input_ids"])

    def check_ids(self, least: int, most: int) -> None:
        """TOKENIZER_FAILED unless both are ids of the model."""
        if least < 0 or most >= self.vocab_size:
            raise StepError(
                "TOKENIZER_FAILED",
                "the tokenizer in {} gave ids from {} to {}; the model takes ids below {}".format(
                    self.model, least, most, self.vocab_size
                ),
                "use the tokenizer that belongs to the model",
            )

    def warn_of_ending(self, ending: str, report: Any) -> None:
        """Say when the template's end is not one token."""
        if ending and len(self.own.encode(ending, add_special_tokens=False)) != 1:
            report.message(
                "the template's ending {!r} is not one token of this tokenizer; "
                "the model learns it as plain text".format(ending),
                code="ENDING_NOT_A_TOKEN",
            )

    def _frame(self) -> Any:
        """Special ids before and after a text: what a text has with them and not without."""
        with TokenizerErrors(self.model, "failed on a text"):
            bare = list(self.own.encode("a", add_special_tokens=False))
            framed = list(self.own.encode("a"))
        for at in range(len(framed) - len(bare) + 1):
            if framed[at : at + len(bare)] == bare:
                return framed[:at], framed[at + len(bare) :]
        return [], []  # the comparison with the tokenizer's own rows then refuses every other engine

    def _pad(self, given: Optional[int], rule: str, report: Any) -> int:
        if given is not None:
            return int(given)
        if self.own.pad_token_id is not None:
            return int(self.own.pad_token_id)
        known = {"eos": self.own.eos_token_id, "unk": self.own.unk_token_id}.get(rule)
        if known is not None:
            report.message(
                "the tokenizer has no pad token: padding with its {} token, id {}".format(rule, known),
                code="PAD_TOKEN",
                pad_token_id=known,
            )
            return int(known)
        report.message(
            "the tokenizer has no pad token: padding with id 0 as the Llama tutorials do; "
            "set tokenizer.pad_token_id = 0 in a training script of your own",
            code="PAD_TOKEN",
            pad_token_id=0,
        )
        return 0

    def _check_fit(self, report: Any) -> None:
        block = self.block_size
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise StepError(
                "TOKENIZER_FAILED",
                "the pad token id {} is outside the model's vocabulary of {}".format(
                    self.pad_token_id, self.vocab_size
                ),
                "give another one with --pad-token-id, for example 0",
            )
        positions = config(self.model).get("max_position_embeddings")
        if isinstance(positions, int) and positions < block:
            report.message(
                "block size {} is longer than the {} positions the model was made for".format(
                    block, positions
                ),
                "warning",
                "BLOCK_SIZE",
            )


def load_tokenizer(model: str, trust_remote_code: bool) -> Any:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ[name] = "1"  # the folder is here; looking for a newer one could hang for minutes
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise package_missing("transformers", "preparing a dataset", error) from error
    with TokenizerErrors(model, "cannot be loaded"):
        return AutoTokenizer.from_pretrained(
            model, trust_remote_code=trust_remote_code, local_files_only=True
        )


def config(model: str) -> Dict[str, Any]:
    try:
        with open(os.path.join(model, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StepError(
            "TOKENIZER_FAILED",
            "{}/config.json is not JSON: {}".format(model, error),
            "download the model again",
        ) from error
    return config if isinstance(config, dict) else {}


def vocab_size(model: str, tokenizer: Any) -> int:
    """Ids of the model: its configuration's word, else the tokenizer's."""
    size = config(model).get("vocab_size")
    return size if isinstance(size, int) and size > 0 else len(tokenizer)


def vocabulary(tokenizer: Any) -> str:
    """Names a tokenizer's vocabulary: SHA-256 over its tokens in the order of their ids."""
    digest = hashlib.sha256()
    for token, one in sorted(tokenizer.get_vocab().items(), key=lambda pair: (pair[1], pair[0])):
        digest.update("{} {}\n".format(one, token).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def tokenizer_digests(model: str) -> Dict[str, str]:
    """SHA-256 by name of the files in ``model`` that decide what its tokenizer does.

    Raises:
        StepError: FILE_NOT_FOUND without the folder, TOKENIZER_FAILED when it holds no tokenizer.
    """
    if not os.path.isdir(model):
        raise StepError(
            "FILE_NOT_FOUND",
            "there is no model folder {}".format(model),
            "download the model first, or give the folder it is in",
        )
    # Tokenizers with code of their own (Baichuan) change with that code.
    names = list(_TOKENIZER_FILES) + sorted(name for name in os.listdir(model) if name.endswith(".py"))
    paths = [(name, os.path.join(model, name)) for name in names]
    found = {name: sha256_of(path) for name, path in paths if os.path.isfile(path)}
    if not any(name != "config.json" for name in found):
        raise StepError(
            "TOKENIZER_FAILED",
            "{} holds no tokenizer files".format(model),
            "download tokenizer.json (or tokenizer.model) and tokenizer_config.json of the model",
        )
    return found


def sha256_of(path: str) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()

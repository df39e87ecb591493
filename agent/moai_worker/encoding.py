"""Turn rows of text into token ids of one length, with the model's own tokenizer.

Owns loading the tokenizer (offline), padding and the check that its ids fit the model. Ids equal
``tokenizer(text, truncation=True, max_length=block_size, padding="max_length")`` row by row; padding is
done here because the library's returns Python lists several times larger. Runs in the prepare step;
transformers is imported inside functions only. Refuses the network, and code inside the model's folder
unless trusted.
"""

import errno
import hashlib
import json
import os
import sys
from array import array
from typing import Any, Dict, Iterator, List, Optional, Tuple

from .datafiles import PlacedRow, package_missing
from .errors import StepError
from .templates import Template

_BATCH_ROWS = 256
_MAX_BATCH_CHARACTERS = 4 << 20
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
)


class _TokenizerErrors:
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


class Encoder:
    """Loads the tokenizer and turns rows into padded ids.

    Args:
        model: folder of the model or of its tokenizer.
        template: makes one text of a row; its tutorial settings choose pad token and side where the tokenizer
            leaves them open.
        block_size: ids in every row, at least 2.
        report: a ``Reporter``, told which pad token is used and what may surprise.
        pad_token_id: overrides the tokenizer's own.
        trust_remote_code: let code in the model's folder run.

    Attributes:
        pad_token_id, side: what fills short rows, and on which side. vocab_size: ids are below it.
        truncated, skipped: rows cut at the block size (a slow tokenizer counts rows that just fill it too),
        and rows left out because every column used was blank.
    """

    def __init__(
        self,
        model: str,
        template: Template,
        block_size: int,
        report: Any,
        pad_token_id: Optional[int] = None,
        trust_remote_code: bool = False,
    ) -> None:
        self._model = model
        self._template = template
        self._block_size = block_size
        self.truncated = 0
        self.skipped = 0
        self._tokenizer = _load_tokenizer(model, trust_remote_code)
        self.side: str = template.named.padding_side or self._tokenizer.padding_side
        self.pad_token_id = self._pad(pad_token_id, report)
        self.vocab_size = _vocab_size(model, self._tokenizer)
        self._check_fit(report)
        block = block_size
        self._pads = array("q", [self.pad_token_id]) * block
        self._ones, self._zeros = b"\1" * block, b"\0" * block

    def encode(self, rows: Iterator[PlacedRow]) -> Iterator[Tuple["array[int]", bytearray]]:
        """Yield (ids, masks) of up to 256 rows: int64 ids and one mask byte an id, rows back to back.

        Raises:
            StepError: TOKENIZER_FAILED; DATASET_INVALID or COLUMN_MISSING for a row, with its place.
        """
        texts: List[str] = []
        characters = 0
        for file, number, row in rows:
            text = self._text(file, number, row)
            if text is None:
                self.skipped += 1
                continue
            texts.append(text)
            characters += len(text)
            if len(texts) == _BATCH_ROWS or characters >= _MAX_BATCH_CHARACTERS:
                yield self._batch(texts)
                texts, characters = [], 0
        if texts:
            yield self._batch(texts)

    def wide(self, masks: bytearray) -> bytes:
        """Mask bytes as int64, for the ``.pt``."""
        return array("q", memoryview(masks).tolist()).tobytes()

    def _text(self, file: str, number: int, row: Dict[str, Any]) -> Optional[str]:
        template = self._template
        for column in template.columns:
            if column not in row:
                raise StepError(
                    "DATASET_INVALID",
                    "{}, row or line {}: has no {!r}".format(file, number, column),
                    "correct or remove it and run again",
                    {"file": file, "line": str(number)},
                )
        if not any(str(row[column]).strip() for column in template.columns if row[column] is not None):
            return None
        try:
            return template.render(row)
        except StepError as error:
            raise StepError(
                error.reason, "{}, row or line {}: {}".format(file, number, error.message), error.next
            ) from error

    def _batch(self, texts: List[str]) -> Tuple["array[int]", bytearray]:
        block = self._block_size
        with _TokenizerErrors(self._model, "failed on a text"):
            encoded = self._tokenizer(
                texts,
                truncation=True,
                max_length=block,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
            )
        details = encoded.encodings  # None for tokenizers written in Python
        ids, masks = array("q"), bytearray()
        for index, row in enumerate(encoded["input_ids"]):
            length = len(row)
            if length >= block:
                self.truncated += bool(details[index].overflowing) if details else 1
            if length > block or (length and not 0 <= min(row) <= max(row) < self.vocab_size):
                raise self._misfit(row)
            missing = block - length
            if self.side == "left":
                ids += self._pads[:missing]
                masks += self._zeros[:missing]
            ids.extend(row)
            masks += self._ones[:length]
            if self.side != "left":
                ids += self._pads[:missing]
                masks += self._zeros[:missing]
        return ids, masks

    def _pad(self, given: Optional[int], report: Any) -> int:
        if given is not None:
            return int(given)
        if self._tokenizer.pad_token_id is not None:
            return int(self._tokenizer.pad_token_id)
        rule = self._template.named.pad
        known = {"eos": self._tokenizer.eos_token_id, "unk": self._tokenizer.unk_token_id}.get(rule)
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
        block = self._block_size
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise StepError(
                "TOKENIZER_FAILED",
                "the pad token id {} is outside the model's vocabulary of {}".format(
                    self.pad_token_id, self.vocab_size
                ),
                "give another one with --pad-token-id, for example 0",
            )
        positions = _config(self._model).get("max_position_embeddings")
        if isinstance(positions, int) and positions < block:
            report.message(
                "block size {} is longer than the {} positions the model was made for".format(
                    block, positions
                ),
                "warning",
                "BLOCK_SIZE",
            )
        ending = self._template.ending
        if ending and len(self._tokenizer.encode(ending, add_special_tokens=False)) != 1:
            report.message(
                "the template's ending {!r} is not one token of this tokenizer; "
                "the model learns it as plain text".format(ending),
                code="ENDING_NOT_A_TOKEN",
            )

    def _misfit(self, row: List[int]) -> StepError:
        return StepError(
            "TOKENIZER_FAILED",
            "the tokenizer in {} gave {} ids from {} to {}; the model takes {} ids below {}".format(
                self._model, len(row), min(row), max(row), self._block_size, self.vocab_size
            ),
            "use the tokenizer that belongs to the model",
        )


def _load_tokenizer(model: str, trust_remote_code: bool) -> Any:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ[name] = "1"  # the folder is here; looking for a newer one could hang for minutes
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise package_missing("transformers", "preparing a dataset", error) from error
    with _TokenizerErrors(model, "cannot be loaded"):
        return AutoTokenizer.from_pretrained(
            model, trust_remote_code=trust_remote_code, local_files_only=True
        )


def _config(model: str) -> Dict[str, Any]:
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


def _vocab_size(model: str, tokenizer: Any) -> int:
    size = _config(model).get("vocab_size")
    return size if isinstance(size, int) and size > 0 else len(tokenizer)


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

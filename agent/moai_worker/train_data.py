"""The rows a training run reads: opened, checked against the model, and made into batches.

Owns the reading of a prepared dataset (``datasets.save_to_disk`` layout) and the labels. Refuses
data that would train silently wrong: missing columns, masks of another length, ids beyond the
vocabulary. datasets, pyarrow, numpy and torch are imported inside functions. Runs in the step's
process, on the user's Python.
"""

import hashlib
import os
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from . import compat
from .errors import StepError
from .jobdir import read_json
from .modeltokenizer import load_tokenizer, tokenizer_digests, vocabulary
from .preparedset import MARKER

COLUMNS = ("input_ids", "attention_mask")
#: Written where prompts were to be left out; used when it is there.
LABELS = "labels"
#: The index the loss of transformers' models leaves out (torch's CrossEntropyLoss ignore_index).
IGNORED = -100


class TrainingRows(NamedTuple):
    """``train`` and ``validation`` (or None) yield dictionaries of numpy arrays.

    ``row_tokens`` is the mean number of tokens in a training row, padding included.
    """

    train: Any
    validation: Any
    rows: int
    row_tokens: float
    digest: str


def open_dataset(path: str, vocab_size: int, max_positions: Optional[int]) -> TrainingRows:
    """Open and check a prepared dataset.

    Args:
        path: folder written by the prepare step.
        vocab_size: rows of the model's embedding.
        max_positions: the model's longest input; None if it has no limit.

    Raises:
        StepError: DATASET_INVALID naming split, column and value; DATASET_EMPTY without rows.
    """
    again = "Prepare the dataset again: moai remote prepare."
    splits = _splits(path, again)
    if "train" not in splits:
        raise StepError(
            "DATASET_INVALID",
            "The dataset {} has no split train, only: {}.".format(path, ", ".join(sorted(splits)) or "none"),
            again,
        )
    if len(splits["train"]) == 0:
        raise StepError("DATASET_EMPTY", "The split train of {} has no rows.".format(path), again)
    validation = splits.get("validation")
    if validation is not None and len(validation) == 0:
        validation = None
    tokens = 0
    for name, split in (("train", splits["train"]), ("validation", validation)):
        if split is None:
            continue
        count = _check_split(split, "{} of {}".format(name, path), vocab_size, max_positions)
        tokens = tokens or count
    rows = len(splits["train"])
    return TrainingRows(
        train=splits["train"].with_format("numpy", columns=_used(splits["train"])),
        validation=None if validation is None else validation.with_format("numpy", columns=_used(validation)),
        rows=rows,
        row_tokens=tokens / rows,
        digest=folder_digest(path),
    )


def open_split(path: str, name: str, vocab_size: int, max_positions: Optional[int]) -> Tuple[str, Any]:
    """One split to measure on, checked as for training.

    Args:
        path, vocab_size, max_positions: as in ``open_dataset``.
        name: of the split; "" takes validation, else test.

    Returns:
        Its name, and its rows as dictionaries of numpy arrays.

    Raises:
        StepError: DATASET_INVALID (also when there is no such split: those there are named), DATASET_EMPTY.
    """
    splits = _splits(path, "Prepare the dataset again: moai remote prepare.")
    choices = [name] if name else ["validation", "test"]
    chosen = next((one for one in choices if one in splits), "")
    if not chosen:
        raise StepError(
            "DATASET_INVALID",
            "The dataset {} has no split {}, only: {}.".format(
                path, " or ".join(choices), ", ".join(sorted(splits)) or "none"
            ),
            "Name one of them with --split.",
        )
    split = splits[chosen]
    if len(split) == 0:
        raise StepError("DATASET_EMPTY", "The split {} of {} has no rows.".format(chosen, path), "Name another.")
    _check_split(split, "{} of {}".format(chosen, path), vocab_size, max_positions)
    return chosen, split.with_format("numpy", columns=_used(split))


def _splits(path: str, again: str) -> Dict[str, Any]:
    import datasets

    if not os.path.isdir(path):
        raise StepError("DATASET_INVALID", "There is no dataset folder {}.".format(path), again)
    try:
        loaded = datasets.load_from_disk(path)
    except compat.library_errors() as error:
        raise compat.failure(
            error, "opening the dataset {}".format(path), "DATASET_INVALID", again
        ) from error
    return loaded if isinstance(loaded, dict) else {"train": loaded}


def _used(split: Any) -> List[str]:
    return list(COLUMNS) + ([LABELS] if LABELS in split.column_names else [])


def folder_digest(path: str) -> str:
    """SHA-256 over names and contents of a dataset's Arrow files (about 1 s a GiB)."""
    total = hashlib.sha256()
    for parent, folders, names in sorted(os.walk(path)):
        folders.sort()
        for name in sorted(names):
            # state.json holds a random fingerprint: the same rows prepared twice differ in it.
            if not name.endswith(".arrow") or name.startswith("cache-"):
                continue
            file = os.path.join(parent, name)
            total.update(os.path.relpath(file, path).encode("utf-8") + b"\0")
            with open(file, "rb") as source:
                for block in iter(lambda: source.read(1 << 20), b""):
                    total.update(block)
    return "sha256:" + total.hexdigest()


def labels_of(ids_BT: Any, mask_BT: Any) -> Any:
    """Labels for next-token training: the ids, ignored where the mask is 0.

    Decided by the mask and never by the pad id: where a tutorial pads with an ordinary token (0 is
    ``!`` in Llama 3), comparing ids would also drop that token from real text.

    Args:
        ids_BT, mask_BT: int64 tensors, batch by tokens.
    """
    labels_BT = ids_BT.clone()
    labels_BT[mask_BT == 0] = IGNORED
    return labels_BT


def collate(rows: List[Dict[str, Any]]) -> Dict[str, Any]:
    """A batch of int64 tensors; shorter rows are filled on the right with masked zeros."""
    import numpy
    import torch

    width = max(len(row["input_ids"]) for row in rows)
    ids = numpy.zeros((len(rows), width), dtype=numpy.int64)
    mask = numpy.zeros((len(rows), width), dtype=numpy.int64)
    told = numpy.full((len(rows), width), IGNORED, dtype=numpy.int64) if LABELS in rows[0] else None
    for index, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[index, :length] = row["input_ids"]
        mask[index, :length] = row["attention_mask"]
        if told is not None:
            told[index, :length] = row[LABELS]
    ids_BT = torch.from_numpy(ids)
    mask_BT = torch.from_numpy(mask)
    labels_BT = labels_of(ids_BT, mask_BT) if told is None else torch.from_numpy(told)
    return {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT}


def _check_split(split: Any, name: str, vocab_size: int, max_positions: Optional[int]) -> int:
    """Check one split with Arrow, without making Python objects of its rows; returns its tokens."""
    import pyarrow.compute

    again = "Prepare the dataset again, with this model's tokenizer."
    absent = [column for column in COLUMNS if column not in split.column_names]
    if absent:
        raise StepError(
            "DATASET_INVALID",
            "{} lacks {}; it has: {}.".format(name, " and ".join(absent), ", ".join(split.column_names)),
            again,
        )
    lengths = {}
    tokens = 0
    least, most = None, None
    for column in COLUMNS:
        # Slices of the table are views; .data ignores an index mapping, which can only leave rows out.
        lengths[column] = pyarrow.compute.list_value_length(split.data.column(column))
    if not lengths["input_ids"].equals(lengths["attention_mask"]):
        raise StepError(
            "DATASET_INVALID", "{}: input_ids and attention_mask differ in length.".format(name), again
        )
    for chunk in split.data.column("input_ids").chunks:
        flat = chunk.flatten()
        tokens += len(flat)
        if len(flat) == 0:
            continue
        bounds = pyarrow.compute.min_max(flat).as_py()
        least = bounds["min"] if least is None else min(least, bounds["min"])
        most = bounds["max"] if most is None else max(most, bounds["max"])
    if least is None or most is None:
        raise StepError("DATASET_INVALID", "{} holds no tokens.".format(name), again)
    if least < 0 or most >= vocab_size:
        raise StepError(
            "DATASET_INVALID",
            "{} holds token id {}, but the model knows ids 0 to {}.".format(
                name, least if least < 0 else most, vocab_size - 1
            ),
            again,
        )
    if LABELS in split.column_names:
        _check_labels(split, name, lengths["input_ids"])
    longest = pyarrow.compute.max(lengths["input_ids"]).as_py()
    if max_positions is not None and longest > max_positions:
        raise StepError(
            "DATASET_INVALID",
            "{} has a row of {} tokens, but the model takes {}.".format(name, longest, max_positions),
            "Prepare the dataset with a block size of at most {}.".format(max_positions),
        )
    return tokens


def _check_labels(split: Any, name: str, lengths: Any) -> None:
    """Labels of the rows' length, each the id of its place or left out, and not all left out."""
    import pyarrow.compute

    again = "Prepare the dataset again."
    if not pyarrow.compute.list_value_length(split.data.column(LABELS)).equals(lengths):
        raise StepError("DATASET_INVALID", "{}: input_ids and labels differ in length.".format(name), again)
    learnt = 0
    for chunk, ids_chunk in zip(split.data.column(LABELS).chunks, split.data.column("input_ids").chunks):
        labels, ids = chunk.flatten().to_numpy(), ids_chunk.flatten().to_numpy()
        used = labels != IGNORED
        learnt += int(used.sum())
        if not (labels[used] == ids[used]).all():
            raise StepError("DATASET_INVALID", "{}: a label is neither the id of its place nor left out.".format(name), again)
    if not learnt:
        raise StepError(
            "DATASET_INVALID", "{}: the labels leave out every token, so nothing would be learnt.".format(name),
            "Prepare the dataset with a larger block size, or without masking prompts.",
        )  # fmt: skip


def check_marker(path: str, model: str, vocab_size: int) -> None:
    """Compare what the preparation noted with the model: its pad id, and the tokenizer it was made with.

    Args:
        path: the dataset; without our marker file nothing is compared. model: folder of the model.

    Raises:
        StepError: DATASET_INVALID.
    """
    marker = read_json(os.path.join(path, MARKER)) or {}
    again = "Prepare the dataset again, with this model's tokenizer."
    pad = marker.get("pad_token_id")
    if isinstance(pad, int) and not 0 <= pad < vocab_size:
        raise StepError("DATASET_INVALID", "{} is padded with id {}, but the model knows ids 0 to {}.".format(path, pad, vocab_size - 1), again)
    made_with = (marker.get("basis") or {}).get("tokenizer") or {}
    fingerprint = marker.get("tokenizer_vocabulary")
    own = {name: digest for name, digest in _own_tokenizer(model).items() if name != "config.json"}
    shared = [name for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json") if name in own and name in made_with]
    if not fingerprint or not shared or all(own[name] == made_with[name] for name in shared):
        return
    # Other bytes may still be the same tokenizer, saved by another version: the vocabularies decide.
    tokenizer = load_tokenizer(model, False)
    if vocabulary(tokenizer) != fingerprint:
        raise StepError(
            "DATASET_INVALID",
            "{} was prepared with another tokenizer ({}) than the model's ({}): {} differs, and so do their vocabularies.".format(
                path, marker.get("tokenizer_class", "?"), type(tokenizer).__name__, shared[0]
            ),
            again,
        )


def _own_tokenizer(model: str) -> Dict[str, str]:
    try:
        return tokenizer_digests(model)
    except StepError:
        return {}  # a model folder without a tokenizer trains all the same

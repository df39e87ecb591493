"""The prepare step: rows of text in, fixed-length token ids out, as Arrow and as a self-contained ``.pt``.

Owns one output folder::

    DIR/dataset_dict.json, DIR/<split>/*     what datasets.load_from_disk reads: input_ids, attention_mask
    DIR/llama3_dataset.pt                    what the tutorials' trainers torch.load (see torchfile.py)
    DIR/moai-dataset.json                    what it was made from; written last, so it marks "finished"

Runs as a process of the user's environment (transformers and pyarrow; no torch). The folder is built beside
DIR and renamed, under a lock, so DIR is either absent, the former one, or complete; a finished DIR made
from the same inputs is reused. Refuses to replace a folder that it did not make, to publish ids outside the
model's vocabulary, and the network. Ids equal ``tokenizer(text, truncation=True, max_length=block_size,
padding="max_length")`` row by row.
"""

import errno
import fcntl
import hashlib
import json
import os
import platform
import random
import shutil
import time
from importlib import metadata
from typing import Any, Dict, Iterator, List, Optional, Tuple

from .. import templates
from ..datafiles import PlacedRow, Split
from ..datasource import Source, open_source, source_digest
from ..encoding import Encoder, sha256_of, tokenizer_digests
from ..errors import StepError
from ..preparedset import (
    MARKER,
    ArrowSplitWriter,
    check_folder,
    finished,
    publish,
    refuse_foreign,
    sizes,
    sweep,
    write_json,
)
from ..torchfile import TorchFileWriter

#: Version of the folder's layout: part of the key, so a new layout is never mistaken for an old one.
LAYOUT = 1
#: Fewer rows than this are not cut into train and validation.
MIN_ROWS_TO_CUT = 20


def run(inputs: Dict[str, Any], report: Any) -> Dict[str, Any]:
    """Prepare a dataset; repeating with the same inputs finds the finished folder.

    Args:
        inputs: the step's dictionary:

            - ``source``: file or folder; ``config`` (of a Hub dataset), ``split`` (only this one, as training
              data) and ``cache_dir`` (of datasets) belong to it.
            - ``model``: folder of the model or tokenizer; ``trust_remote_code`` (and ``trust_dataset_code``,
              by default the same), ``pad_token_id``.
            - ``template``: name, path or text (default ``summarize``); ``block_size``: ids in a row (1024).
            - ``output``: the folder to make; ``file_name``: of the .pt in it; ``torch_attention_mask``: store
              masks in the .pt (None: as the template's tutorial does).
            - ``sample``: at most so many rows of each split; ``validation_fraction``: share of the training
              rows to hold out when there is no validation split (0.05; 0 for none).
        report: a ``Reporter``.

    Returns:
        ``path``, ``torch_file``, ``rows`` by split, ``block_size``, ``pad_token_id``, ``truncated_share`` (of
        all rows, 0 to 1) and ``reused``.

    Raises:
        StepError: TOKENIZER_FAILED, COLUMN_MISSING, DATASET_EMPTY, DATASET_INVALID, TEMPLATE_INVALID,
            FILE_NOT_FOUND, PACKAGE_MISSING, DISK_FULL, USAGE.
    """
    wanted = _Wanted(inputs)
    try:
        return _prepare(wanted, report)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StepError(
                "DISK_FULL",
                "the disk of {} filled up while the dataset was written; nothing was left behind".format(
                    wanted.output
                ),
                "free space there, or choose an output folder on a larger disk",
                {"path": wanted.output},
            ) from error
        raise


def raw_rows(inputs: Dict[str, Any], split: str) -> Iterator[Dict[str, Any]]:
    """The rows of a split as texts, in the order and choice in which ``run`` tokenises them.

    Args:
        inputs: those of ``run``; ``output`` is not touched.
        split: ``train``, ``validation`` (held out of train where the source has none) or ``test``.

    Raises:
        StepError: as ``run``; DATASET_INVALID when there is no such split.
    """
    wanted = _Wanted(inputs)
    source = open_source(wanted.source, wanted.config, wanted.cache_dir, wanted.trust_dataset_code)
    plan = _plan_splits(source, wanted)
    if split not in plan:
        raise StepError(
            "DATASET_INVALID",
            "{} has no split {!r}; it has {}".format(wanted.source, split, ", ".join(plan)),
            "choose one of them with --split",
        )
    chosen, indexes = plan[split]
    wanted.template.check_columns(chosen.columns)
    for _, _, row in _chosen_rows(chosen, wanted.template.columns, indexes):
        yield row


class _Wanted:
    """The inputs, checked and with their defaults."""

    def __init__(self, inputs: Dict[str, Any]) -> None:
        for name in ("source", "model", "output"):
            if not inputs.get(name):
                raise StepError("USAGE", "the prepare step needs {!r}".format(name), "give --{}".format(name))
        self.source = os.path.abspath(os.path.expanduser(inputs["source"]))
        self.model = os.path.abspath(os.path.expanduser(inputs["model"]))
        self.output = os.path.abspath(os.path.expanduser(inputs["output"]))
        self.config: Optional[str] = inputs.get("config") or None
        self.split: Optional[str] = inputs.get("split") or None
        self.template = templates.load(inputs.get("template") or "summarize")
        self.block_size = int(inputs.get("block_size") or 1024)
        self.file_name = inputs.get("file_name") or "llama3_dataset.pt"
        self.pad_token_id: Optional[int] = inputs.get("pad_token_id")
        self.sample: Optional[int] = inputs.get("sample")
        fraction = inputs.get("validation_fraction")
        self.validation_fraction = 0.05 if fraction is None else float(fraction)
        mask = inputs.get("torch_attention_mask")
        self.torch_mask = self.template.named.attention_mask if mask is None else bool(mask)
        self.trust_remote_code = bool(inputs.get("trust_remote_code"))
        # Trusting a model's tokenizer need not mean trusting a data set's script.
        self.trust_dataset_code = bool(inputs.get("trust_dataset_code", self.trust_remote_code))
        self.cache_dir: Optional[str] = inputs.get("cache_dir") or None
        if self.block_size < 2:
            raise StepError(
                "USAGE", "block_size must be at least 2, not {}".format(self.block_size), "try 1024"
            )
        if not 0 <= self.validation_fraction < 1:
            raise StepError(
                "USAGE",
                "validation_fraction must be from 0 to below 1, not {}".format(self.validation_fraction),
                "try 0.05",
            )
        if self.sample is not None and self.sample < 1:
            raise StepError(
                "USAGE", "sample must be at least 1, not {}".format(self.sample), "leave it out for all"
            )
        if os.path.basename(self.file_name) != self.file_name or self.file_name in (".", "..", MARKER):
            raise StepError(
                "USAGE", "file_name {!r} is not a plain file name".format(self.file_name), "try x.pt"
            )

    def basis(self) -> Dict[str, Any]:
        """Everything the result depends on; its digest is the key."""
        return {
            "layout": LAYOUT,
            "source": source_digest(self.source),
            "config": self.config,
            "split": self.split,
            "template": self.template.text,
            "block_size": self.block_size,
            "file_name": self.file_name,
            "pad_token_id": self.pad_token_id,
            "pad_rule": self.template.named.pad,
            "padding_side": self.template.named.padding_side,
            "sample": self.sample,
            "validation_fraction": self.validation_fraction,
            "torch_attention_mask": self.torch_mask,
            "tokenizer": tokenizer_digests(self.model),
        }


def _prepare(wanted: _Wanted, report: Any) -> Dict[str, Any]:
    basis = wanted.basis()
    key = hashlib.sha256(json.dumps(basis, sort_keys=True).encode("utf-8")).hexdigest()
    parent, name = os.path.split(wanted.output)
    os.makedirs(parent, exist_ok=True)
    # Whoever holds the lock may take every other half-built folder for abandoned.
    with open(os.path.join(parent, ".{}.lock".format(name)), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report.phase("waiting", "another job prepares {}".format(wanted.output))
            fcntl.flock(lock, fcntl.LOCK_EX)
        sweep(parent, name)
        described = finished(wanted.output, key)
        if described is not None:
            report.message("reusing {}: made from the same inputs".format(wanted.output), code="REUSED")
            return _result(wanted, described, report, reused=True)
        refuse_foreign(wanted.output)
        partial = "{}.partial-{}".format(wanted.output, os.getpid())
        os.mkdir(partial)
        try:
            described = _build(wanted, partial, report)
            described.update({"key": key, "basis": basis})
            write_json(os.path.join(partial, MARKER), described)
            publish(partial, wanted.output)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return _result(wanted, described, report, reused=False)


def _build(wanted: _Wanted, folder: str, report: Any) -> Dict[str, Any]:
    """Fill ``folder`` and return its description (without the key)."""
    report.phase("reading", "reading {}".format(wanted.source))
    source = open_source(wanted.source, wanted.config, wanted.cache_dir, wanted.trust_dataset_code)
    plan = _plan_splits(source, wanted)
    for split, _ in plan.values():
        wanted.template.check_columns(split.columns)
    report.phase("loading", "loading the tokenizer of {}".format(wanted.model))
    encoder = Encoder(
        wanted.model,
        wanted.template,
        wanted.block_size,
        report,
        wanted.pad_token_id,
        wanted.trust_remote_code,
    )
    total = sum(len(chosen) if chosen is not None else split.rows for split, chosen in plan.values())
    _check_disk(folder, total * wanted.block_size * (8 * (2 if wanted.torch_mask else 1) + 5))

    report.phase("tokenizing", "{} rows into {} ids each".format(total, wanted.block_size), rows=total)
    counts: Dict[str, int] = {}
    pace = _Pace(report, total)
    torch_file = os.path.join(folder, wanted.file_name)
    with TorchFileWriter(torch_file, wanted.block_size, wanted.torch_mask) as torch_writer:
        for name, (split, chosen) in plan.items():
            torch_writer.begin_split(name)
            with ArrowSplitWriter(folder, name, wanted.block_size) as arrow_writer:
                for ids, masks in encoder.encode(_chosen_rows(split, wanted.template.columns, chosen)):
                    arrow_writer.write(ids, masks)
                    torch_writer.write_rows(ids, encoder.wide(masks) if wanted.torch_mask else None)
                    pace.step(len(masks) // wanted.block_size)
            counts[name] = torch_writer.end_split()
    pace.finish()
    if encoder.skipped:
        report.message(
            "{} rows without any text were left out".format(encoder.skipped), "warning", "ROWS_SKIPPED"
        )
    if not counts["train"]:
        raise StepError(
            "DATASET_EMPTY", "no row of {} has any text".format(wanted.source), "check the template"
        )
    write_json(os.path.join(folder, "dataset_dict.json"), {"splits": list(counts)})

    report.phase("checking", "reading the result back")
    check_folder(folder, wanted.file_name, counts, wanted.block_size, wanted.torch_mask)
    return {
        "rows": counts,
        "columns": ["input_ids", "attention_mask"],
        "block_size": wanted.block_size,
        "pad_token_id": encoder.pad_token_id,
        "padding_side": encoder.side,
        "vocab_size": encoder.vocab_size,
        "truncated_share": round(encoder.truncated / max(1, sum(counts.values())), 6),
        "torch_file": wanted.file_name,
        "torch_file_sha256": sha256_of(torch_file),
        "files": sizes(folder),
        "versions": _versions(),
    }


# --- Which rows -----------------------------------------------------------------------------------

#: A split and the sorted 0-based indexes to take from it (None: all).
_Plan = Dict[str, Tuple[Split, Optional[List[int]]]]


def _plan_splits(source: Source, wanted: _Wanted) -> _Plan:
    splits = dict(source.splits)
    if wanted.split is not None:
        if wanted.split not in splits:
            raise StepError(
                "DATASET_INVALID",
                "{} has no split {!r}; it has {}".format(wanted.source, wanted.split, ", ".join(splits)),
                "choose one of them with --split",
            )
        splits = {"train": splits[wanted.split]}
    if "train" not in splits:
        raise StepError(
            "DATASET_INVALID",
            "{} has no train split; it has {}".format(wanted.source, ", ".join(splits)),
            "choose one as training data: --split {}".format(next(iter(splits))),
        )
    if not splits["train"].rows:
        raise StepError(
            "DATASET_EMPTY", "the train split of {} has no rows".format(wanted.source), "check the source"
        )
    plan: _Plan = {}
    for name in sorted(splits, key=lambda name: ("train", "validation", "test", name).index(name)):
        split = splits[name]
        if not split.rows:
            continue
        cut = wanted.sample is not None and wanted.sample < split.rows
        plan[name] = (split, list(range(wanted.sample or 0)) if cut else None)
    train, chosen = plan["train"]
    rows = len(chosen) if chosen is not None else train.rows
    if "validation" not in plan and rows >= MIN_ROWS_TO_CUT and wanted.validation_fraction > 0:
        held_out = set(random.Random(0).sample(range(rows), max(1, int(rows * wanted.validation_fraction))))
        ordered = {"train": (train, [i for i in range(rows) if i not in held_out])}
        ordered["validation"] = (train, sorted(held_out))
        plan = dict(ordered, **{name: part for name, part in plan.items() if name != "train"})
    return plan


def _chosen_rows(split: Split, columns: List[str], chosen: Optional[List[int]]) -> Iterator[PlacedRow]:
    if chosen is None:
        for placed in split.read(columns):
            yield placed
        return
    wanted = iter(chosen)
    target = next(wanted, None)
    for index, placed in enumerate(split.read(columns)):
        if target is None:
            return
        if index == target:
            yield placed
            target = next(wanted, None)


class _Pace:
    """Progress in rows, with the rate since the start."""

    def __init__(self, report: Any, total: int) -> None:
        self._report = report
        self._total = total
        self._done = 0
        self._started = time.monotonic()

    def step(self, rows: int, force: bool = False) -> None:
        self._done += rows
        seconds = time.monotonic() - self._started
        rate = self._done / seconds if seconds > 0 else None
        left = max(0, self._total - self._done) / rate if rate else None
        self._report.progress(self._done, self._total, "rows", rate=rate, eta_seconds=left, force=force)

    def finish(self) -> None:
        self._total = self._done  # rows left out, and blank lines, are not still to come
        self.step(0, force=True)


# --- The result -----------------------------------------------------------------------------------


def _check_disk(folder: str, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise StepError(
            "DISK_FULL",
            "the prepared dataset needs about {:.1f} GiB, and {} has {:.1f} GiB free".format(
                needed_bytes / 2**30, os.path.dirname(folder), free_bytes / 2**30
            ),
            "free space there, or choose an output folder on a larger disk",
            {"needed_bytes": str(needed_bytes), "free_bytes": str(free_bytes)},
        )


def _versions() -> Dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("transformers", "tokenizers", "datasets", "pyarrow"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _result(wanted: _Wanted, described: Dict[str, Any], report: Any, reused: bool) -> Dict[str, Any]:
    report.artifact("dataset", wanted.output, rows=described["rows"], torch_file=described["torch_file"])
    return {
        "path": wanted.output,
        "torch_file": os.path.join(wanted.output, described["torch_file"]),
        "rows": described["rows"],
        "block_size": described["block_size"],
        "pad_token_id": described["pad_token_id"],
        "truncated_share": described["truncated_share"],
        "reused": reused,
    }

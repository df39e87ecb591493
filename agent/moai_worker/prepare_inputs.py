"""What the prepare and preview steps are asked for, checked, and which rows of the source that means.

Owns the inputs with their defaults, the basis that names a result, and the cut into splits. Standard
library only.
"""

import os
import random
from typing import Any, Dict, Iterator, List, Optional, Tuple

from . import rendering
from .datafiles import PlacedRow, Split
from .datasource import Source, source_digest
from .engines import NAMES
from .errors import StepError
from .modeltokenizer import tokenizer_digests
from .preparedset import MARKER

#: Version of the folder's layout: part of the key, so a new layout is never mistaken for an old one.
LAYOUT = 2
#: Fewer rows than this are not cut into train and validation.
MIN_ROWS_TO_CUT = 20

#: A split, one byte a row (0: not taken; None: all), and how many are taken.
Plan = Dict[str, Tuple[Split, Optional[bytearray], int]]


class Wanted:
    """The inputs, checked and with their defaults; see ``steps.prepare.run``. Raises StepError USAGE."""

    def __init__(self, inputs: Dict[str, Any], needs_output: bool = True) -> None:
        for name in ("source", "model") + (("output",) if needs_output else ()):
            if not inputs.get(name):
                raise StepError("USAGE", "the prepare step needs {!r}".format(name), "give --{}".format(name))
        self.source = os.path.abspath(os.path.expanduser(inputs["source"]))
        self.model = os.path.abspath(os.path.expanduser(inputs["model"]))
        self.output = os.path.abspath(os.path.expanduser(inputs.get("output") or "."))
        self.config: Optional[str] = inputs.get("config") or None
        self.split: Optional[str] = inputs.get("split") or None
        self.template = rendering.load(inputs.get("template") or "summarize")
        self.block_size = int(inputs.get("block_size") or 1024)
        self.file_name = inputs.get("file_name") or "llama3_dataset.pt"
        self.pad_token_id: Optional[int] = inputs.get("pad_token_id")
        self.sample: Optional[int] = inputs.get("sample")
        fraction = inputs.get("validation_fraction")
        self.validation_fraction = 0.05 if fraction is None else float(fraction)
        mask = inputs.get("torch_attention_mask")
        self.torch_mask = self.template.named.attention_mask if mask is None else bool(mask)
        self.pack = bool(inputs.get("pack"))
        self.mask_prompt = bool(inputs.get("mask_prompt"))
        self.trust_remote_code = bool(inputs.get("trust_remote_code"))
        # Trusting a model's tokenizer need not mean trusting a data set's script.
        self.trust_dataset_code = bool(inputs.get("trust_dataset_code", self.trust_remote_code))
        self.cache_dir: Optional[str] = inputs.get("cache_dir") or None
        self.engine: str = inputs.get("engine") or "auto"
        self.engines: List[Dict[str, str]] = [dict(one) for one in inputs.get("engines") or []]
        self.engine_note: str = inputs.get("engine_note") or ""
        self.jobs = int(inputs.get("jobs") or 0)
        self.preview = int(inputs.get("preview") or 3)
        self._check()

    def _check(self) -> None:
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
        if self.engine not in NAMES:
            raise StepError(
                "USAGE", "{!r} is no engine: one of {}".format(self.engine, ", ".join(NAMES)), "leave --engine out"
            )
        if self.jobs < 0:
            raise StepError("USAGE", "jobs must not be negative: {}".format(self.jobs), "leave --jobs out")

    def basis(self) -> Dict[str, Any]:
        """Everything the result depends on; its digest is the key. Engine and jobs change no byte."""
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
            "pack": self.pack,
            "mask_prompt": self.mask_prompt,
            "tokenizer": tokenizer_digests(self.model),
        }


def jobs_for(asked: int, memory_each_bytes: int = 1 << 30) -> int:
    """Threads or processes to use: as asked, else half the cores (of few cores two), at most what memory admits."""
    if asked:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            free = next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        free = memory_each_bytes
    return max(1, min(max(min(cores, 2), cores // 2), free // memory_each_bytes))


def plan_splits(source: Source, wanted: Wanted) -> Plan:
    """The splits to write and the rows they take. Raises StepError: DATASET_INVALID, DATASET_EMPTY."""
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
    plan: Plan = {}
    for name in sorted(splits, key=lambda name: ("train", "validation", "test", name).index(name)):
        split = splits[name]
        if not split.rows:
            continue
        rows = min(split.rows, wanted.sample or split.rows)
        chosen = None if rows == split.rows else bytearray(b"\1" * rows + b"\0" * (split.rows - rows))
        plan[name] = (split, chosen, rows)
    train, chosen, rows = plan["train"]
    if "validation" not in plan and rows >= MIN_ROWS_TO_CUT and wanted.validation_fraction > 0:
        # One byte a row: lists of row numbers would be most of the memory of a large source.
        kept, held_out = bytearray(chosen or b"\1" * train.rows), bytearray(train.rows)
        count = max(1, int(rows * wanted.validation_fraction))
        for index in random.Random(0).sample(range(rows), count):
            kept[index], held_out[index] = 0, 1
        ordered: Plan = {"train": (train, kept, rows - count), "validation": (train, held_out, count)}
        plan = dict(ordered, **{name: part for name, part in plan.items() if name != "train"})
    return plan


def read_rows(split: Split, columns: List[str], chosen: Optional[bytearray], after: int = 0) -> Iterator[PlacedRow]:
    """The chosen rows of a split behind the first ``after`` of them."""
    if not after:
        return split.read(columns, chosen)
    rest = bytearray(chosen or b"\1" * split.rows)
    at = -1
    for _ in range(after):
        at = rest.index(1, at + 1)
    rest[: at + 1] = bytes(at + 1)
    return split.read(columns, rest)


def spread_rows(split: Split, columns: List[str], chosen: Optional[bytearray], rows: int, count: int) -> List[PlacedRow]:
    """At most ``count`` chosen rows, from all over the split."""
    some = bytearray(split.rows)
    step = max(1, rows // count)
    seen = taken = 0
    for index in range(split.rows):
        if chosen is None or chosen[index]:
            if seen % step == 0 and taken < count:
                some[index] = 1
                taken += 1
            seen += 1
    return list(split.read(columns, some))

"""What a training run was asked to do: one checked, typed value made from a step's inputs.

Owns names, defaults and ranges of the recipe's own inputs, and the reading of ``settings`` (further
``KEY: VALUE`` pairs). Refuses unknown names, naming the nearest, and library arguments that would
contradict an input of ours. Nothing here imports torch or transformers. Runs in the step's process.
"""

import difflib
import json
import os
from typing import Any, Dict, Iterable, Optional

from . import sharding
from .errors import StepError

METHODS = ("full", "lora")

#: TrainingArguments the recipe sets itself -> what to use instead.
OWNED_ARGUMENTS = {
    "output_dir": "output",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "gradient_accumulation",
    "num_train_epochs": "epochs",
    "lr_scheduler_type": "scheduler",
    "save_strategy": "save_steps",
    "save_total_limit": "keep_checkpoints",
    "eval_strategy": "eval_steps",
    "evaluation_strategy": "eval_steps",
    "resume_from_checkpoint": "resume",
    "activation_checkpointing": "gradient_checkpointing",
    "logging_strategy": "logging_steps",
    "use_cpu": "device",
    "no_cuda": "device",
    "remove_unused_columns": "a dataset with input_ids and attention_mask",
    "push_to_hub": "moai remote upload after the run, or train --upload",
    "load_best_model_at_end": "keep_best",
}

#: Keys of ``settings`` that are inputs of the recipe and therefore allowed there too.
_ALSO_INPUTS = (
    "max_steps", "epochs", "batch_size", "gradient_accumulation", "learning_rate", "warmup_steps",
    "scheduler", "seed", "save_steps", "save_minutes", "keep_checkpoints", "eval_steps", "logging_steps",
    "gradient_checkpointing", "bf16", "resume", "device", "advanced_parallelization",
    "trust_remote_code", "early_stop", "keep_best", "sharding", "lora.r", "lora.alpha", "lora.dropout", "lora.targets",
)  # fmt: skip


class TrainSettings:
    """The inputs of ``steps.train`` with defaults filled in.

    Attributes (beyond the obvious):
        batch_size: rows of one optimizer step, over all processes and accumulation.
        max_steps: None = as many as ``epochs`` give.
        save_steps: None or 0 = by the clock (``save_minutes``, default 30, 0 = never).
        keep_checkpoints: how many complete ones stay; at least 1.
        resume: True = from the newest complete checkpoint if any; False = start over, setting older
            checkpoints aside; text = from exactly this checkpoint folder.
        early_stop: end after so many evaluations in a row without a lower loss; 0 = never.
        keep_best: the result is the model of the evaluation with the lowest loss, not the last one.
        sharding: of several devices: ``auto``, ``ddp`` or ``fsdp``.
        bf16: None = where the device supports it natively.
        card: what the model card tells beyond this (see ``modelcard``); recorded nowhere else.
        device: None = the accelerator if there is one; ``"cpu"`` = never.
        extra: TrainingArguments given by name, values parsed.
    """

    def __init__(self, inputs: Dict[str, Any]) -> None:
        merged = dict(inputs)
        self.extra: Dict[str, Any] = {}
        lora = dict(merged.get("lora") or {})
        for key, value in (merged.pop("settings", None) or {}).items():
            if key.startswith("lora.") and key in _ALSO_INPUTS:
                lora[key[len("lora.") :]] = parse_value(value)
            elif key in _ALSO_INPUTS:
                merged[key] = parse_value(value)
            elif key in OWNED_ARGUMENTS:
                raise StepError(
                    "USAGE",
                    "The setting {} is managed by the recipe.".format(key),
                    "Use {} instead.".format(OWNED_ARGUMENTS[key]),
                )
            else:
                self.extra[key] = parse_value(value)
        self.model = _folder(merged, "model")
        self.dataset = _folder(merged, "dataset")
        self.output = _folder(merged, "output")
        self.method = str(merged.get("method") or "full")
        if self.method not in METHODS:
            raise StepError(
                "USAGE", "method is {!r}.".format(self.method), "Use one of: " + ", ".join(METHODS) + "."
            )
        self.max_steps = number(merged, "max_steps", None, 1, whole=True)
        self.epochs = number(merged, "epochs", 1, 0.000001)
        self.batch_size = number(merged, "batch_size", 8, 1, whole=True)
        self.gradient_accumulation = number(merged, "gradient_accumulation", 1, 1, whole=True)
        default_rate = 1e-4 if self.method == "lora" else 1e-5
        self.learning_rate = number(merged, "learning_rate", default_rate, 0)
        self.warmup_steps = number(merged, "warmup_steps", 0, 0, whole=True)
        self.scheduler = str(merged.get("scheduler") or "linear")
        self.seed = number(merged, "seed", 42, 0, whole=True)
        self.save_steps = number(merged, "save_steps", 0, 0, whole=True)
        self.save_minutes = number(merged, "save_minutes", 0 if self.save_steps else 30, 0)
        self.keep_checkpoints = number(merged, "keep_checkpoints", 2, 1, whole=True)
        self.eval_steps = number(merged, "eval_steps", 0, 0, whole=True)
        self.logging_steps = number(merged, "logging_steps", None, 1, whole=True)
        self.early_stop = number(merged, "early_stop", 0, 0, whole=True)
        self.keep_best = bool(_flag(merged, "keep_best", False))
        for name in ("early_stop", "keep_best"):
            if getattr(self, name) and not self.eval_steps:
                raise StepError(
                    "USAGE",
                    "{} needs evaluations, and eval_steps is not set.".format(name),
                    "Add --set eval_steps=N: evaluate every N steps.",
                )
        self.lora = _lora(lora)
        self.gradient_checkpointing = _flag(merged, "gradient_checkpointing", False)
        self.bf16 = _flag(merged, "bf16", None)
        self.sharding = sharding.check(str(merged.get("sharding") or "auto"))
        self.resume = merged.get("resume", True)
        if self.resume is None:
            self.resume = True
        if not isinstance(self.resume, (bool, str)):
            raise StepError(
                "USAGE", "resume is {!r}.".format(self.resume), "Give true, false or a checkpoint folder."
            )
        self.control = merged.get("control") or ""
        self.device = merged.get("device") or None
        if self.device not in (None, "cpu"):
            raise StepError("USAGE", "device is {!r}.".format(self.device), "Leave it out, or give cpu.")
        self.advanced_parallelization = _flag(merged, "advanced_parallelization", None)
        self.trust_remote_code = bool(_flag(merged, "trust_remote_code", False))
        self.card: Dict[str, Any] = dict(merged.get("card") or {})

    def micro_batch(self, processes: int) -> int:
        """Rows of one forward pass in one process.

        Args:
            processes: how many share the step (1 without a launcher).

        Raises:
            StepError: USAGE when ``batch_size`` cannot be divided.
        """
        parts = processes * self.gradient_accumulation
        if self.batch_size % parts:
            raise StepError(
                "USAGE",
                "batch_size {} cannot be divided into {} accumulation steps on {} processes.".format(
                    self.batch_size, self.gradient_accumulation, processes
                ),
                "Use a multiple of {}.".format(parts),
            )
        return self.batch_size // parts

    def finer(self, processes: int) -> Optional[int]:
        """The next larger ``gradient_accumulation`` that divides ``batch_size``; None when a pass is one row."""
        rows = self.batch_size // processes
        larger = range(self.gradient_accumulation + 1, rows + 1)
        return next((parts for parts in larger if rows % parts == 0), None)

    def as_dict(self) -> Dict[str, Any]:
        """All values, for ``moai-training.json``; the control folder and the card's words are left out."""
        return {key: value for key, value in vars(self).items() if key not in ("control", "card")}


def parse_value(value: Any) -> Any:
    """A setting's value: JSON if it is JSON (``true``, ``1e-5``, ``[1]``), else the text itself."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        lowered = value.strip().lower()
        if lowered in ("true", "false"):
            return lowered == "true"
        return None if lowered in ("none", "null") else value


def refuse_unknown(names: Iterable[str], known: Iterable[str], library: str) -> None:
    """Raise USAGE for the first of ``names`` that is neither ours nor in ``known``.

    Args:
        names: keys given in ``settings``.
        known: argument names of the installed library.
        library: its name and version, for the message.
    """
    choices = sorted(set(known) | set(_ALSO_INPUTS))
    for name in names:
        if name in choices:
            continue
        near = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
        raise StepError(
            "USAGE",
            "There is no setting {!r} in the recipe or in the TrainingArguments of {}.".format(name, library),
            "Nearest names: {}.".format(", ".join(near)) if near else "Leave it out.",
        )


def _lora(given: Dict[str, Any]) -> Dict[str, Any]:
    known = ("r", "alpha", "dropout", "targets")
    for key in given:
        if key not in known:
            raise StepError(
                "USAGE", "There is no LoRA setting {!r}.".format(key), "Use: " + ", ".join(known) + "."
            )
    targets = given.get("targets")
    if isinstance(targets, str):
        targets = [name.strip() for name in targets.split(",") if name.strip()]
    rank = number(given, "r", 8, 1, whole=True)
    return {
        "r": rank,
        "alpha": number(given, "alpha", 16, 0),
        "dropout": number(given, "dropout", 0.0, 0),
        "targets": targets or None,
    }


def _folder(values: Dict[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not value:
        raise StepError("USAGE", "The training has no {}.".format(name), "Name a folder on the container.")
    return os.path.abspath(os.path.expanduser(value))


def number(values: Dict[str, Any], name: str, default: Any, least: float, whole: bool = False) -> Any:
    """The number under ``name``; ``default`` when absent or None.

    Args:
        values: inputs of a step; texts like ``"1e-5"`` count.
        least: smallest value allowed.
        whole: accept integers only, and return an int.

    Raises:
        StepError: USAGE naming the value.
    """
    value = values.get(name)
    if value is None:
        return default
    if isinstance(value, str):
        value = parse_value(value)
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= least
    if good and whole:
        good = float(value).is_integer()
    if not good:
        raise StepError(
            "USAGE",
            "{} is {!r}.".format(name, value),
            "Give a {} of at least {}.".format("whole number" if whole else "number", least),
        )
    return int(value) if whole else value


def _flag(values: Dict[str, Any], name: str, default: Optional[bool]) -> Optional[bool]:
    value = parse_value(values.get(name))
    if value is None:
        return default
    if not isinstance(value, bool):
        raise StepError("USAGE", "{} is {!r}.".format(name, value), "Give true or false.")
    return value

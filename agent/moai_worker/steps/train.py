"""Step ``train``: fine-tune a model folder on a prepared dataset.

Owns the step's inputs and its one entry point; the work is in ``moai_worker.recipe``. Runs on the
Python of the user's environment. Repeating it is safe: it goes on from the newest complete
checkpoint in its output folder.
"""

import os
from typing import Any, Dict

from .. import launch
from ..compat import is_first_here
from ..recipe import train
from ..train_settings import TrainSettings


class _Silent:
    """Stands in for the Reporter on all processes of a container but the first."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def run(inputs: Dict[str, Any], report: Any) -> Dict[str, Any]:
    """Train and save.

    Args:
        inputs: ``model``, ``dataset``, ``output`` (folders; required), ``method``, ``max_steps``,
            ``epochs``, ``batch_size`` (rows a step over everything), ``gradient_accumulation``,
            ``learning_rate``, ``warmup_steps``, ``scheduler``, ``seed``, ``save_steps``,
            ``save_minutes``, ``keep_checkpoints``, ``eval_steps``, ``logging_steps``, ``lora``
            (``r, alpha, dropout, targets``), ``gradient_checkpointing``, ``bf16``, ``device``,
            ``resume``, ``settings`` (more of these, or TrainingArguments by name), ``control``
            (folder asked between steps, see ``moai_worker.asked``), ``advanced_parallelization``,
            ``trust_remote_code``, ``early_stop``, ``keep_best``, ``card`` (words of the model card), ``gpus``
            and ``group`` (CUDA devices, several containers: see ``launch.spread``).
        report: the step's Reporter.

    Returns:
        ``path, steps, total_steps, first_loss, final_loss, checkpoints, method, stopped, stopped_early,
        best`` (``{"step", "loss"}`` of the evaluation that the result is, or None), ``resumed_from``.

    Raises:
        StepError: USAGE, PACKAGE_MISSING, MODEL_INVALID, DATASET_INVALID, DATASET_EMPTY,
            CHECKPOINT_NOT_FOUND, DEVICE_OUT_OF_MEMORY, DISK_FULL, TRAINING_FAILED, SECRET_NEEDED.
    """
    launch.spread(inputs, report)
    settings = TrainSettings(inputs)
    if settings.resume is False and os.environ.get("MOAI_ATTEMPT", "1") != "1":
        settings.resume = True  # Starting over was meant once, not after every failure.
    return train(settings, report if is_first_here() else _Silent())

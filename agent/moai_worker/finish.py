"""What a training does once its result is saved: the best weights in place of the last, and the model card.

Owns no loop and no file of its own; runs in the training process, on rank 0 only.
"""

import os
import shutil
from typing import Any, Dict, Optional

from . import checkpoints, modelcard
from .train_settings import TrainSettings


def take_best(
    settings: TrainSettings, path: Optional[str], step: int, result: Dict[str, Any], report: Any
) -> None:
    """Put the weights of the best evaluation in the place of the last ones.

    A checkpoint holds the same weight files as the result, so they are copied: no memory, and no version
    of a library decides what is loaded.

    Args:
        path: checkpoint of the best evaluation; None = the last step's model stays.
        step: the last step. result: its ``best`` becomes None when the checkpoint is gone.
    """
    if path is None or result["best"]["step"] == step:
        return
    if not os.path.isdir(path) or checkpoints.why_incomplete(path):
        report.message("The best checkpoint {} is gone; the result is the last step's.".format(path), "warning")
        result["best"] = None
        return
    for name in sorted(os.listdir(path)):
        if name.endswith((".safetensors", ".safetensors.index.json")):
            shutil.copyfile(os.path.join(path, name), os.path.join(settings.output, name))
    report.message(
        "The result is the model of step {step} (eval_loss {loss:.6g}), not of step {last}.".format(
            last=step, **result["best"]
        ),
        code="BEST_KEPT",
        step=result["best"]["step"],
    )


def write_card(settings: TrainSettings, summary: Dict[str, Any], kept: Optional[bytes], report: Any) -> None:
    """Write the result's model card; ``kept`` is somebody else's, which stays (``modelcard.foreign``)."""
    facts = dict({"model": settings.model, "dataset": settings.dataset}, **settings.card)
    facts["kind"] = "adapter" if settings.method == "lora" else "model"
    facts["model_commit"] = modelcard.commit_of(settings.model)
    facts["dataset_commit"] = modelcard.commit_of(str(facts.pop("dataset_path", "")))
    if not modelcard.write(settings.output, dict(facts, summary=summary), kept):
        report.message("{} has a README.md of your own; it stays as it is.".format(settings.output))

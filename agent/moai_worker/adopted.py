"""A prepared folder that is named as a source: used as it is, or traced back to what it was made from."""

import os
from typing import Any, Dict

from .datasource import source_digest
from .errors import StepError
from .preparedset import marker_of, sizes


def check_adopted(folder: str, output: str, described: Dict[str, Any]) -> None:
    """Check that the prepared ``folder`` is as it was left; that it fits the model, the training checks.

    Args:
        output: where the result is to be; the folder itself, for nothing is made. described: its marker.

    Raises:
        StepError: USAGE when a result elsewhere is wanted; DATASET_INVALID when files changed since.
    """
    if output != folder:
        raise StepError(
            "USAGE",
            "{} is a prepared dataset already".format(folder),
            "train on it as it is, or name what it was made from: {}".format(
                (described.get("made_with") or {}).get("source") or "its source"
            ),
            {"path": folder},
        )
    if described.get("files") != sizes(folder):
        raise StepError(
            "DATASET_INVALID",
            "files of {} are missing, or have another size than when it was prepared".format(folder),
            "prepare it again",
            {"path": folder},
        )


def made_from(inputs: Dict[str, Any]) -> Dict[str, Any]:
    """``inputs`` of a prepare step, with the source of a prepared folder in place of the folder.

    Raises:
        StepError: DATASET_INVALID when that source is unknown or has changed; FILE_NOT_FOUND when it is gone.
    """
    described = marker_of(os.path.abspath(os.path.expanduser(inputs.get("source") or ".")))
    if described is None:
        return inputs
    made = described.get("made_with") or {}
    source = made.get("source")
    if not source or source_digest(source) != (described.get("basis") or {}).get("source"):
        raise StepError(
            "DATASET_INVALID",
            "the texts behind {} are needed, and {}".format(
                inputs["source"], "{} has changed since".format(source) if source else "it does not tell its source"
            ),
            "prepare the dataset again from its source",
        )
    return dict(inputs, **made)

"""A prepared folder that is named as a source: used as it is, or traced back to what it was made from."""

import os
from typing import Any, Dict

from .datasource import source_digest
from .errors import StepError
from .modeltokenizer import tokenizer_digests
from .preparedset import marker_of, sizes

#: Of a tokenizer's files those that two models may differ in though they split text alike.
_MAY_DIFFER = ("config.json", "tokenizer_config.json", "special_tokens_map.json")


def check_adopted(folder: str, output: str, model: str, described: Dict[str, Any]) -> None:
    """Check that the prepared ``folder`` may serve a training of ``model`` as it is.

    Args:
        output: where the result is to be; the folder itself, for nothing is made. described: its marker.

    Raises:
        StepError: USAGE when a result elsewhere is wanted; DATASET_INVALID when files changed since, or the
            model splits text in another way.
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
    here = _deciding(tokenizer_digests(model))
    made = _deciding((described.get("basis") or {}).get("tokenizer") or {})
    common = set(here) & set(made)
    if not common or any(here[name] != made[name] for name in common):
        raise StepError(
            "DATASET_INVALID",
            "{} was prepared with another tokenizer than that of {}: its ids would mean other words".format(folder, model),
            "prepare it for this model, or train the model it was prepared for",
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


def _deciding(digests: Dict[str, str]) -> Dict[str, str]:
    return {name: digest for name, digest in digests.items() if name not in _MAY_DIFFER}

"""A dataset that ``moai remote prepare`` made earlier, named as the dataset of a training.

Such a folder is trained on as it is: the settings it was made with are read from its marker and take the
place of those that were left out; a setting that was given and differs is refused, for it could not hold.
The prepare step checks the folder itself (``moai_worker.steps.prepare``).
"""

import os
from typing import Any, Dict, Optional

from moai_proto.v1 import dataset_pb2
from moai_worker import jobdir
from moai_worker.preparedset import MARKER

from moai_agent.errors import AgentError

#: Fields of a DatasetSpec that decide what the rows are; a marker has them by the same names.
_SETTINGS = ("template", "block_size", "pack", "mask_prompt", "validation_fraction", "split", "sample")


def made_with(path: str) -> Optional[Dict[str, Any]]:
    """The settings a folder was prepared with, by the names of DatasetSpec; None for any other source."""
    marker = jobdir.read_json(os.path.join(path, MARKER))
    if marker is None:
        return None
    # A folder of an older moai tells its template as text only.
    found = marker.get("made_with") or marker.get("basis")
    return found if isinstance(found, dict) else None


def take_settings(dataset: dataset_pb2.DatasetSpec, path: str, made: Dict[str, Any]) -> None:
    """Let ``dataset`` mean the prepared folder at ``path``: its settings, and itself as the result.

    Raises:
        AgentError: USAGE when a setting that was given is another than the folder's.
    """
    for field in _SETTINGS:
        value, asked = made.get(field), getattr(dataset, field)
        given = dataset.HasField("validation_fraction") if field == "validation_fraction" else bool(asked)
        if given and asked != value:
            name = field.replace("_", " ")
            raise AgentError(
                "USAGE",
                "%s was prepared with %s" % (path, "another %s than %s" % (name, asked) if value is None else "%s %s, not %s" % (name, value, asked)),
                "leave it out to use the folder as it is, or name what it was made from to prepare it anew",
            )
        if value is not None:
            setattr(dataset, field, value)
    dataset.source = dataset.output = path

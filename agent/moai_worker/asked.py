"""What a running recipe is asked between two steps: files in the job's ``control/`` folder.

A request is a file ``NAME.json``; it is renamed to ``NAME.json.done`` only when it is fulfilled, so a process
that was killed finds it again. Only rank 0 looks. Standard library only; runs in the training process.
"""

import os
from typing import Any, Dict, Optional

from .jobdir import read_json

CHECKPOINT, STOP, EVALUATE, LOG_INTERVAL = "checkpoint", "stop", "evaluate", "log-interval"
NAMES = (CHECKPOINT, STOP, EVALUATE, LOG_INTERVAL)
#: A longer interval would never be seen.
MAX_INTERVAL = 1000000


class Asked:
    """The open requests of one run.

    Args:
        folder: the control folder; "" = nobody can ask.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._open: Dict[str, Dict[str, Any]] = {}

    def look(self) -> None:
        """Read what has come."""
        if self._folder:
            for name in NAMES:
                value = read_json(self._path(name))
                if value is not None:
                    self._open[name] = value

    def __contains__(self, name: str) -> bool:
        return name in self._open

    def __bool__(self) -> bool:
        return bool(self._open)

    def interval(self) -> Optional[int]:
        """The log interval asked for, in steps; None when none is or it is no such number."""
        return _interval(self._open.get(LOG_INTERVAL))

    def earlier_interval(self) -> Optional[int]:
        """The one that an earlier try of this job was given."""
        return _interval(read_json(self._path(LOG_INTERVAL) + ".done")) if self._folder else None

    def settle(self, *names: str) -> None:
        """These are fulfilled, or cannot be; all of them without names."""
        for name in names or NAMES:
            if self._open.pop(name, None) is not None and os.path.exists(self._path(name)):
                os.replace(self._path(name), self._path(name) + ".done")

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name + ".json")


def _interval(value: Optional[Dict[str, Any]]) -> Optional[int]:
    number = (value or {}).get("value")
    good = isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= MAX_INTERVAL
    return number if good else None

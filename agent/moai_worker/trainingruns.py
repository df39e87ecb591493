"""How long a training took over all of its processes: those that were killed, and the jobs that went on after it.

Owns ``moai-runs.json`` in the checkpoints folder: an entry a process, rewritten while it trains, because whoever is
killed cannot say afterwards how long it ran. A chain is what one model's steps came from: a process that begins at a
checkpoint belongs to it, and so does one that begins anew after an attempt that had no checkpoint yet. Standard
library only; runs in the step's process.
"""

import json
import math
import os
import time
from typing import Any, Callable, Dict, List, Optional

from .jobdir import read_json, write_json

NAME = "moai-runs.json"
#: Seconds between two writes while steps go by: so much of a killed process's time may be missing.
EVERY_S = 10.0


class TrainingRuns:
    """This process's entry behind those of the chain.

    Args:
        folder: of this run's checkpoints, there already.
        start_step, start_path: where it begins; None = at no checkpoint.
        identity: of the run, as checkpoints have it.
        anew: asked to start over, so nothing belongs to it.
        writes: False on the processes beside the first of a container.
        report: told once when the file cannot be written; the training goes on.
        clock: monotonic seconds; replaced in tests.
    """

    def __init__(
        self,
        folder: str,
        start_step: int,
        start_path: Optional[str],
        identity: Dict[str, Any],
        anew: bool,
        writes: bool,
        report: Any,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = os.path.join(folder, NAME)
        self._identity = json.loads(json.dumps(identity))
        self._earlier = [] if anew else _earlier(self._path, start_path, self._identity)
        self._writes, self._report, self._clock = writes, report, clock
        self._began, self._written = clock(), clock()
        job = os.path.basename(os.environ.get("MOAI_JOB") or "")
        self._own: Dict[str, Any] = {"job": job, "start_step": start_step, "step": start_step, "seconds": 0.0}

    def at(self, step: int, now: bool = False) -> None:
        """Steps done so far; kept on disk every ``EVERY_S`` seconds, or ``now``."""
        self._own["step"] = step
        if now or self._clock() - self._written >= EVERY_S:
            self._write(False)

    def finish(self) -> List[Dict[str, Any]]:
        """Every run of the chain that made steps, oldest first: ``job, start_step, step, seconds``."""
        self._write(True)
        return [one for one in self._earlier + [self._own] if one["step"] > one["start_step"]]

    def _write(self, is_done: bool) -> None:
        self._written = self._clock()
        self._own["seconds"] = round(self._written - self._began, 3)
        if not self._writes:
            return
        try:
            write_json(self._path, {"identity": self._identity, "done": is_done, "runs": self._earlier + [self._own]})
        except OSError as error:
            self._writes = False
            self._report.message(
                "{} cannot be written ({}): the model card will not know of this run if it is resumed.".format(
                    self._path, error.strerror or error
                ),
                level="warning",
            )


def total_seconds(runs: List[Dict[str, Any]]) -> float:
    """Of all runs together."""
    return round(sum(one["seconds"] for one in runs), 3)


def _earlier(path: str, start_path: Optional[str], identity: Dict[str, Any]) -> List[Dict[str, Any]]:
    if start_path is not None:
        # The checkpoint may be another folder's (--from DIR); its runs are what led to it.
        found = read_json(os.path.join(os.path.dirname(os.path.abspath(start_path)), NAME)) or {}
    else:
        found = read_json(path) or {}
        # Without a checkpoint only an attempt that did not end is gone on with.
        if found.get("done") or found.get("identity") != identity:
            return []
    runs = found.get("runs")
    return [one for one in runs if _is_run(one)] if isinstance(runs, list) else []


def _is_run(value: Any) -> bool:
    numbers = ("start_step", "step", "seconds")
    return isinstance(value, dict) and all(
        isinstance(value.get(name), (int, float)) and not isinstance(value[name], bool) and 0 <= value[name] < math.inf
        for name in numbers
    )

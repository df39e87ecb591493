"""Where a training run begins: at step 0 or at a checkpoint of an earlier attempt.

Owns that choice, and the clearing away of checkpoints that must not be chosen next time. Refuses a
checkpoint of another run and one the installed libraries cannot load. Runs in the step's process.
"""

import os
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from . import checkpoints, compat, sharing
from .errors import StepError
from .jobdir import read_json, write_json
from .train_settings import TrainSettings

#: In the checkpoints folder: which job began at which checkpoint.
_BEGUN = "moai-begun.json"

Rejected = List[Tuple[checkpoints.Checkpoint, str]]


class Start(NamedTuple):
    """``step`` done so far, ``path`` of the checkpoint or None."""

    step: int
    path: Optional[str]


def choose(
    settings: TrainSettings, folder: str, identity: Dict[str, Any], total: int, report: Any
) -> Tuple[Start, Rejected]:
    """Choose the checkpoint; reads only, but for a container that is given one of another's.

    Args:
        settings: what the user asked; ``resume`` decides.
        folder: the run's checkpoints.
        identity: of this run; a checkpoint of another one is refused.
        total: steps of the whole run.
        report: told which checkpoint was taken.

    Returns:
        The start, and the incomplete checkpoints with what they lack.

    Raises:
        StepError: CHECKPOINT_NOT_FOUND, CHECKPOINT_MISMATCH (another run's), UNSUPPORTED (the installed
            libraries cannot load it).
    """
    if settings.resume is False:
        compat.gather(None)
        return Start(0, None), []
    rejected: Rejected = []
    if isinstance(settings.resume, str) and not _begun(settings.resume, folder):
        chosen: Optional[checkpoints.Checkpoint] = checkpoints.named(settings.resume)
    else:
        chosen, rejected = checkpoints.newest_complete(folder)
    chosen, rejected = _common(settings, folder, chosen, rejected, identity)
    problem = compat.resume_problem()
    if chosen is None:
        if problem and (settings.save_steps or settings.save_minutes):
            report.message("Checkpoints of this run could not be resumed: " + problem, level="warning")
        return Start(0, None), rejected
    different = checkpoints.differences(chosen.path, identity)
    if different:
        raise StepError(
            "CHECKPOINT_MISMATCH",
            "{} belongs to another run ({}).".format(chosen.path, "; ".join(different)),
            "Use another output folder, the earlier settings, or resume=false to start over.",
        )
    if problem and chosen.step < total:
        raise StepError(
            "UNSUPPORTED",
            "The checkpoint {} cannot be loaded here: {}".format(chosen.path, problem),
            "Use transformers below 4.51, or torch 2.6 and newer, in this environment.",
        )
    report.message(
        "Resuming from step {} of {} ({}).".format(chosen.step, total, chosen.path),
        code="RESUMED",
        step=chosen.step,
    )
    return Start(chosen.step, chosen.path), rejected


def _common(
    settings: TrainSettings,
    folder: str,
    chosen: Optional[checkpoints.Checkpoint],
    rejected: Rejected,
    identity: Dict[str, Any],
) -> Tuple[Optional[checkpoints.Checkpoint], Rejected]:
    """The checkpoint that every container has; several disks may differ by the one that was being written.

    Every process waits here for all, so that nothing is tidied before all have looked.
    """
    mine = [] if isinstance(settings.resume, str) else [
        item.step for item in checkpoints.list_checkpoints(folder) if not checkpoints.why_incomplete(item.path)
    ]  # fmt: skip
    everyone = compat.gather((mine, chosen.step if chosen else 0))
    if compat.node_count() == 1:
        return chosen, rejected
    steps = [step for _, step in everyone]
    if len(set(steps)) == 1:
        return chosen, rejected
    shared = set(everyone[0][0]).intersection(*(set(have) for have, _ in everyone[1:]))
    if not shared and isinstance(settings.resume, str):
        raise StepError(
            "CHECKPOINT_NOT_FOUND",
            "The containers have no checkpoint in common: their newest are of steps {}.".format(
                ", ".join(str(step) for step in steps)
            ),
            "Copy the checkpoint's folder to all of them (moai remote pull, push), or resume from the latest.",
        )
    if not shared:
        # Killed while some were writing their first one, or it was lost on a container: whoever has it gives it.
        shared = {max(steps)}
        path = os.path.join(folder, "checkpoint-{}".format(max(steps)))
        if compat.is_first_here() and os.path.isdir(path) and checkpoints.why_incomplete(path):
            checkpoints.remove(path)  # Half-written files have their names already.
        compat.gather(None)
        sharing.spread(path, source=steps.index(max(steps)))
        if compat.is_first_here() and checkpoints.why_incomplete(path):
            checkpoints.seal(path, max(steps), identity)
        rejected = [(item, why) for item, why in rejected if item.step != max(steps)]
        compat.gather(None)
    best = max(shared)
    path = os.path.join(folder, "checkpoint-{}".format(best))
    newer = [
        (item, "another container does not have it") for item in checkpoints.list_checkpoints(folder)
        if item.step > best and not any(item.path == bad.path for bad, _ in rejected)
    ]  # fmt: skip
    return checkpoints.Checkpoint(best, path), rejected + newer


def tidy(settings: TrainSettings, folder: str, start: Start, rejected: Rejected, report: Any) -> None:
    """Leave only checkpoints that may be chosen next time."""
    if settings.resume is False:
        aside = checkpoints.set_aside(folder)
        if aside:
            report.message("Starting over; the earlier checkpoints are now in {}.".format(aside))
    if isinstance(settings.resume, str) and start.path and not _begun(settings.resume, folder):
        os.makedirs(folder, exist_ok=True)
        aside = checkpoints.set_aside_after(folder, start.step)
        if aside:
            text = "Going on from step {}; later checkpoints are now in {}.".format(start.step, aside)
            report.message(text, level="warning")
        write_json(os.path.join(folder, _BEGUN), {"from": settings.resume, "job": _job()})
    for item, why in rejected:
        report.message(
            "Checkpoint {} is not complete ({}) and was removed.".format(item.path, why), level="warning"
        )
        checkpoints.remove(item.path)
    os.makedirs(folder, exist_ok=True)


def _job() -> str:
    return os.environ.get("MOAI_JOB") or ""


def _begun(asked: str, folder: str) -> bool:
    """Whether this very job has begun at the checkpoint it was told: started again, it takes its newest."""
    begun = read_json(os.path.join(folder, _BEGUN)) or {}
    return bool(_job()) and (begun.get("from"), begun.get("job")) == (asked, _job())

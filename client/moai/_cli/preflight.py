"""What ``train`` says and offers before it submits: licence, flavor, disk; and a flavor borrowed for one job.

Nothing here refuses a training: an estimate may be wrong, and the job itself checks again. A flavor is
shared by every container of its token, so it is switched only where ``--flavor`` or an answer says so.
"""

from __future__ import annotations

import re
import sys
from types import TracebackType
from typing import Any, NamedTuple

import typer

import moai
from moai._cli.clean import clean
from moai._cli.common import note, print_json
from moai._cli.plan import to_switch, warnings
from moai._cli.table import duration, print_table, size

_MOAI = ("moreh-smi", "ap-smi")
_MIB_PER_GB = 65520 / 64
#: A longer training is worth a smoke run first.
LONG_HOURS = 2.0


def list_tutorials(as_json: bool) -> None:
    """``--tutorial list``."""
    known = moai.tutorials()
    if as_json:
        print_json({"schema": "moai.tutorials/1", "tutorials": [_document(one) for one in known]})
        return
    rows = [
        [t.name, t.values["model"], t.values["dataset"], t.flavor, str(t.values["batch_size"]), f"{t.disk_gb} GB", t.licence or "-"]
        for t in known
    ]
    print_table(["TUTORIAL", "MODEL", "DATASET", "FLAVOR", "BATCH", "DISK", "LICENCE"], rows, grow=2)
    note("next: moai remote train --tutorial NAME --dry-run")


def _document(one: moai.Tutorial) -> dict[str, Any]:
    return {
        "name": one.name,
        "title": one.title,
        "flavor": one.flavor,
        "licence": one.licence or None,
        "rows": one.rows,
        "disk_gb": one.disk_gb,
        "values": one.values,
        "settings": one.settings,
        "pins": [{"requirement": p.requirement, "was": p.was or None, "why": p.why or None} for p in one.pins],
        "notes": list(one.notes),
    }


def introduce(one: moai.Tutorial, recipe: dict[str, Any], env: str) -> None:
    """Licence first, then what the tutorial wants and what of its requirements was mended."""
    if one.licence:
        note(f"licence: open {one.licence} and accept it with the account of your HF_TOKEN")
    note(f"{one.title}: wants {one.flavor} and {one.disk_gb} GB of disk beside checkpoints")
    for text in one.notes:
        note(f"  {text}")
    for name, value in recipe.items():
        if name in one.values and value.source.endswith(".toml"):
            note(f"  {value.source} wins over the tutorial: {name} = {value.value}")
    install = [p.requirement for p in one.pins if "==" in p.requirement]
    shown = " ".join(f"'{requirement}'" for requirement in install)
    note(f"requirements: moai remote run --env {env or 'ENV'} -- python -m pip install {shown}")
    for pin in one.pins:
        if pin.was or pin.why:
            note(f"  {pin.requirement}{f' instead of {pin.was}' if pin.was else ''}: {pin.why}")


class Agreed(NamedTuple):
    """``flavor`` to switch to, "" for none; ``hours`` the training takes, None where nothing is known."""

    flavor: str = ""
    hours: float | None = None


def look(
    target: Any, model: str, arguments: dict[str, Any], settings: dict[str, Any], preset: moai.Tutorial | None, env: str, ask: bool
) -> Agreed:
    """Say what will not do; the flavor to switch to when somebody on a terminal says yes, and the hours it takes.

    Args:
        arguments: of the recipe, without model and dataset. ask: a switch may be offered.
    """
    needs = _estimate(target, model, arguments, settings, preset, env)
    if needs is None:
        return Agreed()
    hours = needs.figure("hours")
    agreed = Agreed("", hours.value if hours else None)
    if needs.gated and preset is None:
        note(f"licence: {model} asks to accept one on its page of the Hub")
    lines = warnings(needs)
    for line in lines:
        note(line)
    wanted = needs.recommended_flavor if any(c.code == "FLAVOR_TOO_SMALL" for c in needs.concerns) else ""
    if preset is not None and needs.provider in _MOAI and not has_flavor(needs, preset.flavor):
        note(f"the tutorial runs on {preset.flavor}; {target.name} has {needs.flavor or 'no flavor'}")
        wanted = preset.flavor
    if not wanted or needs.provider not in _MOAI or has_flavor(needs, wanted):
        return agreed
    if not (ask and needs.provider == "moreh-smi" and sys.stdin.isatty() and sys.stderr.isatty()):
        hint = f"  next: {to_switch(needs, wanted)}"
        if hint not in lines:
            note(hint)
        return agreed
    question = f"Switch {target.name} to {wanted}? Every container of its token gets it too."
    return agreed._replace(flavor=wanted) if typer.confirm(clean(question), err=True) else agreed


def offer_smoke(agreed: Agreed) -> bool:
    """Whether somebody on a terminal wants a smoke run before a long training; nobody else is asked."""
    if agreed.hours is None or agreed.hours <= LONG_HOURS or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    question = f"This takes about {duration(agreed.hours * 3600)}. Run 50 rows for 3 steps first (--smoke), then all of it?"
    return typer.confirm(question, default=True, err=True)


def tell_disk(
    target: Any, model: str, arguments: dict[str, Any], settings: dict[str, Any], preset: moai.Tutorial | None, env: str
) -> None:
    """For ``--dry-run``: bytes of the download and of all that the training adds, and the licence."""
    needs = _estimate(target, model, arguments, settings, preset, env)
    if needs is None:
        return
    figures = {figure.name: figure.value for figure in needs.figures}
    parts = [f"{name} {size(figures[name])}" for name in ("download", "dataset", "output", "checkpoints") if figures.get(name)]
    disk = f"needs {size(figures['disk'])} ({', '.join(parts)})" if figures.get("disk") else "what it needs is not known"
    print(clean(f"disk: {disk}; {size(needs.free_bytes)} free for {needs.folder}"))
    if needs.gated:
        print(clean(f"licence: {model} is gated, and this token may read it"))
    sys.stdout.flush()
    for line in warnings(needs):
        note(line)


def _estimate(
    target: Any, model: str, arguments: dict[str, Any], settings: dict[str, Any], preset: moai.Tutorial | None, env: str
) -> moai.TrainingNeeds | None:
    aside = ("template", "dataset_revision", "output", "gpus", "upload", "upload_private")
    known = {name: value for name, value in arguments.items() if name not in aside}
    try:
        needs: moai.TrainingNeeds = target.estimate_training(
            model, rows=preset.rows if preset else 0, environment=env, settings=settings, quick=True, **known
        )
    except moai.MoaiError as error:
        if error.exit_code in (4, 5, 9):  # No way there at all: the submission would say the same.
            raise
        note(f"no estimate of what it needs: {error.message} [{error.reason}]")
        if error.next:
            note(f"  next: {error.next}")
        return None
    return needs


def has_flavor(needs: moai.TrainingNeeds, flavor: str) -> bool:
    """Whether the default device has a flavor, by its size where names differ between catalogues."""
    size = re.search(r"\.(\d+)gb$", flavor.lower())
    if size and needs.memory_total_mib:
        return abs(needs.memory_total_mib - int(size.group(1)) * _MIB_PER_GB) < 1
    return _word(needs.flavor) == _word(flavor)


def _word(flavor: str) -> str:
    return re.sub(r"\.\d+(?:gb)?$", "", flavor.strip().lower())


class Borrowed:
    """A flavor for one job: switched on entry, given back at its end when ``restore`` is set.

    ``job`` is set by the caller once there is one. It is given back only when that job has ended: a
    detached or unreachable job still runs on it.
    """

    def __init__(self, target: Any, flavor: str, restore: bool, env: str) -> None:
        self._target, self._flavor, self._restore, self._env = target, flavor, restore, env
        self._before = ""
        self.job: moai.Job | None = None

    def __enter__(self) -> Borrowed:
        if self._flavor:
            now, before = self._target.switch_flavor(self._flavor, False, self._env)
            if before == now:
                note(f"{self._target.name} has {now} already")
            else:
                self._before = before
                note(f"{self._target.name}: {now} now, {before or 'no flavor'} before; every container of its token has it too")
        elif self._restore:
            note("--restore-flavor: no flavor was switched, so none is given back")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._before:
            return
        ended = self.job is not None and self.job.info.ended
        if not (self._restore and ended):
            note(f"moai remote device switch {self._before} --on {self._target.name} goes back")
            return
        try:
            now, _ = self._target.switch_flavor(self._before, False, self._env)
            note(f"{self._target.name}: {now} again")
        except moai.MoaiError as problem:
            note(f"the flavor was not given back: {problem.message} [{problem.reason}]")
            note(f"  next: moai remote device switch {self._before} --on {self._target.name}")

"""``run --save`` and ``train --save``: the given flags into ``moai.toml``, shown first; comments there stay."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import moai
from moai._cli.clean import clean
from moai._cli.common import confirm, note, pairs

Save = Annotated[bool, typer.Option("--save", help="Keep the given flags in moai.toml; asks before it replaces a value.")]


def save(
    *,
    on: str = "",
    env: str = "",
    name: str = "",
    workdir: str = "",
    sync: str = "",
    accelerator: str = "",
    setup: str = "",
    setenv: list[str] | None = None,
    secret: list[str] | None = None,
    log_pattern: str = "",
    git: str | None = None,
    submodules: bool = False,
    on_checkpoint: str = "",
    on_stop: str = "",
    recipe: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
) -> None:
    """Write what was given; what was not stays as it is. ``git`` None: a run, which ``[train]`` is not about. Shows the change as a diff on standard error.

    Raises UsageError where a value would be replaced and nobody can be asked.
    """
    project = moai.load_project()
    folder = project.path.parent if project and project.path else Path.cwd()
    texts = {
        "host": on, "environment": env, "name": name, "workdir": workdir, "accelerator": accelerator, "setup": setup,
        "on_checkpoint": on_checkpoint, "on_stop": on_stop,
        "sync": os.path.relpath(Path(sync).expanduser().resolve(), folder) if sync else "",
    }  # fmt: skip
    changes: dict[str, Any] = {key: value for key, value in texts.items() if value}
    if secret:
        changes["secrets"] = list(dict.fromkeys([*(project.secrets if project else []), *secret]))
    train = {key: value for key, value in (recipe or {}).items() if value is not None}
    if settings:
        train["settings"] = settings
    if git is not None:
        train.update(_code(project, git, submodules, "--sync" if sync else "--workdir" if workdir else ""))
    if train:
        changes["train"] = train
    if setenv:
        changes["variables"] = pairs(setenv, "--setenv")
    if log_pattern:
        changes["log"] = {"pattern": log_pattern}
    if not changes:
        raise moai.UsageError("USAGE", "--save keeps flags, and none was given that a moai.toml holds", "give --env, --model, ...")
    edit = moai.edit_project(changes)
    if not edit.diff:
        note(f"{edit.path} says that already")
        return
    for line in edit.diff.splitlines():
        print(clean(line), file=sys.stderr)
    if edit.replaces:
        confirm(f"Replace values in {edit.path}?", False, f"edit {edit.path}, or leave --save out")
    note(f"{edit.write()} is written")


def _code(project: moai.Project | None, git: str, submodules: bool, elsewhere: str) -> dict[str, Any]:
    """What ``[train]`` is to say of a clone, so that the file alone gives the same code next time."""
    kept = project.train if project else None
    if kept and kept.git and elsewhere:
        raise moai.UsageError(
            "USAGE", f"{elsewhere} would be kept, and git in [train] of {project.path} counts before it",  # type: ignore[union-attr]
            "take git out of the file, or leave --save out",
        )  # fmt: skip
    found: dict[str, Any] = {"git": git} if git else {}
    if submodules or (git and kept and kept.git_submodules):
        found["git_submodules"] = submodules
    return found

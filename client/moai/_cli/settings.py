"""Where each value of a training comes from: flags > --set > environment > moai.toml > host > --tutorial > default."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from typing import Any

import moai

#: Arguments of the recipe: name -> (type, default shown by --dry-run).
RECIPE: dict[str, tuple[type, str]] = {
    "model": (str, "(required)"),
    "model_revision": (str, "main"),
    "dataset": (str, "(required)"),
    "dataset_revision": (str, "main"),
    "method": (str, "full"),
    "max_steps": (int, "by epochs"),
    "epochs": (float, "1"),
    "batch_size": (int, "8"),
    "block_size": (int, "1024"),
    "learning_rate": (float, "1e-05 (full), 1e-04 (lora)"),
    "template": (str, "summarize"),
    "sample": (int, "all rows"),
    "output": (str, "WORK/runs/NAME-JOB"),
    "gpus": (str, "every free one"),
}


@dataclass
class Value:
    """One value and its source."""

    value: Any
    source: str


def merge(
    flags: dict[str, Any], sets: dict[str, str], project: moai.Project | None, tutorial: moai.Tutorial | None = None
) -> tuple[dict[str, Value], dict[str, Value]]:
    """(recipe arguments, further settings), each with its source; those of a tutorial count last. Raises UsageError."""
    recipe: dict[str, Value] = {}
    settings: dict[str, Value] = {}
    mistakes: list[str] = []
    for name, (kind, _) in RECIPE.items():
        found = _first(name, kind, flags, sets, project, mistakes)
        if found is None and tutorial is not None and name in tutorial.values:
            found = Value(tutorial.values[name], f"--tutorial {tutorial.name}")
        if found is not None:
            recipe[name] = found
    if tutorial is not None:
        settings.update((key, Value(value, f"--tutorial {tutorial.name}")) for key, value in tutorial.settings.items())
    if project is not None:
        where = str(project.path)
        for key, value in project.train.settings.items():
            if key in RECIPE:
                mistakes.append(f"train.settings.{key} belongs into [train] of {where}")
            settings[key] = Value(value, where)
    for key, text in sets.items():
        if key not in RECIPE:
            settings[key] = Value(_parsed(text), "--set")
    if mistakes:
        raise moai.UsageError("USAGE", "; ".join(mistakes), "moai remote train --help")
    return recipe, settings


def _first(
    name: str, kind: type, flags: dict[str, Any], sets: dict[str, str], project: moai.Project | None, mistakes: list[str]
) -> Value | None:
    flag = "--" + {"learning_rate": "lr"}.get(name, name.replace("_", "-"))
    if flags.get(name) is not None:
        return Value(flags[name], flag)
    variable = "MOAI_" + name.upper()
    for text, source in ((sets.get(name), f"--set {name}"), (os.environ.get(variable) or None, variable)):
        if text is not None:
            try:
                value = kind(text)
                if kind is float and not math.isfinite(value):
                    raise ValueError(text)
                return Value(value, source)
            except ValueError:
                mistakes.append(f"{source} is {text!r}, not {'a whole number' if kind is int else 'a number'}")
                return None
    if project is not None:
        value = getattr(project.train, name)
        if value is not None:
            return Value(value, str(project.path))
    return None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def saved(flags: dict[str, Any], sets: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What ``--save`` keeps of a recipe: ``{"recipe", "settings"}`` of what was given here. Raises UsageError."""
    given: dict[str, str] = {key: text for key, text in sets.items() if key in RECIPE}
    recipe, _ = merge(flags, given, None)
    typed = {name: value.value for name, value in recipe.items() if not value.source.startswith("MOAI_")}
    return {"recipe": typed, "settings": {k: _parsed(v) for k, v in sets.items() if k not in RECIPE}}

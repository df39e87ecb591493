"""The platform's fine-tuning tutorials as values for ``train``: one file each in ``moai/tutorials``.

What the tutorials (MAF 24.5) make one type, taken from their scripts' defaults and runs: repository,
data set, template, row length, batch, epochs, rate, flavor. Read once; runs in the caller's process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from moai._config import parse_toml
from moai._errors import MoaiError

_FOLDER = Path(__file__).parent / "tutorials"
#: In the order a person meets them.
NAMES = ("llama3-70b", "llama3-8b", "llama2-13b", "mistral-7b", "qwen-7b", "baichuan2-13b")


@dataclass(frozen=True)
class Pin:
    """A requirement of the tutorial. ``was``: how its file spells it where that does not work; ``why``."""

    requirement: str
    was: str = ""
    why: str = ""


@dataclass(frozen=True)
class Tutorial:
    """A tutorial.

    Attributes:
        values: arguments of the recipe. settings: its further settings. flavor: as the tutorial runs it.
        licence: page to accept where the model is gated; "" where it is not. rows: of the data set.
        disk_gb: weights, cache and fp32 result; checkpoints come on top unless ``settings`` forbid them.
        pins: requirements, repaired. notes: what to know before the start.
    """

    name: str
    title: str
    flavor: str
    licence: str
    rows: int
    disk_gb: int
    values: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    pins: tuple[Pin, ...] = ()
    notes: tuple[str, ...] = ()


def tutorials() -> list[Tutorial]:
    """All of them."""
    return [tutorial(name) for name in NAMES]


@cache
def tutorial(name: str) -> Tutorial:
    """The tutorial of this name. Raises UsageError with the names there are."""
    if name not in NAMES:
        import difflib

        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
        hint = f"--tutorial {near[0]}" if near else "moai remote train --tutorial list"
        raise MoaiError("USAGE", f"there is no tutorial {name!r}; there are: {', '.join(NAMES)}", hint)
    path = _FOLDER / f"{name}.toml"
    raw = dict(parse_toml(path.read_text(encoding="utf-8"), path))
    pins = tuple(Pin(**pin) for pin in raw.pop("pins", []))
    return Tutorial(
        name=name, values=raw.pop("train"), settings=raw.pop("settings", {}), pins=pins, notes=tuple(raw.pop("notes", [])), **raw
    )

"""``top.json`` in the laptop's cache: what was last seen of each container, to show at once and as that old."""

from __future__ import annotations

import json
import os
from typing import Any

import moai

_FORM = 1


def _path() -> str:
    return os.path.join(moai.cache_folder(), "top.json")


def load() -> dict[str, Any]:
    """By host name; {} when nothing was kept or it cannot be read."""
    try:
        with open(_path(), encoding="utf-8") as source:
            kept = json.load(source)
    except (OSError, ValueError):
        return {}
    hosts = kept.get("hosts") if isinstance(kept, dict) and kept.get("form") == _FORM else None
    return hosts if isinstance(hosts, dict) else {}


def save(hosts: dict[str, Any]) -> None:
    """Replace what is known of these hosts; a cache that cannot be written costs only the first picture."""
    names = moai.config().hosts
    kept = {name: value for name, value in load().items() if name in names} | hosts
    temp = f"{_path()}.{os.getpid()}"
    try:
        with open(os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
            json.dump({"form": _FORM, "hosts": kept}, out)
        os.replace(temp, _path())
    except OSError:
        return

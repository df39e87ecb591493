"""What a login already has of the Hub: its token, and the caches other programs keep there.

Owns the places ``huggingface_hub`` documents (huggingface.co/docs/huggingface_hub/package_reference/
environment_variables): ``HF_TOKEN``, ``HF_TOKEN_PATH``, ``HF_HOME``, ``HF_HUB_CACHE``,
``XDG_CACHE_HOME``. Reads only. A token is returned to the caller and goes nowhere else; what is
said of it is where it was found.

Runs in a step's process on the container, and in the agent with the login's variables.
"""

import os
from typing import List, Mapping, Optional, Tuple

#: Where a cache may be named; the last two are the older names.
_CACHE_VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE")


def hf_home(given: str = "", environ: Optional[Mapping[str, str]] = None) -> str:
    """``given``, else ``HF_HOME``, else the library's own folder; absolute."""
    variables = os.environ if environ is None else environ
    cache = variables.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    chosen = given or variables.get("HF_HOME") or os.path.join(cache, "huggingface")
    return os.path.abspath(_expand(chosen, variables))


def find_token(
    name: str, home: str, environ: Optional[Mapping[str, str]] = None
) -> Tuple[Optional[str], str]:
    """The Hub token and where it was found: ``environment``, the path of a login file, or ``none``.

    Args:
        name: environment variable looked at first; its value wins over every file.
        home: folder whose ``token`` file is looked at after ``HF_TOKEN_PATH``; empty = none.
    """
    variables = os.environ if environ is None else environ
    value = variables.get(name, "").strip()
    if value:
        return value, "environment"
    places = [
        variables.get("HF_TOKEN_PATH", ""),
        os.path.join(variables.get("HF_HOME", ""), "token") if variables.get("HF_HOME") else "",
        os.path.join(home, "token") if home else "",
        os.path.join(variables.get("XDG_CACHE_HOME") or "~/.cache", "huggingface", "token"),
        "~/.cache/huggingface/token",
    ]
    for place in filter(None, places):
        path = _expand(place, variables)
        try:
            with open(path, "r", encoding="ascii") as stream:
                value = stream.read(8192).strip()
        except (OSError, ValueError):
            continue  # absent, unreadable or not a token: the next place
        if value:
            return value, path
    return None, "none"


def caches(environ: Optional[Mapping[str, str]] = None) -> List[str]:
    """Hub caches this login would use that exist, without those that are one and the same folder."""
    variables = os.environ if environ is None else environ
    places = [variables.get(name, "") for name in _CACHE_VARIABLES]
    homes = [variables.get("HF_HOME", ""), os.path.join(variables.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")]
    places += [os.path.join(home, "hub") for home in homes + ["~/.cache/huggingface"] if home]
    found: List[str] = []
    for place in filter(None, places):
        path = os.path.realpath(_expand(place, variables))
        if os.path.isdir(path) and path not in found:
            found.append(path)
    return found


def _expand(path: str, variables: Mapping[str, str]) -> str:
    if path == "~" or path.startswith("~/"):
        return (variables.get("HOME") or os.path.expanduser("~")) + path[1:]
    return os.path.expanduser(path)

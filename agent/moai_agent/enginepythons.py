"""Which Pythons of this container could run a fast tokenizer (they need 3.10), and which have one.

The chosen environment's own comes first, then the newest. Each is asked once, with the user's site
packages left out, and for at most ten seconds. Nothing is installed. Blocking; runs in the agent's worker
threads.
"""

import glob
import json
import os
import re
from typing import Any, Dict, List, NamedTuple

from moai_agent.environments import bounded
from moai_agent.errors import AgentError

_OLDEST, _NEWEST = (3, 10), (3, 14)
_ASKED = 8
_ASK_S = 10.0
_PLACES = (
    "/usr/bin/python3.1[0-9]",
    "/usr/local/bin/python3.1[0-9]",
    "~/.local/bin/python3.1[0-9]",
    "~/.pyenv/versions/3.1[0-9]*/bin/python3",
    "/opt/*conda3/bin/python3",
    "/opt/conda/bin/python3",
)
_FACTS = """
import importlib.util, json, platform, struct, sys
name, version = platform.libc_ver()
if name != "glibc":
    import glob, subprocess
    loaders = glob.glob("/lib/ld-musl-*.so.1")
    told = subprocess.run(loaders[:1], stderr=subprocess.PIPE).stderr.decode("utf-8", "replace") if loaders else ""
    name, version = "musl", told.partition("Version ")[2].split("\\n")[0]
print(json.dumps({"installed": [n for n in ("gigatoken", "fastokens") if importlib.util.find_spec(n)], "facts": {
  "python_version": platform.python_version(), "implementation": sys.implementation.name,
  "abiflags": getattr(sys, "abiflags", ""), "pointer_bits": str(struct.calcsize("P") * 8),
  "system": platform.system(), "machine": platform.machine(), "libc": name, "libc_version": version}}))
"""


class EnginePython(NamedTuple):
    """An interpreter, what it is (as the bootstrap's probe tells it), and the fast tokenizers it has."""

    python: str
    facts: Dict[str, str]
    installed: List[str]


def find(registry: Any, environment: str) -> List[EnginePython]:
    """The usable ones, best first; ``environment`` as in JobOptions."""
    login = registry.login()
    own = ""
    try:
        own = registry.choose(environment, True)[0].python
    except AgentError:
        own = ""  # the submission says it better
    paths = [own] if own else []
    paths += [one.python for one in registry.list()] + [registry.own().python]
    for folder in login.get("PATH", os.defpath).split(os.pathsep):
        paths += glob.glob(os.path.join(glob.escape(folder), "python3.1[0-9]")) if folder.startswith("/") else []
    home = login.get("HOME") or os.path.expanduser("~")
    for place in _PLACES:
        paths += sorted(glob.glob(place.replace("~", glob.escape(home), 1)), reverse=True)
    found: List[EnginePython] = []
    seen = set()
    for path in paths:
        real = os.path.realpath(path)
        # The same interpreter in another environment has other packages: only plain ones are merged.
        key = path if os.path.exists(os.path.join(os.path.dirname(os.path.dirname(path)), "pyvenv.cfg")) else real
        if key in seen or _surely_older(path) or len(seen) >= _ASKED:
            continue
        seen.add(key)
        one = _ask(path, login)
        if one is not None:
            found.append(one)
    return sorted(found, key=lambda one: (one.python != own, not one.installed, -_version(one.facts)[1]))


def _surely_older(path: str) -> bool:
    match = re.search(r"python3\.([0-9]+)$", os.path.realpath(path))
    return bool(match) and int(match.group(1)) < _OLDEST[1]


def _ask(path: str, variables: Dict[str, str]) -> Any:
    done = bounded.run([path, "-I", "-c", _FACTS], variables, _ASK_S)
    if not done.ok:
        return None
    try:
        told = json.loads(done.stdout.decode("utf-8").strip().splitlines()[-1])
        facts = {str(name): str(value) for name, value in told["facts"].items()}
        version = _version(facts)
    except (ValueError, KeyError, IndexError, AttributeError, TypeError):
        return None
    usable = facts["implementation"] == "cpython" and not facts["abiflags"] and facts["pointer_bits"] == "64"
    return EnginePython(path, facts, [str(n) for n in told["installed"]]) if usable and _OLDEST <= version <= _NEWEST else None


def _version(facts: Dict[str, str]) -> Any:
    major, minor = facts["python_version"].split(".")[:2]
    return int(major), int(minor)

"""What is installed in a Python environment, read from its files.

Owns the version grammar of Moreh's torch and the reading of ``*.dist-info`` (core metadata
specification, packaging.python.org). Refuses to import or run anything, except in
``ask_python``, whose whole purpose it is. Importing torch just to learn its version takes seconds,
and on a MoAI container some calls attach the accelerator. Runs in the agent.
"""

import json
import os
import re
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

from moai_agent.environments import bounded

PACKAGES = ("torch", "transformers", "datasets", "peft", "accelerate")

_TORCH = re.compile(
    r"(?P<torch>\d+\.\d+\.\d+)\+(?:[a-z0-9]+\.)?moreh(?P<moreh>\d+\.\d+\.\d+)", re.ASCII | re.IGNORECASE
)
_DIST = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*?)-(?P<version>\d[^-]*?)(?:-py[\d.]+)?\.(?:dist|egg)-info"
)
_TORCH_FILE = re.compile(r"^__version__\s*(?::[^=]*)?=\s*['\"]([^'\"]+)['\"]", re.MULTILINE)
_LIB = re.compile(r"python(\d+\.\d+)t?")


class TorchVersion(NamedTuple):
    """``1.13.1+cu116.moreh24.5.0`` taken apart; ``moreh`` is None for any other torch."""

    torch: str
    moreh: Optional[str]


def torch_version(text: str) -> TorchVersion:
    """Split a torch version string; without a Moreh part the whole string is ``torch``."""
    found = _TORCH.fullmatch(text.strip())
    if found is None:
        return TorchVersion(text.strip(), None)
    return TorchVersion(found.group("torch"), found.group("moreh"))


def version_key(version: str) -> Tuple[int, ...]:
    """Sort key of a dotted version: its leading integers. 24.5.3005 is newer than 24.5.211."""
    key: List[int] = []
    for part in version.lstrip("v").split("+")[0].split("."):
        digits = re.match(r"\d{1,9}", part, re.ASCII)
        if digits is None:
            break
        key.append(int(digits.group()))
    return tuple(key)


def names_in(folder: str) -> List[str]:
    """Sorted names in a folder; none when it is missing or may not be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def read_text(path: str, limit: int = 1 << 20) -> str:
    """A small text file, or an empty string when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(limit)
    except OSError:
        return ""


def site_packages(prefix: str) -> List[str]:
    """Folders under a prefix that hold installed packages, in the order Python searches them."""
    out: List[str] = []
    for lib in ("lib", "lib64"):
        base = os.path.join(prefix, lib)
        for name in reversed(names_in(base)):
            if _LIB.fullmatch(name):
                for kind in ("site-packages", "dist-packages"):
                    folder = os.path.join(base, name, kind)
                    if os.path.isdir(folder) and os.path.realpath(folder) not in map(os.path.realpath, out):
                        out.append(folder)
    return out


def installed(folders: Iterable[str], packages: Iterable[str] = PACKAGES) -> Dict[str, str]:
    """Versions of the named distributions; the first folder that has one wins, as for Python.

    A broken upgrade leaves several ``dist-info`` of one package. One with METADATA beats one
    without; among equals the newest folder is the one pip wrote last.
    """
    wanted = set(packages)
    versions: Dict[str, str] = {}
    for folder in folders:
        best: Dict[str, Tuple[Tuple[bool, float], str]] = {}
        for entry in names_in(folder):
            found = _DIST.fullmatch(entry)
            name = re.sub(r"[-_.]+", "-", found.group("name")).lower() if found else ""
            if found is None or name not in wanted or name in versions:
                continue
            path = os.path.join(folder, entry)
            stated = _metadata_version(path)
            rank = (stated is not None, _modified(path))
            if name not in best or rank > best[name][0]:
                best[name] = (rank, stated or found.group("version"))
        versions.update({name: version for name, (_, version) in best.items()})
        if "torch" in wanted and "torch" not in versions:
            # Images that build torch from source may carry no metadata.
            stated_here = _TORCH_FILE.search(read_text(os.path.join(folder, "torch", "version.py"), 65536))
            if stated_here:
                versions["torch"] = stated_here.group(1)
    return versions


def installed_names(folders: Iterable[str]) -> Dict[str, str]:
    """Name -> version of every distribution, by the names of the metadata folders alone.

    Hundreds of packages on a network disk: nothing is opened. Of several versions the newest folder counts.
    """
    versions: Dict[str, str] = {}
    for folder in folders:
        here: Dict[str, Tuple[float, str]] = {}
        for entry in names_in(folder):
            found = _DIST.fullmatch(entry)
            if found is not None:
                name = re.sub(r"[-_.]+", "-", found.group("name")).lower()
                rank = (_modified(os.path.join(folder, entry)), found.group("version"))
                here[name] = max(here.get(name, rank), rank)
        for name, (_, version) in here.items():
            versions.setdefault(name, version)
    return versions


def _metadata_version(path: str) -> Optional[str]:
    for name in ("METADATA", "PKG-INFO"):
        for line in read_text(os.path.join(path, name), 65536).splitlines():
            if not line.strip():
                break
            key, _, value = line.partition(":")
            if key.lower() == "version" and value.strip():
                return value.strip()
    return None


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def python_version(prefix: str, python: str) -> Optional[str]:
    """The version of an interpreter, as exactly as its surroundings tell it without running it."""
    config = venv_config(prefix)
    stated = config.get("version_info") or config.get("version")
    if stated:
        return ".".join(stated.split(".")[:3])
    for entry in names_in(os.path.join(prefix, "conda-meta")):
        found = re.fullmatch(r"python-(\d+\.\d+\.\d+)-[^-]+\.json", entry)
        if found:
            return found.group(1)
    folder = re.search(r"(?:cpython|pypy|/versions/)[-/]?(\d+\.\d+\.\d+)", os.path.realpath(python))
    if folder:
        return folder.group(1)
    name = re.fullmatch(r"python(\d+\.\d+)t?", os.path.basename(os.path.realpath(python)))
    if name:
        return name.group(1)
    minors = {found.group(1) for found in map(_LIB.fullmatch, names_in(os.path.join(prefix, "lib"))) if found}
    return minors.pop() if len(minors) == 1 else None


def venv_config(prefix: str) -> Dict[str, str]:
    """``pyvenv.cfg`` as a dictionary with lower-case keys; empty when there is none (PEP 405)."""
    pairs = (
        line.partition("=") for line in read_text(os.path.join(prefix, "pyvenv.cfg"), 65536).splitlines()
    )
    return {key.strip().lower(): value.strip() for key, equal, value in pairs if equal}


_ASK = (
    "import importlib.metadata as m, json, platform, sys\n"
    "out = {'python': platform.python_version(), 'prefix': sys.prefix, 'executable': sys.executable}\n"
    "for name in sys.argv[1:]:\n"
    "    try:\n"
    "        out['package ' + name] = m.version(name)\n"
    "    except m.PackageNotFoundError:\n"
    "        continue\n"
    "print('\\nmoai:' + json.dumps(out))\n"
)


def ask_python(
    python: str,
    variables: Mapping[str, str],
    packages: Iterable[str] = PACKAGES,
    timeout_s: float = 10.0,
) -> Optional[Dict[str, str]]:
    """Ask an interpreter itself; imports nothing but the standard library.

    Sees what files alone do not show: ``~/.local`` shadowing an environment, ``PYTHONPATH``,
    a wrapper script in front of another interpreter.

    Returns:
        ``python``, ``prefix``, ``executable`` and ``package NAME`` for what is installed; None
        when the interpreter does not start, hangs, or is older than 3.8.
    """
    outcome = bounded.run([python, "-c", _ASK] + list(packages), variables, timeout_s)
    for line in reversed(outcome.stdout.decode("utf-8", "replace").splitlines()):
        if outcome.ok and line.startswith("moai:"):
            try:
                answer = json.loads(line[len("moai:") :])
            except ValueError:
                return None
            return (
                {str(key): str(value) for key, value in answer.items()} if isinstance(answer, dict) else None
            )
    return None

"""Which Python environments this container has, from its files alone.

Owns where to look: conda-family bases and their environments, virtual environments, uv and pyenv
interpreters, the system's own. Runs nothing and imports nothing of what it finds: on a network
disk a hundred interpreters would take minutes to start. Refuses to search a whole disk; only the
places named here are looked at. Runs in the agent. Choosing is ``choosing.py``.
"""

import os
import re
from dataclasses import dataclass
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from moai_agent.environments.inspect import (
    installed,
    installed_names,
    names_in,
    python_version,
    read_text,
    site_packages,
    torch_version,
    venv_config,
    version_key,
)

CONDA = "conda"
VENV = "venv"
UV = "uv"
PYENV = "pyenv"
SYSTEM = "system"

_BASES = (
    "miniconda3",
    "miniforge3",
    "mambaforge",
    "anaconda3",
    "miniconda",
    "anaconda",
    "micromamba",
    ".conda",
    ".local/share/mamba",
)
_SYSTEM_BASES = (
    "/opt/conda",
    "/opt/miniconda3",
    "/opt/miniforge3",
    "/opt/anaconda3",
    "/usr/local/miniconda3",
)
_SYSTEM_BIN = ("/usr/bin", "/usr/local/bin")
_VENV_NAMES = (".venv", "venv", "env", ".env")
_PYTHON_NAME = re.compile(r"python3(?:\.\d+)?")
# A home on a network disk may hold thousands of folders; each costs a round trip.
_MOST_FOLDERS = 500


@dataclass(frozen=True)
class Environment:
    """One place Python runs from.

    Attributes:
        name: what a person calls it: conda name, folder name, or ``python3.10``.
        kind: ``conda``, ``venv``, ``uv``, ``pyenv`` or ``system``.
        prefix: folder of the environment, absolute.
        python: path of its interpreter.
        python_version: ``3.8.18``, or only ``3.8`` where files tell no more; None when unknown.
        torch_version: as installed, local part included; None when torch is not there.
        moreh_version: MAF version in torch's local part; None for any other torch.
        transformers, datasets, peft, accelerate: versions, None when not there.
        shadowed: packages that ``~/.local`` puts in front of this environment's own.
    """

    name: str
    kind: str
    prefix: str
    python: str
    python_version: Optional[str] = None
    torch_version: Optional[str] = None
    moreh_version: Optional[str] = None
    transformers: Optional[str] = None
    datasets: Optional[str] = None
    peft: Optional[str] = None
    accelerate: Optional[str] = None
    shadowed: Tuple[str, ...] = ()


def list_environments(
    home: str,
    path_env: str,
    variables: Optional[Mapping[str, str]] = None,
    root: str = "/",
    folders: Sequence[str] = (),
) -> List[Environment]:
    """Find every Python environment in the known places.

    Args:
        home: the user's home folder.
        path_env: the PATH of the user's login shell (a non-login shell has no conda on it).
        variables: the login shell's other variables; ``CONDA_EXE``, ``CONDA_PREFIX``,
            ``VIRTUAL_ENV`` and the like point to places no rule would find.
        root: folder that stands for ``/`` for the system's own places (tests).
        folders: further folders that hold virtual environments.

    Returns:
        conda first, then virtual environments, uv, pyenv, system; each prefix once.
    """
    given = variables or {}
    found: Dict[str, Environment] = {}
    for name, kind, python in _candidates(home, path_env, given, root, folders):
        # The folder of the interpreter is its identity: a virtual environment's python is a
        # symlink to another's, so the link itself must not be followed.
        prefix = os.path.dirname(os.path.dirname(python))
        key = os.path.realpath(prefix)
        if kind in (SYSTEM, PYENV, UV):
            key = os.path.realpath(python)
        if kind == SYSTEM:
            # /usr/local/bin/python3 may be a link into an environment that is already listed.
            prefix = os.path.dirname(os.path.dirname(key))
            if os.path.realpath(prefix) in found:
                continue
        if key not in found:
            found[key] = describe(name, kind, prefix, python, home)
    return list(found.values())


def describe(name: str, kind: str, prefix: str, python: str, home: str = "") -> Environment:
    """Read versions of one environment from its files.

    Args:
        name, kind, prefix, python: as in ``Environment``.
        home: whose ``~/.local`` may shadow packages; empty to leave that out.
    """
    version = python_version(prefix, python)
    minor = ".".join((version or "").split(".")[:2])
    folders = _folders(kind, prefix, minor)
    own = installed(folders)
    # `~/.local` comes before an environment's own packages (site module documentation), except
    # in a virtual environment that is closed to the system's.
    shadow = installed([_user_site(home, minor)]) if _sees_user_site(kind, prefix, home, minor) else {}
    versions = dict(own)
    versions.update(shadow)
    torch = versions.get("torch")
    return Environment(
        name=name,
        kind=kind,
        prefix=prefix,
        python=python,
        python_version=version,
        torch_version=torch,
        moreh_version=torch_version(torch).moreh if torch else None,
        transformers=versions.get("transformers"),
        datasets=versions.get("datasets"),
        peft=versions.get("peft"),
        accelerate=versions.get("accelerate"),
        shadowed=tuple(sorted(name for name in shadow if own.get(name, shadow[name]) != shadow[name])),
    )


def packages_of(environment: Environment, home: str, names: Optional[Iterable[str]] = None) -> Dict[str, str]:
    """Versions of packages as the environment's interpreter sees them, ``~/.local`` included.

    Args:
        home: whose ``~/.local`` may shadow packages. names: which; None for every one.
    """
    own, user = _two_places(environment, home, names)
    return dict(own, **user)


def shadowing(environment: Environment, home: str) -> Dict[str, Tuple[str, str]]:
    """Packages that ``~/.local`` hides: name -> (version there, the environment's own)."""
    own, user = _two_places(environment, home, None)
    return {name: (version, own[name]) for name, version in user.items() if own.get(name, version) != version}


def _two_places(
    environment: Environment, home: str, names: Optional[Iterable[str]]
) -> Tuple[Dict[str, str], Dict[str, str]]:
    minor = ".".join((environment.python_version or "").split(".")[:2])
    folders = _folders(environment.kind, environment.prefix, minor)
    wanted = None if names is None else list(names)

    def look(places: List[str]) -> Dict[str, str]:
        return installed_names(places) if wanted is None else installed(places, wanted)

    return look(folders), look([_user_site(home, minor)]) if _sees_user_site(environment.kind, environment.prefix, home, minor) else {}


def _user_site(home: str, minor: str) -> str:
    return os.path.join(home, ".local", "lib", "python" + minor, "site-packages")


def _sees_user_site(kind: str, prefix: str, home: str, minor: str) -> bool:
    if not home or not minor:
        return False
    return kind != VENV or venv_config(prefix).get("include-system-site-packages") == "true"


def environment_at(path: str, home: str = "") -> Optional[Environment]:
    """The environment of a folder or an interpreter, wherever it is.

    Returns:
        None when there is no interpreter.
    """
    path = os.path.abspath(path)
    python = _python_in(path) if os.path.isdir(path) else path
    if python is None or not _executable(python):
        return None
    prefix = os.path.dirname(os.path.dirname(python))
    if venv_config(prefix):
        return describe(_venv_name(prefix), VENV, prefix, python, home)
    if os.path.isdir(os.path.join(prefix, "conda-meta")):
        return describe(_conda_name(prefix), CONDA, prefix, python, home)
    return describe(os.path.basename(python), SYSTEM, prefix, python, home)


def _candidates(
    home: str, path_env: str, given: Mapping[str, str], root: str, folders: Sequence[str]
) -> Iterator[Tuple[str, str, str]]:
    """(name, kind, python) of everything found; the same place may come twice."""
    for prefix in _conda_prefixes(home, path_env, given, root):
        python = _python_in(prefix)
        if python:
            yield _conda_name(prefix), CONDA, python
    ours = [os.path.join(folder, name) for folder in folders for name in names_in(folder)]
    for prefix in list(_venv_prefixes(home, path_env, given)) + ours:
        python = _python_in(prefix)
        if python and venv_config(prefix):
            yield _venv_name(prefix), VENV, python
    for kind, base in (
        (UV, os.path.join(home, ".local", "share", "uv", "python")),
        (PYENV, os.path.join(given.get("PYENV_ROOT") or os.path.join(home, ".pyenv"), "versions")),
    ):
        for name in names_in(base):
            python = _python_in(os.path.join(base, name))
            # uv keeps `cpython-3.12-...` as a link to the newest `cpython-3.12.1-...`.
            if python and not os.path.islink(os.path.join(base, name)):
                yield name, kind, python
    yield from _system_pythons(path_env, root)


def _conda_prefixes(home: str, path_env: str, given: Mapping[str, str], root: str) -> Iterator[str]:
    bases = [os.path.join(home, name) for name in _BASES]
    bases += [os.path.join(root, path.lstrip("/")) for path in _SYSTEM_BASES]
    for key in ("CONDA_EXE", "MAMBA_EXE"):
        if given.get(key):
            bases.append(os.path.dirname(os.path.dirname(given[key])))
    for folder in path_env.split(os.pathsep):
        for name in ("conda", "mamba"):
            if folder and _executable(os.path.join(folder, name)):
                bases.append(os.path.dirname(os.path.dirname(os.path.realpath(os.path.join(folder, name)))))
    if given.get("MAMBA_ROOT_PREFIX"):
        bases.append(given["MAMBA_ROOT_PREFIX"])
    for base in bases:
        if os.path.isdir(os.path.join(base, "conda-meta")):
            yield base
        for name in names_in(os.path.join(base, "envs")):
            if not name.startswith("."):
                yield os.path.join(base, "envs", name)
    more = [given.get("CONDA_PREFIX", "")]
    for key in ("CONDA_ENVS_PATH", "CONDA_ENVS_DIRS"):
        for folder in given.get(key, "").split(os.pathsep):
            more += [os.path.join(folder, name) for name in names_in(folder)] if folder else []
    # conda appends every prefix it creates to this file, also those outside any base.
    more += [
        line.strip() for line in read_text(os.path.join(home, ".conda", "environments.txt")).splitlines()
    ]
    for prefix in more:
        if prefix.startswith("/") and os.path.isdir(os.path.join(prefix, "conda-meta")):
            yield prefix


def _venv_prefixes(home: str, path_env: str, given: Mapping[str, str]) -> Iterator[str]:
    if given.get("VIRTUAL_ENV"):
        yield given["VIRTUAL_ENV"]
    for folder in path_env.split(os.pathsep):
        if folder.startswith("/") and os.path.basename(folder.rstrip("/")) == "bin":
            yield os.path.dirname(folder.rstrip("/"))
    yield home
    for name in names_in(home)[:_MOST_FOLDERS]:
        folder = os.path.join(home, name)
        if os.path.isdir(folder):
            yield folder
            if not name.startswith("."):
                for inner in _VENV_NAMES:
                    yield os.path.join(folder, inner)
    workon = given.get("WORKON_HOME") or os.path.join(home, ".virtualenvs")
    for name in names_in(workon):
        yield os.path.join(workon, name)


def _system_pythons(path_env: str, root: str) -> Iterator[Tuple[str, str, str]]:
    folders = [folder for folder in path_env.split(os.pathsep) if folder.startswith("/")]
    folders += [os.path.join(root, path.lstrip("/")) for path in _SYSTEM_BIN]
    for folder in folders:
        prefix = os.path.dirname(folder.rstrip("/"))
        # Shims start whatever a setting says; the interpreters behind them are listed themselves.
        if os.path.basename(folder.rstrip("/")) == "shims":
            continue
        if venv_config(prefix) or os.path.isdir(os.path.join(prefix, "conda-meta")):
            continue
        # The exact names first: `python3` is a link to one of them.
        for name in sorted(filter(_PYTHON_NAME.fullmatch, names_in(folder)), key=_newest_first):
            if _executable(os.path.join(folder, name)):
                yield name, SYSTEM, os.path.join(folder, name)


def _newest_first(name: str) -> Tuple[int, ...]:
    return tuple(-part for part in version_key(name.replace("python", ""))) + (len(name) == len("python3"),)


def _python_in(prefix: str) -> Optional[str]:
    for name in ("python", "python3"):
        python = os.path.join(prefix, "bin", name)
        if _executable(python):
            return python
    return None


def _executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _conda_name(prefix: str) -> str:
    prefix = prefix.rstrip("/")
    is_base = os.path.isdir(os.path.join(prefix, "condabin")) or os.path.isfile(
        os.path.join(prefix, "bin", "conda")
    )
    return "base" if is_base else os.path.basename(prefix)


def _venv_name(prefix: str) -> str:
    """The folder's name; for `project/.venv` the project's, because every such name is the same."""
    name = os.path.basename(prefix.rstrip("/"))
    return os.path.basename(os.path.dirname(prefix.rstrip("/"))) if name in _VENV_NAMES else name


def _folders(kind: str, prefix: str, minor: str) -> List[str]:
    if kind != SYSTEM:
        return site_packages(prefix)
    # Debian keeps its own packages in /usr/lib/python3/dist-packages and pip's in /usr/local.
    names = [os.path.join(base, "lib", "python" + minor) for base in (os.path.join(prefix, "local"), prefix)]
    folders = [os.path.join(name, kind) for name in names for kind in ("site-packages", "dist-packages")]
    return folders + [os.path.join(prefix, "lib", "python3", "dist-packages")]

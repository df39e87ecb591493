"""Which environment a job runs in, by fixed rules, with the reason in words.

Owns the order: what was asked for; what was remembered; the only one whose torch fits the device;
what the login shell activates; the only one with torch. Refuses to guess between what is left: it
raises with the table to choose from. Runs in the agent.
"""

import os
from typing import List, Mapping, Optional, Sequence, Tuple

from moai_agent.environments.find import CONDA, SYSTEM, VENV, Environment, environment_at

NOT_FOUND = "ENVIRONMENT_NOT_FOUND"
AMBIGUOUS = "ENVIRONMENT_AMBIGUOUS"

_MOAI = ("moreh-smi", "ap-smi")


class EnvironmentChoice(Exception):
    """No environment could be chosen.

    Attributes:
        reason: ``ENVIRONMENT_NOT_FOUND`` or ``ENVIRONMENT_AMBIGUOUS`` (``ErrorReason`` names).
        message: what failed.
        next: what to type.
        table: the environments to choose from.
    """

    def __init__(self, reason: str, message: str, next: str, table: Sequence[Environment]) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.next = next
        self.table: List[Environment] = list(table)


def choose(
    environments: Sequence[Environment],
    want: Optional[str],
    device_provider: Optional[str],
    remembered: Optional[str],
    login_env: Mapping[str, str],
    need_torch: bool = True,
) -> Tuple[Environment, str]:
    """Choose by the rules of the module's docstring.

    Args:
        environments: what ``list_environments`` found.
        want: name, folder or interpreter the user asked for; None or empty when nothing was.
        device_provider: ``moreh-smi``, ``ap-smi``, ``nvml``, ``cpu`` or None.
        remembered: name or folder of the environment chosen on this host before, likewise.
        login_env: the login shell's variables.
        need_torch: False for a job that can do without; it then falls back to the login shell's
            environment, or the first Python on its PATH, instead of failing.

    Returns:
        The environment and why, as a clause: ``the only environment whose torch fits the device``.

    Raises:
        EnvironmentChoice: what was asked for is not there, or the rules leave none or several.
    """
    home = login_env.get("HOME", "")
    if want:
        return _wanted(environments, want, home), "asked for as {}".format(want)
    gone = ""
    if remembered:
        matches = _matching(environments, remembered, home)
        if len(matches) == 1:
            return matches[0], "remembered for this host"
        what = "is not the only one of its name" if matches else "is not there any more"
        gone = "; the remembered {} {}".format(remembered, what)
    with_torch = [one for one in environments if one.torch_version]
    fitting = [one for one in with_torch if fits(one, device_provider)]
    active = _active(environments, login_env)
    if len(fitting) == 1:
        return fitting[0], "the only environment whose torch fits the device" + gone
    if active is not None and active in (fitting or with_torch):
        note = "" if fitting else ", although its torch does not fit the device"
        return active, "active in the login shell" + note + gone
    if len(with_torch) == 1:
        return with_torch[0], "the only environment with torch, although it does not fit the device" + gone
    if not need_torch:
        fallback = active or _first_python(environments, login_env)
        if fallback is not None:
            why = "active in the login shell" if active else "the first Python on the login shell's PATH"
            return fallback, why + gone
    if with_torch:
        raise EnvironmentChoice(
            AMBIGUOUS,
            "{} environments have torch and none was chosen{}: {}".format(
                len(fitting or with_torch), gone, ", ".join(one.name for one in fitting or with_torch)
            ),
            "choose one with --env NAME",
            fitting or with_torch,
        )
    raise EnvironmentChoice(
        NOT_FOUND,
        ("no Python environment has torch" if environments else "no Python environment was found") + gone,
        "install torch into one of them, or name one with --env FOLDER",
        environments,
    )


def fits(environment: Environment, device_provider: Optional[str]) -> bool:
    """Whether an environment's torch can drive the provider's device, by its version string."""
    if not environment.torch_version:
        return False
    if device_provider in _MOAI:
        return environment.moreh_version is not None
    if device_provider == "nvml":
        local = environment.torch_version.partition("+")[2]
        return environment.moreh_version is None and not local.startswith(("cpu", "rocm", "xpu"))
    return True


def _wanted(environments: Sequence[Environment], want: str, home: str) -> Environment:
    matches = _matching(environments, want, home)
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise EnvironmentChoice(
            AMBIGUOUS,
            "{} environments are called {}".format(len(matches), want),
            "name one by its folder: --env {}".format(matches[0].prefix),
            matches,
        )
    raise EnvironmentChoice(
        NOT_FOUND,
        "there is no Python environment {}".format(want),
        "name one of the table, a folder or an interpreter with --env",
        environments,
    )


def _matching(environments: Sequence[Environment], want: str, home: str) -> List[Environment]:
    """Environments of that name; else the one at that path, listed or not."""
    if "/" not in want and want != "~":
        named = [one for one in environments if one.name == want]
        # `base` is conda's own word, and a system python3.10 may share its name with a folder.
        for kind in (CONDA, VENV):
            of_kind = [one for one in named if one.kind == kind]
            if of_kind:
                return of_kind
        if named and all(one.kind == SYSTEM for one in named):
            return named[:1]  # PATH order decides, as it does in a shell.
        return named
    path = os.path.join(home, want[2:]) if want.startswith("~/") else want
    if want == "~":
        path = home
    elif not os.path.isabs(path):
        path = os.path.join(home, path)
    for one in environments:
        if os.path.abspath(path) == one.python or os.path.realpath(path) == os.path.realpath(one.prefix):
            # /usr is the prefix of every system Python: only the interpreter's path tells them apart.
            if one.kind != SYSTEM or os.path.abspath(path) == one.python:
                return [one]
    at = environment_at(path, home)
    return [at] if at is not None else []


def _active(environments: Sequence[Environment], login_env: Mapping[str, str]) -> Optional[Environment]:
    for key in ("VIRTUAL_ENV", "CONDA_PREFIX"):  # A venv activated on top of conda comes first on PATH.
        prefix = login_env.get(key)
        for one in environments if prefix else ():
            if one.kind != SYSTEM and os.path.realpath(one.prefix) == os.path.realpath(prefix or ""):
                return one
    return None


def _first_python(environments: Sequence[Environment], login_env: Mapping[str, str]) -> Optional[Environment]:
    """The ``python3`` a shell would start; else the first system Python; else any."""
    for folder in login_env.get("PATH", "").split(os.pathsep):
        python = os.path.realpath(os.path.join(folder, "python3"))
        for one in environments if folder else ():
            if python == os.path.realpath(one.python) and (
                one.kind == SYSTEM or os.path.dirname(one.python) == folder.rstrip("/")
            ):
                return one
    ordered = sorted(environments, key=lambda one: one.kind != SYSTEM)
    return ordered[0] if ordered else None

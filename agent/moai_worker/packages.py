"""pip in somebody else's environment: what is installed, what would change, do it, check it.

Owns how pip is started: ``PYTHON -I -m pip``, so that neither a file of the working folder nor
PYTHONPATH nor ``~/.local`` gets in its way, and nothing is ever put into ``~/.local``, where it would
shadow every environment of that Python. Refuses to let pip replace a Moreh build: the builds that are
there become constraints of every installation, whatever the resolver thinks.

Standard library only; runs in a step, on the agent's Python; the environment's own runs pip.
"""

import collections
import json
import os
import re
import subprocess
import sys
from typing import Any, Callable, Deque, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .errors import StepError
from .requirements import canonical, numbers

#: ``pip install --dry-run --report`` (pip changelog, 22.2).
PREVIEW_FROM = (22, 2)
_ASK_TIMEOUT_S = 120.0
_KEPT_LINES = 60
_PASSWORD = re.compile(r"(://)[^/@\s]+@")

_ASK = (
    "import importlib.metadata as m, json, platform, sys\n"
    "found = {}\n"
    "for one in m.distributions():\n"
    "    name = one.metadata['Name']\n"
    "    if name and name not in found: found[name] = one.version\n"
    "print('\\nmoai:' + json.dumps({'python': platform.python_version(), 'prefix': sys.prefix, 'packages': found}))\n"
)


class Change(NamedTuple):
    """One distribution that is, or would be, changed.

    Attributes:
        action: ``install``, ``upgrade``, ``downgrade``, ``reinstall`` or ``remove``.
        before, after: versions; "" where it is not there.
    """

    name: str
    action: str
    before: str
    after: str


class Ended(NamedTuple):
    """How a program ended; ``lines`` are its last ones."""

    code: int
    lines: List[str]


class Interpreter:
    """An environment's Python.

    Args:
        python: its path. variables: environment of everything started with it.
    """

    def __init__(self, python: str, variables: Mapping[str, str], cwd: str) -> None:
        self.python, self.cwd = python, cwd
        self.variables = dict(variables)
        self.variables.update(
            PYTHONNOUSERSITE="1", PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PIP_NO_COLOR="1",
            PYTHONUNBUFFERED="1",
        )
        self.variables.pop("PYTHONHOME", None)

    def describe(self) -> Dict[str, Any]:
        """``python`` (version), ``prefix`` and ``packages`` (name as written -> version).

        Raises StepError (ENVIRONMENT_NOT_FOUND) when it does not start.
        """
        try:
            done = subprocess.run(
                [self.python, "-I", "-c", _ASK],
                env=self.variables,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                timeout=_ASK_TIMEOUT_S,
            )
            said = done.stdout.decode("utf-8", "replace") + done.stderr.decode("utf-8", "replace")
            line = next(one for one in reversed(said.splitlines()) if one.startswith("moai:"))
            return dict(json.loads(line[len("moai:") :]))
        except (OSError, subprocess.TimeoutExpired, StopIteration, ValueError) as error:
            raise StepError(
                "ENVIRONMENT_NOT_FOUND",
                "{} does not start or is older than Python 3.8: {}".format(self.python, error),
                "moai remote env list",
            )

    def installed(self) -> Dict[str, str]:
        """Canonical name -> version."""
        return {canonical(name): str(version) for name, version in self.describe()["packages"].items()}

    def pip_version(self) -> Tuple[int, ...]:
        """Raises StepError (PACKAGE_MISSING) when the environment has no pip."""
        ended = run([self.python, "-I", "-m", "pip", "--version"], self.variables, self.cwd, quiet=True)
        found = re.match(r"pip (\S+)", ended.lines[0]) if ended.code == 0 and ended.lines else None
        if found is None:
            raise StepError(
                "PACKAGE_MISSING",
                "{} has no pip: {}".format(self.python, last_line(ended.lines)),
                "moai remote run --env {} -- python -m ensurepip --upgrade".format(self.python),
            )
        return numbers(found.group(1))

    def pip_install(self, arguments: Sequence[str], on_line: Optional[Callable[[str], None]] = None) -> Ended:
        """``pip install ARGUMENTS``; its output goes to the job's log as it comes."""
        argv = [self.python, "-I", "-m", "pip", "install", "--progress-bar", "off"] + list(arguments)
        return run(argv, self.variables, self.cwd, on_line)


def run(
    argv: Sequence[str],
    variables: Mapping[str, str],
    cwd: str,
    on_line: Optional[Callable[[str], None]] = None,
    quiet: bool = False,
) -> Ended:
    """Run a program to its end: output to our own, its last lines kept; code 127 when it cannot be started."""
    try:
        child = subprocess.Popen(
            list(argv),
            env=dict(variables),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        return Ended(127, ["{}: {}".format(argv[0], error.strerror)])
    kept: Deque[str] = collections.deque(maxlen=_KEPT_LINES)
    assert child.stdout is not None
    with child.stdout:
        for raw in child.stdout:
            line = _PASSWORD.sub(r"\1****@", raw.decode("utf-8", "replace").rstrip("\r\n"))
            if line.strip():
                kept.append(line)
            if not quiet:
                print(line, flush=True)
            if on_line is not None:
                on_line(line)
    return Ended(child.wait(), list(kept))


def last_line(lines: Sequence[str]) -> str:
    """The line that says why: pip's last ERROR, else the last of all."""
    errors = [line for line in lines if re.match(r"\s*(ERROR|error|Error)\b", line)]
    chosen = [line for line in errors if "dependency resolution, see" not in line] or errors or list(lines)
    return " ".join(chosen[-1].split())[:500] if chosen else "it said nothing"


def conflict_lines(lines: Sequence[str]) -> List[str]:
    """pip's own account of a conflict: ``The conflict is caused by:`` and what follows."""
    for at, line in enumerate(lines):
        if "The conflict is caused by" in line:
            return [one.strip() for one in lines[at + 1 : at + 7] if one.startswith(" ")]
    return []


def changes_of(report: Mapping[str, Any], installed: Mapping[str, str]) -> List[Change]:
    """What a report of ``pip install --report`` (pip documentation, "Installation Report") would change."""
    found = []
    for item in report.get("install") or []:
        facts = item.get("metadata") or {}
        name, after = str(facts.get("name") or "?"), str(facts.get("version") or "?")
        before = installed.get(canonical(name), "")
        found.append(Change(name, action(before, after), before, after))
    return sorted(found, key=lambda one: canonical(one.name))


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> List[Change]:
    """What changed between two listings."""
    found = []
    for name in sorted(set(before) | set(after)):
        old, new = before.get(name, ""), after.get(name, "")
        if old != new:
            found.append(Change(name, action(old, new), old, new))
    return found


def action(before: str, after: str) -> str:
    """The word for a change."""
    if not before or not after:
        return "install" if after else "remove"
    if before == after:
        return "reinstall"
    return "upgrade" if numbers(after) >= numbers(before) else "downgrade"


def protected(installed: Mapping[str, str]) -> Dict[str, str]:
    """The Moreh builds among what is installed."""
    return {name: version for name, version in installed.items() if "moreh" in version.partition("+")[2].lower()}


def requiring(report: Mapping[str, Any], name: str) -> List[str]:
    """Who of a report requires a package, as ``accelerate 1.0.1 requires torch>=2.0``."""
    found = []
    for item in report.get("install") or []:
        facts = item.get("metadata") or {}
        for line in facts.get("requires_dist") or []:
            named = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line)
            if named and canonical(named.group()) == name and "extra ==" not in line:
                found.append("{} {} requires {}".format(facts.get("name"), facts.get("version"), line))
    return found


def listing(changes: Sequence[Change]) -> str:
    """Changes in words, grouped: ``install 2 (a 1.0, b 2.0); upgrade 1 (c 1.0 -> 1.1)``."""
    parts = []
    for word in ("install", "upgrade", "downgrade", "reinstall", "remove"):
        group = [one for one in changes if one.action == word]
        if group:
            shown = ", ".join(
                "{} {}".format(one.name, one.after or one.before)
                if word in ("install", "remove", "reinstall")
                else "{} {} -> {}".format(one.name, one.before, one.after)
                for one in group
            )
            parts.append("{} {} ({})".format(word, len(group), shown))
    return "; ".join(parts)


def is_cut(lines: Sequence[str]) -> bool:
    """Whether pip's lines say that no index could be reached."""
    words = ("NewConnectionError", "Connection refused", "Could not connect", "Name or service not known",
             "Temporary failure in name resolution", "ProxyError", "ReadTimeoutError", "ConnectTimeoutError",
             "Network is unreachable", "Connection to")  # fmt: skip
    return any(word in line for line in lines for word in words)


def write_log(text: str) -> None:
    """Put what an interactive program said into the job's log."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def which(name: str, variables: Mapping[str, str], more: Sequence[str] = ()) -> str:
    """A program on the PATH of ``variables``, or at one of ``more``; "" when it is not there."""
    folders = variables.get("PATH", "").split(os.pathsep)
    for path in [os.path.join(folder, name) for folder in folders if folder] + list(more):
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return ""

"""The environment variables a job gets: what the login shell gives, then the chosen environment.

Owns two things a command over SSH lacks. The login shell's variables: a non-login shell has no
conda and no ``moreh-smi`` on its PATH, because ``.bashrc`` returns early for it. And activation of
an environment without ``conda activate``, which needs a shell function: PATH, the marker
variables, conda's stored variables and its ``activate.d`` scripts, as conda-docs "Managing
environments" describes them. Refuses to wait: a shell that hangs costs a bounded time and its
variables. Runs in the agent, in worker threads.
"""

import json
import os
import pwd
import secrets
import shutil
import threading
import time
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Tuple

from moai_agent.environments import bounded
from moai_agent.environments.find import CONDA, SYSTEM, VENV, Environment
from moai_agent.environments.inspect import names_in, read_text

# Told to the login shell, so that a `.bashrc` can leave out what is not for a program.
RESOLVING = "MOAI_RESOLVING_ENVIRONMENT"

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# COLUMNS and LINES are the size of a terminal that was there for the asking only.
_OF_THE_SHELL = ("_", "SHLVL", "PWD", "OLDPWD", "PS1", "COLUMNS", "LINES", RESOLVING)
_NOT_SHELLS = ("nologin", "false", "true", "git-shell", "rbash", "scponly")
_UNSET = "***unset***"  # conda's own mark for "this stored variable is not to be set"


@dataclass
class Activated:
    """Variables with an environment active in them, ready for a process.

    Attributes:
        variables: the whole environment.
        environment: what is active; None for the bare login shell.
        problems: activation scripts that failed or hung, one sentence each.
    """

    variables: Dict[str, str]
    environment: Optional[Environment] = None
    problems: List[str] = field(default_factory=list)


@dataclass
class Login:
    """What the login shell gave; ``problem`` says why it is only the agent's own variables."""

    variables: Dict[str, str]
    problem: Optional[str] = None


def activation_env(env: Environment, base_env: Mapping[str, str], timeout_s: float = 10.0) -> Dict[str, str]:
    """The variables of ``activate(...)`` alone."""
    return activate(env, base_env, timeout_s).variables


def activate(env: Environment, base_env: Mapping[str, str], timeout_s: float = 10.0) -> Activated:
    """Make an environment active in a set of variables.

    Args:
        env: the environment.
        base_env: usually ``login_env()``; an environment active in it is deactivated first.
        timeout_s: seconds for all ``activate.d`` scripts together.

    Returns:
        New variables; ``PYTHONHOME`` is gone, ``PYTHONPATH`` untouched.

    Side effects:
        Runs the environment's ``activate.d`` scripts, as ``conda activate`` does.
    """
    variables = dict(base_env)
    variables.pop("PYTHONHOME", None)  # It would send any other interpreter to a foreign library.
    _deactivate(variables)
    problems: List[str] = []
    bin_folder = os.path.join(env.prefix, "bin")
    if env.kind == CONDA:
        _first_on_path(variables, bin_folder)
        variables["CONDA_PREFIX"] = env.prefix
        variables["CONDA_DEFAULT_ENV"] = env.name
        variables["CONDA_SHLVL"] = "1"
        variables["CONDA_PROMPT_MODIFIER"] = "({}) ".format(env.name)
        variables.update(_stored_variables(env.prefix))
        variables, problems = _run_scripts(env.prefix, variables, timeout_s)
    elif env.kind == VENV:
        _first_on_path(variables, bin_folder)
        variables["VIRTUAL_ENV"] = env.prefix
        variables["VIRTUAL_ENV_PROMPT"] = env.name
    elif env.kind != SYSTEM or os.path.dirname(env.python) not in _path(variables):
        _first_on_path(variables, os.path.dirname(env.python))
    return Activated(variables, env, problems)


def _path(variables: Mapping[str, str]) -> List[str]:
    return [folder for folder in variables.get("PATH", _DEFAULT_PATH).split(os.pathsep) if folder]


def _first_on_path(variables: Dict[str, str], folder: str) -> None:
    rest = [other for other in _path(variables) if other.rstrip("/") != folder]
    variables["PATH"] = os.pathsep.join([folder] + rest)


def _deactivate(variables: Dict[str, str]) -> None:
    """Take out the environment the base has active; deactivation scripts are not run."""
    prefixes = [variables.get("VIRTUAL_ENV")]
    prefixes += [
        value for key, value in variables.items() if key == "CONDA_PREFIX" or key.startswith("CONDA_PREFIX_")
    ]
    gone = {os.path.join(prefix, "bin") for prefix in prefixes if prefix}
    if gone:
        variables["PATH"] = os.pathsep.join(
            folder for folder in _path(variables) if folder.rstrip("/") not in gone
        )
    for key in list(variables):
        if key in ("VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CONDA_SHLVL"):
            del variables[key]
        elif key.startswith("CONDA_PREFIX_") or key == "CONDA_PROMPT_MODIFIER":
            del variables[key]


def _stored_variables(prefix: str) -> Dict[str, str]:
    """Variables of packages (``env_vars.d``), then those of ``conda env config vars set``."""
    folder = os.path.join(prefix, "etc", "conda", "env_vars.d")
    stored: Dict[str, str] = {}
    for name in names_in(folder):
        stored.update(_strings(_json(os.path.join(folder, name))))
    state = _json(os.path.join(prefix, "conda-meta", "state"))
    stored.update(_strings(state.get("env_vars")))
    return {key: value for key, value in stored.items() if value != _UNSET}


def _json(path: str) -> Dict[str, object]:
    try:
        value = json.loads(read_text(path) or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _strings(value: object) -> Dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {
        str(key): str(item)
        for key, item in value.items()
        if key and "=" not in str(key) and "\0" not in str(key) + str(item)
    }


def _run_scripts(
    prefix: str, variables: Dict[str, str], timeout_s: float
) -> Tuple[Dict[str, str], List[str]]:
    """Source every ``activate.d/*.sh``, each in a shell of its own: one that exits harms no other."""
    folder = os.path.join(prefix, "etc", "conda", "activate.d")
    problems: List[str] = []
    shell = shutil.which("bash", path="/bin:/usr/bin") or "/bin/sh"  # conda sources them in bash
    clock = _Budget(timeout_s)
    for name in names_in(folder):
        if not name.endswith(".sh"):
            continue
        mark = _mark()
        script = '. "$1"; {}'.format(_dump(mark))
        argv = [shell, "-c", script, "sh", os.path.join(folder, name)]
        outcome = bounded.run(argv, variables, clock.left_s())
        result = _between(outcome.stdout, mark)
        if result is None:
            what = "hung" if outcome.timed_out else "ended its shell"
            problems.append(
                "{}: the activation script {} and was left out".format(os.path.join(folder, name), what)
            )
            continue
        for key in ("_", "SHLVL", "PWD", "OLDPWD"):
            result.pop(key, None)
            if key in variables:
                result[key] = variables[key]
        variables = result
    return variables, problems


class _Budget:
    """Seconds left of a bound shared by several runs."""

    def __init__(self, total_s: float) -> None:
        self._end = time.monotonic() + total_s

    def left_s(self) -> float:
        return max(0.0, self._end - time.monotonic())


def _mark() -> str:
    # Begins with a letter: after `\0`, printf would take digits for an octal number.
    return "moai-" + secrets.token_hex(16)


def _dump(mark: str) -> str:
    """A shell command that prints all exported variables between two marks, NUL-separated.

    Marks and NULs survive whatever rc files print before, after, and without a line end.
    """
    return r'printf "\0{0}\0"; env -0; printf "{0}"'.format(mark)


def _between(output: bytes, mark: str) -> Optional[Dict[str, str]]:
    begin, end = b"\0" + mark.encode() + b"\0", mark.encode()
    start = output.find(begin)
    stop = output.find(end, start + len(begin)) if start >= 0 else -1
    if stop < 0:
        return None
    variables: Dict[str, str] = {}
    for entry in output[start + len(begin) : stop].split(b"\0"):
        key, equal, value = entry.partition(b"=")
        if equal and key:
            variables[os.fsdecode(key)] = os.fsdecode(value)
    return variables


_cache: Dict[Tuple[str, str], Login] = {}
_cache_lock = threading.Lock()


def login_env(timeout_s: float = 10.0, base_env: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
    """The variables of ``login(...)`` alone, as a copy."""
    return dict(login(timeout_s, base_env).variables)


def login(
    timeout_s: float = 10.0, base_env: Optional[Mapping[str, str]] = None, fresh: bool = False
) -> Login:
    """What a terminal session of this user has in its environment.

    Starts the user's shell as an interactive login shell without a terminal and reads the
    variables from it; when that hangs or fails, once more without ``-i``. Asked once per home and
    shell in the life of the agent.

    Args:
        timeout_s: seconds for both attempts together.
        base_env: variables sshd gave us; the agent's own when None. They stay where the shell
            says nothing, and are the whole answer when it gives none.
        fresh: ask again (``.bashrc`` has changed).
    """
    base = dict(os.environ if base_env is None else base_env)
    shell = _login_shell(base)
    key = (base.get("HOME", ""), shell)
    with _cache_lock:
        known = None if fresh else _cache.get(key)
        if known is None:
            known = _cache[key] = _ask_shell(shell, base, timeout_s)
    return known


def _login_shell(base: Mapping[str, str]) -> str:
    shell = base.get("SHELL", "")
    if not shell:
        try:
            shell = pwd.getpwuid(os.getuid()).pw_shell
        except KeyError:  # a container user without an entry in /etc/passwd
            shell = ""
    usable = os.access(shell, os.X_OK) and os.path.basename(shell) not in _NOT_SHELLS
    return shell if usable else "/bin/sh"


def _ask_shell(shell: str, base: Dict[str, str], timeout_s: float) -> Login:
    given = dict(base)
    given[RESOLVING] = "1"
    given["TERM"] = "dumb"  # Prompt frameworks and colour probes leave it alone.
    given.setdefault("PATH", _DEFAULT_PATH)
    clock = _Budget(timeout_s)
    for as_terminal, share_s in ((True, timeout_s * 0.7), (False, timeout_s)):
        mark = _mark()
        # Single quotes, no `!`, no newline: bash, zsh, dash, fish and csh read this alike.
        command = "/bin/sh -c '{}'".format(_dump(mark))
        argv = _shell_argv(shell, command, as_terminal)
        outcome = bounded.run(argv, given, min(share_s, clock.left_s()), executable=shell, cwd=_folder(base))
        variables = _between(outcome.stdout, mark)
        if variables is not None:
            for key in _OF_THE_SHELL + ("TERM",):
                variables.pop(key, None)
                if key in base:
                    variables[key] = base[key]
            return Login(variables)
    problem = "the login shell {} gave no variables within {:g} s; its start-up files may wait for input or never end"
    return Login(base, problem.format(shell, timeout_s))


def _shell_argv(shell: str, command: str, as_terminal: bool) -> List[str]:
    name = os.path.basename(shell)
    if name in ("csh", "tcsh"):
        # tcsh takes -l only as its single option (tcsh(1)), and neither csh reads .login under -c.
        login_file = "test -r ~/.login && source ~/.login; " if as_terminal else ""
        return [name, "-c", login_file + command]
    return [name, "-l"] + (["-i"] if as_terminal else []) + ["-c", command]


def _folder(base: Mapping[str, str]) -> Optional[str]:
    home = base.get("HOME", "")
    return home if os.path.isdir(home) else None

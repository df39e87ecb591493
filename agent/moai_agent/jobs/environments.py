"""Jobs that change environments: install into one, make a new one.

Decides, in the agent, what a person would have to look up: whether this is a MoAI container, which
framework version it runs, where conda is, which Pythons can make a virtual environment. The steps do
the rest (``moai_worker.steps``: install, create, framework).
"""

import os
import re
import shutil
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from moai_proto.v1 import environment_pb2
from moai_worker import jobdir, packages, requirements

from moai_agent.environments import Environment, version_key
from moai_agent.environments.find import CONDA, SYSTEM
from moai_agent.errors import AgentError
from moai_agent.jobs import plans, submit
from moai_agent.jobs.store import Entry

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
_TAKEN = ("base", "root")
_PYTHON = re.compile(r"^3\.\d{1,2}(\.\d{1,3})?$")
_VERSION = re.compile(r"^\d{1,4}(\.\d{1,5}){1,3}$")
_MOAI = ("moreh-smi", "ap-smi")
#: Bytes of all files of a request; they are kept in the job's plan.
_MOST_BYTES = 2 << 20


class _Framework(NamedTuple):
    torch: str
    moreh: str
    why: str


# -- install ---------------------------------------------------------------------------------------


async def installing(agent: Any, message: environment_pb2.InstallRequirementsRequest) -> Entry:
    """InstallRequirements."""
    wanted = list(message.requirements)
    files = _files(message.requirement_files)
    if not wanted and not message.requirement_paths and not files:
        raise AgentError("USAGE", "nothing to install was given", "moai remote env install NAME... or -r FILE")
    for one in wanted:
        if not one.strip() or one.startswith("-") or "\n" in one or "\0" in one:
            raise AgentError("USAGE", "%r is not a requirement" % one[:100], "options of pip go into a requirements file")
    if not 0 <= message.requirement_file_count <= len(files):
        raise AgentError("USAGE", "%d files were announced, %d came" % (message.requirement_file_count, len(files)))
    shown = [submit.shown([one]) for one in wanted]
    shown += ["-r %s" % path for path in message.requirement_paths]
    shown += ["-r laptop:%s" % one["name"] for one in files[: message.requirement_file_count]]
    verb = "resolve" if message.dry_run else "install"
    request = submit.Request(
        agent, message, message.options, "install", ("%s %s" % (verb, " ".join(shown)))[:1000], False
    )

    def make(place: plans.Place) -> Tuple[List[Dict[str, Any]], str]:
        for path in message.requirement_paths:
            _refuse_missing(os.path.join(place.cwd, os.path.expanduser(path)), "-r")
        if not message.dry_run:
            request.notes += _running_in(agent, place.environment)
        inputs = _install_inputs(place, wanted, list(message.requirement_paths), files, message.requirement_file_count)
        inputs.update(
            python=place.python, environment=place.environment.name, dry_run=message.dry_run,
            torch=place.environment.torch_version if place.environment.moreh_version else "",
        )  # fmt: skip
        name = "resolve" if message.dry_run else "install"
        return [plans.on_agent(place, name, "install", inputs)], ""

    return await request.submit(make)


def _install_inputs(
    place: plans.Place, wanted: List[str], paths: List[str], files: List[Dict[str, str]], asked: int
) -> Dict[str, Any]:
    return {
        "requirements": wanted,
        "paths": paths,
        "files": files,
        "asked": asked,
        "cwd": place.cwd,
        "folder": os.path.join(place.job_path, "requirements"),
        "output": os.path.join(place.job_path, "changes.json"),
        "dry_run": False,
    }


def _files(given: Any) -> List[Dict[str, str]]:
    files = [{"name": one.name, "text": one.text} for one in given]
    names = [one["name"] for one in files]
    for name in names:
        if not name or name != os.path.basename(name) or name in (".", "..") or "\0" in name:
            raise AgentError("USAGE", "%r is not the name of a file" % name[:100])
    if len(set(names)) != len(names):
        raise AgentError("USAGE", "two files that were sent have the same name")
    if sum(len(one["text"].encode("utf-8", "replace")) for one in files) > _MOST_BYTES:
        raise AgentError(
            "USAGE", "the files that were sent are larger than %d MiB" % (_MOST_BYTES >> 20), "push them, then name their path there"
        )
    return files


def _refuse_missing(path: str, option: str) -> None:
    if not os.path.isfile(path):
        raise AgentError(
            "FILE_NOT_FOUND",
            "there is no file %s on the container" % path,
            "check the path; %s laptop:PATH sends one of the laptop" % option,
        )


def _running_in(agent: Any, environment: Environment) -> List[Dict[str, Any]]:
    """A warning for every job that runs in the environment that is to be changed."""
    prefix = os.path.realpath(environment.prefix)
    found = [
        entry.job.id
        for entry in agent.store.entries()
        if entry.view["state"] not in jobdir.TERMINAL_STATES
        and entry.spec.get("kind") not in ("download", "create")
        and os.path.realpath((entry.spec.get("environment") or {}).get("prefix") or "/") == prefix
        and environment.kind != SYSTEM
    ]
    if not found:
        return []
    text = "%s uses this environment now and may break when a package changes under it" % ", ".join(found)
    return [submit.note(text, "ENVIRONMENT_IN_USE", "warning")]


# -- create ----------------------------------------------------------------------------------------


async def creating(agent: Any, message: environment_pb2.CreateEnvironmentRequest) -> Entry:
    """CreateEnvironment."""
    check_creation(message)
    files = _files(message.source_files)
    request = submit.Request(
        agent, message, message.options, "create", "create environment %s" % message.name, False
    )
    request.needs_environment = False

    def make(place: plans.Place) -> Tuple[List[Dict[str, Any]], str]:
        return _creation(agent, message, files, place, request)

    return await request.submit(make)


def check_creation(message: environment_pb2.CreateEnvironmentRequest) -> None:
    """USAGE naming the first thing that cannot be."""
    if not _NAME.match(message.name) or message.name in _TAKEN:
        raise AgentError(
            "USAGE", "%r is not a name for an environment" % message.name[:100], "use letters, digits, '.', '_' and '-'"
        )
    if message.python_version and not _PYTHON.match(message.python_version):
        raise AgentError("USAGE", "%r is not a version of Python" % message.python_version, "--python 3.8")
    for what, value in (("torch", message.torch_version), ("the framework", message.moreh_version)):
        if value and value != "none" and not _VERSION.match(value):
            raise AgentError("USAGE", "%r is not a version of %s" % (value, what), "--moreh 24.5.0 --torch 1.13.1")
    if message.source_path and message.source_files:
        raise AgentError("USAGE", "a file here and one of the laptop were given", "give one of them")


def _creation(
    agent: Any,
    message: environment_pb2.CreateEnvironmentRequest,
    files: List[Dict[str, str]],
    place: plans.Place,
    request: submit.Request,
) -> Tuple[List[Dict[str, Any]], str]:
    registry = agent.registry
    known: List[Environment] = registry.list(fresh=True)
    for one in known:
        if one.name == message.name and one.kind != SYSTEM:
            raise AgentError(
                "ENVIRONMENT_EXISTS",
                "there is an environment %s already, in %s; it was not touched" % (one.name, one.prefix),
                "take another name, or moai remote env install --env %s REQUIREMENT" % one.name,
                {"prefix": one.prefix},
            )
    login = registry.login()
    home = login.get("HOME") or os.path.expanduser("~")
    path = message.source_path and os.path.abspath(os.path.join(place.cwd, os.path.expanduser(message.source_path)))
    if path:
        _refuse_missing(path, "--from")
    source = files[0]["name"] if files else os.path.basename(path)
    kind = source_kind(source)
    conda = _conda(login, known)
    framework = _framework(agent, message, known, kind)
    version = message.python_version or _default_python(framework.moreh, bool(conda), kind)
    inputs: Dict[str, Any] = {
        "name": message.name,
        "python_version": version,
        "path": path,
        "files": files,
        "folder": os.path.join(place.job_path, "source"),
        "made_for": message.options.request_id,
        "pythons": [],
        "tool": "",
    }
    wants_conda = kind == "conda-file" or (not kind and conda) or (kind == "requirements" and conda and framework.moreh)
    if wants_conda:
        if not conda:
            raise AgentError(
                "UNSUPPORTED",
                "%s is made by conda, and there is no conda on the container" % source,
                "moai remote env create %s --from requirements.txt makes a plain virtual environment" % message.name,
            )
        inputs.update(kind="conda-file" if kind == "conda-file" else "conda", tool=conda)
        inputs["prefix"] = os.path.join(_conda_envs(conda, home), message.name)
    else:
        folder = os.path.join(place.work, "envs")
        registry.remember_folder(folder)
        inputs["prefix"] = os.path.join(folder, message.name)
        if kind == "uv":
            inputs.update(kind="uv", tool=_uv(login, home, message.name, files, path))
        else:
            inputs.update(kind="venv", pythons=_pythons(known, version))
    steps = [plans.on_agent(place, "create", "create", inputs)]
    made = {"python": plans.earlier("create", "python"), "prefix": plans.earlier("create", "prefix")}
    if framework.torch:
        request.notes.append(submit.note("torch %s: %s" % (
            requirements.moreh_version(framework.torch, framework.moreh) if framework.moreh else framework.torch,
            framework.why,
        ), "FRAMEWORK"))  # fmt: skip
        others = {one.name: one.moreh_version for one in known if one.moreh_version}
        more = {
            "name": message.name,
            "conda": bool(wants_conda),
            "torch": framework.torch,
            "moreh": framework.moreh,
            "update_moreh": shutil.which("update-moreh", path=login.get("PATH", "")) or "",
            "others": others,
        }
        steps.append(plans.on_agent(place, "framework", "framework", dict(made, **more)))
    if kind == "requirements":
        install = _install_inputs(place, [], [path] if path else [], files, 1 if files else 0)
        install.update(python=made["python"], environment=message.name)
        steps.append(plans.on_agent(place, "install", "install", install))
    return steps, ""


def source_kind(name: str) -> str:
    """``requirements``, ``conda-file``, ``uv`` or "" of a file's name."""
    if not name:
        return ""
    if name.endswith((".yml", ".yaml")):
        return "conda-file"
    return "uv" if name == "uv.lock" or name.endswith(".lock") else "requirements"


def _framework(
    agent: Any, message: environment_pb2.CreateEnvironmentRequest, known: List[Environment], kind: str
) -> _Framework:
    """Which build of torch the new environment gets, and why; no torch = none."""
    asked = message.moreh_version
    if asked == "none" or (kind in ("conda-file", "uv") and not asked):
        return _Framework(message.torch_version, "", "asked for")
    if asked:
        return _Framework(message.torch_version or _default_torch(asked, known), asked, "asked for")
    if agent.registry.provider() not in _MOAI:
        return _Framework(message.torch_version, "", "asked for")
    there = sorted((one for one in known if one.moreh_version), key=lambda one: version_key(one.moreh_version or ""))
    if there:
        moreh, why = str(there[-1].moreh_version), "the framework of %s; one token, one version" % there[-1].name
    else:
        moreh = agent.registry.devices("").platform_version or ""
        why = "the version the device tool names"
    if not moreh:
        return _Framework(message.torch_version, "", "asked for")
    return _Framework(message.torch_version or _default_torch(moreh, known), moreh, why)


def _default_torch(moreh: str, known: List[Environment]) -> str:
    for one in known:
        found = requirements.MOREH.fullmatch(one.torch_version or "")
        if found and found.group("moreh") == moreh:
            return found.group("torch")
    key = version_key(moreh)
    return "2.1.0" if key >= (25,) else "1.13.1" if key >= (24,) else "1.7.1"


def _default_python(moreh: str, has_conda: bool, kind: str) -> str:
    if moreh:
        return "3.10" if version_key(moreh) >= (25,) else "3.8"
    return "3.11" if has_conda and not kind else ""


def _conda(login: Dict[str, str], known: List[Environment]) -> str:
    """The conda of this container; "" when there is none."""
    more = [login.get("CONDA_EXE", "")]
    more += [os.path.join(one.prefix, "bin", "conda") for one in known if one.kind == CONDA and one.name == "base"]
    more += [os.path.join(one.prefix, "condabin", "conda") for one in known if one.kind == CONDA]
    return packages.which("conda", login, more) or packages.which("mamba", login)


def _conda_envs(conda: str, home: str) -> str:
    """Where conda keeps environments: beside itself when that can be written, as conda decides it."""
    base = os.path.dirname(os.path.dirname(os.path.realpath(conda)))
    folder = os.path.join(base, "envs")
    if os.access(folder if os.path.isdir(folder) else base, os.W_OK):
        return folder
    return os.path.join(home, ".conda", "envs")


def _uv(login: Dict[str, str], home: str, name: str, files: List[Dict[str, str]], path: str) -> str:
    places = [os.path.join(home, part, "uv") for part in (".local/bin", ".cargo/bin")]
    found = packages.which("uv", login, places)
    if not found:
        raise AgentError(
            "UNSUPPORTED",
            "a uv.lock is installed by uv, and there is no uv on the container",
            "uv export --format requirements-txt > requirements.txt here, then moai remote env create %s "
            "--from laptop:requirements.txt" % name,
        )
    beside = [one["name"] for one in files] if files else os.listdir(os.path.dirname(path))
    if "pyproject.toml" not in beside:
        raise AgentError("USAGE", "beside the uv.lock there is no pyproject.toml, which uv needs", "put both into one folder")
    return found


def _pythons(known: List[Environment], version: str) -> List[str]:
    """Interpreters that can make a virtual environment, best first."""

    def rank(one: Environment) -> Tuple[int, Tuple[int, ...]]:
        order = ("system", "uv", "pyenv", "conda").index(one.kind)
        return order, tuple(-part for part in version_key(one.python_version or ""))

    usable = [one for one in known if one.kind in ("system", "uv", "pyenv") or (one.kind == CONDA and one.name == "base")]
    wanted = version.split(".") if version else []
    fitting = [one for one in usable if not wanted or (one.python_version or "").split(".")[: len(wanted[:2])] == wanted[:2]]
    if not fitting:
        have = sorted({one.python_version or "?" for one in usable}, key=version_key)
        raise AgentError(
            "ENVIRONMENT_NOT_FOUND",
            "there is no Python %s here to make a virtual environment with, and no conda to fetch one; there are %s"
            % (version or "3.8 or newer", ", ".join(have) or "none"),
            "name one of those with --python",
        )
    ordered = sorted(fitting, key=rank)
    return [one.python for one in ordered][:8]


# -- look ------------------------------------------------------------------------------------------


class Look(NamedTuple):
    """One environment as ``GetEnvironment`` answers it."""

    environment: Environment
    is_default: bool
    reason: str


def look(agent: Any, want: str) -> Look:
    """One environment, and why it is or is not the one jobs run in. Raises AgentError."""
    registry = agent.registry
    registry.list(fresh=True)
    default: Optional[Environment] = None
    try:
        default, why = registry.choose("", True)
    except AgentError as error:
        if not want:
            raise
        why = error.message
    if not want:
        assert default is not None
        return Look(default, True, why)
    chosen, _ = registry.choose(want, False)
    if default is not None and default.python == chosen.python:
        return Look(chosen, True, why)
    if default is None:
        return Look(chosen, False, "none is chosen by itself: %s" % why)
    return Look(chosen, False, "%s is chosen where none is named: %s" % (default.name, why))

"""Step ``create``: a new Python environment, by conda, venv or uv.

Owns the folder it makes and nothing else. The folder is made first, by mkdir, which fails when
anything of that name is there: conda's own ``-y`` removes an existing environment without asking
(conda/cli/main_create.py), and goes on in a folder that is none.
What cannot be finished is removed again, unless the step itself was killed.

Runs on the agent's Python.
"""

import fcntl
import os
import shutil
import signal
from typing import Any, Dict, List, Optional, Sequence

from .. import packages
from ..errors import StepError
from ..jobdir import read_json, write_json

#: Left in a finished environment; a resumed job knows its own by it.
MARKER = ".moai-environment.json"


class _Ended(BaseException):
    """SIGTERM: the half-made environment is removed on the way out."""


def run(inputs: Dict[str, Any], report: Any) -> Dict[str, Any]:
    """Make an environment.

    Args:
        inputs: ``name``; ``kind``: ``conda`` (empty but for Python and pip), ``conda-file`` (an
            environment.yml), ``venv`` or ``uv`` (a uv.lock); ``prefix`` (the folder, absolute);
            ``tool`` (path of conda or uv); ``python_version`` ("" = the tool's own choice);
            ``pythons`` (interpreters to make a venv with, best first); ``path`` (the file here) or
            ``files`` (``{"name", "text"}``, sent along); ``folder`` (where those are put);
            ``made_for`` (id of the request: a resumed job goes on with what its first try made).
        report: the step's Reporter.

    Returns:
        ``name``, ``kind``, ``prefix``, ``python``, ``python_version``, ``summary``; ``reused`` when an
        earlier try of the same job made it.

    Raises:
        StepError: ENVIRONMENT_EXISTS, INSTALL_FAILED, PACKAGE_MISSING, UNSUPPORTED, FILE_NOT_FOUND.
    """
    prefix = os.path.abspath(str(inputs["prefix"]))
    os.makedirs(os.path.dirname(prefix), exist_ok=True)
    with open(os.path.join(os.path.dirname(prefix), ".moai-create.lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mark = read_json(os.path.join(prefix, MARKER))
        if mark is not None and mark.get("made_for") == inputs.get("made_for"):
            report.message("{} was made by an earlier try of this job".format(prefix), code="REUSED")
            return dict(_described(inputs, prefix, report), reused=True)
        _reserve(prefix, str(inputs["name"]))
    made = False
    before = signal.signal(signal.SIGTERM, _on_term)
    try:
        _MAKERS[str(inputs["kind"])](inputs, prefix, report)
        result = _described(inputs, prefix, report)
        write_json(os.path.join(prefix, MARKER), {"made_for": inputs.get("made_for"), "name": inputs["name"]})
        made = True
        return result
    except _Ended:
        raise StepError("CANCELLED", "making {} was cancelled; what there was of it is removed".format(prefix))
    finally:
        signal.signal(signal.SIGTERM, before)
        if not made:
            shutil.rmtree(prefix, ignore_errors=True)


def _on_term(*_: Any) -> None:
    raise _Ended()


def _reserve(prefix: str, name: str) -> None:
    try:
        os.mkdir(prefix)
    except FileExistsError:
        half = not os.path.exists(os.path.join(prefix, "bin", "python"))
        what = "{} is there already{}; it was not touched".format(prefix, ", without a Python in it" if half else "")
        raise StepError(
            "ENVIRONMENT_EXISTS", what, "take another name than {}, or remove that folder yourself first".format(name),
            {"prefix": prefix},
        )  # fmt: skip
    except OSError as error:
        raise StepError(
            "HOME_NOT_WRITABLE", "{} cannot be made: {}".format(prefix, error.strerror), "choose another folder with --work"
        )


def _described(inputs: Dict[str, Any], prefix: str, report: Any) -> Dict[str, Any]:
    python = os.path.join(prefix, "bin", "python")
    facts = packages.Interpreter(python, os.environ, "/").describe()
    wanted = str(inputs.get("python_version") or "")
    have = str(facts["python"])
    if wanted and have.split(".")[: len(wanted.split("."))] != wanted.split("."):
        raise StepError(
            "INSTALL_FAILED",
            "{} has Python {}, not {}".format(prefix, have, wanted),
            "name a version that is there with --python",
        )
    report.artifact("environment", prefix, name=inputs["name"], python_version=have)
    return {
        "name": inputs["name"],
        "kind": inputs["kind"],
        "prefix": prefix,
        "python": python,
        "python_version": have,
        "summary": "Python {} in {}".format(have, prefix),
    }


# -- conda -----------------------------------------------------------------------------------------


def _conda(inputs: Dict[str, Any], prefix: str, report: Any) -> None:
    version = str(inputs.get("python_version") or "")
    packages_ = ["python={}".format(version) if version else "python", "pip"]
    report.phase("creating", "conda create -n {} {}".format(inputs["name"], packages_[0]))
    _conda_run(inputs, ["create", "-y", "-q", "-p", prefix] + packages_, prefix)


def _conda_file(inputs: Dict[str, Any], prefix: str, report: Any) -> None:
    path = _source(inputs)
    report.phase("creating", "conda env create -n {} -f {}".format(inputs["name"], os.path.basename(path)))
    _conda_run(inputs, ["env", "create", "-q", "-p", prefix, "-f", path], os.path.dirname(path))


def _conda_run(inputs: Dict[str, Any], words: List[str], cwd: str) -> None:
    ended = packages.run([str(inputs["tool"])] + words, _plain(os.environ), cwd)
    if ended.code != 0:
        _raise("conda", ended)


# -- venv ------------------------------------------------------------------------------------------


def _venv(inputs: Dict[str, Any], prefix: str, report: Any) -> None:
    tried: List[str] = []
    for python in inputs.get("pythons") or []:
        report.phase("creating", "{} -m venv {}".format(python, prefix))
        ended = packages.run([python, "-I", "-m", "venv", prefix], _plain(os.environ), "/")
        if ended.code == 0 and os.path.exists(os.path.join(prefix, "bin", "python")):
            return
        tried.append("{}: {}".format(python, packages.last_line(ended.lines)))
        shutil.rmtree(prefix, ignore_errors=True)
        os.mkdir(prefix)
    raise StepError(
        "PACKAGE_MISSING",
        "no Python here can make a virtual environment: {}".format("; ".join(tried) or "none was found"),
        "install the distribution's python3-venv, or name another one with --python",
    )


# -- uv --------------------------------------------------------------------------------------------


def _uv(inputs: Dict[str, Any], prefix: str, report: Any) -> None:
    path = _source(inputs)
    project = os.path.dirname(path)
    words = ["sync", "--frozen", "--project", project]
    if inputs.get("files"):
        words.append("--no-install-project")  # Only its lock was sent, not its code.
    if inputs.get("python_version"):
        words += ["--python", str(inputs["python_version"])]
    report.phase("creating", "uv sync --frozen, from {}".format(path))
    variables = dict(_plain(os.environ), UV_PROJECT_ENVIRONMENT=prefix, NO_COLOR="1")
    ended = packages.run([str(inputs["tool"])] + words, variables, project)
    if ended.code != 0:
        _raise("uv", ended)


# -- shared ----------------------------------------------------------------------------------------


def _source(inputs: Dict[str, Any]) -> str:
    """The file to make the environment from; files that were sent along are put into ``folder``."""
    files: Sequence[Dict[str, str]] = inputs.get("files") or []
    if not files:
        path = str(inputs["path"])
        if not os.path.isfile(path):
            raise StepError("FILE_NOT_FOUND", "there is no file {} on the container".format(path), "check the path after --from")
        return path
    folder = str(inputs["folder"])
    os.makedirs(folder, exist_ok=True)
    for one in files:
        with open(os.path.join(folder, os.path.basename(one["name"])), "w", encoding="utf-8") as out:
            out.write(one["text"])
    return os.path.join(folder, os.path.basename(files[0]["name"]))


def _plain(variables: Any) -> Dict[str, str]:
    """Variables without an active environment: the new one is nobody's child."""
    active = ("VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "PYTHONHOME", "PYTHONPATH")
    return {key: value for key, value in variables.items() if key not in active}


def _raise(tool: str, ended: packages.Ended) -> None:
    why = packages.last_line(ended.lines)
    next_: Optional[str] = None
    if packages.is_cut(ended.lines):
        next_ = "check that the container reaches the channel; a proxy is set with moai remote set NAME --proxy URL"
    raise StepError(
        "INSTALL_FAILED",
        "{} could not make the environment (exit code {}): {}".format(tool, ended.code, why),
        next_ or "moai remote logs shows all that {} said".format(tool),
    )


_MAKERS = {"conda": _conda, "conda-file": _conda_file, "venv": _venv, "uv": _uv}

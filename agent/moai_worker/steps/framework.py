"""Step ``framework``: torch, as a rule the Moreh build of it, into a new environment.

``update-moreh`` is driven on a pseudo-terminal (its question defaults to No); believed is only its
*successful* line together with the version that the environment's metadata show afterwards. Where it is
missing, too old or fails, pip installs the same build by its full version string. Releases from 25 on
know pip only. Proxies never reach update-moreh: they break the platform's tools.

Runs on the agent's Python.
"""

import os
import re
from typing import Any, Dict, Mapping

from .. import packages, requirements
from ..errors import StepError
from ..terminal import Hung, Terminal

_TIMEOUT_S = 3600.0
_QUESTION = re.compile(r"\(y/n, default:n\)\s*$|\(Press any key to proceed\)\s*$")
_DONE = re.compile(r"Moreh Framework installation successful|Already installed : ")
#: update-moreh is broken for releases before 23.8 and gone from 25 on.
_BY_TOOL = ((23, 8), (25,))
_MOST_QUESTIONS = 5


def run(inputs: Dict[str, Any], report: Any) -> Dict[str, Any]:
    """Install torch.

    Args:
        inputs: ``python``, ``prefix``, ``name`` and ``conda`` (it is a conda environment) of the
            environment; ``torch`` and ``moreh`` (versions; no ``moreh`` = a plain torch);
            ``update_moreh`` (its path, or ""); ``others`` (name -> Moreh version of other environments).
        report: the step's Reporter.

    Returns:
        ``torch`` (version string as installed), ``by`` (``update-moreh`` or ``pip``), ``summary``;
        ``reused`` when it was there.

    Raises:
        StepError: INSTALL_FAILED, PACKAGE_MISSING.
    """
    torch, moreh = str(inputs["torch"]), str(inputs.get("moreh") or "")
    wanted = requirements.moreh_version(torch, moreh) if moreh else torch
    python = packages.Interpreter(str(inputs["python"]), os.environ, "/")
    differing = {name: v for name, v in (inputs.get("others") or {}).items() if moreh and v != moreh}
    if differing:
        report.message(
            "all environments of one token must have the same framework version; {} differ from {}".format(
                ", ".join("{} ({})".format(*one) for one in sorted(differing.items())), moreh
            ),
            "warning",
            "FRAMEWORK_DIFFERS",
        )
    if _fits(python.installed().get("torch", ""), torch, moreh):
        return {"torch": wanted, "by": "", "summary": "torch {}".format(wanted), "reused": True}
    by = ""
    tool = str(inputs.get("update_moreh") or "")
    if tool and moreh and _BY_TOOL[0] <= requirements.numbers(moreh) < _BY_TOOL[1]:
        problem = _update(tool, torch, moreh, inputs, report)
        have = python.installed().get("torch", "")
        if not problem and not _fits(have, torch, moreh):
            problem = "it reported success, but the environment has torch {}".format(have or "none")
        if problem:
            report.message("update-moreh: {}; pip is tried instead".format(problem), "warning", "UPDATE_MOREH_FAILED")
        else:
            by = "update-moreh"
    if not by:
        _pip(python, wanted, report)
        by = "pip"
    have = python.installed().get("torch", "")
    if not _fits(have, torch, moreh):
        raise StepError(
            "INSTALL_FAILED",
            "{} says that it installed torch {}, but the environment has {}".format(by, wanted, have or "none"),
            "moai remote logs shows what it said",
        )
    report.message("torch {} installed by {}".format(have, by), code="FRAMEWORK")
    return {"torch": have, "by": by, "summary": "torch {} by {}".format(have, by)}


def _fits(have: str, torch: str, moreh: str) -> bool:
    """Whether an installed version is the one wanted, whatever CUDA release its local part names."""
    found = requirements.MOREH.fullmatch(have)
    if not moreh:
        return have.split("+")[0] == torch
    return found is not None and found.group("torch", "moreh") == (torch, moreh)


def _update(tool: str, torch: str, moreh: str, inputs: Mapping[str, Any], report: Any) -> str:
    """Drive update-moreh; returns what went wrong, or ""."""
    report.phase("installing", "update-moreh --target {} --torch {}".format(moreh, torch))
    variables = _active(os.environ, inputs)
    said = ""
    try:
        with Terminal([tool, "--target", moreh, "--torch", torch], variables, _TIMEOUT_S) as terminal:
            try:
                for _ in range(_MOST_QUESTIONS):
                    if terminal.read_until(_QUESTION) is None:
                        break
                    terminal.send("y")
                else:
                    return "it asked more than {} questions".format(_MOST_QUESTIONS)
                terminal.rest()
            except Hung:
                return "it did not end within {:.0f} minutes".format(_TIMEOUT_S / 60)
            finally:
                said = terminal.said
                packages.write_log(said)
    except OSError as error:
        return "it cannot be started: {}".format(error.strerror)
    if _DONE.search(said):
        return ""
    lines = [line for line in said.splitlines() if line.strip()]
    return "it did not report success: {}".format(packages.last_line(lines))


def _active(variables: Mapping[str, str], inputs: Mapping[str, Any]) -> Dict[str, str]:
    """Variables with the new environment active, and without proxies."""
    prefix = str(inputs["prefix"])
    gone = ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy", "virtual_env", "pythonhome", "pythonpath")
    given = {k: v for k, v in variables.items() if k.lower() not in gone and not k.startswith("CONDA_PREFIX")}
    given["PATH"] = os.path.join(prefix, "bin") + os.pathsep + given.get("PATH", "/usr/bin:/bin")
    given["PYTHONNOUSERSITE"] = "1"
    if inputs.get("conda"):
        given.update(CONDA_PREFIX=prefix, CONDA_DEFAULT_ENV=str(inputs["name"]), CONDA_SHLVL="1")
    else:
        given["VIRTUAL_ENV"] = prefix
    return given


def _pip(python: packages.Interpreter, version: str, report: Any) -> None:
    python.pip_version()
    report.phase("installing", "pip install torch=={}".format(version))
    ended = python.pip_install(["torch=={}".format(version)])
    if ended.code != 0:
        cut = packages.is_cut(ended.lines)
        raise StepError(
            "INSTALL_FAILED",
            "torch {} could not be installed: {}".format(version, packages.last_line(ended.lines)),
            "check that the container reaches the index; a proxy is set with moai remote set NAME --proxy URL"
            if cut
            else "name a version the index has with --moreh and --torch; the platform's pip knows its builds",
        )

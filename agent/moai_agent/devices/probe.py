"""Asks the container for its devices: MoAI's tool, else NVML, else the CPU.

Owns the order of providers and the bounds on the tool. Refuses to raise and to pretend: a MoAI
tool that is there but fails makes a report with ``error`` set, not a CPU. Blocking, for the
agent's worker threads.
"""

import os
import shutil
from typing import Dict, List, Mapping, Optional, Tuple

from moai_agent.devices import cpu, nvml, smi
from moai_agent.devices.report import PROVIDER_AP, PROVIDER_MOREH, DeviceError, SmiReport, redact
from moai_agent.environments import bounded
from moai_agent.environments.activate import Activated, login_env

# `ap-smi` replaced `moreh-smi` in 25.3; a container that has both was upgraded.
_TOOLS = (PROVIDER_AP, PROVIDER_MOREH)
# Moreh's tools talk to their server through whatever proxy they find, and fail.
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy", "no_proxy")
_FOREIGN = ("tenstorrent", "glx_reset", "wormhole", "blackhole", "tt-smi", "tt-kmd")
_NEXT = (
    "run `{0}` on the container in a terminal; if it hangs there too, check /etc/moreh/token and the network"
)


def tool_variables(variables: Mapping[str, str]) -> Dict[str, str]:
    """The environment Moreh's tools may see: the user's, less proxies, in plain English."""
    given = {key: value for key, value in variables.items() if key.lower() not in _PROXIES}
    given["COLUMNS"] = "200"  # A tool that fits its table to the terminal must not wrap rows.
    given.setdefault("LANG", "C.UTF-8")
    return given


def find_tool(variables: Mapping[str, str]) -> Optional[Tuple[str, str]]:
    """(provider, path) of the device tool on the PATH of ``variables``; None when there is none."""
    tools = _tools(variables)
    return tools[0] if tools else None


def list_devices(env: Optional[Activated], timeout_s: float = 15.0) -> SmiReport:
    """Read the devices of this container.

    Args:
        env: the activated environment whose PATH has the tool; None for the login shell's own
            (which costs starting that shell, once per agent).
        timeout_s: seconds for the tool; then its process group is killed.

    Returns:
        The report of the first provider there is. When a MoAI tool is there and hangs, crashes or
        prints no device table, ``error`` is set (``DEVICE_TOOL_FAILED``) and ``devices`` is empty.
    """
    variables = tool_variables(login_env() if env is None else env.variables)
    failed: Optional[SmiReport] = None
    notes: List[str] = []
    for provider, path in _tools(variables):
        report, foreign = _ask_tool(provider, path, variables, timeout_s)
        if report.error is None and not foreign:
            return report
        if foreign:
            notes.extend(report.messages)
        elif failed is None:
            failed = report
    if failed is not None:
        return failed
    fallback = nvml.read() or cpu.read()
    fallback.messages[:0] = notes
    return fallback


def _tools(variables: Mapping[str, str]) -> List[Tuple[str, str]]:
    path = variables.get("PATH", "")
    found = ((name, shutil.which(name, path=path)) for name in _TOOLS)
    return [(name, where) for name, where in found if where]


def _ask_tool(
    provider: str, path: str, variables: Mapping[str, str], timeout_s: float
) -> Tuple[SmiReport, bool]:
    """The tool's report, and whether it is another tool of the same name."""
    outcome = bounded.run([path], variables, timeout_s)
    text = outcome.stdout.decode("utf-8", "replace")
    report = smi.parse(text)
    if report.provider is not None and not outcome.timed_out:
        return report, False  # Exit codes of these tools mean nothing; the table does.
    both = (text + outcome.stderr.decode("utf-8", "replace")).lower()
    if any(word in both for word in _FOREIGN) or _is_beside_tenstorrent(path):
        return SmiReport(messages=["{}: {}".format(path, smi.NO_TABLE)]), True
    if outcome.error is not None:
        cause = "could not be started: {}".format(outcome.error)
    elif outcome.timed_out:
        cause = "did not answer within {:g} s and was stopped".format(timeout_s)
    elif outcome.exit_code:
        cause = "ended with {} and no device table".format(_exit(outcome.exit_code))
    else:
        cause = "printed no complete device table"
    quote = _quote(outcome.stderr) or _quote(outcome.stdout)
    message = "{} {}{}".format(path, cause, ": " + quote if quote else "")
    error = DeviceError("DEVICE_TOOL_FAILED", message, _NEXT.format(provider))
    return SmiReport(provider=provider, error=error, messages=report.messages), False


def _is_beside_tenstorrent(path: str) -> bool:
    """Moreh's tools for Tenstorrent hosts come as a pair; the MoAI one has no `moreh-lock`."""
    return os.path.exists(os.path.join(os.path.dirname(path), "moreh-lock"))


def _exit(code: int) -> str:
    return "signal {}".format(-code) if code < 0 else "exit code {}".format(code)


def _quote(output: bytes) -> str:
    """The last line that says something, without secrets or half tables; where tools put the cause."""
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines()]
    telling = [line for line in lines if "|" not in line and any(letter.isalnum() for letter in line)]
    # What the shell says of a crash comes behind its cause.
    causes = [line for line in telling if not line.startswith(("Aborted", "Segmentation fault"))]
    return redact((causes or telling or [""])[-1])[:200]

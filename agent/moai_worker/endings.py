"""How a step or a job ended, and how that is judged from what can be seen.

Pure but for the looks at the result file's content, the log's end and expected paths. Used by the
supervisor; standard library only.
"""

import errno
import os
import signal
from typing import Any, Dict, Optional

from moai_worker import cgroup, verdict


class Outcome:
    """How a step or the job ended."""

    def __init__(self, state: str, code: Optional[int] = None, reason: Optional[Dict[str, Any]] = None) -> None:
        self.state = state
        self.code = code
        self.reason = reason


def exit_code(status: Optional[int]) -> Optional[int]:
    """Of a wait status; 128 + n for signal n, None while it is not known."""
    if status is None:
        return None
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


def reason(code: str, message: str, next: str = "", **details: str) -> Dict[str, Any]:
    """A reason as it is recorded."""
    return {"code": code, "message": message, "next": next, "details": details}


def spawn_failure(step: Dict[str, Any], error: OSError) -> Outcome:
    """A program that could not be started, in a user's words."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and not os.path.isdir(step.get("cwd") or "/"):
        text = "the working folder %s does not exist on the container" % step.get("cwd")
        return Outcome("FAILED", None, reason("WORKDIR_NOT_FOUND", text, "give another one with --workdir"))
    if error.errno in (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR):
        code = 127 if error.errno == errno.ENOENT else 126
        text = "%s: %s" % (step["argv"][0], error.strerror)
        hint = "check the name, or choose the environment that has it with --env"
        return Outcome("FAILED", code, reason("COMMAND_NOT_FOUND", text, hint))
    hint = "end something there, or have that limit raised; then moai remote resume" if error.errno == errno.EAGAIN else ""
    return Outcome("FAILED", None, reason("START_FAILED", "%s: %s" % (step["argv"][0], why_not_started(error)), hint))


def why_not_started(error: OSError) -> str:
    """Why a process could not be made, in a user's words."""
    if error.errno == errno.EAGAIN:
        return "the container's limit of processes is reached (%s)" % error.strerror
    return str(error)


def judge(
    step: Dict[str, Any], status: Optional[int], result: Optional[Dict[str, Any]], log: str, since: int = 0, oom_kills: int = 0
) -> Outcome:
    """How a step ended, from its wait status and, for our own steps, its result file.

    Args:
        status: of waitpid(2). result: content of the result file. log: path of the job's log, of which this
            step wrote what stands from ``since`` on. oom_kills: counted by the cgroup before the step.
    """
    code = exit_code(status)
    if status is not None and os.WIFSIGNALED(status):
        name = _signal_name(os.WTERMSIG(status))
        if os.WTERMSIG(status) == signal.SIGKILL and cgroup.oom_kills() > oom_kills:
            text = "the container's memory limit was hit"
            return Outcome("FAILED", code, reason("OUT_OF_MEMORY", text, cause="oom_kill"))
        text = "%s was ended by %s" % (step["name"], name)
        return Outcome("FAILED", code, reason("COMMAND_KILLED", text))
    if step.get("module"):
        if result and result.get("ok") and code == 0:
            return Outcome("SKIPPED" if result.get("skipped") else "SUCCEEDED", 0)
        if result and isinstance(result.get("error"), dict):
            return Outcome("FAILED", code, result["error"])
        text = "step %s ended with exit code %s and left no result" % (step["name"], code)
        return Outcome("FAILED", code, reason("INTERNAL", text, "see moai remote logs", cause="no_result"))
    if code != 0:
        return Outcome("FAILED", code, reason("COMMAND_FAILED", "the command ended with exit code %s" % code))
    for path in step.get("expected_paths") or []:
        if not os.path.exists(os.path.join(step.get("cwd") or "/", path)):
            text = "the command ended with exit code 0, but %s is not there" % path
            return Outcome("FAILED", 0, reason("OUTPUT_MISSING", text))
    if step.get("log_judged"):
        fatal = verdict.fatal_line(log, since)
        if fatal:
            text = "exit code 0, but the log ends in a fatal message: " + fatal
            return Outcome("FAILED", 0, reason("FATAL_LINE", text, "rerun with --trust-exit-code to ignore it"))
    return Outcome("SUCCEEDED", 0)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "signal %d" % number  # Real-time signals between the first and the last have no name.

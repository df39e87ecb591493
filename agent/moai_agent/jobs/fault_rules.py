"""The tables of fatal texts: what a line means, which reason it carries, what to do next.

Owns the recognition of one line: Moreh AI Framework errors, the last line of a Python traceback,
memory exhaustion, kills, full disks. Keeps no state; ``faults`` follows a log with it. Refuses to
call a line fatal for its mood: a bare ``[error]`` or ``ValueError`` in a log message proves nothing.
Runs in the agent (Python 3.8, standard library only).
"""

import re
from typing import Any, Dict, NamedTuple, Optional, Pattern, Tuple

#: The text that opens a Python traceback.
TRACEBACK = "Traceback (most recent call last)"

_DEVICE_MEMORY_NEXT = (
    "use a smaller batch, switch on advanced parallelization where it exists, "
    "or choose a larger flavor: moai remote device switch"
)
_AGAIN = "start the job again: moai remote resume last"
_SUPPORT = (
    "try once more: moai remote resume last; if it persists, send the time and the Moreh Job ID to support"
)
_DISK_NEXT = "free space, or choose another folder with --output or moai remote set NAME --work"
_TOKEN_NEXT = "check /etc/moreh/token, or give the token with --secret MOREH_SDA_TOKEN"
_INSTALL_NEXT = "install it into the job's environment with its own pip (moai remote env list names it)"
_HOST_MEMORY_NEXT = (
    "often the container's memory limit: look at moai remote check, use fewer workers or a smaller model"
)
_PATH_NEXT = "check the path; relative paths start at the job's working folder"
_COMMAND_NEXT = "check the name and the chosen environment: moai remote env list"
_GATED_NEXT = "accept the licence on the model's page, then " + _AGAIN
_DOWNLOAD_NEXT = "download it first: moai remote download"
_NAME_NEXT = "check the name, and the token if it is private"


class Fault(NamedTuple):
    """A recognised fatal line.

    ``code`` is a name of ``ErrorReason`` without prefix. ``hold`` names what may follow (``memory``,
    ``what``, ``detail``). A ``weak`` fault is a consequence (``Aborted (core dumped)``) and never
    hides or follows a cause.
    """

    code: str
    text: str
    next: str
    details: Dict[str, Any]
    hold: str = ""
    weak: bool = False


class _Rule(NamedTuple):
    token: str
    expression: Pattern[str]
    code: str
    next: str
    hold: str
    weak: bool


def _rule(token: str, expression: str, code: str, next: str, hold: str = "", weak: bool = False) -> _Rule:
    """``token`` (lower case) is a cheap test before ``expression``; named groups become details."""
    return _Rule(token, re.compile(expression), code, next, hold, weak)


_SHELL = r"^(?:\S{1,300}: line \d+:\s+(?P<pid>\d{1,10})\s+)?"
_MEMORY_REQUESTED = r"you tried to allocate (?P<requested_bytes>\d{1,18}) bytes"
#: Texts that are fatal wherever they stand. First match wins.
_ANYWHERE = (
    _rule(
        "error code",
        r"Error Code (?P<error_code>4): (?P<error_name>OUT_OF_MEMORY)",
        "DEVICE_OUT_OF_MEMORY",
        _DEVICE_MEMORY_NEXT,
        "memory",
    ),
    _rule(
        "error code",
        r"Error Code (?P<error_code>\d{1,6}): (?P<error_name>[A-Z_]{1,80})",
        "COMMAND_FAILED",
        _SUPPORT,
    ),
    _rule("memory not enough", r"\S memory not enough\.", "DEVICE_OUT_OF_MEMORY", _DEVICE_MEMORY_NEXT),
    _rule(
        "out of memory",
        r"\b(?:CUDA|HIP|XPU|NPU|MPS backend)\b.{0,40}out of memory",
        "DEVICE_OUT_OF_MEMORY",
        _DEVICE_MEMORY_NEXT,
    ),
    _rule(
        "allocate memory", r"can't allocate memory: " + _MEMORY_REQUESTED, "OUT_OF_MEMORY", _HOST_MEMORY_NEXT
    ),
    _rule(
        "no longer supported",
        r"current version of Moreh AI Framework is outdated and no longer supported",
        "COMMAND_FAILED",
        "update the framework in the job's environment: update-moreh; then " + _AGAIN,
    ),
    _rule(
        "connection to the server",
        r"The connection to the server has been lost\.",
        "COMMAND_FAILED",
        _SUPPORT,
    ),
    _rule(
        "failed to initialize", r"Failed to initialize the worker daemon for \S", "COMMAND_FAILED", _SUPPORT
    ),
    _rule(
        "internal error",
        r"An internal error occurred in the \S",
        "COMMAND_FAILED",
        "send this message, the time and the Moreh Job ID to support",
        "detail",
    ),
    _rule(
        "invalidtoken",
        r"throwing an instance of '(?P<exception>moreh::InvalidToken)'",
        "COMMAND_FAILED",
        _TOKEN_NEXT,
        "what",
    ),
    _rule(
        "terminate called",
        r"terminate called after throwing an instance of '(?P<exception>[^']{1,200})'",
        "COMMAND_FAILED",
        "",
        "what",
    ),
    _rule("token is not", r"SDA token is not (?:given|set)\.", "COMMAND_FAILED", _TOKEN_NEXT),
    _rule(
        "cannot be switched",
        r"The model cannot be switched while the .{1,80} is in use\.",
        "COMMAND_FAILED",
        "end the job that uses the accelerator first: moai remote jobs, moai remote cancel JOB",
    ),
    _rule(
        "glibc_",
        r"version [`']GLIBC_[\d.]+' not found",
        "UNSUPPORTED",
        "the system is too old for this framework: choose another container image or an older framework",
    ),
    _rule(
        "numpy.core.multiarray",
        r"numpy\.core\.multiarray failed to import",
        "PACKAGE_MISSING",
        "the environment's numpy does not fit its torch: install another numpy with the environment's pip",
    ),
    _rule("no space left", r"No space left on device", "DISK_FULL", _DISK_NEXT),
    _rule("quota", r"Disk quota exceeded", "DISK_FULL", _DISK_NEXT),
    _rule("storagefull", r"\bStorageFull\b", "DISK_FULL", _DISK_NEXT),
    _rule(
        "can't open file",
        r"can't open file ['\"]?(?P<path>[^'\"]{1,500})['\"]?: \[Errno 2\]",
        "FILE_NOT_FOUND",
        _PATH_NEXT,
    ),
    _rule(
        "command not found",
        r"^(?:\S{1,200}: )?(?:line \d+: )?(?P<command>\S{1,200}): command not found$",
        "COMMAND_NOT_FOUND",
        _COMMAND_NEXT,
    ),
    _rule(
        ": not found",
        r"^\S{1,200}: \d+: (?P<command>\S{1,200}): not found$",
        "COMMAND_NOT_FOUND",
        _COMMAND_NEXT,
    ),
    _rule(
        ": error: ",
        r"^[\w./-]{1,200}: error: (?:unrecognized arguments|the following arguments are required|argument )",
        "COMMAND_FAILED",
        "correct the arguments; the program's own --help lists them",
    ),
    _rule("fatal python error", r"^Fatal Python error: ", "COMMAND_KILLED", ""),
    _rule("killed", _SHELL + r"Killed(?:\s{2}|$)", "COMMAND_KILLED", _HOST_MEMORY_NEXT, weak=True),
    _rule(" fault", _SHELL + r"Segmentation fault\b", "COMMAND_KILLED", "", weak=True),
    _rule("abort", _SHELL + r"Aborted(?: \(core dumped\)|\s{2}|$)", "COMMAND_KILLED", "", weak=True),
)

#: The last component of an exception's class name -> (code, next).
_CLASSES = {
    "OutOfMemoryError": ("DEVICE_OUT_OF_MEMORY", _DEVICE_MEMORY_NEXT),
    "MemoryError": ("OUT_OF_MEMORY", _HOST_MEMORY_NEXT),
    "ArrayMemoryError": ("OUT_OF_MEMORY", _HOST_MEMORY_NEXT),
    "ModuleNotFoundError": ("PACKAGE_MISSING", _INSTALL_NEXT),
    "PackageNotFoundError": ("PACKAGE_MISSING", _INSTALL_NEXT),
    "FileNotFoundError": ("FILE_NOT_FOUND", _PATH_NEXT),
    "GatedRepoError": ("ACCESS_GATED", _GATED_NEXT),
    "RepositoryNotFoundError": ("REPO_NOT_FOUND", _NAME_NEXT),
    "DatasetNotFoundError": ("REPO_NOT_FOUND", _NAME_NEXT),
    "RevisionNotFoundError": ("REVISION_NOT_FOUND", "check the revision, or leave it out"),
    "LocalEntryNotFoundError": ("HUB_UNREACHABLE", _DOWNLOAD_NEXT),
    "OfflineModeIsEnabled": ("HUB_UNREACHABLE", _DOWNLOAD_NEXT),
    "DatasetGenerationError": ("DATASET_INVALID", "look at the data: moai remote prepare --sample"),
}  # type: Dict[str, Tuple[str, str]]
#: Texts that say more than the class of an exception; tried after ``_ANYWHERE``.
_IN_EXCEPTION = (
    _rule("gated repo", r"(?i)\bgated repo", "ACCESS_GATED", _GATED_NEXT),
    _rule("401 client error", r"401 Client Error", "TOKEN_INVALID", "give a valid token: --secret HF_TOKEN"),
    _rule("user token", r"Invalid user token", "TOKEN_INVALID", "give a valid token: --secret HF_TOKEN"),
    _rule(
        "connect to 'https://huggingface",
        r"(?i)couldn't connect to 'https://huggingface\.co'",
        "HUB_UNREACHABLE",
        _DOWNLOAD_NEXT,
    ),
    _rule("no module named", r"No module named '?(?P<module>[\w.]{1,200})", "PACKAGE_MISSING", _INSTALL_NEXT),
    _rule(
        "cuda error",
        r"CUDA error",
        "COMMAND_FAILED",
        "if this is the first use of the accelerator, the torch does not fit it: moai remote check",
    ),
    _rule(
        "pytorchstreamwriter",
        r"PytorchStreamWriter failed writing",
        "COMMAND_FAILED",
        "usually a full disk: moai remote check",
    ),
)
#: Exceptions that only say that another process failed.
_CONSEQUENCES = frozenset(
    ["ChildFailedError", "CalledProcessError", "BrokenProcessPool", "BrokenPipeError", "SystemExit"]
)

_EXCEPTION = re.compile(r"^((?:[A-Za-z_]\w*\.)*)_?([A-Za-z_]\w*)(?::(?:\s(.*))?)?$")
_EXCEPTION_NAME = re.compile(
    r"(?:Error|Exception|Interrupt|Exit|Warning|Iteration|Timeout|Expired|Failed|Failure)$"
)
_COUNTS = ("error_code", "pid", "requested_bytes")
_NOT_EXCEPTIONS = frozenset(
    ["Epoch", "Step", "Loss", "Note", "Duration", "Throughput", "Info", "Warning", "Debug", "Traceback"]
)
_UNITS = {"bytes": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_REQUESTED = re.compile(r"(?:Tried|Unable|tried) to allocate ([\d.]{1,20}) (bytes|[KMGT]iB)")
_AVAILABLE = re.compile(r"\b([\d.]{1,20}) (bytes|[KMGT]iB) (?:is )?free\b")


def _size(text: str, unit: str) -> Optional[int]:
    try:
        return int(float(text) * _UNITS[unit])
    except ValueError:  # "1.2.3"
        return None


def _memory_numbers(text: str) -> Dict[str, int]:
    numbers = {}
    for name, expression in (("requested_bytes", _REQUESTED), ("available_bytes", _AVAILABLE)):
        found = expression.search(text)
        size = _size(found.group(1), found.group(2)) if found else None
        if size is not None:
            numbers[name] = size
    return numbers


def _apply(rules: Tuple[_Rule, ...], text: str, lower: str) -> Optional[Fault]:
    for rule in rules:
        if rule.token not in lower:
            continue
        found = rule.expression.search(text)
        if not found:
            continue
        details = {}  # type: Dict[str, Any]
        for name, value in found.groupdict().items():
            if value is not None:
                details[name] = int(value) if name in _COUNTS else value
        if rule.code.endswith("OUT_OF_MEMORY"):
            details.update(_memory_numbers(text))
        return Fault(rule.code, text[:1000], rule.next, details, rule.hold, rule.weak)
    return None


def recognise(text: str) -> Optional[Fault]:
    """Judge a line outside a traceback by the texts that are always fatal."""
    text = text.strip().strip("*").strip()
    return _apply(_ANYWHERE, text, text.lower())


def classify_exception(text: str) -> Optional[Fault]:
    """Judge the line that ends a traceback (``package.SomeError: message``); None if it is no such line."""
    text = text.strip().strip("*").strip()
    found = _EXCEPTION.match(text)
    if not found:
        return None
    name, message = found.group(2), found.group(3)
    if not _is_exception(name, message is not None or text.endswith(":")):
        return None
    lower = text.lower()
    details = {"exception": (found.group(1) + name)[:200]}
    fault = _apply(_ANYWHERE, text, lower)
    if fault is None and name not in _CLASSES:
        fault = _apply(_IN_EXCEPTION, text, lower)
    if fault is None:
        code, advice = _CLASSES.get(name, ("COMMAND_FAILED", ""))
        extra = _apply(_IN_EXCEPTION, text, lower)
        if extra is not None and extra.code == code:
            details.update(extra.details)
        if code.endswith("OUT_OF_MEMORY"):
            details.update(_memory_numbers(text))
        fault = Fault(code, text[:1000], advice, {}, "", name in _CONSEQUENCES)
    return fault._replace(details=dict(details, **fault.details))


def _is_exception(name: str, has_message: bool) -> bool:
    if name in _NOT_EXCEPTIONS or name.upper() == name:
        return False
    if _EXCEPTION_NAME.search(name):
        return True
    return has_message and name[0].isupper()

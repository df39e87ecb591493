"""The laptop's exceptions, and the one table from reasons to them and to exit codes.

Runs in the laptop's process. The tree, split by what the caller can do next::

    MoaiError
    ├── UsageError            what was typed or configured is wrong (exit 2)
    ├── HostUnreachable       the network or the host is away; try again (exit 4)
    │   └── LinkLost          the link broke before the answer; the outcome is unknown
    ├── HostKeyError          the host's key is unknown, changed or revoked (exit 5)
    ├── PersonNeeded          a password, licence or choice; run it on a terminal (exit 9)
    ├── BootstrapError        the agent could not be brought up (exit 1)
    ├── NotFound              job, model, file ... does not exist (exit 1)
    ├── Conflict              not now, or not by you (exit 1)
    └── AgentError            anything else the container refused (exit 1)
    JobFailed, JobUnknown, JobCancelled, JobInterrupted, WaitTimeout: how ``Job.wait`` ends (3 6 7 8 124)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class MoaiError(Exception):
    """Something failed for a cause a person can act on.

    Args:
        reason: name of an ``ErrorReason`` without prefix, for example ``"BUNDLE_UNAVAILABLE"``.
        message: what failed and with which value; one or two sentences, no secret.
        next: the command or action to try next; empty when there is none.
        details: values behind the message, as strings (never secrets).

    ``MoaiError(reason, ...)`` makes the class of the tree that belongs to the reason.
    """

    exit_code = 1

    def __new__(cls, *args: Any, **kwargs: Any) -> MoaiError:
        """Pick the subclass of the reason."""
        reason = args[0] if args else kwargs.get("reason", "")
        if cls is MoaiError:
            cls = CLASSES.get(str(reason), AgentError)
        return super().__new__(cls)

    def __init__(
        self, reason: str, message: str, next: str = "", details: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.next = next
        self.details = dict(details or {})

    def __reduce__(self) -> tuple[Any, ...]:
        """Survives pickling (process pools)."""
        return (MoaiError, (self.reason, self.message, self.next, self.details))


class UsageError(MoaiError):
    """What was typed or configured is wrong."""

    exit_code = 2


class HostUnreachable(MoaiError):
    """No connection could be made, or it broke and did not come back in time."""

    exit_code = 4


class LinkLost(HostUnreachable):
    """The link broke before the answer arrived; whether the call took effect is unknown."""


class HostKeyError(MoaiError):
    """The host's key is unknown, changed or revoked; nothing was authenticated."""

    exit_code = 5


class PersonNeeded(MoaiError):
    """Somebody has to answer, accept or choose."""

    exit_code = 9


class BootstrapError(MoaiError):
    """The agent could not be brought up on the container."""


class NotFound(MoaiError):
    """What was named does not exist."""


class Conflict(MoaiError):
    """This cannot be done now, or not by this caller."""


class AgentError(MoaiError):
    """Anything else the container refused or failed at."""


class JobEnded(MoaiError):
    """A job did not end well; ``job`` holds its last view."""

    job: Any = None


class JobFailed(JobEnded):
    """A step failed."""

    exit_code = 3


class JobUnknown(JobEnded):
    """Nobody knows how the job ended."""

    exit_code = 6


class JobCancelled(JobEnded):
    """The job was cancelled."""

    exit_code = 7


class JobInterrupted(JobEnded):
    """The container was restarted; the job can be resumed."""

    exit_code = 8


class WaitTimeout(MoaiError):
    """``wait`` gave up; the job goes on."""

    exit_code = 124


_GROUPS: dict[type[MoaiError], str] = {
    UsageError: (
        "USAGE CONFIG_INVALID HOST_UNKNOWN FILE_NOT_HERE ENVIRONMENT_AMBIGUOUS ENVIRONMENT_NOT_FOUND TEMPLATE_INVALID "
        "SCRIPT_NOT_ON_HOST WORKDIR_NOT_FOUND"
    ),
    HostUnreachable: "HOST_UNREACHABLE SHELL_RESTRICTED SIGN_IN_FAILED",
    LinkLost: "LINK_LOST",
    HostKeyError: "HOST_KEY_UNKNOWN HOST_KEY_CHANGED HOST_KEY_REVOKED",
    PersonNeeded: "SIGN_IN_NEEDED ACCESS_GATED SECRET_NEEDED UPLOAD_REFUSED GIT_REFUSED",
    BootstrapError: (
        "PYTHON_NOT_FOUND PLATFORM_UNSUPPORTED BUNDLE_UNAVAILABLE BUNDLE_CORRUPT HOME_NOT_WRITABLE AGENT_FAILED "
        "AGENT_TOO_OLD CLIENT_TOO_OLD UNAUTHENTICATED"
    ),
    NotFound: (
        "JOB_NOT_FOUND DEVICE_NOT_FOUND FLAVOR_NOT_FOUND REPO_NOT_FOUND REVISION_NOT_FOUND FILE_NOT_FOUND CHECKPOINT_NOT_FOUND "
        "COMMAND_NOT_FOUND"
    ),
    Conflict: (
        "JOB_AMBIGUOUS JOB_ACTIVE JOB_FINISHED JOB_NOT_OWNED REQUEST_CONFLICT OFFSET_OUT_OF_RANGE "
        "SEQUENCE_OUT_OF_RANGE DEVICE_IN_USE DEVICE_LIMIT WAITING_FOR_DEVICE STALLED TORCH_PROTECTED ENVIRONMENT_EXISTS "
        "CHECKPOINT_MISMATCH"
    ),
    AgentError: (
        "UNSPECIFIED INTERNAL DISK_FULL START_FAILED UNSUPPORTED PACKAGE_MISSING DEVICE_TOOL_FAILED "
        "DEVICE_OUT_OF_MEMORY HUB_UNREACHABLE TOKEN_INVALID DOWNLOAD_CORRUPT DOWNLOAD_STALLED XET_REQUIRED "
        "DATASET_INVALID DATASET_EMPTY COLUMN_MISSING TOKENIZER_FAILED ENGINE_UNAVAILABLE MODEL_INVALID TRAINING_FAILED OUT_OF_MEMORY "
        "INSTALL_FAILED PEERS_UNREACHABLE GIT_UNREACHABLE"
    ),
    JobFailed: "COMMAND_FAILED COMMAND_KILLED FATAL_LINE OUTPUT_MISSING WATCHER_STOPPED",
    JobUnknown: "SUPERVISOR_LOST",
    JobCancelled: "CANCELLED",
    JobInterrupted: "CONTAINER_RESTARTED",
    WaitTimeout: "TIMED_OUT",
}

#: Reason -> class. A test walks ErrorReason and fails on a hole or a duplicate.
CLASSES: dict[str, type[MoaiError]] = {name: cls for cls, names in _GROUPS.items() for name in names.split()}

#: Terminal state -> class raised by ``Job.wait``.
ENDINGS: dict[str, type[JobEnded]] = {
    "FAILED": JobFailed,
    "UNKNOWN": JobUnknown,
    "CANCELLED": JobCancelled,
    "INTERRUPTED": JobInterrupted,
}

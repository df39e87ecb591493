"""The agent's exception and its one table to gRPC status codes.

``AgentError`` carries a reason of ``errors.proto``; ``STATUS`` says which canonical code each reason
travels under. A test walks ``ErrorReason`` and fails on a hole.
"""

from typing import Dict, Optional

import grpc
from moai_proto.v1 import errors_pb2

#: Trailer that carries the serialised ErrorInfo.
TRAILER = "moai-error-bin"

_C = grpc.StatusCode
_GROUPS = {
    _C.INVALID_ARGUMENT: (
        "USAGE CONFIG_INVALID TEMPLATE_INVALID COLUMN_MISSING DATASET_INVALID DATASET_EMPTY FILE_NOT_HERE"
    ),
    _C.NOT_FOUND: (
        "JOB_NOT_FOUND HOST_UNKNOWN WORKDIR_NOT_FOUND SCRIPT_NOT_ON_HOST COMMAND_NOT_FOUND ENVIRONMENT_NOT_FOUND "
        "DEVICE_NOT_FOUND FLAVOR_NOT_FOUND REPO_NOT_FOUND REVISION_NOT_FOUND FILE_NOT_FOUND CHECKPOINT_NOT_FOUND PYTHON_NOT_FOUND"
    ),
    _C.FAILED_PRECONDITION: (
        "JOB_AMBIGUOUS JOB_ACTIVE JOB_FINISHED ENVIRONMENT_AMBIGUOUS PACKAGE_MISSING XET_REQUIRED PLATFORM_UNSUPPORTED "
        "MODEL_INVALID TOKENIZER_FAILED ENGINE_UNAVAILABLE SECRET_NEEDED OUTPUT_MISSING HOME_NOT_WRITABLE CLIENT_TOO_OLD "
        "SIGN_IN_NEEDED HOST_KEY_UNKNOWN HOST_KEY_CHANGED HOST_KEY_REVOKED SHELL_RESTRICTED WAITING_FOR_DEVICE "
        "DEVICE_IN_USE STALLED BUNDLE_UNAVAILABLE BUNDLE_CORRUPT TORCH_PROTECTED CHECKPOINT_MISMATCH"
    ),
    _C.PERMISSION_DENIED: "JOB_NOT_OWNED TOKEN_INVALID ACCESS_GATED SIGN_IN_FAILED UPLOAD_REFUSED GIT_REFUSED",
    _C.UNAUTHENTICATED: "UNAUTHENTICATED",
    _C.ALREADY_EXISTS: "REQUEST_CONFLICT ENVIRONMENT_EXISTS",
    _C.OUT_OF_RANGE: "OFFSET_OUT_OF_RANGE SEQUENCE_OUT_OF_RANGE",
    _C.RESOURCE_EXHAUSTED: "DISK_FULL OUT_OF_MEMORY DEVICE_LIMIT DEVICE_OUT_OF_MEMORY",
    _C.UNIMPLEMENTED: "UNSUPPORTED AGENT_TOO_OLD",
    _C.DEADLINE_EXCEEDED: "TIMED_OUT DOWNLOAD_STALLED",
    _C.DATA_LOSS: "DOWNLOAD_CORRUPT",
    _C.ABORTED: (
        "COMMAND_FAILED COMMAND_KILLED CANCELLED FATAL_LINE TRAINING_FAILED CONTAINER_RESTARTED SUPERVISOR_LOST "
        "PEERS_UNREACHABLE START_FAILED WATCHER_STOPPED DEVICE_TOOL_FAILED INSTALL_FAILED HUB_UNREACHABLE GIT_UNREACHABLE "
        "AGENT_FAILED HOST_UNREACHABLE LINK_LOST"
    ),
    _C.INTERNAL: "INTERNAL UNSPECIFIED",
}

#: Reason name -> canonical code.
STATUS: Dict[str, grpc.StatusCode] = {name: code for code, names in _GROUPS.items() for name in names.split()}


class AgentError(Exception):
    """A call cannot be answered, for a cause the caller can act on.

    Args:
        reason: name of an ErrorReason without prefix.
        message: what failed and with which value.
        next: the next command or action; may be empty.
        details: values behind the message, never secrets.
    """

    def __init__(self, reason: str, message: str, next: str = "", details: Optional[Dict[str, str]] = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.next = next
        self.details = {k: str(v) for k, v in (details or {}).items()}

    def info(self) -> errors_pb2.ErrorInfo:
        """The form that travels in the trailer."""
        return errors_pb2.ErrorInfo(
            reason=errors_pb2.ErrorReason.Value("ERROR_REASON_" + self.reason),
            message=self.message,
            next=self.next,
            details=self.details,
        )

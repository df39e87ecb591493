"""An agent older than this moai: which fields of a request it would silently leave out, and refusing them by name.

Protobuf drops what the other end does not know, so a repository to clone or a dry run would be forgotten without a
word. Every field that changes what happens and that the first agents lack is listed here with the protocol that brought
it; a request that sets one is sent only to an agent that speaks it. Reads that merely know less are left alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from moai._errors import MoaiError

#: Message -> protocol -> fields that came with it.
NEEDS: dict[str, dict[int, str]] = {
    "JobOptions": {
        2: "retries on_finish webhook stop_on git_url git_revision git_submodules_wanted wait_for_access on_checkpoint on_stop",
    },
    "DatasetSpec": {2: "pack mask_prompt validation_fraction split"},
    "TrainingSpec": {2: "gpus group upload_repo upload_private upload_revision"},
    "ListJobsRequest": {2: "others_wanted"},
    "ResumeJobRequest": {2: "start_from dry_run group"},
    "SignalJobRequest": {2: "value"},
}
#: Newer fields that an older agent may leave out: it answers with less, or takes its own default for speed.
MAY_BE_DROPPED: dict[str, str] = {
    "DatasetSpec": "jobs engine",
    "CheckEnvironmentRequest": "proxy",
    "PlanDownloadRequest": "proxy work output",
    "DownloadModelRequest": "streams",
    "EstimateTrainingRequest": "proxy",
    # The answer says whether the difference was understood; all files are sent where it was not.
    "PlanSnapshotRequest": "base gone",
    # Without it events come as they happen.
    "WatchEventsRequest": "batch_seconds",
}

_SINCE = {
    (message, field): protocol
    for message, versions in NEEDS.items()
    for protocol, fields in versions.items()
    for field in fields.split()
}


@functools.cache
def _has_newer(descriptor: Any) -> bool:
    """Whether a message of this type, or one inside it, can hold a newer field; thousands of files cannot."""
    return _reaches(descriptor, set())


def _reaches(descriptor: Any, seen: set[str]) -> bool:
    if descriptor.full_name in seen:
        return False
    seen.add(descriptor.full_name)
    return any(
        (descriptor.name, field.name) in _SINCE or (field.message_type is not None and _reaches(field.message_type, seen))
        for field in descriptor.fields
    )


def needed(request: Any) -> tuple[int, list[str]]:
    """The protocol an agent must speak for this request, and the fields that ask for it; (1, []) for most."""
    protocol, names = 1, []
    stack = [request]
    while stack:
        message = stack.pop()
        for field, value in message.ListFields():
            since = _SINCE.get((message.DESCRIPTOR.name, field.name), 1)
            if since > 1:
                protocol = max(protocol, since)
                names.append(field.name)
            if field.message_type is not None and not field.message_type.GetOptions().map_entry and _has_newer(field.message_type):
                stack += [value] if hasattr(value, "ListFields") else list(value)
    return protocol, names


def check(request: Any, spoken: Callable[[], int]) -> None:
    """AGENT_TOO_OLD when the request needs more than the agent speaks; ``spoken`` is asked only for newer fields."""
    protocol, names = needed(request)
    if protocol > 1 and spoken() < protocol:
        shown = ", ".join(name.removesuffix("_wanted").replace("_", " ") for name in names)
        raise MoaiError("AGENT_TOO_OLD", f"the running agent does not know: {shown}; nothing was started", "moai remote up")


def is_newer(version: str, than: str) -> bool:
    """Whether one version of moai comes after another; what is no version is not newer."""

    def parts(text: str) -> tuple[int, ...]:
        found = text.split(".")[:3]
        return tuple(int(one) for one in found) if all(one.isascii() and one.isdigit() for one in found) else ()

    return parts(version) > parts(than)

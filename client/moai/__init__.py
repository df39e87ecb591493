"""moai: train on containers that are reached only by SSH.

    import moai

    with moai.connect("kt") as host:
        job = host.train(model="meta-llama/Meta-Llama-3-70B", dataset="cnn_dailymail:3.0.0", method="lora")
        for event in job.events():
            print(event.type, event.data)
        job.wait()

Everything here is synchronous and thread-safe; ``docs/python.md`` is the guide. Names are imported
when they are first used, so that ``import moai`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from moai._version import __version__

if TYPE_CHECKING:
    from moai._api import config as config
    from moai._api import connect as connect
    from moai._api import hosts as hosts
    from moai._api import job as job
    from moai._errors import AgentError as AgentError
    from moai._errors import BootstrapError as BootstrapError
    from moai._errors import Conflict as Conflict
    from moai._errors import HostKeyError as HostKeyError
    from moai._errors import HostUnreachable as HostUnreachable
    from moai._errors import JobCancelled as JobCancelled
    from moai._errors import JobEnded as JobEnded
    from moai._errors import JobFailed as JobFailed
    from moai._errors import JobInterrupted as JobInterrupted
    from moai._errors import JobUnknown as JobUnknown
    from moai._errors import LinkLost as LinkLost
    from moai._errors import MoaiError as MoaiError
    from moai._errors import NotFound as NotFound
    from moai._errors import PersonNeeded as PersonNeeded
    from moai._errors import UsageError as UsageError
    from moai._errors import WaitTimeout as WaitTimeout
    from moai._host import Host as Host
    from moai._job import Job as Job
    from moai._job import wait_all as wait_all
    from moai._options import JobOptions as JobOptions
    from moai._types import Check as Check
    from moai._types import Device as Device
    from moai._types import DeviceProcess as DeviceProcess
    from moai._types import DeviceReport as DeviceReport
    from moai._types import DownloadPlan as DownloadPlan
    from moai._types import Environment as Environment
    from moai._types import Event as Event
    from moai._types import FileEntry as FileEntry
    from moai._types import HostInfo as HostInfo
    from moai._types import JobInfo as JobInfo
    from moai._types import LogChunk as LogChunk
    from moai._types import Mount as Mount
    from moai._types import Progress as Progress
    from moai._types import Reason as Reason
    from moai._types import Step as Step
    from moai._types import TrainingPlan as TrainingPlan

#: Public name -> module that has it.
_HOMES = {
    "moai._api": "config connect hosts job",
    "moai._errors": (
        "AgentError BootstrapError Conflict HostKeyError HostUnreachable JobCancelled JobEnded JobFailed JobInterrupted "
        "JobUnknown LinkLost MoaiError NotFound PersonNeeded UsageError WaitTimeout"
    ),
    "moai._host": "Host",
    "moai._job": "Job wait_all",
    "moai._options": "JobOptions",
    "moai._types": (
        "Check Device DeviceProcess DeviceReport DownloadPlan Environment Event FileEntry HostInfo JobInfo LogChunk Mount "
        "Progress Reason Step TrainingPlan"
    ),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = sorted([*_HOME, "__version__"])  # noqa: PLE0605 - a test compares it with the stubs above


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'moai' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

"""moai: train on containers that are reached only by SSH.

    import moai

    with moai.connect("kt") as host:
        job = host.train(model="meta-llama/Meta-Llama-3-70B", dataset="abisee/cnn_dailymail:3.0.0", method="lora")
        for event in job.events():
            print(event.type, event.data)
        job.wait()

Everything here is synchronous and thread-safe; ``docs/python.md`` is the guide. Names are imported
when they are first used, so that ``import moai`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from moai._version import __version__ as __version__

if TYPE_CHECKING:
    from moai._admin import HostKeyOffer as HostKeyOffer
    from moai._admin import add_bundle as add_bundle
    from moai._admin import add_host as add_host
    from moai._admin import build_bundle as build_bundle
    from moai._admin import change_host as change_host
    from moai._admin import disconnect as disconnect
    from moai._admin import host_key as host_key
    from moai._admin import is_linked as is_linked
    from moai._admin import remove_host as remove_host
    from moai._admin import set_default_host as set_default_host
    from moai._admin import ssh_command as ssh_command
    from moai._admin import trust as trust
    from moai._api import connect as connect
    from moai._api import hosts as hosts
    from moai._api import job as job
    from moai._config import Config as Config
    from moai._config import HostConfig as HostConfig
    from moai._config import config as config
    from moai._convert import failed_devices as failed_devices
    from moai._drill import DrillFault as DrillFault
    from moai._drill import DrillResult as DrillResult
    from moai._drill import drill as drill
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
    from moai._events import EventStream as EventStream
    from moai._fleet import Fleet as Fleet
    from moai._fleet import Results as Results
    from moai._host import Host as Host
    from moai._house import Cleaning as Cleaning
    from moai._house import DiskUsage as DiskUsage
    from moai._house import StoredItem as StoredItem
    from moai._house import used_percent as used_percent
    from moai._index import environment_names as environment_names
    from moai._index import known_jobs as known_jobs
    from moai._job import Job as Job
    from moai._job import wait_all as wait_all
    from moai._link.client import prepare_links as prepare_links
    from moai._options import JobOptions as JobOptions
    from moai._options import owner as owner
    from moai._options import split_git as split_git
    from moai._paths import cache_folder as cache_folder
    from moai._project import Project as Project
    from moai._project import load_project as load_project
    from moai._repeat import ProjectEdit as ProjectEdit
    from moai._repeat import edit_project as edit_project
    from moai._ssh.prompts import Prompter as Prompter
    from moai._ssh.prompts import TerminalPrompts as TerminalPrompts
    from moai._tutorials import Pin as Pin
    from moai._tutorials import Tutorial as Tutorial
    from moai._tutorials import tutorial as tutorial
    from moai._tutorials import tutorials as tutorials
    from moai._types import Change as Change
    from moai._types import Check as Check
    from moai._types import Concern as Concern
    from moai._types import Device as Device
    from moai._types import DeviceProcess as DeviceProcess
    from moai._types import DeviceReport as DeviceReport
    from moai._types import DownloadPlan as DownloadPlan
    from moai._types import Environment as Environment
    from moai._types import Event as Event
    from moai._types import Figure as Figure
    from moai._types import FileEntry as FileEntry
    from moai._types import Flavor as Flavor
    from moai._types import HostInfo as HostInfo
    from moai._types import InstallPlan as InstallPlan
    from moai._types import JobInfo as JobInfo
    from moai._types import LogChunk as LogChunk
    from moai._types import Mount as Mount
    from moai._types import PlannedFile as PlannedFile
    from moai._types import Progress as Progress
    from moai._types import Reason as Reason
    from moai._types import Repair as Repair
    from moai._types import Report as Report
    from moai._types import ResumePlan as ResumePlan
    from moai._types import SettingChange as SettingChange
    from moai._types import Step as Step
    from moai._types import TrainingNeeds as TrainingNeeds
    from moai._types import TrainingPlan as TrainingPlan
    from moai._uninstall import Trace as Trace
    from moai._uninstall import traces as traces
    from moai._uninstall import uninstall as uninstall

#: Public name -> module that has it.
_HOMES = {
    "moai._admin": (
        "HostKeyOffer add_bundle add_host build_bundle change_host disconnect host_key is_linked remove_host "
        "set_default_host ssh_command trust"
    ),
    "moai._config": "Config HostConfig config",
    "moai._convert": "failed_devices",
    "moai._project": "Project load_project",
    "moai._ssh.prompts": "Prompter TerminalPrompts",
    "moai._api": "connect hosts job",
    "moai._drill": "DrillFault DrillResult drill",
    "moai._errors": (
        "AgentError BootstrapError Conflict HostKeyError HostUnreachable JobCancelled JobEnded JobFailed JobInterrupted "
        "JobUnknown LinkLost MoaiError NotFound PersonNeeded UsageError WaitTimeout"
    ),
    "moai._events": "EventStream",
    "moai._fleet": "Fleet Results",
    "moai._host": "Host",
    "moai._house": "Cleaning DiskUsage StoredItem used_percent",
    "moai._index": "environment_names known_jobs",
    "moai._job": "Job wait_all",
    "moai._link.client": "prepare_links",
    "moai._options": "JobOptions owner split_git",
    "moai._paths": "cache_folder",
    "moai._repeat": "ProjectEdit edit_project",
    "moai._uninstall": "Trace traces uninstall",
    "moai._tutorials": "Pin Tutorial tutorial tutorials",
    "moai._types": (
        "Change Check Concern Device DeviceProcess DeviceReport DownloadPlan Environment Event Figure FileEntry "
        "Flavor HostInfo InstallPlan JobInfo LogChunk Mount PlannedFile Progress Reason Repair Report ResumePlan SettingChange "
        "Step TrainingNeeds TrainingPlan"
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

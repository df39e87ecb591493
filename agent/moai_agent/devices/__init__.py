"""The container's accelerators: read by whichever tool is there, told in one shape.

Public: ``list_devices`` and the dataclasses of its answer. Runs in the agent, in worker threads:
everything here blocks, within stated bounds.
"""

from moai_agent.devices.probe import list_devices
from moai_agent.devices.report import (
    MOAI_PROVIDERS,
    Device,
    DeviceError,
    Hardware,
    Process,
    SmiReport,
    redact,
)
from moai_agent.devices.smi import parse

__all__ = [
    "MOAI_PROVIDERS",
    "Device",
    "DeviceError",
    "Hardware",
    "Process",
    "SmiReport",
    "list_devices",
    "parse",
    "redact",
]

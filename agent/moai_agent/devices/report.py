"""What a container says about its accelerators, whichever tool said it.

Owns the shape of the answer, nothing else: no parsing, no processes, no protobuf. The agent
builds it; servicers turn it into messages. ``None`` always means "not known", never zero.
"""

import re
from dataclasses import dataclass, field
from typing import Dict, List, Optional

PROVIDER_MOREH = "moreh-smi"
PROVIDER_AP = "ap-smi"
PROVIDER_NVML = "nvml"
PROVIDER_CPU = "cpu"
MOAI_PROVIDERS = (PROVIDER_MOREH, PROVIDER_AP)

REDACTED = "[redacted]"

# A process command is another program's argv and a message is free text: both carry secrets in
# practice (`MOREH_SDA_TOKEN=... python x.py`, `--hf-token hf_...`).
_SECRET = re.compile(
    r"(?P<key>(?:token|password|secret|api[_-]?key)\b\s?[=:]\s?|-[a-z_-]{0,40}(?:token|password)\s+)"
    r"(?P<value>[^\s|]+)"
    r"|\b(?P<bare>hf_[A-Za-z0-9]{8,})",
    re.IGNORECASE,
)


@dataclass
class Process:
    """One process that holds a device. ``memory_used_mib`` is in MiB."""

    job_id: Optional[int] = None
    pid: Optional[int] = None
    command: Optional[str] = None
    memory_used_mib: Optional[int] = None


@dataclass
class Device:
    """One accelerator as its tool shows it.

    Attributes:
        id: the number the tool's own options take (sparse, 0- or 1-based).
        name: product name, for example ``MoAI Accelerator``.
        flavor: size, for example ``4xLarge.2048GB``; None for an allowed but unused slot and
            for providers without flavors.
        is_default: the device a program gets when it names none.
        memory_used_mib, memory_total_mib: MiB; on MoAI the sum over the GPUs behind the device.
        memory_used_percent: 0-100, only where the tool itself prints a percentage.
        utilization_percent: 0-100.
        processes: who holds it; empty when idle or when the tool does not tell.
    """

    id: int
    name: Optional[str] = None
    flavor: Optional[str] = None
    is_default: bool = False
    memory_used_mib: Optional[int] = None
    memory_total_mib: Optional[int] = None
    memory_used_percent: Optional[int] = None
    utilization_percent: Optional[int] = None
    processes: List[Process] = field(default_factory=list)


@dataclass
class Hardware:
    """One physical GPU behind an accelerator (``moreh-smi -p``). Temperatures in Celsius."""

    index: int
    location: Optional[str] = None
    device_temperature_c: Optional[int] = None
    memory_temperature_c: Optional[int] = None
    device_utilization_percent: Optional[int] = None
    memory_utilization_percent: Optional[int] = None
    memory_used_percent: Optional[int] = None


@dataclass
class DeviceError:
    """Why the devices could not be read: an ``ErrorReason`` name without prefix, cause, next step."""

    reason: str
    message: str
    next: str = ""


@dataclass
class SmiReport:
    """One reading of a container's devices.

    Attributes:
        provider: ``moreh-smi``, ``ap-smi``, ``nvml`` or ``cpu``; None when no table was found.
        platform_version: version of the framework in use (MAF), or of the NVIDIA driver.
        latest_version: newest version the platform offers; may be older than the one in use.
        versions: every version a title named, by its label in lower case.
        devices: in the order shown.
        hardware: rows of the separate per-GPU table, empty unless it was asked for.
        messages: lines outside tables, and what a reader should know about this reading.
        default_assumed: the tool marked no default; the lowest id was taken.
        table_found: a device, process or hardware table with a closed frame was read.
        discarded_blocks: tables ignored because their frame was cut or contradicted itself.
        clock: the tool's own time stamp as printed, if it prints one.
        error: set when a device tool is there but failed; ``devices`` is then empty.
    """

    provider: Optional[str] = None
    platform_version: Optional[str] = None
    latest_version: Optional[str] = None
    devices: List[Device] = field(default_factory=list)
    messages: List[str] = field(default_factory=list)
    default_assumed: bool = False
    versions: Dict[str, str] = field(default_factory=dict)
    hardware: List[Hardware] = field(default_factory=list)
    table_found: bool = False
    discarded_blocks: int = 0
    clock: Optional[str] = None
    error: Optional[DeviceError] = None

    def default_device(self) -> Optional[Device]:
        """The device a program gets when it names none; None when there is no device."""
        for device in self.devices:
            if device.is_default:
                return device
        return None


def redact(text: str, *secrets: str) -> str:
    """Replace known secrets and anything that looks like one.

    Args:
        text: a message or a process command.
        secrets: values seen in this reading; those shorter than 6 characters are left alone,
            because replacing them would eat ordinary text.
    """
    for secret in secrets:
        if len(secret) >= 6:
            text = text.replace(secret, REDACTED)
    return _SECRET.sub(lambda found: (found.group("key") or "") + REDACTED, text)

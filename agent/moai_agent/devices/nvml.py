"""NVIDIA devices through NVML (``pynvml`` of nvidia-ml-py), or None where there is no driver.

Refuses to guess: what the driver does not support is None. Runs in the agent; ``pynvml`` is
imported on first use, because most containers have neither the package nor a driver.
Units: NVML counts memory in bytes, the report in MiB.
"""

import importlib
import os
from typing import Any, Callable, List, Optional

from moai_agent.devices.report import PROVIDER_NVML, Device, Process, SmiReport, redact

_MIB = 1024 * 1024


def read(proc: str = "/proc") -> Optional[SmiReport]:
    """Read all NVIDIA devices.

    Args:
        proc: where the process table is mounted (tests give a folder).

    Returns:
        The report, or None when ``pynvml`` is missing, there is no driver, or no device.
    """
    try:
        pynvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError, OSError):
        return None
    try:
        return _report(pynvml, proc)
    except pynvml.NVMLError:
        return None
    finally:
        _ask(pynvml, pynvml.nvmlShutdown)


def _report(pynvml: Any, proc: str) -> Optional[SmiReport]:
    report = SmiReport(provider=PROVIDER_NVML, default_assumed=True)
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = _ask(pynvml, pynvml.nvmlDeviceGetHandleByIndex, index)
        if handle is None:
            report.messages.append("device {}: the driver does not answer for it".format(index))
            continue
        memory = _memory(pynvml, handle)
        rates = _ask(pynvml, pynvml.nvmlDeviceGetUtilizationRates, handle)
        report.devices.append(
            Device(
                id=index,
                name=_string(_ask(pynvml, pynvml.nvmlDeviceGetName, handle)),
                memory_used_mib=None if memory is None else int(memory.used) // _MIB,
                memory_total_mib=None if memory is None else int(memory.total) // _MIB,
                utilization_percent=None if rates is None else int(rates.gpu),
                processes=_processes(pynvml, handle, proc),
            )
        )
    if not report.devices:
        return None
    report.devices[0].is_default = True
    report.table_found = True
    report.platform_version = _string(_ask(pynvml, pynvml.nvmlSystemGetDriverVersion))
    return report


def _memory(pynvml: Any, handle: Any) -> Any:
    """Used and total bytes. The second version of the answer leaves out what the driver keeps for itself, as
    nvidia-smi does; the first counts it as used (615 MiB of an idle H200)."""
    version = getattr(pynvml, "nvmlMemory_v2", None)
    newer = None if version is None else _ask(pynvml, pynvml.nvmlDeviceGetMemoryInfo, handle, version)
    return newer if newer is not None else _ask(pynvml, pynvml.nvmlDeviceGetMemoryInfo, handle)


def _processes(pynvml: Any, handle: Any, proc: str) -> List[Process]:
    found = _ask(pynvml, pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
    return [
        Process(
            pid=int(entry.pid),
            command=_command(int(entry.pid), proc),
            memory_used_mib=None if entry.usedGpuMemory is None else int(entry.usedGpuMemory) // _MIB,
        )
        for entry in found
    ]


def _command(pid: int, proc: str) -> Optional[str]:
    """The command of ``pid`` if it is the process NVML means.

    The driver counts pids on the host; the same number in this container may be a stranger. Only
    a process that has an NVIDIA device open can be the one meant.
    """
    folder = os.path.join(proc, str(pid))
    try:
        descriptors = os.listdir(os.path.join(folder, "fd"))
        if not any(
            _target(os.path.join(folder, "fd", name)).startswith("/dev/nvidia") for name in descriptors
        ):
            return None
        with open(os.path.join(folder, "cmdline"), "rb") as file:
            words = file.read(8192).split(b"\0")
    except OSError:
        return None
    text = b" ".join(word for word in words if word).decode("utf-8", "replace")
    return redact(text) or None


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def _ask(pynvml: Any, call: Callable[..., Any], *arguments: Any) -> Any:
    """The call's answer, or None where driver or device do not support it."""
    try:
        return call(*arguments)
    except pynvml.NVMLError:
        return None


def _string(value: Any) -> Optional[str]:
    if isinstance(value, bytes):  # nvidia-ml-py before 11.515
        value = value.decode("utf-8", "replace")
    return value or None

"""Checks of the accelerator by its own tool: the table, the framework's age, the token, a dead owner.

Touches nothing: the tool's listing attaches no GPU. Refuses to show the platform's token; only
where one lies is said.
"""

import os
import re
from typing import Any, List

from moai_agent.checks.ground import RESET_DEVICE, Check, Ground
from moai_agent.devices import redact
from moai_agent.environments.inspect import version_key

_OUTDATED = re.compile(r"outdated and no longer supported", re.IGNORECASE)
_TOKEN_FILE = "/etc/moreh/token"
_TOKEN_VARIABLE = "MOREH_SDA_TOKEN"


def all_of(ground: Ground) -> List[Check]:
    """Checks of devices; those of the platform only where there is one."""
    found = [_device(ground)]
    if ground.is_moai:
        found += [_framework(ground), _platform_token(ground), _lock(ground)]
    return found


def lives(pid: int) -> bool:
    """Whether a process of that number is in this container."""
    return os.path.exists("/proc/%d" % pid)


def _device(ground: Ground) -> Check:
    report = ground.report
    if report.error is not None:
        return Check("device", "failed", report.error.message, report.error.next)
    if not report.devices:
        remedy = "moai remote device add FLAVOR --on NAME" if ground.is_moai else ""
        return Check("device", "failed", "no device is listed by %s" % (report.provider or "any tool"), remedy)
    shown = ", ".join("%s %s" % (d.name or "device %s" % d.id, d.flavor or "") for d in report.devices).strip()
    version = " (framework %s)" % report.platform_version if ground.is_moai and report.platform_version else ""
    busy = [str(p.pid) for d in report.devices for p in d.processes if p.pid is None or lives(p.pid)]
    if busy:
        text = "%s%s; in use by pid %s" % (shown, version, ", ".join(busy))
        return Check("device", "warning", text, "moai remote jobs --on NAME --running")
    if report.provider == "cpu":
        return Check("device", "warning", "%s: no accelerator was found" % shown, "moai remote devices --on NAME")
    return Check("device", "ok", shown + version)


def _framework(ground: Ground) -> Check:
    report = ground.report
    current, latest = report.platform_version or "", report.latest_version or ""
    target = " --target %s" % latest if latest and version_key(latest) > version_key(current) else ""
    # Never while a job runs, and never by us: it replaces torch.
    update = ground.in_environment("sh -c 'echo y | update-moreh%s'" % target)
    said = list(report.messages) + ([report.error.message] if report.error is not None else [])
    refused = [line for line in said if _OUTDATED.search(line)]
    if refused:
        return Check("framework", "failed", redact(refused[0]), update)
    if not current:
        return Check("framework", "skipped", "the device tool names no version (latest %s)" % (latest or "unknown"))
    if target:
        text = "%s is in use, %s is the latest; an outdated one is refused some day" % (current, latest)
        return Check("framework", "warning", text, update)
    inside = ground.chosen.moreh_version if ground.chosen is not None else None
    if inside and version_key(inside) != version_key(current):
        text = "the platform says %s, the torch of %s has %s; all environments of a token need the same"
        return Check("framework", "warning", text % (current, ground.chosen.name, inside), update)
    return Check("framework", "ok", "%s%s" % (current, ", the latest" if current == latest else ""))


def _platform_token(ground: Ground) -> Check:
    path, works = ground.at(_TOKEN_FILE), ground.report.error is None
    remedy = "moai remote run --on NAME --secret %s -- moreh-smi" % _TOKEN_VARIABLE
    if ground.login.get(_TOKEN_VARIABLE):
        return Check("moreh token", "ok", "%s is set in the login environment" % _TOKEN_VARIABLE)
    if os.path.exists(path):
        if not os.access(path, os.R_OK):
            text = "%s is there, but this user may not read it" % _TOKEN_FILE
            return Check("moreh token", "ok" if works else "failed", text, "" if works else remedy)
        if os.path.getsize(path) == 0:
            return Check("moreh token", "failed", "%s is empty" % _TOKEN_FILE, remedy)
        return Check("moreh token", "ok", "%s is there" % _TOKEN_FILE)
    text = "neither %s nor %s is there" % (_TOKEN_FILE, _TOKEN_VARIABLE)
    if works:
        return Check("moreh token", "ok", text + ", yet the device tool answers")
    return Check("moreh token", "failed", text, remedy)


def _lock(ground: Ground) -> Check:
    """A device whose owner is gone: training would wait for that process for ever."""
    held = [(d, p) for d in ground.report.devices for p in d.processes if p.pid is not None and not lives(p.pid)]
    if not held:
        return Check("device lock", "ok", "no device is held by a process that is gone")
    device, process = held[0]
    text = "device %s is held by pid %s (%s), which is not in this container" % (
        device.id, process.pid, redact(process.command or "?"),
    )  # fmt: skip
    if device.utilization_percent:
        # What computes is alive: it runs in another container of the same token.
        text += ", yet it is %d %% busy: another container of the same token uses it" % device.utilization_percent
        return Check("device lock", "warning", text, "moai remote devices --on NAME --watch")
    if not _is_default(device, ground.report):
        return Check("device lock", "failed", text, "moai remote device select %d --on NAME && moai remote device reset --on NAME" % device.id)
    return Check("device lock", "failed", text, "moai remote device reset --on NAME", RESET_DEVICE, str(process.pid))


def _is_default(device: Any, report: Any) -> bool:
    return report.default_device() is device

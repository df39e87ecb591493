"""Change accelerators: flavor, selection, reset, add, remove. By name, bounded in time, verified.

Every operation reads the state before, drives the platform's own tool on a pseudo-terminal, reads the
state again and believes only that. One operation at a time a container (a lock file), because the tools
share one accelerator. Refuses: what another process of this container is using (unless forced), names
that no menu shows, tools that hang. Blocking; runs in the agent's worker threads.
"""

import contextlib
import fcntl
import os
import shutil
from typing import Dict, Iterator, List, NamedTuple, Optional

from moai_worker.terminal import Hung, Terminal

from moai_agent.devices import menus, probe
from moai_agent.devices.report import PROVIDER_AP, PROVIDER_MOREH, Device, SmiReport, redact
from moai_agent.environments.activate import Activated
from moai_agent.errors import AgentError

_TIMEOUT_S = 60.0
_PER_JOB = (
    "this platform release sets the flavor per job: moai remote train --setenv ACCELERATOR_PLATFORM_FLAVOR=NAME"
)


class Flavors(NamedTuple):
    """What can be chosen. ``current`` is that of the default device."""

    current: str
    items: List[menus.Item]
    accelerator: str


class Control:
    """The operations of one container.

    Args:
        active: environment whose PATH has the tools. lock_path: file that orders operations.
    """

    def __init__(self, active: Activated, lock_path: str, timeout_s: float = _TIMEOUT_S) -> None:
        self._active, self._lock_path, self._timeout_s = active, lock_path, timeout_s
        self._variables: Dict[str, str] = probe.tool_variables(active.variables)

    # -- flavors -------------------------------------------------------------------------------

    def flavors(self) -> Flavors:
        """The menu, read without choosing anything."""
        with self._locked():
            with self._started(self._switcher()) as terminal:
                menu = self._menu(terminal, "moreh-switch-model")
                terminal.send("q")
                self._finish(terminal)
        return Flavors(menu.current, menu.items, menu.name)

    def switch_flavor(self, flavor: str, force: bool = False) -> Flavors:
        """Give the default device another flavor.

        Raises AgentError: FLAVOR_NOT_FOUND (with the menu), DEVICE_IN_USE, DEVICE_TOOL_FAILED, UNSUPPORTED.
        """
        with self._locked():
            self._refuse_in_use(self._read(), None, force, "switched")
            with self._started(self._switcher()) as terminal:
                menu = self._menu(terminal, "moreh-switch-model")
                item = menus.find(menu, flavor)
                if item is None:
                    terminal.send("q")
                    raise _no_flavor(flavor, menu)
                if menus.same_flavor(menu.current, item.flavor):
                    terminal.send("q")
                    self._finish(terminal)
                    return Flavors(menu.current, menu.items, menu.name)
                terminal.send(str(item.number))
                said = self._ask(terminal, "moreh-switch-model")
                if said is not None:
                    terminal.send("q")
                said = (said or "") + self._finish(terminal)
            if menus.is_in_use(said):
                raise _in_use("the accelerator is in use, so its flavor cannot be switched", self._read(), None)
            after = self._read()
            device = _default(after)
            if device is None or not menus.same_flavor(device.flavor or "", item.flavor):
                now = device.flavor if device is not None else "unknown"
                raise AgentError(
                    "DEVICE_TOOL_FAILED",
                    "asked for %s, but the device table shows %s afterwards%s" % (item.flavor, now, _quote(said)),
                    "moai remote devices",
                )
            return Flavors(device.flavor or "", menu.items, menu.name)

    # -- devices -------------------------------------------------------------------------------

    def select(self, device_id: int) -> SmiReport:
        """Make a device the default one. Raises AgentError (DEVICE_NOT_FOUND, ...)."""
        with self._locked():
            before = self._read()
            self._known(before, device_id)
            said = self._run_tool("device", "--switch", str(device_id))
            after = self._read()
            device = _default(after)
            if device is None or device.id != device_id:
                raise _failed("device %d was not selected" % device_id, said)
            return after

    def add(self, flavor: str) -> SmiReport:
        """Add a device of a flavor. Raises AgentError (FLAVOR_NOT_FOUND, DEVICE_LIMIT, ...)."""
        with self._locked():
            before = self._read()
            menu = menus.parse_menu(self._run_tool("device", "--list"))
            if not menu.items:
                raise _failed("the flavors of new devices could not be listed", "")
            item = menus.find(menu, flavor)
            if item is None:
                raise _no_flavor(flavor, menu)
            said = self._run_tool("device", "--add", str(item.number))
            after = self._read()
            known = {device.id for device in before.devices}
            new = [device for device in after.devices if device.id not in known and device.flavor]
            if len(new) == 1 and menus.same_flavor(new[0].flavor or "", item.flavor):
                return after
            if menus.is_at_limit(said) or not menus.is_done(said):
                raise AgentError(
                    "DEVICE_LIMIT",
                    "no device was added: the token allows %d%s" % (len(before.devices), _quote(said)),
                    "ask the platform's administrator for more, or moai remote device remove ID",
                )
            raise _failed("no device was added", said)

    def remove(self, device_id: int, force: bool = False) -> SmiReport:
        """Remove a device. Raises AgentError (DEVICE_NOT_FOUND, DEVICE_IN_USE, ...)."""
        with self._locked():
            before = self._read()
            self._known(before, device_id)
            self._refuse_in_use(before, device_id, force, "removed")
            said = self._run_tool("device", "--rm", str(device_id))
            after = self._read()
            if any(device.id == device_id and device.flavor for device in after.devices):
                if menus.is_in_use(said):
                    raise _in_use("device %d is in use or the last one" % device_id, after, device_id)
                raise _failed("device %d was not removed" % device_id, said)
            return after

    def reset(self, force: bool = False) -> str:
        """Release the default device: ``released`` or ``idle``.

        Refuses while a living process of this container owns it, unless forced: a reset ends that job.
        """
        with self._locked():
            before = self._read()
            device = _default(before)
            owners = [p.pid for p in device.processes if p.pid and _lives(p.pid)] if device is not None else []
            if owners and not force:
                raise _in_use(
                    "a reset would end process %s, which is alive" % ", ".join(map(str, owners)), before, device.id if device else None
                )
            said = self._run_tool("--reset")
            outcome = menus.release_outcome(said)
            if outcome == "unknown":
                raise _failed("the device was not released", said)
            return outcome

    # -- inside --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AgentError("DEVICE_IN_USE", "another change of this container's devices is going on", "try again")
            yield
        finally:
            os.close(fd)

    def _which(self, name: str) -> Optional[str]:
        return shutil.which(name, path=self._variables.get("PATH", ""))

    def _switcher(self) -> List[str]:
        path = self._which("moreh-switch-model")
        if path is None:
            if self._which(PROVIDER_AP):
                raise AgentError("UNSUPPORTED", "flavors are not switched on this container", _PER_JOB)
            raise AgentError("UNSUPPORTED", "there is no moreh-switch-model on this container", "moai remote check")
        return [path]

    def _run_tool(self, *words: str) -> str:
        """``moreh-smi WORDS`` to its end; a menu it shows after all is left with ``q``."""
        path = self._which(PROVIDER_MOREH)
        if path is None:
            hint = _PER_JOB if self._which(PROVIDER_AP) else "moai remote check"
            raise AgentError("UNSUPPORTED", "there is no moreh-smi on this container", hint)
        with self._started([path, *words]) as terminal:
            said = self._ask(terminal, "moreh-smi " + " ".join(words))
            if said is not None:
                terminal.send("q")
            self._finish(terminal)
            return terminal.said

    def _started(self, argv: List[str]) -> Terminal:
        try:
            return Terminal(argv, self._variables, self._timeout_s)
        except OSError as error:
            raise AgentError("DEVICE_TOOL_FAILED", "%s could not be started: %s" % (argv[0], error.strerror), "moai remote check")

    def _menu(self, terminal: Terminal, tool: str) -> menus.Menu:
        said = self._ask(terminal, tool)
        menu = menus.parse_menu(said or terminal.said)
        if said is None or not menu.items:
            raise _failed("%s showed no menu" % tool, terminal.said)
        return menu

    def _ask(self, terminal: Terminal, tool: str) -> Optional[str]:
        try:
            return terminal.read_until(menus.PROMPT)
        except Hung as hung:
            raise self._hung(tool, hung)

    def _finish(self, terminal: Terminal) -> str:
        try:
            return terminal.rest()
        except Hung as hung:
            raise self._hung("the tool", hung)

    def _hung(self, tool: str, hung: Hung) -> AgentError:
        return AgentError(
            "DEVICE_TOOL_FAILED",
            "%s did not answer within %g s and was stopped%s" % (tool, self._timeout_s, _quote(hung.said)),
            "run it on the container in a terminal; if it hangs there too, check the token and the network",
        )

    def _read(self) -> SmiReport:
        report = probe.list_devices(self._active, min(15.0, self._timeout_s))
        if report.error is not None:
            raise AgentError(report.error.reason, report.error.message, report.error.next)
        return report

    def _known(self, report: SmiReport, device_id: int) -> Device:
        for device in report.devices:
            if device.id == device_id:
                return device
        shown = ", ".join(str(device.id) for device in report.devices) or "none"
        raise AgentError("DEVICE_NOT_FOUND", "there is no device %d; there are: %s" % (device_id, shown), "moai remote devices")

    def _refuse_in_use(self, report: SmiReport, device_id: Optional[int], force: bool, verb: str) -> None:
        device = _default(report) if device_id is None else self._known(report, device_id)
        if device is not None and device.processes and not force:
            raise _in_use("device %d cannot be %s while it is in use" % (device.id, verb), report, device.id)


def _default(report: SmiReport) -> Optional[Device]:
    return next((device for device in report.devices if device.is_default), report.devices[0] if report.devices else None)


def _lives(pid: int) -> bool:
    return os.path.exists("/proc/%d" % pid)


def _in_use(text: str, report: SmiReport, device_id: Optional[int]) -> AgentError:
    owners = [
        "pid %s (%s)" % (process.pid, redact(process.command or "?"))
        for device in report.devices
        for process in device.processes
        if device_id is None or device.id == device_id
    ]
    by = ": " + ", ".join(owners) if owners else ", perhaps by another container of the same token"
    return AgentError("DEVICE_IN_USE", text + by, "wait for it, or moai remote cancel JOB")


def _no_flavor(flavor: str, menu: menus.Menu) -> AgentError:
    shown = ", ".join(item.flavor for item in menu.items)
    return AgentError("FLAVOR_NOT_FOUND", "there is no flavor %r; there are: %s" % (flavor, shown), "moai remote device flavors")


def _failed(what: str, said: str) -> AgentError:
    return AgentError("DEVICE_TOOL_FAILED", what + _quote(said), "moai remote devices")


def _quote(said: str) -> str:
    for line in reversed(said.splitlines()):
        line = line.strip()
        if line and "|" not in line and not menus.PROMPT.search(line) and any(c.isalpha() for c in line):
            return " (%s)" % redact(line)[:200]
    return ""

"""``moai remote device``: change the accelerators of one container."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import moai
from moai._cli.common import Env, Json, On, Plain, Yes, confirm, host, note, print_json
from moai._cli.devices import show
from moai._cli.table import print_table

app = typer.Typer(rich_markup_mode=None, add_completion=False)
device = typer.Typer(name="device", no_args_is_help=True, rich_markup_mode=None, add_completion=False)
app.add_typer(device)

Id = Annotated[int, typer.Argument(metavar="ID", help="As moai remote devices shows it.")]
FlavorName = Annotated[str, typer.Argument(metavar="FLAVOR", help="Name or size: 4xLarge.2048GB or 4xlarge.")]
Forced = Annotated[bool, typer.Option("--force", help="Also while a process uses the device.")]


@app.callback()
def _only_a_group() -> None:
    """Keeps this a group."""


@device.callback()
def _device() -> None:
    """Flavors; select, reset, add and remove devices (MoAI platforms)."""


@device.command()
def flavors(on: On = "", env: Env = "", as_json: Json = False, plain: Plain = False) -> None:
    """The flavors that can be chosen; the present one has a star."""
    target = host(on)
    found = target.flavors(env)
    if as_json:
        entries = [{"name": f.name, "group": f.group or None, "is_current": f.is_current} for f in found]
        print_json({"schema": "moai.flavors/1", "host": target.name, "flavors": entries})
        return
    print_table(["FLAVOR", "GROUP"], [[("* " if f.is_current else "  ") + f.name, f.group or "-"] for f in found], grow=0, plain=plain)


@device.command()
def switch(flavor: FlavorName, on: On = "", env: Env = "", force: Forced = False, yes: Yes = False, as_json: Json = False) -> None:
    """Give the default device another flavor; every container of the same token gets it too."""
    target = host(on)
    report = target.devices(env)
    if not yes:
        _say_who(target, report)
        confirm(f"Switch {target.name} to {flavor}?", yes, f"moai remote device switch {flavor} --yes")
    now, before = target.switch_flavor(flavor, force, env)
    if as_json:
        print_json({"schema": "moai.flavor/1", "host": target.name, "flavor": now, "previous": before or None})
        return
    print(now)
    note(f"{target.name}: {before or 'no flavor'} before; moai remote device switch {before} goes back" if before != now else f"{target.name} has it already")


def _say_who(target: Any, report: moai.DeviceReport) -> None:
    for d in report.devices:
        if d.is_default:
            note(f"{target.name}: device {d.id} is {d.flavor or 'without a flavor'}; the flavor is shared by every container of its token")
            for p in d.processes:
                note(f"  in use by {p.command or '?'} (pid {p.pid}, job {p.job_id})")


@device.command()
def select(device: Id, on: On = "", env: Env = "", as_json: Json = False, plain: Plain = False) -> None:
    """Make a device the default one."""
    target = host(on)
    _result(target, target.select_device(device, env), as_json, plain)


@device.command()
def reset(on: On = "", env: Env = "", force: Forced = False, as_json: Json = False) -> None:
    """Release the default device when its process is gone but still holds it."""
    target = host(on)
    released = target.reset_device(force, env)
    if as_json:
        print_json({"schema": "moai.reset/1", "host": target.name, "released": released})
        return
    note(f"{target.name}: the device was released" if released else f"{target.name}: nothing was running on it")


@device.command()
def add(flavor: FlavorName, on: On = "", env: Env = "", as_json: Json = False, plain: Plain = False) -> None:
    """Add a device of a flavor, where the token allows several."""
    target = host(on)
    _result(target, target.add_device(flavor, env), as_json, plain)


@device.command()
def remove(device: Id, on: On = "", env: Env = "", force: Forced = False, yes: Yes = False, as_json: Json = False, plain: Plain = False) -> None:
    """Remove a device."""
    target = host(on)
    confirm(f"Remove device {device} of {target.name}?", yes, f"moai remote device remove {device} --yes")
    _result(target, target.remove_device(device, force, env), as_json, plain)


def _result(target: Any, report: moai.DeviceReport, as_json: bool, plain: bool) -> None:
    if as_json:
        print_json({"schema": "moai.devices/1", "hosts": [report.as_dict()]})
        return
    show([(target, report)], plain)

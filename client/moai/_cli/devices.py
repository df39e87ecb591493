"""``moai remote devices``: the accelerators of one or many containers."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

import moai
from moai._cli.clean import clean
from moai._cli.common import Env, Json, On, Plain, hosts, is_plain, on_each, print_json, worst
from moai._cli.table import print_table

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def devices(
    on: On = "",
    as_json: Json = False,
    env: Env = "",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Again every few seconds until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks with --watch.")] = 5.0,
    plain: Plain = False,
) -> None:
    """Accelerators as each container's own tool shows them, and what runs on them."""
    targets = hosts(on)
    while True:
        answers = on_each(targets, lambda target: target.devices(env))
        codes = [a.exit_code if isinstance(a, moai.MoaiError) else int(a.error is not None) for _, a in answers]
        if as_json:
            print_json(document(answers))
        elif len(answers) == 1 and isinstance(answers[0][1], moai.MoaiError) and not watch:
            raise answers[0][1]
        else:
            if watch and not is_plain(plain):
                sys.stdout.write("\x1b[H\x1b[J")
            show(answers, plain)
        if not watch:
            break
        time.sleep(interval)
    if any(codes):
        raise typer.Exit(worst(codes))


def document(answers: list[tuple[Any, Any]]) -> dict[str, Any]:
    """``moai.devices/1``."""
    rows = [moai.failed_devices(t.name, a) if isinstance(a, moai.MoaiError) else a for t, a in answers]
    return {"schema": "moai.devices/1", "hosts": [row.as_dict() for row in rows]}


def show(answers: list[tuple[Any, Any]], plain: bool) -> None:
    """A row a device, failures beside successes."""
    rows: list[list[str]] = []
    for target, answer in answers:
        if isinstance(answer, moai.MoaiError):
            rows.append([target.name, "-", f"error: {answer.message}", "-", "-", "-", "-"])
            continue
        if answer.error:
            rows.append([target.name, "-", f"error: {answer.error.message}", "-", "-", "-", "-"])
        for d in answer.devices:
            used = f"{d.memory_used_mib}" if d.memory_used_mib is not None else "-"
            total = f"{d.memory_total_mib} MiB" if d.memory_total_mib is not None else "-"
            percent = f"{d.memory_used_percent:.0f} %" if d.memory_used_percent is not None else ""
            load = f"{d.utilization_percent:.0f} %" if d.utilization_percent is not None else "-"
            busy = ", ".join(f"{p.command or '?'} (pid {p.pid if p.pid is not None else '?'})" for p in d.processes)
            memory = f"{used} / {total}" if used != "-" or total != "-" else percent or "-"
            mark = "*" if d.is_default else " "
            rows.append([target.name, f"{mark}{d.id}", d.name or "-", d.flavor or "-", memory, load, busy or "-"])
        if not answer.devices and not answer.error:
            rows.append([target.name, "-", "no device", "-", "-", "-", "-"])
    print_table(["HOST", "ID", "NAME", "FLAVOR", "MEMORY", "LOAD", "PROCESSES"], rows, grow=6, plain=plain)
    for _, answer in answers:
        if isinstance(answer, moai.DeviceReport) and answer.platform_version:
            newer = answer.latest_version not in ("", answer.platform_version)
            hint = f" ({answer.latest_version} is out: update-moreh)" if newer else ""
            print(clean(f"{answer.host}: {answer.provider}, framework {answer.platform_version}{hint}"))

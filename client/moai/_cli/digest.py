"""``moai remote`` alone: what happened since you last looked, and what to type next."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from typing import Any

import typer

import moai
from moai._cli.common import has_colour, hosts, note, on_each, print_json, worst
from moai._cli.disk import full_disks
from moai._cli.jobs import doing
from moai._cli.table import STATE_STYLE, ago, clock, paint
from moai._cli.view import next_commands

_RECENT = 5


def digest(as_json: bool) -> None:
    """Ask all configured hosts; show what runs, what ended, and what needs somebody."""
    if not moai.config().hosts:
        if as_json:
            print_json({"schema": "moai.digest/1", "since": None, "running": [], "ended": [], "warnings": [], "errors": []})
            return
        note("no container is configured")
        note("  moai remote add NAME user@host -p PORT     a container you reach by SSH")
        note("  moai remote run --on local -- CMD          the laptop itself")
        note("  moai remote --help                         every command")
        return
    since = _last_look()
    answers = on_each(hosts("all"), _look_at)
    found = [info for _, a in answers if not isinstance(a, moai.MoaiError) for info in a[0]]
    warnings = [(t.name, line) for t, a in answers if not isinstance(a, moai.MoaiError) for line in a[1]]
    running = [i for i in found if not i.ended]
    ended = [i for i in found if i.ended and i.end_time and (since is None or i.end_time > since)]
    ended.sort(key=lambda i: i.end_time or datetime.min.replace(tzinfo=timezone.utc), reverse=True)
    errors = [(t.name, a) for t, a in answers if isinstance(a, moai.MoaiError)]
    if as_json:
        print_json(
            {
                "schema": "moai.digest/1",
                "since": since.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if since else None,
                "running": [i.as_dict() for i in running],
                "ended": [i.as_dict() for i in ended],
                "warnings": [{"host": n, "message": line} for n, line in warnings],
                "errors": [{"host": n, "reason": e.reason, "message": e.message, "next": e.next} for n, e in errors],
            }
        )
    else:
        _show(running, ended, found, errors, since)
        for name, line in warnings:
            print(f"{paint('DISK', 'yellow', has_colour(False))} {line}")
            print(f"  next  moai remote disk --on {name}, moai remote clean --on {name} --dry-run")
    _note_look()
    if errors:
        raise typer.Exit(worst([e.exit_code for _, e in errors]))


def _look_at(target: Any) -> tuple[list[moai.JobInfo], list[str]]:
    """Jobs of a host, and a line for each of its disks that is nearly full; an agent that cannot start has no say on these."""
    jobs = target.jobs(200)
    try:
        # Counting may end at once: only the space on its mounts is wanted.
        mounts = target.disk_usage(limit_s=0.001).mounts
    except moai.MoaiError:
        return jobs, []
    return jobs, full_disks(target.name, mounts)


def _show(running: list[Any], ended: list[Any], found: list[Any], errors: list[Any], since: datetime | None) -> None:
    colour = has_colour(False)
    for info in running:
        print(f"{paint(info.state, STATE_STYLE.get(info.state, 'dim'), colour)} {info.host}/{info.id}  {info.command}  {doing(info)}")
        print(f"  next  moai remote attach {info.id}")
    shown = ended if since else ended[:_RECENT]
    for info in shown:
        print(f"{paint(info.state, STATE_STYLE.get(info.state, 'dim'), colour)} {info.host}/{info.id}  {info.command}")
        figures = f", loss {info.metrics['loss']:.4g}" if "loss" in info.metrics else ""
        print(f"  {clock(info.end_time)} ({ago(info.end_time)}){figures}")
        for line in next_commands(info)[:1]:
            print(f"  next  {line}")
    for name, error in errors:
        print(f"{paint('UNREACHABLE', 'red', colour)} {name}: {error.message}")
        if error.next:
            print(f"  next  {error.next}")
    if not running and not shown and not errors:
        print("nothing runs and nothing ended" + (f" since {clock(since)}" if since else ""))
        if not found:
            note("next: moai remote train --model MODEL --dataset DATA")


def _path() -> str:
    return os.path.join(moai.cache_folder(), "last-look.json")


def _last_look() -> datetime | None:
    try:
        with open(_path(), encoding="utf-8") as source:
            return datetime.fromtimestamp(float(json.load(source)["time"]), timezone.utc)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _note_look() -> None:
    try:
        with open(_path(), "w", encoding="utf-8") as out:
            json.dump({"time": datetime.now(timezone.utc).timestamp()}, out)
    except OSError:
        return

"""One training over several containers (``train --on a,b,c --nodes 3``, its ``resume`` and ``again``), shown as one."""

from __future__ import annotations

from typing import NamedTuple

import typer

import moai
from moai._cli.clean import clean
from moai._cli.common import note, print_json, worst
from moai._cli.follow import exit_code, follow
from moai._cli.settings import Value
from moai._cli.table import STATE_STYLE, print_table

#: After the leader's end the others have this long to end too: they save the same result.
_OTHERS_S = 300.0


class Shown(NamedTuple):
    """How it is shown."""

    detach: bool
    as_json: bool
    plain: bool


def together(
    names: str, nodes: int, recipe: dict[str, Value], settings: dict[str, Value], given: moai.JobOptions, smoke: bool, shown: Shown
) -> None:
    """Start the jobs and show them."""
    fleet = moai.Fleet(names or "all")
    if len(fleet.hosts) != nodes:
        raise moai.UsageError("USAGE", f"--nodes {nodes}, and --on names {len(fleet.hosts)} hosts", f"--on {','.join('abcdefgh'[:nodes])}")
    arguments = {name: one.value for name, one in recipe.items()}
    model, data = arguments.pop("model"), arguments.pop("dataset")
    extra = {name: one.value for name, one in settings.items()}
    show(fleet.train_together(model, data, given, settings=extra, smoke=smoke, **arguments), shown)


def show(jobs: list[moai.Job], shown: Shown) -> None:
    """Follow the leader's job, the first, then say how each ended. Leaves with the worst exit code."""
    leader, *others = jobs
    if shown.detach:
        if shown.as_json:
            print_json({"schema": "moai.jobs/1", "jobs": [job.info.as_dict() for job in jobs], "errors": []})
        else:
            for job in jobs:
                print(f"{job.host.name}/{job.id}")
            note(f"moai remote attach {leader.host.name}/{leader.id} follows the leader; cancel ends all of them")
        return
    note(f"leader {leader.host.name}/{leader.id}; with it " + ", ".join(f"{job.host.name}/{job.id}" for job in others))
    code = 0
    try:
        follow(leader, as_json=shown.as_json, plain=shown.plain, log=False)
    except typer.Exit as ended:
        code = ended.exit_code
        if code == 130:
            raise
    if leader.refresh().state != "SUCCEEDED":
        for job in others:
            job.cancel()  # They would wait for a leader that does not come.
    infos = [leader.refresh(), *(job.wait(_OTHERS_S, check=False) for job in others)]
    if not shown.as_json:
        rows = [[i.host, i.id, i.state, clean(i.reason.message) if i.reason and i.state != "SUCCEEDED" else i.output or "-"] for i in infos]
        print_table(["HOST", "JOB", "STATE", "OUTPUT"], rows, [STATE_STYLE.get(i.state, "") for i in infos], grow=3, plain=shown.plain)
    codes = [code, *(exit_code(i) for i in infos)]
    if any(codes):
        raise typer.Exit(worst(codes))

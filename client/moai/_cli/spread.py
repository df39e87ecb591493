"""One submission on several hosts: a row a host, then one merged stream with the host before each line."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

import moai
from moai._cli.clean import LogCleaner, clean
from moai._cli.common import fleet, note, print_json, worst
from moai._cli.follow import exit_code, log_line
from moai._cli.table import STATE_STYLE, print_table


def spread(
    results: moai.Results[moai.Job], fleet: moai.Fleet, detach: bool, as_json: bool, plain: bool,
    tell: Callable[[moai.Job], None] | None = None,
) -> None:  # fmt: skip
    """Say what was started where and, unless detached, follow all of it. Leaves with the worst exit code.

    Args:
        tell: says what a job that was followed and succeeded found; called in the order of the hosts.
    """
    jobs = list(results.ok.values())
    if as_json and detach:
        print_json(
            {
                "schema": "moai.jobs/1",
                "jobs": [job.info.as_dict() for job in jobs],
                "errors": [{"host": n, "reason": e.reason, "message": e.message, "next": e.next} for n, e in results.failed.items()],
            }
        )
    elif not as_json:
        rows = [[n, a.id if isinstance(a, moai.Job) else "-", a.state if isinstance(a, moai.Job) else f"error: {a.message}"] for n, a in results.items()]
        print_table(["HOST", "JOB", "STATE"], rows, grow=2, plain=plain)
    codes = [error.exit_code for error in results.failed.values()]
    if jobs and not detach:
        codes += _follow(jobs, fleet, as_json, plain)
        for job in jobs:
            if tell is not None and job.info.state == "SUCCEEDED":
                tell(job)
    if any(codes):
        raise typer.Exit(worst(codes))


def submit_each(
    names: str, start: Callable[[moai.Host, moai.JobOptions], moai.Job], given: moai.JobOptions, detach: bool, as_json: bool, plain: bool,
    fail_fast: bool = False, tell: Callable[[moai.Job], None] | None = None,
) -> None:  # fmt: skip
    """The same submission on every host named, then ``spread``. Leaves with the worst exit code."""
    every = fleet(names)
    spread(every.submit(start, given, fail_fast=fail_fast), every, detach, as_json, plain, tell)


def _follow(jobs: list[moai.Job], fleet: moai.Fleet, as_json: bool, plain: bool) -> list[int]:
    cleaners: dict[str, LogCleaner] = {}
    tails: dict[str, str] = {}

    def on_link(host: str, error: moai.MoaiError | None) -> None:
        note(f"{host}: " + ("the link is back" if error is None else f"the link is gone ({error.message}); reconnecting"))

    try:
        for item in fleet.events(jobs, log=True, on_link=on_link):
            if as_json:
                print_json(item.as_dict() if isinstance(item, moai.Event) else log_line(item))
            elif isinstance(item, moai.LogChunk):
                cleaner = cleaners.setdefault(item.job, LogCleaner(False))
                whole, newline, tails[item.job] = (tails.get(item.job, "") + cleaner.feed(item.data)).rpartition("\n")
                if newline:
                    sys.stdout.write("".join(f"[{item.host}] {line.rpartition(chr(13))[2]}\n" for line in whole.split("\n")))
                    sys.stdout.flush()
            elif item.is_last and tails.get(item.job):
                sys.stdout.write(f"[{item.host}] {tails.pop(item.job)}\n")
    except KeyboardInterrupt:
        note("")
        note("detached; the jobs go on: " + ", ".join(f"{job.host.name}/{job.id}" for job in jobs))
        raise typer.Exit(130) from None
    infos = [job.refresh() for job in jobs]
    if not as_json:
        rows = [[i.host, i.id, i.state, clean(i.reason.message) if i.reason and i.state != "SUCCEEDED" else "-"] for i in infos]
        print_table(["HOST", "JOB", "STATE", "WHY"], rows, [STATE_STYLE.get(i.state, "") for i in infos], grow=3, plain=plain)
    return [exit_code(i) for i in infos]



"""``moai remote disk`` and ``clean``: what moai keeps on containers, and the removal of what nothing needs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import moai
from moai._cli.clean import clean as cleaned
from moai._cli.common import Force, Json, On, Plain, Yes, confirm, find_job, hosts, note, on_each, print_json, seconds, worst
from moai._cli.table import ago, print_table, size

app = typer.Typer(rich_markup_mode=None, add_completion=False)

FULL_PERCENT = 90.0
_SHOWN = 12


@app.command()
def disk(
    on: On = "",
    every: Annotated[bool, typer.Option("--all", "-a", help="Every item, not the largest only.")] = False,
    limit: Annotated[str, typer.Option("--limit", metavar="TIME", help="Count for so long at most.")] = "20s",
    as_json: Json = False,
    plain: Plain = False,
) -> None:
    """What moai keeps on containers, by kind, job and age, and how full their disks are."""
    limit_s = seconds(limit, "--limit")
    answers = on_each(hosts(on), lambda target: target.disk_usage(limit_s))
    if as_json:
        print_json({"schema": "moai.disk/1", "hosts": [_row(t.name, a, _DISK_ERROR) for t, a in answers]})
    else:
        _raise_alone(answers, as_json)
        for target, answer in answers:
            if isinstance(answer, moai.MoaiError):
                note(f"{target.name}: {answer.message}" + (f"; {answer.next}" if answer.next else ""))
            else:
                _show_usage(answer, every, plain)
    _leave(answers)


_DISK_ERROR: dict[str, Any] = {"mounts": [], "kinds": {}, "items": [], "stopped": None}
_CLEAN_ERROR: dict[str, Any] = {"dry_run": False, "size_bytes": 0, "items": [], "kept": []}


def _row(name: str, answer: Any, empty: dict[str, Any]) -> dict[str, Any]:
    if isinstance(answer, moai.MoaiError):
        return {"host": name, **empty, "error": {"reason": answer.reason, "message": answer.message, "next": answer.next}}
    return dict(answer.as_dict())


def _raise_alone(answers: list[tuple[Any, Any]], as_json: bool) -> None:
    """The error of the only host is the command's."""
    if len(answers) == 1 and isinstance(answers[0][1], moai.MoaiError) and not as_json:
        raise answers[0][1]


def _leave(answers: list[tuple[Any, Any]]) -> None:
    codes = [a.exit_code for _, a in answers if isinstance(a, moai.MoaiError)]
    if codes:
        raise typer.Exit(worst(codes))


def full_disks(host: str, mounts: Any) -> list[str]:
    """A line a file system that is 90 % full or more."""
    return [
        f"{host}: {m.path} is {moai.used_percent(m):.0f} % full, {size(m.free_bytes)} free"
        for m in mounts
        if moai.used_percent(m) >= FULL_PERCENT
    ]


def _show_usage(usage: moai.DiskUsage, every: bool, plain: bool) -> None:
    mounts = ", ".join(f"{m.path} {moai.used_percent(m):.0f} % full, {size(m.free_bytes)} free" for m in usage.mounts)
    print(f"{cleaned(usage.host)}: {cleaned(mounts)}")
    rows = []
    for kind, count in usage.by_kind.items():
        of_kind = [item for item in usage.items if item.kind == kind]
        oldest = min((i.changed for i in of_kind if i.changed), default=None)
        rows.append([kind, size(count), str(sum(i.file_count for i in of_kind)), str(len(of_kind)), ago(oldest)])
    print_table(["KIND", "SIZE", "FILES", "ITEMS", "OLDEST"], rows, plain=plain)
    items = sorted(usage.items, key=lambda i: -i.size_bytes)
    shown = items if every else items[:_SHOWN]
    print()
    show_items(shown, plain)
    if len(shown) < len(items):
        note(f"{len(items) - len(shown)} smaller ones; --all shows them")
    if usage.stopped:
        note(f"{usage.stopped}: the figures are too small (--limit 5m counts longer)")
    for line in full_disks(usage.host, usage.mounts):
        note(f"warning: {line}; moai remote clean --on {usage.host} --dry-run")


def show_items(items: Any, plain: bool = False, why: bool = False) -> None:
    """A row an item: kind, size, job, how that ended, age, path, and why it stays."""
    rows = []
    for i in items:
        more = "+" if i.partial else ""
        row = [i.kind, size(i.size_bytes) + more, i.job or "-", i.state.lower() or "-", ago(i.changed), i.path]
        rows.append([*row, i.kept_because] if why else row)
    print_table(["KIND", "SIZE", "JOB", "ENDED", "CHANGED", "PATH", *(["STAYS BECAUSE"] if why else [])], rows, grow=5, plain=plain)


@app.command()
def clean(
    on: On = "",
    older: Annotated[str, typer.Option("--older", metavar="TIME", help="Only what ended or changed longer ago.")] = "14d",
    keep_last: Annotated[int, typer.Option("--keep-last", metavar="N", min=0, help="With --checkpoints: newest ones of a job that stay.")] = 1,
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="Checkpoints of ended jobs too.")] = False,
    logs: Annotated[bool, typer.Option("--logs", help="Only the logs of ended jobs; their records stay.")] = False,
    results: Annotated[str, typer.Option("--results", metavar="JOB", help="Only the results of this ended job.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    kept: Annotated[bool, typer.Option("--kept", help="Also show what stays, and why.")] = False,
    yes: Yes = False,
    force: Force = False,
    as_json: Json = False,
    plain: Plain = False,
) -> None:
    """Remove old jobs, code, uploads and bundles that nothing needs; results and models are never touched unnamed."""
    wanted = {
        "older_s": seconds(older, "--older"), "checkpoints": checkpoints, "keep_last": keep_last, "logs": logs,
        "results": results, "force": force,
    }  # fmt: skip
    if results:
        # Wherever it runs, as with every verb on a job.
        job = find_job(results, on)
        wanted["results"], targets = job.id, [job.host]
    else:
        targets = hosts(on)
    trials = on_each(targets, lambda target: target.clean(dry_run=True, **wanted))
    if as_json and not dry_run and not yes:
        raise moai.UsageError("USAGE", "--json asks nothing", "moai remote clean --json --yes, or --dry-run")
    _raise_alone(trials, as_json)
    if not as_json:
        _show_trials(trials, kept, plain)
    answers: list[tuple[Any, Any]] = trials
    total = sum(a.size_bytes for _, a in trials if not isinstance(a, moai.MoaiError))
    anything = [(t, a) for t, a in trials if not isinstance(a, moai.MoaiError) and a.items]
    if not dry_run and anything:
        count = sum(len(a.items) for _, a in anything)
        confirm(f"Remove these {count} ({size(total)}) from {', '.join(t.name for t, _ in anything)}?", yes, "moai remote clean --yes")
        going = {t.name: [item.path for item in a.items] for t, a in anything}
        done = dict(on_each([t for t, _ in anything], lambda t: t.clean(only=going[t.name], **wanted)))
        answers = [(t, done.get(t, a)) for t, a in trials]
        for target, answer in done.items() if not as_json else ():
            if not isinstance(answer, moai.MoaiError):
                left = len(going[target.name]) - len(answer.items)
                note(f"{target.name}: {size(answer.size_bytes)} freed" + (f"; {left} came into use meanwhile and stay" if left else ""))
            else:
                note(f"{target.name}: {answer.message}" + (f"; {answer.next}" if answer.next else ""))
    elif not as_json:
        note("nothing was removed" if anything else "there is nothing to remove" + ("" if kept else "; --kept shows what stays and why"))
    if as_json:
        print_json({"schema": "moai.clean/1", "hosts": [_row(t.name, a, _CLEAN_ERROR) for t, a in answers]})
    _leave(answers)


def _show_trials(trials: list[tuple[Any, Any]], kept: bool, plain: bool) -> None:
    for target, answer in trials:
        if isinstance(answer, moai.MoaiError):
            note(f"{target.name}: {answer.message}" + (f"; {answer.next}" if answer.next else ""))
            continue
        if answer.items:
            print(f"{cleaned(target.name)}: {len(answer.items)} to remove, {size(answer.size_bytes)}")
            show_items(sorted(answer.items, key=lambda i: -i.size_bytes), plain)
        if kept and answer.kept:
            print(f"{cleaned(target.name)}: {len(answer.kept)} stay")
            show_items(answer.kept, plain, why=True)

"""Verbs on jobs: jobs, show, logs, attach, wait, stop, checkpoint, cancel, delete."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from typing import Annotated, Any

import typer

import moai
from moai._cli.clean import LogCleaner, clean
from moai._cli.common import (
    Force,
    JobName,
    Json,
    On,
    Plain,
    Yes,
    confirm,
    find_job,
    has_colour,
    hosts,
    note,
    on_each,
    print_json,
    seconds,
    worst,
)  # fmt: skip
from moai._cli.curve import chart
from moai._cli.follow import exit_code, follow, has_own_log
from moai._cli.table import STATE_STYLE, ago, clock, duration, paint, print_table, size
from moai._cli.timeline import timeline

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def jobs(
    on: On = "",
    mine: Annotated[bool, typer.Option("--mine", help="Only jobs you submitted from this laptop's user.")] = False,
    owner: Annotated[str, typer.Option("--owner", metavar="WHO", help="Only jobs of USER, or USER@MACHINE.")] = "",
    others: Annotated[bool, typer.Option("--others", help="Jobs of other containers whose folders lie in that home.")] = False,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="At most so many a host.")] = 50,
    running: Annotated[bool, typer.Option("--running", help="Only jobs that have not ended.")] = False,
    as_json: Json = False,
    plain: Plain = False,
) -> None:
    """Jobs of all configured containers (or those of --on), newest first."""
    targets = hosts(on or ("all" if moai.config().hosts else ""))
    wanted = moai.owner() if mine else owner
    # A filter is applied here: the newest few of all might be none of theirs.
    asked = 1000 if wanted or running else limit
    answers = on_each(targets, lambda target: target.other_jobs(asked) if others else target.jobs(asked))
    found = [info for _, answer in answers if not isinstance(answer, moai.MoaiError) for info in answer]
    if wanted:
        found = [info for info in found if wanted in (info.owner, info.owner.partition("@")[0])]
    if running:
        found = [info for info in found if not info.ended]
    found.sort(key=lambda info: info.create_time or datetime.min.replace(tzinfo=timezone.utc), reverse=True)
    found = _newest(found, limit)
    errors = [(t.name, a) for t, a in answers if isinstance(a, moai.MoaiError)]
    if as_json:
        document: dict[str, Any] = {"schema": "moai.jobs/1", "jobs": [info.as_dict() for info in found]}
        document["errors"] = [{"host": n, "reason": e.reason, "message": e.message, "next": e.next} for n, e in errors]
        print_json(document)
    else:
        show_jobs(found, plain)
        for name, error in errors:
            note(f"{name}: {error.message}" + (f"; {error.next}" if error.next else ""))
        if not found and not errors:
            note("no job yet; moai remote run -- CMD or moai remote train" if not (wanted or running or others) else "no such job")
        for target in targets if not others else ():
            if target.other_count:
                note(f"{target.name}: {target.other_count} jobs of another container lie in this home; moai remote jobs --others")
    if errors:
        raise typer.Exit(worst([e.exit_code for _, e in errors]))


def _newest(found: list[moai.JobInfo], limit: int) -> list[moai.JobInfo]:
    """At most ``limit`` a host."""
    counts: dict[str, int] = {}
    kept = []
    for info in found:
        counts[info.host] = counts.get(info.host, 0) + 1
        if counts[info.host] <= limit:
            kept.append(info)
    return kept


def show_jobs(found: list[moai.JobInfo], plain: bool) -> None:
    """A row a job."""
    rows = [
        [i.host, i.id, i.name or "-", i.state, doing(i), ago(i.create_time), i.command] for i in found
    ]
    styles = [STATE_STYLE.get(i.state, "") for i in found]
    print_table(["HOST", "JOB", "NAME", "STATE", "DOING", "AGE", "COMMAND"], rows, styles, grow=6, plain=plain)


def doing(info: moai.JobInfo) -> str:
    """What a job does, or how it ended, in a few words."""
    if info.ended:
        if info.state == "SUCCEEDED":
            took = (info.end_time - info.start_time).total_seconds() if info.end_time and info.start_time else None
            return f"in {duration(took)}" if took is not None else "-"
        if info.exit_code not in (None, 0):
            return f"exit {info.exit_code}"
        return info.reason.code.lower() if info.reason else "-"
    if info.conditions:
        return info.conditions[0][1]
    running = next((s.name for s in info.steps if s.state == "RUNNING"), "")
    p = info.progress
    if p and p.total and p.done is not None:
        eta = f", ETA {duration(p.eta_seconds)}" if p.eta_seconds is not None else ""
        return f"{running} {100 * p.done / p.total:.0f} %{eta}"
    since = f" for {ago(info.phase_time).removesuffix(' ago')}" if info.phase and info.phase_time else ""
    return f"{running} {info.phase}{since}".strip() or "-"


@app.command()
def show(
    job: JobName = "last",
    on: On = "",
    events: Annotated[bool, typer.Option("--events", help="The timeline: steps and phases with their durations.")] = False,
    toml: Annotated[bool, typer.Option("--toml", help="A moai.toml that would repeat it.")] = False,
    as_json: Json = False,
    plain: Plain = False,
) -> None:
    """Everything about one job: state, steps, environment, figures, loss curve."""
    one = find_job(job, on)
    if toml:
        print("\n".join(clean(line) for line in one.toml().rstrip().split("\n")))
        return
    info = one.info
    spec, plan = one.spec_and_plan()
    if as_json:
        document = {"schema": "moai.job/1", **info.as_dict(), "spec": spec, "plan": plan, "metrics": info.metrics, "folder": info.folder}
        document["losses"] = [list(point) for point in info.losses]
        if events:
            document["events"] = [event.as_dict() for event in one.events(follow=False)]
        print_json(document)
        return
    colour = has_colour(plain)
    print(f"{paint(clean(info.id), 'bold', colour)} on {info.host}  {paint(info.state, STATE_STYLE.get(info.state, 'dim'), colour)}")
    for label, text in _facts(info, spec):
        print(f"  {label:<12} {clean(text)}")
    for step in info.steps:
        code = f" (exit {step.exit_code})" if step.exit_code not in (None, 0) else ""
        print(f"  {'step':<12} {clean(step.name)}: {clean(step.state.lower())}{code}")
    if len(info.losses) > 1:
        print()
        print("\n".join(chart(info.losses, 72, plain=not colour)))
    if events:
        print()
        print("\n".join(timeline(one.events(follow=False), colour)))


def _facts(info: moai.JobInfo, spec: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [("command", info.command), ("name", info.name), ("owner", info.owner), ("parent", info.parent)]
    facts += [(kind.lower().replace("_", " ")[:12], text) for kind, text in info.conditions]
    if info.reason:
        facts.append(("reason", f"{info.reason.code}: {info.reason.message}"))
        facts.append(("next", info.reason.next))
    facts.append(("created", f"{clock(info.create_time)} ({ago(info.create_time)})"))
    if info.start_time:
        facts.append(("started", clock(info.start_time)))
    if info.end_time:
        took = (info.end_time - info.start_time).total_seconds() if info.start_time else None
        facts.append(("ended", clock(info.end_time) + (f" after {duration(took)}" if took is not None else "")))
    if info.exit_code is not None:
        facts.append(("exit code", str(info.exit_code)))
    if not info.ended:
        facts.append(("doing", doing(info)))
        facts.append(("phase", _phase(info)))
    facts.append(("environment", f"{info.environment} ({info.environment_reason})"))
    facts.append(("secrets", ", ".join(spec.get("secrets") or [])))
    if info.metrics:
        facts.append(("figures", ", ".join(f"{k} {v:.4g}" for k, v in sorted(info.metrics.items()))))
    facts += [("output", info.output), ("folder", info.folder), ("log", size(info.log_bytes))]
    return [(label, text) for label, text in facts if text]


def _phase(info: moai.JobInfo) -> str:
    """The phase in a sentence, with the range it was seen to last and where."""
    if not info.phase:
        return ""
    usual = ""
    if info.phase_usual:
        low, high, source = info.phase_usual
        usual = f"; usually {duration(low)} to {duration(high)} ({source})"
    return (info.phase_text or info.phase) + usual


@app.command()
def logs(
    job: JobName = "last",
    on: On = "",
    follow_: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    tail: Annotated[int, typer.Option("--tail", min=0, help="Only so many lines from the end.")] = None,  # type: ignore[assignment]
    offset: Annotated[int, typer.Option("--offset", help="From this byte; negative: so many before the end.")] = 0,
    raw: Annotated[bool, typer.Option("--raw", help="Also on a terminal: every byte as it is.")] = False,
) -> None:
    """The log of a job. Piped, it is byte for byte what the job wrote; on a terminal it is made harmless."""
    one = find_job(job, on)
    start = _tail_offset(one, tail) if tail is not None else offset
    cleaner = LogCleaner(has_colour(False)) if sys.stdout.isatty() and not raw else None
    for data in one.log(start, follow_):
        if cleaner is None:
            sys.stdout.buffer.write(data)
        else:
            sys.stdout.write(cleaner.feed(data))
        if follow_:
            sys.stdout.flush()
    if cleaner is not None:
        sys.stdout.write(cleaner.finish())


def _tail_offset(one: moai.Job, lines: int) -> int:
    """Offset of the last ``lines`` lines; looks back in growing pieces."""
    total = one.info.log_bytes
    if lines == 0:
        return total
    back = 16 * 1024
    while True:
        start = max(0, total - back)
        data = b"".join(one.log(start))
        body = data[:-1] if data.endswith(b"\n") else data
        at = len(body)
        for _ in range(lines):
            at = body.rfind(b"\n", 0, at)
            if at < 0:
                break
        if at >= 0:
            return start + at + 1
        if start == 0:
            return 0
        back *= 8


@app.command()
def attach(
    job: JobName = "last",
    on: On = "",
    after: Annotated[int, typer.Option("--after", min=0, help="Only events above this sequence.")] = 0,
    as_json: Json = False,
    plain: Plain = False,
    log: Annotated[bool, typer.Option("--log/--no-log", help="Show the log too. [for commands]")] = None,  # type: ignore[assignment]
    code: Annotated[str, typer.Option("--exit-code", metavar="job|moai", help="'job' leaves with the command's own code.")] = "moai",
) -> None:
    """Follow a job, from its first event: nothing is lost and nothing is shown twice."""
    from moai._cli.start import own_code

    own = own_code(code)
    one = find_job(job, on)
    follow(one, as_json=as_json, plain=plain, after=after, log=has_own_log(one.info) if log is None else log, own_code=own)


@app.command()
def wait(
    job: JobName = "last",
    on: On = "",
    timeout: Annotated[str, typer.Option("--timeout", metavar="TIME", help="Give up after 90s, 15m, 2h (exit 124).")] = "",
    as_json: Json = False,
    code: Annotated[str, typer.Option("--exit-code", metavar="job|moai", help="'job' leaves with the command's own code.")] = "moai",
) -> None:
    """Wait until a job has ended; the exit code tells how."""
    from moai._cli.start import own_code

    own = own_code(code)
    limit_s = seconds(timeout, "--timeout") if timeout else None
    one = find_job(job, on)
    info = one.wait(limit_s, check=False)
    if as_json:
        print_json({"schema": "moai.job/1", **info.as_dict()})
    else:
        print(f"{info.id} {info.state}" + (f" {info.exit_code}" if info.exit_code is not None else ""))
    ended = exit_code(info, own)
    if ended:
        raise typer.Exit(ended)


@app.command()
def stop(job: JobName = "last", on: On = "", force: Force = False) -> None:
    """Let a recipe save a checkpoint and end after its current step."""
    one = find_job(job, on)
    one.stop(force)
    note(f"{one.id} was asked to save and end; moai remote attach {one.id}")


@app.command()
def checkpoint(job: JobName = "last", on: On = "", force: Force = False) -> None:
    """Let a recipe save a checkpoint after its current step."""
    one = find_job(job, on)
    one.checkpoint(force)
    note(f"{one.id} was asked for a checkpoint")


@app.command()
def cancel(
    job: JobName,
    on: On = "",
    grace: Annotated[float, typer.Option("--grace", min=0.1, help="Seconds between SIGTERM and SIGKILL.")] = 10.0,
    force: Force = False,
    yes: Yes = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for its end.")] = False,
    as_json: Json = False,
) -> None:
    """End a job and every process of it, whatever they did to hide."""
    one = find_job(job, on)
    info = one.info
    if info.ended:
        note(f"{one.id} has ended already: {info.state}")
    else:
        ran = (datetime.now(timezone.utc) - info.start_time).total_seconds() if info.start_time else 0.0
        if ran > 3600 and info.kind == "train" and sys.stdin.isatty():
            confirm(f"{one.id} has trained for {duration(ran)}. End it now? (moai remote stop saves first)", yes, "--yes")
        # The others of a training over several containers would wait for a peer that never comes.
        others = one.members()
        for each in (one, *others):
            each.cancel(grace, force)
        if not no_wait:
            info = one.wait(grace + 60.0, check=False)
            for other in others:
                note(f"{other.host.name}/{other.id} {other.wait(grace + 60.0, check=False).state}")
    if as_json:
        print_json({"schema": "moai.job/1", **one.refresh().as_dict()})
    elif no_wait:
        note(f"{one.id} was asked to end")
    else:
        print(f"{one.id} {info.state}")


@app.command()
def delete(job: JobName, on: On = "", force: Force = False, yes: Yes = False) -> None:
    """Remove the record and log of an ended job; its results stay."""
    one = find_job(job, on)
    if one.info.ended:
        confirm(f"Delete record and log of {one.id} ({one.info.state}: {one.info.command})?", yes, f"moai remote delete {one.id} --yes")
    one.delete(force)
    note(f"{one.id} is deleted" + (f"; its results stay in {one.info.output}" if one.info.output else ""))

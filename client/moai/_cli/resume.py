"""``moai remote resume`` and ``again``: an ended job goes on, or is started once more."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer

import moai
from moai._cli.after import show_figures
from moai._cli.clean import clean
from moai._cli.common import Env, Force, JobName, Json, On, Plain, find_job, host, note, pairs, print_json
from moai._cli.envs import show_changes
from moai._cli.follow import exit_code, follow
from moai._cli.generate import show_answers
from moai._cli.preview import show_rows
from moai._cli.start import Detach, MaxDuration, Name, RequestId, Secret, Setenv, Webhook, announce, secret_value
from moai._cli.start import options as job_options
from moai._cli.together import Shown, show

app = typer.Typer(rich_markup_mode=None, add_completion=False)

Set = Annotated[list[str], typer.Option("--set", metavar="K=V", help="Change a setting of the recipe; repeatable.")]

#: Last step of a job whose result is on the screen only -> what shows it.
_SHOWN = {"generate": show_answers, "evaluate": show_figures, "preview": show_rows, "resolve": show_changes}


@app.command()
def resume(
    job: JobName = "last",
    on: On = "",
    from_: Annotated[str, typer.Option("--from", metavar="latest|STEP|DIR", help="Checkpoint to begin from. [latest]")] = "",
    set_: Set = [],  # noqa: B006 - typer reads the default
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change and where it begins; start nothing.")] = False,
    detach: Detach = False,
    as_json: Json = False,
    plain: Plain = False,
    request_id: RequestId = "",
    force: Force = False,
    setenv: Setenv = [],  # noqa: B006
    secret: Secret = [],  # noqa: B006
    webhook: Webhook = "",
) -> None:
    """Go on with an ended job: a new job, linked to it, from its newest checkpoint. A command starts again.

    Settings that a checkpoint depends on (rows a step, seed, LoRA's shape) are refused by name.
    """
    one = find_job(job, on)
    changes = _settings(set_)
    if not {"gradient_accumulation", "batch_size"} & set(changes):
        changes.update(_offer(one, dry_run))
    plan = one.plan_resume(changes, from_, force)
    if dry_run and as_json:
        print_json({"schema": "moai.resume-plan/1", "host": one.host.name, "job": one.id, **plan.as_dict()})
        return
    _show(one, plan, bool(changes) or dry_run)
    if dry_run:
        note("nothing was started")
        return
    options = moai.JobOptions(
        request_id=request_id, variables=pairs(setenv, "--setenv"), secrets=_secrets(one, secret), webhook=webhook
    )
    new, *others = one.resume_all(changes, options, force, from_)
    if others:
        show([new, *others], Shown(detach, as_json, plain))
        return
    if not announce(new, detach, as_json):
        follow(new, as_json=as_json, plain=plain, log=not new.info.output)


@app.command()
def again(
    job: JobName = "last",
    on: Annotated[str, typer.Option("--on", metavar="HOST", help="Another container: code and files of the laptop are sent there.")] = "",
    set_: Set = [],  # noqa: B006
    detach: Detach = False,
    as_json: Json = False,
    plain: Plain = False,
    env: Env = "",
    setenv: Setenv = [],  # noqa: B006
    secret: Secret = [],  # noqa: B006
    name: Name = "",
    max_duration: MaxDuration = "",
    request_id: RequestId = "",
    webhook: Webhook = "",
) -> None:
    """Start the same job once more, whatever its kind: same request, code and environment; new id, new result folder."""
    one = find_job(job)
    target = host(on) if on and moai.config().pick(on)[0].name != one.host.name else None
    options = job_options(
        name=name, env=env, setenv=setenv, max_duration=max_duration, request_id=request_id, webhook=webhook, with_project=False
    )
    options.secrets = _secrets(one, secret)
    new, *others = one.again_all(_settings(set_), options, target)
    if others:
        show([new, *others], Shown(detach, as_json, plain))
        return
    if announce(new, detach, as_json):
        return
    shows = None if as_json else _SHOWN.get(new.info.steps[-1].name if new.info.steps else "")
    try:
        follow(new, as_json=as_json, plain=plain, log=not (new.info.output or shows))
    finally:
        if shows and exit_code(new.info) == 0 and new.info.state == "SUCCEEDED":
            shows(new, plain)


def _settings(set_: list[str]) -> dict[str, Any]:
    found = {}
    for name, text in pairs(set_, "--set").items():
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _secrets(one: moai.Job, given: list[str]) -> dict[str, str]:
    """Values of the secrets named here and of those the job had; nothing keeps them, so they are asked for again.

    Of the recipe's own steps the missing ones are left out: what they fetched is mostly there already.
    """
    spec, plan = one.spec_and_plan()
    found = {name: secret_value(name) for name in given}
    has_command = any(not step.get("module") for step in plan.get("steps", []))
    for name in spec.get("secrets") or []:
        if name in found or name in (spec.get("variables") or {}):
            continue
        # HF_TOKEN also lies in a file; GIT_TOKEN is needed only where the commit is not there yet.
        if (has_command and name not in ("HF_TOKEN", "GIT_TOKEN")) or os.environ.get(name):
            found[name] = secret_value(name)
    return found


def _show(one: moai.Job, plan: moai.ResumePlan, with_fixed: bool) -> None:
    note(f"{one.id}: {plan.text}")
    for change in plan.changes:
        old = "unset" if change.old is None else json.dumps(change.old)
        note(f"  {change.name:<22} {old} -> {json.dumps(change.new)}")
    if with_fixed and plan.fixed:
        note(f"  stays as it is: {', '.join(plan.fixed)}")


def _offer(one: moai.Job, dry_run: bool) -> dict[str, Any]:
    """After the device ran out of memory: smaller passes, on a terminal by asking, else as the command to type."""
    smaller = one.smaller_passes()
    if not smaller:
        return {}
    parts = smaller["gradient_accumulation"]
    if dry_run or not (sys.stdin.isatty() and sys.stderr.isatty()):
        note(f"{one.id} ran out of device memory. With smaller passes, and the same rows a step in the same order:")
        note(f"  moai remote resume {one.id} --set gradient_accumulation={parts}")
        return {}
    question = f"{one.id} ran out of device memory. Make {parts} smaller passes a step? Rows a step and their order stay the same."
    return smaller if typer.confirm(clean(question), default=True, err=True) else {}

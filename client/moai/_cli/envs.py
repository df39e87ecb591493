"""``moai remote env``: the Python environments of a container, listed, shown, made and installed into."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import moai
from moai._cli.clean import clean
from moai._cli.common import Env, Json, On, Plain, host, hosts, note, on_each, print_json, several, worst
from moai._cli.follow import exit_code, follow
from moai._cli.spread import submit_each
from moai._cli.start import Detach, MaxDuration, Name, RequestId, Secret, Setenv, Setup, Workdir, announce, options
from moai._cli.table import print_table

app = typer.Typer(rich_markup_mode=None, add_completion=False)
env = typer.Typer(name="env", help="Python environments there.", no_args_is_help=True, rich_markup_mode=None, add_completion=False)
app.add_typer(env)
_PACKAGES = ("transformers", "datasets", "peft", "accelerate")


@app.callback()
def _only_a_group() -> None:
    """Keeps this a group."""


@env.callback()
def _env() -> None:
    """Python environments there."""


@env.command("list")
def list_(on: On = "", as_json: Json = False, plain: Plain = False) -> None:
    """Environments with Python, torch, the Moreh part and the training libraries."""
    answers = on_each(hosts(on), lambda target: target.environments())
    codes = [a.exit_code for _, a in answers if isinstance(a, moai.MoaiError)]
    if as_json:
        print_json({"schema": "moai.environments/1", "hosts": [_entry(t, a) for t, a in answers]})
    elif len(answers) == 1 and codes:
        raise next(a for _, a in answers if isinstance(a, moai.MoaiError))
    else:
        rows = []
        for target, answer in answers:
            if isinstance(answer, moai.MoaiError):
                rows.append([target.name, f"error: {answer.message}", *["-"] * 7])
                continue
            for e in answer:
                versions = [e.packages.get(p, "-") for p in _PACKAGES]
                rows.append([target.name, e.name, e.kind, e.python_version or "?", e.torch_version or "-", *versions])
        header = ["HOST", "NAME", "KIND", "PYTHON", "TORCH", *[p.upper() for p in _PACKAGES]]
        print_table(header, rows, grow=1, plain=plain)
    if codes:
        raise typer.Exit(worst(codes))


def _entry(target: Any, answer: Any) -> dict[str, Any]:
    if isinstance(answer, moai.MoaiError):
        error = {"reason": answer.reason, "message": answer.message, "next": answer.next}
        return {"host": target.name, "environments": [], "error": error}
    return {"host": target.name, "environments": [_facts(e) for e in answer], "error": None}


def _facts(e: moai.Environment) -> dict[str, Any]:
    return {
        "name": e.name,
        "kind": e.kind,
        "prefix": e.prefix,
        "python": e.python,
        "python_version": e.python_version or None,
        "torch_version": e.torch_version or None,
        "moreh_version": e.moreh_version or None,
        "packages": e.packages,
    }


@env.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="[ENV]", help="Name, folder or interpreter; default: the one jobs run in.")] = "",
    on: On = "",
    as_json: Json = False,
) -> None:
    """One environment in full, and why it is or is not the one jobs run in."""
    target = host(on)
    one = target.environment(name)
    if as_json:
        document = {"schema": "moai.environment/1", "host": target.name, **_facts(one)}
        print_json({**document, "shadowed": list(one.shadowed), "is_default": bool(one.is_default), "reason": one.reason})
        return
    rows = [
        ("name", one.name),
        ("kind", one.kind),
        ("where", one.prefix),
        ("python", f"{one.python_version or '?'} ({one.python})"),
        ("torch", one.torch_version or "not installed"),
        ("moreh", one.moreh_version or "no Moreh build"),
        *[(package, one.packages.get(package, "not installed")) for package in _PACKAGES],
    ]
    if one.shadowed:
        rows.append(("shadowed", f"{', '.join(one.shadowed)} by ~/.local"))
    rows.append(("chosen", ("yes: " if one.is_default else "no: ") + one.reason))
    for key, value in rows:
        print(f"{key:<13} {clean(value)}")


@env.command("install")
def install(
    requirement: Annotated[list[str], typer.Argument(metavar="[REQ]...", help="As pip takes them: 'peft==0.6.1'.")] = [],  # noqa: B006
    file: Annotated[list[str], typer.Option("-r", "--requirement", metavar="FILE", help="Path there, or laptop:FILE; repeatable.")] = [],  # noqa: B006
    on: On = "",
    env: Env = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would change; change nothing.")] = False,
    setenv: Setenv = [],  # noqa: B006
    secret: Secret = [],  # noqa: B006
    workdir: Workdir = "",
    setup: Setup = "",
    detach: Detach = False,
    as_json: Json = False,
    plain: Plain = False,
    name: Name = "",
    max_duration: MaxDuration = "",
    request_id: RequestId = "",
) -> None:
    """Install packages into an environment. What changes is resolved and told first; a Moreh torch always stays."""
    if not requirement and not file:
        raise moai.UsageError("USAGE", "nothing to install was given", "moai remote env install NAME... or -r FILE")
    given = _options(
        name=name, env=env, setenv=setenv, secret=secret, workdir=workdir, max_duration=max_duration,
        request_id=request_id, setup=setup,
    )  # fmt: skip
    if several(on) and not dry_run:
        submit_each(on, lambda there, own: there.install(requirement, own, files=file), given, detach, as_json, plain)
        return
    target = host(on)
    job = target.install(requirement, given, files=file, dry_run=dry_run)
    if not dry_run:
        if not announce(job, detach, as_json):
            follow(job, as_json=as_json, plain=plain, log=False)
        return
    if as_json:
        job.wait()
        print_json(_plan_document(target, job, target.install_plan(job)))
        return
    info = job.wait(check=False)
    if exit_code(info):
        follow(job, as_json=False, plain=plain, log=False)
        return
    show_changes(job, plain)


def _options(**given: Any) -> moai.JobOptions:
    """Options of a job that changes an environment: no accelerator is claimed for that."""
    return options(**given, claims=False)


def _plan_document(target: Any, job: moai.Job, plan: moai.InstallPlan) -> dict[str, Any]:
    return {
        "schema": "moai.install-plan/1",
        "host": target.name,
        "job": job.id,
        "environment": plan.environment,
        "python": plan.python,
        "previewed": plan.previewed,
        "changes": [
            {"name": c.name, "action": c.action, "before": c.before or None, "after": c.after or None} for c in plan.changes
        ],
        "repairs": [{"file": r.file, "line": r.line, "was": r.was, "why": r.why, "used": r.used or None} for r in plan.repairs],
        "held": plan.held,
    }


def show_changes(job: moai.Job, plain: bool) -> None:
    """What an ended dry run of an installation would change."""
    plan = job.host.install_plan(job)
    for r in plan.repairs:
        instead = f"used instead: {r.used}" if r.used else "left out"
        note(f"{r.file} line {r.line}: {r.was.strip()!r} {r.why}; {instead}")
    rows = [[c.name, c.action, c.before or "-", c.after or "-"] for c in plan.changes]
    print_table(["NAME", "ACTION", "NOW", "THEN"], rows, grow=0, plain=plain)
    if not plan.previewed:
        note(f"the pip of {plan.environment} cannot tell what it would change (22.2 or newer can)")
    elif not rows:
        note(f"nothing would change in {plan.environment}")
    for package, version in plan.held.items():
        note(f"{package} {version} is a Moreh build and stays")
    note("nothing was changed")


@env.command("create")
def create(
    new: Annotated[str, typer.Argument(metavar="NAME", help="Of the new environment.")],
    python: Annotated[str, typer.Option("--python", metavar="VERSION", help="3.8, 3.10, ... [what fits]")] = "",
    moreh: Annotated[str, typer.Option("--moreh", metavar="VERSION", help="Moreh framework, or 'none'. [the container's]")] = "",
    torch: Annotated[str, typer.Option("--torch", metavar="VERSION", help="Version of torch. [what fits the framework]")] = "",
    source: Annotated[str, typer.Option("--from", metavar="FILE", help="requirements.txt, environment.yml or uv.lock: path there, or laptop:FILE.")] = "",
    on: On = "",
    setenv: Setenv = [],  # noqa: B006
    secret: Secret = [],  # noqa: B006
    workdir: Workdir = "",
    setup: Setup = "",
    detach: Detach = False,
    as_json: Json = False,
    plain: Plain = False,
    name: Name = "",
    max_duration: MaxDuration = "",
    request_id: RequestId = "",
) -> None:
    """Make a new environment: conda with a Moreh torch on MoAI, else conda, venv or uv. An existing one is never touched."""
    given = _options(
        name=name, setenv=setenv, secret=secret, workdir=workdir, max_duration=max_duration, request_id=request_id, setup=setup,
    )  # fmt: skip
    target = host(on)
    job = target.create_environment(new, given, python=python, moreh=moreh, torch=torch, source=source)
    if not announce(job, detach, as_json):
        follow(job, as_json=as_json, plain=plain, log=False)
        if not as_json:
            note(f"moai remote env show --on {target.name} {new}; --env {new} runs jobs in it")

"""``moai remote check``: everything a job needs, each with verdict, evidence and remedy; safe ones run."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from typing import Annotated, Any

import typer

import moai
from moai._cli.clean import clean
from moai._cli.common import Env, Json, On, Plain, Yes, has_colour, hosts, note, on_each, print_json, worst
from moai._cli.table import paint

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red"), "skipped": ("-", "dim")}
_SKEW_S = 5.0
_WIDTH = 14


@app.command()
def check(
    on: On = "",
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="Also this model: licence, and whether it fits the disk.")] = "",
    env: Env = "",
    deep: Annotated[bool, typer.Option("--deep", help="Also attach the accelerator for a moment (GPU time is billed).")] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Run the safe remedies, each after asking: nothing is installed or deleted.")] = False,
    yes: Yes = False,
    as_json: Json = False,
    plain: Plain = False,
) -> None:
    """Check SSH, agent, clock, login, disks, device, environment, torch, packages and Hub; name remedies."""
    answers = on_each(hosts(on), lambda target: _checks(target, model, env, deep))
    documents = []
    codes = []
    for target, answer in answers:
        fixes: list[dict[str, Any]] = []
        if fix and not isinstance(answer, moai.MoaiError):
            fixes = _fix(target, answer, env, yes)
            if any(one["done"] for one in fixes):
                [(_, answer)] = on_each([target], lambda again: _checks(again, model, env, deep))
        checks = _unreachable(target, answer) if isinstance(answer, moai.MoaiError) else answer
        if isinstance(answer, moai.MoaiError):
            codes.append(answer.exit_code)
        elif any(c.verdict == "failed" for c in checks):
            codes.append(1)
        documents.append({"host": target.name, "checks": [c.as_dict() for c in checks], "fixes": fixes})
        if not as_json:
            _show(target.name, checks, has_colour(plain), len(answers) > 1)
            if not fix and any(c.fix and c.verdict != "ok" for c in checks):
                note(f"moai remote check --on {target.name} --fix runs the safe remedies, each after asking")
    if as_json:
        print_json({"schema": "moai.check/1", "hosts": documents})
    if codes:
        raise typer.Exit(worst(codes))
    if not as_json:
        note("everything a job needs is there")


def _checks(target: Any, model: str, env: str, deep: bool) -> list[moai.Check]:
    target.info()  # Connects, which may take long; the clock is read over the link that is there then.
    before = datetime.now(timezone.utc)
    info = target.info()
    after = datetime.now(timezone.utc)
    found = []
    if target.config.is_local:
        found += [moai.Check(name, "skipped", "the laptop itself") for name in ("ssh", "host key")]
    else:
        found.append(moai.Check("ssh", "ok", f"{info.user}@{info.hostname} by {target.config.transport}"))
        found.append(moai.Check("host key", "ok", "it is the one that is known here"))
    found.append(_agent(target, info))
    middle = before + (after - before) / 2
    skew = (info.clock - middle).total_seconds() if info.clock else 0.0
    if abs(skew) > _SKEW_S:
        text = f"the container's clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}; times in listings are the container's"
        found.append(moai.Check("clock", "warning", text, f"moai remote run --on {target.name} -- date -u (its administrator sets it)"))
    else:
        found.append(moai.Check("clock", "ok", f"{abs(skew):.1f} s apart"))
    return [*found, *target.check(model=model, environment=env, deep=deep)]


def _agent(target: Any, info: moai.HostInfo) -> moai.Check:
    text = f"version {info.version} on Python {info.python_version} ({info.python})"
    if info.version != moai.__version__ and not target.config.is_local:
        return moai.Check("agent", "warning", f"{text}; here it is {moai.__version__}", f"moai remote up {target.name}")
    return moai.Check("agent", "ok", text)


def _unreachable(target: Any, error: moai.MoaiError) -> list[moai.Check]:
    name = "host key" if error.exit_code == 5 else "agent" if isinstance(error, moai.BootstrapError) else "ssh"
    return [moai.Check(name, "failed", error.message, error.next)]


# -- fixing ----------------------------------------------------------------------------------------


def _fix(target: Any, checks: list[moai.Check], env: str, yes: bool) -> list[dict[str, Any]]:
    """Run what is safe, each shown first and confirmed; what was done, in order."""
    done: list[dict[str, Any]] = []
    offered = [one for one in checks if one.fix]
    if not offered:
        note(f"{target.name}: nothing here has a safe remedy")
    elif not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        shown = "; ".join(_what(target.name, one) for one in offered)
        raise moai.UsageError("USAGE", f"to be confirmed: {shown}", f"moai remote check --on {target.name} --fix --yes")
    for one in offered:
        what = _what(target.name, one)
        note(f"{target.name}: {one.name}: {one.evidence}")
        if not yes and not typer.confirm(clean(f"{what}: do it?"), err=True):
            done.append({"check": one.name, "fix": one.fix, "done": False, "message": "not confirmed"})
            continue
        note(f"→ {what}")
        try:
            message, is_done = target.apply(one, env), True
        except moai.MoaiError as error:
            message, is_done = error.message, False
        note(f"{target.name}: {message}")
        done.append({"check": one.name, "fix": one.fix, "done": is_done, "message": message})
    return done


def _what(name: str, one: moai.Check) -> str:
    """The command a fix stands for."""
    if one.fix == "reset-device":
        return f"moai remote device reset --on {name}"
    if one.fix == "make-work-folder":
        return f"make the folder {one.argument} on {name}"
    return f"moai remote set {name} --env {one.argument}"


# -- showing ---------------------------------------------------------------------------------------


def _show(name: str, checks: list[moai.Check], colour: bool, titled: bool) -> None:
    if titled:
        print(name)
    for one in checks:
        mark, style = _MARKS.get(one.verdict, ("?", "dim"))
        print(f"{paint(mark, style, colour)} {clean(one.name):<{_WIDTH}} {clean(one.evidence)}")
        if one.remedy and one.verdict != "ok":
            print(f"  {'':<{_WIDTH}} {paint('→ ' + clean(one.remedy), 'dim', colour)}")

"""``moai remote check``: everything a job needs, each with verdict, evidence and remedy."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, Any

import typer

import moai
from moai._cli.clean import clean
from moai._cli.common import Env, Json, On, Plain, has_colour, hosts, note, on_each, print_json, worst
from moai._cli.table import paint

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red"), "skipped": ("-", "dim")}
_SKEW_S = 5.0


@app.command()
def check(
    on: On = "",
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="Also whether this model fits the disk.")] = "",
    env: Env = "",
    as_json: Json = False,
    plain: Plain = False,
) -> None:
    """Check SSH, agent, clock, device, environment, packages, disk, token and Hub; name remedies."""
    answers = on_each(hosts(on), lambda target: _checks(target, model, env))
    documents = []
    codes = []
    for target, answer in answers:
        checks = _unreachable(answer) if isinstance(answer, moai.MoaiError) else answer
        if isinstance(answer, moai.MoaiError):
            codes.append(answer.exit_code)
        elif any(c.verdict == "failed" for c in checks):
            codes.append(1)
        documents.append({"host": target.name, "checks": [vars(c) for c in checks]})
        if not as_json:
            _show(target.name, checks, has_colour(plain), len(answers) > 1)
    if as_json:
        print_json({"schema": "moai.check/1", "hosts": documents})
    if codes:
        raise typer.Exit(worst(codes))
    if not as_json:
        note("everything a job needs is there")


def _checks(target: Any, model: str, env: str) -> list[moai.Check]:
    before = datetime.now(timezone.utc)
    info = target.info()
    after = datetime.now(timezone.utc)
    found = []
    if target.config.is_local:
        found.append(moai.Check("ssh", "skipped", "the laptop itself"))
    else:
        found.append(moai.Check("ssh", "ok", f"{info.user}@{info.hostname} by {target.config.transport}, host key known"))
    found.append(moai.Check("agent", "ok", f"version {info.version} on Python {info.python_version} ({info.python})"))
    middle = before + (after - before) / 2
    skew = (info.clock - middle).total_seconds() if info.clock else 0.0
    if abs(skew) > _SKEW_S:
        text = f"the container's clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"
        found.append(moai.Check("clock", "warning", text, "times in listings are the container's"))
    else:
        found.append(moai.Check("clock", "ok", f"{abs(skew):.1f} s apart"))
    return [*found, *target.check(model=model, environment=env)]


def _unreachable(error: moai.MoaiError) -> list[moai.Check]:
    name = "host key" if error.exit_code == 5 else "agent" if isinstance(error, moai.BootstrapError) else "ssh"
    return [moai.Check(name, "failed", error.message, error.next)]


def _show(name: str, checks: list[moai.Check], colour: bool, titled: bool) -> None:
    if titled:
        print(name)
    for one in checks:
        mark, style = _MARKS.get(one.verdict, ("?", "dim"))
        print(f"{paint(mark, style, colour)} {one.name:<12} {clean(one.evidence)}")
        if one.remedy and one.verdict != "ok":
            print(f"  {'':<12} {paint('→ ' + clean(one.remedy), 'dim', colour)}")

"""``moai remote drill``: break link, agent and follower of one's own container, and see what survives."""

from __future__ import annotations

import typer

import moai
from moai._cli.clean import clean
from moai._cli.common import Json, On, Plain, Yes, confirm, has_colour, host, note, print_json
from moai._cli.table import paint

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_MARKS = {"back": ("✓", "green"), "lost": ("✗", "red"), "skipped": ("-", "dim")}
_NAMES = {"link": "link cut", "agent": "agent killed", "follower": "follower ended"}


@app.command()
def drill(on: On = "", yes: Yes = False, as_json: Json = False, plain: Plain = False) -> None:
    """Cut the link, kill the agent and restart the follower under a small job; say what survived.

    Other jobs go on; their followers reconnect. Exit code 0 only when nothing was lost.
    """
    target = host(on)
    active = target.info().active_jobs
    if active:
        confirm(f"The agent of {target.name} is killed while {active} job(s) run; they go on without it. Go ahead?", yes, "moai remote drill --yes")
    result = moai.drill(target)
    if as_json:
        print_json({"schema": "moai.drill/1", **result.as_dict()})
    else:
        _show(result, has_colour(plain))
    if not result.passed:
        raise typer.Exit(1)


def _show(result: moai.DrillResult, colour: bool) -> None:
    for one in result.faults:
        mark, style = _MARKS[one.verdict]
        took = "" if one.back_s is None else f"{one.back_s:.1f} s"
        print(f"{paint(mark, style, colour)} {_NAMES[one.name]:<15} {took:>7}  {clean(one.text)}")
    kept = "the same process throughout" if result.process_survived else "not the same process"
    print(f"survived: {kept}; {result.events} events ({result.metrics} metrics) and {result.log_bytes} bytes of log; exit code {result.exit_code}")
    for line in result.lost:
        print(f"{paint('lost:', 'red', colour)} {clean(line)}")
    if result.passed:
        note("nothing was lost and nothing came twice")
    else:
        note(f"the job's record is kept: moai remote show {result.job}; moai remote report {result.job}")

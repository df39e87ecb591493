"""``moai remote signal``: tell a running recipe something; it answers with an event."""

from __future__ import annotations

from typing import Annotated

import typer

import moai
from moai._cli.common import Force, JobName, On, find_job, note

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def signal(
    job: JobName,
    what: Annotated[str, typer.Argument(metavar="evaluate|checkpoint|stop|log-interval=N")],
    on: On = "",
    force: Force = False,
) -> None:
    """Tell a running recipe to evaluate, save, stop or report every N steps; done after its current step."""
    name, _, text = what.partition("=")
    if name not in moai.Job.SIGNALS or bool(text) != (name == "log-interval"):
        known = ", ".join(f"{one}=N" if one == "log-interval" else one for one in moai.Job.SIGNALS)
        raise moai.UsageError("USAGE", f"{what!r} is no signal", f"one of {known}")
    if text and not (text.isascii() and text.isdigit()):
        raise moai.UsageError("USAGE", f"{text!r} is no number of steps", "log-interval=10")
    one = find_job(job, on)
    one.signal(name, int(text) if text else None, force)
    note(f"{one.id} was told {what}; moai remote attach {one.id} shows its answer")

"""``moai remote``: the group of everything that happens on containers; alone, the digest."""

from __future__ import annotations

from typing import Annotated

import typer

from moai._cli.lazy import group
from moai._cli.main import REMOTE

app = typer.Typer(
    name="remote",
    cls=group(REMOTE, "remote"),
    invoke_without_command=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Containers, jobs, data: everything over SSH. Alone: what happened since you last looked.",
)


@app.callback(invoke_without_command=True)
def remote(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Containers, jobs, data: everything over SSH. Alone: what happened since you last looked."""
    if context.invoked_subcommand is None:
        from moai._cli.digest import digest

        digest(as_json)

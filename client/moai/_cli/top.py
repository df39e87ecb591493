"""``moai remote top``: all containers on one screen, live; ``--once`` prints one picture and ends."""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated, Any

import typer

import moai
from moai._cli import seen
from moai._cli.common import On, Plain, columns, find_job, has_colour, is_plain, on_each, worst
from moai._cli.table import paint
from moai._cli.top_model import Model
from moai._cli.top_poll import Poller
from moai._cli.top_rows import rows
from moai._cli.top_text import heading, layout, row, title

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def top(
    on: On = "",
    interval: Annotated[float, typer.Option("--interval", min=0.2, max=3600, metavar="S", help="Seconds between two looks at a container.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one picture and end.")] = False,
    plain: Plain = False,
) -> None:
    """Every container's devices and jobs on one screen, live; keys to attach, cancel, checkpoint and filter."""
    # The toolkit draws on standard error.
    if not once and (is_plain(plain) or not (sys.stdin.isatty() and sys.stderr.isatty())):
        why = "--plain was given" if plain else "TERM is dumb" if os.environ.get("TERM") == "dumb" else "there is none here"
        raise moai.UsageError("USAGE", f"top draws on a terminal, and {why}", "moai remote top --once, or moai remote jobs")
    # gRPC's core writes to standard error by itself, right over the picture.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    picked = moai.config().pick(on or ("all" if moai.config().hosts else ""))
    moai.prepare_links(picked)
    model = Model([one.name for one in picked])
    # Nobody can be asked while the screen is drawn: a host that needs somebody says so in its row.
    hosts = [moai.Host(one, None, lambda text, name=one.name: model.said(name, text)) for one in picked]  # type: ignore[misc]
    model.load(seen.load())
    poller = Poller(hosts, model, interval)
    if once:
        _once(hosts, model, poller, plain)
        return
    # Asking starts before the toolkit is imported: that takes as long as the first answer.
    poller.start()
    try:
        from moai._cli.top_view import TopApp

        screen = TopApp(model, {host.name: host for host in hosts})
        chosen = screen.run()
    finally:
        poller.close()
        seen.save(model.dump())
    if screen.return_code:
        raise typer.Exit(screen.return_code)
    if chosen:
        _attach(*chosen)


def _attach(host: str, job: str) -> None:
    from moai._cli.follow import follow, has_own_log

    one = find_job(f"{host}/{job}")
    follow(one, as_json=False, log=has_own_log(one.info))


def _once(hosts: list[Any], model: Model, poller: Poller, plain: bool) -> None:
    def look(host: Any) -> None:
        try:
            poller.look(host)
        except moai.MoaiError as error:
            model.failed(host.name, error, time.time())
            raise
        poller.look_devices(host)

    answers = on_each(hosts, look)
    seen.save(model.dump())
    now, colour = time.time(), has_colour(plain)
    shown = rows(model.hosts(), now)
    form = layout(columns(), shown)
    lines = [title(model.hosts(), form.columns, now, "", "host"), heading(form)]
    lines += [row(one, form, now, plain) for one in shown]
    for line in lines:
        print("".join(paint(text, style, colour) for text, style in line).rstrip())
    codes = [answer.exit_code for _, answer in answers if isinstance(answer, moai.MoaiError)]
    if codes:
        raise typer.Exit(worst(codes))

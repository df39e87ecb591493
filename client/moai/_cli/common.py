"""Options that several commands share, and what they all do: prompts, notes, hosts, exit codes."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import typer

import moai
from moai._cli import complete
from moai._cli.clean import clean

On = Annotated[str, typer.Option("--on", metavar="HOST", help="Host(s): NAME[,NAME], @group, all; or ssh alias, user@host.", envvar="MOAI_HOST", autocompletion=complete.host_names)]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output (docs/json.md).")]
Plain = Annotated[bool, typer.Option("--plain", help="No colours, no moving lines.")]
Env = Annotated[str, typer.Option("--env", metavar="ENV", help="Environment there: conda name, folder or interpreter.", envvar="MOAI_ENV", autocompletion=complete.environments)]
Force = Annotated[bool, typer.Option("--force", help="Also when the job belongs to somebody else.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="Id, its beginning, HOST/ID, name or 'last'.", autocompletion=complete.job_names)]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="On several hosts: when one refuses, cancel what the others started.")]
NoLink = Annotated[bool, typer.Option("--no-link", help="Do not use or leave a shared link.")]

T = TypeVar("T")

#: Of several hosts' exit codes the worst counts, in this order (docs/exit-codes.md).
SEVERITY = (5, 4, 6, 9, 3, 8, 7, 2, 1)


def prompts() -> Any:
    """Asks on the terminal when there is one to ask on."""
    return moai.TerminalPrompts() if sys.stdin.isatty() and sys.stderr.isatty() else None


def note(text: str) -> None:
    """Talk for people: standard error, one cleaned line."""
    # The end of the line in the same write: several hosts speak at once.
    print(clean(text) + "\n", end="", file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Progress of connecting and bootstrapping."""
    note(f"· {text}")


def host(name: str, link: bool = True) -> Any:
    """The one host named, or the default."""
    picked = moai.config().pick(name)
    if link:
        moai.prepare_links(picked)
    return moai.connect(name, prompts=prompts(), say=say, link=link)


def hosts(names: str) -> list[moai.Host]:
    """Hosts named; the default one when none is."""
    moai.prepare_links(moai.config().pick(names))
    return moai.hosts(names, prompts=prompts(), say=say)


def several(names: str) -> bool:
    """Whether ``--on`` names more than one host."""
    return len(moai.config().pick(names)) > 1


def fleet(names: str) -> moai.Fleet:
    """The hosts named, for the same call on each."""
    moai.prepare_links(moai.config().pick(names))
    return moai.Fleet(names, prompts=prompts(), say=say)


def find_job(text: str, on: str = "") -> Any:
    """A job wherever it runs."""
    return moai.job(text, on=on, prompts=prompts(), say=say)


def on_each(targets: Sequence[Any], ask: Callable[[Any], T]) -> list[tuple[Any, T | moai.MoaiError]]:
    """Ask all hosts at once; (host, answer or error) in their order. One dead host delays no other."""
    from concurrent.futures import ThreadPoolExecutor

    def one(target: Any) -> T | moai.MoaiError:
        try:
            return ask(target)
        except moai.MoaiError as error:
            return error

    if len(targets) == 1:
        return [(targets[0], one(targets[0]))]
    with ThreadPoolExecutor(min(32, max(1, len(targets)))) as pool:
        return list(zip(targets, pool.map(one, targets), strict=True))


def worst(codes: Sequence[int]) -> int:
    """The exit code of several hosts."""
    return next((code for code in SEVERITY if code in codes), max(codes, default=0))


def print_json(value: Any) -> None:
    """One document or line on standard output: UTF-8 in every locale, numbers that JSON has only (else null)."""
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "replace") + b"\n")
    sys.stdout.buffer.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value


def confirm(text: str, yes: bool, otherwise: str) -> None:
    """Ask on a terminal; without one, refuse and name the flag. Raises UsageError or Exit."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise moai.UsageError("USAGE", f"this needs a yes, and nobody can be asked here: {text}", otherwise)
    if not typer.confirm(clean(text), err=True):
        raise typer.Exit(1)


def pairs(values: Sequence[str], option: str) -> dict[str, str]:
    """``K=V`` options as a dictionary. Raises UsageError naming the one that is not."""
    found = {}
    for value in values:
        key, equals, rest = value.partition("=")
        if not equals or not key:
            raise moai.UsageError("USAGE", f"{option} takes NAME=VALUE, not {value!r}", f"{option} NAME=VALUE")
        found[key] = rest
    return found


def is_plain(plain: bool, stream: Any = None) -> bool:
    """Whether colours and moving lines are unwanted or impossible."""
    stream = stream or sys.stdout
    return plain or not stream.isatty() or os.environ.get("TERM") == "dumb"


def has_colour(plain: bool, stream: Any = None) -> bool:
    """Whether colours may be used (no-color.org)."""
    return not is_plain(plain, stream) and "NO_COLOR" not in os.environ


def columns(stream: Any = None) -> int:
    """Width to draw for; at least 60."""
    return max(60, shutil.get_terminal_size((100, 24)).columns)


def seconds(text: str, option: str) -> float:
    """A duration like ``90``, ``15m``, ``2h``, ``1d``. Raises UsageError."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    number, factor = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1.0)
    try:
        value = float(number) * factor
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e10:
        raise moai.UsageError("USAGE", f"{option} is {text!r}, not a duration", f"{option} 90s, 15m, 2h or 1d")
    return value

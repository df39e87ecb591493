"""``moai remote env list``: the Python environments of a container."""

from __future__ import annotations

from typing import Any

import typer

import moai
from moai._cli.common import Json, On, Plain, hosts, on_each, print_json, worst
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
    found = [
        {
            "name": e.name,
            "kind": e.kind,
            "prefix": e.prefix,
            "python": e.python,
            "python_version": e.python_version or None,
            "torch_version": e.torch_version or None,
            "moreh_version": e.moreh_version or None,
            "packages": e.packages,
        }
        for e in answer
    ]
    return {"host": target.name, "environments": found, "error": None}

"""Command groups whose commands are imported when they are named, so ``moai --help`` stays instant."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

import typer
from typer.core import TyperGroup


class Entry:
    """Where a command lives and what the overview says of it."""

    def __init__(self, module: str, help: str, panel: str = "", aliases: str = "", hidden: bool = False) -> None:
        self.module, self.help, self.panel = module, help, panel
        self.aliases, self.hidden = aliases.split(), hidden


def group(table: dict[str, Entry], nouns: str) -> type[TyperGroup]:
    """A group class over ``table``: name -> entry. ``nouns`` names the group in messages."""
    names = {alias: name for name, entry in table.items() for alias in [name, *entry.aliases]}

    class LazyGroup(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(table)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            name = names.get(cmd_name)
            return load(table[name].module, name) if name else None

        def shell_complete(self, ctx: Any, incomplete: str) -> Any:
            if incomplete.startswith("-"):
                return super().shell_complete(ctx, incomplete)
            item = _completion_item()
            shown = [(name, entry) for name, entry in table.items() if name.startswith(incomplete) and not entry.hidden]
            return [item(name, help=entry.help) for name, entry in shown]

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            if args and args[0] not in names and not args[0].startswith("-"):
                near = difflib.get_close_matches(args[0], names, n=1, cutoff=0.5)
                hint = f"Did you mean {near[0]!r}?" if near else f"See moai {nouns} --help."
                ctx.fail(f"There is no command {args[0]!r}. {hint}".replace("moai  ", "moai "))
            return super().resolve_command(ctx, args)

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            panels: dict[str, list[tuple[str, str]]] = {}
            for name, entry in table.items():
                if not entry.hidden:
                    shown = ", ".join([name, *entry.aliases])
                    panels.setdefault(entry.panel or "Commands", []).append((shown, entry.help))
            for title, rows in panels.items():
                with formatter.section(title):
                    formatter.write_dl(rows)

    return LazyGroup


def _completion_item() -> Any:
    """Click's class, from the copy that typer stands on: its own since 0.26, the real one before."""
    package = TyperGroup.__mro__[1].__module__.rpartition(".")[0]
    return importlib.import_module(package + ".shell_completion").CompletionItem


def load(module: str, name: str) -> Any:
    """The click command ``name`` of a module's ``app``."""
    command = typer.main.get_command(importlib.import_module(module).app)
    commands = getattr(command, "commands", None)
    return commands[name] if commands else command

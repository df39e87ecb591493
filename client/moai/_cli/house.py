"""``moai init, bundle, version``: what concerns the laptop alone."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

import moai
from moai._cli.common import Json, Yes, confirm, note, print_json
from moai._cli.table import size

app = typer.Typer(rich_markup_mode=None, add_completion=False)
bundle = typer.Typer(name="bundle", no_args_is_help=True, rich_markup_mode=None, add_completion=False)
app.add_typer(bundle)

_TOML = '''# What this project trains; flags and --set win over it. See docs/commands.md.
# host = "kt"              # default: moai remote use NAME
# environment = "pytorch"  # conda name, folder or interpreter on the container

[train]
model = "{model}"
dataset = "{dataset}"      # Hub id[:CONFIG], a path on the container, or laptop:PATH
method = "lora"            # or "full"
# max_steps = 100
# batch_size = 8
# block_size = 1024
# learning_rate = 1e-4
# template = "summarize"

[train.settings]           # further settings of the recipe, or TrainingArguments by name
# warmup_steps = 20
# "lora.r" = 16

[variables]                # environment of the job; not for secrets
# secrets = ["WANDB_API_KEY"]   # (at the top) names taken from your environment
'''


@app.command()
def init(
    model: Annotated[str, typer.Option(help="Hub id or folder there.")] = "meta-llama/Meta-Llama-3-8B",
    dataset: Annotated[str, typer.Option(help="Hub id, path, or laptop:PATH.")] = "abisee/cnn_dailymail:3.0.0",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented moai.toml into this folder."""
    path = Path("moai.toml")
    if path.exists() and not force:
        raise moai.UsageError("USAGE", f"{path.absolute()} is there already", "moai init --force replaces it")
    path.write_text(_TOML.format(model=model, dataset=dataset), encoding="utf-8")
    print(path)
    note("next: moai remote train --dry-run")


@app.command()
def version(as_json: Json = False) -> None:
    """Versions of moai and of what it stands on."""
    names = ("paramiko", "fabric", "grpcio", "protobuf", "typer")
    found = {name: metadata.version(name) for name in names}
    if as_json:
        print_json({"schema": "moai.version/1", "moai": moai.__version__, "python": platform.python_version(), **found})
        return
    print(f"moai {moai.__version__} on Python {platform.python_version()} ({sys.platform})")
    print(", ".join(f"{name} {value}" for name, value in found.items()))


@app.command()
def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="Whose script.")],
) -> None:
    """Print the completion script of a shell; moai --install-completion puts it in place.

    It completes commands, hosts, groups, jobs and environments from this laptop's settings and cache alone.
    """
    from typer._completion_shared import get_completion_script

    if shell not in ("bash", "zsh", "fish"):
        raise moai.UsageError("USAGE", f"there is no completion for {shell!r}", "moai completion bash, zsh or fish")
    print(get_completion_script(prog_name="moai", complete_var="_MOAI_COMPLETE", shell=shell))


@app.command()
def uninstall(
    yes: Yes = False,
    force: Annotated[bool, typer.Option("--force", help="End the jobs that run on this laptop itself.")] = False,
) -> None:
    """Take moai off this laptop: settings, host keys, cache, its own state; every link is ended.

    Containers keep their agents and jobs (moai remote remove NAME --purge takes moai off one).
    """
    found = moai.traces()
    for one in found:
        print(f"{one.what:<9} {one.path}  ({one.file_count} files, {size(one.size_bytes)})")
    if not found:
        note("nothing of moai is on this laptop")
        return
    names = ", ".join(host.name for host in moai.config().hosts.values() if not host.is_local)
    if names:
        note(f"these containers keep their agents and jobs: {names}; moai remote remove NAME --purge")
    confirm("Remove all of it? Results in the work folder stay.", yes, "moai uninstall --yes")
    moai.uninstall(force)
    note("moai's files are gone; the package itself: uv tool uninstall moai-remote, pipx or pip alike")


@bundle.callback()
def _bundle() -> None:
    """Carry the agent to a laptop without an index."""


@bundle.command()
def build(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="For example cp38-x86_64-glibc2.31.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File or folder.")] = Path(),
) -> None:
    """Make the agent's bundle for a Python and platform, here where an index can be reached."""
    print(moai.build_bundle(target, output))
    note("carry it over, then: moai bundle add FILE")


@bundle.command()
def add(path: Annotated[Path, typer.Argument(metavar="FILE")]) -> None:
    """Put a carried bundle into this laptop's cache, after checking every file in it."""
    digest = moai.add_bundle(path)
    note(f"bundle {digest[:16]} is in the cache")

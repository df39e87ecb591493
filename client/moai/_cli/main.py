"""Entry point: the table of commands, and every exception's exit code.

Runs in the laptop's process. One of the three places that catch everything: a defect becomes one line
and exit 1, its traceback with ``MOAI_DEBUG=1``.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import typer

from moai._cli.lazy import Entry, group

_C = "moai._cli."
_HOSTS, _DEV, _JOBS, _DATA, _HOUSE = "Hosts", "Environments and devices", "Jobs", "Data and models", "House"

REMOTE: dict[str, Entry] = {
    "add": Entry(_C + "hosts", "Add a container and look it over.", _HOSTS),
    "list": Entry(_C + "hosts", "Configured containers.", _HOSTS, "ls"),
    "set": Entry(_C + "hosts", "Change the settings of a container.", _HOSTS),
    "remove": Entry(_C + "hosts", "Forget a container.", _HOSTS),
    "use": Entry(_C + "hosts", "The container used when none is named.", _HOSTS),
    "check": Entry(_C + "check", "Check everything a job needs, with remedies.", _HOSTS, "doctor"),
    "trust": Entry(_C + "hosts", "Accept a container's host key.", _HOSTS),
    "up": Entry(_C + "hosts", "Bring the agent up, or to this version.", _HOSTS),
    "down": Entry(_C + "hosts", "End the agent; jobs go on.", _HOSTS),
    "disconnect": Entry(_C + "hosts", "End the link that commands share.", _HOSTS),
    "shell": Entry(_C + "hosts", "A login shell there, by your own ssh.", _HOSTS, "ssh"),
    "devices": Entry(_C + "devices", "Accelerators and what runs on them.", _DEV),
    "device": Entry(_C + "device", "Flavors; select, reset, add and remove devices.", _DEV),
    "env": Entry(_C + "envs", "Python environments there.", _DEV),
    "run": Entry(_C + "start", "Run a command as a job that nothing here can end.", _JOBS),
    "train": Entry(_C + "train", "Fine-tune with the recipe, or run a training script.", _JOBS),
    "jobs": Entry(_C + "jobs", "Jobs, newest first.", _JOBS, "ps status"),
    "show": Entry(_C + "jobs", "Everything about one job.", _JOBS, "info"),
    "logs": Entry(_C + "jobs", "The log of a job, byte for byte.", _JOBS),
    "attach": Entry(_C + "jobs", "Follow a job from its first event.", _JOBS),
    "wait": Entry(_C + "jobs", "Wait until a job has ended.", _JOBS),
    "stop": Entry(_C + "jobs", "Let a recipe save and end after its current step.", _JOBS),
    "checkpoint": Entry(_C + "jobs", "Let a recipe save a checkpoint now.", _JOBS),
    "signal": Entry(_C + "signals", "Tell a recipe: evaluate, save, stop, log interval.", _JOBS),
    "cancel": Entry(_C + "jobs", "End a job and every process of it.", _JOBS, "kill"),
    "resume": Entry(_C + "resume", "Go on with an ended training from its checkpoint.", _JOBS),
    "again": Entry(_C + "resume", "Start the same job once more, here or elsewhere.", _JOBS),
    "delete": Entry(_C + "jobs", "Remove the record of an ended job.", _JOBS, "rm"),
    "top": Entry(_C + "top", "Every container's devices and jobs on one live screen.", _JOBS),
    "report": Entry(_C + "report", "A job's post-mortem for support, secrets taken out.", _JOBS),
    "plot": Entry(_C + "plot", "Loss curves as a picture or in the terminal.", _JOBS),
    "tensorboard": Entry(_C + "tensorboard", "A job's event files, in TensorBoard here.", _JOBS),
    "download": Entry(_C + "data", "Fetch a model or dataset from the Hub, there.", _DATA),
    "prepare": Entry(_C + "data", "Tokenise a dataset for a model.", _DATA),
    "generate": Entry(_C + "generate", "Answer prompts with a trained model.", _DATA),
    "evaluate": Entry(_C + "after", "Loss, perplexity and ROUGE of a model.", _DATA, "eval"),
    "merge": Entry(_C + "after", "Put a LoRA adapter into its base model.", _DATA),
    "upload": Entry(_C + "after", "Send a result to the Hub.", _DATA),
    "plan": Entry(_C + "plan", "What training a model needs, with evidence.", _DATA),
    "push": Entry(_C + "files", "Copy files to a container.", _DATA),
    "pull": Entry(_C + "files", "Copy results or files to the laptop.", _DATA),
    "disk": Entry(_C + "disk", "What moai keeps there, by kind, job and age.", _HOUSE),
    "clean": Entry(_C + "disk", "Remove old jobs, code and bundles nothing needs.", _HOUSE),
    "drill": Entry(_C + "drill", "Break link, agent and follower; see what survives.", _HOUSE),
}

TOP: dict[str, Entry] = {
    "remote": Entry(_C + "remote", "Containers, jobs, data: everything over SSH.", "Commands"),
    "init": Entry(_C + "house", "Write a moai.toml for this folder.", "Commands"),
    "bundle": Entry(_C + "house", "Carry the agent to a laptop without an index.", "Commands"),
    "completion": Entry(_C + "house", "Print the completion script of a shell.", "Commands"),
    "uninstall": Entry(_C + "house", "Take moai off this laptop.", "Commands"),
    "version": Entry(_C + "house", "Versions of moai and what it stands on.", "Commands"),
}

# typer carries its own copy of click since 0.26 and stands on the real one before: asked for by name.
_ClickException = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="moai",
    cls=group(TOP, ""),
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=True,
    help="Train on containers you reach only by SSH; lose nothing when link, laptop or agent goes away.",
)


@app.callback()
def _root() -> None:
    """Train on containers you reach only by SSH; lose nothing when link, laptop or agent goes away."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code (docs/exit-codes.md)."""
    words = sys.argv[1:] if argv is None else argv
    command = typer.main.get_command(app)
    as_json = "--json" in words[: words.index("--")] if "--" in words else "--json" in words
    try:
        code = command.main(args=words, prog_name="moai", standalone_mode=False)
        sys.stdout.flush()
        return int(code) if isinstance(code, int) else 0
    except BrokenPipeError:
        # The pager or head that read us has ended: nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except Exception as error:  # An edge, see the module docstring.
        return _fail(error, as_json)


def _fail(error: Exception, as_json: bool) -> int:
    from moai import MoaiError

    if isinstance(error, typer.Abort):
        return 130
    if isinstance(error, typer.Exit):
        return int(error.exit_code)
    if isinstance(error, _ClickException):
        message, next_ = error.format_message(), ""  # type: ignore[attr-defined]
        context = getattr(error, "ctx", None)
        if context is not None:
            next_ = f"{context.command_path} --help"
        _say("USAGE", message, next_, as_json)
        return 2
    if isinstance(error, MoaiError):
        _say(error.reason, error.message, error.next, as_json, error.details)
        return error.exit_code
    if os.environ.get("MOAI_DEBUG"):
        raise error
    text = f"{type(error).__name__}: {error}"
    next_ = "repeat with MOAI_DEBUG=1 and report the traceback"
    if isinstance(error, ImportError) and _is_shadowed():
        next_ = "pip uninstall moai, then pip install --force-reinstall moai-remote: another package installs a moai too"
    _say("INTERNAL", f"a defect in moai: {text}", next_, as_json)
    return 1


def _is_shadowed() -> bool:
    """Whether the unrelated package ``moai`` is installed here and may have replaced files of ours."""
    from importlib import metadata

    try:
        metadata.distribution("moai")
    except metadata.PackageNotFoundError:
        return False
    return True


def _say(reason: str, message: str, next_: str, as_json: bool, details: Any = None) -> None:
    from moai._cli.clean import clean
    from moai._cli.language import reason_sentence, say

    if as_json:
        print(json.dumps({"reason": reason, "message": message, "next": next_}), flush=True)
    sentence = reason_sentence(reason)
    lines = [f"{say('error')}: {sentence or clean(message)} [{reason}]"]
    if sentence:
        lines.append(f"  {clean(message)}")
    table = (details or {}).get("environments")
    if table:
        lines += ["  " + clean(row) for row in table.split("; ")]
    if next_:
        lines.append(f"  {say('next')}: {clean(next_)}")
    print("\n".join(lines), file=sys.stderr, flush=True)

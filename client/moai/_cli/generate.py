"""``moai remote generate``: what a model answers, beside its base model if asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import moai
from moai._cli.clean import clean
from moai._cli.common import Env, FailFast, Json, On, Plain, find_job, has_colour, host, note, print_json, several
from moai._cli.follow import exit_code, follow
from moai._cli.spread import submit_each
from moai._cli.start import Detach, Setenv, Setup, announce, options
from moai._cli.table import paint

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def generate(
    model: Annotated[str, typer.Argument(metavar="JOB|DIR|MODEL", help="A training job, a folder there, or a Hub id.")],
    prompt: Annotated[list[str], typer.Option("--prompt", help="A prompt; repeatable.")] = [],  # noqa: B006
    file: Annotated[str, typer.Option("--file", metavar="FILE", help="JSON lines: path here, or container:PATH.")] = "",
    on: On = "",
    template: Annotated[str, typer.Option("--template", help="Shape of prompts; 'none' for as they are.")] = "",
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer. [64]")] = 64,
    compare: Annotated[bool, typer.Option("--compare", help="Also what the base model says.")] = False,
    env: Env = "",
    setenv: Setenv = [],  # noqa: B006
    setup: Setup = "",
    detach: Detach = False,
    as_json: Json = False,
    plain: Plain = False,
    fail_fast: FailFast = False,
) -> None:
    """Answer prompts with a trained model, in the shape a training job had its rows, unless another is named."""
    prompt_file = _prompt_file(file)

    def start(there: moai.Host, mine: moai.JobOptions, what: str = model) -> moai.Job:
        return there.generate(
            what, prompt, mine, prompt_file=prompt_file, template=template, max_new_tokens=max_new_tokens, compare=compare
        )

    given = options(env=env, setenv=setenv, setup=setup)
    if several(on):
        refuse_job(model, on)

        def tell(job: moai.Job) -> None:
            if as_json:
                answers = job.host.generated(job)
                print_json({"schema": "moai.generated/1", "host": job.host.name, "job": job.id, "answers": answers})
                return
            print(f"{job.host.name}:")
            show_answers(job, plain)

        submit_each(on, start, given, detach, as_json, plain, fail_fast, tell)
        return
    target, wanted = where(model, on)
    job = start(target, given, wanted)
    if detach:
        announce(job, True, as_json)
        return
    if as_json:
        info = job.wait(check=False)
        if info.state != "SUCCEEDED":
            job.wait(check=True)  # Raises how it ended.
        print_json({"schema": "moai.generated/1", "host": target.name, "job": job.id, "answers": target.generated(job)})
        return
    try:
        follow(job, as_json=False, plain=plain, log=False)
    finally:
        if exit_code(job.info) == 0 and job.info.state == "SUCCEEDED":
            show_answers(job, plain)


def where(model: str, on: str) -> tuple[Any, str]:
    """Host, and what to name there."""
    if _names_job(model):
        job = find_job(model, on)
        return job.host, job.id
    return host(on), model


def refuse_job(model: str, on: str) -> None:
    """Raise UsageError where a job is named for several hosts."""
    if _names_job(model):
        raise moai.UsageError(
            "USAGE", f"{model} is a job, which lives on one host, and --on {on} names several", "name a folder there or a Hub id, or leave --on out"
        )


def _names_job(model: str) -> bool:
    # A word with a blank, a "/" in front, or ORG/NAME that is no HOST/JOB is a path or a Hub id.
    looks_like_job = not model.startswith(("/", "~", ".")) and " " not in model
    return looks_like_job and ("/" not in model or model.partition("/")[0] in moai.config().hosts)


def _prompt_file(text: str) -> str:
    if not text:
        return ""
    if text.startswith("container:"):
        return text[len("container:") :]
    path = text.removeprefix("laptop:")
    if not Path(path).expanduser().is_file():
        raise moai.UsageError("FILE_NOT_HERE", f"{path} does not exist on the laptop", "container:PATH names a file there")
    return "laptop:" + path


def show_answers(job: moai.Job, plain: bool) -> None:
    """The answers of an ended ``generate`` job, each under its prompt."""
    answers, colour = job.host.generated(job), has_colour(plain)
    for number, one in enumerate(answers, 1):
        prompt = " ".join(str(one["prompt"]).split())
        shown = prompt if len(prompt) <= 240 else prompt[:120] + " … " + prompt[-120:]
        print(paint(f"[{number}/{len(answers)}] {clean(shown)}", "dim", colour))
        if one.get("base_text") is not None:
            print(f"  before  {clean(str(one['base_text']).strip(), newlines=False)}")
        print(f"  answer  {clean(str(one['text']).strip(), newlines=False)}")
    if not answers:
        note("no answer was written")

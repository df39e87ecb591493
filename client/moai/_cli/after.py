"""What follows a training: ``evaluate``, ``merge`` and ``upload``."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

import moai
from moai._cli.clean import clean
from moai._cli.common import Env, FailFast, Json, On, Plain, note, print_json, several
from moai._cli.follow import exit_code, follow
from moai._cli.generate import refuse_job, where
from moai._cli.spread import submit_each
from moai._cli.start import Detach, Name, RequestId, Setenv, Setup, announce, options
from moai._cli.table import duration, print_table

app = typer.Typer(rich_markup_mode=None, add_completion=False)

Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that the model brings along.")]


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="JOB|DIR|MODEL", help="A training job, a folder there, or a Hub id.")],
    dataset: Annotated[str, typer.Option("--dataset", metavar="DATA", help="As train takes it, or a prepared folder. [the job's]")] = "",
    split: Annotated[str, typer.Option("--split", metavar="SPLIT", help="train, validation or test. [validation, else test]")] = "",
    rows: Annotated[int, typer.Option("--rows", min=1, help="At most so many rows. [all]")] = None,  # type: ignore[assignment]
    rouge: Annotated[bool, typer.Option("--rouge", help="Also generate answers and compare them with the references.")] = False,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer. [64]")] = 64,
    compare: Annotated[bool, typer.Option("--compare", help="Also the base model.")] = False,
    template: Annotated[str, typer.Option("--template", help="How a row becomes text. [the job's]")] = "",
    block_size: Annotated[int, typer.Option("--block-size", min=2, help="Tokens a row. [the job's]")] = None,  # type: ignore[assignment]
    dataset_revision: Annotated[str, typer.Option("--dataset-revision", metavar="REV", help="Branch, tag or commit. [main]")] = "",
    trust_remote_code: Trust = False,
    on: On = "",
    env: Env = "",
    setenv: Setenv = [],  # noqa: B006
    setup: Setup = "",
    detach: Detach = False,
    as_json: Json = False,
    plain: Plain = False,
    fail_fast: FailFast = False,
) -> None:
    """Loss, perplexity and ROUGE of a model, beside its base model if asked."""
    if split not in ("", "train", "validation", "test"):
        raise moai.UsageError("USAGE", f"--split is train, validation or test, not {split!r}", "--split validation")

    def start(there: moai.Host, mine: moai.JobOptions, what: str = model) -> moai.Job:
        return there.evaluate(
            what, dataset, mine, split=split, rows=rows or 0, rouge=rouge, max_new_tokens=max_new_tokens, compare=compare,
            template=template, block_size=block_size or 0, dataset_revision=dataset_revision, trust_remote_code=trust_remote_code,
        )  # fmt: skip

    given = options(env=env, setenv=setenv, setup=setup)
    if several(on):
        refuse_job(model, on)

        def tell(job: moai.Job) -> None:
            if as_json:
                print_json(document(job.host.name, job.id, job.host.evaluated(job)))
                return
            print(f"{job.host.name}:")
            show_figures(job, plain)

        submit_each(on, start, given, detach, as_json, plain, fail_fast, tell)
        return
    target, wanted = where(model, on)
    job = start(target, given, wanted)
    if detach:
        announce(job, True, as_json)
        return
    if as_json:
        job.wait(check=True)
        print_json(document(target.name, job.id, target.evaluated(job)))
        return
    try:
        follow(job, as_json=False, plain=plain, log=False)
    finally:
        if exit_code(job.info) == 0 and job.info.state == "SUCCEEDED":
            show_figures(job, plain)


def document(host_name: str, job: str, found: dict[str, Any]) -> dict[str, Any]:
    """``moai.evaluation/1``."""
    figures = {"model": found["figures"], "base": found["base_figures"]}
    return {
        "schema": "moai.evaluation/1",
        "host": host_name,
        "job": job,
        "model": found["model"],
        "base": found["base"],
        "dataset": found["dataset"],
        "split": found["split"],
        "rows": found["rows"],
        "tokens": found["tokens"],
        **{name: _figures(one) for name, one in (("figures", figures["model"]), ("base_figures", figures["base"]))},
    }


def _figures(one: dict[str, Any] | None) -> dict[str, Any] | None:
    if one is None:
        return None
    scores = one["rouge"]
    shown = {name: scores[name] for name in ("rows", "rouge1", "rouge2", "rougeL")} if scores else None
    return {"loss": one["loss"], "perplexity": one["perplexity"], "seconds": one["seconds"], "rouge": shown}


def show_figures(job: moai.Job, plain: bool) -> None:
    """What an ended ``evaluate`` job measured: a row a model."""
    found = job.host.evaluated(job)
    header = ["MODEL", "LOSS", "PERPLEXITY", "TIME"]
    rouge = found["figures"]["rouge"] is not None
    header[3:3] = ["ROUGE-1", "ROUGE-2", "ROUGE-L"] if rouge else []
    rows = [_row(found["model"], found["figures"], rouge)]
    if found["base_figures"] is not None:
        rows.append(_row(found["base"], found["base_figures"], rouge))
    print_table(header, rows, grow=0, plain=plain)
    scored = f"; ROUGE over {found['figures']['rouge']['rows']} rows" if rouge else ""
    note(f"{found['rows']:,} rows of {found['split']}, {found['tokens']:,} tokens of {clean(found['dataset'])}{scored}")


def _row(name: str, one: dict[str, Any], rouge: bool) -> list[str]:
    perplexity = one["perplexity"]
    cells = [name, f"{one['loss']:.4f}", f"{perplexity:,.2f}" if perplexity is not None and math.isfinite(perplexity) else "-"]
    if rouge:
        cells += [f"{100 * one['rouge'][key]:.2f}" for key in ("rouge1", "rouge2", "rougeL")]
    return [*cells, duration(one["seconds"])]


@app.command()
def merge(
    adapter: Annotated[str, typer.Argument(metavar="JOB|DIR", help="A LoRA training, or the folder of an adapter there.")],
    output: Annotated[str, typer.Option("--output", metavar="DIR", help="Result folder there. [merged, inside the adapter's]")] = "",
    base_model: Annotated[str, typer.Option("--base-model", metavar="DIR", help="Base model's folder. [the one the adapter names]")] = "",
    trust_remote_code: Trust = False,
    on: On = "",
    env: Env = "",
    name: Name = "",
    request_id: RequestId = "",
    detach: Detach = False,
    as_json: Json = False,
    plain: Plain = False,
    fail_fast: FailFast = False,
) -> None:
    """Put a LoRA adapter into its base model's weights: a model of its own, verified."""

    def start(there: moai.Host, mine: moai.JobOptions, what: str = adapter) -> moai.Job:
        return there.merge(what, mine, base_model=base_model, output=output, trust_remote_code=trust_remote_code)

    given = options(env=env, name=name, request_id=request_id, claims=False)
    if several(on):
        refuse_job(adapter, on)
        submit_each(on, start, given, detach, as_json, plain, fail_fast)
        return
    target, wanted = where(adapter, on)
    job = start(target, given, wanted)
    if not announce(job, detach, as_json):
        follow(job, as_json=as_json, plain=plain, log=False)


@app.command()
def upload(
    source: Annotated[str, typer.Argument(metavar="JOB|DIR", help="A job with a result, or a folder there.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="ORG/NAME on the Hub; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="A repository that is made is private.")] = False,
    revision: Annotated[str, typer.Option("--revision", metavar="BRANCH", help="Made if it is not there. [main]")] = "",
    message: Annotated[str, typer.Option("-m", "--message", help="Of the commit.")] = "",
    on: On = "",
    env: Env = "",
    setenv: Setenv = [],  # noqa: B006
    name: Name = "",
    request_id: RequestId = "",
    detach: Detach = False,
    as_json: Json = False,
    plain: Plain = False,
) -> None:
    """Send a result to the Hub; the right to write is checked first, and repeating it goes on."""
    target, wanted = where(source, on)
    job = target.upload(
        wanted, repo, options(env=env, setenv=setenv, name=name, request_id=request_id, claims=False), private=private,
        revision=revision, message=message,
    )  # fmt: skip
    if not announce(job, detach, as_json):
        follow(job, as_json=as_json, plain=plain, log=False)

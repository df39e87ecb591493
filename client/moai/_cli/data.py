"""``moai remote download`` and ``prepare``: models and datasets, fetched and made ready there."""

from __future__ import annotations

from typing import Annotated

import typer

import moai
from moai._cli.clean import clean
from moai._cli.common import Env, FailFast, Json, On, Plain, host, note, print_json, several
from moai._cli.follow import follow
from moai._cli.preview import show_preview
from moai._cli.spread import submit_each
from moai._cli.start import Detach, MaxDuration, Name, RequestId, Setenv, Setup, WaitForAccess, announce, options
from moai._cli.table import size

#: Files that --dry-run shows to people.
_SHOWN = 12
app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def download(
    repo: Annotated[str, typer.Argument(metavar="REPO", help="ORG/NAME on the Hub.")],
    on: On = "",
    is_dataset: Annotated[bool, typer.Option("--dataset", help="It is a dataset.")] = False,
    revision: Annotated[str, typer.Option("--revision", metavar="REV", help="Branch, tag or commit. [main]")] = "",
    output: Annotated[str, typer.Option("--output", metavar="DIR", help="A plain folder there instead of the cache.")] = "",
    streams: Annotated[int, typer.Option("--streams", min=1, max=32, help="Parallel connections. [4, up to 16 where faster]")] = None,  # type: ignore[assignment]
    wait_for_access: WaitForAccess = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched; fetch nothing.")] = False,
    setenv: Setenv = [],  # noqa: B006
    setup: Setup = "",
    max_duration: MaxDuration = "",
    detach: Detach = False,
    as_json: Json = False,
    plain: Plain = False,
    name: Name = "",
    request_id: RequestId = "",
    fail_fast: FailFast = False,
) -> None:
    """Fetch a model or dataset from the Hub on the container; interrupted, it goes on where it stopped."""
    kind = "dataset" if is_dataset else "model"
    wanted = options(
        name=name, setenv=setenv, request_id=request_id, setup=setup, max_duration=max_duration, claims=False,
        wait_for_access=wait_for_access,
    )  # fmt: skip

    def start(there: moai.Host, given: moai.JobOptions) -> moai.Job:
        return there.download(repo, given, type=kind, revision=revision, output=output, streams=streams or 0)

    if several(on) and not dry_run:
        submit_each(on, start, wanted, detach, as_json, plain, fail_fast)
        return
    target = host(on)
    if dry_run:
        _show_plan(target.name, repo, target.plan_download(repo, kind, revision, output=output), as_json)
        return
    job = start(target, wanted)
    if not announce(job, detach, as_json):
        follow(job, as_json=as_json, plain=plain, log=False)


def _show_plan(host_name: str, repo: str, plan: moai.DownloadPlan, as_json: bool) -> None:
    if as_json:
        document = dict(vars(plan), files=[vars(file) for file in plan.files])
        for key in ("token_source", "other_cache"):
            document[key] = document[key] or None
        print_json({"schema": "moai.download-plan/1", "host": host_name, "repo": repo, **document})
        return
    print(clean(f"{repo} at {plan.commit[:12]}: {plan.file_count} files, {size(plan.size_bytes)}"))
    for file in plan.files[:_SHOWN]:
        print(clean(f"  {size(file.size_bytes):>9}  {file.path}{'  (here already)' if file.here else ''}"))
    if plan.file_count > _SHOWN:
        print(f"  and {plan.file_count - _SHOWN} smaller files")
    for path, why in sorted(plan.left_out.items()):
        print(clean(f"  left out {path}: {why}"))
    if plan.other_cache:
        print(clean(f"  some of it lies in {plan.other_cache}, and is used from there"))
    fits = "" if plan.needed_bytes <= plan.free_bytes else ": not enough"
    print(clean(f"to fetch {size(plan.missing_bytes)}; needs {size(plan.needed_bytes)}, {size(plan.free_bytes)} free in {plan.folder}{fits}"))
    licence = f"gated, and this token may read it ({plan.page})" if plan.gated else "open to everybody"
    print(clean(f"licence: {licence}; token: {plan.token_source or 'none'}"))
    if fits:
        note("next: moai remote set NAME --work DIR takes another disk")


@app.command()
def prepare(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Hub id[:CONFIG], path there, or laptop:PATH.")],
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="Whose tokenizer: Hub id, or a folder there.")] = "",
    on: On = "",
    template: Annotated[str, typer.Option("--template", metavar="NAME|FILE|TEXT", help="How a row becomes text. [summarize]")] = "",
    block_size: Annotated[int, typer.Option("--block-size", min=2, help="Tokens a row. [1024]")] = 1024,
    output: Annotated[str, typer.Option("--output", metavar="DIR", help="Folder there; default: in the work folder.")] = "",
    file_name: Annotated[str, typer.Option("--file-name", metavar="NAME", help="Of the torch file. [llama3_dataset.pt]")] = "",
    sample: Annotated[int, typer.Option("--sample", min=0, help="Rows a split at most.")] = 0,
    revision: Annotated[str, typer.Option("--revision", metavar="REV", help="Of a Hub dataset. [main]")] = "",
    model_revision: Annotated[str, typer.Option("--model-revision", metavar="REV", help="Of a Hub model. [main]")] = "",
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Use only this split, as training data.")] = "",
    validation_fraction: Annotated[
        float, typer.Option("--validation-fraction", min=0.0, max=1.0, help="Held out when there is no validation split. [0.05]")
    ] = None,  # type: ignore[assignment]
    pack: Annotated[bool, typer.Option("--pack", help="Join rows and cut whole blocks, instead of padding each row.")] = False,
    mask_prompt: Annotated[bool, typer.Option("--mask-prompt", help="Also write labels: -100 on prompts, so only answers are learnt.")] = False,
    preview: Annotated[int, typer.Option("--preview", min=1, max=100, metavar="N", help="Show N rows as text and ids; write nothing.")] = None,  # type: ignore[assignment]
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=0, help="Threads or processes there. [half the cores]")] = 0,
    engine: Annotated[
        str, typer.Option("--engine", metavar="NAME", help="auto, gigatoken, fastokens or tokenizers; the ids are the same. [auto]")
    ] = "",
    env: Env = "",
    setenv: Setenv = [],  # noqa: B006
    setup: Setup = "",
    wait_for_access: WaitForAccess = False,
    max_duration: MaxDuration = "",
    detach: Detach = False,
    as_json: Json = False,
    plain: Plain = False,
    name: Name = "",
    request_id: RequestId = "",
    fail_fast: FailFast = False,
) -> None:
    """Tokenise a dataset for a model: Arrow files and one torch file that a trainer opens."""
    project = moai.load_project()
    model = model or (project.train.model if project else "") or ""
    if not model:
        raise moai.UsageError("USAGE", "no model was given, and its tokenizer is needed", "--model ORG/NAME or --model FOLDER")
    given = options(
        name=name, env=env, setenv=setenv, request_id=request_id, setup=setup, max_duration=max_duration, claims=False,
        wait_for_access=wait_for_access,
    )  # fmt: skip

    def start(there: moai.Host, own: moai.JobOptions) -> moai.Job:
        return there.prepare(
            dataset, model, own, template=template, block_size=block_size, sample=sample, output=output, file_name=file_name,
            revision=revision, model_revision=model_revision, split=split, validation_fraction=validation_fraction, pack=pack,
            mask_prompt=mask_prompt, jobs=jobs, engine=engine,
        )  # fmt: skip

    if several(on) and preview is None:
        submit_each(on, start, given, detach, as_json, plain, fail_fast)
        return
    target = host(on)
    if preview is not None:
        job = target.preview(
            dataset, model, given, rows=preview, model_revision=model_revision, template=template, block_size=block_size,
            sample=sample, revision=revision, split=split, validation_fraction=validation_fraction, pack=pack, mask_prompt=mask_prompt,
        )  # fmt: skip
        show_preview(target, job, detach, as_json, plain)
        return
    job = start(target, given)
    if not announce(job, detach, as_json):
        if job.info.output and not as_json:
            note(f"output {job.info.output}")
        follow(job, as_json=as_json, plain=plain, log=False)

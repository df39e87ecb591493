"""``moai remote train``: the recipe (download, prepare, train, verify) or a training script of one's own."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from typing import Annotated, Any

import typer

import moai
from moai._cli.clean import clean
from moai._cli.common import Env, FailFast, Json, NoLink, On, Plain, fleet, host, note, pairs, print_json, several
from moai._cli.follow import follow
from moai._cli.preflight import Borrowed, introduce, list_tutorials, look, offer_smoke, tell_disk
from moai._cli.save import Save, save
from moai._cli.settings import RECIPE, Value, merge, saved
from moai._cli.spread import submit_each
from moai._cli.start import (
    Accelerator,
    Any_,
    Detach,
    ExitCode,
    Expect,
    Git,
    MaxDuration,
    Name,
    OnCheckpoint,
    OnFinish,
    OnStop,
    RequestId,
    Retries,
    Secret,
    Setenv,
    Setup,
    StopOn,
    Submodules,
    Sync,
    WaitForAccess,
    Webhook,
    Workdir,
    announce,
    options,
    own_code,
)  # fmt: skip
from moai._cli.table import print_table
from moai._cli.together import Shown, together

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def train(
    command: Annotated[list[str], typer.Argument(metavar="[-- CMD ARG...]", help="Your own training script, unmodified.")] = [],  # noqa: B006
    on: On = "",
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="Hub id, or a folder there.")] = "",
    dataset: Annotated[str, typer.Option("--dataset", metavar="DATA", help="Hub id[:CONFIG], path there (a prepared folder too), or laptop:PATH.")] = "",
    method: Annotated[str, typer.Option("--method", metavar="full|lora", help="What is trained. [full]")] = "",
    max_steps: Annotated[int, typer.Option("--max-steps", min=1, help="Optimizer steps. [by epochs]")] = None,  # type: ignore[assignment]
    epochs: Annotated[float, typer.Option("--epochs", help="Passes over the data. [1]")] = None,  # type: ignore[assignment]
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows a step. [8]")] = None,  # type: ignore[assignment]
    block_size: Annotated[int, typer.Option("--block-size", min=2, help="Tokens a row. [1024]")] = None,  # type: ignore[assignment]
    lr: Annotated[float, typer.Option("--lr", help="Learning rate. [1e-5 full, 1e-4 lora]")] = None,  # type: ignore[assignment]
    template: Annotated[str, typer.Option("--template", metavar="NAME|FILE|TEXT", help="How a row becomes text. [summarize]")] = "",
    sample: Annotated[int, typer.Option("--sample", min=1, help="Rows a split at most.")] = None,  # type: ignore[assignment]
    output: Annotated[str, typer.Option("--output", metavar="DIR", help="Result folder there. [WORK/runs/NAME-JOB]")] = "",
    model_revision: Annotated[str, typer.Option("--model-revision", metavar="REV", help="Branch, tag or commit. [main]")] = "",
    dataset_revision: Annotated[str, typer.Option("--dataset-revision", metavar="REV", help="Branch, tag or commit. [main]")] = "",
    gpus: Annotated[str, typer.Option("--gpus", metavar="N|IDS|all", help="CUDA devices: 2, or 0,2. [every free one]")] = "",
    nodes: Annotated[int, typer.Option("--nodes", min=2, metavar="N", help="Train as one over the N hosts of --on, the first leading.")] = None,  # type: ignore[assignment]
    set_: Annotated[list[str], typer.Option("--set", metavar="K=V", help="A setting of the recipe or of TrainingArguments.")] = [],  # noqa: B006
    smoke: Annotated[bool, typer.Option("--smoke", help="50 rows, 3 steps, save, load, one generation.")] = False,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run code that the model brings along; recorded.")] = False,
    upload: Annotated[str, typer.Option("--upload", metavar="REPO", help="Send the result to ORG/NAME; write access is checked first.")] = "",
    private: Annotated[bool, typer.Option("--private", help="With --upload: a repository that is made is private.")] = False,
    tutorial: Annotated[str, typer.Option("--tutorial", metavar="NAME|list", help="Values of a tutorial, below moai.toml.")] = "",
    flavor: Annotated[str, typer.Option("--flavor", metavar="FLAVOR", help="Switch the accelerator to it before the start.")] = "",
    restore_flavor: Annotated[bool, typer.Option("--restore-flavor", help="Switch back when the followed job has ended.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show every value with its source and the plan; start nothing.")] = False,
    env: Env = "",
    setenv: Setenv = [],  # noqa: B006
    secret: Secret = [],  # noqa: B006
    workdir: Workdir = "",
    detach: Detach = False,
    as_json: Json = False,
    plain: Plain = False,
    name: Name = "",
    accelerator: Accelerator = "",
    max_duration: MaxDuration = "",
    expect: Expect = [],  # noqa: B006
    trust_exit_code: Annotated[bool, typer.Option("--trust-exit-code", help="A script's exit code alone decides.")] = False,
    log_pattern: Annotated[str, typer.Option("--log-pattern", metavar="REGEX", help="Own step lines: named groups step, total, loss, lr.")] = "",
    setup: Setup = "",
    wait_for_access: WaitForAccess = False,
    request_id: RequestId = "",
    exit_code: ExitCode = "moai",
    no_link: NoLink = False,
    sync: Sync = "",
    save_flags: Save = False,
    retries: Retries = None,  # type: ignore[assignment]
    stop_on: StopOn = "",
    on_finish: OnFinish = "",
    webhook: Webhook = "",
    on_checkpoint: OnCheckpoint = "",
    on_stop: OnStop = "",
    git: Git = "",
    submodules: Submodules = False,
    any_host: Any_ = False,
    fail_fast: FailFast = False,
) -> None:
    """Fine-tune a model on a container; the job needs nothing here once it has begun.

    Values come from flags, --set, MOAI_* variables, moai.toml, the host's settings, --tutorial, defaults: in that order.
    """
    own = own_code(exit_code)
    if tutorial == "list":
        list_tutorials(as_json)
        return
    if restore_flavor and detach:
        raise moai.UsageError("USAGE", "--restore-flavor waits for the job's end, and --detach does not", "leave one of them out")
    preset = moai.tutorial(tutorial) if tutorial else None
    flags: dict[str, Any] = {
        "model": model or None, "dataset": dataset or None, "method": method or None, "max_steps": max_steps,
        "epochs": epochs, "batch_size": batch_size, "block_size": block_size, "learning_rate": lr,
        "template": template or None, "sample": sample, "output": output or None,
        "model_revision": model_revision or None, "dataset_revision": dataset_revision or None, "gpus": gpus or None,
    }  # fmt: skip
    project = moai.load_project()
    given = options(
        name=name, env=env, setenv=setenv, secret=secret, workdir=workdir, accelerator=accelerator,
        max_duration=max_duration, request_id=request_id, setup=setup, sync=sync, has_command=bool(command),
        wait_for_access=wait_for_access,
        retries=retries, stop_on=stop_on, on_finish=on_finish, webhook=webhook,
        git=git, submodules=submodules, trains=True, on_checkpoint=on_checkpoint, on_stop=on_stop,
    )  # fmt: skip
    if save_flags:
        save(
            on=on, env=env, name=name, workdir=workdir, sync=sync, accelerator=accelerator, setup=setup, setenv=setenv,
            secret=secret, log_pattern=log_pattern, git=git, submodules=submodules, on_checkpoint=on_checkpoint,
            on_stop=on_stop, **({} if command else saved(flags, pairs(set_, "--set"))),
        )  # fmt: skip
        project = moai.load_project()
    target_name = on or (project.host if project else "") or ""
    many = several(target_name) and not nodes
    if many and not any_host and (dry_run or flavor or restore_flavor):
        raise moai.UsageError("USAGE", "--dry-run and --flavor are for one host, and several were named", "--any places it on one of them")
    if nodes and (command or dry_run or flavor or restore_flavor):
        raise moai.UsageError("USAGE", "--nodes is the recipe's, and goes with no command, --dry-run or --flavor", "leave those out")
    if command:
        _refuse_recipe_flags(flags, set_, smoke or bool(tutorial) or wait_for_access, trust_remote_code, upload)
        given.accelerator = given.accelerator or "default"
        pattern = log_pattern or (project.log.pattern if project else "") or ""

        def begin(there: moai.Host, mine: moai.JobOptions) -> moai.Job:
            return there.run(command, mine, kind="train", expected_paths=expect, trust_exit_code=trust_exit_code, log_pattern=pattern)

        if many and not any_host:
            submit_each(target_name, begin, given, detach, as_json, plain, fail_fast)
            return
        target = fleet(target_name).first_free() if many else host(target_name, link=not no_link)
        if dry_run:
            chosen = given.environment or target.config.environment
            if as_json:
                print_json({"schema": "moai.command-plan/1", "host": target.name, "arguments": command, "environment": chosen or None})
                return
            source = str(given.code) or (f"{given.git}@{given.git_revision}" if given.git_revision else given.git)
            print(f"on {target.name}, in {chosen or 'the environment chosen there'}, waiting for accelerator {given.accelerator}:")
            print("  " + clean(" ".join(command)) + (f"   in a copy of {clean(source)}" if source else ""))
            note("nothing was started")
            return
        with Borrowed(target, flavor, restore_flavor, given.environment) as borrowed:
            job = borrowed.job = begin(target, given)
            if not announce(job, detach, as_json):
                follow(job, as_json=as_json, plain=plain, own_code=own)
        return
    recipe, settings = merge(flags, pairs(set_, "--set"), project, preset)
    _require(recipe)
    if preset is not None:
        introduce(preset, recipe, given.environment)
    if nodes:
        together(target_name, nodes, recipe, settings, given, smoke, Shown(detach, as_json, plain))
        return
    arguments = {k: v.value for k, v in recipe.items()}
    wanted, data = arguments.pop("model"), arguments.pop("dataset")
    if trust_remote_code:
        settings["trust_remote_code"] = Value(True, "--trust-remote-code")
    if private and not upload:
        raise moai.UsageError("USAGE", "--private is of the repository that --upload makes", "--upload ORG/NAME --private")
    extra = {k: v.value for k, v in settings.items()}
    arguments.update(upload=upload or None, upload_private=private or None)

    def start(there: moai.Host, mine: moai.JobOptions) -> moai.Job:
        return there.train(wanted, data, mine, settings=extra, smoke=smoke, **arguments)

    if many and not any_host:
        submit_each(target_name, start, given, detach, as_json, plain, fail_fast)
        return
    target = _placed(target_name, wanted, flavor, extra, arguments) if many else host(target_name, link=not no_link)
    if dry_run:
        plan = target.plan_training(wanted, data, given, settings=extra, smoke=smoke, **arguments)
        _show_plan(target, recipe, settings, given, plan, as_json)
        if not as_json:
            tell_disk(target, wanted, arguments, extra, preset, given.environment)
            note("nothing was started")
        return
    agreed = look(target, wanted, arguments, extra, preset, given.environment, ask=not (flavor or as_json))
    with Borrowed(target, flavor or agreed.flavor, restore_flavor, given.environment) as borrowed:
        if not (smoke or detach or as_json) and offer_smoke(agreed):
            # A folder of its own: the training must not find the checkpoints of a trial.
            apart = {**arguments, "output": None}
            trial = borrowed.job = target.train(wanted, data, replace(given, request_id=""), settings=extra, smoke=True, **apart)
            announce(trial, False, False)
            follow(trial, as_json=False, plain=plain, log=False)  # Leaves with its exit code when it failed.
        job = borrowed.job = start(target, given)
        if not announce(job, detach, as_json):
            if job.info.output and not as_json:
                note(f"output {job.info.output}")
            follow(job, as_json=as_json, plain=plain, log=False, own_code=own)


def _placed(names: str, model: str, flavor: str, extra: dict[str, Any], arguments: dict[str, Any]) -> moai.Host:
    """The host of several that the training goes to, and why, said."""
    aside = ("template", "dataset_revision", "output", "gpus", "upload", "upload_private")
    known = {name: value for name, value in arguments.items() if name not in aside}
    target, why = fleet(names).place(model, flavor, extra, **known)
    note(f"placed on {target.name}: {why}")
    return target


def _refuse_recipe_flags(flags: dict[str, Any], sets: list[str], smoke: bool, trust: bool, upload: str) -> None:
    used = [name for name, value in flags.items() if value is not None]
    used += ["trust_remote_code"] if trust else []
    used += ["upload"] if upload else []
    if used or sets or smoke:
        shown = ", ".join("--" + {"learning_rate": "lr"}.get(u, u.replace("_", "-")) for u in used) or "--set, --smoke, --tutorial or --wait-for-access"
        raise moai.UsageError("USAGE", f"{shown} belongs to the recipe, and a command was given after --", "give it to the command, or leave the command out")


def _require(recipe: dict[str, Value]) -> None:
    missing = [name for name in ("model", "dataset") if name not in recipe]
    if missing:
        raise moai.UsageError(
            "USAGE", f"no {' and no '.join(missing)} was given", "--model ORG/NAME --dataset ORG/NAME, or a moai.toml (moai init)"
        )
    method = recipe.get("method")
    if method and method.value not in ("full", "lora"):
        raise moai.UsageError("USAGE", f"{method.source}: method {method.value!r} is neither full nor lora", "--method lora")
    for name in ("max_steps", "epochs", "batch_size", "block_size", "learning_rate", "sample"):
        if name in recipe and not 0 < recipe[name].value < math.inf:
            raise moai.UsageError("USAGE", f"{recipe[name].source}: {name} is {recipe[name].value}", "give a positive number")


def _show_plan(
    target: moai.Host, recipe: dict[str, Value], settings: dict[str, Value], given: moai.JobOptions, plan: moai.TrainingPlan, as_json: bool
) -> None:
    values = {name: recipe.get(name, Value(None, "default")) for name in RECIPE}
    host_env = target.config.environment
    env_source = "--env or moai.toml" if given.environment else f"host {target.name}" if host_env else plan.environment_reason
    if as_json:
        print_json(
            {
                "schema": "moai.plan/1",
                "host": target.name,
                "values": {n: {"value": v.value, "source": v.source} for n, v in {**values, **settings}.items()},
                "environment": {"value": plan.environment, "source": env_source},
                "output": plan.output,
                "steps": list(plan.steps),
            }
        )
        return
    rows = [[n, str(v.value if v.value is not None else RECIPE[n][1]), v.source] for n, v in values.items()]
    rows += [[n, json.dumps(v.value), v.source] for n, v in settings.items()]
    rows += [["environment", plan.environment, env_source], ["host", f"{target.name} ({target.config.address})", ""]]
    rows += [["output", plan.output, recipe["output"].source if "output" in recipe else "default"]]
    print_table(["VALUE", "IS", "FROM"], [r for r in rows if r[0] != "output" or r[1] == plan.output], grow=1)
    print()
    for number, step in enumerate(plan.steps, 1):
        print(f"{number}. {step['name']}: {_step_text(step)}")
    sys.stdout.flush()


def _step_text(step: dict[str, Any]) -> str:
    inputs = step.get("inputs") or {}
    shown = {k: v for k, v in inputs.items() if v not in (None, "", {}, []) and not isinstance(v, dict) and k not in ("control", "token_env", "python")}
    return ", ".join(f"{k}={v}" for k, v in shown.items())

"""``moai remote run``: a command as a job that neither link nor laptop can end."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import moai
from moai._cli.common import Env, FailFast, Json, NoLink, On, Plain, fleet, host, note, pairs, print_json, seconds, several
from moai._cli.follow import follow
from moai._cli.language import say
from moai._cli.save import Save, save
from moai._cli.spread import submit_each

app = typer.Typer(rich_markup_mode=None, add_completion=False)

Setenv = Annotated[list[str], typer.Option("-e", "--setenv", metavar="K=V", help="Variable of the job; repeatable.")]
Secret = Annotated[list[str], typer.Option("--secret", metavar="NAME", help="Variable from here, kept in memory there; repeatable.")]
Workdir = Annotated[str, typer.Option("--workdir", metavar="DIR", help="Working folder there; default: home.")]
Sync = Annotated[str, typer.Option("--sync", metavar="DIR", help="Run in a copy of this folder of the laptop; often '.'.")]
Git = Annotated[str, typer.Option("--git", metavar="URL[@REV]", help="Run in a clone of this repository, made there.")]
Submodules = Annotated[bool, typer.Option("--git-submodules", help="With --git: its submodules too.")]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Print the job's id and leave.")]
Name = Annotated[str, typer.Option("--name", help="A name for people; JOB arguments take it too.")]
MaxDuration = Annotated[str, typer.Option("--max-duration", metavar="TIME", help="End the job after 90s, 15m, 2h, 1d.")]
RequestId = Annotated[str, typer.Option("--request-id", metavar="ID", help="Repeating with the same id finds the first job.")]
Accelerator = Annotated[str, typer.Option("--accelerator", metavar="NAME", help="Wait in this accelerator's queue.")]
ExitCode = Annotated[str, typer.Option("--exit-code", metavar="job|moai", help="'job' leaves with the command's own code.")]
Retries = Annotated[int, typer.Option("--retries", metavar="N", min=0, max=100, help="Run a failed step again, N times at most.")]
StopOn = Annotated[str, typer.Option("--stop-on", metavar="nan,spike,...", help="End the job when a watcher sees nan, spike, stall, disk, memory.")]
OnFinish = Annotated[str, typer.Option("--on-finish", metavar="CMD", help="Shell command there when the job ends or stalls.")]
OnCheckpoint = Annotated[str, typer.Option("--on-checkpoint", metavar="SIGNAL", help="What the command takes for 'signal JOB checkpoint': SIGUSR1.")]
OnStop = Annotated[str, typer.Option("--on-stop", metavar="SIGNAL", help="What it takes for 'signal JOB stop': SIGTERM.")]
Webhook = Annotated[str, typer.Option("--webhook", metavar="URL", envvar="MOAI_WEBHOOK", show_envvar=True, help="POST there when the job ends or stalls.")]
Setup = Annotated[str, typer.Option("--setup", metavar="LINE", help="Shell line before the command: 'source setup.sh'.")]
Expect = Annotated[list[str], typer.Option("--expect", metavar="PATH", help="Must exist in the end; repeatable.")]
WaitForAccess = Annotated[bool, typer.Option("--wait-for-access", help="Wait for a gated repository until access is granted.")]
Any_ = Annotated[bool, typer.Option("--any", help="Of several hosts, the first whose accelerator is free.")]
Command = Annotated[list[str], typer.Argument(metavar="CMD [ARG]...", help="After --: program and arguments, no shell.")]


def options(
    *,
    name: str = "",
    env: str = "",
    setenv: list[str] | None = None,
    secret: list[str] | None = None,
    workdir: str = "",
    accelerator: str = "",
    max_duration: str = "",
    request_id: str = "",
    setup: str = "",
    sync: str = "",
    retries: int | None = None,
    stop_on: str = "",
    on_finish: str = "",
    webhook: str = "",
    has_command: bool = False,
    claims: bool = True,
    wait_for_access: bool = False,
    with_project: bool = True,
    git: str = "",
    submodules: bool = False,
    trains: bool = False,
    on_checkpoint: str = "",
    on_stop: str = "",
) -> moai.JobOptions:
    """JobOptions from flags, with moai.toml below them. Raises UsageError.

    Args:
        has_command: it runs a command of the user's, for which code may be sent. claims: it uses the
            accelerator, and waits in its queue. wait_for_access: see moai.JobOptions. with_project: moai.toml counts.
        trains: what [train] of moai.toml says of a command's code counts too, before its sync and workdir.
    """
    if "=" in env:
        raise moai.UsageError("USAGE", f"--env chooses an environment and takes no K=V ({env})", f"--setenv {env}")
    project = moai.load_project() if with_project else None
    if sync and workdir:
        raise moai.UsageError("USAGE", "--sync runs in a copy of its own and --workdir in a folder there", "leave one of them out")
    if sync and not has_command:
        raise moai.UsageError("USAGE", "--sync sends code for a command of your own; the recipe brings its own", "add -- CMD, or leave --sync out")
    if git and (sync or workdir):
        raise moai.UsageError("USAGE", f"--git clones its own copy, and {'--sync' if sync else '--workdir'} names another folder", "leave one of them out")
    if git and not has_command:
        raise moai.UsageError("USAGE", "--git fetches code for a command of your own; the recipe brings its own", "add -- CMD, or leave --git out")
    if trains and has_command and project and project.train.git and not (git or sync or workdir):
        git = project.train.git
        submodules = submodules or bool(project.train.git_submodules)
    if submodules and not git:
        raise moai.UsageError("USAGE", "--git-submodules belongs to --git", "--git URL --git-submodules")
    url, revision = moai.split_git(git) if git else ("", "")
    if not sync and not workdir and not git and has_command and project and project.sync and project.path:
        if project.workdir:
            raise moai.UsageError("CONFIG_INVALID", f"{project.path}: sync and workdir exclude each other", "leave one of them out")
        sync = str(project.path.parent / project.sync)
    variables = dict(project.variables) if project else {}
    variables.update(pairs(setenv or [], "--setenv"))
    wanted = list(dict.fromkeys([*(project.secrets if project else []), *(secret or [])]))
    return moai.JobOptions(
        name=name or (project.name if project else "") or "",
        environment=env or (project.environment if project else "") or "",
        variables=variables,
        secrets={one: secret_value(one) for one in wanted},
        workdir="" if sync or git else workdir or (project.workdir if project else "") or "",
        accelerator=accelerator or (project.accelerator if project and claims else "") or "",
        max_duration_s=seconds(max_duration, "--max-duration") if max_duration else 0.0,
        request_id=request_id,
        setup=setup or (project.setup if project else "") or "",
        code=sync,
        wait_for_access=wait_for_access,
        retries=retries if retries is not None else (project.retries if project else None) or 0,
        stop_on=[one.strip() for one in stop_on.split(",") if one.strip()] or (project.stop_on if project else []),
        on_finish=on_finish or (project.on_finish if project else "") or "",
        webhook=webhook,
        on_checkpoint=on_checkpoint or (project.on_checkpoint if project and has_command else "") or "",
        on_stop=on_stop or (project.on_stop if project and has_command else "") or "",
        git=url,
        git_revision=revision,
        git_submodules=submodules,
    )


def secret_value(name: str) -> str:
    """A secret from this environment, else asked for. Raises PersonNeeded, UsageError."""
    if "=" in name:
        raise moai.UsageError("USAGE", "--secret takes a name; a value there would be seen by others", "export it, then --secret NAME")
    if not name.isascii() or not name.isidentifier():
        raise moai.UsageError("USAGE", f"--secret {name!r} is not the name of a variable", "use letters, digits and _")
    value = os.environ.get(name)
    if value:
        return value
    if sys.stdin.isatty() and sys.stderr.isatty():
        return moai.TerminalPrompts().secret(f"value of {name}: ")
    raise moai.PersonNeeded("SECRET_NEEDED", f"{name} is not set here and nobody can be asked", f"export {name}=...")


def own_code(text: str) -> bool:
    """Whether ``--exit-code job`` was given."""
    if text not in ("moai", "job"):
        raise moai.UsageError("USAGE", f"--exit-code is job or moai, not {text!r}", "--exit-code job")
    return text == "job"


def announce(job: moai.Job, detach: bool, as_json: bool) -> bool:
    """Say what was started; True when there is nothing more to do."""
    if detach:
        if as_json:
            print_json({"schema": "moai.job/1", **job.info.as_dict()})
        else:
            print(job.id, flush=True)
            note(f"moai remote attach {job.id} follows it")
        return True
    if not as_json:
        note(say("{job} on {host}. Ctrl-C detaches; the job goes on.", job=job.id, host=job.host.name))
    return False


@app.command()
def run(
    command: Command,
    on: On = "",
    env: Env = "",
    setenv: Setenv = [],  # noqa: B006 - typer reads the default
    secret: Secret = [],  # noqa: B006
    workdir: Workdir = "",
    detach: Detach = False,
    as_json: Json = False,
    plain: Plain = False,
    name: Name = "",
    accelerator: Accelerator = "",
    max_duration: MaxDuration = "",
    expect: Expect = [],  # noqa: B006
    setup: Setup = "",
    request_id: RequestId = "",
    exit_code: ExitCode = "moai",
    no_link: NoLink = False,
    any_host: Any_ = False,
    fail_fast: FailFast = False,
    sync: Sync = "",
    save_flags: Save = False,
    retries: Retries = None,  # type: ignore[assignment]
    stop_on: StopOn = "",
    on_finish: OnFinish = "",
    webhook: Webhook = "",
    git: Git = "",
    submodules: Submodules = False,
    on_checkpoint: OnCheckpoint = "",
    on_stop: OnStop = "",
) -> None:
    """Run a command as a job; its log comes here, its exit code decides ours.

    With several hosts (--on a,b, @group, all) it runs on each, or with --any on the first that is free.
    """
    own = own_code(exit_code)
    command_options = options(
        name=name, env=env, setenv=setenv, secret=secret, workdir=workdir, accelerator=accelerator,
        max_duration=max_duration, request_id=request_id, setup=setup, sync=sync, has_command=True,
        retries=retries, stop_on=stop_on, on_finish=on_finish, webhook=webhook,
        git=git, submodules=submodules, on_checkpoint=on_checkpoint, on_stop=on_stop,
    )  # fmt: skip
    if save_flags:
        save(
            on=on, env=env, name=name, workdir=workdir, sync=sync, accelerator=accelerator, setup=setup, setenv=setenv, secret=secret,
            on_checkpoint=on_checkpoint, on_stop=on_stop,
        )  # fmt: skip
    if several(on):
        if not any_host:
            submit_each(
                on, lambda target, given: target.run(command, given, expected_paths=expect), command_options, detach, as_json, plain, fail_fast
            )
            return
        target = fleet(on).first_free()
    else:
        target = host(on, link=not no_link)
    job = target.run(command, command_options, expected_paths=expect)
    if not announce(job, detach, as_json):
        follow(job, as_json=as_json, plain=plain, own_code=own)

"""``moai remote add, list, set, remove, use, trust, up, down, disconnect, shell``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

import moai
from moai._cli import complete
from moai._cli.common import Env, Json, Yes, confirm, host, hosts, note, on_each, print_json, prompts, worst
from moai._cli.disk import show_items
from moai._cli.table import print_table, size

app = typer.Typer(rich_markup_mode=None, add_completion=False)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a configured container.", autocompletion=complete.configured)]
MaybeName = Annotated[str, typer.Argument(metavar="[NAME]", autocompletion=complete.configured)]
Group = Annotated[list[str], typer.Option("--group", help="Group for --on @GROUP; repeatable.")]
Work = Annotated[str, typer.Option("--work", metavar="FOLDER", help="Folder there for models, datasets and results.")]
Proxy = Annotated[str, typer.Option("--proxy", metavar="URL", help="Proxy for downloads there.")]
Transport = Annotated[str, typer.Option("--transport", help="paramiko, or openssh to use your own ssh.")]
SshConfig = Annotated[str, typer.Option("--ssh-config", metavar="FILE", help="Read this instead of ~/.ssh/config.")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    address: Annotated[str, typer.Argument(metavar="[USER@]HOST[:PORT]|ALIAS|local", help="Where it is.")],
    port: Annotated[int, typer.Option("-p", "--port", help="SSH port.")] = 0,
    env: Env = "",
    work: Work = "",
    proxy: Proxy = "",
    transport: Transport = "",
    group: Group = [],  # noqa: B006 - typer reads the default
    ssh_config: SshConfig = "",
    fingerprint: Annotated[str, typer.Option(help="Expected host key, SHA256:...; then nothing is asked.")] = "",
    no_check: Annotated[bool, typer.Option("--no-check", help="Write the settings only.")] = False,
) -> None:
    """Add a container: confirm its key once, bring the agent up, look it over."""
    if port:
        if ":" in address.rpartition("@")[2]:
            raise moai.UsageError("USAGE", f"the port is given twice: {address} and -p {port}", "give it once")
        address = f"{address}:{port}"
    known = moai.config().hosts.get(name)
    if known and known.address != address:
        raise moai.UsageError("USAGE", f"{name} is {known.address} already", f"moai remote remove {name}")
    first = not moai.config().hosts
    moai.add_host(
        name, address, first, environment=env, work=work, proxy=proxy, transport=transport,
        groups=group, ssh_config=os.path.abspath(os.path.expanduser(ssh_config)) if ssh_config else "",
    )  # fmt: skip
    note(f"{name} is {address}" + (" (the default)" if first else ""))
    if fingerprint:
        moai.trust(name, fingerprint, prompts())
    if no_check:
        return
    try:
        _look_over(name)
    except moai.MoaiError:
        note(f"the settings of {name} are kept; moai remote check --on {name} tries again")
        raise


def _look_over(name: str) -> None:
    with host(name) as target:
        info = target.info()
        note(f"{info.user}@{info.hostname}: {info.cpu_count} cores, {size(info.memory_bytes)} memory, agent {info.version}")
        report = target.devices()
        for device in report.devices:
            note(f"device {device.id}: {device.name} {device.flavor} ({report.provider})")
        mounts = ", ".join(f"{m.path} {size(m.free_bytes)}" for m in info.mounts[:3])
        note(f"work folder {target.config.work or info.work}; free: {mounts}")
        found = target.environments()
        rows = [
            [e.name, e.python_version, e.torch_version or "-", e.moreh_version or "-", e.packages.get("transformers", "-")]
            for e in found
        ]
        print_table(["ENVIRONMENT", "PYTHON", "TORCH", "MOREH", "TRANSFORMERS"], rows, grow=0)
    note(f"next: moai remote check --on {name}")


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Configured containers."""
    settings = moai.config()
    if as_json:
        entries = [
            {
                "name": h.name,
                "address": h.address,
                "default": h.name == settings.default or len(settings.hosts) == 1,
                "environment": h.environment or None,
                "work": h.work or None,
                "transport": h.transport,
                "groups": list(h.groups),
                "linked": moai.is_linked(h),
            }
            for h in settings.hosts.values()
        ]
        print_json({"schema": "moai.hosts/1", "hosts": entries})
        return
    if not settings.hosts:
        note("no container is configured; moai remote add NAME user@host -p PORT")
        return
    rows = []
    for h in settings.hosts.values():
        is_default = h.name == settings.default or len(settings.hosts) == 1
        link = "up" if moai.is_linked(h) else "-"
        rows.append([("* " if is_default else "  ") + h.name, h.address, h.environment or "-", link, ",".join(h.groups) or "-"])
    print_table(["  NAME", "ADDRESS", "ENVIRONMENT", "LINK", "GROUPS"], rows, grow=1)


@app.command("set")
def set_(
    name: Name,
    address: Annotated[str, typer.Option(help="Another address.")] = "",
    env: Annotated[str, typer.Option("--env", metavar="ENV", help="Default environment; '' forgets it.", show_default=False)] = "\0",
    work: Annotated[str, typer.Option("--work", metavar="FOLDER", help="Work folder there; '' forgets it.", show_default=False)] = "\0",
    proxy: Annotated[str, typer.Option("--proxy", metavar="URL", help="Proxy for downloads there; '' forgets it.", show_default=False)] = "\0",
    transport: Transport = "",
    group: Group = [],  # noqa: B006
) -> None:
    """Change settings of a container; only what is named changes."""
    changes: dict[str, object] = {
        key: (value or None)
        for key, value in (("environment", env), ("work", work), ("proxy", proxy))
        if value != "\0"
    }
    changes.update({k: v for k, v in (("address", address), ("transport", transport)) if v})
    if group:
        changes["groups"] = [g for g in group if g]
    if not changes:
        raise moai.UsageError("USAGE", "nothing to change was named", "moai remote set --help")
    moai.change_host(name, **changes)
    note(f"{name}: " + ", ".join(f"{k} = {v if v is not None else '(default)'}" for k, v in changes.items()))


@app.command()
def remove(
    name: Name,
    purge: Annotated[bool, typer.Option("--purge", help="Take moai off the container first; results stay there.")] = False,
    force: Annotated[bool, typer.Option("--force", help="With --purge: end the jobs that run there.")] = False,
    yes: Yes = False,
) -> None:
    """Forget a container; nothing there changes, unless with --purge."""
    if name not in moai.config().hosts:
        moai.remove_host(name)
    if purge:
        _purge(name, force, yes)
        moai.remove_host(name)
        note(f"{name} is forgotten")
        return
    confirm(f"Forget {name}? Its jobs and files stay where they are.", yes, f"moai remote remove {name} --yes")
    moai.remove_host(name)
    note(f"{name} is forgotten")


def _purge(name: str, force: bool, yes: bool) -> None:
    """Take moai off a container: shown first, then asked."""
    with host(name) as target:
        running = [info.id for info in target.jobs() if not info.ended]
        if running and not force:
            raise moai.Conflict(
                "JOB_ACTIVE", f"{len(running)} jobs run on {name}: {', '.join(running[:8])}",
                f"moai remote cancel {running[0]}, or moai remote remove {name} --purge --force",
            )
        trial = target.remove_agent(dry_run=True)
        show_items(trial.items)
        for item in trial.kept:
            note(f"stays: {item.path} ({item.kind}, {size(item.size_bytes)}): {item.kept_because}")
        ends = f" and end {len(running)} running jobs" if running else ""
        confirm(f"Take moai off {name}{ends}? {size(trial.size_bytes)} go.", yes, f"moai remote remove {name} --purge --yes")
        for job_id in running:
            job = target.job(job_id)
            job.cancel(force=True)
            job.wait(70.0, check=False)
        target.remove_agent()
        target.close()
        moai.disconnect(target.config)
        note(f"{name}: moai is gone from the container")


@app.command()
def use(name: Name) -> None:
    """The container used when none is named."""
    moai.set_default_host(name)
    note(f"{name} is the default now")


@app.command()
def trust(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A configured name, alias or address.")],
    fingerprint: Annotated[str, typer.Option(help="The key you expect, SHA256:...; then nothing is asked.")] = "",
) -> None:
    """Show a container's host key beside the known one, and remember it when you agree."""
    if fingerprint:
        moai.trust(name, fingerprint, prompts())
        note(f"{name}: {fingerprint} is trusted")
        return
    offer = moai.host_key(name, prompts())
    print(f"{name} ({offer.address}) shows  {offer.fingerprint}")
    for entry in offer.known:
        print(f"known            {entry}")
    if offer.verdict == "ok":
        note("it is the known key; nothing to do")
        return
    question = "Trust this key from now on?" if not offer.known else "Replace the known key by this one?"
    confirm(question, False, f"moai remote trust {name} --fingerprint {offer.fingerprint}")
    moai.trust(name, offer.fingerprint, prompts())
    note(f"{name}: {offer.fingerprint} is trusted")


@app.command()
def up(
    name: MaybeName = "",
    force: Annotated[bool, typer.Option("--force", help="Also in place of an agent of a newer moai.")] = False,
) -> None:
    """Install this version's agent and start it; running jobs go on. Also for NAME,NAME, @group and all."""

    def one(target: moai.Host) -> str:
        with target:
            facts = target.up(force)
        return f"agent {facts.get('version')} ({str(facts.get('digest'))[:12]}) is up"

    _each(name, one)


@app.command()
def down(name: MaybeName = "") -> None:
    """End the agent and the link; jobs go on, and the next command starts it again. Also for NAME,NAME, @group and all."""

    def one(target: moai.Host) -> str:
        with target:
            target.down()
        moai.disconnect(target.config)
        return "the agent has been ended; jobs go on"

    _each(name, one)


def _each(names: str, call: Callable[[moai.Host], str]) -> None:
    """A line a host, in order; failures beside successes. Leaves with the worst exit code; one host's error as always."""
    targets = hosts(names)
    if len(targets) == 1:
        note(f"{targets[0].name}: {call(targets[0])}")
        return
    codes = []
    for target, answer in on_each(targets, call):
        if isinstance(answer, moai.MoaiError):
            note(f"{target.name}: {answer.message} [{answer.reason}]")
            codes.append(answer.exit_code)
        else:
            note(f"{target.name}: {answer}")
    if any(codes):
        raise typer.Exit(worst(codes))


@app.command()
def disconnect(name: MaybeName = "") -> None:
    """End the link that commands to a container share."""
    for one in moai.config().pick(name):
        note(f"{one.name}: " + ("disconnected" if moai.disconnect(one) else "was not connected"))


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def shell(name: MaybeName = "") -> None:
    """A login shell on a container, by your own ssh."""
    argv = moai.ssh_command(name)
    sys.stdout.flush()
    os.execvp(argv[0], argv)



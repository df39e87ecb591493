"""What is public: names, lazy imports, the table of commands."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import moai
import pytest
from moai._cli import lazy
from moai._cli.main import REMOTE, TOP

SOURCE = Path(moai.__file__)


def test_every_public_name_is_there_and_every_stub_is_public():
    for name in moai.__all__:
        assert getattr(moai, name) is not None
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If))
    stubs = {(alias.asname, node.module) for node in block.body for alias in node.names}
    assert stubs == {(name, module) for name, module in moai._HOME.items()}


@pytest.mark.parametrize("code", ["import moai", "from moai._cli.main import main; main(['--help'])", "from moai._cli.main import main; main(['remote', '--help'])"])
def test_start_imports_nothing_heavy(code):
    check = "import sys; bad = {'grpc', 'paramiko', 'fabric', 'google.protobuf', 'torch', 'matplotlib', 'rich', 'textual'} & set(sys.modules); assert not bad, bad"
    env = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", f"{code}\n{check}"], check=True, env=env, capture_output=True)


@pytest.mark.parametrize("name", sorted([*REMOTE, *TOP]))
def test_every_command_of_the_table_loads(name):
    entry = REMOTE.get(name) or TOP[name]
    command = lazy.load(entry.module, name)
    assert command.name in (name, name.replace("-", "_")) and (command.help or "").strip(), name
    assert len(entry.help) <= 60 and entry.help.endswith(".")


def test_every_command_of_every_module_is_in_the_table():
    for module in {entry.module for entry in REMOTE.values()}:
        import typer

        command = typer.main.get_command(importlib.import_module(module).app)
        for name in getattr(command, "commands", {command.name: None}):
            assert name in REMOTE, (module, name)


def test_errors_survive_pickling():
    import pickle

    error = moai.MoaiError("JOB_NOT_FOUND", "there is no job 'x'", "moai remote jobs", {"job": "x"})
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is moai.NotFound and (again.reason, again.message, again.next, again.details) == (
        error.reason, error.message, error.next, error.details,
    )  # fmt: skip


def test_what_is_told_of_one_of_several_hosts_begins_with_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("MOAI_CONFIG", str(tmp_path))
    (tmp_path / "config.toml").write_text('[hosts.a]\naddress = "a"\n[hosts.b]\naddress = "b"\n')
    told = []
    for host in [*moai.hosts("a,b", say=told.append), *moai.Fleet("all", say=told.append).hosts, *moai.hosts("b", say=told.append)]:
        host.session.say("one moment")
    assert told == ["a: one moment", "b: one moment"] * 2 + ["one moment"]

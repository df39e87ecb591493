"""Which Pythons of a container could run a fast tokenizer: each is asked, and only what answers well counts."""

import json
import os
from types import SimpleNamespace

import pytest
from moai_agent import enginepythons
from moai_agent.errors import AgentError

_FACTS = {
    "python_version": "3.12.1", "implementation": "cpython", "abiflags": "", "pointer_bits": "64", "system": "Linux",
    "machine": "x86_64", "libc": "glibc", "libc_version": "2.36",
}  # fmt: skip


@pytest.fixture
def container(tmp_path, monkeypatch):
    """Interpreters that are scripts: ``add(path, answer)``; ``find()`` the usable ones."""
    monkeypatch.setattr(enginepythons, "_PLACES", ("~/.local/bin/python3.1[0-9]",))

    def add(path, version="3.12.1", installed=(), answer=None, **facts):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        told = json.dumps({"installed": list(installed), "facts": dict(_FACTS, python_version=version, **facts)})
        file.write_text("#!/bin/sh\n" + ("echo '%s'" % told if answer is None else answer) + "\n")
        file.chmod(0o755)
        return str(file)

    def find(own="", listed=()):
        def choose(environment, required):
            if not own:
                raise AgentError("ENVIRONMENT_NOT_FOUND", "none", "")
            return (SimpleNamespace(python=own),)

        registry = SimpleNamespace(
            login=lambda: {"PATH": "%s:relative" % (tmp_path / "bin"), "HOME": str(tmp_path)},
            choose=choose,
            list=lambda: [SimpleNamespace(python=one) for one in listed],
            own=lambda: SimpleNamespace(python=str(tmp_path / "none")),
        )
        return [(os.path.relpath(one.python, str(tmp_path)), one.installed) for one in enginepythons.find(registry, "")]

    return SimpleNamespace(add=add, find=find)


def test_the_chosen_one_is_first_then_what_has_an_engine_then_the_newest(container):
    own = container.add("env/bin/python", "3.10.4")
    container.add("bin/python3.11", "3.11.2")
    container.add("bin/python3.13", "3.13.0")
    listed = container.add("conda/bin/python", "3.10.9", installed=["gigatoken"])
    home = container.add(".local/bin/python3.12")
    assert [name for name, _ in container.find(own, [listed])] == [
        "env/bin/python", "conda/bin/python", "bin/python3.13", os.path.join(".local", "bin", os.path.basename(home)), "bin/python3.11",
    ]  # fmt: skip
    assert container.find("", [listed])[0] == ("conda/bin/python", ["gigatoken"])


@pytest.mark.parametrize(
    "broken",
    [
        {"version": "3.9.18"}, {"version": "3.15.0"}, {"version": "three"}, {"implementation": "pypy"}, {"abiflags": "t"},
        {"pointer_bits": "32"}, {"answer": "exit 1"}, {"answer": "echo no json"}, {"answer": "echo '[]'"}, {"answer": "true"},
    ],
)  # fmt: skip
def test_what_cannot_run_one_or_does_not_answer_is_left_out(container, broken):
    container.add("bin/python3.12", **broken)
    assert container.find() == []


def test_one_that_hangs_is_given_up(container, monkeypatch):
    container.add("bin/python3.12", answer="exec /bin/sleep 60")
    container.add("bin/python3.11", "3.11.0")
    monkeypatch.setattr(enginepythons, "_ASK_S", 1.0)
    assert container.find() == [("bin/python3.11", [])]


def test_the_same_interpreter_is_asked_once_but_an_environment_of_its_own_is_another(container, tmp_path):
    real = container.add("opt/python3.12")
    for place in ("bin/python3.12", "venv/bin/python"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).symlink_to(real)
    (tmp_path / "venv" / "pyvenv.cfg").write_text("")
    assert sorted(name for name, _ in container.find("", [real, str(tmp_path / "venv/bin/python")])) == ["opt/python3.12", "venv/bin/python"]

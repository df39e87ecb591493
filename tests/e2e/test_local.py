"""Every verb with ``--on local``: the laptop itself, no sshd."""

import json

import pytest


def ok(local, *words, code=0):
    done = local.moai("remote", *words)
    assert done.returncode == code, (words, done.stdout.decode(), done.stderr.decode())
    return done.stdout.decode()


def test_every_verb_works_on_the_laptop_itself(local, tmp_path):
    assert ok(local, "devices", "--on", "local").splitlines()[1].split()[:2] == ["local", "*0"]
    assert "PYTHON" in ok(local, "env", "list", "--on", "local")
    assert "agent" in local.moai("remote", "check", "--on", "local").stdout.decode()
    job = ok(local, "run", "--on", "local", "-d", "--name", "first", "--", "sh", "-c", "echo hello; exit 3").strip()
    assert ok(local, "wait", job, code=3).split()[:2] == [job, "FAILED"]
    assert ok(local, "wait", "first", "--on", "local", "--exit-code", "job", code=3)
    assert ok(local, "logs", job) == "hello\n"
    assert "exit 3" in ok(local, "jobs", "--on", "local")
    assert "COMMAND_FAILED" in ok(local, "show", job, "--events")
    assert ok(local, "attach", job, code=3) == "hello\n"
    source = tmp_path / "data.txt"
    source.write_text("some text")
    there = ok(local, "push", "--on", "local", str(source), str(tmp_path / "there" / "copy.txt")).strip()
    assert ok(local, "pull", "--on", "local", there, str(tmp_path / "back")).strip().endswith("copy.txt")
    assert (tmp_path / "back" / "copy.txt").read_text() == "some text"
    long = ok(local, "run", "--on", "local", "-d", "--", "sleep", "600").strip()
    assert "CANCELLED" in ok(local, "cancel", long, "--grace", "1")
    ok(local, "delete", job, "--yes")
    ok(local, "show", job, "--on", "local", code=1)
    ok(local, "up", "local")
    ok(local, "down", "local")
    assert ok(local, "logs", long) == "", "the next command starts the agent again"
    assert "nothing" not in ok(local, "jobs", "--on", "local", "--json") and json.loads(ok(local, "jobs", "--on", "local", "--json"))["jobs"]


def test_the_laptop_can_be_configured_like_a_container(local):
    done = local.moai("remote", "add", "here", "local")
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(ok(local, "list", "--json"))["hosts"][0]["address"] == "local"
    assert ok(local, "run", "--", "echo", "hi") == "hi\n"
    assert "here/" in ok(local)
    ok(local, "remove", "here", "--yes")
    assert json.loads(ok(local, "list", "--json"))["hosts"] == []


@pytest.mark.parametrize("word", ["trust", "disconnect"])
def test_what_needs_ssh_says_so(local, word):
    done = local.moai("remote", word, "local")
    assert done.returncode in (0, 1) and done.stderr

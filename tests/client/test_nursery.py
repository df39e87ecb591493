"""Holders forked for many hosts at once: a session each, the right streams and variables, gone when they fail."""

import json
import os
import select
import subprocess
import sys

import pytest
from fakes.sshd import is_running, wait_until
from moai._link import client, nursery


@pytest.fixture
def made(monkeypatch, tmp_path):
    monkeypatch.setenv("MOAI_CACHE", str(tmp_path / "cache"))
    one = nursery.Nursery(client._NURSERY)
    yield one
    one.close()


def read_line(child):
    ready, _, _ = select.select([child.stdout], [], [], 60)
    assert ready, "the child said nothing"
    return json.loads(child.stdout.readline())


def bear(made, folder, name):
    log = os.open(folder / name, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        return made.bear(log)
    finally:
        os.close(log)


def end(child):
    child.stdin.close()
    child.stdout.close()


def test_each_child_is_a_session_of_its_own_and_ends_without_an_order(made, tmp_path):
    children = [bear(made, tmp_path, f"{n}.log") for n in range(8)]
    for child in children:
        child.pid = read_line(child)["pid"]
        assert os.getsid(child.pid) == child.pid
        open_files = {os.readlink(f"/proc/{child.pid}/fd/{n}") for n in os.listdir(f"/proc/{child.pid}/fd")}
        assert not any(f"{other}.log" in name for name in open_files for other in range(8) if other != children.index(child))
    assert len({child.pid for child in children}) == 8
    for child in children:
        end(child)
    wait_until(lambda: not any(is_running(child.pid) for child in children), "the children to end")


def test_a_child_connects_as_a_started_holder_does(made, tmp_path):
    child = bear(made, tmp_path, "log")
    assert read_line(child)["pid"] > 0
    host = {"name": "x", "address": "nobody@127.0.0.1:1", "groups": []}
    child.stdin.write(json.dumps({"host": host, "path": str(tmp_path / "x.sock"), "interactive": False}).encode() + b"\n")
    child.stdin.flush()
    assert read_line(child)["error"]["reason"] == "HOST_UNREACHABLE"
    end(child)


def test_killing_a_child_leaves_the_others(made, tmp_path):
    first, second = bear(made, tmp_path, "a"), bear(made, tmp_path, "b")
    first.pid, second.pid = read_line(first)["pid"], read_line(second)["pid"]
    first.kill()
    wait_until(lambda: not is_running(first.pid), "the child to end")
    first.kill()  # Harmless when repeated.
    assert is_running(second.pid)
    end(first)
    end(second)


def test_children_outlive_the_nursery_and_a_dead_one_is_replaced(made, tmp_path):
    child = bear(made, tmp_path, "a")
    child.pid = read_line(child)["pid"]
    made._process.kill()
    made._process.wait()
    assert is_running(child.pid) and not made.is_usable
    end(child)


def test_other_variables_need_another_nursery(monkeypatch):
    made = nursery.Nursery(client._NURSERY)
    try:
        assert made.is_usable
        monkeypatch.setenv("MOAI_CONFIG", "/elsewhere")
        assert not made.is_usable
    finally:
        made.close()


def test_what_holds_links_imports_paramiko_without_invoke_and_spoils_neither():
    code = """
import sys
from moai._ssh import lean
lean.load()
import paramiko
assert "invoke" not in sys.modules and paramiko.config.invoke is None
found = paramiko.SSHConfig.from_text("Host a\\n User u\\nMatch host a\\n Port 2200\\n").lookup("a")
assert (found["user"], found["port"]) == ("u", "2200")
import invoke, fabric
assert invoke.run and fabric.Connection
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

"""Bringing the agent to a container that has none: what it needs, what it writes, how it refuses."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from pathlib import Path

import pytest
from e2e.reach import (
    SYSTEM_PATH,
    bound_port,
    connections,
    holders,
    in_own_mounts,
    no_index,
    one_agent,
    ready,
    runs,
    said,
    says_sent,
    shell_script,
    snapshot,
)
from fakes.box import Box, Laptop, processes_of

pytestmark = pytest.mark.usefixtures("need_sshd")


@pytest.fixture(autouse=True)
def _bundle_of_the_system_python():
    ready()


def test_the_first_command_brings_the_agent_up_and_the_second_needs_no_bootstrap(tmp_path):
    with Box(tmp_path, look_alike=False) as box:
        first = runs(box, "one")
        assert b"no agent there yet" in first.stderr and says_sent(first)
        agent = one_agent(box)
        second = runs(box, "two")
        assert b"agent" not in second.stderr, said(second)
        assert one_agent(box) == agent
        # Not because of the link: a new connection finds the agent too.
        third = runs(box, "three", "--no-link")
        assert b"agent" not in third.stderr, said(third)
        assert one_agent(box) == agent


def test_a_cached_bundle_is_all_it_takes_and_no_index_is_asked(tmp_path):
    """An index that would answer is watched: nobody so much as connects to it."""
    with socket.socket() as index:
        index.bind(("127.0.0.1", 0))
        index.listen(5)
        index.settimeout(0)
        nowhere = no_index(index.getsockname()[1])
        with Box(tmp_path, look_alike=False, set_env=nowhere) as box:
            runs(box, "hello", **nowhere)
            assert json.loads(box.moai("remote", "devices", "--json", **nowhere).stdout)["hosts"][0]["error"] is None
        with pytest.raises(BlockingIOError):
            index.accept()


def test_wheels_in_the_cache_are_enough_to_make_the_bundle(tmp_path):
    with bound_port() as port, Box(tmp_path, look_alike=False) as box:
        shutil.rmtree(box.laptop.folder / "cache" / "bundles")
        runs(box, "hello", **no_index(port.getsockname()[1]))


def test_without_bundle_and_index_it_says_so_and_leaves_nothing_behind(tmp_path):
    with bound_port() as port, Box(tmp_path, look_alike=False) as box:
        cache = box.laptop.folder / "cache"
        for name in ("bundles", "wheels"):
            shutil.rmtree(cache / name)
        done = box.moai("remote", "run", "--json", "--", "true", **no_index(port.getsockname()[1]))
        assert done.returncode == 1, said(done)
        answer = json.loads(done.stdout)
        assert answer["reason"] == "BUNDLE_UNAVAILABLE", said(done)
        assert "moai bundle add" in answer["next"]
        assert b"Traceback" not in done.stderr
        assert not box.moai_home.exists(), "the container was written to although nothing could be installed"
        assert holders(box) == []


def test_ten_laptops_that_bootstrap_one_container_at_once_all_succeed_with_one_agent(tmp_path):
    with Box(tmp_path, look_alike=False) as box:
        settings = (box.laptop.folder / "config" / "config.toml").read_text()
        laptops = [Laptop(tmp_path / f"laptop-{number}", box.ssh_config) for number in range(10)]
        for laptop in laptops:
            (laptop.folder / "config" / "config.toml").write_text(settings)
        began = time.monotonic()
        started = [one.start("remote", "run", "--", "echo", str(n)) for n, one in enumerate(laptops)]
        answers = [(process.communicate(timeout=60), process.returncode) for process in started]
        took_s = time.monotonic() - began
        for number, ((out, err), code) in enumerate(answers):
            assert (code, out) == (0, b"%d\n" % number), (out, err)
        assert connections(box) == 10
        agent = one_agent(box)
        assert json.loads((box.host_dir / "run" / "agent.json").read_text())["pid"] == agent
        payloads = [name for name in os.listdir(box.moai_home / "payload") if name != ".lock"]
        assert len(payloads) == 1, payloads
        assert len(os.listdir(box.host_dir / "jobs")) == 10
        assert took_s <= 20.0


def test_a_server_with_one_session_a_connection_is_enough(tmp_path):
    """The second channel on a connection would be refused; bootstrapping needs four, one after another."""
    with Box(tmp_path, look_alike=False, max_sessions=1) as box:
        assert says_sent(runs(box))
        assert connections(box) == 1
        up = box.moai("remote", "up", "--force")
        assert up.returncode == 0, said(up)
        assert connections(box) == 1
        runs(box, "again", "--no-link")


def test_up_on_a_fresh_host_installs_and_dials_once_and_looks_again_every_other_time(tmp_path):
    """What the container's Python is started for: to tell of itself, to install, to relay."""
    tools, ran = tmp_path / "bin", tmp_path / "ran"
    tools.mkdir()
    (tools / "python3").write_text(f"""#!/bin/bash
case "$*" in *'"install"'*) echo install ;; *relay.py*) echo relay ;; *MOAI-PY*) echo probe ;; esac >>{ran}
exec -a "$0" /usr/bin/python3 "$@"
""")
    (tools / "python3").chmod(0o755)
    with Box(tmp_path / "box", look_alike=False, path=f"{tools}:{SYSTEM_PATH}") as box:
        again = ["relay", "probe", "install", "relay"]
        for wanted in (["probe", "install", "relay"], again, again):
            up = box.moai("remote", "up")
            assert up.returncode == 0 and b" is up" in up.stderr, said(up)
            assert ran.read_text().split() == wanted
            ran.unlink()
        assert connections(box) == 1


def test_no_forwarding_right_is_needed(tmp_path):
    with Box(tmp_path, look_alike=False, allow_tcp_forwarding=False, config=["AllowStreamLocalForwarding no"]) as box:
        runs(box)


def test_a_home_of_two_hundred_characters_works_although_a_socket_address_holds_fewer(tmp_path):
    home = tmp_path / "h"
    while len(str(home)) < 200:
        home /= "long" * min(12, (203 - len(str(home))) // 4)
    assert len(str(home)) >= 200
    with Box(tmp_path, home=home, look_alike=False) as box:
        runs(box)
        assert (box.host_dir / "run" / "agent.sock").is_socket()
        runs(box, "again", "--no-link")


@pytest.mark.parametrize("where", ["home", "laptop"])
def test_spaces_quotes_and_other_alphabets_in_a_path_are_only_letters(tmp_path, where):
    strange = tmp_path / "it's \"mine\" $HOME `id` 모래 \\ 집"
    if where == "laptop":
        with Box(tmp_path, look_alike=False) as box:
            settings = (box.laptop.folder / "config" / "config.toml").read_text()
            box.laptop = Laptop(strange, box.ssh_config)
            (strange / "config" / "config.toml").write_text(settings)
            runs(box)
        return
    strange.mkdir()
    quoted = str(strange).replace("\\", "\\\\").replace('"', '\\"')
    config = [f'SetEnv "HOME={quoted}" PATH={SYSTEM_PATH}']
    with Box(tmp_path, home=strange, look_alike=False, config=config) as box:
        runs(box)
        assert box.moai_home.is_dir(), os.listdir(strange)
        assert [name for name in os.listdir(strange) if name != ".moai"] == []
        runs(box, "again", "--no-link")


@pytest.mark.parametrize("form", ["absolute", "tilde"])
def test_a_state_folder_named_by_moai_home_takes_everything(tmp_path, form):
    """Nothing else of the home changes: not a name, not a size, not a time."""
    home, state = tmp_path / "home", tmp_path / "elsewhere" / "state"
    for name in (".bashrc", ".profile", "work/train.py"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("# mine\n")
    if form == "tilde":
        state = home / "state"
    with Box(tmp_path, look_alike=False, moai_home=Path("~/state") if form == "tilde" else state) as box:
        before = snapshot(home)
        runs(box)
        for words in (("devices",), ("env", "list")):
            done = box.moai("remote", *words, "--json")
            assert done.returncode == 0, said(done)
        runs(box, "again", "--no-link")
        after = {name: facts for name, facts in snapshot(home).items() if not name.startswith("state")}
        assert after == before
        assert not box.moai_home.exists()
        assert {"hosts", "payload"} <= set(os.listdir(state))
        agents = [argv for argv in processes_of(state).values() if any("moai_agent" in word for word in argv)]
        assert agents and all(str(state) in " ".join(argv) for argv in agents)


# -- what can go wrong on the way --------------------------------------------------------------


def test_a_payload_removed_by_a_cleaner_is_sent_again(tmp_path):
    with Box(tmp_path, look_alike=False) as box:
        runs(box)
        shutil.rmtree(box.moai_home / "payload")
        assert b"brought" not in (done := runs(box, "two", "--no-link")).stderr and says_sent(done)
        assert not says_sent(runs(box, "three", "--no-link"))


@pytest.mark.parametrize("moment", ["probe", "transfer"])
def test_a_connection_that_breaks_while_bootstrapping_is_made_again(tmp_path, moment):
    """Half of an answer is no answer: it must not be told as a container without Python."""
    mark = tmp_path / "broken"
    breaking = f"""
if [ ! -e {mark} ]; then
  : >{mark}; pid=$$
  until case "$(cat /proc/$pid/comm)" in sshd*) true;; *) false;; esac; do
    while read -r key value; do [ "$key" = PPid: ] && up=$value; done </proc/$pid/status; pid=$up
  done
  kill -9 $pid; sleep 10
fi
"""
    # The probe runs `python3 -I -S -c PROGRAM NONCE`, the transfer `PYTHON -I -S -c PROGRAM LENGTH`.
    script = (breaking if moment == "probe" else "") + 'exec /usr/bin/python3 "$@"\n'
    shell_script(tmp_path / "bin" / "python3", script)
    shell = "sh"
    if moment == "transfer":
        lines = f'case "$(cat {tmp_path}/count 2>/dev/null)" in xx) {breaking}\n;; esac\nprintf x >>{tmp_path}/count\n'
        shell = shell_script(tmp_path / "breaker", lines + 'exec /bin/sh "$@"\n')
    with Box(tmp_path, look_alike=False, shell=shell, path=f"{tmp_path}/bin:{SYSTEM_PATH}") as box:
        runs(box)
        assert mark.exists()
        assert connections(box) == 2
        assert [name for name in os.listdir(box.moai_home / "payload") if name.startswith(".new")] == []


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path):
    with Box(tmp_path, look_alike=False, moai_home=Path("/proc/moai-state")) as box:
        done = box.moai("remote", "run", "--json", "--", "true")
        answer = json.loads(done.stdout)
        assert (done.returncode, answer["reason"]) == (1, "HOME_NOT_WRITABLE"), said(done)
        assert "/proc/moai-state" in answer["message"]
        assert holders(box) == []


def test_a_full_disk_is_named_and_nothing_is_left_on_it(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    prefix = in_own_mounts(tmp_path, f'mount -t tmpfs -o size=4m,mode=0700 tmpfs "{state}"\n')
    with Box(tmp_path, look_alike=False, moai_home=state, command_prefix=prefix) as box:
        done = box.moai("remote", "run", "--json", "--", "true")
        answer = json.loads(done.stdout)
        assert (done.returncode, answer["reason"]) == (1, "DISK_FULL"), said(done)
        assert "MOAI_HOME" in answer["next"]
        left = Path(f"/proc/{box.sshd.pid}/root{state}")
        assert [name for name in os.listdir(left / "payload") if name != ".lock"] == []
        assert [name for name in os.listdir(left / "hosts") if name.endswith(".dial")] == []

"""The link that commands share: one holder, one connection, and what happens when a part of it dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import moai
import pytest
from e2e.reach import Job, connections, holders, kill, one_agent, ready, relays, runs, said
from fakes.box import Box
from fakes.sshd import make_key, wait_until

pytestmark = pytest.mark.usefixtures("need_sshd")


@pytest.fixture(autouse=True)
def _bundle_of_the_system_python():
    ready()


@pytest.fixture
def plain(tmp_path):
    """A container with an empty home and nothing running."""
    with Box(tmp_path, look_alike=False) as box:
        yield box


# -- sharing -----------------------------------------------------------------------------------


def test_twenty_commands_at_once_share_one_holder_and_one_connection(plain):
    started = [plain.laptop.start("remote", "run", "--", "echo", str(number)) for number in range(20)]
    for number, process in enumerate(started):
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, b"%d\n" % number), err
    # Those that were started ahead and not needed end when their commands have.
    wait_until(lambda: len(holders(plain)) == 1, "one holder to be left")
    assert connections(plain) == 1
    assert len(relays(plain)) == 1
    one_agent(plain)


def test_later_commands_use_the_link_of_the_first(plain):
    runs(plain)
    (holder,) = holders(plain)
    runs(plain, "two")
    assert plain.moai("remote", "devices", "--json").returncode == 0
    assert plain.moai("remote", "jobs").returncode == 0
    assert holders(plain) == [holder]
    assert connections(plain) == 1


def test_no_link_leaves_neither_holder_nor_connection(plain):
    runs(plain, "one", "--no-link")
    assert holders(plain) == []
    wait_until(lambda: relays(plain) == [] and plain.sshd.session_pids() == [], "the connection to end")
    links = plain.laptop.folder / "cache" / "links"
    assert [name for name in os.listdir(links) if name.endswith(".sock")] == []
    one_agent(plain)


def test_disconnect_ends_the_holder_and_nothing_else(plain):
    job = Job(plain, "sleep", "300")
    agent = one_agent(plain)
    done = plain.moai("remote", "disconnect")
    assert done.returncode == 0 and done.stderr == b"box: disconnected\n", said(done)
    wait_until(lambda: holders(plain) == [] and relays(plain) == [], "holder and relay to end")
    wait_until(lambda: plain.sshd.session_pids() == [], "the connection to end")
    again = plain.moai("remote", "disconnect")
    assert again.returncode == 0 and again.stderr == b"box: was not connected\n", said(again)
    assert holders(plain) == []
    job.assert_unharmed()
    assert one_agent(plain) == agent


def test_down_ends_the_agent_and_the_link_while_jobs_go_on(plain):
    job = Job(plain, "sleep", "300")
    agent = one_agent(plain)
    done = plain.moai("remote", "down")
    assert done.returncode == 0, said(done)
    wait_until(lambda: plain.agent_pids() == [] and holders(plain) == [], "agent and holder to end")
    job.assert_unharmed()
    assert one_agent(plain) != agent


def test_a_command_right_after_down_waits_for_the_old_agent_to_leave(plain):
    """Somebody follows a job, so the old agent takes a moment to leave and holds its lock meanwhile."""
    job = Job(plain, "sleep", "300")
    with plain.laptop.start("remote", "attach", job.id) as following:
        try:
            for options in ([], ["--no-link"]):
                agent = one_agent(plain)
                down = plain.moai("remote", "down")
                assert down.returncode == 0, said(down)
                runs(plain, "next", *options)
                assert one_agent(plain) != agent
                assert following.poll() is None, "the follower gave up"
        finally:
            following.kill()
            following.communicate()


# -- parts that die ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transport", "part"),
    [
        ("paramiko", "holder"),
        ("paramiko", "relay"),
        ("paramiko", "sessions"),
        ("paramiko", "agent"),
        ("paramiko", "agent and holder"),
        ("openssh", "sessions"),
        ("openssh", "agent and holder"),
    ],
)
def test_after_a_part_is_killed_the_next_command_works_and_the_job_never_noticed(tmp_path, transport, part):
    with Box(tmp_path, look_alike=False, transport=transport) as box:
        _kill_and_go_on(box, part)


def _kill_and_go_on(box: Box, part: str) -> None:
    job = Job(box, "sleep", "300")
    if "holder" in part:
        kill(*holders(box))
    if part == "relay":
        kill(*relays(box))
    if part == "sessions":
        assert box.sshd.kill_sessions()
    if "agent" in part:
        kill(one_agent(box))
    runs(box, "next")
    job.assert_unharmed()
    assert len(holders(box)) == 1
    one_agent(box)
    wait_until(lambda: len(relays(box)) == 1, "the relay of the broken connection to end")


def test_a_job_is_followed_to_its_end_through_every_one_of_these_deaths(plain):
    """What it printed meanwhile arrives, in order and once."""
    gate = plain.folder / "gate"
    gate.mkdir()
    script = 'for n in 0 1 2 3; do echo "line $n"; until [ -e "$0/$n" ]; do sleep 0.05; done; done; echo end'
    job = Job(plain, "sh", "-c", script, str(gate))
    log = plain.job_dir(job.id) / "log"
    deaths = [
        lambda: kill(*relays(plain)),
        plain.sshd.kill_sessions,
        lambda: kill(one_agent(plain)),
        lambda: kill(*holders(plain)),
    ]
    seen = b""
    with plain.laptop.start("remote", "attach", job.id) as following:
        try:
            for number, die in enumerate(deaths):
                line = f"line {number}\n".encode()
                wait_until(lambda: line in log.read_bytes(), "the job to print", 20.0)
                while line not in seen:
                    piece = os.read(following.stdout.fileno(), 65536)
                    assert piece, following.stderr.read()
                    seen += piece
                die()
                (gate / str(number)).touch()
            out, err = following.communicate(timeout=60)
        finally:
            following.kill()
    assert following.returncode == 0, err
    assert seen + out == b"line 0\nline 1\nline 2\nline 3\nend\n", (seen, out, err)


def test_the_listener_may_restart_without_anybody_noticing(plain):
    runs(plain)
    (holder,) = holders(plain)
    plain.sshd.restart()
    runs(plain, "two")
    assert holders(plain) == [holder]
    assert connections(plain) == 1


def test_a_link_socket_removed_by_a_cleaner_is_replaced(plain):
    runs(plain)
    (holder,) = holders(plain)
    for path in (plain.laptop.folder / "cache" / "links").glob("*.sock"):
        path.unlink()
    runs(plain, "two")
    wait_until(lambda: len(holders(plain)) == 1 and holders(plain) != [holder], "the old holder to leave", 15.0)
    runs(plain, "three")


def test_a_host_that_is_away_is_named_within_seconds_and_works_when_it_is_back(plain):
    runs(plain)
    kill(*holders(plain))
    plain.sshd.stop()
    done = plain.moai("remote", "run", "--json", "--", "true", timeout=20)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["reason"]) == (4, "HOST_UNREACHABLE"), said(done)
    plain.sshd.start()
    runs(plain, "back")


def test_the_folder_a_command_is_typed_in_is_never_a_source_of_code(plain):
    """A project has files called json.py and select.py; the holder outlives the command and must not load them."""
    work = plain.laptop.folder / "work"
    mark = plain.folder / "loaded"
    for name in ("json", "select", "signal", "grpc", "paramiko", "moai"):
        (work / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write({name!r})\nraise SystemExit('not me')\n")
    # As the installed program starts: `python -m moai` itself would look into this folder.
    start = "import sys; sys.path.pop(0); from moai.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", start, "remote", "run", "--", "echo", "hello"],
        env=plain.laptop.env, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, said(done)
    assert not mark.exists(), mark.read_text()


class Person:
    """Answers every question of a connection, and counts them."""

    available = True

    def __init__(self, word: str) -> None:
        self.word, self.asked = word, 0

    def confirm(self, text: str) -> bool:
        """Never needed here."""
        raise AssertionError(text)

    def secret(self, text: str) -> str:
        """The passphrase."""
        self.asked += 1
        return self.word

    def answer(self, text: str, echo: bool) -> str:
        """Never needed here."""
        raise AssertionError(text)


def test_after_a_broken_link_a_person_is_asked_again_where_there_is_one(plain, as_laptop):
    """A holder cannot ask; it makes room for one whose starter can, and never asks by itself."""
    key = make_key(plain.folder / "locked", passphrase="open sesame")
    plain.sshd.authorize(key)
    plain.sshd.ssh_config(plain.ssh_config, IdentityFile=str(key))
    as_laptop(plain.laptop)
    person = Person("open sesame")
    with moai.connect("box", prompts=person) as host:
        first = host.info().pid
    assert person.asked == 1
    runs(plain, "unasked")
    plain.sshd.kill_sessions()
    wait_until(lambda: relays(plain) == [], "the relay to end")
    tries = connections(plain)
    for _ in range(2):
        done = plain.moai("remote", "run", "--json", "--", "true")
        answer = json.loads(done.stdout)
        assert (done.returncode, answer["reason"]) == (9, "SIGN_IN_NEEDED"), said(done)
        assert answer["next"] == "moai remote up box"
    with moai.connect("box", prompts=person) as host:
        assert host.up()["pid"] == first
    assert person.asked == 2
    assert connections(plain) == tries + 1
    runs(plain, "unasked again")
    assert len(holders(plain)) == 1


# -- the other transport -----------------------------------------------------------------------


def test_the_users_own_ssh_carries_jobs_devices_and_exit_codes_alike(tmp_path):
    with Box(tmp_path, look_alike=False, transport="openssh") as box:
        first = runs(box)
        assert b"sending the agent" in first.stderr
        failed = box.moai("remote", "run", "--", "sh", "-c", "exit 7")
        assert failed.returncode == 3, said(failed)
        own = box.moai("remote", "run", "--exit-code", "job", "--", "sh", "-c", "exit 7")
        assert own.returncode == 7, said(own)
        devices = box.moai("remote", "devices", "--json")
        assert devices.returncode == 0 and json.loads(devices.stdout)["hosts"][0]["devices"], said(devices)
        assert len(holders(box)) == 1
        runs(box, "unlinked", "--no-link")
        done = box.moai("remote", "disconnect")
        assert done.returncode == 0, said(done)
        wait_until(lambda: holders(box) == [] and box.sshd.session_pids() == [], "everything to end")
        box.sshd.stop()
        away = box.moai("remote", "run", "--json", "--", "true", timeout=20)
        assert (away.returncode, json.loads(away.stdout)["reason"]) == (4, "HOST_UNREACHABLE"), said(away)

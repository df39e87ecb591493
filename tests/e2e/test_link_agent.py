"""The agent's own end of the link: stale traces, cleaners, modes, sockets, secrets, descriptors."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
from pathlib import Path

import grpc
import pytest
from e2e.reach import Job, holders, kill, one_agent, ready, relays, runs, said, shell_script
from fakes.box import Box, processes_of
from fakes.sshd import wait_until
from moai_proto.v1 import agent_pb2, agent_pb2_grpc, job_pb2, job_pb2_grpc
from moai_worker import identity

pytestmark = pytest.mark.usefixtures("need_sshd")


@pytest.fixture(autouse=True)
def _bundle_of_the_system_python():
    ready()


@pytest.fixture
def plain(tmp_path):
    """A container with an empty home and nothing running."""
    with Box(tmp_path, look_alike=False) as box:
        yield box


@pytest.fixture(scope="module")
def living(tmp_path_factory, request):
    """One container with its agent up, for tests that only look."""
    from fakes.sshd import find_sshd

    if find_sshd() is None:
        pytest.skip("SKIPPED LOUDLY: sshd is not installed (apt-get install openssh-server)")
    ready()
    with Box(tmp_path_factory.mktemp("living"), look_alike=False) as box:
        runs(box)
        yield box


@contextlib.contextmanager
def impostor():
    """A process of somebody else, which nobody may touch."""
    with subprocess.Popen(["sleep", "300"], env={}, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def bind(path: Path) -> socket.socket:
    """A Unix socket on a path of any length."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sock.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
    return sock


# -- traces of earlier agents ------------------------------------------------------------------


def test_a_stale_socket_and_a_recycled_pid_do_not_stop_an_agent_and_the_other_process_lives(plain):
    """The facts on disk name a living process of somebody else, even with its right start time."""
    runs(plain)
    kill(*holders(plain))
    kill(one_agent(plain))
    run = plain.host_dir / "run"
    (run / "agent.sock").unlink(missing_ok=True)
    bind(run / "agent.sock").close()
    facts = json.loads((run / "agent.json").read_text())
    with impostor() as other:
        facts.update(pid=other.pid, start_ticks=identity.start_ticks(other.pid))
        (run / "agent.json").write_text(json.dumps(facts))
        runs(plain)
        assert one_agent(plain) != other.pid
        assert json.loads((run / "agent.json").read_text())["pid"] == one_agent(plain)
        for words in (("up",), ("down",)):
            done = plain.moai("remote", *words)
            assert done.returncode == 0, said(done)
        assert other.poll() is None


def test_an_agent_that_is_in_the_way_is_waited_for_when_the_facts_name_somebody_else(plain):
    """The socket is gone, and the real agent, which nobody can name, still holds the lock."""
    runs(plain, "one", "--no-link")
    run = plain.host_dir / "run"
    (run / "agent.sock").unlink()
    facts = json.loads((run / "agent.json").read_text())
    with impostor() as other:
        facts.update(pid=other.pid, start_ticks=identity.start_ticks(other.pid))
        (run / "agent.json").write_text(json.dumps(facts))
        runs(plain, "two", "--no-link")
        assert other.poll() is None
        one_agent(plain)


def test_a_socket_removed_by_a_cleaner_is_replaced_at_once_for_a_new_connection(plain):
    job = Job(plain, "sleep", "300")
    agent = one_agent(plain)
    (plain.host_dir / "run" / "agent.sock").unlink()
    runs(plain, "two", "--no-link", timeout=15.0)
    assert one_agent(plain) != agent
    assert (plain.host_dir / "run" / "agent.sock").is_socket()
    job.assert_unharmed()


def test_a_socket_removed_by_a_cleaner_is_noticed_by_the_agent_itself(plain):
    """The link that stands goes on meanwhile; then the agent makes room for a reachable one."""
    job = Job(plain, "sleep", "300")
    agent = one_agent(plain)
    (plain.host_dir / "run" / "agent.sock").unlink()
    runs(plain, "two")
    wait_until(lambda: agent not in plain.agent_pids(), "the old agent to leave", 10.0)
    job.assert_unharmed()
    one_agent(plain)


def test_a_run_folder_removed_by_a_cleaner_comes_back(plain):
    """Its lock goes with it, so the old agent cannot be waited for; it leaves by itself."""
    job = Job(plain, "sleep", "300")
    agent = one_agent(plain)
    shutil.rmtree(plain.host_dir / "run")
    runs(plain, "two", "--no-link")
    wait_until(lambda: agent not in plain.agent_pids() and len(plain.agent_pids()) == 1, "the old agent to leave", 15.0)
    job.assert_unharmed()


def test_an_agent_whose_facts_are_lost_is_replaced_not_dialled_with_wrong_ones(plain):
    """So a dial between an agent's first listening and its facts never uses the secret of the agent before."""
    job = Job(plain, "sleep", "300")
    for lost in ("agent.json", "agent.secret", "agent.json of an earlier one"):
        agent = one_agent(plain)
        path = plain.host_dir / "run" / lost.split()[0]
        if "earlier" in lost:
            path.write_text(json.dumps(dict(json.loads(path.read_text()), pid=1)))
        else:
            path.unlink()
        runs(plain, "two", "--no-link", timeout=15.0)
        assert one_agent(plain) != agent, lost
    job.assert_unharmed()


def test_an_agent_that_hangs_without_a_socket_is_ended_and_replaced(plain):
    """Stopped, it can neither answer nor notice that its socket is gone; SIGTERM does not reach it either."""
    job = Job(plain, "sleep", "300")
    agent = one_agent(plain)
    os.kill(agent, signal.SIGSTOP)
    (plain.host_dir / "run" / "agent.sock").unlink()
    runs(plain, "two", "--no-link", timeout=20.0)
    assert one_agent(plain) != agent
    job.assert_unharmed()


def test_an_agent_that_cannot_start_is_told_once_with_its_own_last_words(plain):
    runs(plain, "one", "--no-link")
    kill(one_agent(plain))
    entry = next(plain.moai_home.glob("payload/*/agent/moai_agent/__main__.py"))
    kept = entry.read_text()
    entry.write_text("raise SystemExit('the dog ate it')\n")
    done = plain.moai("remote", "run", "--json", "--no-link", "--", "true")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["reason"]) == (1, "AGENT_FAILED") and "the dog ate it" in answer["message"], said(done)
    entry.write_text(kept)
    log = plain.host_dir / "run" / "agent.log"
    log.unlink()
    log.mkdir()
    done = plain.moai("remote", "run", "--json", "--no-link", "--", "true")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["reason"]) == (1, "HOME_NOT_WRITABLE") and str(log) in answer["message"], said(done)
    wait_until(lambda: relays(plain) == [] and plain.agent_pids() == [], "nothing to be left running")
    log.rmdir()
    runs(plain, "works again", "--no-link")


# -- who may come in ---------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o077], ids=["umask 000", "umask 077"])
def test_folders_and_sockets_are_private_whatever_the_umask(tmp_path, umask):
    shell = shell_script(tmp_path / "loose", f'umask {umask:03o}\nexec /bin/sh "$@"\n')
    with Box(tmp_path, look_alike=False, shell=shell) as box:
        old = os.umask(umask)
        try:
            job = Job(box, "sleep", "300")
            runs(box, "done")
        finally:
            os.umask(old)
        run = box.host_dir / "run"
        for folder in (box.moai_home, box.host_dir, run, box.job_dir(job.id), box.laptop.folder / "cache" / "links"):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
        (link,) = (box.laptop.folder / "cache" / "links").glob("*.sock")
        for path in (run / "agent.sock", run / "agent.secret", run / "agent.log", link, link.with_suffix(".log")):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        below = [box.moai_home, *box.moai_home.rglob("*"), *(box.laptop.folder / "cache" / "links").rglob("*")]
        opened = [str(p) for p in below if not p.is_symlink() and p.stat().st_mode & 0o077]
        assert opened == []


def listening_inodes() -> set[str]:
    """Inodes of every TCP and UDP socket that waits for strangers (proc_net(5): 0A listens, 07 unconnected UDP)."""
    found = set()
    for name, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/net/{name}") as source:
            found |= {line.split()[9] for line in source.readlines()[1:] if line.split()[3] == state}
    return found


def plumbing(pid: int, kinds: tuple[str, ...] = ("socket", "pipe")) -> set[str]:
    """Inodes of a process's sockets and pipes."""
    found = set()
    with contextlib.suppress(FileNotFoundError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                kind, _, rest = os.readlink(f"/proc/{pid}/fd/{fd}").partition(":[")
                if kind in kinds:
                    found.add(rest[:-1])
    return found


def test_nothing_listens_on_a_network(living):
    Job(living, "sleep", "300")
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        own.listen()
        assert plumbing(os.getpid()) & listening_inodes(), "this test cannot see listeners"
    everybody = processes_of(living.folder)
    parts = {"moai_agent": 0, "relay.py": 0, "moai._link.holder": 0, "moai_worker.supervisor": 0}
    listening = listening_inodes()
    for pid, argv in everybody.items():
        assert not plumbing(pid) & listening, (pid, argv)
        for part in parts:
            parts[part] += any(part in word for word in argv)
    assert all(parts.values()), parts


def test_a_caller_without_the_right_secret_is_turned_away(living):
    run = living.host_dir / "run"
    secret = (run / "agent.secret").read_text()
    folder = os.open(run, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with grpc.insecure_channel(f"unix:/proc/self/fd/{folder}/agent.sock") as channel:
            agent = agent_pb2_grpc.AgentServiceStub(channel)
            jobs = job_pb2_grpc.JobServiceStub(channel)
            wrong = [[], [("moai-secret", "")], [("moai-secret", secret[:-1])], [("moai-secret", "0" * len(secret))]]
            for metadata in wrong:
                with pytest.raises(grpc.RpcError) as refused:
                    agent.GetAgent(agent_pb2.GetAgentRequest(), metadata=metadata, timeout=10)
                assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
                with pytest.raises(grpc.RpcError) as refused:
                    request = job_pb2.RunCommandRequest(arguments=["true"])
                    jobs.RunCommand(request, metadata=metadata, timeout=10)
                assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
            answer = agent.GetAgent(agent_pb2.GetAgentRequest(), metadata=[("moai-secret", secret)], timeout=10)
            assert answer.pid == one_agent(living)
    finally:
        os.close(folder)


def test_the_secret_is_in_no_argument_and_no_environment(living):
    Job(living, "sleep", "300")
    secret = (living.host_dir / "run" / "agent.secret").read_bytes().strip()
    assert len(secret) == 64
    for pid in processes_of(living.folder):
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}", "rb") as source:
                assert secret not in source.read(), (pid, name)


# -- what a job inherits -----------------------------------------------------------------------


def test_a_job_has_three_descriptors_and_nothing_on_its_input(living):
    job = Job(living, "sleep", "300")
    links = {fd: os.readlink(f"/proc/{job.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{job.pid}/fd")}
    log = str(living.job_dir(job.id) / "log")
    assert links == {"0": "/dev/null", "1": log, "2": log}
    done = living.moai("remote", "run", "--max-duration", "10s", "--", "cat")
    assert (done.returncode, done.stdout) == (0, b""), said(done)


def test_a_job_shares_no_session_or_process_group_with_what_started_it(living):
    job = Job(living, "sleep", "300")
    others = [pid for pid in processes_of(living.folder) if pid != job.pid]
    assert os.getsid(job.pid) == job.pid
    assert all(os.getsid(pid) != job.pid for pid in others)


def test_a_job_starts_with_every_signal_at_its_default(living):
    """nohup and Python ignore some; a program that was started with them ignored behaves unlike itself."""
    job = Job(living, "sleep", "300")
    with open(f"/proc/{job.pid}/status") as source:
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in source if ":\t" in line)
    # The classic signals, 1 to 31; above them the C library keeps some for itself.
    assert int(fields["SigIgn"], 16) & 0x7FFFFFFF == 0, fields["SigIgn"]
    assert int(fields["SigBlk"], 16) & 0x7FFFFFFF == 0, fields["SigBlk"]


def test_neither_agent_nor_supervisor_keeps_the_channel_of_the_command_that_started_them(plain):
    """A held descriptor would keep the session open after the laptop has left."""
    Job(plain, "sleep", "300")
    everybody = processes_of(plain.home)
    channel = {inode for pid in [*relays(plain), *plain.sshd.session_pids()] for inode in plumbing(pid)}
    assert channel
    others = [pid for pid, argv in everybody.items() if any(p in " ".join(argv) for p in ("moai_agent", "moai_worker", "sleep"))]
    assert len(others) == 4, everybody  # agent, its spawner, supervisor, job
    for pid in others:
        assert not plumbing(pid) & channel, everybody[pid]
        for fd, target in ((fd, os.readlink(f"/proc/{pid}/fd/{fd}")) for fd in (0, 1, 2)):
            assert target == "/dev/null" if fd == 0 else target.startswith(str(plain.host_dir)), (everybody[pid], fd, target)
    done = plain.moai("remote", "disconnect")
    assert done.returncode == 0, said(done)
    wait_until(lambda: relays(plain) == [] and plain.sshd.session_pids() == [], "the session to end")

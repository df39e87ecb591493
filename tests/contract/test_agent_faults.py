"""The agent and its supervisors are killed, stopped and starved, on the laptop itself: no job notices, none is forgotten.

Rows A1, A3, A4, A5, A7 and J2 of the fault list in docs/reliability.md; others of these rows are in test_jobs.py,
test_kills.py and tests/e2e/test_link_agent.py.
"""

import os
import resource
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import moai
import oracles
import pytest
from fakes import box as boxes
from fakes.sshd import wait_until
from moai._local import ensure_local
from test_jobs import TICKER, is_gone, supervisors

FULL = bool(os.environ.get("MOAI_TEST_SEEDS"))


@pytest.fixture
def host(local):
    with moai.connect("local") as one:
        yield one


def agents(local):
    """The agent, without the spawner that is its child."""
    found = [pid for pid, argv in boxes.processes_of(local.moai_home).items() if any("moai_agent" in word for word in argv)]
    return [pid for pid in found if boxes.parent_of(pid) not in found]


def kill_agent(local):
    pids = agents(local)
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: all(is_gone(pid) for pid in pids), "the agent to go")


def ticker(host, folder, pace_s, gate="", lines=600, metrics=60, code=37):
    folder.mkdir()
    words = ["python3", TICKER, str(folder), str(lines), str(metrics), str(code), str(pace_s)]
    return host.run([*words, str(gate)] if gate else words)


def check(job, folder, metrics=60, code=37):
    """EV, LOG, EXIT and ONE of a job that has ended."""
    events = [one.as_dict() for one in job.events()]
    oracles.check_ev(events)
    oracles.check_log(b"".join(job.log()), (folder / "sha256").read_text())
    oracles.check_exit(events, "FAILED", code)
    oracles.check_one(folder, events)
    assert oracles.metrics_of(events) == list(range(1, metrics + 1))


@pytest.mark.faults
def test_a1_five_jobs_are_adopted_by_every_next_agent(host, local, tmp_path):
    rounds, gate = (100 if FULL else 6), tmp_path / "gate"
    jobs = [(ticker(host, tmp_path / f"job{n}", 0.5, gate), tmp_path / f"job{n}") for n in range(5)]
    took = []
    for _ in range(rounds):
        kill_agent(local)
        begun_s = time.monotonic()
        states = {one.id: one.state for one in host.jobs()}
        took.append(time.monotonic() - begun_s)
        assert all(states[job.id] in ("STARTING", "RUNNING") for job, _ in jobs), states
    gate.touch()
    for job, folder in jobs:
        job.wait(60, check=False)
        check(job, folder)
    print(f"A1: {rounds} kills, back within {max(took):.2f} s of the next contact, median {sorted(took)[len(took) // 2]:.2f} s")


def test_a1_an_agent_that_another_command_has_started_is_called_with_its_own_secret(host, local, tmp_path):
    """gRPC dials the same socket again by itself, and there a newer agent listens."""
    job = ticker(host, tmp_path / "job", 0.5, tmp_path / "gate")
    # A supervisor that is just being started still has the name of what starts it, and must not be hit.
    wait_until(lambda: (tmp_path / "job" / "spawned").exists(), "the job to run")
    kill_agent(local)
    done = local.moai("remote", "jobs", "--on", "local")
    assert done.returncode == 0, done.stderr.decode()
    assert host.run(["true"]).wait(60).state == "SUCCEEDED"
    (tmp_path / "gate").touch()
    job.wait(60, check=False)
    check(job, tmp_path / "job")


def test_a3_a_stopped_agent_holds_up_no_job(host, local, tmp_path):
    job = ticker(host, tmp_path / "job", 0.5)
    (pid,) = agents(local)
    os.kill(pid, signal.SIGSTOP)
    try:
        folder = Path(job.info.folder)
        wait_until(lambda: (folder / "exit.json").exists(), "the job to end while the agent stands still", 60.0)
    finally:
        os.kill(pid, signal.SIGCONT)
    job.wait(60, check=False)
    assert agents(local) == [pid]
    check(job, tmp_path / "job")


def test_a4_an_end_that_nobody_saw_is_found_with_its_code_and_its_time(host, local, tmp_path):
    gate = tmp_path / "gate"
    job = ticker(host, tmp_path / "job", 0.0, gate)
    folder = Path(job.info.folder)
    wait_until(lambda: (tmp_path / "job" / "spawned").exists(), "the job to run")
    kill_agent(local)
    gate.touch()
    wait_until(lambda: (folder / "exit.json").exists(), "the job to end without an agent", 60.0)
    ended_s = (tmp_path / "job" / "sha256").stat().st_mtime
    assert agents(local) == []
    info = job.wait(60, check=False)
    # Both times are of the container's clock; the supervisor wrote its own down a moment after the job's last act.
    assert 0.0 <= info.end_time.timestamp() - ended_s + 0.1 and (folder / "exit.json").stat().st_mtime >= info.end_time.timestamp() - 1.0
    check(job, tmp_path / "job")


@pytest.mark.parametrize("child_too", [True, False])
def test_a5_supervisor_and_agent_killed_together_are_unknown_never_success(host, local, child_too):
    job = host.run(["sleep", "300"])
    wait_until(lambda: job.refresh().state == "RUNNING" and job.info.pid, "the job to run")
    child = job.info.pid
    (supervisor,) = supervisors(local)
    kill_agent(local)
    os.kill(supervisor, signal.SIGKILL)
    if child_too:
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: is_gone(child), "the job's process to go")
        info = job.wait(60, check=False)
        assert (info.state, info.exit_code, info.reason.code) == ("UNKNOWN", None, "SUPERVISOR_LOST")
        return
    wait_until(lambda: any(type == "SUPERVISOR_LOST" for type, _ in job.refresh().conditions), "the loss to be shown")
    assert job.info.state == "RUNNING" and not is_gone(child), "the process lives and is shown"
    job.cancel(grace_s=1.0)
    wait_until(lambda: is_gone(child), "cancel to end it")


def test_a7_an_agent_without_descriptors_left_recovers_and_its_jobs_go_on(host, local, tmp_path):
    gate = tmp_path / "gate"
    job = ticker(host, tmp_path / "job", 0.2, gate)
    wait_until(lambda: len(agents(local)) == 1, "the process that started the agent to go")
    (pid,) = agents(local)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    address, _ = ensure_local(lambda text: None)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, before[1]))
    held = []
    try:
        for _ in range(200):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(0.2)
            held.append(sock)
            try:
                sock.connect(address.removeprefix("unix:"))
            except OSError:
                continue  # its queue is full: refused, not hung
    finally:
        for sock in held:
            sock.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    with moai.connect("local") as again:
        assert again.job(job.id).state in ("STARTING", "RUNNING")
    gate.touch()
    job.wait(60, check=False)
    check(job, tmp_path / "job")


@pytest.mark.faults
def test_j2_a_thousand_jobs_that_end_at_once_are_told_once_each(host):
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda n: host.run(["true"], moai.JobOptions(request_id=f"quick-job-{n:05d}")), range(1000)))
        infos = list(pool.map(lambda job: job.wait(300, check=False), jobs))
    assert {info.state for info in infos} == {"SUCCEEDED"} and len({job.id for job in jobs}) == 1000
    for job in jobs[::50]:
        events = [one.as_dict() for one in job.events()]
        oracles.check_ev(events)

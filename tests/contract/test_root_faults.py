"""Too little memory, no process left, a first process that never reaps, a folder removed from below: faults that need root.

Rows A6, A8, J6 and J12 of the fault list in docs/reliability.md (J12 needs no root, but its like). The limits are
real ones, of control groups; the agent, the supervisors and the jobs are real, too.
"""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import moai
import oracles
import pytest
from fakes import box as boxes
from fakes.rooted import Group, need_root
from fakes.sshd import wait_until
from test_agent_faults import FULL, agents, check, host, kill_agent, ticker
from test_jobs import supervisors

__all__ = ["host"]  # a fixture

pytestmark = [pytest.mark.faults]
MIB = 1024 * 1024

#: As many reports as told, as fast as they can be written.
FLOOD = r"""
import json, os, sys, time
reports = os.open(os.environ["MOAI_REPORTS"], os.O_WRONLY | os.O_APPEND)
for first in range(1, int(sys.argv[1]) + 1, 1000):
    reported = [
        {"t": time.time(), "step": "", "type": "metric", "data": {"step": step, "values": {"loss": 1.0 / step}}}
        for step in range(first, first + 1000)
    ]
    os.write(reports, "".join(json.dumps(one) + "\n" for one in reported).encode())
sys.exit(37)
"""


def family(local):
    """(the agent, its spawner)."""
    (agent,) = agents(local)
    (spawner,) = [pid for pid in boxes.processes_of(local.moai_home) if boxes.parent_of(pid) == agent]
    return agent, spawner


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def most_memory(pid):
    """Most bytes a process ever had in memory (VmHWM of proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


# -- memory ------------------------------------------------------------------------------------------


@need_root
@pytest.mark.timeout(900)
def test_a6_a_backlog_of_a_million_events_fits_an_agent_of_64_mib(host, local):
    count = 1_000_000 if FULL else 100_000
    host.jobs()
    kill_agent(local)
    with Group("memory") as group:
        # Started inside, so that every page of it counts; its spawner leaves, so that no job does.
        inside = ["sh", "-c", f'echo $$ >{group.folder}/cgroup.procs && exec "$@"', "sh"]
        words = [*inside, *local.argv, "remote", "jobs", "--on", "local"]
        subprocess.run(words, env={**os.environ, **local.env}, stdout=subprocess.DEVNULL, timeout=60, check=True)
        agent, spawner = family(local)
        group.release(spawner)
        wait_until(lambda: group.members == [agent], "only the agent to be in the group")
        group.set("memory.limit_in_bytes", 64 * MIB)
        job = host.run([sys.executable, "-c", FLOOD, str(count)])
        os.kill(agent, signal.SIGSTOP)
        try:
            wait_until(lambda: (Path(job.info.folder) / "exit.json").exists(), "the backlog to be complete", 300.0)
        finally:
            os.kill(agent, signal.SIGCONT)
        job.wait(600, check=False)
        events = [one.as_dict() for one in job.events()]
        assert agents(local) == [agent] and group.number("memory.oom_control", "oom_kill") == 0
        assert most_memory(agent) < 150 * MIB
        print(f"A6: {count} events, {most_memory(agent) / MIB:.0f} MiB at most")
    oracles.check_ev(events)
    oracles.check_exit(events, "FAILED", 37)
    assert oracles.metrics_of(events) == list(range(1, count + 1))


# -- processes ---------------------------------------------------------------------------------------


def submit_typed(number, folder):
    """One submission beside others: (request, state or reason, exit code, message)."""
    request = f"full-{number:04d}-request"
    with moai.connect("local") as one:
        try:
            info = one.run(["sh", "-c", f"echo x >>{folder / request}; exit 37"], moai.JobOptions(request_id=request)).wait(60, check=False)
        except moai.MoaiError as error:
            return request, error.reason, None, error.message
    return request, info.state, info.exit_code, info.reason


@need_root
@pytest.mark.parametrize("room", [0, 1])
def test_a8_where_no_process_is_left_a_job_is_refused_in_words_and_never_half_there(host, local, tmp_path, room):
    """With no room the spawner cannot fork; with room for one, the process it forks cannot. Two dozen at once, more
    than the agent has threads: a thread that cannot be started must not refuse what another one then does."""
    bystander, gate = ticker(host, tmp_path / "bystander", 0.2, tmp_path / "gate"), tmp_path / "gate"
    wait_until(lambda: (tmp_path / "bystander" / "spawned").exists(), "the bystander to run")
    (tmp_path / "ran").mkdir()
    agent, spawner = family(local)
    with Group("pids") as group:
        group.add(agent, spawner)
        group.set("pids.max", group.number("pids.current") + room)
        before = descriptors(spawner)
        # One after the other where one fits: two of them would be in each other's way.
        with ThreadPoolExecutor(12 if room == 0 else 1) as pool:
            done = list(pool.map(lambda n: submit_typed(n, tmp_path / "ran"), range(24 if room == 0 else 4)))
        assert group.number("pids.events", "max") >= len(done), "the limit was never met"
        for request, state, code, reason in done:
            assert (state, code, reason.code) == ("FAILED", None, "START_FAILED"), (request, state, reason)
            assert "limit of processes" in reason.message and reason.next, reason
        assert list((tmp_path / "ran").iterdir()) == [], "refused, and run all the same"
        assert descriptors(spawner) == before, "each try costs descriptors"
        group.set("pids.max", "max")
        assert agents(local) == [agent]
        # The same request is the same job, which has failed; tried again on purpose, it runs.
        assert submit_typed(0, tmp_path / "ran")[1] == "FAILED" and list((tmp_path / "ran").iterdir()) == []
        failed = next(job for job in host.jobs() if job.state == "FAILED")
        again = local.moai("remote", "resume", failed.id, "-d", "--on", "local")
        assert again.returncode == 0, again.stderr.decode()
        info = host.job(again.stdout.decode().split()[-1]).wait(60, check=False)
        assert (info.state, info.exit_code) == ("FAILED", 37)
        assert [path.read_text() for path in (tmp_path / "ran").iterdir()] == ["x\n"]
    gate.touch()
    bystander.wait(60, check=False)
    check(bystander, tmp_path / "bystander")


@need_root
def test_a8_a_supervisor_that_cannot_start_its_step_says_so_and_leaves_the_queue(host, local, tmp_path):
    """It waits for its accelerator, and by its turn no process is left."""
    gate, claim = tmp_path / "gate", moai.JobOptions(accelerator="default")
    first = ticker(host, tmp_path / "first", 0.2, gate)
    holder = host.run(["sh", "-c", f"until [ -e {gate} ]; do sleep 0.05; done"], claim)
    wait_until(lambda: holder.refresh().pid > 0, "the holder to run")
    known = set(supervisors(local))
    waiting = host.run(["touch", str(tmp_path / "ran")], claim)
    wait_until(lambda: waiting.refresh().state == "QUEUED", "the next to wait")
    (supervisor,) = set(supervisors(local)) - known
    with Group("pids") as group:
        group.add(supervisor)
        group.set("pids.max", group.number("pids.current"))
        gate.touch()
        info = waiting.wait(60, check=False)
        assert group.number("pids.events", "max") >= 1
    assert (info.state, info.exit_code, info.reason.code) == ("FAILED", None, "START_FAILED"), info.reason
    assert "limit of processes" in info.reason.message and info.reason.next
    events = [one.as_dict() for one in waiting.events()]
    oracles.check_ev(events)
    assert not (tmp_path / "ran").exists()
    assert host.run(["true"], claim).wait(60).state == "SUCCEEDED", "the queue goes on"
    first.wait(60, check=False)
    check(first, tmp_path / "first")

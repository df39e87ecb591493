"""Too little memory, no process left, a first process that never reaps, a folder removed from below: faults that need root.

Rows A6, A8, J6 and J12 of the fault list in docs/reliability.md (J12 needs no root, but its like). The limits are
real ones, of control groups; the agent, the supervisors and the jobs are real, too.
"""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import moai
import oracles
import pytest
from e2e.reach import ready
from fakes import box as boxes
from fakes.box import Box
from fakes.rooted import Group, attempt, need_root
from fakes.sshd import wait_until
from moai_worker import identity
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


# -- a first process that never reaps ----------------------------------------------------------------

#: Process 1 of a container as `sleep infinity` is: starts what it is told and looks at nobody's end.
NEVER_REAPS = "import signal, subprocess, sys\nheld = subprocess.Popen(sys.argv[1:])\nwhile True: signal.pause()"
#: Children of children whose parents have gone at once; they end by themselves, at once or a moment later.
ORPHANS = r"""
import os, sys, time
for number in range(int(sys.argv[1])):
    middle = os.fork()
    if middle == 0:
        if os.fork() == 0:
            time.sleep(0.02 * (number % 3))
        os._exit(0)
    os.waitpid(middle, 0)
print("born", flush=True)
sys.exit(37)
"""


def zombies_below(root):
    """(pid, start ticks) of the dead below a process that nobody has reaped."""
    table, found, seen = identity.process_table(), set(), [root]
    while seen:
        parent = seen.pop()
        for pid, (above, ticks, state) in table.items():
            if above == parent:
                seen.append(pid)
                if state == b"Z":
                    found.add((pid, ticks))
    return found


@pytest.fixture
def never_reaping(tmp_path, need_sshd):
    """(container, pid of what holds it): in a PID namespace whose first process reaps nobody."""
    ready()
    attempt(["unshare", "--pid", "--fork", "--mount-proc", "true"], "PID namespace")
    prefix = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", NEVER_REAPS]
    with Box(tmp_path, look_alike=False, command_prefix=prefix) as box:
        yield box, box.sshd.pid
        box.sshd.stop_listener(kill=True)  # and with it the namespace


@need_root
def test_j6_thousands_of_orphans_leave_no_dead_behind_where_process_1_never_reaps(never_reaping):
    """Nor do their jobs: every supervisor's end is somebody's to look at."""
    box, root = never_reaping
    count, jobs = (5000, 30) if FULL else (2000, 12)
    done = box.moai("remote", "run", "-d", "--", sys.executable, "-c", ORPHANS, str(count))
    assert done.returncode == 0, done.stderr.decode()
    job, most = done.stdout.decode().strip(), 0

    def has_ended():
        nonlocal most
        most = max(most, len(zombies_below(root)))
        return (box.job_dir(job) / "exit.json").exists()

    wait_until(has_ended, "the orphans to be born and gone", 120.0)
    print(f"J6: {count} orphans, {most} dead at once")
    assert most <= 10
    shown = box.moai("remote", "attach", job, "--json", "--exit-code", "job")
    assert shown.returncode == 37, shown.stderr.decode()
    events = [one for one in map(json.loads, shown.stdout.splitlines()) if "sequence" in one]
    oracles.check_ev(events)
    oracles.check_exit(events, "FAILED", 37)
    for _ in range(jobs):
        done = box.moai("remote", "run", "--", "true")
        assert done.returncode == 0, done.stderr.decode()
    wait_until(lambda: zombies_below(root) == set(), "the dead to be reaped", 5.0)


# -- a job that removes what it stands on ------------------------------------------------------------


def under_a_bystander(host, tmp_path, what):
    """(bystander, its folder, job): the job makes everything writable, removes ``what`` ($F: its folder) and goes on."""
    bystander = ticker(host, tmp_path / "bystander", 0.2, tmp_path / "gate")
    (tmp_path / "cwd").mkdir()
    script = f'umask 000; F=$(dirname "$MOAI_REPORTS"); echo before; sleep 0.7; rm -rf {what}; sleep 0.7; echo after; exit 37'
    return bystander, host.run(["sh", "-c", script], moai.JobOptions(workdir=str(tmp_path / "cwd")))


def bystander_is_unharmed(bystander, tmp_path):
    (tmp_path / "gate").touch()
    bystander.wait(60, check=False)
    check(bystander, tmp_path / "bystander")


@pytest.mark.parametrize(
    ("what", "lost"),
    [('"$PWD"', ""), ('"$F/log"', "log"), ('"$F/reports.jsonl"', "reports"), ('"$F/events.jsonl"', ""), ('"$F/control"', "")],
)
def test_j12_a_job_that_removes_parts_of_its_own_folder_loses_these_only_and_that_is_said(host, local, tmp_path, what, lost):
    bystander, job = under_a_bystander(host, tmp_path, what)
    info = job.wait(60, check=False)
    assert (info.state, info.exit_code, info.reason.code) == ("FAILED", 37, "COMMAND_FAILED")
    events = [one.as_dict() for one in job.events()]
    if "events" not in what:
        oracles.check_ev(events)
        oracles.check_exit(events, "FAILED", 37)
    assert [e["data"]["source"] for e in events if e["type"] == "gap"] == ([lost] if lost else [])
    if lost == "log":
        with pytest.raises(moai.NotFound) as caught:
            list(job.log())
        assert caught.value.reason == "FILE_NOT_FOUND" and caught.value.next
    else:
        assert b"".join(job.log()) == b"before\nafter\n"
    loose = [path for path in local.moai_home.glob("hosts/*/jobs/**/*") if path.stat().st_mode & 0o077]
    assert loose == [], "its umask is its own"
    bystander_is_unharmed(bystander, tmp_path)


def test_j12_a_job_that_removes_its_folder_ends_every_follower_in_words_and_harms_nobody(host, local, tmp_path):
    bystander, job = under_a_bystander(host, tmp_path, '"$F"')
    attached = local.start("remote", "attach", job.id, "--on", "local")
    with pytest.raises(moai.NotFound) as caught:
        for _ in job.stream():
            pass
    assert caught.value.reason == "JOB_NOT_FOUND" and "removed" in caught.value.message and caught.value.next
    out, err = attached.communicate(timeout=30)
    assert attached.returncode == 1 and b"[JOB_NOT_FOUND]" in err and b"Traceback" not in err, err.decode()
    listed = [one.id for one in host.jobs()]
    assert listed == [bystander.id]
    wait_until(lambda: len(supervisors(local)) == 1, "its supervisor to end by itself")
    assert host.run(["true"]).wait(60).state == "SUCCEEDED"
    bystander_is_unharmed(bystander, tmp_path)

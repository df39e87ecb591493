"""Promises of a job, on real agents and supervisors of the laptop itself (no SSH in the way)."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import moai
import pytest
from fakes import box as boxes
from fakes.sshd import wait_until

TICKER = str(Path(boxes.__file__).with_name("ticker.py"))


@pytest.fixture
def host(local):
    with moai.connect("local") as one:
        yield one


def supervisors(local):
    """Process ids of supervisors below this laptop's state folder."""
    found = boxes.processes_of(local.moai_home)
    return [pid for pid, argv in found.items() if "moai_worker.supervisor" in argv]


def kill(pids, number=signal.SIGKILL):
    for pid in pids:
        os.kill(pid, number)


def is_gone(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return True
    return state in "ZX"


def lines_of(path):
    return path.read_text().split() if path.exists() else []


def test_states_and_exit_codes_are_told_apart(host, tmp_path):
    script = tmp_path / "noexec"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    cases = [
        (["true"], "SUCCEEDED", 0, None),
        (["sh", "-c", "exit 1"], "FAILED", 1, "COMMAND_FAILED"),
        (["sh", "-c", "exit 255"], "FAILED", 255, "COMMAND_FAILED"),
        (["sh", "-c", "kill -TERM $$"], "FAILED", 143, "COMMAND_KILLED"),
        (["sh", "-c", "kill -SEGV $$"], "FAILED", 139, "COMMAND_KILLED"),
        (["no-such-program"], "FAILED", 127, "COMMAND_NOT_FOUND"),
        ([str(script)], "FAILED", 127, "COMMAND_NOT_FOUND"),
        (["/etc/passwd"], "FAILED", 126, "COMMAND_NOT_FOUND"),
    ]
    jobs = [(host.run(argv), state, code, reason) for argv, state, code, reason in cases]
    for job, state, code, reason in jobs:
        info = job.wait(60, check=False)
        assert (info.state, info.exit_code, info.reason.code if info.reason else None) == (state, code, reason), job.info.command


def test_wait_raises_what_happened(host):
    with pytest.raises(moai.JobFailed) as caught:
        host.run(["sh", "-c", "exit 4"]).wait(60)
    assert caught.value.job.exit_code == 4 and caught.value.exit_code == 3
    job = host.run(["sleep", "600"])
    wait_until(lambda: job.refresh().state == "RUNNING", "the command to run")
    with pytest.raises(moai.WaitTimeout):
        job.wait(0.2)
    assert job.refresh().state == "RUNNING", "a wait that gives up changes nothing"
    job.cancel()
    with pytest.raises(moai.JobCancelled):
        job.wait(60)


def test_a_job_ends_well_ten_times_faster_than_it_can_be_looked_at(host):
    jobs = [host.run(["true"]) for _ in range(60)]
    for job in jobs:
        events = list(job.events())
        assert events[-1].data["state"] == "SUCCEEDED"
        running = next(e.sequence for e in events if e.type == "step" and e.data["state"] == "RUNNING")
        assert running < events[-1].sequence
        assert [e.sequence for e in events] == list(range(1, len(events) + 1))


def test_arguments_arrive_byte_for_byte(host):
    words = ["", " ", "a b", "'", '"', "$HOME", "`id`", "*", "\n", "\t", "\\", "한글", "😀", "-n", "--", "a;b", "#", "x" * 5000]
    code = "import json,sys; print(json.dumps(sys.argv[1:]))"
    job = host.run(["python3", "-c", code, *words])
    job.wait(60)
    assert json.loads(b"".join(job.log())) == words


def test_the_same_request_is_the_same_job(host):
    options = moai.JobOptions(request_id="once-and-only-once")
    first = host.run(["sh", "-c", "echo x"], options)
    second = host.run(["sh", "-c", "echo x"], options)
    assert first.id == second.id
    first.wait(60)
    assert host.run(["sh", "-c", "echo x"], options).id == first.id, "also after its end"
    with pytest.raises(moai.Conflict) as caught:
        host.run(["sh", "-c", "echo y"], options)
    assert caught.value.reason == "REQUEST_CONFLICT"
    assert b"".join(first.log()) == b"x\n"


def test_jobs_are_found_by_prefix_name_and_last(host):
    first = host.run(["true"], moai.JobOptions(name="night-run"))
    first.wait(60)
    second = host.run(["true"])
    assert moai.job("last").id == second.id
    assert moai.job(first.id[:-2]).id == first.id
    assert moai.job(f"local/{first.id}").id == first.id
    assert host.job("night-run").id == first.id
    with pytest.raises(moai.NotFound):
        moai.job("no-such-job", on="local")


def test_children_see_their_environment_and_nothing_of_ours(host):
    options = moai.JobOptions(variables={"SHOWN": "a b'c"}, secrets={"HIDDEN": "s3cr3t-value"})
    job = host.run(["python3", "-c", "import os,json,sys; print(json.dumps(dict(os.environ)))"], options)
    job.wait(60)
    env = json.loads(b"".join(job.log()))
    assert env["SHOWN"] == "a b'c" and env["HIDDEN"] == "s3cr3t-value"
    assert env["PYTHONUNBUFFERED"] == "1" and env["COLUMNS"] == "120"
    assert "PYTHONPATH" not in env and "MOAI_HOME" not in env and "GRPC_ENABLE_FORK_SUPPORT" not in env
    spec, plan = job.spec_and_plan()
    assert spec["secrets"] == ["HIDDEN"] and "s3cr3t-value" not in json.dumps([spec, plan])


def test_a_secret_is_nowhere_but_in_the_job(host, local, tmp_path):
    canary = "hf_" + os.urandom(16).hex()
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    done = local.moai(
        "remote", "run", "--on", "local", "--detach", "--secret", "CANARY", "--", "sh", "-c", f"test -n \"$CANARY\" && cat {gate} && exit 3",
        CANARY=canary,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    job = host.job(done.stdout.decode().strip())
    wait_until(lambda: job.refresh().pid > 0, "the command to run")
    needle = canary.encode()
    inside = set()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        for part in ("cmdline", "environ"):
            try:
                data = Path(f"/proc/{name}/{part}").read_bytes()
            except OSError:
                continue
            if needle in data:
                assert part == "environ", Path(f"/proc/{name}/cmdline").read_bytes()
                inside.add(int(name))
    assert inside and job.info.pid in inside
    for pid in inside - {job.info.pid}:
        assert boxes.parent_of(pid) in inside, "only the command and its children have it"
    gate.write_text("go")
    assert job.wait(60, check=False).exit_code == 3
    shown = [local.moai("remote", *words).stdout for words in (["show", job.id, "--json", "--events"], ["jobs", "--json", "--on", "local"])]
    assert all(needle not in text for text in shown)
    for folder in (local.moai_home, local.folder):
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert needle not in path.read_bytes(), path


@pytest.mark.parametrize("count", [60, pytest.param(200, marks=pytest.mark.faults)])
def test_cancel_ends_every_descendant_however_it_hides(host, tmp_path, count):
    code = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def note():
    with open(sys.argv[1], "a") as out: out.write("%d\\n" % os.getpid())
note()
for n in range(int(sys.argv[2])):
    if os.fork() == 0:
        if n % 3 == 0: os.setsid()
        if n % 3 == 1:
            os.setsid()
            if os.fork(): os._exit(0)
        if n % 5 == 0:
            os.environ.clear()
            os.execve(sys.executable, [sys.executable, "-c", "import os,sys,time; open(sys.argv[1],'a').write('%d\\\\n' % os.getpid()); time.sleep(600)", sys.argv[1]], {})
        note()
        time.sleep(600)
time.sleep(600)
"""
    pids = tmp_path / "pids"
    job = host.run([sys.executable, "-c", code, str(pids), str(count)])
    wait_until(lambda: len(lines_of(pids)) >= count + 1, "all descendants to be born", 60)
    begun_s = time.monotonic()
    job.cancel(grace_s=0.5)
    info = job.wait(60, check=False)
    print(f"J3: {count} descendants gone within {time.monotonic() - begun_s:.1f} s, 0.5 of them grace")
    assert (info.state, info.reason.code) == ("CANCELLED", "CANCELLED")
    assert [pid for pid in lines_of(pids) if not is_gone(int(pid))] == []


def test_cancel_is_idempotent_and_harmless_after_the_end(host):
    job = host.run(["sleep", "600"])
    job.cancel(grace_s=1)
    job.cancel(grace_s=1)
    assert job.wait(60, check=False).state == "CANCELLED"
    before = list(job.events())
    job.cancel()
    assert list(job.events()) == before


def test_a_killed_supervisor_is_shown_and_never_succeeds(host, local, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    job = host.run(["sh", "-c", f"cat {gate}; echo after; exit 0"])
    wait_until(lambda: job.refresh().pid > 0, "the command to run")
    kill(supervisors(local))
    wait_until(lambda: job.refresh().conditions != (), "the lost supervisor to be noticed")
    assert job.info.state == "RUNNING" and job.info.conditions[0][0] == "SUPERVISOR_LOST"
    assert str(job.info.pid) in job.info.conditions[0][1]
    gate.write_text("go")
    info = job.wait(60, check=False)
    assert (info.state, info.reason.code, info.exit_code) == ("UNKNOWN", "SUPERVISOR_LOST", None)
    assert b"".join(job.log()) == b"goafter\n", "what it wrote after the kill is there"
    events = list(job.events())
    assert [e.sequence for e in events] == list(range(1, len(events) + 1)) and events[-1].is_last


def test_cancel_works_without_its_supervisor(host, local):
    job = host.run(["sh", "-c", "trap '' TERM; sleep 600 & wait; sleep 600"])
    wait_until(lambda: job.refresh().pid > 0, "the command to run")
    pid = job.info.pid
    kill(supervisors(local))
    wait_until(lambda: job.refresh().conditions != (), "the lost supervisor to be noticed")
    job.cancel(grace_s=0.5)
    assert job.wait(60, check=False).state == "UNKNOWN", "nobody saw how it ended"
    wait_until(lambda: is_gone(pid), "the command to be gone")


def test_no_further_step_runs_after_the_supervisor_was_killed(host, local, tmp_path):
    # Two jobs in one queue: the second's supervisor waits; kill it before its turn.
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    claim = moai.JobOptions(accelerator="default")
    first = host.run(["cat", str(gate)], claim)
    wait_until(lambda: first.refresh().pid > 0, "the first to run")
    seen = set(supervisors(local))
    second = host.run(["touch", str(tmp_path / "ran")], claim)
    wait_until(lambda: second.refresh().state == "QUEUED", "the second to wait")
    kill(set(supervisors(local)) - seen)
    gate.write_text("go")
    assert first.wait(60).state == "SUCCEEDED"
    assert second.wait(60, check=False).state == "UNKNOWN"
    assert not (tmp_path / "ran").exists()


def test_the_queue_needs_neither_agent_nor_laptop(host, local, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    claim = moai.JobOptions(accelerator="default")
    first = host.run(["cat", str(gate)], claim)
    wait_until(lambda: first.refresh().pid > 0, "the first to run")
    out = tmp_path / "token"
    queued = moai.JobOptions(accelerator="default", secrets={"HF_TOKEN": "hf_kept_in_memory"})
    second = host.run(["sh", "-c", f'printf %s "$HF_TOKEN" >{out}'], queued)
    wait_until(lambda: second.refresh().state == "QUEUED", "the second to wait")
    assert first.id in second.info.conditions[0][1], "it says whom it waits for"
    host.close()
    kill([pid for pid, argv in boxes.processes_of(local.moai_home).items() if any("moai_agent" in w for w in argv)])
    gate.write_text("go")

    def have_ended():
        return all(list(local.moai_home.glob(f"hosts/*/jobs/{job.id}/exit.json")) for job in (first, second))

    wait_until(have_ended, "both to end", 30)
    assert out.read_text() == "hf_kept_in_memory"
    again = moai.connect("local")
    assert [again.job(j.id).wait(60).state for j in (first, second)] == ["SUCCEEDED", "SUCCEEDED"]


def test_queued_jobs_run_in_the_order_they_came(host, tmp_path):
    out = tmp_path / "order"
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    claim = moai.JobOptions(accelerator="one")
    jobs = [host.run(["sh", "-c", f"cat {gate}"], claim)]
    wait_until(lambda: jobs[0].refresh().pid > 0, "the first to run")
    for n in range(5):
        jobs.append(host.run(["sh", "-c", f"echo {n} >>{out}"], claim))
        wait_until(lambda: jobs[-1].refresh().state == "QUEUED", "it to wait")
    other = host.run(["true"], moai.JobOptions(accelerator="another"))
    assert other.wait(60).state == "SUCCEEDED", "another accelerator's queue is another queue"
    gate.write_text("go")
    for job in jobs:
        job.wait(60)
    assert lines_of(out) == ["0", "1", "2", "3", "4"]


def test_a_queued_job_can_be_cancelled(host, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    claim = moai.JobOptions(accelerator="default")
    first = host.run(["cat", str(gate)], claim)
    wait_until(lambda: first.refresh().pid > 0, "the first to run")
    second = host.run(["touch", str(tmp_path / "ran")], claim)
    wait_until(lambda: second.refresh().state == "QUEUED", "the second to wait")
    second.cancel()
    assert second.wait(60, check=False).state == "CANCELLED"
    gate.write_text("go")
    first.wait(60)
    assert not (tmp_path / "ran").exists()


def test_max_duration_ends_a_job_with_its_reason(host):
    job = host.run(["sleep", "600"], moai.JobOptions(max_duration_s=0.5))
    info = job.wait(60, check=False)
    assert (info.state, info.reason.code) == ("FAILED", "TIMED_OUT")


def test_delete_removes_the_folder_of_an_ended_job_only(host, local):
    job = host.run(["sleep", "600"])
    with pytest.raises(moai.Conflict) as caught:
        job.delete()
    assert caught.value.reason == "JOB_ACTIVE"
    job.cancel(grace_s=0.5)
    job.wait(60, check=False)
    folder = Path(job.info.folder)
    job.delete()
    assert not folder.exists()
    with pytest.raises(moai.NotFound):
        host.job(job.id)


def test_another_owners_job_is_not_touched_without_force(host, monkeypatch):
    job = host.run(["sleep", "600"])
    monkeypatch.setenv("LOGNAME", "somebody-else")
    with pytest.raises(moai.Conflict) as caught:
        job.cancel()
    assert caught.value.reason == "JOB_NOT_OWNED" and "mina@" in caught.value.message
    job.cancel(grace_s=0.5, force=True)
    assert job.wait(60, check=False).state == "CANCELLED"


def test_a_grandchild_that_keeps_stdout_does_not_hold_up_the_end(host):
    job = host.run(["sh", "-c", "(trap '' TERM HUP; sleep 600) & echo main"])
    info = job.wait(30, check=False)
    assert info.state == "SUCCEEDED"
    assert b"".join(job.log()) == b"main\n"


def test_stdin_is_at_its_end_at_once_and_nothing_else_is_open(host):
    job = host.run(["sh", "-c", "cat; ls -l /proc/self/fd | sed 1d | wc -l; readlink /proc/$$/fd/0"])
    job.wait(60)
    shown = b"".join(job.log()).decode().split()
    assert shown[1] == "/dev/null" and int(shown[0]) <= 4, shown


def test_the_log_is_kept_byte_for_byte(host, tmp_path):
    blob = tmp_path / "blob"
    blob.write_bytes(os.urandom(300_000) + b"\xed\x95" + b"\r\n\x00\x1b[31m" + b"no newline at the end")
    job = host.run(["cat", str(blob)])
    job.wait(60)
    assert b"".join(job.log()) == blob.read_bytes()
    assert b"".join(job.log(-21)) == b"no newline at the end"
    assert b"".join(job.log(299_990)) == blob.read_bytes()[299_990:]
    with pytest.raises(moai.Conflict) as caught:
        list(job.log(10**9))
    assert caught.value.reason == "OFFSET_OUT_OF_RANGE"


def test_the_agent_is_adopted_by_a_new_one_in_a_hundred_kills(host, local, tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    rounds = 100 if os.environ.get("MOAI_TEST_SEEDS") else 12
    job = host.run(["python3", TICKER, str(folder), "3000", "300", "0", str(rounds * 0.25)])
    # A supervisor that is just being started still has the name of what starts it, and must not be hit.
    wait_until(lambda: (folder / "spawned").exists(), "the command to run", 30.0)
    for _ in range(rounds):
        if job.refresh().ended:
            break
        kill([pid for pid, argv in boxes.processes_of(local.moai_home).items() if any("moai_agent" in w for w in argv) and boxes.parent_of(pid) == 1])
    events = list(job.events())
    assert [e.sequence for e in events] == list(range(1, len(events) + 1))
    assert [e.data["step"] for e in events if e.type == "metric"] == list(range(1, 301))
    assert events[-1].data["state"] == "SUCCEEDED"
    assert len((folder / "spawned").read_text().split()) == 1

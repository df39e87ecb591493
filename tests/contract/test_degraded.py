"""When the agent cannot start, jobs are still seen, read and ended, over plain SSH."""

import json
import os
import signal
import tarfile

import moai
import pytest
from fakes import box as boxes
from fakes.box import Box
from fakes.sshd import wait_until


@pytest.fixture
def broken(tmp_path, need_sshd, as_laptop):
    """A box with an ended and a running job, whose agent cannot start any more."""
    with Box(tmp_path, look_alike=False) as box:
        as_laptop(box.laptop)
        host = moai.connect("box")
        done = host.run(["sh", "-c", "echo done; exit 7"])
        done.wait(60, check=False)
        running = host.run(["sh", "-c", "echo first; trap '' TERM; sleep 600"])
        wait_until(lambda: running.refresh().log_bytes > 0, "the command to run")
        host.close()
        # The agent's own libraries are gone (a half-deleted home, another Python, a bad disk).
        for lib in (box.moai_home / "payload").glob("*/lib"):
            lib.rename(lib.with_name("lib-gone"))
        for pid in box.agent_pids():
            os.kill(pid, signal.SIGKILL)
        box.moai("remote", "disconnect")
        yield box, done, running


def test_jobs_logs_and_cancel_need_no_agent(broken):
    box, done, running = broken
    listed = box.moai("remote", "jobs")
    assert listed.returncode == 0, listed.stderr.decode()
    assert b"the agent cannot be started" in listed.stderr and b"plain SSH" in listed.stderr
    rows = {line.split()[1]: line for line in listed.stdout.decode().splitlines()[1:]}
    assert "FAILED" in rows[done.id] and "exit 7" in rows[done.id]
    assert "RUNNING" in rows[running.id]
    log = box.moai("remote", "logs", done.id)
    assert (log.returncode, log.stdout) == (0, b"done\n")
    followed = box.moai("remote", "logs", "-f", running.id)
    assert followed.returncode == 1 and b"the agent did not start" in followed.stderr
    ended = box.moai("remote", "cancel", running.id, "--grace", "0.5")
    assert ended.returncode == 0, ended.stderr.decode()
    assert b"CANCELLED" in ended.stdout
    left = boxes.processes_of(box.home)
    assert not any("sleep" in argv for argv in left.values()), left


def test_what_happened_meanwhile_is_in_the_journal_once_the_agent_is_back(broken):
    box, _, running = broken
    assert box.moai("remote", "cancel", running.id, "--grace", "0.5").returncode == 0
    for lib in (box.moai_home / "payload").glob("*/lib-gone"):
        lib.rename(lib.with_name("lib"))
    events = list(moai.connect("box").job(running.id).events())
    assert [e.sequence for e in events] == list(range(1, len(events) + 1))
    assert events[-1].data["state"] == "CANCELLED"


def test_an_unknown_job_is_an_error_there_too(broken):
    box, _, _ = broken
    asked = box.moai("remote", "logs", "--on", "box", "no-such-job")
    assert asked.returncode == 1 and b"no job" in asked.stderr


def test_a_report_needs_no_agent(broken, tmp_path):
    box, done, _ = broken
    path = tmp_path / "report.tar.gz"
    made = box.moai("remote", "report", done.id, "-o", str(path))
    assert made.returncode == 0, made.stderr.decode()
    assert b"without devices.json" in made.stderr and b"without log.txt" not in made.stderr
    with tarfile.open(path) as archive:
        found = {m.name.partition("/")[2]: archive.extractfile(m).read().decode() for m in archive.getmembers()}
    assert found["log.txt"] == "done\n" and json.loads(found["job.json"])["exit_code"] == 7
    assert json.loads(found["spec.json"])["id"] == done.id and json.loads(found["plan.json"])["steps"]
    assert '"FAILED"' in found["events.jsonl"] and "FAILED" in found["phases.txt"] and "agent.log" in found

"""The power fails: what was acknowledged, and how a job ended, is still there.

Row S8 of the fault list in docs/reliability.md. The state folder is an ext4 file system on a file; a copy of that file is
what a disk would hold if the power had failed at that moment, because what nobody has synced is not in it.
"""

import hashlib
import json
import os
import subprocess
import tempfile
from pathlib import Path

import moai
import pytest
from e2e.reach import ready, runs, said
from fakes.box import Box, Laptop, kill_below
from fakes.rooted import Disk, need_root
from fakes.sshd import wait_until
from test_agent_faults import FULL, ticker

pytestmark = [pytest.mark.faults, need_root]


@pytest.fixture
def disk(tmp_path):
    """Mounted on a short path: a longer one is reached through an open folder, which would keep it mounted."""
    short = Path(tempfile.mkdtemp(prefix="moai-"))
    with Disk(tmp_path, short) as one:
        yield one
    short.rmdir()


@pytest.fixture
def local(disk, tmp_path, monkeypatch):
    """As the fixture of that name, with its state folder on the disk."""
    laptop = Laptop(tmp_path / "laptop")
    laptop.env["MOAI_HOME"] = str(disk.path)
    for name in ("HOME", "USER", "LOGNAME", "MOAI_HOME", "MOAI_CONFIG", "MOAI_CACHE", "MOAI_ENGINE"):
        monkeypatch.setenv(name, laptop.env[name])
    yield laptop
    for folder in (disk.path, tmp_path):
        kill_below(folder)


def after(local, path, *words):
    """A command on what the disk held, in a PID namespace of its own: a container that has just been started."""
    fresh = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    env = {**os.environ, **local.env, "MOAI_HOME": str(path)}
    argv = [*fresh, *local.argv, "remote", *words, "--on", "local"]
    return subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)


def listed_after(local, path):
    done = after(local, path, "jobs", "--json")
    assert done.returncode == 0, said(done)
    return {one["job"]: (one["state"], one["exit_code"]) for one in json.loads(done.stdout)["jobs"]}


def test_s8_what_was_acknowledged_survives_a_power_cut_from_the_first_submission_on(disk, local, tmp_path):
    """The identity of the container and the agent's own files included: without them nothing is found again."""
    rounds = 12 if FULL else 4
    known = {}
    with moai.connect("local") as host:
        for number in range(rounds):
            running = host.run(["sleep", "300"], moai.JobOptions(request_id=f"running-{number:04d}"))
            path = disk.cut()  # The moment of the acknowledgement; in the first round, seconds after the installation.
            found = listed_after(local, path)
            assert running.id in found, "an acknowledged submission is lost"
            assert {job: found.get(job) for job in known} == known
            ended = host.run(["sh", "-c", f"echo {number}; exit {number % 3}"])
            info = ended.wait(60, check=False)
            known[ended.id] = (info.state, info.exit_code)
            found = listed_after(local, disk.cut())
            assert {job: found.get(job) for job in known} == known, "an end that was told is lost"
            running.cancel(grace_s=0.5)
            info = running.wait(60, check=False)
            known[running.id] = (info.state, info.exit_code)
    assert {state for state, _ in known.values()} == {"SUCCEEDED", "FAILED", "CANCELLED"}


def test_s8_a_job_whose_power_failed_is_interrupted_and_goes_on_by_resume(disk, local, tmp_path):
    with moai.connect("local") as host:
        job = ticker(host, tmp_path / "job", 0.2, tmp_path / "gate")
        wait_until(lambda: (tmp_path / "job" / "spawned").exists(), "the job to run")
        path = disk.cut()
    ended = after(local, path, "wait", job.id, "--timeout", "30")
    assert ended.returncode == 8, said(ended)
    shown = json.loads(after(local, path, "show", job.id, "--json").stdout)
    assert (shown["state"], shown["reason"]["code"]) == ("INTERRUPTED", "CONTAINER_RESTARTED"), shown
    planned = after(local, path, "resume", job.id, "--dry-run")
    assert planned.returncode == 0, said(planned)


def test_s8_an_agent_that_was_installed_a_moment_ago_is_whole_after_a_power_cut(disk, tmp_path, need_sshd):
    ready()
    with Box(tmp_path, home=disk.path, look_alike=False) as box:
        runs(box)
        payload = next(path for path in (disk.cut() / ".moai" / "payload").iterdir() if path.is_dir())
        files = json.loads((payload / "manifest.json").read_text())["payload"]
        spoilt = [name for name, digest in files.items() if hashlib.sha256((payload / name).read_bytes()).hexdigest() != digest]
        assert files and spoilt == []

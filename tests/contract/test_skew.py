"""Two versions of moai at one container: the tag 0.1.0 and this tree, each as laptop and as agent.

The older one comes from the repository's tag; its agent's bundle is made of the same wheels, so no index is asked.
Rows V1, V2 and V4 of the fault list in docs/reliability.md, and S9 where it concerns job folders.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import oracles
import pytest
from e2e.reach import one_agent, ready, said
from fakes import box as boxes
from fakes.box import Box, Laptop
from fakes.sshd import find_sshd, wait_until
from moai import _skew
from moai_proto.v1 import job_pb2, training_pb2
from pulse import Pulse
from test_kills import Listener

REPO = Path(__file__).resolve().parents[2]
#: The release before this tree: its tag, and its commit for a clone that was made without tags.
RELEASE = ("0.1.0", "d0b4fdcb929177aaaca3e161fce4629a5c842df8")
LINES, METRICS, EXIT = 1500, 150, 37


@pytest.fixture(scope="module")
def old_tree(tmp_path_factory):
    """The sources of the release."""
    for name in RELEASE:
        done = subprocess.run(["git", "-C", str(REPO), "archive", name, "client", "proto", "agent"], capture_output=True, timeout=60)
        if done.returncode == 0:
            break
    else:
        pytest.skip(f"SKIPPED LOUDLY: this clone lacks release {RELEASE[0]}: {done.stderr.decode()[-200:]}")
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def old_laptop(box: Box, tree: Path) -> Laptop:
    """A second laptop that reaches the same container with the older moai."""
    laptop = Laptop(box.folder / "old-laptop", box.ssh_config)
    shutil.copy(box.laptop.folder / "config" / "config.toml", laptop.folder / "config" / "config.toml")
    laptop.env["PYTHONPATH"] = os.pathsep.join([str(tree / "client"), str(tree / "proto")])
    return laptop


@pytest.fixture
def pair(tmp_path, old_tree, need_sshd):
    """(container, laptop with 0.1.0); the laptop of the box has this tree."""
    ready()
    with Box(tmp_path, look_alike=False) as box:
        shutil.copy(Path(boxes.__file__).with_name("ticker.py"), box.home / "ticker.py")
        yield box, old_laptop(box, old_tree)


def ok(done, code=0):
    assert done.returncode == code, said(done)
    return done.stdout.decode()


def submit(laptop, *words: str) -> str:
    return ok(laptop.moai("remote", "run", "-d", "--", *words)).strip()


@pytest.mark.faults
def test_an_agent_of_the_last_release_reads_all_writes_or_says_why_and_is_upgraded_under_five_jobs(pair, tmp_path):
    box, old = pair
    ended = submit(old, "sh", "-c", "echo from the old one; exit 7")
    ok(old.moai("remote", "wait", ended), 3)
    agent = one_agent(box)

    # Reads.
    listed = json.loads(ok(box.moai("remote", "jobs", "--json")))["jobs"]
    assert {one["job"] for one in listed} == {ended}
    assert ok(box.moai("remote", "logs", ended, "--on", "box")) == "from the old one\n"
    shown = json.loads(ok(box.moai("remote", "show", ended, "--json")))
    assert (shown["state"], shown["exit_code"]) == ("FAILED", 7)
    # Writes that it knows.
    made = submit(box.laptop, "sleep", "300")
    ok(box.moai("remote", "cancel", made))
    ok(box.moai("remote", "wait", made), 7)
    # What it does not know: said, nothing started, nothing forgotten.
    count = len(json.loads(ok(box.moai("remote", "jobs", "--json")))["jobs"])
    for words in (
        ["disk"],
        ["jobs", "--others"],
        # Without a word, an agent of 0.1.0 takes the dry run that comes before every resume for a resume.
        ["resume", ended, "-d"],
        ["resume", ended, "--dry-run"],
        ["run", "-d", "--retries", "2", "--", "true"],
        ["run", "-d", "--on-finish", "true", "--", "true"],
        ["run", "-d", "--git", "https://example.invalid/x.git", "--", "true"],
    ):
        done = box.moai("remote", *words)
        assert done.returncode == 1 and b"the running agent does not know" in done.stderr, (words, said(done))
        assert b"moai remote up" in done.stderr and b"Traceback" not in done.stderr
    assert len(json.loads(ok(box.moai("remote", "jobs", "--json")))["jobs"]) == count
    assert one_agent(box) == agent, "looking on replaced the agent"

    # The upgrade, while five jobs run and are followed; none gets past its middle before.
    jobs, gate = {}, tmp_path / "gate"
    for number in range(5):
        folder = tmp_path / f"job{number}"
        folder.mkdir()
        jobs[submit(old, "python3", "ticker.py", str(folder), str(LINES), str(METRICS), str(EXIT), "2", str(gate))] = folder
    listeners = {job: Listener(box, job, tmp_path / f"listen-{job}") for job in jobs}
    try:
        for listen in listeners.values():
            listen.start()
        for job in jobs:
            seen = tmp_path / f"listen-{job}" / "log"
            wait_until(lambda: seen.exists() and seen.stat().st_size > 0, f"{job} to be followed", 60.0)
        pulse = Pulse(box)
        wait_until(lambda: len(pulse.lines) > 5, "the pulse", 60.0)
        ok(box.moai("remote", "up"))
        assert one_agent(box) != agent
        upgraded = len(pulse.lines)
        wait_until(lambda: len(pulse.lines) > upgraded + 5, "the pulse after the upgrade", 60.0)
        pulse.end()
        print(f"V2: at most {pulse.longest_gap_s():.2f} s without a line through the upgrade, 6 jobs followed")
        assert not any((box.job_dir(job) / "exit.json").exists() for job in jobs)
        gate.touch()
        ok(box.moai("remote", "disk", "--json"))
        for listen in listeners.values():
            listen.wait(90.0)
    finally:
        for listen in listeners.values():
            if listen.process.poll() is None:
                listen.kill()
    for job, folder in jobs.items():
        kept = tmp_path / f"listen-{job}"
        events = oracles.read_events(kept / "events")
        oracles.check_ev(events)
        oracles.check_log((kept / "log").read_bytes(), (folder / "sha256").read_text())
        oracles.check_exit(events, "FAILED", EXIT)
        oracles.check_one(folder, events)
        assert oracles.metrics_of(events) == list(range(1, METRICS + 1))
    # Folders that 0.1.0 made are read by this agent as well.
    assert ok(box.moai("remote", "logs", ended)) == "from the old one\n"
    assert json.loads(ok(box.moai("remote", "show", ended, "--json")))["exit_code"] == 7
    again = ok(box.moai("remote", "resume", ended, "-d")).split()[-1]
    ok(box.moai("remote", "wait", again), 3)
    assert ok(box.moai("remote", "logs", again)) == "from the old one\n"


def test_the_last_release_works_with_this_agent(pair):
    """Its reads and writes; and the job it submits is the same for both."""
    box, old = pair
    first = submit(box.laptop, "sh", "-c", "echo new; exit 3")
    ok(box.moai("remote", "wait", first), 3)
    agent = one_agent(box)
    assert {one["job"] for one in json.loads(ok(old.moai("remote", "jobs", "--json")))["jobs"]} == {first}
    assert ok(old.moai("remote", "logs", "--on", "box", first)) == "new\n"
    assert json.loads(ok(old.moai("remote", "show", "--on", "box", first, "--json")))["exit_code"] == 3
    assert ok(old.moai("remote", "run", "--", "echo", "old")) == "old\n"
    made = submit(old, "sleep", "300")
    ok(old.moai("remote", "cancel", made))
    ok(box.moai("remote", "wait", made, "--on", "box"), 7)
    assert one_agent(box) == agent, "the older laptop replaced the agent without being asked"


# -- ranges that do not meet -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """A container whose agent can be made to claim any protocol and version."""
    if find_sshd() is None:
        pytest.skip("SKIPPED LOUDLY: sshd is not installed (apt-get install openssh-server)")
    ready()
    with Box(tmp_path_factory.mktemp("spoken"), look_alike=False) as box:
        ok(box.moai("remote", "run", "--", "true"))
        yield box


def claim(box: Box, **facts) -> None:
    """What the relay tells of the running agent from now on."""
    box.moai("remote", "disconnect")
    path = box.host_dir / "run" / "agent.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


@pytest.mark.parametrize(("low", "high", "reason"), [(3, 4, "CLIENT_TOO_OLD"), (0, 0, "AGENT_TOO_OLD")])
def test_protocols_that_do_not_meet_are_refused_by_name_and_job_folders_stay_readable(spoken, low, high, reason):
    agent = one_agent(spoken)
    claim(spoken, protocol_min=low, protocol_max=high)
    try:
        for words in (["run", "--", "true"], ["devices"]):
            done = spoken.moai("remote", *words)
            assert done.returncode == 1 and f"[{reason}]".encode() in done.stderr and b"next:" in done.stderr, said(done)
            assert b"Traceback" not in done.stderr
        # The folders are read without that agent.
        assert json.loads(ok(spoken.moai("remote", "jobs", "--json")))["jobs"]
        assert one_agent(spoken) == agent
    finally:
        claim(spoken, protocol_min=1, protocol_max=2)


def test_up_never_replaces_a_newer_agent_unless_told(spoken):
    agent = one_agent(spoken)
    claim(spoken, version="99.0.0")
    done = spoken.moai("remote", "up")
    assert done.returncode == 1 and b"[CLIENT_TOO_OLD]" in done.stderr and b"--force" in done.stderr, said(done)
    assert one_agent(spoken) == agent
    ok(spoken.moai("remote", "up", "--force"))


# -- fields ------------------------------------------------------------------------------------------

_FIELDS = """
import json, sys
from moai_proto.v1 import dataset_pb2, device_pb2, environment_pb2, file_pb2, job_pb2, model_pb2, training_pb2
out = {}
for module in (dataset_pb2, device_pb2, environment_pb2, file_pb2, job_pb2, model_pb2, training_pb2):
    for name, message in module.DESCRIPTOR.message_types_by_name.items():
        out[name] = [field.name for field in message.fields]
json.dump(out, sys.stdout)
"""


def fields_of(proto: Path) -> dict[str, list[str]]:
    done = subprocess.run([sys.executable, "-c", _FIELDS], env={"PYTHONPATH": str(proto)}, capture_output=True, timeout=60, check=True)
    return json.loads(done.stdout)


def test_no_field_of_a_request_is_forgotten_by_an_older_agent_without_a_word(old_tree):
    """A new field of a message that 0.1.0 has must be listed: refused by an older agent, or harmless without."""
    old, new = fields_of(old_tree / "proto"), fields_of(REPO / "proto")
    told = {(m, f) for m, versions in _skew.NEEDS.items() for names in versions.values() for f in names.split()}
    told |= {(m, f) for m, names in _skew.MAY_BE_DROPPED.items() for f in names.split()}
    answers = ("Response", "Event", "View")
    parts_of_answers = {"Job", "Step", "Condition", "Reason", "Check", "Device", "Environment", "Mount", "StoredItem"}
    added = {
        (name, field)
        for name, fields in new.items()
        if name in old and not name.endswith(answers) and name not in parts_of_answers
        for field in fields
        if field not in old[name]
    }
    assert added - told == set(), "list these in moai/_skew.py: NEEDS, or MAY_BE_DROPPED when nothing changes without them"
    known = {(name, field) for name, fields in new.items() for field in fields}
    assert told - known == set(), "there are no such fields any more"


def test_what_a_request_needs_is_found_wherever_it_stands():
    assert _skew.needed(job_pb2.RunCommandRequest(options=job_pb2.JobOptions(name="x"))) == (1, [])
    assert _skew.needed(job_pb2.RunCommandRequest(options=job_pb2.JobOptions(retries=2))) == (2, ["retries"])
    spec = training_pb2.TrainingSpec(gpus="all")
    assert _skew.needed(training_pb2.StartTrainingRequest(training=spec))[0] == 2
    assert _skew.is_newer("0.2.0", "0.1.9") and not _skew.is_newer("0.1.0", "0.1.0") and not _skew.is_newer("x", "0.1.0")

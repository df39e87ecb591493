"""A fleet of look-alikes as one: brought up, looked at and put to work together; half of it killed and back.

``MOAI_TEST_FLEET`` says how many (6; 16 in ``make test-faults``).
"""

import json
import os

import moai
import pytest
from fakes.many import Many
from fakes.sshd import find_sshd, wait_until

COUNT = int(os.environ.get("MOAI_TEST_FLEET") or 6)
BEFORE, AFTER = 20, 20

#: Twenty reports, a wait for the word, twenty more. Opened for both ways, so that it waits without a writer.
JOB = r"""
report() { printf '{"t": %s.0, "step": "", "type": "metric", "data": {"step": %d, "values": {"loss": 1.5}}}\n' "$(date +%s)" "$1" >>"$MOAI_REPORTS"; }
i=0
while [ $i -lt BEFORE ]; do report $i; echo "line $i"; i=$((i + 1)); done
read -r word <>"$HOME/go"
while [ $i -lt TOTAL ]; do report $i; echo "line $i"; i=$((i + 1)); done
""".replace("BEFORE", str(BEFORE)).replace("TOTAL", str(BEFORE + AFTER))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    if find_sshd() is None:
        pytest.skip("SKIPPED LOUDLY: sshd is not installed (apt-get install openssh-server)")
    with Many(tmp_path_factory.mktemp("many"), COUNT) as made:
        for one in made.containers:
            os.mkfifo(one.home / "go", 0o600)
        yield made


@pytest.fixture
def laptop(many, as_laptop):
    as_laptop(many.laptop)
    return many.laptop


def test_fresh_containers_come_up_together_from_one_bundle(many, laptop):
    """Sixteen bootstraps at once share one build, in order, and each container gets an agent of its own."""
    bundles = laptop.folder / "cache" / "bundles"
    before = {path.name for path in bundles.glob("*.tar.gz")}
    done = laptop.moai("remote", "up", "@pool")
    assert done.returncode == 0, done.stderr.decode()
    said = [line.split(":")[0] for line in done.stderr.decode().splitlines() if line.endswith("is up")]
    assert said == many.names
    assert len({path.name for path in bundles.glob("*.tar.gz")} - before) <= 1
    digests = {tuple(sorted(p.name for p in (one.home / ".moai" / "payload").iterdir() if not p.name.startswith("."))) for one in many.containers}
    assert len(digests) == 1
    assert all(one.agent_pids() for one in many.containers)


def test_the_devices_of_all_in_one_command(many, laptop):
    done = laptop.moai("remote", "devices", "--on", "all", "--json")
    assert done.returncode == 0, done.stderr.decode()
    hosts = json.loads(done.stdout)["hosts"]
    assert [h["host"] for h in hosts] == many.names
    assert all(h["error"] is None and h["devices"][0]["flavor"] == "4xLarge.2048GB" for h in hosts)


def test_half_the_fleet_dies_under_running_jobs_and_is_picked_up_again(many, laptop):
    """One merged stream over a job on each: 1..N of every host whatever died, and the rest never notices."""
    dark = many.containers[: COUNT // 2]
    dead = {one.alias for one in dark}
    alive = [name for name in many.names if name not in dead]
    links: list[tuple[str, str]] = []
    with moai.Fleet("@pool") as fleet:
        jobs = fleet.run(["sh", "-c", JOB]).check()
        assert len({job.id for job in jobs.values()}) == COUNT
        sequences = {name: [] for name in jobs}
        steps = {name: [] for name in jobs}
        logs = {name: b"" for name in jobs}
        ended = []
        stage = "before"
        stream = fleet.events(jobs.values(), log=True, on_link=lambda name, error: links.append((name, error.reason if error else "back")))
        for item in stream:
            if isinstance(item, moai.LogChunk):
                assert item.offset == len(logs[item.host]), "a byte lost or repeated"
                logs[item.host] += item.data
                continue
            sequences[item.host].append(item.sequence)
            if item.type == "metric":
                steps[item.host].append(item.data["step"])
            if item.is_last:
                ended.append(item.host)
            if stage == "before" and all(len(of) == BEFORE for of in steps.values()):
                stage = "dark"
                for one in dark:
                    one.go_dark()
                for one in many.containers:
                    # The dark ones' jobs go on as well, with nobody to tell.
                    with open(one.home / "go", "r+b", buffering=0) as word:
                        word.write(b"go\n")
                        wait_until(lambda one=one: _reports(one) == BEFORE + AFTER, f"the job on {one.alias} to go on", 30)
            if stage == "dark" and len(ended) == len(alive):
                stage = "back"
                assert set(ended) == set(alive)
                wait_until(lambda: {name for name, _ in links} == dead, "the lost links to be told")
                assert all(reason in ("LINK_LOST", "HOST_UNREACHABLE") for _, reason in links)
                answers = fleet.devices()
                assert set(answers.failed) == dead and list(answers.ok) == alive
                assert {error.reason for error in answers.failed.values()} == {"HOST_UNREACHABLE"}
                listed = laptop.moai("remote", "jobs", "--on", "all", "--json")
                assert listed.returncode == 4 and {e["host"] for e in json.loads(listed.stdout)["errors"]} == dead
                for one in dark:
                    one.come_back()
        assert stage == "back"
        assert {name for name, what in links if what == "back"} == dead, "each lost link is said to be back"
        for name in jobs:
            assert sequences[name] == list(range(1, len(sequences[name]) + 1)), name
            assert steps[name] == list(range(BEFORE + AFTER)), name
            assert logs[name].decode() == "".join(f"line {n}\n" for n in range(BEFORE + AFTER)), name
        assert {job.refresh().state for job in jobs.values()} == {"SUCCEEDED"}
        assert not fleet.devices().failed


def _reports(one) -> int:
    (path,) = one.home.glob(".moai/hosts/*/jobs/*/reports.jsonl")
    return path.read_text().count('"metric"')

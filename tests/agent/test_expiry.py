"""Code of deleted jobs goes 14 days later; what a job wrote, and what is used, stays."""

import os
import time

import pytest
from moai_agent import expiry
from moai_agent.snapshots import Snapshots
from moai_worker import jobdir
from moai_worker.steps import code

DAY = 86400.0
LATE = 15 * DAY


class File:
    """As in PlanSnapshot."""

    def __init__(self, path, data):
        import hashlib

        self.path, self.sha256, self.size_bytes, self.executable = path, hashlib.sha256(data).hexdigest(), len(data), False


class Quiet:
    """Takes what a step says."""

    def phase(self, *_):
        """Nothing to keep."""


@pytest.fixture
def work(tmp_path):
    """A work folder whose snapshot a job of host ``h1`` has a copy of; (path, plan of the job)."""
    folder = tmp_path / "work"
    snapshots = Snapshots(str(folder))
    files = {"main.py": b"print(1)", "lib/part.txt": b"part"}
    listed = [File(path, data) for path, data in files.items()]
    snapshot, _ = snapshots.plan(listed)
    for file in listed:
        snapshots.put(file.sha256, [files[file.path]])
    inputs = {
        "manifest": snapshots.named(snapshot).manifest, "contents": snapshots.contents,
        "target": str(folder / "code" / "jobs" / "swift-otter"), "job": str(tmp_path / "hosts" / "h1" / "jobs" / "swift-otter"),
    }  # fmt: skip
    code.run(inputs, Quiet())
    plan = {"steps": [{"name": "code", "module": "code", "inputs": inputs}]}
    return folder, plan


def later(folder, plans=(), host="h1", seconds=LATE):
    """A first look that finds the job gone, and one that much later."""
    now = time.time()
    expiry.expire(str(folder), dict(plans), host, now)
    return expiry.expire(str(folder), dict(plans), host, now + seconds)


def test_the_copy_of_a_deleted_job_goes_with_its_snapshot_and_contents(work):
    folder, _ = work
    first = expiry.expire(str(folder), {}, "h1", time.time() + LATE)
    assert first.removed == [], "nobody knows for how long the job has been gone"
    assert expiry.expire(str(folder), {}, "h1", time.time() + LATE + 13 * DAY).removed == []
    gone = expiry.expire(str(folder), {}, "h1", time.time() + 2 * LATE)
    assert str(folder / "code" / "jobs" / "swift-otter") in gone.removed and gone.bytes >= 12
    left = [name for _, _, names in os.walk(str(folder)) for name in names]
    assert left == []


@pytest.mark.parametrize("name", ["swift-otter", "its-child"])
def test_a_copy_that_a_job_has_or_goes_on_in_stays_with_its_snapshot(work, name):
    folder, plan = work
    expiry.expire(str(folder), {}, "h1", time.time())
    assert later(folder, {name: plan}) == ([], 0, [])
    assert not (folder / "code" / "jobs" / "swift-otter" / expiry.GONE).exists(), "its time begins anew"


@pytest.mark.parametrize("written", ["result.txt", "lib/part.txt"])
def test_a_copy_the_job_wrote_into_is_kept_and_named(work, written):
    folder, _ = work
    copy = folder / "code" / "jobs" / "swift-otter"
    marker = os.stat(str(copy / ".moai" / "snapshot"))
    while time.time() <= marker.st_mtime + 0.01:
        pass
    (copy / written).write_text("mine")
    os.utime(str(copy / written), (1, 1))  # As an unpacked archive would have it.
    found = later(folder)
    assert [path for path, _ in found.kept] == [str(copy)] and written in found.kept[0][1]
    assert (copy / written).read_text() == "mine" and (copy / "main.py").exists()


def test_caches_and_our_own_marks_are_no_results(work):
    folder, _ = work
    copy = folder / "code" / "jobs" / "swift-otter"
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "main.cpython-38.pyc").write_bytes(b"x")
    assert str(copy) in later(folder).removed


def test_another_containers_copy_and_one_that_is_being_made_are_left_alone(work):
    folder, _ = work
    assert later(folder, host="h2") == ([], 0, [])
    (folder / "code" / "jobs" / "swift-otter" / ".moai" / "snapshot").unlink()
    assert str(folder / "code" / "jobs" / "swift-otter") not in later(folder).removed


def test_a_snapshot_sent_again_counts_from_then(work):
    folder, _ = work
    now = time.time()
    old = now - LATE
    for path in list((folder / "code" / "snapshots").iterdir()) + [p for g in (folder / "code" / "contents").iterdir() for p in g.iterdir()]:
        os.utime(str(path), (old, old))
    import shutil

    shutil.rmtree(str(folder / "code" / "jobs"))
    Snapshots(str(folder)).plan([File("main.py", b"print(1)"), File("lib/part.txt", b"part")])
    assert expiry.expire(str(folder), {}, "h1", now) == ([], 0, [])


def test_a_mirror_nobody_fetched_from_goes(tmp_path):
    folder = tmp_path / "work" / "code" / "git"
    (folder / "repo-1.git" / "objects").mkdir(parents=True)
    (folder / "repo-1.lock").write_text("")
    now = time.time()
    assert expiry.expire(str(tmp_path / "work"), {}, "h1", now).removed == []
    assert expiry.expire(str(tmp_path / "work"), {}, "h1", now + LATE).removed == [str(folder / "repo-1.git")]
    assert list(folder.iterdir()) == [folder / "repo-1.lock"]


def test_it_looks_once_a_day_while_nothing_happens(tmp_path):
    class Config:
        """What is asked of the agent's."""

        def __init__(self):
            from moai_worker.jobdir import HostDir

            self.host, self.host_id = HostDir(str(tmp_path), "h1").create(), "h1"

    config = Config()
    assert not expiry.is_due(config, 10.0, 0) and not expiry.is_due(config, 1000.0, 1)
    assert expiry.is_due(config, 1000.0, 0)
    expiry.remember(config, str(tmp_path / "work"))
    expiry.remember(config, str(tmp_path / "work"))
    assert jobdir.read_json(config.host.settings)["code_works"] == [str(tmp_path / "work")]
    assert expiry.look(config, lambda: True) == []
    assert not expiry.is_due(config, 1000.0, 0)

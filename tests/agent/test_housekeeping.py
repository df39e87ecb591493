"""What may go and what must stay: every rule of a cleaning, on folders made by hand; no agent, no server."""

import json
import os
import subprocess
import sys
import time

import pytest
from moai_agent import cleaning, housekeeping, removal
from moai_agent.config import Config
from moai_agent.errors import AgentError
from moai_agent.jobs import foreign
from moai_agent.jobs.store import Entry
from moai_worker import identity, jobdir

DAY = 86400.0
OWNER = "mina@laptop"


class Ground:
    """A state folder and a work folder, filled by hand."""

    def __init__(self, tmp_path, monkeypatch):
        self.home = tmp_path / "home"
        self.work = self.home / "moai-work"
        self.state = self.home / ".moai"
        for folder in (self.work, self.state / "payload" / "aaaa000000000000"):
            folder.mkdir(parents=True)
        monkeypatch.setenv("HOME", str(self.home))
        monkeypatch.setenv("MOAI_HOME", str(self.state))
        self.config = Config(str(self.state), str(self.state / "payload" / "aaaa000000000000"), 900.0)
        jobdir.write_json(self.config.host.settings, {"work": str(self.work)})
        self.entries = []

    def put(self, path, text="x" * 5000, age_days=30.0):
        """A file of this age; its folders get it too."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self.age(path, age_days)
        return path

    def age(self, path, days=30.0):
        then = time.time() - days * DAY
        os.utime(str(path), (then, then))
        for parent in path.parents:
            if self.home not in parent.parents:
                break
            os.utime(str(parent), (then, then))

    def job(self, name, state="SUCCEEDED", age_days=30.0, kind="command", owner=OWNER, output="", steps=(), ended=True):
        """A job folder and its entry in the store."""
        job = self.config.host.job(name)
        os.makedirs(job.control)
        spec = {"id": name, "kind": kind, "owner": owner, "agent_digest": "aaaa000000000000", "host_id": self.config.host_id}
        plan = {"steps": list(steps), "output": output}
        jobdir.write_json(job.spec, spec)
        jobdir.write_json(job.plan, plan)
        with open(job.log, "w") as out:
            out.write("line\n" * 2000)
        view = {"state": state, "end": time.time() - age_days * DAY}
        if ended:
            jobdir.write_json(job.exit, {"state": state})
        self.entries.append(Entry(job, spec, plan, view))
        return job

    def inventory(self, **limits):
        jobs = housekeeping.known_jobs(self.entries)
        return housekeeping.Inventory(self.config, jobs, "", housekeeping.Counter(**limits), str(self.home))

    def cleaner(self, **wanted):
        wanted.setdefault("older_s", 14 * DAY)
        wanted.setdefault("owner", OWNER)
        return cleaning.Cleaner(self.inventory(), cleaning.Wanted(**wanted)).choose()

    def snapshot(self, name, job, files):
        """A snapshot, its contents, and the finished copy of a job; returns the step."""
        code = self.work / "code"
        entries = []
        for path, text in files.items():
            digest = ("%x" % (abs(hash((name, path, text))) % 16**12)).rjust(64, "0")
            self.put(code / "contents" / digest[:2] / digest, text)
            entries.append({"path": path, "sha256": digest, "size": len(text), "executable": False})
            self.put(code / "jobs" / job / path, text)
        manifest = self.put(code / "snapshots" / (name + ".json"), json.dumps(entries))
        self.put(code / "jobs" / job / ".moai" / "snapshot", name + "\n")
        inputs = {"manifest": str(manifest), "contents": str(code / "contents"), "target": str(code / "jobs" / job)}
        return {"name": "code", "module": "code", "inputs": inputs, "argv": []}


@pytest.fixture
def ground(tmp_path, monkeypatch):
    return Ground(tmp_path, monkeypatch)


def kinds(items):
    found = {}
    for item in items:
        found.setdefault(item.kind, []).append(os.path.basename(item.path))
    return {kind: sorted(names) for kind, names in found.items()}


def test_everything_of_ours_is_found_by_kind_with_its_job_and_size(ground):
    output = ground.work / "runs" / "llama-old-job-1"
    ground.job("old-job-1", kind="train", output=str(output))
    ground.put(output / "model.safetensors", "w" * 100000)
    ground.put(output / "checkpoints" / "checkpoint-5" / "trainer_state.json", "{}")
    ground.put(ground.work / "huggingface" / "hub" / "models--a--b" / "blobs" / "1", "b" * 50000)
    ground.put(ground.work / "prepared" / "set-1" / "data.pt")
    ground.put(ground.work / "uploads" / "0123" / "data.jsonl")
    items = ground.inventory().items()
    found = kinds(items)
    assert found["job"] == ["old-job-1"] and found["log"] == ["log"] and found["checkpoint"] == ["checkpoint-5"]
    assert found["model"] == ["models--a--b"] and found["prepared"] == ["set-1"] and found["upload"] == ["0123"]
    assert found["bundle"] == ["aaaa000000000000"]
    [results] = [i for i in items if i.kind == "results"]
    assert results.job == "old-job-1" and results.state == "SUCCEEDED" and 100000 <= results.size_bytes < 150000
    assert results.files == 1 and results.changed < time.time() - 29 * DAY, "the checkpoint is an item of its own"


def test_counting_stops_at_its_bounds_and_says_so(ground):
    for number in range(40):
        ground.put(ground.work / "runs" / "many" / str(number))
    inventory = ground.inventory(limit_entries=20)
    items = inventory.items()
    assert "20 files and folders" in inventory.counter.stopped and any(i.partial for i in items)
    assert ground.inventory().items() and not ground.inventory().counter.stopped


def test_hard_links_count_once_and_links_are_not_followed(ground):
    first = ground.put(ground.work / "uploads" / "one" / "a", "a" * 100000)
    os.link(str(first), str(first.with_name("b")))
    os.symlink("/usr", str(first.with_name("c")))
    [item] = [i for i in ground.inventory().items() if i.kind == "upload"]
    assert item.files == 3 and item.size_bytes < 150000


def test_old_ended_jobs_go_and_all_others_stay(ground):
    for name, more in (
        ("old", {}), ("young", {"age_days": 1.0}), ("theirs", {"owner": "joe@desk"}),
        ("living", {"state": "RUNNING", "ended": False}), ("queued", {"state": "QUEUED", "ended": False}),
    ):  # fmt: skip
        ground.job(name, **more)
    cleaner = ground.cleaner()
    assert kinds(cleaner.going) == {"job": ["old"]}
    why = {os.path.basename(i.path): i.kept_because for i in cleaner.staying}
    assert "14 days" in why["young"] and "joe@desk" in why["theirs"] and "not ended" in why["living"] and "not ended" in why["queued"]
    assert [i.job for i in cleaner.remove([])] == ["old"]
    assert sorted(ground.config.host.job_ids()) == ["living", "queued", "theirs", "young"]
    assert os.listdir(ground.config.host.jobs).count("old") == 0 and not any(n.startswith(".") for n in os.listdir(ground.config.host.jobs))


def test_only_what_was_shown_goes(ground):
    ground.job("one")
    ground.job("two")
    cleaner = ground.cleaner()
    assert [i.job for i in cleaner.remove([ground.config.host.job("two").path])] == ["two"]
    assert ground.config.host.job_ids() == ["one"]


def test_a_job_whose_supervisor_lives_is_never_removed(ground):
    import fcntl

    job = ground.job("seems-ended")
    cleaner = ground.cleaner()
    assert len(cleaner.going) == 1
    with open(job.lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert cleaner.remove([]) == [] and os.path.isdir(job.path)
        assert ground.cleaner().going == []


def test_logs_alone_leave_the_record(ground):
    job = ground.job("old")
    cleaner = ground.cleaner(logs=True)
    assert kinds(cleaner.going) == {"log": ["log"]}
    cleaner.remove([])
    assert os.path.exists(job.spec) and not os.path.exists(job.log)
    assert ground.cleaner(logs=True).going == []


def test_checkpoints_go_only_when_asked_and_the_newest_stay(ground):
    for name, state in (("won", "SUCCEEDED"), ("lost", "FAILED"), ("runs", "RUNNING")):
        output = ground.work / "runs" / name
        ground.job(name, state, kind="train", output=str(output), ended=state != "RUNNING")
        for step in (5, 10, 15):
            ground.put(output / "checkpoints" / ("checkpoint-%d" % step) / "trainer_state.json", "{}")
        ground.put(output / "model.safetensors")
    ground.put(ground.work / "runs" / "stranger" / "checkpoints" / "checkpoint-1" / "trainer_state.json", "{}")
    assert "checkpoint" not in kinds(ground.cleaner(older_s=1000 * DAY).going)

    def going(**wanted):
        found = [i for i in ground.cleaner(older_s=1000 * DAY, checkpoints=True, **wanted).going if i.kind == "checkpoint"]
        return sorted("%s %s" % (i.job, os.path.basename(i.path)) for i in found)

    assert going(keep_checkpoints=2) == ["lost checkpoint-5", "won checkpoint-5"]
    assert going(keep_checkpoints=0) == [
        "lost checkpoint-10", "lost checkpoint-5", "won checkpoint-10", "won checkpoint-15", "won checkpoint-5",
    ], "a run that did not end well keeps its newest"  # fmt: skip
    ground.cleaner(older_s=1000 * DAY, checkpoints=True, keep_checkpoints=0).remove([])
    assert (ground.work / "runs" / "won" / "model.safetensors").exists()
    assert len(os.listdir(str(ground.work / "runs" / "runs" / "checkpoints"))) == 3, "those of a running job stay"
    assert (ground.work / "runs" / "stranger" / "checkpoints" / "checkpoint-1").exists()


def test_a_running_job_keeps_what_it_names(ground):
    upload = ground.put(ground.work / "uploads" / "0123" / "data.jsonl")
    ground.put(ground.work / "uploads" / "4567" / "data.jsonl")
    output = ground.work / "runs" / "base"
    ground.job("base", kind="train", output=str(output), age_days=1.0)
    for step in (1, 2):
        ground.put(output / "checkpoints" / ("checkpoint-%d" % step) / "trainer_state.json", "{}")
    command = ["sh", "-c", "python eval.py --data=%s --model ~/moai-work/runs/base/checkpoints/checkpoint-1" % upload]
    ground.job("living", "RUNNING", steps=[{"name": "command", "argv": command, "cwd": str(ground.home)}], ended=False)
    cleaner = ground.cleaner(checkpoints=True)
    assert kinds(cleaner.going) == {"upload": ["4567"]}
    why = {os.path.basename(i.path): i.kept_because for i in cleaner.staying}
    assert "not ended uses it" in why["0123"] and "not ended uses it" in why["checkpoint-1"]


def test_what_a_process_stands_in_or_reads_stays(ground):
    held = ground.put(ground.work / "uploads" / "0123" / "data.jsonl")
    with subprocess.Popen([sys.executable, "-c", "input()"], cwd=str(held.parent), stdin=subprocess.PIPE) as child:
        cleaner = ground.cleaner()
        assert cleaner.going == [] and "a process uses it" in [i.kept_because for i in cleaner.staying]
        child.stdin.close()
    assert kinds(ground.cleaner().going) == {"upload": ["0123"]}


def test_what_came_into_use_meanwhile_is_put_back(ground):
    upload = ground.put(ground.work / "uploads" / "0123" / "data.jsonl")
    cleaner = ground.cleaner()
    assert kinds(cleaner.going) == {"upload": ["0123"]}
    ground.job("new", "QUEUED", steps=[{"name": "command", "argv": ["cat", str(upload)]}], ended=False)
    assert cleaner.remove([]) == [] and upload.exists()
    assert [p.name for p in (ground.work / "uploads").iterdir()] == ["0123"]


def test_copies_of_code_go_unless_the_job_left_something_in_them(ground):
    for name, job in (("1" * 32, "clean-one"), ("2" * 32, "made-one")):
        step = ground.snapshot(name, job, {"train.py": "print(1)\n" * 50, "lib/a.py": "pass\n"})
        ground.job(job, steps=[step])
    made = ground.put(ground.work / "code" / "jobs" / "made-one" / "result.csv", "1,2\n")
    ground.put(ground.work / "code" / "jobs" / "clean-one" / "__pycache__" / "a.pyc")
    cleaner = ground.cleaner()
    assert kinds(cleaner.going)["code"] == ["clean-one"]
    [stays] = [i for i in cleaner.staying if i.kind == "code"]
    assert "1 files that the job made" in stays.kept_because and "--results made-one" in stays.kept_because
    cleaner.remove([])
    assert made.exists() and not (ground.work / "code" / "jobs" / "clean-one").exists()
    assert [p.name for p in (ground.work / "code" / "snapshots").iterdir()] == ["2" * 32 + ".json"], "the copy's own stays"
    named = {p.name for p in (ground.work / "code" / "contents").rglob("*") if p.is_file()}
    assert len(named) == 2


def test_a_job_that_stays_keeps_its_code_for_a_resume(ground):
    step = ground.snapshot("3" * 32, "young", {"train.py": "print(1)\n"})
    ground.job("young", age_days=1.0, steps=[step])
    cleaner = ground.cleaner()
    assert cleaner.going == []


def test_bundles_but_those_of_agents_and_jobs_go(ground):
    payload = ground.state / "payload"
    for name in ("bbbb000000000000", "cccc000000000000", "dddd000000000000", "eeee000000000000"):
        ground.put(payload / name / "worker" / "main.py")
    (ground.state / "hosts" / "other.dial").write_text("/usr/bin/python3\nbbbb000000000000\n")
    argv = ["python", str(payload / "cccc000000000000" / "worker" / "main.py")]
    ground.job("living", "RUNNING", steps=[{"name": "command", "argv": argv}], ended=False)
    other = jobdir.HostDir(str(ground.state), "other-12345678").create()
    os.makedirs(other.job("there").path)
    jobdir.write_json(other.job("there").spec, {"agent_digest": "dddd000000000000"})
    cleaner = ground.cleaner()
    assert kinds(cleaner.going)["bundle"] == ["eeee000000000000"]
    cleaner.remove([])
    assert sorted(p.name for p in payload.iterdir() if not p.name.startswith(".")) == [
        "aaaa000000000000", "bbbb000000000000", "cccc000000000000", "dddd000000000000",
    ]  # fmt: skip


def test_half_made_files_go_once_they_are_old(ground):
    old = ground.put(ground.work / "uploads" / "0123" / ".moai-part-77", age_days=1.0)
    ground.put(ground.work / "uploads" / "0123" / "data")
    new = ground.put(ground.work / "uploads" / ".moai-part-99", age_days=0.0)
    half = ground.put(ground.state / "payload" / ".new-ffff" / "worker" / "main.py", age_days=1.0)
    ground.age(half.parent.parent, 1.0)
    cleaner = ground.cleaner(older_s=365 * DAY)
    assert kinds(cleaner.going) == {"partial": [".moai-part-77", ".new-ffff"]}
    cleaner.remove([])
    assert new.exists() and not old.exists() and not half.exists()


def test_results_go_only_by_name_and_only_from_our_own_folder(ground):
    output = ground.put(ground.work / "runs" / "won" / "model.safetensors").parent
    ground.job("won", kind="train", output=str(output))
    mine = ground.put(ground.home / "mine" / "model.safetensors").parent
    ground.job("elsewhere", kind="train", output=str(mine))
    ground.job("living", "RUNNING", ended=False)
    everything = ground.cleaner(older_s=0.0, checkpoints=True, force=True)
    assert not {"results", "model", "prepared"} & set(kinds(everything.going))
    cleaner = ground.cleaner(results_of="won")
    assert kinds(cleaner.going) == {"results": ["won"]}
    cleaner.remove([])
    assert not output.exists() and os.path.isdir(ground.config.host.job("won").path)
    refused = ground.cleaner(results_of="elsewhere")
    assert refused.going == [] and "you chose this folder" in refused.staying[0].kept_because
    with pytest.raises(AgentError) as caught:
        ground.cleaner(results_of="living")
    assert caught.value.reason == "JOB_ACTIVE"


def test_results_of_a_command_are_what_it_left_in_its_copy_of_the_code(ground):
    step = ground.snapshot("4" * 32, "made", {"train.py": "print(1)\n"})
    ground.put(ground.work / "code" / "jobs" / "made" / "result.csv", "1,2\n")
    ground.job("made", steps=[step], age_days=0.0)
    cleaner = ground.cleaner(results_of="made")
    assert kinds(cleaner.going) == {"code": ["made"]} and len(cleaner.remove([])) == 1
    assert not (ground.work / "code" / "jobs" / "made").exists()


def test_who_names_the_whole_folder_keeps_all_of_it(ground):
    ground.put(ground.work / "uploads" / "0123" / "data")
    command = ["python", "eval_all.py", "--root", str(ground.work)]
    ground.job("living", "RUNNING", steps=[{"name": "command", "argv": command, "cwd": str(ground.home)}], ended=False)
    assert ground.cleaner().going == []


def test_an_answer_always_fits_its_message(ground):
    items = []
    for number in range(100):
        items.append(housekeeping.Item("upload" if number % 2 else "job", str(number)))
        items[-1].size_bytes, items[-1].files = number, 1
    folded = housekeeping.folded(items, 10)
    assert len(folded) == 12 and sum(i.size_bytes for i in folded) == sum(range(100)) and sum(i.files for i in folded) == 100
    assert housekeeping.folded(items, 100) is items


def test_one_cleaning_at_a_time(ground):
    ground.job("old")
    first, second = ground.cleaner(), ground.cleaner()
    with first._alone(), pytest.raises(AgentError) as caught:
        second.remove([])
    assert caught.value.reason == "TIMED_OUT"
    assert len(second.remove([])) == 1


# -- off the container -----------------------------------------------------------------------------


def test_moai_goes_and_what_was_asked_of_it_stays(ground):
    ground.job("done")
    model = ground.put(ground.work / "runs" / "done" / "model.safetensors")
    ground.put(ground.work / "uploads" / "1" / "x")
    (ground.work / "huggingface" / "hub").mkdir(parents=True)
    plan = removal.Removal(ground.config, [], housekeeping.Counter())
    assert {i.kind for i in plan.going} == {"job", "bundle", "upload"} and [i.kind for i in plan.staying] == ["results"]
    plan.run()
    left = sorted(str(p.relative_to(ground.home)) for p in ground.home.rglob("*"))
    assert left == ["moai-work", "moai-work/runs", "moai-work/runs/done", str(model.relative_to(ground.home))]


def test_a_running_job_keeps_moai_there_and_is_named(ground):
    ground.job("living", "RUNNING", ended=False)
    with pytest.raises(AgentError) as caught:
        removal.Removal(ground.config, [], housekeeping.Counter()).run()
    assert caught.value.reason == "JOB_ACTIVE" and "living" in caught.value.message
    assert os.path.isdir(ground.config.host.job("living").path)


def test_another_container_of_the_same_home_keeps_all_of_its_own(ground):
    other = jobdir.HostDir(str(ground.state), "other-12345678").create()
    os.makedirs(other.job("there").path)
    (ground.state / "hosts" / "other.dial").write_text("p\naaaa000000000000\n")
    upload = ground.put(ground.work / "uploads" / "1" / "x")
    removal.Removal(ground.config, [], housekeeping.Counter()).run()
    assert os.path.isdir(other.job("there").path) and (ground.state / "payload" / "aaaa000000000000").is_dir()
    assert (ground.state / "hosts" / "other.dial").exists() and upload.exists()
    assert not os.path.exists(ground.config.host.path)


# -- whose jobs ------------------------------------------------------------------------------------


def test_jobs_of_another_container_are_shown_as_not_its_own(ground):
    other = jobdir.HostDir(str(ground.state), "before-12345678").create()
    os.makedirs(other.job("swift-otter").path)
    jobdir.write_json(other.job("swift-otter").spec, {"id": "swift-otter", "create_time": 1.0, "kind": "command"})
    jobdir.write_json(other.job("swift-otter").plan, {"steps": [{"name": "command"}]})
    [entry] = foreign.entries(ground.config)
    assert entry.view["conditions"][0]["type"] == foreign.CONDITION and "before-12345678" in entry.view["conditions"][0]["message"]
    assert "before-12345678" in foreign.explain(ground.config, "swift") and foreign.explain(ground.config, "calm") == ""
    cleaner = ground.cleaner(older_s=0.0, force=True)
    assert not [i for i in cleaner.going + cleaner.staying if "swift-otter" in i.path], "a cleaning does not see them"


def test_containers_that_share_a_home_have_ids_of_their_own(tmp_path, monkeypatch):
    monkeypatch.delenv("MOAI_HOME", raising=False)
    home = str(tmp_path / "home" / ".moai")
    monkeypatch.setattr(identity, "mount_of", lambda path: ("/", "nfs4"))
    found = []
    for number in (1, 2):
        local = tmp_path / ("var%d" % number)
        monkeypatch.setattr(identity, "shared_folder", lambda local=local: str(local))
        monkeypatch.setattr(identity, "hostname", lambda: "same-name")
        found.append(identity.host_id(home))
        assert identity.host_id(home) == found[-1], "it stays"
    assert found[0] != found[1] and not os.path.exists(home)

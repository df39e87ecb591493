"""One training over two containers: two sshds, two agents, two supervisors, torchrun between them (gloo, CPU)."""

import json
import os
import signal
import socket
import time

import pytest
from fakes import news, tinymodel
from fakes.box import Box, parent_of, processes_of
from fakes.sshd import find_sshd


@pytest.fixture(scope="module")
def train_python():
    python = tinymodel.train_python()
    if python is None:
        pytest.skip("SKIPPED LOUDLY: no train environment (make train-env)")
    return python


@pytest.fixture(scope="module")
def boxes(tmp_path_factory, train_python):
    """Plain containers a and b, a MoAI look-alike m, and a laptop that knows the three."""
    if find_sshd() is None:
        pytest.skip("SKIPPED LOUDLY: sshd is not installed (apt-get install openssh-server)")
    made = [Box(tmp_path_factory.mktemp(name), alias=name, look_alike=name == "m") for name in "abm"]
    config = made[0].ssh_config
    for box in made[1:]:
        box.sshd.ssh_config(config, alias=box.alias, append=True)
    lines = [f'[hosts.{box.alias}]\naddress = "{box.alias}"\n' for box in made]
    (made[0].folder / "laptop" / "config" / "config.toml").write_text("".join(lines))
    yield made
    for box in made:
        box.end()


@pytest.fixture(scope="module")
def files(tmp_path_factory, train_python):
    """Model folder and data: here all containers see the same disk, as they would see copies."""
    root = tmp_path_factory.mktemp("files")
    model = tinymodel.build(root / "model", python=train_python)
    return str(model), news.write_jsonl(str(root / "news.jsonl"), 60)


@pytest.mark.faults
def test_two_containers_train_as_one(boxes, files, train_python):
    a, b, _ = boxes
    model, data = files
    done = a.moai(
        "remote", "train", "--on", "a,b", "--nodes", "2", "--env", train_python, "--model", model, "--dataset", data, "--method", "lora",
        "--max-steps", "4", "--batch-size", "4", "--block-size", "64", "--set", "save_steps=2", "--plain", timeout=300,
    )  # fmt: skip
    said = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, said
    assert said.count("SUCCEEDED") >= 2 and "leader a/" in said
    summaries = []
    for box in (a, b):
        (folder,) = (box.home / "moai-work" / "runs").iterdir()
        # Every container has the whole result and whole checkpoints: none depends on another's disk.
        assert (folder / "adapter_model.safetensors").is_file()
        assert (folder / "checkpoints" / "checkpoint-4" / "moai-checkpoint.json").is_file()
        summaries.append(json.loads((folder / "moai-training.json").read_text()))
    assert [step for step, _ in summaries[0]["losses"]] == [1, 2, 3, 4]
    assert summaries[0]["losses"] == summaries[1]["losses"]
    jobs = {j["host"]: j for j in json.loads(a.moai("remote", "jobs", "--on", "a,b", "--json").stdout)["jobs"]}
    assert {j["state"] for j in jobs.values()} == {"SUCCEEDED"}
    log = a.moai("remote", "logs", "a/" + jobs["a"]["job"]).stdout.decode()
    assert log.count("step 4/4 |") == 1

    again = a.moai("remote", "again", "b/" + jobs["b"]["job"], "--set", "max_steps=2", "--plain", timeout=300)
    said = again.stdout.decode() + again.stderr.decode()
    assert again.returncode == 0 and "with it b/" in said and said.count("SUCCEEDED") >= 2, said
    for box in (a, b):
        steps = [json.loads((folder / "moai-training.json").read_text())["result"]["steps"] for folder in (box.home / "moai-work" / "runs").iterdir()]
        assert sorted(steps) == [2, 4], "all of them, each in a folder of its own"
    elsewhere = a.moai("remote", "again", "a/" + jobs["a"]["job"], "--on", "m", "--json")
    assert json.loads(elsewhere.stdout)["reason"] == "UNSUPPORTED"


def end_jobs(box):
    """SIGKILL every process of the container's jobs, supervisors first; its agent and sshd stay."""
    while found := {pid: argv for pid, argv in processes_of(box.home).items() if "moai_agent" not in " ".join(argv) and "main.py" in " ".join(argv)}:
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        os.sched_yield()


def ended_job(box, host):
    """The container's newest job, as ``jobs --json`` has it, once it has ended."""
    end_s = time.monotonic() + 90
    while True:
        job = json.loads(box.moai("remote", "jobs", "--on", host, "--json").stdout)["jobs"][0]
        if job["state"] in ("SUCCEEDED", "FAILED", "CANCELLED", "INTERRUPTED", "UNKNOWN"):
            return job
        assert time.monotonic() < end_s, job


def train_inputs(box, job):
    """Of the job's train step, as its folder has them."""
    (plan,) = (box.home / ".moai").glob(f"hosts/*/jobs/{job}/plan.json")
    return next(step["inputs"] for step in json.loads(plan.read_text())["steps"] if step.get("module") == "train")


@pytest.mark.faults
def test_a_killed_process_is_restarted_with_its_group_and_no_container_lacks_weights(boxes, files, train_python):
    """``--retries``: SIGKILL of one container's training process; both begin again at their last checkpoint."""
    a, b, _ = boxes
    model, data = files
    started = a.moai(
        "remote", "train", "--on", "a,b", "--nodes", "2", "--env", train_python, "--model", model, "--dataset", data, "--method", "full",
        "--max-steps", "60", "--batch-size", "4", "--block-size", "64", "--output", "~/healed", "--set", "save_steps=5", "--retries", "3",
        "--detach",
    )  # fmt: skip
    assert started.returncode == 0, started.stderr
    jobs = dict(line.split("/") for line in started.stdout.decode().split())
    end_s = time.monotonic() + 120
    while not (a.home / "healed" / "checkpoints" / "checkpoint-5" / "moai-checkpoint.json").is_file():
        assert time.monotonic() < end_s, a.moai("remote", "logs", "a/" + jobs["a"]).stdout.decode()[-2000:]
        os.sched_yield()
    below = {pid: argv for pid, argv in processes_of(b.home).items() if "torch.distributed.run" not in argv and "supervisor" not in " ".join(argv)}
    (worker,) = [pid for pid in below if "torch.distributed.run" in processes_of(b.home).get(parent_of(pid), [])]
    os.kill(worker, signal.SIGKILL)
    for name, box in (("a", a), ("b", b)):
        job = ended_job(a, name)
        assert (job["job"], job["state"]) == (jobs[name], "SUCCEEDED"), a.moai("remote", "logs", f"{name}/{jobs[name]}").stdout.decode()[-3000:]
        for folder in (box.home / "healed", *(box.home / "healed" / "checkpoints").glob("checkpoint-*")):
            assert (folder / "model.safetensors").is_file(), folder
    losses = [json.loads((box.home / "healed" / "moai-training.json").read_text())["losses"] for box in (a, b)]
    assert losses[0] == losses[1] and [step for step, _ in losses[0]] == list(range(1, 61))
    events = a.moai("remote", "attach", "b/" + jobs["b"], "--json").stdout.decode()
    assert "A process of the training was killed" in events and "Resuming from step" in events


@pytest.mark.faults
@pytest.mark.parametrize("asked", ["a", "b"])
def test_killed_members_resume_together_from_their_last_common_checkpoint(boxes, files, train_python, tmp_path, asked):
    """Whichever member is named, and though one of them has saved a checkpoint that the other has not."""
    a, b, _ = boxes
    model, data = files
    output = f"~/resumed-{asked}"
    started = a.moai(
        "remote", "train", "--on", "a,b", "--nodes", "2", "--env", train_python, "--model", model, "--dataset", data, "--method", "lora",
        "--max-steps", "120", "--batch-size", "4", "--block-size", "64", "--output", output, "--set", "save_steps=10", "--detach",
    )  # fmt: skip
    assert started.returncode == 0, started.stderr
    old = dict(line.split("/") for line in started.stdout.decode().split())
    saved = [box.home / f"resumed-{asked}" / "checkpoints" / "checkpoint-20" / "moai-checkpoint.json" for box in (a, b)]
    end_s = time.monotonic() + 120
    while not all(path.is_file() for path in saved):
        assert time.monotonic() < end_s, a.moai("remote", "logs", "a/" + old["a"]).stdout.decode()[-2000:]
        os.sched_yield()
    for box in (b, a):
        end_jobs(box)
    assert not (a.home / f"resumed-{asked}" / "moai-training.json").exists()
    assert {ended_job(a, name)["state"] for name in "ab"} == {"UNKNOWN"}
    # The container that is not asked was killed before it had saved what the other has.
    behind = b if asked == "a" else a
    for folder in (behind.home / f"resumed-{asked}" / "checkpoints").glob("checkpoint-*"):
        if int(folder.name.partition("-")[2]) > 10:
            (folder / "moai-checkpoint.json").unlink()
    # Somebody took the port they had met at, so they have to meet anew.
    met = train_inputs(a, old["a"])["group"]
    with socket.create_server(("0.0.0.0", met["port"])):
        words = ["remote", "resume", f"{asked}/{old[asked]}", "--request-id", f"resumed-from-{asked}"]
        done = a.moai(*words, "--plain", timeout=300)
    said = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0 and said.count("SUCCEEDED") >= 2 and "leader a/" in said, said
    again = train_inputs(a, ended_job(a, "a")["job"])["group"]
    assert again["port"] != met["port"] and again == dict(train_inputs(b, ended_job(a, "b")["job"])["group"], rank=0)
    for name, box in (("a", a), ("b", b)):
        job = ended_job(a, name)
        assert (job["state"], job["parent"]) == ("SUCCEEDED", old[name]), job
        summary = json.loads((box.home / f"resumed-{asked}" / "moai-training.json").read_text())
        assert summary["losses"][-1][0] == 120
    steps = [line for line in a.moai("remote", "logs", "a/" + ended_job(a, "a")["job"]).stdout.decode().splitlines() if line.startswith("step ")]
    assert steps[-1].startswith("step 120/120")
    assert not any(line.startswith(("step 10/", "step 9/")) for line in steps)
    # The same request again would meet at another port, and is answered with the jobs of the first.
    repeated = a.moai(*words, "--detach")
    assert repeated.stdout.decode().split() == [f"{name}/{ended_job(a, name)['job']}" for name in "ab"], repeated.stderr
    assert a.moai("remote", "delete", "b/" + ended_job(a, "b")["job"], "--yes").returncode == 0
    alone = a.moai("remote", "resume", "a/" + ended_job(a, "a")["job"], "--json")
    assert alone.returncode != 0 and json.loads(alone.stdout)["reason"] == "JOB_NOT_FOUND", alone.stdout


def test_a_moai_accelerator_refuses_and_says_why(boxes, files):
    a, model = boxes[0], files[0]
    done = a.moai("remote", "train", "--on", "m,a", "--nodes", "2", "--model", model, "--dataset", files[1])
    assert done.returncode == 1 and b"[UNSUPPORTED]" in done.stderr and b"spans GPUs and nodes by itself" in done.stderr
    assert json.loads(a.moai("remote", "jobs", "--on", "m", "--json").stdout)["jobs"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--on", "a,b", "--nodes", "3"], b"--nodes 3, and --on names 2 hosts"),
        (["--on", "a,b", "--nodes", "2", "--dry-run"], b"--dry-run"),
        (["--on", "a,b", "--nodes", "2", "--", "python", "x.py"], b"no command"),
    ],
)
def test_what_does_not_go_together_is_usage(boxes, files, words, said):
    cut = words.index("--") if "--" in words else len(words)
    data = [] if "--" in words else ["--model", files[0], "--dataset", files[1]]
    done = boxes[0].moai("remote", "train", *words[:cut], *data, *words[cut:])
    assert done.returncode == 2 and said in done.stderr, done.stderr


@pytest.mark.faults
def test_a_model_is_asked_and_measured_on_several_containers(boxes, files, train_python):
    """Each has the model at the same path; what was found comes a host after the other, in the order asked."""
    box, (model, data) = boxes[0], files
    where = ("--on", "b,a", "--env", train_python)
    said = box.moai("remote", "generate", model, "--prompt", "Hello", "--max-new-tokens", "2", *where, "--plain")
    assert said.returncode == 0, said.stderr.decode()
    lines = said.stdout.decode().splitlines()
    assert [line for line in lines if line in ("a:", "b:")] == ["b:", "a:"]
    assert sum(line.startswith("  answer") for line in lines) == 2
    measured = box.moai("remote", "evaluate", model, "--dataset", data, "--block-size", "64", "--rows", "2", *where, "--json")
    assert measured.returncode == 0, measured.stderr.decode()
    found = [one for one in map(json.loads, measured.stdout.splitlines()) if one.get("schema") == "moai.evaluation/1"]
    assert [one["host"] for one in found] == ["b", "a"] and found[0]["figures"]["loss"] == found[1]["figures"]["loss"]

"""One training over two containers: two sshds, two agents, two supervisors, torchrun between them (gloo, CPU)."""

import json

import pytest
from fakes import news, tinymodel
from fakes.box import Box
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
    assert again.returncode == 0 and "with it a/" in said, said
    for box in (a, b):
        steps = [json.loads((folder / "moai-training.json").read_text())["result"]["steps"] for folder in (box.home / "moai-work" / "runs").iterdir()]
        assert sorted(steps) == [2, 4], "all of them, each in a folder of its own"
    elsewhere = a.moai("remote", "again", "a/" + jobs["a"]["job"], "--on", "m", "--json")
    assert json.loads(elsewhere.stdout)["reason"] == "UNSUPPORTED"


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

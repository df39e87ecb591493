"""The main job over a real sshd from an empty home: download, prepare, train, verify, resume, generate.

Needs ``.venv-train`` (torch, transformers, datasets, peft); skips loudly without it.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import moai
import pytest
from fakes import box as boxes
from fakes import news, tinymodel
from fakes.box import Box
from fakes.hub import HubServer
from fakes.hub_uploads import account
from fakes.sshd import find_sshd, wait_until

MODEL, DATASET = "demo/tiny", "demo/news"


@pytest.fixture(scope="module")
def train_python():
    python = tinymodel.train_python()
    if python is None:
        pytest.skip("SKIPPED LOUDLY: no train environment (make train-env)")
    return python


@pytest.fixture(scope="module")
def hub(tmp_path_factory, train_python):
    root = tmp_path_factory.mktemp("hub")
    tinymodel.build(root / "models" / MODEL, python=train_python)
    (root / "datasets" / DATASET).mkdir(parents=True)
    news.write_jsonl(str(root / "datasets" / DATASET / "train.jsonl"), 200)
    with HubServer(str(root)) as server:
        yield server


@pytest.fixture(scope="module")
def box(tmp_path_factory, train_python, hub):
    if find_sshd() is None:
        pytest.skip("SKIPPED LOUDLY: sshd is not installed (apt-get install openssh-server)")
    with Box(tmp_path_factory.mktemp("train"), python=train_python) as one:
        one.laptop.env["HF_ENDPOINT"] = hub.endpoint
        yield one


def train(box, *words, method="lora", **more):
    common = ["--model", MODEL, "--dataset", DATASET, "--method", method, "--batch-size", "4", "--block-size", "64"]
    return box.moai("remote", "train", *common, *words, **more)


@pytest.fixture(scope="module")
def first(box):
    """Events of a LoRA training from an empty home, the job named "first"."""
    more = ("--set", "eval_steps=5", "--trust-remote-code", "--name", "first", "--json")
    done = train(box, "--max-steps", "10", *more)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def full(box, first):
    """Id of a full training."""
    job = train(box, "--max-steps", "3", "--detach", method="full").stdout.decode().strip()
    assert box.moai("remote", "wait", job, "--timeout", "3m").returncode == 0, box.moai("remote", "logs", job).stdout[-2000:]
    return job


def events_of(box, job):
    done = box.moai("remote", "attach", job, "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [line for line in lines if line["type"] != "log"]


def python(train_python, code, *argv):
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([train_python, "-c", code, *argv], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_lora_from_an_empty_home(box, first, train_python, tmp_path):
    events = first
    numbered = [e for e in events if e["type"] != "log"]
    assert [e["sequence"] for e in numbered] == list(range(1, len(numbered) + 1))
    assert events[-1]["type"] == "state" and events[-1]["data"]["state"] == "SUCCEEDED"
    steps = [e["data"]["step"] for e in events if e["type"] == "metric" and "loss" in e["data"]["values"]]
    assert steps == list(range(1, 11)), "each step is reported once"
    finished = [(e["data"]["name"], e["data"]["state"]) for e in events if e["type"] == "step" and e["data"]["state"] != "RUNNING"]
    assert finished == [(n, "SUCCEEDED") for n in ("download", "download-dataset", "prepare", "train", "verify")]
    download = [e["data"] for e in events if e["type"] == "progress" and e["step"] == "download"]
    assert download[-1]["unit"] == "bytes" and download[-1]["done"] == download[-1]["total"] > 0
    job = events[0]["job"]
    shown = json.loads(box.moai("remote", "show", job, "--json").stdout)
    assert Path(shown["output"]).parent == box.home / "moai-work" / "runs"

    pulled = box.moai("remote", "pull", job, str(tmp_path), "--json")
    assert pulled.returncode == 0, pulled.stderr.decode()
    folder = json.loads(pulled.stdout)["path"]
    base = next((box.home / "moai-work" / "huggingface").glob("hub/models--demo--tiny/snapshots/*"))
    python(
        train_python,
        "import sys, peft, transformers as t; m = t.AutoModelForCausalLM.from_pretrained(sys.argv[2]);"
        "peft.PeftModel.from_pretrained(m, sys.argv[1]); t.AutoTokenizer.from_pretrained(sys.argv[1])",
        folder, str(base),
    )  # fmt: skip


def test_a_folder_prepared_earlier_is_trained_on_as_it_is(box, first):
    prepared = next(path for path in (box.home / "moai-work" / "prepared").iterdir() if path.is_dir())
    words = ("remote", "train", "--model", MODEL, "--dataset", str(prepared), "--method", "lora", "--batch-size", "4", "--max-steps", "2")
    done = box.moai(*words, "--json")
    assert done.returncode == 0, done.stdout.decode()[-3000:]
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert any("as it was prepared" in str(e["data"]) for e in events if e["step"] == "prepare")
    shown = json.loads(box.moai("remote", "show", events[0]["job"], "--json").stdout)
    inputs = {s["name"]: s["inputs"] for s in shown["plan"]["steps"]}
    assert inputs["prepare"]["block_size"] == 64 and inputs["prepare"]["output"] == str(prepared)
    assert len(list(prepared.parent.iterdir())) == 1 + 1, "the set and its lock: nothing was prepared anew"
    refused = box.moai(*words, "--block-size", "32")
    assert refused.returncode == 2 and b"block size 64, not 32" in refused.stderr, refused.stderr


def test_full_training_opens_and_the_dataset_is_self_contained(box, full, train_python, tmp_path):
    shown = json.loads(box.moai("remote", "show", full, "--json").stdout)
    python(
        train_python,
        "import sys, transformers as t; t.AutoModelForCausalLM.from_pretrained(sys.argv[1]);"
        "t.AutoTokenizer.from_pretrained(sys.argv[1])",
        shown["output"],
    )
    prepared = next(s for s in shown["plan"]["steps"] if s["name"] == "prepare")["inputs"]["output"]
    copy = tmp_path / "elsewhere.pt"
    shutil.copy(Path(prepared) / "llama3_dataset.pt", copy)
    told = python(
        train_python,
        "import sys, torch; d = torch.load(sys.argv[1]); r = d['train'][0]['input_ids'];"
        "print(sorted(d), len(d['train']), len(d['validation']), tuple(r.shape), r.dtype)",
        str(copy),
    )
    assert told.strip() == "['train', 'validation'] 190 10 (64,) torch.int64"


@pytest.mark.faults
def test_a_second_run_skips_what_is_there(box):
    assert train(box, "--max-steps", "2").returncode == 0
    done = train(box, "--max-steps", "2", "--json")
    assert done.returncode == 0, done.stderr.decode()
    events = [json.loads(line) for line in done.stdout.splitlines()]
    ended = {e["data"]["name"]: e["data"] for e in events if e["type"] == "step" and e["data"]["state"] != "RUNNING"}
    reused = {name: bool((data["result"] or {}).get("reused")) for name, data in ended.items()}
    assert reused == {"download": True, "download-dataset": True, "prepare": True, "train": False, "verify": False}
    jobs = json.loads(box.moai("remote", "jobs", "--json").stdout)["jobs"]
    assert [s["state"] for s in jobs[0]["steps"]] == ["SKIPPED"] * 3 + ["SUCCEEDED"] * 2


def test_a_killed_training_is_resumed_at_the_right_step(box):
    done = train(box, "--max-steps", "400", "--set", "save_steps=5", "--detach")
    assert done.returncode == 0, done.stderr.decode()
    job = done.stdout.decode().strip()
    output = Path(json.loads(box.moai("remote", "show", job, "--json").stdout)["output"])

    def has_checkpoint():
        return any(path.name.startswith("checkpoint-") for path in output.glob("checkpoints/checkpoint-*/moai-checkpoint.json")) or len(
            list(output.glob("checkpoints/checkpoint-*"))
        ) > 1

    wait_until(has_checkpoint, "a checkpoint", 120)
    trainers = [pid for pid, argv in boxes.processes_of(box.home).items() if "train" in argv and str(box.job_dir(job)) in argv]
    for pid in trainers:
        os.kill(pid, 9)
    ended = box.moai("remote", "wait", job, "--timeout", "60s", "--json")
    assert ended.returncode == 3 and json.loads(ended.stdout)["reason"]["code"] == "COMMAND_KILLED"
    last = max(int(p.name.split("-")[1]) for p in output.glob("checkpoints/checkpoint-*") if p.name.split("-")[1].isdigit())

    refused = box.moai("remote", "resume", job, "--set", "batch_size=2", "--set", "lora.r=4", "--json")
    assert refused.returncode == 1, refused.stderr.decode()
    error = json.loads(refused.stdout)
    assert error["reason"] == "CHECKPOINT_MISMATCH"
    assert "batch_size (4 -> 2), lora.r (8 -> 4)" in error["message"] and "gradient_accumulation=N" in error["next"]
    missing = json.loads(box.moai("remote", "resume", job, "--from", "7", "--json").stdout)
    assert missing["reason"] == "CHECKPOINT_NOT_FOUND"
    whole = int(missing["next"].split()[1])  # The newest may have been cut short by the kill.
    assert whole in (last, last - 5) and missing["next"].startswith(f"--from {whole} (steps there: ")
    shown = box.moai("remote", "resume", job, "--set", "learning_rate=0.002", "--set", "batch_size=4", "--dry-run", "--json")
    plan = json.loads(shown.stdout)
    assert plan["changes"] == [{"name": "learning_rate", "old": 0.0001, "new": 0.002}]
    assert "seed" in plan["fixed"] and f"step {whole}" in plan["text"]

    more = ("--set", f"max_steps={last + 8}", "--set", "gradient_accumulation=2", "--from", str(whole))
    resumed = box.moai("remote", "resume", job, *more, "--json")
    assert resumed.returncode == 0, resumed.stderr.decode()
    events = [json.loads(line) for line in resumed.stdout.splitlines()]
    told = events[0]["data"]
    assert (events[0]["type"], told["code"]) == ("message", "RESUME") and "gradient_accumulation 1 -> 2" in told["text"]
    assert {"name": "max_steps", "old": 400, "new": last + 8} in told["changes"]
    assert f"max_steps              400 -> {last + 8}" in resumed.stderr.decode()
    steps = [e["data"]["step"] for e in events if e["type"] == "metric" and "loss" in e["data"]["values"]]
    assert steps[0] == whole + 1 and steps[-1] == last + 8
    assert steps == list(range(steps[0], last + 9))
    info = json.loads(box.moai("remote", "show", events[0]["job"], "--json").stdout)
    assert info["parent"] == job and info["output"] == str(output)
    summary = json.loads((output / "moai-training.json").read_text())
    killed, ours = summary["runs"]
    assert (killed["job"], killed["start_step"], ours["job"]) == (job, 0, info["job"]) and killed["step"] >= whole
    assert (ours["start_step"], ours["step"]) == (whole, last + 8)
    assert summary["seconds"] == pytest.approx(killed["seconds"] + ours["seconds"], abs=0.002) and killed["seconds"] > 0 < ours["seconds"]
    card = (output / "README.md").read_text()
    assert f"| runs | 2: steps 1 to {killed['step']}, {whole + 1} to {last + 8} |" in card, "of both jobs"

    repeated = box.moai("remote", "again", events[0]["job"], "--set", "max_steps=2", "--json")
    assert repeated.returncode == 0, repeated.stderr.decode()
    events = [json.loads(line) for line in repeated.stdout.splitlines()]
    assert [e["data"]["total"] for e in events if e["type"] == "metric"][-1] == 2 or [
        e["data"]["step"] for e in events if e["type"] == "metric" and "loss" in e["data"]["values"]
    ] == [1, 2]
    info = json.loads(box.moai("remote", "show", events[0]["job"], "--json").stdout)
    assert info["parent"] is None and info["output"] != str(output)
    inputs = next(s for s in info["plan"]["steps"] if s["name"] == "train")["inputs"]
    assert inputs["gradient_accumulation"] == 2, "what a resume changed is part of the job"


def test_generate_answers_beside_the_base_model(box, first):
    asked = box.moai("remote", "generate", "first", "--prompt", "SEOUL -- A ferry captain won.", "--compare", "--json")
    assert asked.returncode == 0, asked.stderr.decode()
    answers = json.loads(asked.stdout)["answers"]
    assert len(answers) == 1 and answers[0]["prompt"].startswith("[SUMMARIZE]") and answers[0]["base_text"] is not None


def test_a_trained_model_is_measured_merged_uploaded_and_looked_at(box, first, hub, tmp_path):
    def ok(*words, **more):
        done = box.moai("remote", *words, **more)
        assert done.returncode == 0, (words, done.stderr.decode())
        return done

    job = json.loads(ok("show", "first", "--on", "box", "--json").stdout)
    measured = json.loads(ok("evaluate", job["job"], "--rouge", "--rows", "2", "--max-new-tokens", "4", "--compare", "--json").stdout)
    jsonschema.validate(measured, json.loads((Path(moai.__file__).parent / "schemas" / "evaluation-1.json").read_text()))
    assert (measured["split"], measured["rows"], measured["figures"]["rouge"]["rows"]) == ("validation", 2, 2)
    assert measured["figures"]["loss"] != measured["base_figures"]["loss"]

    merged = [json.loads(line) for line in ok("merge", job["job"], "--json").stdout.splitlines()]
    steps = [e["data"]["name"] for e in merged if e["type"] == "step" and e["data"]["state"] == "SUCCEEDED"]
    assert steps == ["merge", "verify"] and (Path(job["output"]) / "merged" / "model.safetensors").is_file()

    hub.tokens["hf_writer"] = hub.tokens["hf_reader"] = []
    hub.uploads.accounts["hf_writer"] = account("mina")
    refused = box.moai("remote", "upload", job["job"], "mina/tuned", HF_TOKEN="hf_reader")
    assert refused.returncode == 9 and b"UPLOAD_REFUSED" in refused.stderr
    unstarted = train(box, "--max-steps", "2", "--upload", "other/tuned", HF_TOKEN="hf_writer")
    assert unstarted.returncode == 9 and b"belongs to other" in unstarted.stderr
    ok("upload", job["job"], "mina/tuned", "--private", "-m", "tuned", HF_TOKEN="hf_writer")
    repo = hub.repos["model", "mina/tuned"]
    files = repo.commits[repo.refs["main"]]
    assert repo.private and hub.uploads.messages == ["tuned"] and "adapter_model.safetensors" in files
    assert json.loads(files["adapter_config.json"].read(0, 99999))["base_model_name_or_path"] == MODEL
    card = files["README.md"].read(0, 99999).decode()
    for text in (f'base_model: "{MODEL}"', f'- "{DATASET}"', "run (trust_remote_code)", "--set trust_remote_code=true", "--method lora"):
        assert text in card, text

    shown = ok("show", job["job"], "--events").stdout.decode()
    assert "step 1" in shown and "training: step 0 of 10; steps 1 to 5, loss" in shown and "eval loss" in shown
    ok("plot", job["job"], "-o", str(tmp_path / "loss.png"))
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")

    # Their tensorboard is found on PATH; it sees what the job has written so far.
    events = Path(job["output"]) / "tensorboard"
    events.mkdir()
    (events / "events.out.tfevents.1").write_bytes(b"figures")
    program = tmp_path / "bin" / "tensorboard"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$@"; cat "$2"/events.out.tfevents.1\n')
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    told = ok("tensorboard", job["job"], "--port", "0", PATH=path).stdout.decode()
    assert told.startswith("--logdir ") and "--port 0" in told and told.endswith("figures")
    missing = box.moai("remote", "tensorboard", job["job"], PATH="/nowhere")
    assert missing.returncode == 2 and b"pip install tensorboard" in missing.stderr


def test_whatever_follows_a_training_is_repeated_too(box, first, hub):
    def newest(kind):
        jobs = json.loads(box.moai("remote", "jobs", "--json").stdout)["jobs"]
        return next(job for job in jobs if job["kind"] == kind)

    job = json.loads(box.moai("remote", "show", "first", "--on", "box", "--json").stdout)["job"]
    hub.tokens["hf_writer"] = []
    hub.uploads.accounts["hf_writer"] = account("mina")
    typed = {
        "generate": ("generate", "fir", "--prompt", "A ferry -- sank.", "--template", "none", "--max-new-tokens", "4"),
        "evaluate": ("evaluate", job, "--rows", "2"),
        "merge": ("merge", job),
        "upload": ("upload", job, "mina/again", "-m", "again"),
        "prepare": ("prepare", DATASET, "--model", MODEL, "--block-size", "64", "--preview", "1"),
        "download": ("download", MODEL),
    }
    for kind, words in typed.items():
        words = tuple(job if word == "fir" else word for word in words)
        done = box.moai("remote", *words, "--plain", HF_TOKEN="hf_writer")
        assert done.returncode == 0, (kind, done.stderr.decode())
        old = newest(kind)
        again = box.moai("remote", "again", old["job"], "--plain", HF_TOKEN="hf_writer")
        assert again.returncode == 0, (kind, again.stderr.decode())
        new = newest(kind)
        assert new["job"] != old["job"] and new["command"] == old["command"] and new["parent"] is None, kind
        if kind in ("generate", "evaluate", "prepare"):
            # Without the lines that have a clock, and the time that the second measurement took.
            shown = [[line for line in one.stdout.decode().splitlines() if not re.match(r"\[\d\d:", line)] for one in (done, again)]
            cut = [[line.rsplit(None, 1)[0] if kind == "evaluate" else line for line in lines] for lines in shown]
            assert cut[0] and cut[0] == cut[1]
    assert hub.uploads.messages.count("again") == 1, "what the Hub has is not sent again"
    measured = newest("evaluate")["job"]
    with_set = json.loads(box.moai("remote", "again", measured, "--set", "rows=1", "--json").stdout)
    assert with_set["reason"] == "UNSUPPORTED"


def test_a_job_about_a_deleted_one_or_on_another_container_is_refused_in_words(box, as_laptop, first, hub, monkeypatch, tmp_path):
    as_laptop(box.laptop)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    with moai.connect("box") as host:
        trained = host.train(MODEL, DATASET, method="lora", max_steps=1, batch_size=4, block_size=64)
        trained.wait(180)
        asked = host.generate("last", ["x"], max_new_tokens=1)
        asked.wait(120)
        assert host.job(asked.id).spec_and_plan()[0]["request"]["message"]["model"] == trained.id, "what last meant then"
        elsewhere = moai.Host(moai.HostConfig(name="other", address="local"))
        with pytest.raises(moai.AgentError, match=f"about the result of job {trained.id}, which lies on box and is not sent to other"):
            asked.again(on=elsewhere)
        data = tmp_path / "prompts.jsonl"
        data.write_text('{"prompt": "x"}\n')
        from_file = host.generate(trained.id, prompt_file=f"laptop:{data}", template="none", max_new_tokens=1)
        from_file.wait(120)
        next(box.home.glob("**/uploads/*/prompts.jsonl")).unlink()
        with pytest.raises(moai.NotFound, match="prompts.jsonl, which was sent for job"):
            from_file.again()
        trained.delete()
        with pytest.raises(moai.NotFound, match=f"about the result of job {trained.id}, which was deleted from box"):
            asked.again()


def test_a_full_model_has_nothing_to_merge(box, full):
    refused = box.moai("remote", "merge", full, "--json")
    assert refused.returncode == 2 and "no adapter to merge" in json.loads(refused.stdout)["message"]


@pytest.mark.faults
def test_prompts_have_the_shape_the_job_was_trained_with(box):
    done = train(box, "--max-steps", "2", "--template", "News: {article}\nShort: {highlights}", "--name", "other-shape")
    assert done.returncode == 0, done.stderr.decode()
    for more, start in (((), "News: SEOUL"), (("--template", "none"), "SEOUL"), (("--template", "summarize"), "[SUMMARIZE] SEOUL")):
        asked = box.moai("remote", "generate", "other-shape", "--prompt", "SEOUL -- A ferry.", *more, "--json")
        assert asked.returncode == 0, asked.stderr.decode()
        assert json.loads(asked.stdout)["answers"][0]["prompt"].startswith(start)


def test_smoke_trains_saves_loads_and_generates(box):
    done = train(box, "--smoke", "--batch-size", "512", "--json")  # More than the 50 rows of a smoke run.
    assert done.returncode == 0, done.stderr.decode()
    events = [json.loads(line) for line in done.stdout.splitlines()]
    names = [e["data"]["name"] for e in events if e["type"] == "step" and e["data"]["state"] == "RUNNING"]
    assert names == ["download", "download-dataset", "prepare", "train", "verify", "generate"]


def test_a_laptop_file_is_prepared_and_trained_on(box, tmp_path):
    data = tmp_path / "mine.jsonl"
    news.write_jsonl(str(data), 60)
    done = box.moai(
        "remote", "prepare", f"laptop:{data}", "--model", MODEL, "--block-size", "32", "--output", "~/mine", "--file-name", "set.pt"
    )
    assert done.returncode == 0, done.stderr.decode()
    assert (box.home / "mine" / "set.pt").is_file()


def test_the_token_reaches_the_hub_and_nothing_else(box, hub):
    canary = "hf_" + os.urandom(16).hex()
    hub.tokens[canary] = []
    before = len(hub.requests)
    done = train(box, "--max-steps", "2", "--name", "canary", "--json", HF_TOKEN=canary)
    assert done.returncode == 0, done.stderr.decode()
    seen = [request.token for request in hub.requests[before:] if request.token]
    assert seen and set(seen) == {canary}
    needle = canary.encode()
    assert needle not in done.stdout and needle not in done.stderr
    for folder in (box.home, box.laptop.folder):
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 10**7:
                assert needle not in path.read_bytes(), path


def test_dry_run_shows_every_value_with_its_source_and_starts_nothing(box):
    (box.laptop.folder / "work" / "moai.toml").write_text('[train]\nmodel = "demo/tiny"\nbatch_size = 2\n[train.settings]\nwarmup_steps = 3\n')
    try:
        before = json.loads(box.moai("remote", "jobs", "--json").stdout)["jobs"]
        done = box.moai("remote", "train", "--dataset", DATASET, "--set", "epochs=2", "--dry-run", "--json", MOAI_METHOD="lora")
        assert done.returncode == 0, done.stderr.decode()
        plan = json.loads(done.stdout)
        values = {name: (v["value"], v["source"].rsplit("/", 1)[-1]) for name, v in plan["values"].items() if v["value"] is not None}
        assert values == {
            "model": ("demo/tiny", "moai.toml"),
            "dataset": (DATASET, "--dataset"),
            "method": ("lora", "MOAI_METHOD"),
            "batch_size": (2, "moai.toml"),
            "epochs": (2.0, "--set epochs"),
            "warmup_steps": (3, "moai.toml"),
        }
        assert [s["name"] for s in plan["steps"]] == ["download", "download-dataset", "prepare", "train", "verify"]
        assert json.loads(box.moai("remote", "jobs", "--json").stdout)["jobs"] == before
        shown = box.moai("remote", "train", "--dataset", DATASET, "--dry-run").stdout.decode()
        assert "moai.toml" in shown and "pytorch" in shown and "1. download:" in shown
    finally:
        (box.laptop.folder / "work" / "moai.toml").unlink()


def test_a_foreign_training_script_is_followed_by_its_log(box):
    script = box.home / "their_train.py"
    script.write_text(
        "import time\n"
        "for step in range(1, 6):\n"
        "    print({'loss': round(2.0 / step, 4), 'learning_rate': 1e-4, 'epoch': step / 5})\n"
        "    print(f'[Step {step}/5] Loss: {2.0 / step:.4f}')\n"
        "print('Model saved in /tmp/x')\n"
    )
    done = box.moai("remote", "train", "--json", "--", "python", "their_train.py")
    assert done.returncode == 0, done.stderr.decode()
    events = [json.loads(line) for line in done.stdout.splitlines()]
    losses = [e["data"]["values"]["loss"] for e in events if e["type"] == "metric" and "loss" in e["data"]["values"]]
    assert losses and losses[0] == 2.0
    script.write_text("print('[Step 5/5] Loss: 0.1')\nprint('Traceback (most recent call last):')\nprint('ValueError: eval set is empty')\n")
    failed = box.moai("remote", "train", "--", "python", "their_train.py")
    assert failed.returncode == 3 and b"ValueError: eval set is empty" in failed.stderr
    trusted = box.moai("remote", "train", "--trust-exit-code", "--", "python", "their_train.py")
    assert trusted.returncode == 0, trusted.stderr.decode()


def messages(box, job, code):
    events = box.moai("remote", "show", job, "--events", "--json")
    found = [e["data"] for e in json.loads(events.stdout)["events"] if e["type"] == "message"]
    return [data for data in found if data["code"] == code]


@pytest.mark.faults
def test_a_recipe_that_is_killed_goes_on_by_itself_and_does_what_it_is_told(box):
    words = ["--max-steps", "100000", "--set", "save_steps=50", "--retries", "1", "--detach"]
    done = train(box, *words)
    assert done.returncode == 0, done.stderr.decode()
    job = done.stdout.decode().strip()

    def trainers():
        return [pid for pid, argv in boxes.processes_of(box.home).items() if "train" in argv and str(box.job_dir(job)) in argv]

    def has_checkpoint():
        text = (box.job_dir(job) / "reports.jsonl").read_text()
        return '"checkpoint"' in text

    wait_until(has_checkpoint, "a checkpoint", 180)
    assert box.moai("remote", "signal", job, "evaluate").returncode == 0
    assert box.moai("remote", "signal", job, "log-interval=7").returncode == 0
    wait_until(lambda: len(messages(box, job, "SIGNAL_DONE")) == 2, "the answers", 60)
    said = {data["signal"]: data["value"] for data in messages(box, job, "SIGNAL_DONE")}
    assert said["log-interval"] == 7 and said["evaluate"] > 0
    for pid in trainers():
        os.kill(pid, 9)
    wait_until(lambda: messages(box, job, "RESUMED"), "the next try to begin at the checkpoint", 120)
    (retry,) = messages(box, job, "RETRYING")
    assert retry["reason"] == "COMMAND_KILLED" and messages(box, job, "RESUMED")[0]["step"] >= 50
    assert box.moai("remote", "stop", job).returncode == 0
    assert box.moai("remote", "wait", job, "--timeout", "120s").returncode == 0
    events = events_of(box, job)
    began = next(e["sequence"] for e in events if e["type"] == "message" and e["data"]["code"] == "RESUMED")
    resumed = [e["data"]["step"] for e in events if e["sequence"] > began and e["type"] == "metric" and "loss" in e["data"]["values"]]
    # The interval is kept by the next try; checkpoints and the stop bring a line of their own.
    assert resumed and all(step % 7 == 0 or step % 50 == 0 for step in resumed[:-1]), resumed

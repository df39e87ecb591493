"""``moai remote plan``, tutorials and borrowed flavors, over a real sshd against a look-alike and a stand-in Hub."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import moai
import pytest
from fakes.box import CLI_TIMEOUT_S, Box
from fakes.hub import HubServer
from fakes.sshd import find_sshd

SCHEMAS = Path(moai.__file__).parent / "schemas"
LLAMA3_8B = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "torch_dtype": "bfloat16",
}  # fmt: skip
LLAMA3_70B = {**LLAMA3_8B, "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "intermediate_size": 28672}
GATED = "meta-llama/Meta-Llama-3-70B"
TOKEN = "hf_planplanplan"


def files(config, **more):
    return {"config.json": json.dumps(config).encode(), "model.safetensors": b"x" * 1000, **more}


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        server.add_model("org/llama8", files(LLAMA3_8B))
        server.add_model(GATED, files(LLAMA3_70B), gated=True)
        index = {"metadata": {"total_size": 400_000}, "weight_map": {}}
        server.add_model("org/strange", files({"model_type": "strange", "torch_dtype": "bfloat16"},
                         **{"model.safetensors.index.json": json.dumps(index).encode()}))  # fmt: skip
        server.add_model("org/bare", {"README.md": b"nothing", "model.safetensors": b"x" * 10})
        server.tokens[TOKEN] = [GATED]
        yield server


@pytest.fixture(scope="module")
def box(tmp_path_factory, hub):
    if find_sshd() is None:
        pytest.skip("SKIPPED LOUDLY: sshd is not installed (apt-get install openssh-server)")
    with Box(tmp_path_factory.mktemp("plan")) as one:
        one.laptop.env["HF_ENDPOINT"] = hub.endpoint
        yield one


@pytest.fixture(autouse=True)
def flavor(box):
    """Every test begins with an idle device of the look-alike's first flavor."""
    box.kit.set_idle()
    box.kit.set(devices=[{"id": 0, "flavor": "4xLarge.2048GB"}])


def document(done, name, code=0):
    assert done.returncode == code, (done.returncode, done.stderr.decode())
    value = json.loads(done.stdout)
    schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(value)
    assert list(value) == list(schema["properties"])
    return value


def planned(box, *words, **env):
    value = document(box.moai("remote", "plan", *words, "--json", **env), "needs-1")
    return value, {figure["name"]: figure for figure in value["figures"]}


def flavor_of(box):
    return box.kit.state()["devices"][0]["flavor"]


# -- plan ----------------------------------------------------------------------------------------------


def test_a_model_of_the_guide_is_planned_from_its_config_alone(box, hub):
    before = len(hub.requests)
    value, found = planned(box, "org/llama8", "--rows", "287113")
    assert value["guide_model"] == "Llama3 8B" and value["model_type"] == "llama" and len(value["commit"]) == 40
    assert found["parameters"]["value"] == 8030261248 and found["parameters"]["evidence"] == "arithmetic"
    assert found["optimizer"]["value"] == 8 * 8030261248 and found["hours"] == {
        "name": "hours", "value": pytest.approx(140 / 60), "unit": "hours", "evidence": "guide", "text": found["hours"]["text"],
    }  # fmt: skip
    assert value["recommended_flavor"] == "4xLarge.2048GB" and value["recommended_batch_size"] == 256
    assert value["device"] == {"provider": "moreh-smi", "flavor": "4xLarge.2048GB", "memory_total_mib": 2096640}
    assert found["download"]["value"] > 1000 and value["disk"]["free_bytes"] > 0
    assert not [r.path for r in hub.requests[before:] if r.path.endswith(".safetensors")], "no weight is fetched"


def test_the_table_names_formula_and_evidence(box):
    done = box.moai("remote", "plan", "org/llama8", "--method", "lora", "--batch", "16", "--seq", "512")
    assert done.returncode == 0, done.stderr.decode()
    shown = done.stdout.decode()
    for part in ("8,030,261,248", "config.json (llama)", "16 x 512 tokens x (32 layers x", "arithmetic", "full fine-tuning", "as asked"):
        assert part in shown, shown
    assert "there: 4xLarge.2048GB with 2.20 TB" in shown


def test_a_folder_on_the_container_is_planned_too(box):
    folder = box.home / "mine"
    folder.mkdir(exist_ok=True)
    for name, raw in files(LLAMA3_8B).items():
        (folder / name).write_bytes(raw)
    value, found = planned(box, "~/mine")
    assert found["parameters"]["value"] == 8030261248 and value["commit"] is None and found["download"]["value"] == 0
    (folder / "config.json").write_text("{")
    done = box.moai("remote", "plan", "~/mine", "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["reason"] == "MODEL_INVALID"


def test_an_unknown_layout_is_sized_by_its_index_and_one_without_a_config_not_at_all(box):
    value, found = planned(box, "org/strange")
    assert found["parameters"]["value"] == 200_000 and "index" in found["parameters"]["text"]
    assert found["activations"]["evidence"] == found["hours"]["evidence"] == "no data" and value["recommended_flavor"] is None
    _, found = planned(box, "org/bare")
    assert found["parameters"]["value"] is None and found["parameters"]["evidence"] == "no data"


def test_the_hub_s_refusals_are_typed_and_the_token_opens_what_it_may(box):
    for model, reason in (("org/nothing", "REPO_NOT_FOUND"), (GATED, "ACCESS_GATED")):
        done = box.moai("remote", "plan", model, "--json")
        assert done.returncode != 0 and json.loads(done.stdout)["reason"] == reason
    value, found = planned(box, GATED, "--rows", "287113", HF_TOKEN=TOKEN)
    assert value["gated"] and found["parameters"]["value"] == 70553706496 and found["hours"]["value"] == pytest.approx(24)
    assert "FLAVOR_TOO_SMALL" in [c["code"] for c in value["concerns"]] and value["recommended_flavor"] == "8xLarge.4096GB"
    done = box.moai("remote", "plan", GATED, HF_TOKEN=TOKEN)
    assert b"next: --flavor 8xLarge.4096GB switches before the start" in done.stderr


def test_a_plan_needs_a_model_and_takes_it_from_the_tutorial(box):
    done = box.moai("remote", "plan", "--json")
    assert done.returncode == 2 and json.loads(done.stdout)["reason"] == "USAGE"
    value, found = planned(box, "--tutorial", "llama3-70b", HF_TOKEN=TOKEN)
    assert value["model"] == GATED and found["checkpoints"]["value"] == 0 and found["dataset"]["value"] == 287113 * 1024 * 13


def test_python_has_the_same(box, as_laptop, monkeypatch, hub):
    as_laptop(box.laptop)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    with moai.connect(box.alias) as host:
        needs = host.estimate_training("org/llama8", rows=1000, method="lora", settings={"lora.r": 16})
        assert needs.figure("trained").value == 2 * 3407872 and needs.figure("nothing") is None
        with pytest.raises(moai.UsageError):
            host.estimate_training("org/llama8", rows=-1)


# -- tutorials -----------------------------------------------------------------------------------------


def test_tutorials_are_listed(box):
    value = document(box.moai("remote", "train", "--tutorial", "list", "--json"), "tutorials-1")
    assert [t["name"] for t in value["tutorials"]] == [
        "llama3-70b", "llama3-8b", "llama2-13b", "mistral-7b", "qwen-7b", "baichuan2-13b",
    ]  # fmt: skip
    shown = box.moai("remote", "train", "--tutorial", "list")
    assert shown.returncode == 0 and b"meta-llama/Meta-Llama-3-70B" in shown.stdout
    unknown = box.moai("remote", "train", "--tutorial", "llama3", "--dry-run")
    assert unknown.returncode == 2 and b"there is no tutorial 'llama3'" in unknown.stderr


def test_a_tutorial_s_values_rank_below_moai_toml_and_above_defaults(box):
    toml = box.laptop.folder / "work" / "moai.toml"
    toml.write_text('[train]\nbatch_size = 64\n[train.settings]\nsave_minutes = 60\n')
    try:
        done = box.moai("remote", "train", "--tutorial", "llama3-70b", "--epochs", "2", "--dry-run", "--json")
        plan = document(done, "plan-1")
        values = {name: (v["value"], v["source"].rsplit("/", 1)[-1]) for name, v in plan["values"].items() if v["value"] is not None}
        preset = "--tutorial llama3-70b"
        assert values == {
            "model": (GATED, preset), "dataset": ("abisee/cnn_dailymail:3.0.0", preset.rsplit("/", 1)[-1]), "method": ("full", preset),
            "epochs": (2.0, "--epochs"), "batch_size": (64, "moai.toml"), "block_size": (1024, preset),
            "learning_rate": (1e-5, preset), "template": ("summarize", preset), "save_minutes": (60, "moai.toml"),
        }  # fmt: skip
        said = done.stderr.decode().splitlines()
        assert said[0].startswith("licence: open https://huggingface.co/meta-llama/Meta-Llama-3-70B")
        text = "\n".join(said)
        assert "wants 8xLarge.4096GB" in text and "accelerate==0.30.1 instead of ccelerate==0.30.1" in text
        assert "wins over the tutorial: batch_size = 64" in text
        train = next(s for s in plan["steps"] if s["name"] == "train")["inputs"]
        assert train["batch_size"] == 64 and train["settings"]["save_minutes"] == 60
    finally:
        toml.unlink()


@pytest.mark.parametrize("name", [t.name for t in moai.tutorials()])
def test_every_tutorial_gives_a_plan_and_its_smoke_a_batch_that_fits(box, name):
    done = box.moai("remote", "train", "--tutorial", name, "--smoke", "--dry-run", "--json")
    steps = {step["name"]: step for step in document(done, "plan-1")["steps"]}
    one = moai.tutorial(name)
    assert steps["download"]["inputs"]["repo_id"] == one.values["model"]
    assert steps["prepare"]["inputs"]["template"] == steps["generate"]["inputs"]["template"] == one.values["template"]
    assert steps["train"]["inputs"]["batch_size"] == 8 and steps["train"]["inputs"]["max_steps"] == 3


def test_trust_in_a_model_s_code_is_not_trust_in_a_data_set_s(box):
    words = ("remote", "train", "--tutorial", "baichuan2-13b", "--dry-run", "--json")
    for given, expected in (((), None), (("--set", "trust_remote_code=true"), True)):
        steps = {step["name"]: step["inputs"] for step in document(box.moai(*words, *given), "plan-1")["steps"]}
        assert [steps[name].get("trust_remote_code") for name in ("prepare", "train", "verify")] == [expected] * 3
        assert steps["prepare"].get("trust_dataset_code") is (False if expected else None)


# -- before the start ----------------------------------------------------------------------------------


def started(done):
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def test_train_says_which_flavor_it_wants_and_switches_nothing_by_itself(box):
    done = box.moai("remote", "train", "--tutorial", "llama3-70b", "--detach", HF_TOKEN=TOKEN)
    job = started(done)
    box.moai("remote", "cancel", job)
    said = done.stderr.decode()
    assert said.startswith("licence: open ") and "the tutorial runs on 8xLarge.4096GB; box has 4xLarge.2048GB" in said
    assert said.count("next: --flavor 8xLarge.4096GB switches before the start") == 1 and flavor_of(box) == "4xLarge.2048GB"


def test_no_estimate_is_a_line_and_not_the_end(box):
    done = box.moai("remote", "train", "--model", "org/nothing", "--dataset", "org/no", "--detach")
    job = started(done)
    assert b"no estimate of what it needs" in done.stderr and b"[REPO_NOT_FOUND]" in done.stderr
    box.moai("remote", "wait", job)


def test_a_flavor_is_borrowed_for_the_followed_job_and_given_back(box):
    code = f"import json; print('FLAVOR', json.load(open({box.kit.state_path!r}))['devices'][0]['flavor'])"
    words = ("remote", "train", "--flavor", "xlarge", "--restore-flavor", "--", sys.executable, "-c", code)
    done = box.moai(*words)
    assert done.returncode == 0, done.stderr.decode()
    assert b"FLAVOR xLarge.512GB" in done.stdout and flavor_of(box) == "4xLarge.2048GB"
    assert b"xLarge.512GB now, 4xLarge.2048GB before" in done.stderr and b"box: 4xLarge.2048GB again" in done.stderr
    failed = box.moai(*words[:-1], "raise SystemExit(4)")
    assert failed.returncode == 3 and flavor_of(box) == "4xLarge.2048GB"


def test_without_restore_the_flavor_stays_and_the_way_back_is_said(box):
    done = box.moai("remote", "train", "--flavor", "2xLarge.1024GB", "--detach", "--", "true")
    box.moai("remote", "wait", started(done))
    assert flavor_of(box) == "2xLarge.1024GB" and b"moai remote device switch 4xLarge.2048GB --on box goes back" in done.stderr
    same = box.moai("remote", "train", "--flavor", "2xlarge", "--", "true")
    assert same.returncode == 0 and b"box has 2xLarge.1024GB already" in same.stderr


def test_a_flavor_that_cannot_be_had_ends_it_before_anything_is_submitted(box):
    before = json.loads(box.moai("remote", "jobs", "--json").stdout)["jobs"]
    unknown = box.moai("remote", "train", "--flavor", "huge", "--", "true")
    assert unknown.returncode == 1 and b"[FLAVOR_NOT_FOUND]" in unknown.stderr
    box.kit.set_running(os.getpid(), "python other.py", 1000)
    busy = box.moai("remote", "train", "--flavor", "xlarge", "--", "true")
    assert busy.returncode == 1 and b"[DEVICE_IN_USE]" in busy.stderr
    usage = box.moai("remote", "train", "--flavor", "xlarge", "--restore-flavor", "--detach", "--", "true")
    assert usage.returncode == 2 and flavor_of(box) == "4xLarge.2048GB"
    assert json.loads(box.moai("remote", "jobs", "--json").stdout)["jobs"] == before


def test_where_flavors_are_set_per_job_that_is_what_is_said(box):
    try:
        box.kit.set_variant("I")
        done = box.moai("remote", "train", "--tutorial", "llama3-70b", "--detach", HF_TOKEN=TOKEN)
        box.moai("remote", "cancel", started(done))
        assert b"--setenv ACCELERATOR_PLATFORM_FLAVOR=flavor-default-64" in done.stderr and b"--flavor" not in done.stderr
        asked = box.moai("remote", "train", "--flavor", "xlarge", "--", "true")
        assert asked.returncode == 1 and b"[UNSUPPORTED]" in asked.stderr
    finally:
        box.kit.set_variant("D")
        box.kit.set(maf="24.5.0", latest="24.5.0")


@pytest.mark.parametrize("answer", ["y", "n"])
def test_on_a_terminal_the_switch_is_offered(box, answer):
    laptop = box.laptop
    leader, follower = pty.openpty()
    words = [*laptop.argv, "remote", "train", "--tutorial", "llama3-70b", "--detach"]
    env = dict(laptop.env, HF_TOKEN=TOKEN, TERM="dumb")
    child = subprocess.Popen(words, env=env, cwd=str(laptop.folder / "work"), stdin=follower, stdout=subprocess.PIPE, stderr=follower)
    os.close(follower)
    seen, end, answered = b"", time.monotonic() + CLI_TIMEOUT_S, False
    while time.monotonic() < end:
        ready, _, _ = select.select([leader], [], [], 1.0)
        if ready:
            try:
                piece = os.read(leader, 4096)
            except OSError:
                break
            if not piece:
                break
            seen += piece
        if not answered and b"[y/N]" in seen:
            answered = True
            os.write(leader, answer.encode() + b"\n")
        if child.poll() is not None and not ready:
            break
    output, _ = child.communicate(timeout=CLI_TIMEOUT_S)
    os.close(leader)
    assert answered and child.returncode == 0, seen.decode(errors="replace")
    box.moai("remote", "cancel", output.decode().strip())
    assert b"Switch box to 8xLarge.4096GB?" in seen
    assert flavor_of(box) == ("8xLarge.4096GB" if answer == "y" else "4xLarge.2048GB")


# -- through the host's proxy --------------------------------------------------------------------------


def test_plan_download_and_check_ask_the_hub_through_the_hosts_proxy(box, hub):
    # .invalid never resolves (RFC 2606): only the proxy, here the stand-in itself, can answer for it.
    env = {"HF_ENDPOINT": "http://hub.invalid"}
    refused = box.moai("remote", "download", "org/llama8", "--dry-run", "--json", **env)
    assert json.loads(refused.stdout)["reason"] == "HUB_UNREACHABLE"
    assert box.moai("remote", "set", box.alias, "--proxy", hub.endpoint).returncode == 0
    try:
        plan = document(box.moai("remote", "download", "org/llama8", "--dry-run", "--json", **env), "download-plan-1")
        assert plan["file_count"] == 2 and plan["page"] == "http://hub.invalid/org/llama8"
        assert planned(box, "org/llama8", **env)[0]["guide_model"] == "Llama3 8B"
        checks = json.loads(box.moai("remote", "check", "--model", "org/llama8", "--json", **env).stdout)
        found = {check["name"]: check["verdict"] for one in checks["hosts"] for check in one["checks"]}
        assert found["hub"] == found["licence"] == "ok", found
    finally:
        assert box.moai("remote", "set", box.alias, "--proxy", "").returncode == 0


def test_a_dry_run_of_a_training_says_what_it_adds_on_the_disk(box):
    done = box.moai("remote", "train", "--model", "org/llama8", "--dataset", "org/x", "--env", "pytorch", "--dry-run")
    assert done.returncode == 0, done.stderr.decode()
    disk = next(line for line in done.stdout.decode().splitlines() if line.startswith("disk: "))
    assert "checkpoints" in disk and "output" in disk and "free for" in disk
    assert done.stderr.decode().rstrip().endswith("nothing was started")

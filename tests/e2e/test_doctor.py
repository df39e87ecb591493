"""The doctor and the report on a look-alike container, as a person types them."""

import json
import os
import subprocess
import tarfile

import moai
import pytest


def said(done, code=0):
    assert done.returncode == code, (done.returncode, done.stdout.decode(), done.stderr.decode())
    return done.stdout.decode()


def checks_of(box, *words, code=None):
    done = box.moai("remote", "check", "--json", *words)
    assert code is None or done.returncode == code, done.stderr.decode()
    [host] = json.loads(done.stdout)["hosts"]
    return {one["name"]: one for one in host["checks"]}, host["fixes"]


def test_a_dead_owner_is_named_and_released_only_when_asked(box):
    gone = subprocess.Popen(["true"])
    gone.wait()
    box.kit.set_running(gone.pid, "python gone.py", 1000, utilization=0)
    text = box.moai("remote", "check")
    assert text.returncode == 1 and f"held by pid {gone.pid}" in text.stdout.decode()
    assert "moai remote device reset --on box" in text.stdout.decode() and b"--fix" in text.stderr
    assert box.kit.state()["running"], "a check changes nothing"
    refused = box.moai("remote", "check", "--fix")
    assert refused.returncode == 2 and b"moai remote device reset --on box" in refused.stderr and b"--yes" in refused.stderr
    assert box.kit.state()["running"], "nor does a fix that nobody confirmed"
    found, fixes = checks_of(box, "--fix", "--yes")
    assert ("reset-device", True) in [(one["fix"], one["done"]) for one in fixes]
    assert not box.kit.state()["running"] and found["device lock"]["verdict"] == "ok"


def test_a_living_owner_is_never_disturbed(box):
    owner = subprocess.Popen(["sleep", "600"])
    try:
        box.kit.set_running(owner.pid, "python busy.py", 1000, utilization=0, kill_on_reset=True)
        found, fixes = checks_of(box, "--fix", "--yes")
        assert "reset-device" not in [one["fix"] for one in fixes]
        assert found["device"]["verdict"] == "warning" and str(owner.pid) in found["device"]["evidence"]
        assert owner.poll() is None and box.kit.state()["running"]
    finally:
        owner.kill()
        owner.wait()


def test_an_environment_is_remembered_and_nothing_else_changes(box):
    before = box.kit.state()
    found, fixes = checks_of(box, "--env", box.kit.prefix("pytorch"), "--fix", "--yes")
    assert [one["fix"] for one in fixes if one["done"]] in (["remember-environment"], ["make-work-folder", "remember-environment"], ["make-work-folder"])
    assert found["environment"]["verdict"] == "ok" and box.kit.state() == before
    assert box.kit.state().get("attached", 0) == 0
    deep, _ = checks_of(box, "--deep")
    assert "attached as MoAI Accelerator" in deep["accelerator"]["evidence"] and box.kit.state()["attached"] == 1


TRAINING = r"""
echo "[2024-06-11 10:02:50.204] [info] MoAI Accelerator is ready to use."
echo "[2024-06-11 10:02:50.204] [info] Moreh Version: 24.5.0"
echo "[2024-06-11 10:02:50.204] [info] Moreh Job ID: 981777"
echo "| Device | Name | Token | Model |"
echo "| * 0 | Moreh SDA | $COLUMN | small |"
echo "[Step 2/40] | Loss: 2.03125 | Duration: 2.71 | Throughput: 48365.87 tokens/sec"
printf %s "$FIRST"; printf '%s\n' "$SECOND"
echo "printed: $WANDB_API_KEY, and $PLAIN_NAME_TOKEN"
echo "RuntimeError: Error Code 4: OUT_OF_MEMORY"
echo ">> Memory requested : 72057594037 bytes"
echo ">> Memory available : 68702699520 bytes"
exit 1
"""
CANARY = {
    "column": "Q2FuYXJ5LWNvbHVtbi1lMmU=",
    "split": "hf_CanarySplitOverTwoWrites42",
    "secret": "CanarySecretOfTheJob43",
    "variable": "CanaryVariable44",
    "argv": "CanaryArgument45",
}


def test_a_report_of_a_failed_training(box, tmp_path):
    column, split = CANARY["column"], CANARY["split"]
    job = said(
        box.moai(
            "remote", "train", "-d", "--secret", "WANDB_API_KEY", "--setenv", f"PLAIN_NAME_TOKEN={CANARY['variable']}",
            "--setenv", f"COLUMN={column}", "--setenv", f"FIRST={split[:9]}", "--setenv", f"SECOND={split[9:]}",
            "--", "sh", "-c", TRAINING, "sh", "--hf-token", CANARY["argv"], WANDB_API_KEY=CANARY["secret"],
        )
    ).strip()  # fmt: skip
    box.moai("remote", "wait", job)
    path = tmp_path / "report.tar.gz"
    done = box.moai("remote", "report", job, "-o", str(path), WANDB_API_KEY=CANARY["secret"])
    assert said(done).strip() == str(path) and b"without" not in done.stderr
    with tarfile.open(path) as archive:
        found = {m.name.partition("/")[2]: archive.extractfile(m).read().decode() for m in archive.getmembers()}
    # The second half of a value that the job printed in two goes as well where it stands alone: in its variable.
    left = [(name, what) for name, text in found.items() for what, value in CANARY.items() if value in text]
    assert left == []
    assert list(found) == [
        "README.txt", "job.json", "spec.json", "plan.json", "events.jsonl", "phases.txt", "log.txt", "memory.txt", "moreh.json",
        "devices.json", "environment.json", "agent.log", "laptop.json",
    ]  # fmt: skip
    assert "72057594037" in found["memory.txt"] and "68702699520" in found["memory.txt"]
    moreh = json.loads(found["moreh.json"])
    assert (moreh["moreh_job_id"], moreh["maf_version"], moreh["platform_version"]) == (981777, "24.5.0", "24.5.0")
    assert json.loads(found["environment.json"])[0]["packages"]["numpy"] == "1.23.5"
    assert "Loss: 2.03125" in found["log.txt"] and "OUT_OF_MEMORY" in found["README.txt"]
    assert json.loads(found["devices.json"])["provider"] == "moreh-smi" and "ready" in found["phases.txt"]


def test_the_report_from_python(box, tmp_path, as_laptop):
    as_laptop(box.laptop)
    with moai.connect("box") as host:
        job = host.run(["sh", "-c", "echo hello; exit 3"])
        job.wait(60, check=False)
        report = job.report(tmp_path / "x.tar.gz")
    assert report.path == tmp_path / "x.tar.gz" and report.missing == () and "memory.txt" not in report.files
    with pytest.raises(moai.UsageError):
        job.report(report.path)
    assert os.stat(report.path).st_mode & 0o077 == 0

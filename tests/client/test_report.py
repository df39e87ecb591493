"""A report holds what support needs and no secret, wherever one was planted and however it was cut."""

import io
import json
import os
import tarfile
from datetime import datetime, timezone

import moai
import pytest
from moai import _redact, _report
from moai._cli.main import main

#: Every one of these must be gone, whatever file it was planted in.
CANARIES = {
    "hub": "hf_CanaryCanaryCanaryCanary01",
    "bearer": "CanaryBearer.abc-123_def/ghi+02=",
    "basic": "Q2FuYXJ5OkNhbmFyeUJhc2ljMDM=",
    "header": "CanaryHeader04opaque",
    "cookie": "session=CanaryCookie05",
    "signature": "CanarySignature06%2Fabc",
    "userinfo": "CanaryPassword07",
    "variable": "Canary-Variable-08!?$",
    "quoted": "Canary quoted 09 with, commas; and = signs",
    "option": "CanaryOption10",
    "column": "Q2FuYXJ5LVRva2VuLTExLXNkYQ==",
    "headless": "Q2FuYXJ5LUhlYWRsZXNzLTEy",
    "camel": "CanaryCamel13",
    "csh": "CanaryIndex14",
    "github": "ghp_CanaryCanaryCanary15abcdef",
    "aws": "AKIACANARYCANARY16AB",
    "jwt": "eyJDYW5hcnkxNyI6MX0.eyJDYW5hcnkiOjE3fQ.CanarySig17",
    "pem": "MIICanary18KeyMaterialKeyMaterialKeyMaterialKeyMaterial",
    "netrc": "CanaryNetrc19",
    "painted": "hf_CanaryPainted20abcdefgh",
    "bytes": "CanaryBytes21",
    "learnt": "CanaryLearnt22value",
    "environment": "CanaryLaptop23value",
    "repr": "CanaryRepr24",
}
C = CANARIES

LOG = f"""start
token is {C["hub"]} and https://huggingface.co/api?x=1
GET /api HTTP/1.1 Authorization: Bearer {C["bearer"]}
proxy-authorization: Basic {C["basic"]}
{{'authorization': '{C["header"]}', 'accept': '*/*'}}
Set-Cookie: {C["cookie"]}; Path=/
https://cdn.example/a/b.bin?X-Amz-Algorithm=AWS4&X-Amz-Signature={C["signature"]}&Expires=99 done
clone https://mina:{C["userinfo"]}@git.example/x.git
export WANDB_API_KEY={C["variable"]}
MY_PASSWORD="{C["quoted"]}"
python x.py --hf-token {C["option"]} --batch-size 64
+------------------------------------------------------------------+
|  Device  |  Name       |  Token                         |  Model  |
+==================================================================+
|  * 0     |  Moreh SDA  |  {C["column"]}  |  6xlarge  |
+------------------------------------------------------------------+
again {C["column"]}
|  * 1  |  Moreh SDA  |  {C["headless"]}  |  small  |
{{"accessToken": "{C["camel"]}"}}
os.environ["HF_TOKEN"] = "{C["csh"]}"
{C["github"]} {C["aws"]} {C["jwt"]}
-----BEGIN OPENSSH PRIVATE KEY-----
{C["pem"]}
-----END OPENSSH PRIVATE KEY-----
machine x login mina password {C["netrc"]}
\x1b[32mhf_Canary\x1b[1mPainted20\x1b[0mabcdefgh\x1b[0m
token=b'{C["bytes"]}'
client_secret: {C["learnt"]}
and later bare: {C["learnt"]}.
printed by the job: {C["environment"]}
Settings(api_key=SecretStr('{C["repr"]}'), steps=4)
{{"escaped": "{{\\"password\\": \\"{C["camel"]}\\"}}"}}
"""

#: What support needs must not be taken for a secret.
KEPT = (
    "[Step 40/560] | Loss: 1.40625 | Duration: 2.71 | Throughput: 48365.87 tokens/sec",
    "pad_token_id=0 eos_token: </s> add_bos_token: true max_new_tokens=128 num_input_tokens_seen: 4096",
    "tokenizer: ./llama3-8b, loading tokenizer... special_tokens_map.json key: value missing_keys: []",
    "RuntimeError: Error Code 4: OUT_OF_MEMORY >> Memory requested : 72057594037 bytes",
    "[info] Moreh Job ID: 981777",
    "|  * 0     |  MoAI Accelerator   |  4xLarge.2048GB  |  1200345 MiB   |  2096640 MiB   |     97%       |",
    "https://huggingface.co/api/models/x?recursive=true&expand=false",
    "author: mina, passes: 3, authorized? PWD=/home/mina path=/data/runs/x sha256=0123456789abcdef0123456789abcdef",
    "use_auth_token=True HF_TOKEN=None token: null",
)


def redacted(value, known=()):
    redactor = _redact.Redactor(known)
    redactor.learn(value)
    return redactor.text(value) if isinstance(value, str) else redactor.value(value)


def test_no_canary_survives_in_text():
    found = redacted(LOG, [C["environment"]])
    assert [name for name, value in CANARIES.items() if value in found] == []
    assert found.count("\n") >= LOG.count("\n") - 2 and "--batch-size 64" in found and "6xlarge" in found


@pytest.mark.parametrize("line", KEPT)
def test_what_support_needs_stays(line):
    assert redacted(line) == line


def test_values_of_json_by_the_names_of_their_fields():
    value = {
        "variables": {"WANDB_API_KEY": C["variable"], "NCCL_DEBUG": "INFO", "pin": 1},
        "password": 123456,
        "argv": ["python", "--token", C["option"], "--token-id", "7", "--api-key=" + C["camel"]],
        "secrets": ["HF_TOKEN", "WANDB_API_KEY"],
        "nested": [{"headers": {"Authorization": "Bearer " + C["bearer"]}}],
        "text": "later " + C["variable"] + " and " + C["option"],
        "metrics": {"loss": 1.5, "tokens": 12, "pad_token_id": 0},
    }
    found = redacted(value)
    text = json.dumps(found)
    assert [name for name, canary in CANARIES.items() if canary in text] == []
    assert found["variables"]["NCCL_DEBUG"] == "INFO" and found["secrets"] == ["HF_TOKEN", "WANDB_API_KEY"]
    assert found["metrics"] == value["metrics"] and found["password"] == _redact.MARK and found["variables"]["pin"] == 1


@pytest.mark.parametrize("name", ["HF_TOKEN", "MOREH_SDA_TOKEN", "hfToken", "api-key", "X-Api-Key", "SSH_KEY", "DB_PASS", "client_secret", "AWS_SECRET_ACCESS_KEY"])
def test_names_of_secrets(name):
    assert _redact.is_secret_name(name)


@pytest.mark.parametrize("name", ["pad_token_id", "tokens", "tokenizer", "author", "PWD", "key", "secrets", "compass", "step", "eos_token", "path"])
def test_names_that_only_sound_alike(name):
    assert not _redact.is_secret_name(name)


def test_large_and_hostile_texts_take_no_time():
    for piece in ("A", "token", "token=", "|", "x.-", "https://", '\\"', "| a ", "eyJ", "?a", "login x ", "bearer ", "-----BEGIN PRIVATE KEY-----", "'token', '"):
        text = piece * (200_000 // len(piece))
        redacted(text)


# -- the archive -----------------------------------------------------------------------------------


class FakeHost:
    """What a report asks of a host."""

    name = "kt"
    config = moai.HostConfig("kt", "kt")

    def devices(self, environment=""):
        process = moai.DeviceProcess(981777, 7, f"python x.py --token {C['option']}", 5)
        device = moai.Device(0, "MoAI Accelerator", "4xLarge.2048GB", True, 5, 10, None, 97.0, (process,))
        return moai.DeviceReport("kt", "moreh-smi", "24.5.0", "24.8.0", (device,), (f"MOREH_SDA_TOKEN={C['column']}",))

    def environments(self, all_packages=False):
        assert all_packages
        packages = {"transformers": "4.36.2", "numpy": "1.23.5"}
        return [moai.Environment("pytorch", "conda", "/envs/pytorch", "/envs/pytorch/bin/python", "3.8.18", "1.13.1+cu116.moreh24.5.0", "24.5.0", packages)]


NOW = datetime(2026, 3, 1, 6, 12, 44, tzinfo=timezone.utc)


def event(sequence, type, data, seconds=0, step="train"):
    return moai.Event("kt", "swift-otter-7f3a", sequence, NOW.replace(second=seconds), step, type, data)


class FakeJob:
    """A job whose log and records are full of secrets; the log comes in chunks of any size."""

    def __init__(self, log, chunk=1 << 20):
        self.id, self.host, self._log, self._chunk = "swift-otter-7f3a", FakeHost(), log, chunk
        reason = moai.Reason("DEVICE_OUT_OF_MEMORY", f"memory: {C['hub']}", "a larger flavor", {"requested_bytes": "72057594037", "available_bytes": "68702699520"})
        self.info = moai.JobInfo(
            host="kt", id=self.id, name="n", owner="mina@laptop", command=f"python x.py --hf-token {C['option']}", kind="train",
            state="FAILED", phase="training", phase_text="", phase_time=None, reason=reason, create_time=NOW, start_time=NOW, end_time=NOW.replace(minute=30),
            exit_code=1, steps=(moai.Step("train", "FAILED", 1),), progress=None, output="/data/runs/x", parent="", conditions=(),
            pid=0, environment="pytorch", environment_reason="asked for", metrics={"loss": 1.5}, metrics_step=4, losses=((1, 2.0),),
            folder="/home/u/.moai/hosts/h/jobs/swift-otter-7f3a", request_id="r", last_sequence=5, log_bytes=len(log),
        )  # fmt: skip

    def refresh(self):
        return self.info

    def spec_and_plan(self):
        return {"variables": {"WANDB_API_KEY": C["variable"]}, "secrets": ["HF_TOKEN"]}, {"steps": [{"argv": ["x", "--password", C["quoted"]]}]}

    def events(self, follow=True):
        assert not follow
        yield event(1, "state", {"state": "RUNNING", "exit_code": None, "reason": None}, 1, "")
        yield event(2, "phase", {"phase": "ready", "text": "attached", "moreh_job_id": 981777, "maf_version": "24.5.0"}, 5)
        yield event(3, "message", {"text": f"client_secret: {C['learnt']}", "level": "error", "code": "DEVICE_OUT_OF_MEMORY", "requested_bytes": 72057594037}, 9)
        yield event(4, "state", {"state": "FAILED", "exit_code": 1, "reason": None}, 12, "")

    def log(self, offset=0):
        for at in range(offset, len(self._log), self._chunk):
            yield self._log[at : at + self._chunk]


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Name -> text of the archive of a job with this log."""
    monkeypatch.setenv("LAPTOP_TOKEN", C["environment"])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(_report, "_agent_log", lambda job: f"agent said Bearer {C['bearer']}\n")

    def write(log, chunk=1 << 20):
        path = tmp_path / "out.tar.gz"
        path.unlink(missing_ok=True)
        report = _report.write(FakeJob(log, chunk), path)
        assert report.path == path and path.stat().st_mode & 0o777 == 0o600 and report.size_bytes == path.stat().st_size
        with tarfile.open(path) as archive:
            members = archive.getmembers()
            assert all(m.isfile() and m.name.startswith("moai-report-swift-otter-7f3a/") and m.mode == 0o600 for m in members)
            found = {m.name.partition("/")[2]: archive.extractfile(m).read().decode() for m in members}
        assert list(found) == list(report.files) and not report.missing
        assert os.listdir(tmp_path) == ["out.tar.gz"]
        return found

    return write


def grep(found):
    return [(name, canary) for name, text in found.items() for canary in CANARIES.values() if canary in text]


def test_an_archive_holds_everything_and_no_secret(written):
    found = written(LOG.encode())
    assert grep(found) == []
    assert list(found) == ["README.txt", *_report._HELD]
    assert all(name in found["README.txt"] for name in _report._HELD)
    assert json.loads(found["moreh.json"]) == {
        "moreh_job_id": 981777, "maf_version": "24.5.0", "platform_version": "24.5.0", "latest_version": "24.8.0", "torch_moreh_version": "24.5.0",
    }  # fmt: skip
    assert "72057594037 bytes  67.11 GiB" in found["memory.txt"] and "68702699520 bytes" in found["memory.txt"]
    assert json.loads(found["environment.json"])[0]["packages"]["numpy"] == "1.23.5"
    assert [json.loads(line)["sequence"] for line in found["events.jsonl"].splitlines()] == [1, 2, 3, 4]
    rows = [line.split() for line in found["phases.txt"].splitlines()]
    assert rows[2][1:] == ["7.0", "train", "ready", "attached"] and rows[3][1:] == ["1112.0", "-", "FAILED"]
    assert json.loads(found["spec.json"])["secrets"] == ["HF_TOKEN"]
    assert "start\n" in found["log.txt"] and "[redacted]" in found["log.txt"]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_values_that_are_split_over_chunks_are_found(written, chunk):
    assert grep(written(LOG.encode(), chunk)) == []


@pytest.mark.parametrize("into", range(0, 30, 3))
def test_a_long_log_is_cut_without_leaving_half_a_secret(written, monkeypatch, into):
    monkeypatch.setattr(_report, "LOG_BYTES", 4096)
    monkeypatch.setattr(_report, "_BEFORE_BYTES", 512)
    value = C["hub"]
    # The cut goes through the value, in a line and in one without any end.
    for fill in ("y\n", "y"):
        tail = (fill * 5000)[: 4096 + 512 - len(value) + into]
        log = ("x\n" * 1000 + value + tail).encode()
        found = written(log)["log.txt"]
        assert not any(value[at : at + 8] in found for at in range(len(value) - 8)), found[:100]
        assert len(found.encode()) <= 4096 and found.endswith(tail[-100:])


def test_a_token_column_whose_header_is_before_the_cut(written, monkeypatch):
    monkeypatch.setattr(_report, "LOG_BYTES", 64)
    row = f"| 0 | Moreh SDA | {C['column']} | small |\n"
    found = written(("| Device | Name | Token | Model |\n" + row + "z\n" * 20 + "seen " + C["column"] + "\n").encode())
    assert grep(found) == []


def test_a_file_that_is_there_is_not_replaced(tmp_path):
    (tmp_path / "x.tar.gz").write_text("mine")
    for path in (tmp_path / "x.tar.gz", tmp_path, tmp_path / "no" / "x.tar.gz"):
        with pytest.raises(moai.UsageError):
            _report.write(FakeJob(b""), path)
    assert (tmp_path / "x.tar.gz").read_text() == "mine"


def test_a_part_that_cannot_be_had_is_named(tmp_path, monkeypatch):
    job = FakeJob(b"hello\n")

    def refuse(*_, **__):
        raise moai.MoaiError("HOST_UNREACHABLE", f"no way past {C['hub']}", "")

    monkeypatch.setattr(_report, "_agent_log", refuse)
    job.host.devices = job.host.environments = refuse
    report = _report.write(job, tmp_path / "x.tar.gz")
    assert [name for name, _ in report.missing] == ["devices.json", "environment.json", "agent.log"]
    with tarfile.open(report.path) as archive:
        readme = archive.extractfile(archive.getmembers()[0]).read().decode()
    assert "agent.log" in readme and "[HOST_UNREACHABLE]" in readme and C["hub"] not in readme


def test_the_name_of_the_archive_cannot_leave_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_report, "_agent_log", lambda job: "")
    job = FakeJob(b"")
    job.id = "../../etc/x\n"
    path = _report.write(job).path
    assert path.parent == tmp_path and path.name.startswith("moai-report-etc-x-") or path.name.startswith("moai-report-")
    assert set(os.listdir(tmp_path)) == {path.name} and "/" not in path.name


def test_the_command_says_what_is_missing_and_what_to_do(tmp_path, monkeypatch, capsys):
    job = FakeJob(LOG.encode())
    job.report = lambda output="": _report.write(job, output)
    monkeypatch.setattr(_report, "_agent_log", lambda job: "x")
    monkeypatch.setattr(moai, "job", lambda *_, **__: job)
    assert main(["remote", "report", "last", "-o", str(tmp_path / "a.tar.gz")]) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'a.tar.gz'}\n" and "look through it" in said.err
    assert main(["remote", "report", "last", "-o", str(tmp_path / "a.tar.gz")]) == 2
    buffer = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr("sys.stdout", buffer)
    assert main(["remote", "report", "last", "--json", "-o", str(tmp_path / "b.tar.gz")]) == 0
    document = json.loads(buffer.buffer.getvalue())
    assert document["schema"] == "moai.report/1" and document["files"][0] == "README.txt" and document["missing"] == []

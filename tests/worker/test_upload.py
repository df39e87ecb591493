"""Uploading with the installed huggingface_hub to the stand-in Hub, and who may write where."""

import json
import subprocess
from pathlib import Path

import pytest
from fakes import tinymodel
from fakes.hub import HubServer
from fakes.hub_uploads import account
from moai_worker import hubwrite
from moai_worker.errors import StepError
from moai_worker.steps import upload

_AGENT = Path(__file__).resolve().parents[2] / "agent"
_CHILD = r"""
import json, sys
sys.path.insert(0, sys.argv[1])
from moai_worker.errors import StepError
from moai_worker.reporter import Reporter
from moai_worker.steps import upload
for line in sys.stdin:
    inputs = json.loads(line)
    try:
        print("=" + json.dumps({"result": upload.run(inputs, Reporter(sys.argv[2], "upload"))}), flush=True)
    except StepError as error:
        print("=" + json.dumps({"error": error.as_dict()}), flush=True)
"""


@pytest.mark.parametrize(
    ("told", "repo", "cause"),
    [
        (account("me", "read"), "me/x", "read-only"),
        (account("me"), "other/x", "another account"),
        (account("me", orgs={"team": "read"}), "team/x", "read-only"),
        (account("me", "fineGrained", scopes={"me": ["repo.content.read"]}), "me/x", "no scope"),
        (account("me", "fineGrained", scopes={"team": ["repo.write"]}), "me/x", "no scope"),
    ],
)
def test_who_may_not_write_is_told_why(told, repo, cause):
    with pytest.raises(StepError) as caught:
        hubwrite.judge(told, repo)
    assert (caught.value.reason, caught.value.details["cause"]) == ("UPLOAD_REFUSED", cause)
    assert repo in caught.value.message or "may only read" in caught.value.message
    assert caught.value.next


@pytest.mark.parametrize(
    ("told", "repo", "full"),
    [
        (account("me"), "x", "me/x"),
        (account("me", orgs={"team": "contributor"}), "team/x", "team/x"),
        (account("me", "fineGrained", scopes={"me": ["repo.write"]}), "me/x", "me/x"),
        (account("me", "fineGrained", scopes={"friend/x": ["repo.write"]}), "friend/x", "friend/x"),
        # An OAuth token or a role of a later Hub: the Hub itself decides.
        ({"name": "me", "auth": {"type": "oauth"}}, "me/x", "me/x"),
    ],
)
def test_who_may_write_is_let_through(told, repo, full):
    assert hubwrite.judge(told, repo).repo == full


@pytest.mark.parametrize("repo", ["", "a/b/c", "../x", "a b", "a--b/c", "-x/y"])
def test_what_is_no_name_is_refused_before_the_hub_is_asked(repo):
    with pytest.raises(StepError) as caught:
        hubwrite.check("http://127.0.0.1:1", "hf_x", repo)
    assert caught.value.reason == "USAGE"


def test_no_token_and_no_hub_are_told_apart():
    with pytest.raises(StepError) as caught:
        hubwrite.check("http://127.0.0.1:1", None, "me/x")
    assert caught.value.reason == "TOKEN_INVALID"
    with pytest.raises(StepError) as caught:
        hubwrite.check("http://127.0.0.1:1", "hf_x", "me/x", attempts=1)
    assert caught.value.reason == "HUB_UNREACHABLE"


def test_what_stays_here(tmp_path):
    for name in (
        "README.md", "adapter_config.json", "adapter_model.safetensors", "moai-training.json", "smoke.jsonl",
        "checkpoints/checkpoint-1/optimizer.pt", "checkpoints-before-1/checkpoint-1/x", "merged/model.safetensors",
        "merged.partial-7/x", "tensorboard/events.out.tfevents.1", ".cache/huggingface/x", "sub/kept.txt",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("/etc/hostname")
    assert upload.chosen(str(tmp_path)) == ["README.md", "adapter_config.json", "adapter_model.safetensors", "sub/kept.txt"]


class HTTPError(Exception):
    """As requests and httpx name theirs."""

    def __init__(self, status=None, told=""):
        super().__init__("PUT https://store.example/x?Signature=secret failed")
        self.response = status and type("Response", (), {"status_code": status, "headers": {"X-Error-Message": told}})


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (HTTPError(), "HUB_UNREACHABLE"),
        (HTTPError(503), "HUB_UNREACHABLE"),
        (ConnectionError("reset"), "HUB_UNREACHABLE"),
        (HTTPError(401), "TOKEN_INVALID"),
        (HTTPError(403, "no rights"), "UPLOAD_REFUSED"),
        (HTTPError(404), "REPO_NOT_FOUND"),
        (HTTPError(400, "bad metadata"), "MODEL_INVALID"),
    ],
)
def test_what_the_library_raises_is_told_apart_without_its_addresses(error, reason):
    wrapped = RuntimeError("Error while uploading 'x' to the Hub.")
    wrapped.__cause__ = error
    found = upload.refusal(wrapped, "uploading /x", "https://hub.example", "me/x")
    assert found.reason == reason and found.next and "Signature" not in found.message
    assert upload.refusal(KeyError("a defect"), "uploading", "https://hub.example", "me/x") is None


@pytest.fixture(scope="module")
def python():
    found = tinymodel.train_python()
    if found is None:
        pytest.skip("no train environment: set MOAI_TRAIN_PYTHON or make .venv-train")
    return found


@pytest.fixture
def hub():
    with HubServer() as server:
        server.tokens.update({"hf_write": [], "hf_read": []})
        server.uploads.accounts["hf_write"] = account("me")
        server.add_model("other/model", {"config.json": b"{}"})
        yield server


@pytest.fixture
def sender(python, hub, tmp_path, monkeypatch):
    """Sends inputs to one child with the library; the environment holds no proxy."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    child = subprocess.Popen(
        [python, "-c", _CHILD, str(_AGENT), str(tmp_path / "reports.jsonl")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True,
    )  # fmt: skip

    def send(**inputs):
        child.stdin.write(json.dumps(dict({"endpoint": hub.endpoint}, **inputs)) + "\n")
        child.stdin.flush()
        line = ""
        while not line.startswith("="):
            line = child.stdout.readline()
            assert line, "the child ended"
        return json.loads(line[1:])

    yield send
    child.stdin.close()
    child.wait(30)
    child.stdout.close()


def test_a_result_arrives_whole_and_a_second_upload_sends_nothing(sender, hub, tmp_path):
    folder = tmp_path / "result"
    folder.mkdir()
    weights = b"w" * 200_000
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "tokenizer.model").write_bytes(b"t" * 50_000)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/data/snapshots/x", "r": 8}))
    (folder / "README.md").write_text("---\nlibrary_name: peft\n---\n# x\n")
    (folder / "moai-training.json").write_text("{}")
    asked = {"path": str(folder), "repo": "me/tuned", "private": True, "message": "first", "base_model": "org/base"}

    # Ended after the first of two large files: nothing is published, and the second try sends the other one only.
    hub.uploads.room = 1
    failed = sender(**asked)["error"]
    assert failed["code"] == "UPLOAD_REFUSED" and "upload again" in failed["next"], failed
    assert len(hub.uploads.puts) == 1 and hub.uploads.messages == []
    hub.uploads.room = None

    outcome = sender(**asked)["result"]
    repo = hub.repos["model", "me/tuned"]
    files = repo.commits[outcome["commit"]]
    assert repo.private and repo.refs["main"] == outcome["commit"] and outcome["files"] == 4
    assert sorted(files) == [".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.model"]
    assert files["adapter_model.safetensors"].read(0, 1 << 20) == weights
    # A path of the container would be of no use to anybody else.
    assert json.loads(files["adapter_config.json"].read(0, 9999)) == {"base_model_name_or_path": "org/base", "r": 8}
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "/data/snapshots/x"
    assert len(set(hub.uploads.puts)) == len(hub.uploads.puts) == 2 and hub.uploads.messages == ["first"]
    assert outcome["url"] == hub.endpoint + "/me/tuned/tree/main"

    again = sender(**dict(asked, message="second"))["result"]
    assert len(hub.uploads.puts) == 2 and again["commit"] == outcome["commit"]
    branch = sender(**dict(asked, revision="v2"))["result"]
    assert "v2" in repo.refs and branch["url"].endswith("/tree/v2") and len(hub.uploads.puts) == 2

    for repo_id, reason in (("other/model", "UPLOAD_REFUSED"), ("me/tuned/x", "USAGE")):
        assert sender(**dict(asked, repo=repo_id))["error"]["code"] == reason
    assert sender(repo="me/tuned", check_only=True)["result"]["account"] == "me"
    assert sender(**dict(asked, path=str(tmp_path / "none")))["error"]["code"] == "MODEL_INVALID"
    assert "hf_write" not in (tmp_path / "reports.jsonl").read_text()

"""What a download would fetch here: files, disk, licence, whose token, through which proxy."""

import os

import pytest
from fakes.hub import HubServer
from moai_agent import downloads
from moai_proto.v1 import model_pb2
from moai_worker.download import download
from moai_worker.errors import StepError
from moai_worker.hub import plan_download
from moai_worker.hubcache import RESERVE_BYTES

TOKEN = "hf_canarytoken0123456789"
FILES = {"config.json": b"{}", "model.safetensors": b"w" * 5000, "pytorch_model.bin": b"w" * 5000}


@pytest.fixture()
def hub(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("HF_"):
            monkeypatch.delenv(name)
    with HubServer() as server:
        server.add_model("org/name", FILES)
        server.add_model("org/gated", FILES, gated=True)
        server.tokens[TOKEN] = ["org/gated"]
        yield server


def asked(hub, tmp_path, name="org/name", login=None, **more):
    endpoint = more.pop("endpoint", hub.endpoint)
    request = model_pb2.PlanDownloadRequest(repo=model_pb2.HubRepo(id=name, endpoint=endpoint), **more)
    variables = dict({"HOME": str(tmp_path / "home")}, **(login or {}))
    return downloads.plan(request, variables, str(tmp_path / "work"))


def test_a_plan_has_files_bytes_disk_and_licence(hub, tmp_path):
    made = asked(hub, tmp_path)
    assert [(f.path, f.size_bytes, f.here) for f in made.files] == [("model.safetensors", 5000, False), ("config.json", 2, False)]
    assert (made.size_bytes, made.missing_bytes, made.needed_bytes) == (5002, 5002, 5002 + RESERVE_BYTES)
    assert dict(made.left_out) == {"pytorch_model.bin": "second copy of the weights (pickle; safetensors is taken)"}
    assert made.free_bytes > 0 and made.folder == str(tmp_path)
    assert (made.gated, made.page, made.token_source, made.other_cache) == (False, hub.endpoint + "/org/name", "", "")
    assert not os.path.exists(str(tmp_path / "work"))


def test_what_is_here_or_in_the_logins_own_cache_is_not_to_be_fetched(hub, tmp_path):
    theirs = str(tmp_path / "home" / ".cache" / "huggingface" / "hub")
    download(plan_download("org/name", endpoint=hub.endpoint), theirs, hub.endpoint)
    made = asked(hub, tmp_path)
    assert (made.missing_bytes, made.needed_bytes, made.other_cache) == (0, 0, theirs)
    assert all(f.here for f in made.files)
    made = asked(hub, tmp_path, login={"HF_HOME": os.path.dirname(theirs)})
    assert (made.missing_bytes, made.other_cache) == (0, "")


def test_where_the_token_comes_from_is_told_and_the_token_is_not(hub, tmp_path):
    login_file = tmp_path / "home" / ".cache" / "huggingface" / "token"
    os.makedirs(str(login_file.parent))
    login_file.write_text(TOKEN + "\n")
    for more, source in (
        ({"token": TOKEN}, "laptop"),
        ({"login": {"HF_TOKEN": TOKEN}}, "HF_TOKEN of the login"),
        ({}, str(login_file)),
    ):
        made = asked(hub, tmp_path, "org/gated", **more)
        assert (made.gated, made.token_source) == (True, source)
        assert TOKEN not in str(made)
    login_file.unlink()
    with pytest.raises(StepError) as caught:
        asked(hub, tmp_path, "org/gated")
    assert caught.value.reason == "ACCESS_GATED" and hub.endpoint + "/org/gated" in caught.value.next


def test_the_hosts_proxy_is_asked(hub, tmp_path):
    # .invalid never resolves (RFC 2606): only the proxy can answer for it.
    made = asked(hub, tmp_path, endpoint="http://hub.invalid", proxy=hub.endpoint)
    assert made.file_count == 2
    assert {r.host for r in hub.requests} == {"hub.invalid"}

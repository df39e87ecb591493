"""Files that plain HTTP does not give out: hf-xet where it is, watched; else a typed end before a byte.

The library is played by a module of the same name in a small interpreter wrapper; what it fetches is
verified like everything else.
"""

import os
import random
import stat
import sys
import time

import pytest
from fakes.hub import HubServer
from moai_worker import xet
from moai_worker.errors import StepError
from moai_worker.hub import plan_download
from moai_worker.steps import download as step

SIZE = 200 * 1024 + 3
WEIGHTS = random.Random(13).getrandbits(8 * SIZE).to_bytes(SIZE, "big")
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS}
TOKEN = "hf_canarytoken0123456789"
LIBRARY = """
import json, os, time
MODE, SOURCE, LOG = os.environ["PLAY"], os.environ["PLAY_SOURCE"], os.environ["PLAY_LOG"]
def hf_hub_download(repo, path, repo_type, revision, cache_dir):
    with open(LOG, "a") as out:
        out.write(json.dumps([os.getpid(), repo, path, repo_type, os.environ.get("HF_TOKEN"), os.environ["HF_ENDPOINT"]]) + "\\n")
    with open(LOG) as seen:
        tries = len(seen.readlines())
    if MODE == "hang" or (MODE == "hang once" and tries == 1):
        time.sleep(600)
    if MODE == "fail":
        raise OSError("no route to the storage")
    data = open(SOURCE, "rb").read()
    target = os.path.join(cache_dir, "blobs", path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "wb") as out:
        out.write(data if MODE != "wrong" else b"x" * len(data))
    return target
"""


class Told:
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.phases, self.messages = [], []

    def phase(self, name, text="", **data):
        self.phases.append((name, text))

    def message(self, text, level="info", **data):
        self.messages.append((level, text))

    def artifact(self, *values, **data):
        """Nobody reads it."""

    progress = artifact


@pytest.fixture()
def hub(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("HF_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with HubServer() as server:
        repo = server.add_model("org/name", FILES)
        repo.commits[repo.refs["main"]]["model.safetensors"].xet_hash = "ab" * 32
        yield server


@pytest.fixture()
def python(tmp_path, monkeypatch):
    """A wrapper of this interpreter that finds the played library; ``play(mode)`` says how it behaves."""
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "huggingface_hub.py").write_text(LIBRARY)
    (folder / "hf_xet.py").write_text("")
    (tmp_path / "source").write_bytes(WEIGHTS)
    wrapper = tmp_path / "python"
    wrapper.write_text('#!/bin/sh\nPYTHONPATH=%s exec %s -S "$@"\n' % (folder, sys.executable))
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PLAY_SOURCE", str(tmp_path / "source"))
    monkeypatch.setenv("PLAY_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("PLAY", "right")
    return str(wrapper)


def run(hub, tmp_path, **more):
    report = Told()
    inputs = dict({"repo_id": "org/name", "endpoint": hub.endpoint, "hf_home": str(tmp_path / "work")}, **more)
    return step.run(inputs, report), report


def refuse_plain(hub):
    """The file store answers 403 to everybody without Xet."""
    hub.fault("status", "*.safetensors", times=None, status=403)


def weights_of(result):
    with open(os.path.join(result["path"], "model.safetensors"), "rb") as stream:
        return stream.read()


def test_a_file_in_xet_storage_comes_over_plain_http_where_that_works(hub, tmp_path):
    result, _ = run(hub, tmp_path, python="/nowhere/python")
    assert weights_of(result) == WEIGHTS
    assert [r.range for r in hub.seen("GET", "/cdn/")][0] == "bytes=%d-%d" % (SIZE - 1, SIZE - 1)


def test_without_hf_xet_the_end_is_typed_before_a_byte(hub, tmp_path):
    refuse_plain(hub)
    for python in ("", "/nowhere/python", sys.executable + " "):
        with pytest.raises(StepError) as caught:
            run(hub, tmp_path, python=python)
        assert caught.value.reason == "XET_REQUIRED"
        assert "model.safetensors" in caught.value.message and "hf_xet" in caught.value.next
    assert hub.bytes_served() == 0


def test_hf_xet_fetches_it_and_it_is_verified_and_published(hub, python, tmp_path, monkeypatch):
    refuse_plain(hub)
    hub.tokens[TOKEN] = []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    result, report = run(hub, tmp_path, python=python)
    assert weights_of(result) == WEIGHTS and result["files"] == 2
    assert hub.bytes_served("model.safetensors") == 0
    log = (tmp_path / "log").read_text().splitlines()
    assert len(log) == 1 and TOKEN in log[0] and hub.endpoint in log[0]
    blobs = os.path.join(str(tmp_path / "work" / "hub" / "models--org--name"), "blobs")
    assert len(os.listdir(blobs)) == 2
    assert TOKEN not in repr(vars(report))
    assert run(hub, tmp_path, python=python)[0]["reused"] is True
    assert len((tmp_path / "log").read_text().splitlines()) == 1
    folder, _ = run(hub, tmp_path, python=python, output=str(tmp_path / "plain"))
    assert weights_of(folder) == WEIGHTS


def test_a_hf_xet_that_brings_nothing_is_killed_and_started_again(hub, python, tmp_path, monkeypatch):
    refuse_plain(hub)
    monkeypatch.setenv("PLAY", "hang once")
    result, report = bring(hub, python, tmp_path, stall_s=1.0)
    assert list(result.values()) == [os.path.realpath(str(tmp_path / "xet" / "blobs" / "model.safetensors"))]
    assert any(level == "warning" and "started again" in text for level, text in report.messages)
    first = int((tmp_path / "log").read_text().split(",")[0].lstrip("["))
    end = time.monotonic() + 10.0
    while os.path.exists("/proc/%d" % first):
        assert time.monotonic() < end, "the hung child lives on"


def bring(hub, python, tmp_path, stall_s):
    report = Told()
    plan = plan_download("org/name", endpoint=hub.endpoint)
    files = [file for file in plan.files if file.xet]
    return xet.bring(plan, files, python, str(tmp_path / "xet"), hub.endpoint, None, report, stall_s), report


@pytest.mark.parametrize("mode, reason", [("hang", "DOWNLOAD_STALLED"), ("fail", "HUB_UNREACHABLE")])
def test_a_hf_xet_that_hangs_twice_or_fails_ends_typed(hub, python, tmp_path, monkeypatch, mode, reason):
    monkeypatch.setenv("PLAY", mode)
    with pytest.raises(StepError) as caught:
        bring(hub, python, tmp_path, stall_s=0.5)
    assert caught.value.reason == reason
    if mode == "fail":
        assert "no route to the storage" in caught.value.message


def test_wrong_bytes_of_hf_xet_never_get_the_final_name(hub, python, tmp_path, monkeypatch):
    refuse_plain(hub)
    monkeypatch.setenv("PLAY", "wrong")
    monkeypatch.setattr("moai_worker.download.Options", fast_options)
    with pytest.raises(StepError):
        run(hub, tmp_path, python=python)
    repo = hub.repos["model", "org/name"]
    etag = repo.commits[repo.refs["main"]]["model.safetensors"].etag
    assert not (tmp_path / "work" / "hub" / "models--org--name" / "blobs" / etag).exists()


def fast_options():
    from moai_worker.fetch import Options

    return Options(backoff_base_s=0.001, backoff_cap_s=0.01, max_attempts=2, patience_s=0.0)

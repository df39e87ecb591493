"""Files that another Hub cache on the container holds: used, verified, never changed."""

import os
import random

import pytest
from fakes.hub import HubServer
from moai_worker import hubhome, othercache
from moai_worker.download import download, download_to_folder
from moai_worker.hub import plan_download
from moai_worker.steps import download as step

SIZE = 300 * 1024 + 7
WEIGHTS = random.Random(3).getrandbits(8 * SIZE).to_bytes(SIZE, "big")
FILES = {"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS, "sub/notes.txt": b"hello"}


class Told:
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.phases, self.messages, self.done = [], [], []

    def phase(self, name, text="", **data):
        self.phases.append((name, text))

    def message(self, text, level="info", **data):
        self.messages.append((level, text))

    def artifact(self, kind, path, **data):
        """Nobody reads it."""

    def progress(self, done, total, *rest, **data):
        self.done.append((done, total))


@pytest.fixture()
def hub(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("HF_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with HubServer() as server:
        server.add_model("org/name", FILES)
        yield server


@pytest.fixture()
def theirs(hub, tmp_path):
    """The login's own cache, filled."""
    folder = str(tmp_path / "home" / ".cache" / "huggingface" / "hub")
    download(plan_download("org/name", endpoint=hub.endpoint), folder, hub.endpoint)
    hub.served.clear()
    return folder


def run(hub, tmp_path, **more):
    report = Told()
    inputs = dict({"repo_id": "org/name", "endpoint": hub.endpoint, "hf_home": str(tmp_path / "work")}, **more)
    return step.run(inputs, report), report


def content(folder):
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(parent, name), "rb") as stream:
                found[os.path.relpath(os.path.join(parent, name), folder)] = stream.read()
    return found


def blob_of(hub, cache, path="model.safetensors"):
    repo = hub.repos["model", "org/name"]
    return os.path.join(cache, "models--org--name", "blobs", repo.commits[repo.refs["main"]][path].etag)


def test_what_the_logins_cache_holds_is_linked_instead_of_fetched(hub, theirs, tmp_path):
    result, report = run(hub, tmp_path)
    assert hub.bytes_served() == 0
    assert result["path"].startswith(str(tmp_path / "work"))
    assert content(result["path"]) == FILES
    ours = blob_of(hub, str(tmp_path / "work" / "hub"))
    assert os.path.samefile(ours, blob_of(hub, theirs))
    assert "verifying" in [name for name, _ in report.phases]
    total = sum(map(len, FILES.values()))
    assert report.done[-1] == (total, total)
    assert [done for done, _ in report.done] == sorted(done for done, _ in report.done)


def test_a_wrong_file_of_the_right_length_is_fetched_and_left_as_it_is(hub, theirs, tmp_path):
    blob = blob_of(hub, theirs)
    with open(blob, "r+b") as stream:
        stream.write(b"rot")
    result, report = run(hub, tmp_path)
    assert content(result["path"]) == FILES
    assert hub.bytes_served() == SIZE
    assert any(level == "warning" and blob in text for level, text in report.messages)
    with open(blob, "rb") as stream:
        assert stream.read(3) == b"rot"
    assert len(os.listdir(os.path.dirname(blob_of(hub, str(tmp_path / "work" / "hub"))))) == 3


def test_a_newer_commit_takes_what_did_not_change(hub, theirs, tmp_path):
    hub.repos["model", "org/name"].commit(dict(FILES, **{"config.json": b'{"a": 2}'}))
    result, _ = run(hub, tmp_path)
    assert hub.bytes_served() == 8
    assert content(result["path"]) == dict(FILES, **{"config.json": b'{"a": 2}'})


def test_a_whole_snapshot_on_another_file_system_is_read_where_it_is_after_one_look(hub, theirs, tmp_path, monkeypatch):
    monkeypatch.setattr(othercache, "same_file_system", lambda one, other: False)
    hashed = []
    real = othercache._digest
    monkeypatch.setattr(othercache, "_digest", lambda path, *rest: hashed.append(path) or real(path, *rest))
    result, report = run(hub, tmp_path)
    assert result["reused"] is True and result["path"].startswith(theirs)
    assert content(result["path"]) == FILES and len(hashed) == 3
    assert run(hub, tmp_path)[0] == result and len(hashed) == 3
    assert hub.bytes_served() == 0
    with open(blob_of(hub, theirs), "r+b") as stream:
        stream.write(b"rot")
    os.utime(blob_of(hub, theirs), (1, 1))
    result, report = run(hub, tmp_path)
    assert content(result["path"]) == FILES and result["path"].startswith(str(tmp_path / "work"))
    assert any(level == "warning" for level, _ in report.messages)


def test_without_hard_links_and_for_a_plain_folder_the_bytes_are_copied(hub, theirs, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(othercache.os, "link", refuse)
    result, _ = run(hub, tmp_path)
    assert content(result["path"]) == FILES
    assert not os.path.samefile(blob_of(hub, str(tmp_path / "work" / "hub")), blob_of(hub, theirs))
    monkeypatch.undo()
    found = othercache.search(plan_download("org/name", endpoint=hub.endpoint), [theirs], "")
    out = str(tmp_path / "out")
    download_to_folder(plan_download("org/name", endpoint=hub.endpoint), out, hub.endpoint, elsewhere=found.blobs)
    assert hub.bytes_served() == 0
    assert not os.path.samefile(os.path.join(out, "model.safetensors"), blob_of(hub, theirs))
    assert {n: c for n, c in content(out).items() if not n.startswith(".")} == FILES


def test_what_the_library_left_unfinished_is_named_and_not_removed(hub, theirs, tmp_path):
    orphans = [blob_of(hub, theirs) + ".9f3a.incomplete", blob_of(hub, theirs, "config.json") + ".incomplete"]
    for path in orphans:
        with open(path, "wb") as stream:
            stream.write(b"x" * 8192)
    _, report = run(hub, tmp_path)
    told = [text for _, text in report.messages if "unfinished" in text]
    assert len(told) == 1 and told[0].startswith("2 unfinished files")
    assert "rm %s/*.incomplete" % os.path.dirname(orphans[0]) in told[0]
    assert all(os.path.exists(path) for path in orphans)


def test_caches_are_found_where_the_library_keeps_them_each_once(tmp_path):
    home, other = tmp_path / "home", tmp_path / "other"
    for folder in (home / ".cache" / "huggingface" / "hub", other / "hub", tmp_path / "plain"):
        os.makedirs(str(folder))
    variables = {"HOME": str(home), "HF_HOME": str(other), "HF_HUB_CACHE": str(tmp_path / "plain")}
    assert hubhome.caches(variables) == [str(tmp_path / "plain"), str(other / "hub"), str(home / ".cache/huggingface/hub")]
    os.symlink(str(other), str(tmp_path / "same"))
    assert hubhome.caches({"HOME": "/nowhere", "HF_HOME": str(tmp_path / "same"), "TRANSFORMERS_CACHE": str(other / "hub")}) == [
        str(other / "hub")
    ]

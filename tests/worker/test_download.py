"""Downloads against the stand-in Hub: faults on the way, what a cache holds afterwards, progress."""

import errno
import os
import random
import shutil
import threading
import time

import pytest
from fakes.hub import HubServer
from moai_worker import hubcache, partfile
from moai_worker.download import download, download_to_folder
from moai_worker.errors import StepError
from moai_worker.fetch import Fetcher, Options, Shared, Stopped
from moai_worker.hub import plan_download
from moai_worker.hubfiles import parse_entry, refuse_clashes, select
from moai_worker.hubhome import find_token
from moai_worker.partfile import PartFile, add_range, missing_ranges
from moai_worker.reporter import Reporter
from moai_worker.steps import download as step

KIB = 1024
TOKEN = "hf_canarytoken0123456789"
SIZE = 2048 * KIB + 17
WEIGHTS = random.Random(7).getrandbits(8 * SIZE).to_bytes(SIZE, "big")
FILES = {
    "config.json": b'{"a": 1}',
    "empty.txt": b"",
    "model.safetensors": WEIGHTS,
    "sub/notes.txt": b"hello",
}
#: Small pieces and short patience, so that every mechanism is reached with few bytes.
FAST = Options(
    segment_bytes=512 * KIB,
    persist_bytes=128 * KIB,
    read_bytes=16 * KIB,
    stall_s=20.0,
    timeout_s=5.0,
    backoff_base_s=0.001,
    backoff_cap_s=0.01,
    max_attempts=4,
    patience_s=0.0,
    reserve_bytes=0,
    lock_poll_s=0.01,
)
#: For bodies that stall: short enough to notice them soon.
WATCHFUL = FAST._replace(stall_s=0.2)


class Recorder:
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.phases, self.messages, self.done, self.artifacts = [], [], [], []

    def phase(self, name, text="", **data):
        self.phases.append((name, text, data))

    def message(self, text, level="info", code="", **data):
        self.messages.append((level, text))

    def artifact(self, kind, path, **data):
        self.artifacts.append((kind, path))

    def progress(self, done, total, unit, rate=None, eta_seconds=None, force=False, **data):
        self.done.append((done, total, unit, force, data))


@pytest.fixture()
def hub(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("HF_"):
            monkeypatch.delenv(name)
    with HubServer() as server:
        yield server


@pytest.fixture()
def repo(hub):
    return hub.add_model("org/name", FILES)


def plan(hub, name="org/name", **options):
    return plan_download(name, endpoint=hub.endpoint, **options)


def fetch(hub, folder, options=FAST, report=None, streams=2, **more):
    return download(plan(hub, **more), str(folder), hub.endpoint, more.get("token"), report, streams, options)


def content(folder):
    found = {}
    for parent, _, names in os.walk(str(folder)):
        for name in names:
            full = os.path.join(parent, name)
            with open(full, "rb") as stream:
                found[os.path.relpath(full, str(folder))] = stream.read()
    return found


def partials(folder):
    return [n for _, _, names in os.walk(str(folder)) for n in names if n.endswith(".moai-part")]


def failure(call, *args, **options):
    with pytest.raises(StepError) as caught:
        call(*args, **options)
    assert TOKEN not in repr(caught.value.as_dict())
    assert "Signature" not in repr(caught.value.as_dict())
    return caught.value


def test_a_download_is_an_ordinary_cache_entry_and_a_repeat_fetches_nothing(hub, repo, tmp_path):
    path = fetch(hub, tmp_path)
    commit = repo.refs["main"]
    root = tmp_path / "models--org--name"
    assert path == str(root / "snapshots" / commit)
    assert content(path) == FILES
    assert (root / "refs" / "main").read_text() == commit
    entries = repo.commits[commit]
    assert sorted(os.listdir(str(root / "blobs"))) == sorted(e.etag for e in entries.values())
    for name, entry in entries.items():
        target = os.readlink(os.path.join(path, name))
        assert target == "../" * (2 + name.count("/")) + "blobs/" + entry.etag
    before = len(hub.seen("GET", "/resolve/"))
    assert fetch(hub, tmp_path) == path
    assert len(hub.seen("GET", "/resolve/")) == before


def test_a_new_revision_fetches_only_what_changed(hub, repo, tmp_path):
    fetch(hub, tmp_path)
    before = hub.bytes_served()
    repo.commit(dict(FILES, **{"config.json": b'{"a": 2}'}))
    path = fetch(hub, tmp_path)
    assert hub.bytes_served() - before == 8
    assert content(path)["config.json"] == b'{"a": 2}'


def test_equal_files_are_fetched_once(hub, tmp_path):
    hub.add_dataset("org/name", {"a.bin": WEIGHTS, "b/c.bin": WEIGHTS})
    made = plan(hub, repo_type="dataset")
    report = Recorder()
    path = download(made, str(tmp_path / "c"), hub.endpoint, None, report, 2, FAST)
    assert path.startswith(str(tmp_path / "c" / "datasets--org--name"))
    assert hub.bytes_served() == SIZE
    assert report.done[-1][:2] == (2 * SIZE, 2 * SIZE)
    folder = download_to_folder(made, str(tmp_path / "f"), hub.endpoint, None, None, 2, FAST)
    assert hub.bytes_served() == 2 * SIZE
    names = {n: c for n, c in content(folder).items() if not n.startswith(".")}
    assert names == {"a.bin": WEIGHTS, "b/c.bin": WEIGHTS} == content(path)


def test_a_large_file_is_fetched_in_ranges_over_several_connections(hub, repo, tmp_path):
    hold = hub.fault("hold", "*.safetensors", times=None, after_bytes=0)
    done = []
    thread = threading.Thread(target=lambda: done.append(fetch(hub, tmp_path, streams=3)))
    thread.start()
    poll(lambda: len({r.range for r in hub.seen("GET", "/cdn/")}) == 3)
    hold.release()
    thread.join(20)
    assert content(done[0]) == FILES


FAULTS = {
    "reset": dict(kind="reset", times=20, after_bytes=100 * KIB),
    "fin": dict(kind="short", times=20, after_bytes=100 * KIB),
    "fin at once": dict(kind="short", times=2, after_bytes=0),
    "stall": dict(kind="stall", times=2, after_bytes=100 * KIB),
    "trickle": dict(kind="slow", times=1, chunk_bytes=64, every_s=0.01),
    "500": dict(kind="status", status=500, times=3),
    "502": dict(kind="status", status=502, times=3),
    "429 seconds": dict(kind="status", status=429, times=3, headers={"Retry-After": "0"}),
    "429 date": dict(
        kind="status", status=429, times=3, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}
    ),
    "503 of the hub": dict(kind="status", status=503, times=3, where="resolve"),
    "429 of the hub": dict(
        kind="status", status=429, times=3, where="resolve", headers={"Retry-After": "0"}
    ),
    "expired": dict(kind="expired", times=3, where="cdn"),
}


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_passing_fault_costs_no_byte_twice(hub, repo, tmp_path, name):
    fault = hub.fault(path="*.safetensors", **FAULTS[name])
    slow = name in ("stall", "trickle")
    path = fetch(hub, tmp_path, WATCHFUL if slow else FAST)
    assert content(path) == FILES
    assert fault.hits == FAULTS[name]["times"]
    # A reset may destroy bytes on the way (20 times 64 KiB at most), a busy machine may look like a
    # stall; otherwise what was sent was delivered.
    slack = 20 * 64 * KIB if name == "reset" else 512 * KIB if slow else 0
    assert hub.bytes_served() <= sum(map(len, FILES.values())) + slack
    assert partials(tmp_path) == []


RESTARTS = {
    "wrong bytes once": dict(kind="wrong", times=1),
    "range ignored": dict(kind="ignore_range", times=None),
    "range ignored once": dict(kind="ignore_range", times=1, min_start=1),
    "another etag first": dict(kind="etag", times=1),
    "another etag later": dict(kind="etag", times=1, min_start=1),
    "login page": dict(kind="length", times=2),
    "416": dict(kind="status", status=416, times=1, min_start=1),
    "another range than asked for": dict(kind="wrong_range", times=3),
    "another length of the whole": dict(kind="total", times=2),
}


@pytest.mark.parametrize("name", sorted(RESTARTS))
def test_another_version_starts_that_file_again_and_only_that_file(hub, repo, tmp_path, name):
    fault = hub.fault(path="*.safetensors", **RESTARTS[name])
    path = fetch(hub, tmp_path)
    assert content(path) == FILES
    assert fault.hits >= 1
    assert hub.bytes_served("config.json") == len(FILES["config.json"])
    assert partials(tmp_path) == []


def test_a_store_that_ignores_ranges_is_read_by_one_stream(hub, repo, tmp_path):
    hub.fault("ignore_range", "*.safetensors", times=None)
    hub.fault("short", "*.safetensors", times=1, after_bytes=300 * KIB)
    assert content(fetch(hub, tmp_path)) == FILES
    assert hub.bytes_served("model.safetensors") <= 4 * SIZE


@pytest.mark.parametrize(
    "fault, reason",
    [
        (dict(kind="wrong"), "DOWNLOAD_CORRUPT"),
        (dict(kind="length"), "DOWNLOAD_CORRUPT"),
        (dict(kind="stall"), "DOWNLOAD_STALLED"),
        (dict(kind="slow", chunk_bytes=1, every_s=0.01), "DOWNLOAD_STALLED"),
        (dict(kind="reset", after_bytes=10), "DOWNLOAD_STALLED"),
        (dict(kind="status", status=503), "HUB_UNREACHABLE"),
        (dict(kind="status", status=429, headers={"Retry-After": "0"}), "HUB_UNREACHABLE"),
        (dict(kind="expired", where="cdn"), "DOWNLOAD_STALLED"),
        (dict(kind="status", status=404, where="resolve"), "REPO_NOT_FOUND"),
    ],
)
def test_a_lasting_fault_ends_typed_and_publishes_nothing(hub, repo, tmp_path, fault, reason):
    hub.fault(path="*.safetensors", times=None, **fault)
    error = failure(fetch, hub, tmp_path, WATCHFUL if fault["kind"] in ("stall", "slow") else FAST)
    assert error.reason == reason
    root = tmp_path / "models--org--name"
    assert not (root / "snapshots").exists()
    assert not (root / "blobs" / repo.commits[repo.refs["main"]]["model.safetensors"].etag).exists()
    if reason not in ("REPO_NOT_FOUND",):
        assert "model.safetensors" in error.message
    hub.faults.clear()
    assert content(fetch(hub, tmp_path)) == FILES


def test_a_file_that_vanished_or_access_that_was_withdrawn_is_not_retried(hub, repo, tmp_path):
    made = plan(hub)
    del repo.commits[made.commit]["model.safetensors"]
    error = failure(download, made, str(tmp_path), hub.endpoint, None, None, 2, FAST)
    assert (error.reason, "model.safetensors" in error.message) == ("FILE_NOT_FOUND", True)
    hub.tokens[TOKEN] = []
    repo.gated = True
    error = failure(download, made, str(tmp_path / "x"), hub.endpoint, TOKEN, None, 1, FAST)
    assert (error.reason, hub.endpoint + "/org/name" in error.next) == ("ACCESS_GATED", True)
    assert len([r for r in hub.requests if r.status == 403]) == 1


def test_addresses_that_expire_midway_are_asked_for_again(hub, repo, tmp_path):
    hub.fault("short", "*.safetensors", times=1, after_bytes=64 * KIB)
    first = plan(hub)
    seen = []
    real = hub.count

    def count(path, size):
        real(path, size)
        if path == "model.safetensors" and not seen:
            seen.append(size)
            hub.expire()

    hub.count = count
    path = download(first, str(tmp_path), hub.endpoint, None, None, 1, FAST)
    assert content(path) == FILES
    assert hub.bytes_served() == sum(map(len, FILES.values()))
    assert [r.status for r in hub.seen("GET", "/cdn/")].count(403) == 1
    # One address for the whole file otherwise, not one a range.
    assert len(hub.seen("GET", "/resolve/%s/model.safetensors" % first.commit)) == 2


def test_the_token_reaches_the_hub_only_and_no_report(hub, repo, tmp_path):
    hub.tokens[TOKEN] = ["org/name"]
    repo.gated = True
    path = str(tmp_path / "reports.jsonl")
    report = Reporter(path, "download", min_interval_s=0.0)
    fetch(hub, tmp_path / "c", report=report, token=TOKEN)
    report.close()
    assert set(hub.tokens_seen("127.0.0.1")) == {TOKEN}
    assert hub.seen("GET", "/cdn/")
    assert hub.tokens_seen(hub.cdn_host) == []
    everything = content(tmp_path)
    assert all(TOKEN.encode() not in data for data in everything.values())
    assert b'"progress"' in everything["reports.jsonl"]


def test_progress_never_goes_back_and_ends_exact(hub, repo, tmp_path):
    hub.fault("wrong", "*.safetensors", times=1)
    hub.fault("reset", "*.safetensors", times=2, after_bytes=100 * KIB)
    report = Recorder()
    fetch(hub, tmp_path, report=report)
    total = sum(map(len, FILES.values()))
    done = [entry[0] for entry in report.done]
    assert done == sorted(done)
    assert report.done[-1] == (total, total, "bytes", True, {"files_done": 4, "files_total": 4})
    assert [name for name, _, _ in report.phases] == ["downloading"]


def test_too_little_space_is_refused_before_a_byte_with_need_have_and_mount(hub, repo, tmp_path, monkeypatch):
    usage = shutil.disk_usage(str(tmp_path))
    monkeypatch.setattr(hubcache.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    error = failure(fetch, hub, tmp_path)
    assert error.reason == "DISK_FULL"
    assert "2.1 MB" in error.message
    assert "1.0 kB" in error.message
    assert error.details["mount"] in error.message
    assert hub.bytes_served() == 0


def test_too_few_inodes_are_refused_before_a_byte(hub, repo, tmp_path, monkeypatch):
    class Facts:
        f_files, f_favail, f_bavail, f_bfree, f_blocks, f_frsize = 1000, 5, 1 << 30, 1 << 30, 1 << 31, 4096

    monkeypatch.setattr(hubcache.os, "statvfs", lambda path: Facts)
    assert failure(fetch, hub, tmp_path).reason == "DISK_FULL"
    assert hub.bytes_served() == 0


def test_a_disk_that_fills_up_midway_is_waited_for(hub, repo, tmp_path, monkeypatch):
    real, calls = os.pwrite, []

    def pwrite(fd, data, offset):
        calls.append(offset)
        if 20 < len(calls) < 24:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data, offset)

    monkeypatch.setattr(partfile.os, "pwrite", pwrite)
    report = Recorder()
    assert content(fetch(hub, tmp_path, report=report)) == FILES
    assert hub.bytes_served() <= SIZE + 4 * FAST.segment_bytes
    assert any(level == "warning" and "full" in text for level, text in report.messages)


def test_a_disk_that_stays_full_ends_typed_and_keeps_what_was_fetched(hub, repo, tmp_path, monkeypatch):
    real, wrote = os.pwrite, []

    def pwrite(fd, data, offset):
        if sum(wrote) >= 1024 * KIB:
            raise OSError(errno.ENOSPC, "No space left on device")
        wrote.append(len(data))
        return real(fd, data, offset)

    monkeypatch.setattr(partfile.os, "pwrite", pwrite)
    assert failure(fetch, hub, tmp_path).reason == "DISK_FULL"
    monkeypatch.setattr(partfile.os, "pwrite", real)
    before = hub.bytes_served()
    assert content(fetch(hub, tmp_path)) == FILES
    assert hub.bytes_served() - before <= SIZE - 1024 * KIB + 16 * KIB


def test_what_is_persisted_is_hashed_again_so_rotten_bytes_are_found(hub, repo, tmp_path):
    hub.fault("status", "*.safetensors", times=None, status=503, min_start=1024 * KIB)
    failure(fetch, hub, tmp_path)
    etag = repo.commits[repo.refs["main"]]["model.safetensors"].etag
    part = tmp_path / "models--org--name" / "blobs" / (etag + ".moai-part")
    with open(str(part), "r+b") as stream:
        stream.write(b"rot")
    hub.faults.clear()
    assert content(fetch(hub, tmp_path)) == FILES


@pytest.mark.parametrize(
    "state",
    [
        b"not json",
        b"[]",
        b'{"version": 1, "size": 5, "etag": "x", "validator": "", "ranges": [[0, 5]]}',
        b'{"version": 1, "size": %d, "etag": "%s", "validator": "", "ranges": [[0, %d]]}',
        b'{"version": 1, "size": %d, "etag": "%s", "validator": "", "ranges": [[9, 3]]}',
    ],
)
def test_a_sidecar_that_does_not_fit_is_ignored(hub, repo, tmp_path, state):
    etag = repo.commits[repo.refs["main"]]["model.safetensors"].etag
    blobs = tmp_path / "models--org--name" / "blobs"
    os.makedirs(str(blobs))
    (blobs / (etag + ".moai-part")).write_bytes(b"short")
    if b"%" in state:
        state = state % ((SIZE, etag.encode()) + ((SIZE,) if state.count(b"%") == 3 else ()))
    (blobs / (etag + ".ranges.moai-part")).write_bytes(state)
    assert content(fetch(hub, tmp_path)) == FILES
    assert partials(tmp_path) == []


def test_a_blob_of_the_wrong_size_is_replaced(hub, repo, tmp_path):
    path = fetch(hub, tmp_path)
    blob = os.path.realpath(os.path.join(path, "model.safetensors"))
    with open(blob, "wb") as stream:
        stream.write(b"cut")
    assert content(fetch(hub, tmp_path)) == FILES


def test_a_plain_folder_keeps_right_files_replaces_others_and_leaves_the_rest(hub, repo, tmp_path):
    folder = tmp_path / "out"
    os.makedirs(str(folder / "sub"))
    (folder / "mine.txt").write_bytes(b"mine")
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "config.json").write_bytes(b'{"a": 9}')
    path = download_to_folder(plan(hub), str(folder), hub.endpoint, None, None, 2, FAST)
    found = {n: c for n, c in content(path).items() if not n.startswith(".moai-download")}
    assert found == dict(FILES, **{"mine.txt": b"mine"})
    assert hub.bytes_served("model.safetensors") == 0
    assert not any(os.path.islink(os.path.join(path, name)) for name in found)
    before = hub.bytes_served()
    download_to_folder(plan(hub), str(folder), hub.endpoint, None, None, 2, FAST)
    assert hub.bytes_served() == before


def test_a_plain_folder_keeps_the_previous_file_when_the_new_one_is_corrupt(hub, repo, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"previous")
    hub.fault("wrong", "*.safetensors", times=None)
    error = failure(download_to_folder, plan(hub), str(folder), hub.endpoint, None, None, 2, FAST)
    assert error.reason == "DOWNLOAD_CORRUPT"
    assert (folder / "model.safetensors").read_bytes() == b"previous"


@pytest.mark.parametrize("planted", ["sub", "models--org--name/snapshots"])
def test_links_planted_in_the_target_are_not_followed_out_of_it(hub, repo, tmp_path, planted):
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    link = target / planted
    os.makedirs(str(link.parent))
    os.symlink(str(outside), str(link))
    call = download_to_folder if planted == "sub" else download
    failure(call, plan(hub), str(target), hub.endpoint, None, None, 2, FAST)
    assert os.listdir(str(outside)) == []


def test_a_folder_that_cannot_be_written_is_named(hub, repo, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    error = failure(fetch, hub, tmp_path / "file")
    assert (error.reason, str(tmp_path / "file") in error.message) == ("HOME_NOT_WRITABLE", True)


def test_hundreds_of_small_files_arrive_over_kept_connections(hub, tmp_path):
    files = {"d%d/%d.txt" % (i % 7, i): b"%d" % i for i in range(300)}
    hub.add_model("org/name", files)
    assert content(fetch(hub, tmp_path, streams=4)) == files


def test_ranges_merge_and_their_gaps_are_cut_to_size():
    ranges = add_range(add_range(add_range([], 10, 20), 30, 40), 20, 30)
    assert ranges == [(10, 40)]
    assert missing_ranges(ranges, 55, 8) == [(0, 8), (8, 10), (40, 48), (48, 55)]
    assert missing_ranges([(0, 55)], 55, 8) == []


def test_bytes_of_an_older_version_cannot_be_written(tmp_path):
    part = PartFile(str(tmp_path / "x"), 10, "a" * 40)
    part.write(0, 0, b"old")
    assert part.restart(0) == 1
    with pytest.raises(partfile.StaleWrite):
        part.write(0, 3, b"old")
    part.write(1, 0, b"new")
    part.close()
    assert (tmp_path / "x.moai-part").read_bytes() == b"new"


def test_the_step_downloads_reports_and_returns_where_it_is(hub, repo, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN + "\n")
    hub.tokens[TOKEN] = []
    report = Recorder()
    inputs = {"repo_id": "org/name", "endpoint": hub.endpoint, "hf_home": str(tmp_path)}
    result = step.run(inputs, report)
    total = sum(map(len, FILES.values()))
    commit = repo.refs["main"]
    path = str(tmp_path / "hub" / "models--org--name" / "snapshots" / commit)
    assert result == {"path": path, "commit": commit, "bytes": total, "files": 4}
    assert report.artifacts == [("model", path)]
    assert TOKEN not in repr(vars(report))
    assert set(hub.tokens_seen("127.0.0.1")) == {TOKEN}
    result = step.run(dict(inputs, output=str(tmp_path / "plain"), allow=["*.json"]), report)
    assert (result["path"], result["files"]) == (str(tmp_path / "plain"), 1)


def test_the_step_takes_a_folder_that_is_here_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_bytes(b"{}")
    report = Recorder()
    result = step.run({"repo_id": "~/model"}, report)
    assert result == {
        "path": str(tmp_path / "model"),
        "commit": "",
        "bytes": 2,
        "files": 1,
        "reused": True,
    }


def test_the_token_comes_from_the_environment_then_from_the_login_files(tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    cache = tmp_path / "home" / ".cache" / "huggingface"
    hf_home = str(tmp_path / "work")
    assert find_token("HF_TOKEN", hf_home) == (None, "none")
    os.makedirs(str(cache))
    os.makedirs(hf_home)
    os.makedirs(str(tmp_path / "env"))
    for place, text in (
        (cache / "token", "hf_login\n"),
        (tmp_path / "work" / "token", "hf_work"),
        (tmp_path / "env" / "token", "hf_home"),
        (tmp_path / "path", "hf_path"),
    ):
        place.write_text(text)
        if place.parent.name == "env":
            monkeypatch.setenv("HF_HOME", str(tmp_path / "env"))
        if place.name == "path":
            monkeypatch.setenv("HF_TOKEN_PATH", str(place))
        assert find_token("HF_TOKEN", hf_home) == (text.strip(), str(place))
    monkeypatch.setenv("HF_TOKEN", "hf_env")
    assert find_token("HF_TOKEN", hf_home) == ("hf_env", "environment")


def poll(condition, deadline_s=20.0):
    waited = threading.Event()
    for _ in range(int(deadline_s / 0.01)):
        if condition():
            return
        waited.wait(0.01)
    raise AssertionError("not reached within %s s" % deadline_s)


def test_more_connections_are_opened_where_each_is_slow_and_fewer_where_one_was_asked_for(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("moai_worker.growth._WINDOW_S", 0.1)
    monkeypatch.setattr("moai_worker.growth._THIN_BYTES_PER_S", 0)
    files = {"%02d.bin" % i: random.Random(i).getrandbits(8 * 256 * KIB).to_bytes(256 * KIB, "big") for i in range(16)}
    hub.add_model("org/wide", files)
    hub.fault("slow", times=None, chunk_bytes=16 * KIB, every_s=0.01)
    most, lock, real = [0, 0], threading.Lock(), hub.count

    def count(path, size):
        real(path, size)
        with lock:
            most[0] = max(most[0], threads())

    hub.count = count
    assert content(fetch(hub, tmp_path / "a", FAST._replace(streams=2, most_streams=8), streams=0, name="org/wide")) == files
    assert most[0] > 2
    most[0] = 0
    some = {"00.bin": files["00.bin"], "01.bin": files["01.bin"]}
    assert content(fetch(hub, tmp_path / "b", FAST, streams=1, name="org/wide", allow=["0[01].bin"])) == some
    assert most[0] == 1


def threads():
    return sum(thread.name.startswith("download") for thread in threading.enumerate())


def test_fifty_resets_and_one_slow_stream_of_eight_cost_no_received_byte_twice(hub, repo, tmp_path, monkeypatch):
    received = []
    real = Shared.count
    monkeypatch.setattr(Shared, "count", lambda shared, size: received.append(size) or real(shared, size))
    reset = hub.fault("reset", "*.safetensors", times=25, after_bytes=66 * KIB)
    fin = hub.fault("short", "*.safetensors", times=5, after_bytes=66 * KIB)
    assert content(fetch(hub, tmp_path / "a", streams=1)) == FILES
    assert (reset.hits, fin.hits) == (25, 5)
    assert sum(received) == sum(map(len, FILES.values()))
    del received[:]
    reset = hub.fault("reset", "*.safetensors", times=25, after_bytes=66 * KIB)
    slow = hub.fault("slow", "*.safetensors", times=1, chunk_bytes=16, every_s=0.02)
    small = WATCHFUL._replace(segment_bytes=128 * KIB)
    assert content(fetch(hub, tmp_path / "b", small, streams=8)) == FILES
    assert (reset.hits, slow.hits) == (25, 1)
    assert sum(received) == sum(map(len, FILES.values()))


def test_the_pause_a_hub_asks_for_is_kept_before_its_next_request(hub, repo, tmp_path):
    hub.fault("status", where="resolve", status=429, times=1, headers={"Retry-After": "1"})
    assert content(fetch(hub, tmp_path, streams=1)) == FILES
    asked = hub.seen("GET", "/resolve/")
    refused = next(i for i, request in enumerate(asked) if request.status == 429)
    # A busy machine only waits longer: less than was asked for would be the mistake.
    assert asked[refused + 1].at_s - asked[refused].at_s >= 1.0


def test_every_stream_keeps_the_pause_a_hub_asked_one_of_them_for(hub, repo):
    shared = Shared(lambda text: None)
    shared.hub_pause_until_s = time.monotonic() + 3600.0
    fetcher = Fetcher(plan(hub), hub.endpoint, None, FAST, shared)
    before = len(hub.requests)
    shared.stop.set()
    with pytest.raises(Stopped):
        fetcher._await_hub()
    fetcher.close()
    assert len(hub.requests) == before


def test_a_hundred_thousand_files_in_one_folder_are_planned_in_a_few_seconds():
    entries = [
        {"type": "file", "path": "%s-%d.%s" % (stem, i, ext), "size": 1, "oid": "%040x" % i, "lfs": None}
        for i in range(25_000)
        for stem, ext in (("model", "safetensors"), ("pytorch_model", "bin"), ("tf", "h5"), ("notes", "txt"))
    ]
    files = [parse_entry(entry, "model", "org/name") for entry in entries]
    refuse_clashes(files, "model", "org/name")
    chosen, left_out = select(files, "model")
    assert (len(chosen), len(left_out)) == (50_000, 50_000)


def test_what_is_shown_is_what_a_kill_would_leave(tmp_path):
    part = PartFile(str(tmp_path / "x"), 100, "a" * 40, persist_bytes=50, persist_s=3600.0)
    part.write(0, 0, b"x" * 40)
    assert (part.done_bytes(), part.kept_bytes(), part.wants_persist()) == (40, 0, False)
    part.write(0, 40, b"x" * 10)
    assert part.wants_persist()
    part.persist()
    part.write(0, 50, b"x")
    assert (part.done_bytes(), part.kept_bytes()) == (51, 50)
    again = PartFile(str(tmp_path / "x"), 100, "a" * 40)
    assert again.load() == again.kept_bytes() == 50
    part.persist_s = 0.0  # on a thin line the seconds decide
    assert part.wants_persist()
    part.close()

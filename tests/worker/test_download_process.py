"""Downloading processes that are killed, that meet, and what others read afterwards.

The stand-in Hub holds a body after a chosen number of bytes, so a kill comes at a byte count, not at
a time.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading

import pytest
from fakes.hub import HubServer

KIB = 1024
SIZE = 3 * 1024 * KIB + 5
WEIGHTS = random.Random(11).getrandbits(8 * SIZE).to_bytes(SIZE, "big")
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS}
NO_LIBRARY = "SKIPPED LOUDLY: huggingface_hub is not in this interpreter"
PERSIST = 64 * KIB
STREAMS = 2
CHILD = """
import json, sys
from moai_worker.download import download
from moai_worker.fetch import Options
from moai_worker.hub import plan_download
from moai_worker.reporter import Reporter
endpoint, cache, reports, persist, streams, name = sys.argv[1:]
options = Options(segment_bytes=768 * 1024, persist_bytes=int(persist), read_bytes=16 * 1024,
                  backoff_base_s=0.01, lock_poll_s=0.02, reserve_bytes=0)
plan = plan_download(name, endpoint=endpoint)
print(download(plan, cache, endpoint, None, Reporter(reports), int(streams), options))
"""


@pytest.fixture()
def hub(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("HF_"):
            monkeypatch.delenv(name)
    with HubServer() as server:
        server.add_model("org/name", FILES)
        yield server


@pytest.fixture()
def start(hub, tmp_path):
    """Start a downloading process; those still running are killed at the end."""
    children = []

    def starter(name="org/name"):
        import moai_worker

        root = os.path.dirname(os.path.dirname(os.path.abspath(moai_worker.__file__)))
        reports = str(tmp_path / ("reports%d" % len(children)))
        argv = [sys.executable, "-c", CHILD, hub.endpoint, str(tmp_path / "hub"), reports]
        child = subprocess.Popen(
            argv + [str(PERSIST), str(STREAMS), name],
            env=dict(os.environ, PYTHONPATH=root),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        child.reports = reports
        children.append(child)
        return child

    yield starter
    for child in children:
        child.kill()
        child.communicate()


def finish(child):
    out, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (0, b"")
    return out.decode().strip()


def kill(child):
    child.send_signal(signal.SIGKILL)
    child.communicate()


def poll(condition, deadline_s=20.0):
    waited = threading.Event()
    for _ in range(int(deadline_s / 0.01)):
        if condition():
            return
        waited.wait(0.01)
    raise AssertionError("not reached within %s s" % deadline_s)


def persisted(tmp_path):
    """Bytes the sidecar on disk vouches for."""
    blobs = tmp_path / "hub" / "models--org--name" / "blobs"
    for name in os.listdir(str(blobs)) if blobs.exists() else []:
        if name.endswith(".ranges.moai-part"):
            with open(str(blobs / name), "rb") as stream:
                return sum(high - low for low, high in json.loads(stream.read().decode())["ranges"])
    return 0


def phases(child):
    with open(child.reports, "rb") as stream:
        lines = [json.loads(line.decode()) for line in stream.read().splitlines()]
    return [line["data"]["phase"] for line in lines if line["type"] == "phase"]


#: Where to kill; ``make test-faults`` asks for twenty.
POINTS = [200, 2900] + random.Random(17).sample(range(210, 2890), max(2, int(os.environ.get("MOAI_TEST_SEEDS") or 4) - 2))


@pytest.mark.parametrize("at_kib", POINTS)
def test_a_kill_at_any_byte_costs_less_than_was_allowed_to_be_unpersisted(hub, start, tmp_path, at_kib):
    hold = hub.fault("hold", "*.safetensors", times=None, after_bytes=at_kib * KIB)
    child = start()
    # Everything sent is persisted but for what may be lost by a kill.
    poll(lambda: persisted(tmp_path) >= at_kib * KIB - PERSIST - STREAMS * 16 * KIB)
    assert hold.reached.wait(20)
    kill(child)
    kept = persisted(tmp_path)
    asked_before = len(hub.seen("GET", "/cdn/"))
    hub.faults.clear()
    again = start()
    path = finish(again)
    shown, shown_after = done(child), done(again)
    assert shown == sorted(shown) and shown_after == sorted(shown_after)
    assert shown[-1:] <= shown_after[:1] and shown_after[-1] == SIZE + len(FILES["config.json"])
    with open(os.path.join(path, "model.safetensors"), "rb") as stream:
        assert stream.read() == WEIGHTS
    assert asked(hub, asked_before) == SIZE - kept


def done(child):
    """Bytes the progress of a process showed."""
    with open(child.reports, "rb") as stream:
        lines = [json.loads(line.decode()) for line in stream.read().splitlines()]
    return [line["data"]["done"] for line in lines if line["type"] == "progress"]


def asked(hub, first_request):
    """Bytes asked for by the requests from ``first_request`` on."""
    total = 0
    for request in hub.seen("GET", "/cdn/")[first_request:]:
        low, high = request.range[6:].split("-")
        total += int(high) + 1 - int(low)
    return total


def test_many_kills_in_a_row_still_end_with_the_right_file(hub, start, tmp_path):
    for at_kib in (300, 400, 500):
        hold = hub.fault("hold", "*.safetensors", times=None, after_bytes=at_kib * KIB)
        before = persisted(tmp_path)
        child = start()
        poll(lambda before=before, at_kib=at_kib: persisted(tmp_path) >= before + (at_kib - 200) * KIB)
        kill(child)
        hub.faults.clear()
        assert hold.hits
    path = finish(start())
    with open(os.path.join(path, "model.safetensors"), "rb") as stream:
        assert stream.read() == WEIGHTS
    names = os.listdir(str(tmp_path / "hub" / "models--org--name" / "blobs"))
    assert len(names) == 2  # two files, no orphan


def test_two_jobs_fetch_a_repository_once(hub, start, tmp_path):
    hold = hub.fault("hold", "*.safetensors", times=None, after_bytes=500 * KIB)
    first = start()
    assert hold.reached.wait(20)
    second = start()
    poll(lambda: os.path.exists(second.reports) and "waiting" in phases(second))
    hold.release()
    assert finish(first) == finish(second)
    assert hub.bytes_served() == SIZE + len(FILES["config.json"])


def test_another_repository_does_not_wait_for_one_that_is_stuck(hub, start, tmp_path):
    hub.add_model("org/other", {"config.json": b"{}", "small.safetensors": b"x" * 5000})
    hold = hub.fault("hold", "model.safetensors", times=None, after_bytes=500 * KIB)
    first = start()
    assert hold.reached.wait(20)
    assert finish(start("org/other")).endswith(hub.repos["model", "org/other"].refs["main"])
    assert first.poll() is None
    hold.release()
    finish(first)


def test_when_the_first_of_two_jobs_is_killed_the_second_goes_on_where_it_stopped(hub, start, tmp_path):
    hold = hub.fault("hold", "*.safetensors", times=None, after_bytes=1000 * KIB)
    first = start()
    poll(lambda: persisted(tmp_path) >= 800 * KIB)
    second = start()
    poll(lambda: os.path.exists(second.reports) and "waiting" in phases(second))
    kill(first)
    kept, asked_before = persisted(tmp_path), len(hub.seen("GET", "/cdn/"))
    hold.release()
    path = finish(second)
    assert phases(second) == ["waiting", "downloading"]
    with open(os.path.join(path, "model.safetensors"), "rb") as stream:
        assert stream.read() == WEIGHTS
    assert asked(hub, asked_before) <= SIZE - kept


def test_huggingface_hub_opens_the_cache_entry_offline(hub, start, tmp_path):
    pytest.importorskip("huggingface_hub", reason=NO_LIBRARY)
    path = finish(start())
    hub.close()
    code = (
        "from huggingface_hub import snapshot_download, hf_hub_download, scan_cache_dir\n"
        "print(snapshot_download('org/name'))\n"
        "print(hf_hub_download('org/name', 'model.safetensors'))\n"
        "report = scan_cache_dir()\n"
        "print(report.size_on_disk, len(report.warnings))\n"
    )
    env = dict(os.environ, HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path / "hub"), HF_HOME=str(tmp_path))
    out = subprocess.run([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, check=True).stdout
    lines = out.decode().split("\n")
    assert lines[0] == path
    assert lines[1] == os.path.join(path, "model.safetensors")
    assert lines[2] == "%d 0" % (SIZE + 2)


def test_huggingface_hub_itself_can_download_from_the_stand_in(hub, tmp_path):
    pytest.importorskip("huggingface_hub", reason=NO_LIBRARY)
    hub.add_dataset("org/data", {"train.jsonl": b'{"text": "a"}\n'})
    hub.add_model("org/gated", {"a": b"1"}, gated=True)
    code = (
        "from huggingface_hub import snapshot_download as get, errors\n"
        "get('org/name'); get('org/data', repo_type='dataset')\n"
        "for args, kind in ((('org/none',), 'RepositoryNotFoundError'), (('org/gated',), 'GatedRepoError'),\n"
        "                   (('org/name', 'nope'), 'RevisionNotFoundError')):\n"
        "    try:\n"
        "        get(args[0], revision=args[1] if args[1:] else None)\n"
        "        raise SystemExit('no error for %r' % (args,))\n"
        "    except getattr(errors, kind):\n"
        "        print(kind)\n"
    )
    env = dict(os.environ, HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path), HF_HUB_DISABLE_PROGRESS_BARS="1")
    out = subprocess.run([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, check=True).stdout
    assert out.decode().split() == ["RepositoryNotFoundError", "GatedRepoError", "RevisionNotFoundError"]


def test_the_stand_in_hub_runs_as_a_program(tmp_path):
    os.makedirs(str(tmp_path / "root" / "models" / "org" / "name"))
    (tmp_path / "root" / "models" / "org" / "name" / "config.json").write_bytes(b"{}")
    import fakes.hub
    from moai_worker.hub import plan_download

    argv = [sys.executable, fakes.hub.__file__, "--root", str(tmp_path / "root")]
    child = subprocess.Popen(argv + ["--port-file", str(tmp_path / "port")])
    try:
        poll(lambda: (tmp_path / "port").exists())
        endpoint = (tmp_path / "port").read_text().strip()
        assert [f.path for f in plan_download("org/name", endpoint=endpoint).files] == ["config.json"]
    finally:
        child.terminate()
        child.wait(20)
    assert child.returncode == 0

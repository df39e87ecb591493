"""The stand-in Hub beside olah, a Hub nobody here wrote: the answers that clients rely on, field by field.

What differs is in DIFFERENCES with its reason, and nothing else may: a difference that goes away fails
here as one that appears. ``make test-olah`` makes the interpreter (MOAI_OLAH) and runs this.
"""

import http.client
import json
import os
import random
import shutil
import subprocess
import urllib.parse

import pytest
from fakes.hub import HubServer
from fakes.olah import Olah
from moai_worker.download import download
from moai_worker.errors import StepError
from moai_worker.hub import plan_download

pytestmark = pytest.mark.olah
#: Read now: the tests' own environment is scrubbed.
PYTHON = os.environ.get("MOAI_OLAH", "")
SIZE = 300_000
WEIGHTS = random.Random(5).getrandbits(8 * SIZE).to_bytes(SIZE, "big")
FILES = {"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS, "sub/notes.txt": b"hello", "README.md": b"# x\n"}
ROWS = {"train.jsonl": b'{"text": "a"}\n', "data/a.bin": b"binary" * 50}

#: (question, field) -> (the stand-in, olah, why the stand-in is as it is).
DIFFERENCES = {
    ("head lfs", "status"): (302, 200, "the Hub redirects to its file store; olah serves the bytes itself"),
    ("head lfs", "has_location"): (True, False, "as above"),
    ("head lfs", "linked"): (True, False, "as above: X-Linked-Etag and X-Linked-Size go with the redirect"),
    ("head dataset lfs", "status"): (302, 200, "as above"),
    ("head dataset lfs", "has_location"): (True, False, "as above"),
    ("head dataset lfs", "linked"): (True, False, "as above"),
    ("paths-info as json", "status"): (200, 422, "olah reads forms only, which is what huggingface_hub sends"),
    ("paths-info as json", "entries"): ("the same as of the form", None, "as above"),
    ("range past the end", "length"): ("0", None, "olah sends no body and no length; nobody reads one"),
    ("file of no revision", "status"): (404, 401, "olah takes a revision it does not know for a repository it does not know"),
    ("file of no revision", "code"): ("RevisionNotFound", "RepoNotFound", "as above"),
}


@pytest.fixture(scope="module")
def hubs(tmp_path_factory):
    """``(stand-in, olah)`` as ``(endpoint, commit of the model, commit of the dataset)``."""
    if not PYTHON or not os.path.exists(PYTHON):
        pytest.skip("SKIPPED LOUDLY: MOAI_OLAH names no Python with olah (make test-olah)")
    if not shutil.which("git-lfs"):
        pytest.skip("SKIPPED LOUDLY: git-lfs is not installed (apt-get install git-lfs)")
    with Olah(PYTHON, str(tmp_path_factory.mktemp("olah"))) as other, HubServer() as ours:
        theirs = [other.add("model", "org/name", FILES), other.add("dataset", "org/data", ROWS)]
        other.start()
        attributes = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
                                        b"*.bin filter=lfs diff=lfs merge=lfs -text\n"}  # fmt: skip
        mine = [
            ours.add_model("org/name", dict(FILES, **attributes)).refs["main"],
            ours.add_dataset("org/data", dict(ROWS, **attributes)).refs["main"],
        ]
        yield (ours.endpoint, *mine), (other.endpoint, *theirs)


def ask(url, method="GET", headers=None, body=None, follow=True):
    """``(status, headers, body)``; redirects followed as clients do, or not."""
    for _ in range(6):
        parts = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=30)
        try:
            connection.request(method, parts.path + ("?" + parts.query if parts.query else ""), body, headers or {})
            answer = connection.getresponse()
            raw = answer.read()
        finally:
            connection.close()
        location = answer.getheader("Location")
        # A relative redirect stays at the Hub (a trailing slash, a renamed repository): always followed.
        inside = location and urllib.parse.urljoin(url, location).startswith("http://%s/api/" % parts.netloc)
        if not location or answer.status // 100 != 3 or not (follow or inside):
            return answer.status, answer.headers, raw
        url = urllib.parse.urljoin(url, location)
    raise AssertionError("redirects without end")


def about(hub, kind):
    endpoint, model, dataset = hub
    name, commit = ("org/name", model) if kind == "model" else ("org/data", dataset)
    return "%s/api/%ss/%s" % (endpoint, kind, name), "%s%s/%s" % (endpoint, "/datasets" if kind == "dataset" else "", name), commit


def info(hub, kind, path):
    api, _, commit = about(hub, kind)
    status, _, raw = ask(api + path)
    value = json.loads(raw.decode())
    found = {key: value[key] for key in ("id", "author", "private", "gated", "disabled")}
    return dict(found, status=status, is_commit=value["sha"] == commit, siblings=sorted(s["rfilename"] for s in value["siblings"]))


def entries(value):
    """Files and folders of a tree or paths-info answer (ids of folders are read by nobody)."""
    shown = []
    for entry in value:
        one = {"path": entry["path"], "type": entry["type"]}
        if entry["type"] == "file":
            lfs = entry.get("lfs")
            one.update(size=entry["size"], oid=entry["oid"] if not lfs else "", lfs=(lfs["oid"], lfs["size"]) if lfs else None)
        shown.append(one)
    return sorted(shown, key=lambda one: one["path"])


def tree(hub, kind, folder=""):
    api, _, commit = about(hub, kind)
    status, _, raw = ask("%s/tree/%s%s?recursive=true&expand=false" % (api, commit, folder))
    return {"status": status, "entries": entries(json.loads(raw.decode()))}


def paths_info(hub, as_json):
    api, _, commit = about(hub, "model")
    wanted = ["config.json", "model.safetensors"]
    if as_json:
        body, kind = json.dumps({"paths": wanted, "expand": False}), "application/json"
    else:
        body, kind = urllib.parse.urlencode({"paths": wanted, "expand": False}, doseq=True), "application/x-www-form-urlencoded"
    status, _, raw = ask("%s/paths-info/%s" % (api, commit), "POST", {"Content-Type": kind}, body)
    return {"status": status, "entries": entries(json.loads(raw.decode())) if status == 200 else None}


def refs(hub):
    api, _, commit = about(hub, "model")
    status, _, raw = ask(api + "/refs")
    value = json.loads(raw.decode())
    branches = [(b["name"], b["ref"], b["targetCommit"] == commit) for b in value["branches"]]
    return {"status": status, "branches": branches, "tags": value["tags"], "converts": value["converts"]}


def head(hub, kind, path):
    """What ``huggingface_hub`` reads before a file: commit, etag, size, whether it is moved elsewhere."""
    _, page, commit = about(hub, kind)
    status, headers, _ = ask("%s/resolve/%s/%s" % (page, commit, path), "HEAD", follow=False)
    tag = headers.get("X-Linked-Etag") or headers.get("ETag") or ""
    return {
        "status": status,
        "is_commit": headers.get("X-Repo-Commit") == commit,
        "etag": tag.strip('"'),
        "size": headers.get("X-Linked-Size") or headers.get("Content-Length"),
        "has_location": "Location" in headers,
        "linked": "X-Linked-Etag" in headers and "X-Linked-Size" in headers,
    }


def part(hub, path, wanted):
    _, page, commit = about(hub, "model")
    status, headers, raw = ask("%s/resolve/%s/%s" % (page, commit, path), headers={"Range": wanted})
    return {
        "status": status,
        "range": headers.get("Content-Range"),
        "length": headers.get("Content-Length"),
        "bytes": raw if status == 206 else None,
        "accepts": headers.get("Accept-Ranges") if status == 206 else None,
    }


def whole(hub, path):
    _, page, commit = about(hub, "model")
    status, headers, raw = ask("%s/resolve/%s/%s" % (page, commit, path))
    return {"status": status, "length": headers.get("Content-Length"), "right": raw == FILES[path]}


def refusal(hub, path, method="GET"):
    status, headers, _ = ask(hub[0] + path, method)
    return {"status": status, "code": headers.get("X-Error-Code"), "has_message": bool(headers.get("X-Error-Message"))}


QUESTIONS = {
    "info of a branch": lambda hub: info(hub, "model", "/revision/main"),
    "info of a commit": lambda hub: info(hub, "model", "/revision/" + hub[1]),
    "info without revision": lambda hub: info(hub, "model", ""),
    "info of a dataset": lambda hub: info(hub, "dataset", "/revision/main"),
    "tree": lambda hub: tree(hub, "model"),
    "tree of a dataset": lambda hub: tree(hub, "dataset"),
    "tree of a folder": lambda hub: tree(hub, "model", "/sub"),
    "paths-info as form": lambda hub: paths_info(hub, False),
    "paths-info as json": lambda hub: paths_info(hub, True),
    "refs": refs,
    "head small": lambda hub: head(hub, "model", "config.json"),
    "head lfs": lambda hub: head(hub, "model", "model.safetensors"),
    "head dataset small": lambda hub: head(hub, "dataset", "train.jsonl"),
    "head dataset lfs": lambda hub: head(hub, "dataset", "data/a.bin"),
    "range of lfs": lambda hub: part(hub, "model.safetensors", "bytes=100-199"),
    "range to the end": lambda hub: part(hub, "model.safetensors", "bytes=299990-"),
    "range of a small file": lambda hub: part(hub, "config.json", "bytes=2-4"),
    "range past the end": lambda hub: part(hub, "model.safetensors", "bytes=300000-"),
    "whole lfs": lambda hub: whole(hub, "model.safetensors"),
    "whole small": lambda hub: whole(hub, "sub/notes.txt"),
    "no such repository": lambda hub: refusal(hub, "/api/models/org/none/revision/main"),
    "no such dataset": lambda hub: refusal(hub, "/api/datasets/org/none/revision/main"),
    "no such revision": lambda hub: refusal(hub, "/api/models/org/name/revision/nope"),
    "no such file": lambda hub: refusal(hub, "/org/name/resolve/main/none.txt", "HEAD"),
    "file of no repository": lambda hub: refusal(hub, "/org/none/resolve/main/config.json", "HEAD"),
    "file of no revision": lambda hub: refusal(hub, "/org/name/resolve/nope/config.json", "HEAD"),
}


@pytest.mark.parametrize("name", sorted(QUESTIONS))
def test_the_stand_in_answers_as_olah_does_but_for_what_is_listed(hubs, name):
    mine, theirs = (QUESTIONS[name](hub) for hub in hubs)
    found = {(name, key): (mine[key], theirs[key]) for key in mine if mine[key] != theirs[key]}
    listed = {where: two[:2] for where, two in DIFFERENCES.items() if where[0] == name}
    if ("paths-info as json", "entries") in found:
        assert mine["entries"] == QUESTIONS["paths-info as form"](hubs[0])["entries"]
        found["paths-info as json", "entries"] = ("the same as of the form", None)
    assert found == listed


def test_our_own_downloader_gets_the_same_from_both(hubs, tmp_path):
    seen = []
    for number, (endpoint, *_) in enumerate(hubs):
        for kind, name in (("model", "org/name"), ("dataset", "org/data")):
            plan = plan_download(name, kind, endpoint=endpoint, attempts=2)
            path = download(plan, str(tmp_path / str(number)), endpoint)
            held = {}
            for file in plan.files:
                with open(os.path.join(path, file.path), "rb") as stream:
                    held[file.path] = stream.read()
            assert {k: v for k, v in held.items() if k != ".gitattributes"} == (FILES if kind == "model" else ROWS)
            seen.append([(f.path, f.size_bytes, f.etag, f.sha256) for f in sorted(plan.files)])
    assert seen[:2] == seen[2:]


@pytest.mark.parametrize("name, revision, reason", [("org/none", "main", "REPO_NOT_FOUND"), ("org/name", "v9", "REVISION_NOT_FOUND")])
def test_our_own_client_tells_refusals_apart_at_both(hubs, name, revision, reason):
    for endpoint, *_ in hubs:
        with pytest.raises(StepError) as caught:
            plan_download(name, revision=revision, endpoint=endpoint, attempts=1)
        assert caught.value.reason == reason


def test_huggingface_hub_gets_the_same_from_both(hubs, tmp_path):
    code = (
        "import hashlib, json, os, sys\n"
        "from huggingface_hub import HfApi, snapshot_download\n"
        "out = {}\n"
        "for kind, name in (('model', 'org/name'), ('dataset', 'org/data')):\n"
        "    folder = snapshot_download(name, repo_type=kind)\n"
        "    for parent, _, names in os.walk(folder):\n"
        "        for one in names:\n"
        "            path = os.path.join(parent, one)\n"
        "            out[kind + os.path.relpath(path, folder)] = [os.path.basename(os.path.realpath(path)),\n"
        "                hashlib.sha256(open(path, 'rb').read()).hexdigest()]\n"
        "    tree = HfApi().list_repo_tree(name, repo_type=kind, recursive=True)\n"
        "    out[kind] = sorted([e.path, getattr(e, 'size', 0)] for e in tree)\n"
        "print(json.dumps(out, sort_keys=True))\n"
    )
    seen = []
    for number, (endpoint, *_) in enumerate(hubs):
        env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith("HF_")}
        env.update(HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / str(number)), HF_HUB_DISABLE_PROGRESS_BARS="1")
        done = subprocess.run([PYTHON, "-c", code], env=env, stdout=subprocess.PIPE, check=True, timeout=120)
        seen.append(json.loads(done.stdout.decode()))
    assert seen[0] == seen[1] and len(seen[0]) == 2 + len(FILES) + len(ROWS) + 2

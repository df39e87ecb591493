"""Snapshots told whole or by their difference to one that is here: the same list is the same id, and no guess is made."""

import hashlib
import os
import types

import pytest
from moai_agent import errors, snapshots


def file(path, content=b"x", executable=False):
    """A file as the laptop tells it."""
    return types.SimpleNamespace(path=path, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content), executable=executable)


@pytest.fixture
def store(tmp_path):
    """Snapshots under a work folder of their own."""
    return snapshots.Snapshots(str(tmp_path))


def test_a_difference_is_the_snapshot_that_the_whole_list_is(store):
    base, missing = store.plan([file("a"), file("b"), file("c", b"y")])
    assert len(missing) == 2
    whole, _ = store.plan([file("a", b"z"), file("c", b"y", executable=True), file("d")])
    assert store.plan([file("a", b"z"), file("c", b"y", executable=True), file("d")], base, ["b"])[0] == whole
    assert store.plan([], base)[0] == base


def test_what_is_missing_is_said_of_the_files_of_the_base_too(store):
    base, missing = store.plan([file("a")])
    assert store.plan([file("b", b"y")], base)[1] == sorted([*missing, file("b", b"y").sha256])


def test_a_base_that_is_not_here_or_was_altered_is_none(store):
    assert store.plan([file("a")], "0" * 32) == ("", [])
    base, _ = store.plan([file("a")])
    os.chmod(store._manifest(base), 0o600)
    with open(store._manifest(base), "ab") as manifest:
        manifest.write(b" ")
    assert store.plan([file("b")], base) == ("", [])


@pytest.mark.parametrize("base", ["../../etc/passwd", "..", "x" * 5000, "a/b", "A" * 32, "\0", "0" * 33])
def test_a_base_that_is_no_id_is_refused(store, base):
    with pytest.raises(errors.AgentError, match="is no snapshot"):
        store.plan([file("a")], base)


def test_a_difference_cannot_grow_a_snapshot_beyond_its_bound(store, monkeypatch):
    monkeypatch.setattr(snapshots, "MAX_FILES", 2)
    base, _ = store.plan([file("a"), file("b")])
    with pytest.raises(errors.AgentError, match="3 files are more than the 2"):
        store.plan([file("c")], base)
    assert store.plan([file("c")], base, ["a"])[0]


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", ".moai/snapshot", ""])
def test_a_hostile_path_in_a_difference_is_refused(store, path):
    base, _ = store.plan([file("a")])
    with pytest.raises(errors.AgentError, match="no path inside a snapshot"):
        store.plan([file(path)], base)

"""Which files of the laptop are code: git's rules, inside and outside a repository; nothing secret."""

import subprocess

import moai
import pytest
from moai import _snapshot


def write(folder, **files):
    """Files by name; ``__`` in a keyword is a folder."""
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def git(folder, *arguments):
    """Run git as somebody."""
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


def names(code):
    """Paths of a snapshot."""
    return [file.path for file in code.files]


@pytest.fixture
def repository(tmp_path):
    """A repository with an ignored folder, a secret, a change and a new file."""
    write(tmp_path, train_py="print(1)", src__model_py="x = 1", data__rows="r" * 1000)
    (tmp_path / ".gitignore").write_text("data/\n")
    (tmp_path / ".env").write_text("TOKEN=hf_secret\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-f", ".")
    git(tmp_path, "rm", "-q", "-r", "--cached", "data")
    git(tmp_path, "commit", "-qm", "one")
    (tmp_path / ".env").write_text("TOKEN=hf_other_secret\n")
    write(tmp_path, train_py="print(2)", new_py="new")
    return tmp_path


def test_a_repository_travels_by_its_ignore_rules_with_commit_and_changes(repository):
    code = _snapshot.collect(repository)
    assert names(code) == [".gitignore", ".moai/commit", ".moai/dirty.diff", "new_py", "src/model_py", "train_py"]
    assert code.left_out == (".env",)
    by_name = {file.path: code.sources[file.sha256] for file in code.files}
    head = subprocess.run(["git", "-C", repository, "rev-parse", "HEAD"], capture_output=True, check=True).stdout
    assert by_name[".moai/commit"] == head
    assert b"+print(2)" in by_name[".moai/dirty.diff"]
    assert b"hf_" not in by_name[".moai/dirty.diff"], "a secret must not leave in the diff either"


def test_a_folder_inside_a_repository_takes_its_whole_and_names_itself(repository):
    code = _snapshot.collect(repository / "src")
    assert code.inside == "src"
    assert "train_py" in names(code)


def test_outside_a_repository_the_ignore_rules_hold_too(tmp_path):
    write(tmp_path, train_py="1", out__big="x", venv__lib="x")
    (tmp_path / ".gitignore").write_text("out/\n")
    (tmp_path / "link").symlink_to("/etc/passwd")
    code = _snapshot.collect(tmp_path)
    assert names(code) == [".gitignore", "train_py", "venv/lib"]
    assert code.left_out == ("link",)


def test_without_git_all_but_what_never_travels(tmp_path, monkeypatch):
    write(tmp_path, train_py="1")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "python").write_text("x")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert names(_snapshot.collect(tmp_path)) == ["train_py"]


def test_the_same_content_is_the_same_list_and_a_change_is_another(tmp_path):
    write(tmp_path, a="1", b="1")
    first = _snapshot.collect(tmp_path)
    assert len(first.sources) == 1, "one content for two names"
    assert _snapshot.collect(tmp_path).files == first.files
    write(tmp_path, b="2")
    assert _snapshot.collect(tmp_path).files != first.files


def test_what_is_too_large_for_code_is_named(tmp_path, monkeypatch):
    write(tmp_path, train_py="1", weights="x" * 2000)
    monkeypatch.setattr(_snapshot, "MAX_FILE_BYTES", 1000)
    with pytest.raises(moai.MoaiError, match=r"weights has .* MB") as caught:
        _snapshot.collect(tmp_path)
    assert ".gitignore" in caught.value.next
    monkeypatch.setattr(_snapshot, "MAX_FILE_BYTES", 10000)
    monkeypatch.setattr(_snapshot, "MAX_FILES", 1)
    with pytest.raises(moai.MoaiError, match="too large for code"):
        _snapshot.collect(tmp_path)


@pytest.mark.parametrize("name", ["missing", "file"])
def test_what_is_no_folder_is_said(tmp_path, name):
    (tmp_path / "file").write_text("x")
    with pytest.raises(moai.MoaiError, match="no folder on the laptop"):
        _snapshot.collect(tmp_path / name)


def test_an_empty_folder_is_said(tmp_path):
    with pytest.raises(moai.MoaiError, match="holds no file"):
        _snapshot.collect(tmp_path)


def test_much_code_is_said_before_it_is_sent_with_its_largest_files(repository, monkeypatch):
    from moai_proto.v1 import file_pb2

    said = []

    class Session:
        """A container that has one of the files."""

        def call(self, stub, method, request, timeout_s):
            missing = [] if said and said[-1] == "sent" else [f.sha256 for f in request.files if f.path != "new_py"]
            return file_pb2.PlanSnapshotResponse(id="a" * 32, missing=missing)

        def upload(self, stub, method, requests, timeout_s):
            said.append("sent")
            return file_pb2.PutContentsResponse(count=sum(1 for one in requests() if one.last))

        def say(self, text):
            said.append(text)

    code = _snapshot.collect(repository)
    _snapshot.send(Session(), code, "")
    assert said == ["sent"]
    said.clear()
    monkeypatch.setattr(_snapshot, "LARGE_BYTES", 10)
    _snapshot.send(Session(), code, "")
    assert said[1:] == ["sent"] and said[0].startswith("warning: ") and ".moai/dirty.diff" in said[0] and "new_py" not in said[0]


def test_only_what_changed_is_read_again_and_a_fresh_change_is_never_missed(tmp_path, monkeypatch):
    import os
    import time

    from moai import _digests, _files

    monkeypatch.setenv("MOAI_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "code"
    folder.mkdir()
    write(folder, old="1", other="2")
    past = time.time() - 100
    for name in ("old", "other"):
        os.utime(folder / name, (past, past))
    monkeypatch.setattr(_digests, "_GRAIN_NS", 0)
    first = _snapshot.collect(folder)
    read = []
    digest = _files.file_digest
    monkeypatch.setattr(_files, "file_digest", lambda path: read.append(os.path.basename(path)) or digest(path))
    assert _snapshot.collect(folder).files == first.files and read == []
    (folder / "other").write_text("3")
    os.utime(folder / "other", (past, past))
    assert _snapshot.collect(folder).files != first.files and read == ["other"], "size and time as before, another change time"
    # Written within the clock's grain of the reading, a file is read again the next time.
    monkeypatch.setattr(_digests, "_GRAIN_NS", 10**18)
    (folder / "other").write_text("4")
    for _ in range(2):
        read.clear()
        _snapshot.collect(folder)
        assert read == ["other"]
    next((tmp_path / "cache" / "digests").iterdir()).write_text("{broken")
    assert _snapshot.collect(folder).files

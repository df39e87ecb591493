"""Which files of the laptop are code: git's rules, inside and outside a repository; nothing secret."""

import subprocess
import types

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


def test_much_code_is_said_before_it_is_sent_with_its_largest_files(repository, monkeypatch, tmp_path_factory):
    from moai_proto.v1 import file_pb2

    said = []

    class Session:
        """A container that has one of the files."""

        host = types.SimpleNamespace(name="box")

        def call(self, stub, method, request, timeout_s):
            missing = [] if said and said[-1] == "sent" else [f.sha256 for f in request.files if f.path != "new_py"]
            return file_pb2.PlanSnapshotResponse(id="a" * 32, missing=missing)

        def upload(self, stub, method, requests, timeout_s):
            said.append("sent")
            return file_pb2.PutContentsResponse(count=sum(1 for one in requests() if one.last))

        def say(self, text):
            said.append(text)

    monkeypatch.setenv("MOAI_CACHE", str(tmp_path_factory.mktemp("cache")))
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


class Container:
    """A container that remembers snapshots; an old one knows nothing of differences."""

    def __init__(self, is_old=False):
        self.host = types.SimpleNamespace(name="box")
        self.snapshots, self.told, self.is_old = {}, [], is_old

    def call(self, stub, method, request, timeout_s):
        from moai_proto.v1 import file_pb2

        self.told.append([file.path for file in request.files])
        base = "" if self.is_old else request.base
        if base and base not in self.snapshots:
            return file_pb2.PlanSnapshotResponse()
        entries = {path: entry for path, entry in self.snapshots.get(base, {}).items() if path not in request.gone}
        entries.update((file.path, (file.sha256, file.executable)) for file in request.files)
        name = f"{len(self.snapshots):032x}"
        self.snapshots[name] = entries
        return file_pb2.PlanSnapshotResponse(id=name, base=base)


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A folder of three files beside a cache of its own."""
    monkeypatch.setenv("MOAI_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "code"
    write(folder, a="1", b="2", c="3")
    return folder


def sent(container, folder):
    """Send the folder; (paths that were told, snapshot as the container has it)."""
    container.told.clear()
    name = _snapshot.send(container, _snapshot.collect(folder), "")
    return container.told[:], container.snapshots[name]


def test_the_second_time_only_the_difference_is_told(code):
    container = Container()
    assert sent(container, code)[0] == [["a", "b", "c"]]
    (code / "b").write_text("other")
    (code / "a").chmod(0o755)
    (code / "c").unlink()
    write(code, d="4")
    told, kept = sent(container, code)
    assert told == [["a", "b", "d"]]
    assert kept == {file.path: (file.sha256, file.executable) for file in _snapshot.collect(code).files}
    assert sent(container, code)[0] == [[]]


def test_a_base_that_the_container_has_not_costs_one_more_question(code):
    sent(Container(), code)
    other = Container()
    (code / "b").write_text("other")
    told, kept = sent(other, code)
    assert told == [["b"], ["a", "b", "c"]] and sorted(kept) == ["a", "b", "c"]


def test_an_agent_that_knows_no_differences_is_told_all(code):
    container = Container(is_old=True)
    sent(container, code)
    (code / "b").write_text("other")
    told, kept = sent(container, code)
    assert told == [["b"], ["a", "b", "c"]] and sorted(kept) == ["a", "b", "c"]


@pytest.mark.parametrize("broken", [b"", b"\0", b"\xff\0\0nothing", b"0" * 32])
def test_a_remembered_base_that_is_broken_is_no_base_or_one_that_the_container_refuses(code, broken):
    container = Container()
    sent(container, code)
    (base,) = (code.parent / "cache" / "digests").glob("*.base")
    base.write_bytes(broken)
    (code / "b").write_text("other")
    assert sorted(sent(container, code)[1]) == ["a", "b", "c"]


def test_a_host_or_work_folder_of_another_name_has_its_own_base(code):
    container, other = Container(), Container()
    other.host.name = "other"
    sent(container, code)
    assert sent(other, code)[0] == [["a", "b", "c"]]
    assert _snapshot.send(container, _snapshot.collect(code), "/elsewhere") and container.told[-1] == ["a", "b", "c"]

"""Fetching wheels with the real pip from a folder or a loopback index; no other network."""

import base64
import dataclasses
import hashlib
import os
import shutil
import socket
import threading
import zipfile

import pytest
from moai._bootstrap import cache, lockfile, wheels
from moai._bootstrap.targets import Target
from moai._errors import MoaiError

TARGET = Target.parse("cp38-x86_64-glibc2.31")
FILENAME = "demo-1.0-py3-none-any.whl"
RECORD = "demo-1.0.dist-info/RECORD"


def make_wheel(path, extra=None):
    """Write a wheel with a correct RECORD; returns the RECORD's bytes."""
    files = {
        "demo/__init__.py": b"answer = 42\n",
        "demo/__init__.pyi": b"answer: int\n",
        "demo/tests/test_demo.py": b"",
        "demo-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n",
        "demo-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        **(extra or {}),
    }
    rows = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(data)}\n")
    record = "".join([*rows, f"{RECORD},,\n"]).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**files, RECORD: record}.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return record


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A lock of one wheel, and a folder that the environment offers to pip as its only index."""
    folder = tmp_path / "index"
    folder.mkdir()
    record = make_wheel(folder / FILENAME)
    data = (folder / FILENAME).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    locks = tmp_path / "locks"
    locks.mkdir()
    (locks / "cp38.txt").write_text(
        f"# wheel {FILENAME} size={len(data)} sha256={digest} record={hashlib.sha256(record).hexdigest()}\n"
        f"demo==1.0 \\\n    --hash=sha256:{digest}\n"
    )
    monkeypatch.setattr(lockfile, "LOCKS", locks)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def no_processes(monkeypatch):
    """Any attempt to start pip fails the test."""

    def refuse(*_args, **_kwargs):
        pytest.fail("a process was started though the cache had the wheels")

    return lambda: monkeypatch.setattr(wheels.subprocess, "Popen", refuse)


def test_wheels_are_fetched_once_and_then_no_process_is_started(index, tmp_path, no_processes):
    said = []
    folder = wheels.fetch(TARGET, tmp_path / "cache", said.append)
    assert [path.name for path in folder.iterdir()] == [FILENAME]
    assert len(said) == 1 and TARGET.key in said[0]
    no_processes()
    assert wheels.fetch(TARGET, tmp_path / "cache", said.append) == folder
    assert len(said) == 1


def test_a_damaged_cached_wheel_is_noticed_by_its_hash_and_fetched_again(index, tmp_path):
    folder = wheels.fetch(TARGET, tmp_path / "cache")
    whole = (folder / FILENAME).read_bytes()
    (folder / FILENAME).write_bytes(whole[:-1] + b"!")
    said = []
    wheels.fetch(TARGET, tmp_path / "cache", said.append)
    assert (folder / FILENAME).read_bytes() == whole
    assert "damaged" in said[0] and FILENAME in said[0]


def test_a_damaged_cached_wheel_is_never_used_when_no_index_answers(index, tmp_path):
    folder = wheels.fetch(TARGET, tmp_path / "cache")
    (folder / FILENAME).write_bytes(b"not a wheel")
    shutil.rmtree(index)
    with pytest.raises(MoaiError) as failure:
        wheels.fetch(TARGET, tmp_path / "cache")
    assert failure.value.reason == "BUNDLE_UNAVAILABLE"
    assert not (folder / FILENAME).exists()


def test_an_index_with_other_bytes_is_refused_and_nothing_is_cached(index, tmp_path):
    make_wheel(index / FILENAME, {"demo/evil.py": b"import os\n"})
    with pytest.raises(MoaiError) as failure:
        wheels.fetch(TARGET, tmp_path / "cache")
    assert failure.value.reason == "BUNDLE_UNAVAILABLE"
    assert not list((tmp_path / "cache").rglob("*.whl"))


def test_without_an_index_the_failure_names_the_way_by_hand(index, tmp_path):
    (index / FILENAME).unlink()
    with pytest.raises(MoaiError) as failure:
        wheels.fetch(TARGET, tmp_path / "cache")
    assert failure.value.reason == "BUNDLE_UNAVAILABLE"
    assert "moai bundle add FILE" in failure.value.next
    assert "demo==1.0" in failure.value.message
    assert failure.value.details["wheels"] == FILENAME
    # Nothing but the lock is left behind.
    assert [path.suffix for path in (tmp_path / "cache" / "wheels").iterdir()] == [".lock"]


@pytest.mark.parametrize("place", ["home", "named by the environment"])
def test_pip_settings_that_break_downloads_are_left_out_and_the_mirror_kept(
    index, tmp_path, monkeypatch, place
):
    config = tmp_path / "home" / ".config" / "pip" / "pip.conf"
    config.parent.mkdir(parents=True)
    config.write_text(
        f"[global]\nuser = true\nrequire-virtualenv = true\ntarget = {tmp_path / 'stray'}\nquiet = 3\n"
        f"[download]\nno-binary = :all:\nplatform = win_amd64\ndry-run = true\nfind-links = {index}\n"
        "[install]\nprefix = /nowhere\n"
    )
    if place == "home":
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
        monkeypatch.delenv("PIP_CONFIG_FILE")
    else:
        monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_PYTHON_VERSION", "2.7")
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "missing.txt"))
    folder = wheels.fetch(TARGET, tmp_path / "cache")
    assert (folder / FILENAME).is_file()
    assert not (tmp_path / "stray").exists()


def test_a_pip_configuration_that_cannot_be_parsed_does_not_stop_the_download(index, tmp_path, monkeypatch):
    config = tmp_path / "pip.conf"
    config.write_text("this is no configuration\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    assert (wheels.fetch(TARGET, tmp_path / "cache") / FILENAME).is_file()


def test_a_pip_folder_in_the_current_folder_is_not_run(index, tmp_path, monkeypatch):
    here = tmp_path / "here"
    (here / "pip").mkdir(parents=True)
    (here / "pip" / "__main__.py").write_text("raise SystemExit('the wrong pip')")
    (here / "pip" / "__init__.py").write_text("")
    monkeypatch.chdir(here)
    assert (wheels.fetch(TARGET, tmp_path / "cache") / FILENAME).is_file()


def test_credentials_of_an_index_are_not_repeated_in_the_failure(index, tmp_path, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.delenv("PIP_FIND_LINKS")
        monkeypatch.setenv("PIP_RETRIES", "0")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://user:hunter2@127.0.0.1:{closed.getsockname()[1]}/simple")
        with pytest.raises(MoaiError) as failure:
            wheels.fetch(TARGET, tmp_path / "cache")
    assert failure.value.reason == "BUNDLE_UNAVAILABLE"
    assert "hunter2" not in failure.value.message + str(failure.value.details)
    assert wheels._reason("ERROR: no http://user:hunter2@host/simple") == "no http://****@host/simple"


def test_a_download_that_takes_too_long_is_given_up(index, tmp_path, monkeypatch):
    # No pip has ever finished in this time, so the outcome does not depend on the machine.
    monkeypatch.setattr(wheels, "FETCH_TIMEOUT_S", 0.001)
    with pytest.raises(MoaiError) as failure:
        wheels.fetch(TARGET, tmp_path / "cache")
    assert failure.value.reason == "BUNDLE_UNAVAILABLE"
    assert "gave up" in failure.value.message


def test_giving_up_ends_the_whole_process_group(tmp_path):
    # The output ends only when every process that could write to it is gone: if one were left, this
    # would wait for ten minutes.
    code, output = wheels._run(["sh", "-c", "sleep 600 & sleep 600"], os.environ, tmp_path, 0.2)
    assert code == 124
    assert "gave up" in output


def test_an_interpreter_without_pip_says_so(index, tmp_path, monkeypatch):
    monkeypatch.setattr(wheels.sys, "executable", str(tmp_path / "no-such-python"))
    with pytest.raises(MoaiError) as failure:
        wheels.fetch(TARGET, tmp_path / "cache")
    assert failure.value.reason == "BUNDLE_UNAVAILABLE"
    assert "moai bundle add FILE" in failure.value.next


def test_many_fetchers_at_once_run_pip_once(index, tmp_path):
    said, found = [], []
    threads = [
        threading.Thread(target=lambda: found.append(wheels.fetch(TARGET, tmp_path / "cache", said.append)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(said) == 1
    assert len(found) == 4 and len(set(found)) == 1


def test_the_library_leaves_out_what_the_agent_never_imports(index):
    files = wheels.unpack(index, lockfile.select(TARGET))
    assert sorted(files) == [
        "demo-1.0.dist-info/METADATA",
        RECORD,
        "demo-1.0.dist-info/WHEEL",
        "demo/__init__.py",
    ]


@pytest.mark.parametrize("damage", ["changed", "missing", "added", "record"])
def test_a_library_that_differs_from_its_locked_records_is_refused(index, damage):
    wheel_set = lockfile.select(TARGET)
    files = wheels.unpack(index, wheel_set)
    if damage == "changed":
        files["demo/__init__.py"] = b"answer = 43\n"
    elif damage == "missing":
        del files["demo/__init__.py"]
    elif damage == "added":
        files["sitecustomize.py"] = b""
    else:
        digest = base64.urlsafe_b64encode(hashlib.sha256(b"").digest()).rstrip(b"=")
        files[RECORD] += b"sitecustomize.py,sha256=" + digest + b",0\n"
        files["sitecustomize.py"] = b""
    with pytest.raises(MoaiError) as failure:
        wheels.verify_library(files, wheel_set)
    assert failure.value.reason == "BUNDLE_CORRUPT"


@pytest.mark.parametrize("name", ["../evil.py", "/evil.py", "demo-1.0.data/scripts/evil", "demo/__init__.py"])
def test_a_wheel_whose_files_belong_elsewhere_is_refused(index, name):
    # Two wheels with the same file, or a file that an installer would not put into the library folder.
    wheel_set = lockfile.select(TARGET)
    extra = {} if name == "demo/__init__.py" else {name: b"evil"}
    record = make_wheel(index / FILENAME, extra)
    wheel = dataclasses.replace(wheel_set.wheels[0], record_sha256=hashlib.sha256(record).hexdigest())
    twice = (wheel, dataclasses.replace(wheel, filename="demo-1.1-py3-none-any.whl"))
    if not extra:
        with zipfile.ZipFile(index / FILENAME) as archive:
            files = {info.filename: archive.read(info) for info in archive.infolist()}
        twin = record.replace(b"demo-1.0.dist-info", b"demo-1.1.dist-info")
        with zipfile.ZipFile(index / twice[1].filename, "w") as archive:
            for path, data in files.items():
                twin_path = path.replace("demo-1.0.dist-info", "demo-1.1.dist-info")
                archive.writestr(twin_path, twin if path == RECORD else data)
        twice = (wheel, dataclasses.replace(twice[1], record_sha256=hashlib.sha256(twin).hexdigest()))
    chosen = dataclasses.replace(wheel_set, wheels=(wheel,) if extra else twice)
    with pytest.raises(MoaiError) as failure:
        wheels.unpack(index, chosen)
    assert failure.value.reason == "BUNDLE_CORRUPT"
    assert "cannot be taken" in failure.value.message


def test_a_full_disk_is_called_by_its_name(tmp_path):
    with pytest.raises(MoaiError) as failure, cache.explained("keep the wheels"):
        raise OSError(28, "No space left on device", str(tmp_path))
    assert failure.value.reason == "DISK_FULL"
    assert str(tmp_path) in failure.value.message


def test_a_cache_folder_that_cannot_be_made_names_the_setting(tmp_path, index):
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(MoaiError) as failure:
        wheels.fetch(TARGET, tmp_path / "cache")
    assert failure.value.reason == "BUNDLE_UNAVAILABLE"
    assert "MOAI_CACHE" in failure.value.next


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "kept"
    cache.write_atomic(path, b"old")

    def fail(_handle):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(cache.os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        cache.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]

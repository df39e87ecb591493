"""push and pull: every name and mode, interrupted at any place, against hostile names and planted links."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import stat
from pathlib import Path

import moai
import pytest
from e2e.reach import ready, said
from fakes.box import Box, processes_of
from fakes.gate import Gate
from fakes.sshd import find_sshd, wait_until
from moai import _files
from moai_proto.v1 import file_pb2

CHUNK = 512 * 1024
BIG = 24 * 1024 * 1024
#: What a connection costs beside the files: key exchange, handshake, listings.
OVERHEAD = 300_000


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    """A container reached through a gate, with its agent up."""
    if find_sshd() is None:
        pytest.skip("SKIPPED LOUDLY: sshd is not installed (apt-get install openssh-server)")
    ready()
    folder = tmp_path_factory.mktemp("files")
    with Box(folder, look_alike=False) as box:
        gate = Gate(folder / "gate")
        box.sshd.ssh_config(box.ssh_config, alias="box", ProxyCommand=gate.command(box.sshd.host, box.sshd.port))
        assert box.moai("remote", "up").returncode == 0
        yield box, gate


@pytest.fixture
def box(gated):
    """The container of this module."""
    return gated[0]


@pytest.fixture
def gate(gated):
    """Its gate, open before and after."""
    yield gated[1]
    (gated[1].folder / "hold").unlink(missing_ok=True)


@pytest.fixture
def there(box, request):
    """An empty folder on the container."""
    folder = box.home / "files" / request.node.name.replace("/", "_")
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def big():
    """Bytes that do not compress."""
    return os.urandom(BIG)


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files, making the folders on the way."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Everything below a folder that is not a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if not p.is_dir()}


def moai_ok(box: Box, *words: str) -> str:
    """Run a command that must succeed; what it printed."""
    done = box.moai("remote", *words)
    assert done.returncode == 0, said(done)
    return done.stdout.decode().strip()


def refused(box: Box, *words: str, code: int, part: str = "") -> str:
    """Run a command that must fail with one clear message; the message."""
    done = box.moai("remote", *words)
    error = done.stderr.decode()
    assert done.returncode == code, said(done)
    assert len(error.splitlines()) <= 6 and error.count("error: ") == 1 and "Traceback" not in error, error
    assert "  next: " in error and part in error, error
    return error


AWKWARD = {
    "plain.txt": b"plain\n",
    "empty": b"",
    "with blank.txt": b"b",
    "quote's \"double\" `back`.txt": b"q",
    "-dash": b"d",
    "$HOME *?[x] {a,b} ;&|<>#!.txt": b"shell",
    "back\\slash": b"bs",
    "한글/문서 파일.txt": "안녕".encode(),
    "e\u0301 decomposed \u1112\u1161\u11ab": b"nfd",
    "\u3000wide\u00a0blank \U0001f469\u200d\U0001f4bb": b"emoji",
    "deep/er/and/deeper/file.bin": bytes(range(256)) * 40,
    "n" * 255: b"long",
    ".hidden/.file": b"h",
    "CASE/twin": b"1",
    "case/TWIN": b"2",
}


def test_every_name_and_byte_comes_there_and_back(box, there, tmp_path):
    source = fill(tmp_path / "work space", AWKWARD | {"chunks.bin": os.urandom(3 * CHUNK + 17)})
    assert moai_ok(box, "push", str(source), f"{there}/copy of it") == f"{there}/copy of it"
    assert contents(there / "copy of it") == contents(source)
    back = tmp_path / "back"
    assert moai_ok(box, "pull", f"{there}/copy of it", str(back)) == str(back / "copy of it")
    assert contents(back / "copy of it") == contents(source)
    assert not list(back.rglob("*.part")) and not list(there.rglob(".moai-part-*"))


@pytest.mark.parametrize("name", ["한글 파일.txt", "it's \"quoted\" $x.txt"])
def test_a_single_file_comes_there_and_back(box, there, tmp_path, name):
    (tmp_path / name).write_bytes(b"data")
    assert moai_ok(box, "push", str(tmp_path / name), f"{there}/{name}") == f"{there}/{name}"
    assert moai_ok(box, "pull", f"{there}/{name}", str(tmp_path / "back")) == str(tmp_path / "back" / name)
    assert (tmp_path / "back" / name).read_bytes() == b"data"


def test_without_a_target_the_copy_lies_in_the_home_under_its_own_name(box, tmp_path):
    fill(tmp_path / "project one", {"a/b": b"x"})
    assert moai_ok(box, "push", str(tmp_path / "project one")) == str(box.home / "project one")
    assert (box.home / "project one/a/b").read_bytes() == b"x"


def test_push_makes_the_folders_it_needs(box, there, tmp_path):
    source = fill(tmp_path / "src", {"a": b"1", "sub/b": b"2"})
    moai_ok(box, "push", str(source), f"{there}/new/and newer")
    moai_ok(box, "push", str(source / "a"), f"{there}/other/name")
    moai_ok(box, "push", str(source / "a"), f"{there}/third/")
    moai_ok(box, "push", str(source), f"{there}/fourth/")
    assert contents(there) == {
        "new/and newer/a": b"1", "new/and newer/sub/b": b"2", "other/name": b"1", "third/a": b"1",
        "fourth/src/a": b"1", "fourth/src/sub/b": b"2",
    }  # fmt: skip


def test_a_file_pushed_to_a_folder_goes_into_it(box, there, tmp_path):
    (there / "folder").mkdir()
    (tmp_path / "a").write_bytes(b"1")
    assert moai_ok(box, "push", str(tmp_path / "a"), f"{there}/folder") == f"{there}/folder/a"
    assert contents(there) == {"folder/a": b"1"}


def test_a_folder_and_a_file_of_the_same_name_do_not_replace_each_other(box, there, tmp_path):
    fill(there, {"x": b"a file", "y/z/inside": b"kept"})
    source = fill(tmp_path / "src", {"z": b"a file"})
    refused(box, "push", str(source), f"{there}/x", code=2, part=f"{there}/x")
    refused(box, "push", str(source), f"{there}/y", code=2, part=f"{there}/y/z")
    assert contents(there) == {"x": b"a file", "y/z/inside": b"kept"}
    fill(tmp_path / "back", {"y": b"a file here"})
    refused(box, "pull", f"{there}/y", str(tmp_path / "back"), code=2, part=str(tmp_path / "back" / "y"))
    refused(box, "pull", f"{there}/x", str(tmp_path / "back" / "y"), code=2, part=str(tmp_path / "back" / "y"))
    assert contents(tmp_path / "back") == {"y": b"a file here"}


def test_secrets_version_control_and_links_are_not_pushed(box, there, tmp_path):
    sent = {"train.py": b"1", "src/model.py": b"2", ".gitignore": b"3", "id_rsa.pub": b"4", "environment.yml": b"5"}
    kept = [".git/config", "sub/.git/HEAD", ".env", "sub/.env", ".env.production", "id_rsa", "sub/id_ed25519", "id_ecdsa", "id_ed25519_sk"]
    kept += ["server.pem", "key.ppk", "__pycache__/a.pyc", ".venv/bin/python", "web/node_modules/x.js"]
    source = fill(tmp_path / "src", sent | {name: b"SECRET" for name in kept})
    (source / "link").symlink_to("/etc/passwd")
    (source / "linked").symlink_to("/etc")
    os.mkfifo(source / "pipe")
    moai_ok(box, "push", str(source), str(there))
    assert contents(there) == sent
    only_secrets = fill(tmp_path / "only", {".env": b"SECRET"})
    refused(box, "push", str(only_secrets), f"{there}/only", code=2, part=str(only_secrets))
    assert not (there / "only").exists()


def test_permission_bits_are_kept_and_nothing_special_is_set(box, there, tmp_path):
    source = fill(tmp_path / "src", {"run.sh": b"#!/bin/sh\n", "data": b"d", "read": b"r", "set": b"s"})
    for name, mode in (("run.sh", 0o755), ("data", 0o644), ("read", 0o400), ("set", 0o6755)):
        (source / name).chmod(mode)
    moai_ok(box, "push", str(source), str(there))
    # There: the owner's bits only; the container may have other users.
    modes = {name: stat.S_IMODE((there / name).stat().st_mode) for name in ("run.sh", "data", "read", "set")}
    assert modes == {"run.sh": 0o700, "data": 0o600, "read": 0o400, "set": 0o700}
    for name, mode in (("run.sh", 0o775), ("data", 0o666), ("read", 0o400), ("set", 0o6755)):
        (there / name).chmod(mode)
    moai_ok(box, "pull", str(there), str(tmp_path / "back"))
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "back" / there.name).iterdir()}
    # Here: what others could do to it goes, and the owner may always change it.
    assert modes == {"run.sh": 0o755, "data": 0o644, "read": 0o600, "set": 0o755}
    # A script made executable later is sent again although its bytes are the same.
    (source / "data").chmod(0o755)
    moai_ok(box, "push", str(source), str(there))
    assert os.access(there / "data", os.X_OK)


def test_what_is_there_is_not_sent_again(box, gate, there, tmp_path):
    source = fill(tmp_path / "src", {"big.bin": os.urandom(4 * CHUNK), "sub/small": b"1", "same": b"2"})
    moai_ok(box, "push", str(source), f"{there}/copy")
    before = {p: p.stat().st_ino for p in (there / "copy").rglob("*")}
    passed = gate.passed()
    assert moai_ok(box, "push", str(source), f"{there}/copy") == f"{there}/copy"
    assert {p: p.stat().st_ino for p in (there / "copy").rglob("*")} == before
    assert gate.passed()["up"] - passed["up"] < OVERHEAD
    fill(source, {"sub/small": b"changed", "new": b"3"})
    moai_ok(box, "push", str(source), f"{there}/copy")
    changed = {p.name for p in (there / "copy").rglob("*") if before.get(p) != p.stat().st_ino}
    assert changed == {"small", "new"} and contents(there / "copy") == contents(source)
    # A single file too.
    inode = (there / "copy/big.bin").stat().st_ino
    for target in (f"{there}/copy/big.bin", f"{there}/copy", f"{there}/copy/"):
        assert moai_ok(box, "push", str(source / "big.bin"), target) == f"{there}/copy/big.bin"
    assert (there / "copy/big.bin").stat().st_ino == inode
    # And the other way round.
    moai_ok(box, "pull", f"{there}/copy", str(tmp_path / "back"))
    back = tmp_path / "back" / "copy"
    inodes = {p: p.stat().st_ino for p in back.rglob("*")}
    passed = gate.passed()
    moai_ok(box, "pull", f"{there}/copy", str(tmp_path / "back"))
    assert {p: p.stat().st_ino for p in back.rglob("*")} == inodes
    assert gate.passed()["down"] - passed["down"] < OVERHEAD
    (back / "same").write_bytes(b"edited here")
    moai_ok(box, "pull", f"{there}/copy", str(tmp_path / "back"))
    assert contents(back) == contents(there / "copy")


def test_a_file_without_a_target_is_kept_by_its_content_and_sent_once(box, gate, tmp_path, as_laptop):
    (tmp_path / "data set.jsonl").write_bytes(os.urandom(4 * CHUNK))
    as_laptop(box.laptop)
    with moai.connect("box") as host:
        path = Path(host.push(tmp_path / "data set.jsonl"))
        passed, inode = gate.passed()["up"], path.stat().st_ino
        assert host.push(tmp_path / "data set.jsonl") == str(path) and path.stat().st_ino == inode
        assert gate.passed()["up"] - passed < OVERHEAD
        assert path.name == "data set.jsonl" and path.read_bytes() == (tmp_path / "data set.jsonl").read_bytes()
        (tmp_path / "data set.jsonl").write_bytes(b"other")
        assert host.push(tmp_path / "data set.jsonl") != str(path) and path.exists()


def test_a_pull_takes_what_was_asked_for(box, there, tmp_path):
    files = {"model.safetensors": b"1", "config.json": b"2", "checkpoints/10/model.safetensors": b"3"}
    fill(there, files)
    moai_ok(box, "pull", str(there), str(tmp_path / "a"), "--only", "*.safetensors")
    assert set(contents(tmp_path / "a" / there.name)) == {"model.safetensors", "checkpoints/10/model.safetensors"}
    moai_ok(box, "pull", str(there), str(tmp_path / "b"), "--only", "final")
    assert set(contents(tmp_path / "b" / there.name)) == {"model.safetensors", "config.json"}
    refused(box, "pull", str(there), str(tmp_path / "c"), "--only", "*.gguf", code=1, part="'*.gguf'")
    document = json.loads(moai_ok(box, "pull", str(there), str(tmp_path / "d"), "--json"))
    left_out = document.pop("left_out")
    assert document == {"schema": "moai.pull/1", "host": "box", "path": str(tmp_path / "d" / there.name), "files": 3}
    assert left_out == {"files": 0, "bytes": 0}


@pytest.mark.parametrize("words", [("pull", "~/gone"), ("pull", "/dev/null"), ("push", "gone", "~/x"), ("push", "/dev/null", "~/x")])
def test_what_is_not_a_file_or_folder_is_named(box, words):
    refused(box, *words, code=1 if words[0] == "pull" else 2, part=words[1].removeprefix("~"))
    assert not (box.home / "x").exists()


# -- interrupted ---------------------------------------------------------------------------------------


def part_of(folder: Path) -> int:
    """Size of the unfinished file below a folder; -1 without one."""
    parts = list(folder.glob(".*part*"))
    assert len(parts) <= 1, parts
    return parts[0].stat().st_size if parts else -1


def test_a_killed_pull_goes_on_where_it_stopped_and_harms_no_older_copy(box, gate, there, big, tmp_path):
    (there / "model.bin").write_bytes(big)
    fill(tmp_path, {"model.bin": b"the older copy"})
    gate.hold("down", 12 * 1024 * 1024)
    process = box.laptop.start("remote", "pull", f"{there}/model.bin", str(tmp_path))
    wait_until(lambda: gate.is_holding and part_of(tmp_path) > CHUNK, "the middle of the file", 60.0)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    arrived = part_of(tmp_path)
    assert CHUNK < arrived < BIG and (tmp_path / "model.bin").read_bytes() == b"the older copy"
    gate.release()
    moai_ok(box, "disconnect")  # What is still on its way to the killed command is not counted.
    passed = gate.passed()["down"]
    moai_ok(box, "pull", f"{there}/model.bin", str(tmp_path))
    assert (tmp_path / "model.bin").read_bytes() == big and part_of(tmp_path) == -1
    assert gate.passed()["down"] - passed < BIG - arrived + CHUNK + OVERHEAD


def test_a_pull_goes_on_by_itself_when_the_link_is_cut(box, gate, there, big, tmp_path):
    (there / "model.bin").write_bytes(big)
    passed = gate.passed()["down"]
    gate.hold("down", 16 * 1024 * 1024)
    process = box.laptop.start("remote", "pull", f"{there}/model.bin", str(tmp_path))
    wait_until(lambda: gate.is_holding and part_of(tmp_path) > 8 * 1024 * 1024, "the middle of the file", 60.0)
    box.sshd.kill_sessions()
    gate.release()
    _, error = process.communicate(timeout=60.0)
    assert process.returncode == 0, error
    assert (tmp_path / "model.bin").read_bytes() == big and part_of(tmp_path) == -1
    # From the beginning it would be more than 8 MiB again.
    assert gate.passed()["down"] - passed < BIG + 8 * 1024 * 1024


def test_a_pull_waits_for_a_server_that_is_away_for_a_moment(box, gate, there, big, tmp_path):
    (there / "model.bin").write_bytes(big)
    gate.hold("down", 8 * 1024 * 1024)
    process = box.laptop.start("remote", "pull", f"{there}/model.bin", str(tmp_path))
    wait_until(lambda: gate.is_holding and part_of(tmp_path) > CHUNK, "the middle of the file", 60.0)
    log = box.laptop.folder / "cache" / "links"
    assert log.is_dir()
    box.sshd.stop()
    refusals = len(list(gate.folder.glob("count-*")))
    gate.release()
    # The gate starts one process a try, and dies of the refusal before it counts anything.
    wait_until(lambda: process.poll() is not None or not _relayed(box), "the connection to be gone", 30.0)
    assert process.poll() is None, process.communicate()
    box.sshd.start()
    _, error = process.communicate(timeout=90.0)
    assert process.returncode == 0, error
    assert (tmp_path / "model.bin").read_bytes() == big
    assert len(list(gate.folder.glob("count-*"))) > refusals


def _relayed(box: Box) -> bool:
    return any("gate.py" in word for argv in processes_of(box.laptop.folder).values() for word in argv)


def test_a_killed_push_leaves_the_older_file_and_no_half_one(box, gate, there, big, tmp_path):
    fill(there, {"data.bin": b"the older file"})
    (tmp_path / "data.bin").write_bytes(big)
    gate.hold("up", 8 * 1024 * 1024)
    process = box.laptop.start("remote", "push", str(tmp_path / "data.bin"), f"{there}/data.bin")
    wait_until(lambda: gate.is_holding and part_of(there) > CHUNK, "the middle of the file", 60.0)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (there / "data.bin").read_bytes() == b"the older file"
    gate.release()
    wait_until(lambda: part_of(there) == -1, "the half file to be removed", 30.0)
    assert contents(there) == {"data.bin": b"the older file"}
    moai_ok(box, "push", str(tmp_path / "data.bin"), f"{there}/data.bin")
    assert contents(there) == {"data.bin": big}


def test_a_push_begins_again_by_itself_when_the_link_is_cut(box, gate, there, big, tmp_path):
    fill(there, {"data.bin": b"the older file"})
    (tmp_path / "data.bin").write_bytes(big)
    gate.hold("up", 8 * 1024 * 1024)
    process = box.laptop.start("remote", "push", str(tmp_path / "data.bin"), f"{there}/data.bin")
    wait_until(lambda: gate.is_holding and part_of(there) > CHUNK, "the middle of the file", 60.0)
    box.sshd.kill_sessions()
    assert (there / "data.bin").read_bytes() == b"the older file"
    gate.release()
    _, error = process.communicate(timeout=60.0)
    assert process.returncode == 0, error
    wait_until(lambda: part_of(there) == -1, "the half file to be removed", 30.0)
    assert contents(there) == {"data.bin": big}


def test_a_file_that_changes_while_it_is_pulled_is_refused_and_one_that_grows_is_not(box, gate, there, big, tmp_path):
    for name in ("grows", "changes"):
        (there / name).write_bytes(big)
        fill(tmp_path / name, {name: b"the older copy"})
        gate.hold("down", 8 * 1024 * 1024)
        process = box.laptop.start("remote", "pull", f"{there}/{name}", str(tmp_path / name))
        wait_until(lambda: gate.is_holding and part_of(tmp_path / name) > CHUNK, "the middle of the file", 60.0)
        with open(there / name, "r+b") as out:
            out.seek(0 if name == "grows" else BIG - 100, os.SEEK_END if name == "grows" else os.SEEK_SET)
            out.write(b"x" * 100)
        gate.release()
        _, error = process.communicate(timeout=60.0)
        assert part_of(tmp_path / name) == -1
        if name == "grows":
            assert process.returncode == 0, error
            assert (tmp_path / name / name).read_bytes() == big
        else:
            assert process.returncode == 1 and b"next: pull it again" in error and b"changed while it was copied" in error
            assert (tmp_path / name / name).read_bytes() == b"the older copy"


# -- hostile containers --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["new\nline", "\x1b]0;owned\x07", "\x1b[2Jx", "bi\u202edi", "\x7f", "\u2028", "a\x85b"])
def test_a_name_that_would_fool_a_terminal_is_refused_and_nothing_is_written(box, there, tmp_path, name):
    fill(there, {"good": b"1", name: b"2", f"{name}dir/x": b"3"})
    error = refused(box, "pull", str(there), str(tmp_path / "back"), code=2, part=repr(name)[1:-1])
    assert not set(error) & set("\x1b\x07\x7f\x85\u202e\u2028") and not (tmp_path / "back").exists()
    # What has another name can be had.
    moai_ok(box, "pull", str(there), str(tmp_path / "back"), "--only", "good")
    assert contents(tmp_path / "back") == {f"{there.name}/good": b"1"}


def test_a_name_that_is_no_text_is_named_and_does_not_stop_a_push(box, there, tmp_path):
    bad = os.fsencode(there) + b"/caf\xe9"
    with open(bad, "wb") as out:
        out.write(b"latin")
    refused(box, "pull", str(there), str(tmp_path / "back"), code=2, part=r"caf\udce9")
    source = fill(tmp_path / "src", {"a": b"1"})
    assert moai_ok(box, "push", str(source), str(there)) == str(there)
    assert (there / "a").read_bytes() == b"1"
    with open(os.fsencode(source) + b"/\xff", "wb") as out:
        out.write(b"2")
    refused(box, "push", str(source), f"{there}/b", code=2, part=r"\udcff")


def test_links_planted_here_are_not_followed(box, there, tmp_path):
    fill(there, {"dir/file": b"theirs", "top": b"theirs"})
    outside = fill(tmp_path / "outside", {"file": b"mine", "top": b"mine"})
    for number, (link, to) in enumerate((("dir", ""), ("dir/file", "file"), ("top", "top"), ("", ""))):
        target = tmp_path / f"target{number}"
        planted = target / there.name / link
        planted.parent.mkdir(parents=True)
        planted.symlink_to(outside / to)
        refused(box, "pull", str(there), str(target), code=2, part=str(planted))
        assert contents(outside) == {"file": b"mine", "top": b"mine"}
    # The name of the unfinished file, too.
    digest = hashlib.sha256(b"theirs").hexdigest()
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / f".top.{digest[:12]}.part").symlink_to(outside / "top")
    moai_ok(box, "pull", f"{there}/top", str(tmp_path / "t"))
    assert contents(tmp_path / "t") == {"top": b"theirs"} and contents(outside)["top"] == b"mine"


def test_pipes_and_links_on_the_container_do_not_hold_up_its_agent(box, there, tmp_path, as_laptop):
    os.mkfifo(there / "pipe")
    (there / "link").symlink_to(there / "real")
    (there / "real").write_bytes(b"1")
    (there / "loop").symlink_to(there)
    refused(box, "pull", f"{there}/pipe", str(tmp_path), code=1, part=f"{there}/pipe")
    as_laptop(box.laptop)
    with moai.connect("box") as host:
        for name in ("pipe", "link", ".", "gone"):
            with pytest.raises(moai.NotFound):
                host.read(f"{there}/{name}")
        assert host.read(f"{there}/real") == b"1"
    moai_ok(box, "pull", f"{there}/link", str(tmp_path))
    assert (tmp_path / "real").read_bytes() == b"1"
    moai_ok(box, "pull", str(there), str(tmp_path / "all"))
    assert contents(tmp_path / "all") == {f"{there.name}/real": b"1"}


class Liar:
    """A session whose agent answers what it likes."""

    def __init__(self, root: str, files: list[tuple[str, bytes]], is_file: bool = False, sent: bytes | None = None) -> None:
        entries = [file_pb2.FileEntry(path=p, size_bytes=len(d), sha256=hashlib.sha256(d).hexdigest(), mode=0o7777) for p, d in files]
        self.answer = file_pb2.CompareFilesResponse(root=root, is_file=is_file, files=entries)
        self.files, self.sent, self.yielded = dict(files), sent, 0

    def call(self, stub, method, request, **_):
        return self.answer

    def stream(self, stub, method, request, opened=None):
        data = self.sent if self.sent is not None else next(d for p, d in self.files.items() if request.path.endswith(p))
        for start in range(request.offset, len(data), 1000):
            self.yielded += 1
            yield file_pb2.GetFilesResponse(data=data[start : start + 1000])


@pytest.mark.parametrize(
    "name",
    ["../up", "a/../../up", "/abs", "..", ".", "", "a/./../..", "a\0b", "a/\n/b", "a//../../up", "x" * 256, "한" * 86, "dir/\x1b[2J"],
)
def test_no_listing_makes_a_pull_write_outside_its_target(tmp_path, name):
    target = tmp_path / "here" / "target"
    for is_file in (False, True):
        with pytest.raises(moai.UsageError, match="which is not written here"):
            _files.pull(Liar("/there/folder", [("good", b"1"), (name, b"2")], is_file), "~/folder", target)
    for root in ("/", "/there/..", "/there/a\nb", ""):
        with pytest.raises(moai.UsageError, match="which is not written here"):
            _files.pull(Liar(root, [("good", b"1")]), "~/folder", target)
    assert not (tmp_path / "here").exists()


def test_more_than_was_announced_is_not_taken_and_less_is_not_enough(tmp_path):
    endless = Liar("/there/f", [("f", b"x" * 1500)], is_file=True, sent=b"x" * 10_000_000)
    assert _files.pull(endless, "/there/f", tmp_path).read_bytes() == b"x" * 1500
    assert endless.yielded == 2
    for name, sent in (("short", b"x" * 1000), ("wrong", b"y" * 1500)):
        with pytest.raises(moai.MoaiError) as refusal:
            _files.pull(Liar(f"/there/{name}", [(name, b"x" * 1500)], is_file=True, sent=sent), "~/f", tmp_path)
        assert refusal.value.reason == "DOWNLOAD_CORRUPT"
    assert contents(tmp_path) == {"f": b"x" * 1500}
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o755


def test_a_full_disk_here_is_named_and_what_arrived_is_kept(tmp_path, monkeypatch):
    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "f"))

    data = os.urandom(10_000)
    with monkeypatch.context() as context:
        context.setattr(_files.os, "fsync", full)
        with pytest.raises(moai.MoaiError) as refusal:
            _files.pull(Liar("/there/f", [("f", data)], is_file=True), "/there/f", tmp_path)
    assert refusal.value.reason == "DISK_FULL" and str(tmp_path / "f") in refusal.value.message and refusal.value.next
    assert part_of(tmp_path) == len(data)
    again = Liar("/there/f", [("f", data)], is_file=True)
    assert _files.pull(again, "/there/f", tmp_path).read_bytes() == data and again.yielded == 0


def test_names_that_this_disk_cannot_keep_apart_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "_is_case_sensitive", lambda folder: False)
    for one, two in (("Readme", "README"), ("e\u0301", "\u00e9")):
        with pytest.raises(moai.UsageError, match="differ only in case"):
            _files.pull(Liar("/there/folder", [(one, b"1"), (two, b"2")]), "~/folder", tmp_path / "t")
    assert not (tmp_path / "t").exists()

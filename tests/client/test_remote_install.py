"""The program that unpacks a bundle on the container: nothing of an altered one is ever run.

The real program in a real interpreter, fed as bootstrap feeds it; afterwards the real dial line, which
starts what is installed. The bundle's relay leaves a mark when it runs.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from moai._dial import _DIAL

PROGRAM = Path(__file__).resolve().parents[2] / "client" / "moai" / "_bootstrap" / "remote_install.py"
DIAL = _DIAL.replace("NONCE", "n").replace("MODE", "")


def entry(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar_of(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as opened:
        for info, data in entries:
            opened.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def bundle(mark: Path, *more: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """An archive whose relay writes a line into ``mark``."""
    relay = f"open({str(mark)!r}, 'a').write({mark.name!r}); print('RAN')\n".encode()
    return gzip.compress(tar_of(entry("worker/relay.py", relay), *more), mtime=0)


def install(home: Path, data: bytes, digest: str = "", size: int = -1) -> dict:
    """What the program answers to an archive that is said to have this digest and size."""
    header = {"nonce": "n", "digest": digest or hashlib.sha256(data).hexdigest(), "size": len(data) if size < 0 else size}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", PROGRAM.read_text()], input=json.dumps(header).encode() + b"\n" + data,
        env={"MOAI_HOME": str(home), "PATH": os.environ["PATH"]}, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.split(b"MOAI1 n ")[1])


def dialled(home: Path) -> bytes:
    """What the next dial gets."""
    env = {"MOAI_HOME": str(home), "HOME": "/nonexistent", "PATH": os.environ["PATH"]}
    return subprocess.run(["/bin/sh", "-c", DIAL], env=env, capture_output=True, timeout=60, check=True).stdout


def below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != ".lock")


def test_an_upload_that_is_cut_or_altered_is_never_unpacked_nor_run(tmp_path):
    chance = random.Random(7)
    mark = tmp_path / "fired"
    data = bundle(mark)
    digest = hashlib.sha256(data).hexdigest()
    attempts = [(data[:cut], digest, len(data)) for cut in (0, 1, len(data) // 2, len(data) - 1)]
    for _ in range(6):
        at = chance.randrange(len(data))
        attempts.append((data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :], digest, len(data)))
    attempts += [(data + b"x", digest, len(data) + 1), (bundle(tmp_path / "other"), digest, -1), (data, "0" * 64, -1)]
    for sent, said, size in attempts:
        answer = install(tmp_path / "home", sent, said, size)
        assert (answer["ok"], answer.get("reason")) == (False, "BUNDLE_CORRUPT"), answer
        assert b"NOT_INSTALLED" in dialled(tmp_path / "home")
    assert below(tmp_path / "home") == [] and not mark.exists()
    assert install(tmp_path / "home", data) == {"ok": True}
    assert dialled(tmp_path / "home") == b"RAN\n" and mark.read_text() == "fired"


def test_what_is_installed_stays_when_the_next_upload_is_altered(tmp_path):
    old, new = bundle(tmp_path / "old"), bundle(tmp_path / "new")
    assert install(tmp_path / "home", old) == {"ok": True}
    before = below(tmp_path / "home")
    for sent in (new[:-5], new[:50] + b"\0" + new[51:]):
        assert not install(tmp_path / "home", sent, hashlib.sha256(new).hexdigest(), len(new))["ok"]
        assert dialled(tmp_path / "home") == b"RAN\n"
    # Named without being sent: it must be there.
    assert not install(tmp_path / "home", b"", hashlib.sha256(new).hexdigest())["ok"]
    assert below(tmp_path / "home") == before and not (tmp_path / "new").exists()
    assert install(tmp_path / "home", new) == {"ok": True}
    dialled(tmp_path / "home")
    assert (tmp_path / "new").exists()


HOSTILE = {
    "parent": entry("../escaped", b"x"),
    "parent inside": entry("lib/../../../escaped", b"x"),
    "absolute": entry("/tmp/moai-escaped-by-a-test", b"x"),
    "symlink": entry("lib/link", type=tarfile.SYMTYPE, linkname="/tmp"),
    "hard link": entry("lib/link", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "device": entry("lib/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    "pipe": entry("lib/pipe", type=tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_member_that_leaves_the_folder_is_refused_even_with_the_right_digest(tmp_path, kind):
    answer = install(tmp_path / "home", bundle(tmp_path / "fired", HOSTILE[kind]))
    assert (answer["ok"], answer["reason"]) == (False, "BUNDLE_CORRUPT") and "hostile" in answer["message"]
    assert below(tmp_path) == [] and not os.path.exists("/tmp/moai-escaped-by-a-test")
    assert b"NOT_INSTALLED" in dialled(tmp_path / "home")


def test_a_bomb_is_given_up(tmp_path):
    info = tarfile.TarInfo("lib/bomb")
    info.size = 600 * 1024 * 1024
    raw = io.BytesIO()
    with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0) as out:
        out.write(info.tobuf(tarfile.USTAR_FORMAT))
        out.write(bytes(1 << 20))
    answer = install(tmp_path / "home", raw.getvalue())
    assert not answer["ok"] and "larger than any" in answer["message"] and below(tmp_path) == []


def test_nothing_is_set_uid_or_open_to_others(tmp_path):
    old = os.umask(0)
    try:
        assert install(tmp_path / "home", bundle(tmp_path / "m", entry("lib/tool", b"x", mode=0o6777)))["ok"]
    finally:
        os.umask(old)
    for path in (tmp_path / "home").rglob("*"):
        assert path.stat().st_mode & 0o7077 == 0, path


@pytest.mark.skipif(os.getuid() != 0, reason="SKIPPED LOUDLY: only root may give a folder to somebody else")
@pytest.mark.parametrize("theirs", [".", "hosts", "payload"])
def test_a_folder_of_somebody_else_is_refused(tmp_path, theirs):
    (tmp_path / "home" / theirs).mkdir(parents=True)
    os.chown(tmp_path / "home" / theirs, 61234, 61234)
    answer = install(tmp_path / "home", bundle(tmp_path / "fired"))
    assert answer["reason"] == "HOME_NOT_WRITABLE" and "belongs to another user" in answer["message"]
    relay = PROGRAM.parents[3] / "agent" / "relay.py"
    if theirs != "payload":
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(relay), "n", "start"], env={"MOAI_HOME": str(tmp_path / "home")},
            stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert b"belongs to another user" in done.stdout, done.stderr


@pytest.mark.parametrize("shell", [["dash", "-c"], ["bash", "--posix", "-c"], ["busybox", "sh", "-c"], ["zsh", "--emulate", "sh", "-c"]], ids=lambda s: s[0])
def test_every_shell_behind_bin_sh_can_ask_for_the_owner(tmp_path, shell):
    """``test -O`` is no part of POSIX."""
    if shutil.which(shell[0]) is None:
        pytest.skip(f"SKIPPED LOUDLY: {shell[0]} is not installed")
    assert install(tmp_path / "home", bundle(tmp_path / "fired")) == {"ok": True}
    env = {"MOAI_HOME": str(tmp_path / "home"), "HOME": "/nonexistent", "PATH": os.environ["PATH"]}
    done = subprocess.run([*shell, DIAL], env=env, capture_output=True, timeout=60, check=False)
    assert done.stdout == b"RAN\n", done.stderr

"""Another Unix user of the same container: reaches nothing of ours, and nothing of theirs is used.

What needs a second user id needs root, which may become any; the id has no account, so nothing on the
machine changes. What the second user tries runs on the system's own Python, with the folders above the
container open to everybody: only our own modes are in the way.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import moai
import pytest
from e2e.reach import Job, ready, runs, said
from fakes.box import Box, Laptop, kill_below, processes_of
from moai._bootstrap import bundle
from moai._dial import _DIAL

pytestmark = [pytest.mark.usefixtures("need_sshd")]
STRANGER = 61234
need_root = pytest.mark.skipif(os.getuid() != 0, reason="SKIPPED LOUDLY: only root may become a second user")


@pytest.fixture
def open_folder():
    """A folder that everybody may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="moai-open-"))
    folder.chmod(0o755)
    yield folder
    kill_below(folder)
    shutil.rmtree(folder)


#: Gets paths, sockets and pids as JSON; prints what it could do of what it must not.
ATTACK = r"""
import json, os, signal, socket, sys
asked = json.loads(sys.stdin.read())
done = []
for path in asked["paths"]:
    for what, attempt in (
        ("list", lambda: os.listdir(path)),
        ("read", lambda: open(path, "rb").read(1)),
        ("append", lambda: open(path, "ab").close()),
        ("plant", lambda: open(os.path.join(path, "planted"), "wb").close()),
        ("link", lambda: os.symlink("/etc/passwd", os.path.join(path, "link"))),
        ("remove", lambda: os.unlink(path)),
        ("rename", lambda: os.rename(path, path + ".mine")),
        ("mode", lambda: os.chmod(path, 0o777)),
    ):
        try:
            attempt()
        except OSError:
            continue
        done.append([what, path])
for path in asked["sockets"]:
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        one.connect(path)
    except OSError:
        continue
    done.append(["connect", path])
for pid in asked["pids"]:
    for what, attempt in (
        ("signal", lambda: os.kill(pid, 0)),
        ("environ", lambda: open("/proc/%d/environ" % pid, "rb").read(1)),
        ("descriptors", lambda: os.listdir("/proc/%d/fd" % pid)),
        ("memory", lambda: open("/proc/%d/mem" % pid, "rb").close()),
        ("folder", lambda: os.readlink("/proc/%d/cwd" % pid)),
    ):
        try:
            attempt()
        except OSError:
            continue
        done.append([what, pid])
print(json.dumps({"uid": os.getuid(), "could": done, "sees": os.listdir(asked["above"])}))
"""


def as_stranger(asked: dict) -> dict:
    """Let the second user try; returns what it says."""
    done = subprocess.run(
        ["/usr/bin/env", "python3", "-c", ATTACK], input=json.dumps(asked).encode(), capture_output=True, check=False,
        user=STRANGER, group=STRANGER, extra_groups=[], cwd="/", env={"PATH": "/usr/bin:/bin"}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@need_root
def test_another_user_of_the_container_reaches_nothing(open_folder):
    ready()
    with Box(open_folder, look_alike=False) as box:
        for folder in (box.home, box.laptop.folder, box.laptop.folder / "cache"):
            folder.chmod(0o755)
        job = Job(box, "sleep", "300")
        runs(box)
        links = box.laptop.folder / "cache" / "links"
        roots = [box.moai_home, links]
        paths = [str(p) for root in roots for p in (root, *root.rglob("*")) if "payload/" not in str(p)]
        assert len(paths) > 20 and any("events.jsonl" in path for path in paths)
        sockets = [str(box.host_dir / "run" / "agent.sock"), *map(str, links.glob("*.sock"))]
        assert len(sockets) == 2
        found = processes_of(open_folder)
        pids = [p for p, argv in found.items() if any(w in a for a in argv for w in ("moai", "relay.py", "sleep"))]
        assert len(pids) >= 5, found
        said_ = as_stranger({"paths": paths, "sockets": sockets, "pids": pids, "above": str(box.home)})
        assert said_["uid"] == STRANGER and ".moai" in said_["sees"], "the attack must get as far as our own modes"
        assert said_["could"] == []
        job.assert_unharmed()


@need_root
@pytest.mark.parametrize("below", [""])
def test_a_state_folder_that_somebody_else_made_is_refused(open_folder, below):
    ready()
    home = open_folder / "home"
    theirs = home / ".moai" / below
    theirs.mkdir(parents=True)
    theirs.chmod(0o777)
    os.chown(theirs, STRANGER, STRANGER)
    with Box(open_folder, home=home, look_alike=False) as box:
        done = box.moai("remote", "run", "--", "true")
        assert done.returncode == 1, said(done)
        assert b"belongs to another user" in done.stderr and b"HOME_NOT_WRITABLE" in done.stderr, said(done)
        assert box.agent_pids() == []


@need_root
@pytest.mark.parametrize("planted", ["pointer", "payload", "hosts"])
def test_an_agent_that_somebody_else_put_there_is_not_started(open_folder, planted):
    """The line that every dial runs looks at the owner before it runs anything."""
    state = open_folder / "state"
    payload = state / "payload" / "0123456789abcdef"
    (payload / "worker").mkdir(parents=True)
    (payload / "worker" / "relay.py").write_text(f"open({str(open_folder / 'fired')!r}, 'w').close(); print('MOAI1')\n")
    pointer = state / "hosts" / f"{socket.gethostname()}.dial"
    pointer.parent.mkdir()
    pointer.write_text(f"{shutil.which('python3')}\n{payload.name}\n")
    env = {"MOAI_HOME": str(state), "HOME": "/nonexistent", "PATH": "/usr/bin:/bin"}
    line = _DIAL.replace("NONCE", "n").replace("MODE", "")

    def dialled() -> bytes:
        return subprocess.run(["/bin/sh", "-c", line], env=env, capture_output=True, timeout=60, check=True).stdout

    assert dialled() == b"MOAI1\n", "ours is started"
    (open_folder / "fired").unlink()
    victim = {"pointer": pointer, "payload": payload, "hosts": pointer}[planted]
    if planted == "hosts":
        os.chown(state / "hosts", STRANGER, STRANGER)
    os.chown(victim, STRANGER, STRANGER)
    assert b"NOT_INSTALLED" in dialled()
    assert not (open_folder / "fired").exists()


@need_root
def test_nothing_on_the_laptop_goes_through_a_folder_of_somebody_else(open_folder, as_laptop, monkeypatch):
    laptop = Laptop(open_folder / "laptop")
    links = open_folder / "laptop" / "cache" / "links"
    links.mkdir(exist_ok=True)
    os.chown(links, STRANGER, STRANGER)
    (open_folder / "laptop" / "config" / "config.toml").write_text('[hosts.box]\naddress = "127.0.0.1:1"\n')
    done = laptop.moai("remote", "jobs", "--on", "box")
    assert done.returncode == 2 and b"belongs to another user" in done.stderr, said(done)
    monkeypatch.setenv("MOAI_HOME", str(open_folder / "state"))
    as_laptop(laptop)
    (open_folder / "state" / "payload").mkdir(parents=True)
    os.chown(open_folder / "state" / "payload", STRANGER, STRANGER)
    with pytest.raises(moai.UsageError, match="belongs to another user"), moai.connect("local") as host:
        host.jobs()


def test_loose_folders_of_sockets_are_closed(tmp_path):
    from moai import _paths

    (tmp_path / "links").mkdir(mode=0o755)
    (tmp_path / "links").chmod(0o777)
    assert _paths.own(tmp_path / "links").stat().st_mode & 0o777 == 0o700


def test_the_bundle_is_the_only_code_that_travels(tmp_path):
    """What bootstrap sends holds no key, no token and nothing of the laptop's own folders."""
    names = bundle.archive.decode(bundle.local_bundle(tmp_path / "cache").path)
    assert {name.split("/")[0] for name in names} == {"agent", "worker", "manifest.json"}
    assert all(name.endswith((".py", ".json", ".sh", ".txt")) for name in names), names

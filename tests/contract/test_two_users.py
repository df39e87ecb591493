"""Two Unix users of one container, each with an agent of their own: both work, and neither gets anything of the other's.

The second half of row K1 of the fault list in docs/reliability.md, in which a second user comes with an account and a moai;
tests/e2e/test_other_users.py has what a user without one tries. The account is in a passwd file that only this sshd sees.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

import oracles
import pytest
from e2e.reach import SYSTEM_PATH, in_own_mounts, ready, said
from e2e.test_other_users import ATTACK, STRANGER
from fakes import box as boxes
from fakes.box import Laptop, kill_below, processes_of
from fakes.rooted import need_root
from fakes.sshd import Sshd, wait_until
from test_kills import EXIT

pytestmark = [pytest.mark.faults, need_root, pytest.mark.usefixtures("need_sshd")]


class User:
    """A user of the container and the laptop they come from."""

    def __init__(self, folder: Path, name: str, uid: int) -> None:
        self.name, self.uid, self.home = name, uid, folder / f"home-{name}"
        self.home.mkdir(mode=0o755)
        os.chown(self.home, uid, uid)
        self.laptop = Laptop(folder / f"laptop-{name}", folder / f"ssh_config-{name}")
        self.laptop.env.update(USER=name, LOGNAME=name)
        (self.laptop.folder / "config" / "config.toml").write_text('default = "box"\n[hosts.box]\naddress = "box"\n')

    @property
    def line(self) -> str:
        """Of passwd(5)."""
        return f"{self.name}:x:{self.uid}:{self.uid}::{self.home}:/bin/sh\n"

    def ok(self, *words: str, code: int = 0) -> bytes:
        done = self.laptop.moai("remote", *words)
        assert done.returncode == code, said(done)
        return done.stdout

    def jobs(self) -> set[str]:
        return {one["job"] for one in json.loads(self.ok("jobs", "--json"))["jobs"]}


@pytest.fixture
def pair():
    """Two users of one container, whose folders everybody may enter: only our own modes are in the way."""
    ready()
    folder = Path(tempfile.mkdtemp(prefix="moai-two-"))
    folder.chmod(0o755)
    users = User(folder, "root", 0), User(folder, "minji", STRANGER)
    (folder / "passwd").write_text("".join(one.line for one in users) + "sshd:x:109:65534::/run/sshd:/usr/sbin/nologin\n")
    prefix = in_own_mounts(folder, f"mount --bind {folder / 'passwd'} /etc/passwd\n")
    with Sshd(folder / "sshd", path=SYSTEM_PATH, command_prefix=prefix) as sshd:
        for one in users:
            sshd.ssh_config(folder / f"ssh_config-{one.name}", alias="box", User=one.name)
        yield users
    kill_below(folder)
    shutil.rmtree(folder)


def test_k1_two_users_of_one_container_work_side_by_side_and_get_nothing_of_each_other(pair):
    first, second = pair
    shutil.copy(Path(boxes.__file__).with_name("ticker.py"), first.home / "ticker.py")
    (first.home / "job").mkdir()
    words = ["python3", "ticker.py", str(first.home / "job"), "600", "60", str(EXIT), "0.2", str(first.home / "gate")]
    mine = first.ok("run", "-d", "--", *words).decode().strip()
    theirs = second.ok("run", "-d", "--", "sleep", "300").decode().strip()
    wait_until(lambda: (first.home / "job" / "spawned").exists(), "the first user's job to run")
    assert (first.jobs(), second.jobs()) == ({mine}, {theirs})
    owners = {one: {os.stat(f"/proc/{pid}").st_uid for pid in processes_of(one.home)} for one in pair}
    assert owners == {first: {0}, second: {STRANGER}}, "each has an agent and jobs of their own"

    # What the second one's own job can do of what it must not.
    state = first.home / ".moai"
    paths = [str(path) for path in (state, *state.rglob("*")) if "payload/" not in str(path)]
    pids = list(processes_of(first.home))
    assert any("events.jsonl" in path for path in paths) and len(pids) >= 4
    asked = {"paths": paths, "sockets": [path for path in paths if path.endswith("agent.sock")], "pids": pids, "above": str(first.home)}
    assert asked["sockets"]
    (second.home / "asked.json").write_text(json.dumps(asked))
    (second.home / "attack.py").write_text(ATTACK)
    said_ = json.loads(second.ok("run", "--", "sh", "-c", "python3 attack.py <asked.json"))
    assert said_["uid"] == STRANGER and ".moai" in said_["sees"], "the attack must get as far as our own modes"
    assert said_["could"] == []
    for attempt in (("cancel", mine), ("logs", mine), ("show", mine), ("attach", mine)):
        done = second.laptop.moai("remote", *attempt, "--on", "box")
        assert done.returncode == 1 and b"[JOB_NOT_FOUND]" in done.stderr, said(done)
    stolen = second.laptop.moai("remote", "run", "--", "sh", "-c", f"ls {state}; cat {state}/hosts/*/jobs/*/log")
    assert stolen.stdout.count(b"line 0") == 0 and b"ermission denied" in stolen.stdout, said(stolen)

    (first.home / "gate").touch()
    done = first.laptop.moai("remote", "attach", mine, "--json", "--exit-code", "job")
    assert done.returncode == EXIT, said(done)
    events = [one for one in map(json.loads, done.stdout.splitlines()) if "sequence" in one]
    oracles.check_ev(events)
    oracles.check_exit(events, "FAILED", EXIT)
    oracles.check_log(first.ok("logs", mine), (first.home / "job" / "sha256").read_text())
    oracles.check_one(first.home / "job", events)
    assert second.jobs() >= {theirs} and mine not in second.jobs()
    second.ok("cancel", theirs)

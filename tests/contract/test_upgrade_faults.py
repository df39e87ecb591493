"""An upgrade is killed at each of its steps, meets a full disk, or gets other bytes: the agent before it goes on, or the next
contact starts one; a job and its listener notice nothing.

Row V3 of the fault list in docs/reliability.md. The two moai are this tree and a copy of it with another payload. strace
kills: on the container python3 is a script that runs the real one, under strace when a fault is asked for.
"""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from e2e.reach import in_own_mounts, one_agent, ready, said
from fakes import box as boxes
from fakes.box import Box, Laptop
from fakes.rooted import need_root
from test_root_network import Followed

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("need_sshd"), pytest.mark.timeout(900)]
REPO = Path(__file__).resolve().parents[2]

#: $1 of FAULT is what to kill (install, restart, agent), $2 the system call, $3 which of them; it is killed before that call.
PYTHON = r"""#!/bin/bash
case "$*" in
  *'"install"'*) kind=install ;;
  *relay.py*' restart') kind=restart ;;
  *moai_agent/__main__.py*) kind=agent ;;
  *) kind=other ;;
esac
read -r wanted call number 2>/dev/null <FAULT
if [ "$kind" = "$wanted" ]; then
  echo hit >>FAULT.hits
  exec strace -qq -o /dev/null -e trace="$call" -e inject="$call":signal=KILL:when="$number" REAL "$@"
fi
exec -a "$0" REAL "$@"
"""


class Upgrade:
    """A container with a running agent of one moai, a followed job, and the other moai's laptop."""

    def __init__(self, folder: Path, **box) -> None:
        ready()
        self.fault = folder / "fault"
        tools = folder / "bin"
        tools.mkdir()
        script = PYTHON.replace("FAULT", str(self.fault)).replace("REAL", "/usr/bin/python3")
        (tools / "python3").write_text(script)
        (tools / "python3").chmod(0o755)
        self.box = Box(folder, look_alike=False, path=f"{tools}:/usr/local/bin:/usr/bin:/bin", **box)
        tree = folder / "tree"
        for part in ("client", "proto", "agent"):
            shutil.copytree(REPO / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        with open(tree / "agent" / "moai_agent" / "__init__.py", "a") as out:
            out.write("# another one\n")
        other = Laptop(folder / "other-laptop", self.box.ssh_config)
        shutil.copy(self.box.laptop.folder / "config" / "config.toml", other.folder / "config" / "config.toml")
        other.env["PYTHONPATH"] = os.pathsep.join([str(tree / "client"), str(tree / "proto")])
        #: The one whose agent runs, and the one that will replace it.
        self.old, self.new = self.box.laptop, other

    def __enter__(self) -> "Upgrade":
        return self

    def __exit__(self, *_: object) -> None:
        self.box.end()

    @property
    def payloads(self) -> Path:
        return self.box.moai_home / "payload"

    def running(self) -> str:
        """Digest of the agent that runs."""
        return str(json.loads((self.box.host_dir / "run" / "agent.json").read_text())["digest"])

    def serves(self, laptop: Laptop) -> None:
        done = laptop.moai("remote", "run", "--no-link", "--", "echo", "served")
        assert (done.returncode, done.stdout) == (0, b"served\n"), said(done)

    def are_whole(self) -> None:
        """Every payload that has its final name has every file as the bundle had it."""
        for folder in self.payloads.iterdir():
            if folder.is_dir() and not folder.name.startswith("."):
                files = json.loads((folder / "manifest.json").read_text())["payload"]
                assert files
                for name, digest in files.items():
                    assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, (folder, name)

    def swap(self) -> None:
        """The replaced one replaces next, and has to be sent anew."""
        for folder in self.payloads.iterdir():
            if folder.is_dir() and folder.name != self.running():
                shutil.rmtree(folder)
        self.old, self.new = self.new, self.old


@pytest.fixture
def upgrade(tmp_path):
    if shutil.which("strace") is None:
        pytest.skip("SKIPPED LOUDLY: strace is not installed (apt-get install strace)")
    with Upgrade(tmp_path) as one:
        shutil.copy(Path(boxes.__file__).with_name("ticker.py"), one.box.home / "ticker.py")
        yield one


STEPS = {
    "install": ["flock 1", "mkdir 1", "chmod 1", "chmod 60", "rename 1", "fsync 1", "rename 2", "exit_group 1"],
    "restart": ["kill 1", "pipe2 1"],
    "agent": ["flock 1", "clone 1", "rename 1", "rename 2"],
}


@pytest.mark.parametrize("killed", sorted(STEPS))
def test_v3_an_upgrade_killed_at_any_step_leaves_an_agent_that_serves_and_succeeds_next_time(upgrade, tmp_path, killed):
    box, gate = upgrade.box, tmp_path / "gate"
    with Followed(box, tmp_path, 1.0, gate=str(gate)) as one:
        for step in STEPS[killed]:
            agent, before = one_agent(box), upgrade.running()
            upgrade.fault.write_text(f"{killed} {step}\n")
            done = upgrade.new.moai("remote", "up", timeout=120)
            upgrade.fault.unlink()
            hits = upgrade.fault.with_name("fault.hits")
            assert hits.exists(), f"{step} was never reached"
            hits.unlink()
            assert b"Traceback" not in done.stderr, said(done)
            # The laptop tries twice, and the second try may find the step done; a success is told only of an upgrade.
            assert done.returncode in ((0,) if upgrade.running() != before else (1, 4)), said(done)
            print(f"V3: {killed} {step}: exit {done.returncode} {done.stderr.decode().strip().splitlines()[-2:]}")
            upgrade.are_whole()
            if killed == "install" and done.returncode:
                assert (one_agent(box), upgrade.running()) == (agent, before), "the one before does not serve any more"
            upgrade.serves(upgrade.old)
            done = upgrade.new.moai("remote", "up", timeout=120)
            assert done.returncode == 0, said(done)
            assert upgrade.running() != before
            assert [p.name for p in upgrade.payloads.iterdir() if p.name.startswith(".new")] == []
            upgrade.serves(upgrade.new)
            upgrade.swap()
        gate.touch()
        one.finish(90.0)


@need_root
def test_v3_an_upgrade_that_the_disk_does_not_hold_leaves_the_agent_before_it(tmp_path):
    (tmp_path / "home").mkdir()
    prefix = in_own_mounts(tmp_path, f"mount -t tmpfs -o size=64m tmpfs {tmp_path / 'home'}\n")
    with Upgrade(tmp_path, command_prefix=prefix) as upgrade:
        box = upgrade.box

        def there(script: str) -> str:
            argv = ["nsenter", "-t", str(box.sshd.pid), "-m", "/bin/sh", "-ec", script]
            return subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=60).stdout.decode()

        upgrade.serves(upgrade.old)
        agent, state = one_agent(box), box.moai_home
        there(f"head -c $(( $(df --output=avail -B1 {box.home} | tail -1) - 2000000 )) /dev/zero >{box.home}/ballast")
        done = upgrade.new.moai("remote", "up", timeout=120)
        assert done.returncode == 1 and b"[DISK_FULL]" in done.stderr and b"next:" in done.stderr, said(done)
        assert there(f"ls -A {state}/payload | grep -c new- || true").strip() == "0", "half of it is left"
        upgrade.serves(upgrade.old)
        assert one_agent(box) == agent
        there(f"rm {box.home}/ballast")
        done = upgrade.new.moai("remote", "up", timeout=120)
        assert done.returncode == 0, said(done)
        upgrade.serves(upgrade.new)
        assert one_agent(box) != agent

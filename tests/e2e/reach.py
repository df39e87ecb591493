"""What the tests of bootstrap and link share: bundles made ready, and eyes on processes.

Looks only at processes and files below a test's own folder. ``ready`` is the only one that may ask an
index, once for each Python, before the laptop under test exists.
"""

from __future__ import annotations

import glob
import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from fakes.box import Box, bundle_cache, processes_of
from fakes.sshd import wait_until
from moai_worker import identity

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
_PROBE = Path(__file__).resolve().parents[2] / "client" / "moai" / "_bootstrap" / "probe.sh"


def ready(path: str = SYSTEM_PATH) -> str:
    """Have the bundle for the Python of a login's PATH in the cache that every test laptop starts from.

    Returns the Python's version. Made under the cache's own lock, so later runs need no index.
    """
    from moai._bootstrap import bundle
    from moai._bootstrap.targets import Target

    said = subprocess.run(
        ["/bin/sh", str(_PROBE)], env={"PATH": path, "HOME": "/nonexistent"}, stdout=subprocess.PIPE, timeout=60, check=True
    ).stdout.decode()
    found = [json.loads(line[8:]) for line in said.splitlines() if line.startswith("MOAI-PY ")]
    facts = next((one for one in found if one["ok"] == "1"), None)
    if facts is None:
        pytest.skip(f"SKIPPED LOUDLY: a container with PATH {path} has no Python 3.8 or newer")
    bundle.build(Target.from_facts(facts), bundle_cache())
    return facts["python_version"]


def pyenv_folder(version: str) -> str:
    """``bin`` of the newest pyenv interpreter of a version like ``3.8``; skips loudly without one."""
    home = Path("~").expanduser()
    found = sorted(glob.glob(str(home / ".pyenv" / "versions" / (version + ".*") / "bin" / "python3")))
    if not found:
        pytest.skip(f"SKIPPED LOUDLY: no Python {version} below ~/.pyenv/versions")
    return os.path.dirname(found[-1])


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    """Everything a command said, for the message of an assertion."""
    return f"exit {done.returncode}\n{done.stdout.decode(errors='replace')}\n{done.stderr.decode(errors='replace')}"


def runs(
    box: Box, word: str = "hello", *options: str, timeout: float = 60.0, **env: str
) -> subprocess.CompletedProcess[bytes]:
    """Run ``echo WORD`` as a job and insist on its exit code and its log."""
    done = box.moai("remote", "run", *options, "--", "echo", word, timeout=timeout, **env)
    assert done.returncode == 0, said(done)
    assert done.stdout == word.encode() + b"\n", said(done)
    return done


def says_sent(done: subprocess.CompletedProcess[bytes]) -> bool:
    """Whether the command sent a bundle."""
    return b"sending the agent" in done.stderr


def holders(box: Box) -> list[int]:
    """Process ids of holders of this laptop."""
    return [p for p, argv in processes_of(box.laptop.folder).items() if any("moai._link.holder" in word for word in argv)]


def relays(box: Box) -> list[int]:
    """Process ids of relays on this container."""
    return [p for p, argv in processes_of(box.home).items() if any(word.endswith("/relay.py") for word in argv)]


def kill(*pids: int) -> None:
    """SIGKILL, and wait until they are gone."""
    assert pids, "there is nothing to kill"
    born = {pid: identity.start_ticks(pid) for pid in pids}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(identity.is_alive(pid, ticks) for pid, ticks in born.items()), "the killed to go")


def one_agent(box: Box) -> int:
    """The pid of the only agent of this container."""
    wait_until(lambda: len(box.agent_pids()) == 1, "exactly one agent")
    return box.agent_pids()[0]


class Job:
    """A running job and the process that does its work."""

    def __init__(self, box: Box, *argv: str, options: tuple[str, ...] = ()) -> None:
        done = box.moai("remote", "run", "-d", *options, "--", *argv)
        assert done.returncode == 0, said(done)
        self.box, self.id = box, done.stdout.decode().strip()
        self.lock = box.job_dir(self.id) / "supervisor.lock"
        wait_until(lambda: self._child() is not None, "the job to run")
        child = self._child()
        self.pid, self.ticks = child["pid"], child["start_ticks"]

    def _child(self) -> dict | None:
        try:
            return json.loads(self.lock.read_text())["child"]
        except (OSError, ValueError):
            return None

    def assert_unharmed(self) -> None:
        """The very same process still runs, and the agent says so."""
        assert identity.is_alive(self.pid, self.ticks), "the job's process is gone"
        assert self._child()["pid"] == self.pid
        done = self.box.moai("remote", "show", self.id, "--json")
        assert done.returncode == 0, said(done)
        assert json.loads(done.stdout)["state"] == "RUNNING"


def connections(box: Box) -> int:
    """How many connections the server has let in so far."""
    return len(re.findall(r"^Accepted publickey", box.sshd.log_text(), re.MULTILINE))


def bound_port() -> socket.socket:
    """A loopback port that refuses every connection while the socket is open: bound, not listening."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


def no_index(port: int) -> dict[str, str]:
    """Variables under which pip finds nothing anywhere."""
    url = f"http://127.0.0.1:{port}/simple"
    return {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": url,
        "PIP_EXTRA_INDEX_URL": url,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "/nonexistent",
        "PIP_RETRIES": "0",
        "http_proxy": url,
        "https_proxy": url,
    }


def shell_script(path: Path, text: str) -> str:
    """A program for ``Sshd(shell=...)``: called as ``PROGRAM -c COMMAND``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, size and time of everything below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        found[str(path.relative_to(folder))] = (facts.st_mode, facts.st_size, facts.st_mtime_ns)
    return found


def in_own_mounts(folder: Path, mounts: str) -> list[str]:
    """Argv that runs a program in a mount namespace of its own after these ``mount`` lines; skips loudly without the right."""
    argv = ["unshare", "--mount", "--propagation", "private", shell_script(folder / "mounts", f'set -e\n{mounts}exec "$@"\n')]
    try:
        tried = subprocess.run([*argv, "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
    except FileNotFoundError:
        pytest.skip("SKIPPED LOUDLY: there is no unshare here")
    if tried.returncode != 0:
        pytest.skip(f"SKIPPED LOUDLY: no mount namespace here ({tried.stderr.decode(errors='replace').strip()})")
    return argv

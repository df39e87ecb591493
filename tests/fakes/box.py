"""A container look-alike behind its own sshd, and a laptop that reaches only it.

Owns a folder with the container's home, the server's keys, and the laptop's settings, cache and home;
``end`` kills every process that was started below it, by pid. The agent's wheels come from the cache
that ``make install`` fills (``MOAI_TEST_BUNDLES``), so no test needs an index.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

from .container import ContainerHome, build_home
from .sshd import Sshd

_REPO = Path(__file__).resolve().parents[2]
CLI_TIMEOUT_S = 180.0


def bundle_cache() -> Path:
    """Where ``make install`` keeps bundles and wheels for tests."""
    return Path(os.environ.get("MOAI_TEST_BUNDLES") or _REPO / ".cache" / "moai")


def share_cache(target: Path) -> None:
    """Fill a fresh laptop cache with links to the prepared bundles and wheels."""
    for name in ("bundles", "wheels"):
        source = bundle_cache() / name
        if source.is_dir():
            shutil.copytree(str(source), str(target / name), copy_function=os.link, dirs_exist_ok=True)


class Laptop:
    """Settings, cache and home of a user; ``moai`` runs the command line as that user."""

    def __init__(self, folder: Path, ssh_config: Optional[Path] = None) -> None:
        self.folder = folder
        for name in ("home", "config", "cache", "work"):
            (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        share_cache(folder / "cache")
        kept = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONWARNINGS")
        self.env: Dict[str, str] = {k: os.environ[k] for k in kept if k in os.environ}
        self.env.update(
            HOME=str(folder / "home"),
            USER="mina",
            LOGNAME="mina",
            MOAI_CONFIG=str(folder / "config"),
            MOAI_CACHE=str(folder / "cache"),
            NO_COLOR="1",
            MOAI_ENGINE="tokenizers",  # a fast one would be fetched from an index
            PYTHONPATH=os.pathsep.join([str(_REPO / "client"), str(_REPO / "proto")]),
        )
        #: Argv in front of every program of this laptop, for example a namespace's runner.
        self.inside: List[str] = []
        if ssh_config is not None:
            self.env["MOAI_SSH_CONFIG"] = str(ssh_config)

    @property
    def argv(self) -> List[str]:
        """The command line without its words."""
        return [*self.inside, sys.executable, "-m", "moai"]

    def moai(self, *words: str, timeout: float = CLI_TIMEOUT_S, **more: str) -> "subprocess.CompletedProcess[bytes]":
        """Run ``moai WORDS``; ``more`` are further variables. Output is bytes."""
        return subprocess.run(
            [*self.argv, *words],
            env=dict(self.env, **more),
            cwd=str(self.folder / "work"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=timeout,
        )

    def start(self, *words: str, **more: str) -> "subprocess.Popen[bytes]":
        """Start ``moai WORDS`` in a session of its own, with pipes."""
        return subprocess.Popen(
            [*self.argv, *words],
            env=dict(self.env, **more),
            cwd=str(self.folder / "work"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )


class Box:
    """A container, its sshd and a laptop with the host ``box`` configured.

    Args:
        folder: everything lies below it.
        python: interpreter of the environment ``pytorch``; None: one without packages.
        home: home of the container; default ``FOLDER/home``.
        look_alike: build a MoAI home (conda, moreh-smi); else the home is empty.
        path: PATH of the login. sshd: further arguments of ``Sshd``.
    """

    def __init__(
        self,
        folder: Path,
        python: Optional[str] = None,
        home: Optional[Path] = None,
        look_alike: bool = True,
        path: str = "/usr/local/bin:/usr/bin:/bin",
        alias: str = "box",
        transport: str = "",
        **sshd: Any,
    ) -> None:
        self.folder = Path(folder)
        self.home = home or self.folder / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        self.kit: Optional[ContainerHome] = None
        if look_alike:
            self.kit = build_home(str(self.home), envs={"pytorch": python})
        self.sshd = Sshd(self.folder / "sshd", home=self.home, path=path, **sshd)
        self.alias = alias
        self.ssh_config = self.sshd.ssh_config(self.folder / "ssh_config", alias=alias)
        self.laptop = Laptop(self.folder / "laptop", self.ssh_config)
        (self.folder / "laptop" / "config" / "config.toml").write_text(
            'default = "{0}"\n[hosts.{0}]\naddress = "{0}"\n{1}'.format(
                alias, 'transport = "{}"\n'.format(transport) if transport else ""
            )
        )

    def __enter__(self) -> "Box":
        return self

    def __exit__(self, *_: Any) -> None:
        self.end()

    def moai(self, *words: str, timeout: float = CLI_TIMEOUT_S, **more: str) -> "subprocess.CompletedProcess[bytes]":
        """``moai WORDS`` on the laptop."""
        return self.laptop.moai(*words, timeout=timeout, **more)

    @property
    def moai_home(self) -> Path:
        """State folder on the container."""
        return self.home / ".moai"

    @property
    def host_dir(self) -> Path:
        """The host's folder there; made by the first dial."""
        found = [p for p in (self.moai_home / "hosts").iterdir() if (p / "run").is_dir()]
        assert len(found) == 1, found
        return found[0]

    def job_dir(self, job: str) -> Path:
        """Folder of a job on the container."""
        return self.host_dir / "jobs" / job

    def agent_pids(self) -> List[int]:
        """Process ids of the agent itself (the spawner, its child, is not counted)."""
        found = [pid for pid, argv in processes_of(self.home).items() if any("moai_agent" in word for word in argv)]
        return [pid for pid in found if parent_of(pid) not in found]

    def end(self) -> None:
        """Kill everything of this box and this laptop."""
        self.sshd.stop()
        kill_below(self.folder)
        if self.home != self.folder / "home":
            kill_below(self.home)


def processes_of(folder: Path) -> Dict[int, List[str]]:
    """pid -> argv of living processes whose environment names a path below ``folder``."""
    found: Dict[int, List[str]] = {}
    needle = os.fsencode(str(folder))
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open("/proc/%s/environ" % name, "rb") as source:
                env = source.read().split(b"\0")
            with open("/proc/%s/cmdline" % name, "rb") as source:
                argv = [os.fsdecode(word) for word in source.read().split(b"\0")[:-1]]
        except OSError:
            continue
        keys = (b"HOME=", b"MOAI_HOME=", b"MOAI_CACHE=", b"MOAI_CONFIG=")
        if argv and any(v.startswith(keys) and v.split(b"=", 1)[1].startswith(needle) for v in env):
            found[int(name)] = argv
    return found


def parent_of(pid: int) -> int:
    """Parent's pid; 0 when the process is gone."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as source:
            return int(source.read().rsplit(b")", 1)[1].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def kill_below(folder: Path, timeout_s: float = 10.0) -> None:
    """SIGKILL every process of ``processes_of`` and wait until none is left."""
    end_s = time.monotonic() + timeout_s
    while True:
        left = processes_of(folder)
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > end_s:
            raise AssertionError("still alive: {}".format(left))
        os.sched_yield()

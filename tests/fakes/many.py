"""Many container look-alikes and one laptop that knows them all, cheap enough for dozens.

A container costs a home without a real training environment (its conda env has package metadata only),
one sshd, and after the bootstrap one agent; the laptop's cache of bundles is shared by all.
"""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import List, Optional, Type

from .box import Laptop, kill_below, processes_of
from .container import build_home
from .sshd import Sshd, is_running, wait_until

#: What a login has; one line for all.
_PATH = "/usr/local/bin:/usr/bin:/bin"


class Container:
    """One look-alike.

    Attributes:
        alias: its name for ssh and moai. home: its home folder. kit: switches of the platform's tools.
        sshd: its server.
    """

    def __init__(self, folder: Path, alias: str) -> None:
        self.alias = alias
        self.folder = folder
        self.home = folder / "home"
        self.kit = build_home(str(self.home), envs={"pytorch": None})
        self.sshd = Sshd(folder / "sshd", home=self.home, path=_PATH)

    def agent_pids(self) -> List[int]:
        """Process ids of its agent and the agent's spawner."""
        return [pid for pid, argv in processes_of(self.home).items() if any("moai_agent" in word for word in argv)]

    def go_dark(self) -> None:
        """SIGKILL sshd, its sessions and the agent; jobs and their supervisors live on."""
        self.sshd.stop_listener(kill=True)
        self.sshd.kill_sessions()
        pids = self.agent_pids()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        wait_until(lambda: not any(map(is_running, pids)), f"the agent of {self.alias} to end")

    def come_back(self) -> None:
        """sshd listens again on its port; the next dial starts an agent."""
        self.sshd.start()


class Many:
    """``count`` containers ``c00``, ``c01``, ... in the group ``pool``.

    Args:
        folder: everything lies below it.
        count: how many.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = Path(folder)
        self.containers: List[Container] = []
        try:
            with ThreadPoolExecutor(4) as pool:
                made = [pool.submit(Container, self.folder / f"c{n:02d}", f"c{n:02d}") for n in range(count)]
                # Whatever was made is ended when one could not be.
                self.containers = [one.result() for one in made if one.exception() is None]
                for one in made:
                    one.result()
        except BaseException:
            self.end()
            raise
        self.ssh_config = self.folder / "ssh_config"
        for n, one in enumerate(self.containers):
            one.sshd.ssh_config(self.ssh_config, alias=one.alias, append=n > 0)
        self.laptop = Laptop(self.folder / "laptop", self.ssh_config)
        hosts = [f'[hosts.{one.alias}]\naddress = "{one.alias}"\ngroups = ["pool"]\n' for one in self.containers]
        (self.folder / "laptop" / "config" / "config.toml").write_text("".join(hosts))

    def __enter__(self) -> "Many":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self.end()

    @property
    def names(self) -> List[str]:
        """Names in order."""
        return [one.alias for one in self.containers]

    def end(self) -> None:
        """Kill every process of the containers and of the laptop."""
        for one in self.containers:
            one.sshd.stop_listener(kill=True)
        kill_below(self.folder, timeout_s=30.0)
        for one in self.containers:
            one.sshd.kill_sessions()

"""The environments of this container, found once in a while, chosen and activated per job.

Blocking (it may start the user's login shell): call from an executor thread.
"""

import os
import sys
import threading
import time
from typing import Any, Dict, List, Optional, Tuple

from moai_worker import jobdir

from moai_agent.config import Config
from moai_agent.devices import probe
from moai_agent.environments import (
    Activated,
    Environment,
    EnvironmentChoice,
    activate,
    choose,
    environment_at,
    list_environments,
    login_env,
)
from moai_agent.errors import AgentError

_FRESH_S = 30.0


class Registry:
    """Finds, chooses and activates; safe from several threads."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._found: Optional[Tuple[float, List[Environment]]] = None
        self._provider: Optional[Tuple[float, str]] = None

    def login(self) -> Dict[str, str]:
        """Variables of the user's login shell."""
        return login_env(base_env=self._config.user_environment())

    def warm(self) -> None:
        """Fill the caches; problems show when somebody asks."""
        self.list()
        self.provider()

    def list(self, fresh: bool = False) -> List[Environment]:
        """All environments; at most 30 s old."""
        with self._lock:
            known = self._found
            if known is None or fresh or time.monotonic() - known[0] > _FRESH_S:
                login = self.login()
                home = login.get("HOME") or os.path.expanduser("~")
                found = list_environments(home, login.get("PATH", os.defpath), login, folders=self._folders())
                known = self._found = (time.monotonic(), found)
            return known[1]

    def _folders(self) -> List[str]:
        """Folders whose folders are environments made by us."""
        kept = jobdir.read_json(self._config.host.settings) or {}
        own = os.path.join(str(kept["work"]), "envs") if kept.get("work") else ""
        return [one for one in [own] + list(kept.get("environment_folders") or []) if one]

    def remember_folder(self, folder: str) -> None:
        """Look for environments in this folder from now on."""
        kept = jobdir.read_json(self._config.host.settings) or {}
        folders = list(kept.get("environment_folders") or [])
        if folder not in folders:
            kept["environment_folders"] = folders + [folder]
            jobdir.write_json(self._config.host.settings, kept)

    def own(self) -> Environment:
        """The agent's own Python."""
        found = environment_at(sys.executable)
        return found or Environment(os.path.basename(sys.executable), "system", sys.prefix, sys.executable)

    def provider(self) -> str:
        """Which kind of device this container has; asked once an hour at most."""
        with self._lock:
            known = self._provider
        if known is None or time.monotonic() - known[0] > 3600:
            known = (time.monotonic(), self.devices("").provider)
            with self._lock:
                self._provider = known
        return known[1]

    def devices(self, want: str, timeout_s: float = 15.0) -> Any:
        """A reading of the devices with the tools of the wanted (or login) environment."""
        return probe.list_devices(self.tools_of(want), timeout_s)

    def tools_of(self, want: str) -> Activated:
        """Variables whose PATH has the platform's tools: the wanted environment's, else the login's."""
        login = self.login()
        if not want:
            return Activated(login)
        chosen, _ = self.choose(want, need_torch=False, provider="cpu")
        return activate(chosen, login)

    def choose(
        self, want: str, need_torch: bool, provider: Optional[str] = None
    ) -> Tuple[Environment, str]:
        """The environment for a job and why; AgentError with the table when it cannot be told."""
        kept = jobdir.read_json(self._config.host.settings) or {}
        known = self.list()
        kind = provider or self.provider()
        try:
            return choose(known, want or None, kind, kept.get("environment"), self.login(), need_torch)
        except EnvironmentChoice as problem:
            if want and problem.reason == "ENVIRONMENT_NOT_FOUND":
                # It may have been made a moment ago.
                try:
                    return choose(
                        self.list(fresh=True), want, kind, kept.get("environment"), self.login(), need_torch
                    )
                except EnvironmentChoice as again:
                    problem = again
            table = "; ".join(
                "%s (%s, Python %s, torch %s)" % (e.name, e.prefix, e.python_version or "?", e.torch_version or "none")
                for e in problem.table
            )
            raise AgentError(problem.reason, str(problem), problem.next, {"environments": table})

    def remembered(self) -> str:
        """What ``remember`` kept; "" when there is nothing."""
        return str((jobdir.read_json(self._config.host.settings) or {}).get("environment") or "")

    def remember(self, name: str) -> None:
        """Keep the host's environment for later jobs; "" forgets it."""
        kept = jobdir.read_json(self._config.host.settings) or {}
        kept["environment"] = name
        jobdir.write_json(self._config.host.settings, kept)

    def activated(self, environment: Environment) -> Activated:
        """Variables with the environment active."""
        return activate(environment, self.login())

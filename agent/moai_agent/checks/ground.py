"""What the checks look at, asked for once: login, devices, chosen environment, plan of a download.

Owns the shape of a check. Refuses to fail: what cannot be had is None, with the error beside it.
"""

import os
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from moai_worker import hub
from moai_worker.errors import StepError

from moai_agent import work
from moai_agent.config import Config
from moai_agent.devices import MOAI_PROVIDERS
from moai_agent.devices.probe import tool_variables
from moai_agent.downloads import SILENCE_S, token_of
from moai_agent.environments import Login, login
from moai_agent.environments.registry import Registry
from moai_agent.errors import AgentError

#: What ``apply`` can do; see remedies.
RESET_DEVICE = "reset-device"
MAKE_WORK_FOLDER = "make-work-folder"
REMEMBER_ENVIRONMENT = "remember-environment"


class Check(NamedTuple):
    """One line of the list.

    ``fix`` and ``argument`` name what ``remedies.apply`` may do about it; "" leaves it to a person.
    """

    name: str
    verdict: str
    evidence: str
    remedy: str = ""
    fix: str = ""
    argument: str = ""


class Ground:
    """The container as the checks see it.

    Args:
        config, registry: of the agent.
        environment: asked for; "" = chosen by rule. model: whose disk and licence are checked; "" = none.
        token, endpoint: of the Hub; "" = the container's own. folder: work folder; "" = its own.
        deep: also what attaches the accelerator. root: folder that stands for ``/`` (tests).
        libc: version of the C library; None asks the system. proxy: to the Hub; "" = the login's own.
    """

    def __init__(
        self,
        config: Config,
        registry: Registry,
        environment: str = "",
        model: str = "",
        token: str = "",
        endpoint: str = "",
        folder: str = "",
        deep: bool = False,
        root: str = "/",
        libc: Optional[str] = None,
        proxy: str = "",
    ) -> None:
        self.config, self.registry, self.asked, self.model, self.deep = config, registry, environment, model, deep
        self.root, self.libc, self.proxy = root, libc, proxy
        self.session: Login = login(base_env=config.user_environment())
        self.login: Dict[str, str] = dict(self.session.variables)
        self.home = self.login.get("HOME") or os.path.expanduser("~")
        self.work = work.asked(folder, self.home) or work.folder(config)
        self.endpoint = (endpoint or self.login.get("HF_ENDPOINT") or hub.DEFAULT_ENDPOINT).rstrip("/")
        self.token, self.token_source = token_of(token, self.login)
        self.report = self._devices()
        self.is_moai = self.report.provider in MOAI_PROVIDERS
        self.chosen: Optional[Any] = None
        self.why = ""
        self.choice_error: Optional[AgentError] = None
        try:
            self.chosen, self.why = registry.choose(environment, True, self.report.provider or "cpu")
        except AgentError as error:
            self.choice_error = error
        self._planned: Optional[Tuple[Optional[hub.Plan], Optional[StepError]]] = None

    def _devices(self) -> Any:
        try:
            return self.registry.devices(self.asked)
        except AgentError:  # No such environment: told by its own check.
            return self.registry.devices("")

    def at(self, path: str) -> str:
        """An absolute path of the system's own."""
        return os.path.join(self.root, path.lstrip("/"))

    def variables(self) -> Dict[str, str]:
        """Variables with the chosen environment active, as Moreh's parts may see them (no proxies)."""
        assert self.chosen is not None
        return tool_variables(self.registry.activated(self.chosen).variables)

    def plan(self) -> Tuple[Optional[hub.Plan], Optional[StepError]]:
        """The download of the model and why there is none; (None, None) without a model of the Hub."""
        if self._planned is None:
            self._planned = (None, None)
            if self.model and not os.path.exists(os.path.join(self.home, os.path.expanduser(self.model))):
                try:
                    plan = hub.plan_download(
                        self.model, endpoint=self.endpoint, token=self.token or None, proxy=self.proxy, silence_s=SILENCE_S
                    )
                    self._planned = (plan, None)
                except StepError as error:
                    self._planned = (None, error)
        return self._planned

    def in_environment(self, command: str) -> str:
        """A command to type that runs ``command`` in the chosen environment."""
        env = " --env %s" % (self.chosen.name if self.chosen is not None else "ENV")
        return "moai remote run --on NAME%s -- %s" % (env, command)

    def install(self, packages: str) -> str:
        """A command to type that installs ``packages`` there, and never replaces a Moreh torch."""
        env = " --env %s" % (self.chosen.name if self.chosen is not None else "ENV")
        return "moai remote env install --on NAME%s %s" % (env, packages)


def size(count: float) -> str:
    """Bytes for people."""
    return "%.1f GB" % (count / 1e9) if count >= 1e9 else "%.0f MB" % (count / 1e6)


def listed(names: List[str], most: int = 6) -> str:
    """Names in one line, the rest counted."""
    more = len(names) - most
    return ", ".join(names[:most]) + (" and %d more" % more if more > 0 else "")

"""The few remedies ``moai remote check --fix`` may run: safe, small, and judged again before each.

Refuses everything else: nothing is installed, nothing deleted, no living process disturbed.
"""

import os
from typing import Any

from moai_agent import work
from moai_agent.checks.ground import MAKE_WORK_FOLDER, REMEMBER_ENVIRONMENT, RESET_DEVICE
from moai_agent.devices.control import Control
from moai_agent.errors import AgentError


def apply(agent: Any, fix: str, argument: str, environment: str = "") -> str:
    """Do one; returns what was done. Raises AgentError.

    Args:
        agent: whose registry and config are used. fix: a name of ``ground``. argument: as the check
            gave it. environment: whose device tools are used.
    """
    if fix == RESET_DEVICE:
        control = Control(agent.registry.tools_of(environment), agent.config.host.device_lock)
        # Without force: it reads the table again and refuses while the owner lives.
        outcome = control.reset()
        return "the device was released" if outcome == "released" else "nothing was running on the device any more"
    if fix == MAKE_WORK_FOLDER:
        home = agent.registry.login().get("HOME") or os.path.expanduser("~")
        folder = work.asked(argument, home)
        if not folder:
            raise AgentError("USAGE", "no folder was named", "moai remote check")
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        except OSError as error:
            raise AgentError("HOME_NOT_WRITABLE", "%s: %s" % (folder, error.strerror), "moai remote set NAME --work FOLDER")
        return "%s is there" % folder
    if fix == REMEMBER_ENVIRONMENT:
        chosen, _ = agent.registry.choose(argument, need_torch=False)
        agent.registry.remember(argument)
        return "%s (%s) is used when none is asked for" % (chosen.name, chosen.python)
    raise AgentError("UNSUPPORTED", "this agent knows no such remedy", "moai remote up")

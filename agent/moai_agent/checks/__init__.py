"""The checks of ``moai remote check`` that are made on the container.

Each has a name, a verdict (``ok``, ``warning``, ``failed``, ``skipped``), what was seen, and the
command that mends it (NAME stands for the host as the laptop calls it). Nothing is changed, and
nothing of the environment is imported in this process. What only makes sense on a MoAI container
is left out elsewhere.

Public: ``run_all``, ``apply`` and ``Check``. Runs in the agent, in worker threads: everything here
blocks, within stated bounds. ``ground`` holds what is asked for once; ``machine``, ``devices``,
``environment`` and ``hub`` the checks; ``remedies`` the few things ``--fix`` may do.
"""

from typing import List

from moai_agent.checks import devices, environment, hub, machine
from moai_agent.checks.ground import Check, Ground
from moai_agent.checks.remedies import apply

__all__ = ["Check", "Ground", "apply", "run_all"]


def run_all(ground: Ground) -> List[Check]:
    """All checks, in the order a person would make them; up to a minute or two."""
    return [
        *machine.session(ground),
        *machine.disks(ground),
        *devices.all_of(ground),
        *environment.all_of(ground),
        *hub.all_of(ground),
    ]

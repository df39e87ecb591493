"""Python environments of the container: found, chosen, activated; none is ever changed here.

Public: ``list_environments``, ``choose``, ``activate``, ``login_env`` and their types. Runs in the
agent, in worker threads: everything here blocks, within stated bounds.
"""

from moai_agent.environments.activate import Activated, Login, activate, activation_env, login, login_env
from moai_agent.environments.choosing import EnvironmentChoice, choose, fits
from moai_agent.environments.find import (
    Environment,
    describe,
    environment_at,
    list_environments,
    packages_of,
    shadowing,
)
from moai_agent.environments.inspect import TorchVersion, ask_python, torch_version, version_key

__all__ = [
    "Activated",
    "Environment",
    "EnvironmentChoice",
    "Login",
    "TorchVersion",
    "activate",
    "activation_env",
    "ask_python",
    "choose",
    "describe",
    "environment_at",
    "fits",
    "list_environments",
    "login",
    "login_env",
    "packages_of",
    "shadowing",
    "torch_version",
    "version_key",
]

"""What of the laptop's environment a process that outlives the command must not keep.

The holder of a link needs the environment (a ProxyCommand may read anything of it), and lives for minutes
after the command. Secrets of jobs are none of its business, and others could read them there.
"""

from __future__ import annotations

import os

#: Read by commands and given to jobs; no ssh needs them.
NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GIT_TOKEN", "MOAI_WEBHOOK")

_values: set[str] = set()


def withhold(value: str) -> None:
    """Remember a secret of a job by its value: it is given to no process that is started from now on."""
    if value:
        _values.add(value)


def environment(**more: str) -> dict[str, str]:
    """This process's environment without secrets, and ``more``."""
    return {**{k: v for k, v in os.environ.items() if k not in NAMES and v not in _values}, **more}

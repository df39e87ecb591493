"""paramiko without invoke, for the processes that hold links.

``paramiko.config`` imports invoke where it is installed, for the ``exec`` of a ``Match`` line, which is never asked of it
here (see ``resolve`` and ``resolve_fallback``). That takes a third of the whole import, and every first command waits for
it. Not for processes of others: a user's program may want both.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import cast


def load() -> None:
    """Import paramiko; harmless when it is imported already. invoke can be imported afterwards as ever."""
    if "paramiko" in sys.modules or "invoke" in sys.modules:
        return
    sys.modules["invoke"] = cast(ModuleType, None)  # "None: not there", as the import system has it.
    try:
        import paramiko  # noqa: F401
    finally:
        del sys.modules["invoke"]

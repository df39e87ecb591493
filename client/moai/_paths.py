"""Where the laptop keeps things: ``MOAI_CONFIG`` (settings, host keys) and ``MOAI_CACHE`` (the rest).

Both default to the platform's folders. Nothing else on the laptop is written.
"""

from __future__ import annotations

import os
from pathlib import Path


def config_folder() -> Path:
    """``MOAI_CONFIG`` (a folder, or a ``.toml`` file in it) or the platform's settings folder."""
    given = os.environ.get("MOAI_CONFIG")
    if given:
        path = Path(os.path.expanduser(given)).absolute()
        return path.parent if path.suffix == ".toml" else path
    import platformdirs

    return Path(platformdirs.user_config_dir("moai"))


def config_file() -> Path:
    """The settings file."""
    given = os.environ.get("MOAI_CONFIG", "")
    if given.endswith(".toml"):
        return Path(os.path.expanduser(given)).absolute()
    return config_folder() / "config.toml"


def known_hosts_file() -> Path:
    """Our own host keys; the user's file is only read."""
    return config_folder() / "known_hosts"


def cache_folder() -> Path:
    """``MOAI_CACHE`` or the platform's cache folder, created 0700."""
    given = os.environ.get("MOAI_CACHE")
    if given:
        path = Path(os.path.expanduser(given)).absolute()
    else:
        import platformdirs

        path = Path(platformdirs.user_cache_dir("moai"))
    return private(path)


def private(path: Path) -> Path:
    """Create a folder with mode 0700, parents too; returns it."""
    if not path.is_dir():
        if not path.parent.is_dir():
            private(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    return path


def own(path: Path) -> Path:
    """``private`` for what others must not put anything into: sockets, code. Returns the folder.

    Raises MoaiError (USAGE) when somebody else owns it; takes away rights of others on ours.
    """
    facts = os.stat(private(path))
    if facts.st_uid != os.getuid():
        from moai._errors import MoaiError

        raise MoaiError(
            "USAGE", f"{path} belongs to another user (uid {facts.st_uid})", "set MOAI_CACHE and MOAI_HOME to folders of your own"
        )
    if facts.st_mode & 0o077:
        path.chmod(0o700)
    return path

"""Reads the user's SSH configuration on a laptop without OpenSSH.

Owns the use of paramiko's reader, which ignores ``Include`` and takes ``Match`` criteria it does not
know as fulfilled. Because a wrong reading would dial the wrong machine, such lines are removed
before reading and named, so that the caller can tell the user. Runs on the laptop.
"""

from __future__ import annotations

import getpass
import os
import re

import paramiko

from moai._errors import MoaiError
from moai._ssh.names import Target

_KNOWN_CRITERIA = {"all", "host", "originalhost", "user", "localuser", "final", "canonical"}


def read_with_paramiko(typed: Target, ssh_config: str | None) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """The keywords for ``typed`` in the form of ``ssh -G``, and the lines that could not be honoured.

    Raises:
        MoaiError: CONFIG_INVALID when the file cannot be parsed.
    """
    from moai._ssh.resolve import DEFAULT_KEY_NAMES, home_folder

    file = ssh_config or os.path.join(home_folder(), ".ssh", "config")
    text = ""
    if os.path.exists(file):
        with open(file, encoding="utf-8", errors="surrogateescape") as stream:
            text = stream.read()
    kept, dropped = _without_unreadable(text, file)
    # What was typed comes first, because the first value wins and tokens are expanded from it.
    typed_lines = [f"Host {typed.host}"]
    if typed.user is not None:
        typed_lines.append(f"    User {typed.user}")
    if typed.port is not None:
        typed_lines.append(f"    Port {typed.port}")
    kept = "\n".join(typed_lines) + "\nHost *\n" + kept
    try:
        found = paramiko.SSHConfig.from_text(kept).lookup(typed.host)
    except (paramiko.ConfigParseError, paramiko.CouldNotCanonicalize, KeyError, ValueError) as error:
        raise MoaiError("CONFIG_INVALID", f"{file} cannot be read: {error}") from error
    values = {key: list(value) if isinstance(value, list) else [str(value)] for key, value in found.items()}
    values.setdefault("user", [getpass.getuser()])
    ssh_folder = os.path.join(home_folder(), ".ssh")
    values.setdefault("identityfile", [os.path.join(ssh_folder, name) for name in DEFAULT_KEY_NAMES])
    values.setdefault("userknownhostsfile", [f"{ssh_folder}/known_hosts {ssh_folder}/known_hosts2"])
    values.setdefault("globalknownhostsfile", ["/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"])
    for keyword in ("hashknownhosts", "identitiesonly", "batchmode"):
        if keyword in values:
            values[keyword] = [values[keyword][0].lower()]
    return values, tuple(dropped)


def _without_unreadable(text: str, file: str) -> tuple[str, list[str]]:
    """Drops Include lines and whole Match blocks with criteria paramiko misreads."""
    kept, dropped, inside_dropped = [], [], False
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r"\s*([A-Za-z0-9]+)\s*[=\s]\s*(.*)", line)
        keyword, value = (match.group(1).lower(), match.group(2)) if match else ("", "")
        if keyword in ("host", "match"):
            words = [word.lower().lstrip("!") for word in value.split()]
            criteria = {word for word in words if word in _KNOWN_CRITERIA}
            single = {"all", "final", "canonical"}
            expected = sum(1 if word in single else 2 for word in criteria)
            inside_dropped = keyword == "match" and (not criteria or len(words) != expected)
            if inside_dropped:
                dropped.append(f"{file}:{number}: {line.strip()}")
        elif keyword in ("include", "canonicaldomains", "canonicalizehostname") and not inside_dropped:
            dropped.append(f"{file}:{number}: {line.strip()}")
            continue
        if not inside_dropped:
            kept.append(line)
    return "\n".join(kept) + "\n", dropped

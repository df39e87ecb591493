"""Which user names, host names and ports may be handed to ssh at all.

Owns the check that runs before any subprocess, ProxyCommand or connection: a name that a shell or an
option parser could read as something else is refused (CVE-2023-51385 and CVE-2017-1000117 were of
that kind). Refuses rather than quotes. Runs on the laptop; imports nothing of ssh.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from moai._errors import MoaiError

MAX_NAME_CHARS = 255
_USER_EXTRA = "._+=:,@-"
_HOST_EXTRA = "._-"


@dataclass(frozen=True)
class Target:
    """What was typed: an ssh alias or address, with user and port if they were given."""

    host: str
    user: str | None = None
    port: int | None = None


def parse_target(text: str) -> Target:
    """Takes ``alias``, ``[user@]host[:port]``, ``[user@][v6][:port]`` or a bare IPv6 address apart.

    Raises:
        MoaiError: USAGE, naming what is not allowed.
    """
    user: str | None = None
    rest = text
    if "@" in text:
        user, rest = text.rsplit("@", 1)
        check_user(user, text)
    host, port_text = rest, None
    bracketed = re.fullmatch(r"\[([^\[\]]*)\](?::(.*))?", rest, re.DOTALL)
    if bracketed:
        host, port_text = bracketed.group(1), bracketed.group(2)
        if ":" not in host:
            raise _refused(text, "only an IPv6 address stands in brackets")
    elif rest.count(":") == 1:
        host, port_text = rest.split(":")
    check_host(host, text)
    return Target(host, user, None if port_text is None else check_port(port_text, text))


def parse_jump(text: str) -> list[Target]:
    """Takes a ProxyJump value apart: hops in dialling order; empty for ``none`` and ``""``.

    Raises:
        MoaiError: USAGE.
    """
    if text.strip().lower() in ("", "none"):
        return []
    return [parse_target(hop.removeprefix("ssh://").rstrip("/")) for hop in text.split(",")]


def check_user(user: str, shown: str | None = None) -> None:
    """Raises USAGE unless ``user`` is plain: letters, digits and ``._+=:,@-``, no leading ``-``."""
    _check(user, shown or user, "user name", _USER_EXTRA)


def check_host(host: str, shown: str | None = None) -> None:
    """Raises USAGE unless ``host`` is a plain name, an IPv4 address or an IPv6 address (with zone)."""
    shown = shown or host
    if ":" in host:
        address, _, zone = host.partition("%")
        try:
            ipaddress.IPv6Address(address)
        except ValueError:
            raise _refused(shown, "what has several colons must be an IPv6 address") from None
        if "%" in host:
            _check(zone, shown, "zone", _HOST_EXTRA)
        return
    _check(host, shown, "host name", _HOST_EXTRA)


def check_port(text: str, shown: str | None = None) -> int:
    """The port as a number of 1 to 65535; raises USAGE for anything else."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise _refused(shown or text, "the port must be a number from 1 to 65535")
    return int(text)


def is_plain(text: str) -> bool:
    """Whether ``text`` may be put into a ProxyCommand line in place of ``%h`` or ``%r``."""
    allowed = all(char.isalnum() or char in _USER_EXTRA + "%" for char in text)
    return bool(text) and allowed and not text.startswith("-")


def _check(name: str, shown: str, what: str, extra: str) -> None:
    if not name:
        raise _refused(shown, f"the {what} is empty")
    if len(name) > MAX_NAME_CHARS:
        raise _refused(shown[:40] + "...", f"the {what} is longer than {MAX_NAME_CHARS} characters")
    if name.startswith("-"):
        raise _refused(shown, f"a {what} must not begin with '-'")
    for char in name:
        if not (char.isalnum() or char in extra):
            raise _refused(shown, f"{char!r} is not allowed in a {what}")


def _refused(shown: str, why: str) -> MoaiError:
    return MoaiError(
        "USAGE",
        f"{shown!r} is not a host: {why}",
        next="give an ssh alias or user@host[:port]; unusual user names go into ~/.ssh/config",
    )

"""``config.toml``: hosts, groups, the default host. Read strictly, written with comments kept.

Example::

    default = "kt"
    [hosts.kt]
    address = "ubuntu@203.0.113.7:2201"   # alias, user@host[:port], or "local"
    environment = "pytorch"
    work = "/data/moai-work"
    proxy = "http://proxy:3128"           # for downloads on the container only
    transport = "openssh"                 # default: "paramiko"
    groups = ["pool"]
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moai import _paths
from moai._errors import MoaiError

LOCAL = "local"
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")
TRANSPORTS = ("paramiko", "openssh")


@dataclass(frozen=True)
class HostConfig:
    """One configured host.

    Attributes:
        name: what the user calls it. address: what ssh is asked for. environment: default ``--env``.
        work: work folder on the container. proxy: for downloads there. transport: see TRANSPORTS.
        groups: for ``--on @group``. ssh_config: file read instead of the user's.
    """

    name: str
    address: str
    environment: str = ""
    work: str = ""
    proxy: str = ""
    transport: str = "paramiko"
    groups: tuple[str, ...] = ()
    ssh_config: str = ""

    @property
    def is_local(self) -> bool:
        """Runs on the laptop itself, without SSH."""
        return self.address == LOCAL


@dataclass
class Config:
    """The whole file."""

    hosts: dict[str, HostConfig] = field(default_factory=dict)
    default: str = ""

    def pick(self, names: str) -> list[HostConfig]:
        """The hosts of ``--on``: names, ``@group`` and ``all``, separated by commas.

        Without a name: the default host, else the only one. An unconfigured ``local``, alias or
        ``user@host`` is taken as an address.
        """
        if not names:
            return [self._only()]
        found: dict[str, HostConfig] = {}
        for part in [p.strip() for p in names.split(",") if p.strip()]:
            for host in self._expand(part):
                found[host.name] = host
        if not found:
            raise MoaiError("USAGE", "no host was named", "moai remote list")
        return list(found.values())

    def _only(self) -> HostConfig:
        chosen = self.default or (next(iter(self.hosts)) if len(self.hosts) == 1 else "")
        if chosen in self.hosts:
            return self.hosts[chosen]
        if not self.hosts:
            raise MoaiError("USAGE", "no host is configured", "moai remote add NAME user@host -p PORT")
        shown = ", ".join(sorted(self.hosts))
        raise MoaiError("USAGE", f"several hosts are configured ({shown}) and none was named", "--on NAME, or moai remote use NAME")

    def _expand(self, part: str) -> list[HostConfig]:
        if part == "all":
            return list(self.hosts.values())
        if part.startswith("@"):
            members = [h for h in self.hosts.values() if part[1:] in h.groups]
            if not members:
                raise MoaiError("HOST_UNKNOWN", f"no host is in the group {part}", "moai remote set NAME --group GROUP")
            return members
        if part in self.hosts:
            return [self.hosts[part]]
        if part == LOCAL:
            return [HostConfig(name=LOCAL, address=LOCAL)]
        return [HostConfig(name=part, address=part)]


def load() -> Config:
    """Read the settings file; an absent one is empty. CONFIG_INVALID lists every mistake at once."""
    path = _paths.config_file()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Config()
    except (OSError, UnicodeDecodeError) as error:
        what = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"cannot be read: {error.strerror}"
        raise MoaiError("CONFIG_INVALID", f"{path} {what}", f"edit {path}") from error
    raw = parse_toml(text, path)
    mistakes: list[str] = []
    hosts: dict[str, HostConfig] = {}
    for key in sorted(set(raw) - {"default", "hosts"}):
        mistakes.append(f"unknown setting {key!r}")
    table = raw.get("hosts", {})
    if not isinstance(table, dict):
        mistakes.append("hosts is not a table")
        table = {}
    for name, values in table.items():
        host = _host(name, values, mistakes)
        if host is not None:
            hosts[name] = host
    default = raw.get("default", "")
    if not isinstance(default, str):
        mistakes.append(f"default is {default!r}, not a name")
        default = ""
    if default and default not in hosts:
        mistakes.append(f"default host {default!r} is not configured")
    if mistakes:
        raise MoaiError("CONFIG_INVALID", f"{path}: " + "; ".join(mistakes), f"edit {path}")
    return Config(hosts=hosts, default=default)


def config() -> Config:
    """The laptop's settings as they are now. Raises UsageError listing every mistake."""
    return load()


def parse_toml(text: str, path: Path) -> dict[str, Any]:
    """TOML as a dictionary; CONFIG_INVALID with line and column."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef]
    try:
        return dict(tomllib.loads(text))
    except (ValueError, RecursionError) as error:
        # TOMLDecodeError is a ValueError; so is a number of thousands of digits.
        raise MoaiError("CONFIG_INVALID", f"{path}: {error}", f"edit {path}") from error


def _host(name: str, values: Any, mistakes: list[str]) -> HostConfig | None:
    where = f"hosts.{name}"
    if not _NAME.match(name):
        mistakes.append(f"{where}: a name is letters, digits, '.', '_' and '-'")
    if not isinstance(values, dict):
        mistakes.append(f"{where} is not a table")
        return None
    known = {"address", "environment", "work", "proxy", "transport", "groups", "ssh_config"}
    for key in sorted(set(values) - known):
        mistakes.append(f"{where}: unknown setting {key!r}")
    for key in sorted(known - {"groups"}):
        if key in values and not isinstance(values[key], str):
            mistakes.append(f"{where}.{key} is not a text")
    groups = values.get("groups", [])
    if not isinstance(groups, list) or not all(isinstance(g, str) for g in groups):
        mistakes.append(f"{where}.groups is not a list of texts")
        groups = []
    transport = values.get("transport", "paramiko")
    if transport not in TRANSPORTS:
        mistakes.append(f"{where}.transport is {transport!r}, not one of {', '.join(TRANSPORTS)}")
    if not values.get("address"):
        mistakes.append(f"{where}.address is missing")
        return None
    texts = {k: str(values.get(k, "")) for k in ("address", "environment", "work", "proxy", "ssh_config")}
    return HostConfig(name=name, transport=str(transport), groups=tuple(groups), **texts)


def save_host(name: str, changes: dict[str, Any], make_default: bool = False) -> None:
    """Create or change one host; None removes a setting. Comments of the file stay."""
    if not _NAME.match(name) or name in ("all", LOCAL):
        raise MoaiError("USAGE", f"{name!r} cannot be a host's name", "use letters, digits, '.', '_' and '-'")

    def edit(document: Any) -> None:
        import tomlkit

        hosts = document.setdefault("hosts", tomlkit.table(is_super_table=True))
        table = hosts.setdefault(name, tomlkit.table())
        for key, value in changes.items():
            if value is None:
                table.pop(key, None)
            else:
                table[key] = value
        if make_default:
            document["default"] = name

    _edit(edit)


def remove_host(name: str) -> None:
    """Forget a host."""

    def edit(document: Any) -> None:
        document.get("hosts", {}).pop(name, None)
        if document.get("default") == name:
            document.pop("default")

    _edit(edit)


def set_default(name: str) -> None:
    """The host used when none is named."""

    def edit(document: Any) -> None:
        document["default"] = name

    _edit(edit)


def _edit(change: Any) -> None:
    import tomlkit

    path = _paths.config_file()
    _paths.private(path.parent)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    parse_toml(text, path)
    document = tomlkit.parse(text)
    change(document)
    # "default" must stand before the first table, or TOML would read it as part of that table.
    rendered = tomlkit.dumps(document)
    if "default" in document and not rendered.lstrip().startswith("default"):
        default = document.pop("default")
        rendered = f'default = "{default}"\n' + tomlkit.dumps(document)
    temp = path.with_name(f".{path.name}.{os.getpid()}")
    temp.write_text(rendered, encoding="utf-8")
    os.chmod(temp, 0o600)
    os.replace(temp, path)

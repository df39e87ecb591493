"""Where a host name leads: everything the user's SSH configuration says about it.

Owns the reading of ``ssh -G`` (the truth: OpenSSH evaluates Include, Match and tokens itself) and,
where there is no OpenSSH, of paramiko's reader, which then names what it cannot honour. Refuses
names with shell or option characters before any process starts. Runs on the laptop; connects
to nothing (a ``Match exec`` of the user runs, as with ssh). Keywords: ssh_config(5), ssh(1) -G.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass

from moai._errors import MoaiError
from moai._ssh.names import Target, check_host, is_plain, parse_jump, parse_target

CONFIG_VARIABLE = "MOAI_SSH_CONFIG"
SSH_G_TIMEOUT_S = 15.0

DEFAULT_KEY_NAMES = ("id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk")
_METHODS = {
    "publickey": "pubkeyauthentication",
    "keyboard-interactive": "kbdinteractiveauthentication",
    "password": "passwordauthentication",
}
# Keywords whose effect paramiko cannot give; the value is when they have none.
_BEYOND_PARAMIKO = {
    "certificatefile": "",
    "pkcs11provider": "none",
    "gssapiauthentication": "no",
    "hostbasedauthentication": "no",
    "knownhostscommand": "none",
    "bindinterface": "none",
    "verifyhostkeydns": "false",
    "controlpath": "none",
}


@dataclass(frozen=True)
class Resolved:
    """One host after the configuration was read. Paths are absolute; ``~`` and tokens are expanded.

    ``strict_host_key_checking`` is ``yes``, ``ask`` or ``accept-new``: OpenSSH's ``no`` is read as
    ``ask``. ``identity_agent`` is ``SSH_AUTH_SOCK``, ``none`` or a socket path. ``proxy_jump`` holds the
    hops in dialling order. ``source`` is ``ssh -G`` or ``paramiko``; ``not_honoured`` names what the
    paramiko transport will not do although it was configured (``transport = "openssh"`` does).
    """

    alias: str
    hostname: str
    user: str
    port: int = 22
    identity_files: tuple[str, ...] = ()
    identities_only: bool = False
    identity_agent: str = "SSH_AUTH_SOCK"
    user_known_hosts_files: tuple[str, ...] = ()
    global_known_hosts_files: tuple[str, ...] = ()
    revoked_host_keys: str = ""
    strict_host_key_checking: str = "ask"
    host_key_alias: str = ""
    host_key_algorithms: tuple[str, ...] = ()
    hash_known_hosts: bool = False
    proxy_jump: tuple[str, ...] = ()
    proxy_command: str = ""
    connect_timeout_s: float | None = None
    server_alive_interval_s: float = 0.0
    server_alive_count_max: int = 3
    preferred_authentications: tuple[str, ...] = ("publickey", "keyboard-interactive", "password")
    password_prompts: int = 3
    batch_mode: bool = False
    address_family: str = "any"
    bind_address: str = ""
    ssh_config: str | None = None
    typed: Target | None = None
    source: str = "ssh -G"
    not_honoured: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """Host and port as messages show them."""
        return f"{self.hostname} port {self.port}"


def resolve(target: str, ssh_config: str | None = None) -> Resolved:
    """Reads the SSH configuration for an alias or ``user@host[:port]``.

    Args:
        target: what the user typed or configured.
        ssh_config: file read instead of the user's and the system's; the environment variable
            MOAI_SSH_CONFIG is the default.

    Raises:
        MoaiError: USAGE for a name that is not plain; CONFIG_INVALID when the file is wrong.
    """
    typed = parse_target(target)
    ssh_config = ssh_config or os.environ.get(CONFIG_VARIABLE) or None
    if ssh_config is not None:
        ssh_config = os.path.abspath(os.path.expanduser(ssh_config))
        if not os.access(ssh_config, os.R_OK):
            raise MoaiError("CONFIG_INVALID", f"the ssh config file {ssh_config} cannot be read")
    unread: tuple[str, ...]
    if shutil.which("ssh"):
        values, source, unread = _ask_ssh(typed, ssh_config), "ssh -G", ()
    else:
        from moai._ssh.resolve_fallback import read_with_paramiko

        values, unread = read_with_paramiko(typed, ssh_config)
        source = "paramiko"
    return _build(target, typed, values, ssh_config, source, unread)


def home_folder() -> str:
    """The login's home folder. From passwd, not $HOME: that is where OpenSSH looks."""
    return pwd.getpwuid(os.getuid()).pw_dir


def _ask_ssh(typed: Target, ssh_config: str | None) -> dict[str, list[str]]:
    command = ["ssh", "-G", "-T"]
    if ssh_config is not None:
        command += ["-F", ssh_config]
    if typed.port is not None:
        command += ["-p", str(typed.port)]
    if typed.user is not None:
        command += ["-l", typed.user]
    # A session of its own, so that what a `Match exec` started ends with it.
    process = subprocess.Popen(
        [*command, "--", typed.host],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    with process:
        try:
            output, errors = process.communicate(timeout=SSH_G_TIMEOUT_S)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise MoaiError(
                "CONFIG_INVALID",
                f"`ssh -G {typed.host}` did not answer in {SSH_G_TIMEOUT_S:.0f} s",
                next="look for a slow `Match exec` in ~/.ssh/config",
            ) from error
    if process.returncode != 0:
        said = errors.decode("utf-8", "replace").strip()
        raise MoaiError("CONFIG_INVALID", f"ssh cannot read its configuration for {typed.host}: {said}")
    values: dict[str, list[str]] = {}
    for line in output.decode("utf-8", "surrogateescape").splitlines():
        keyword, _, value = line.partition(" ")
        values.setdefault(keyword.lower(), []).append(value)
    return values


def _build(
    target: str,
    typed: Target,
    values: dict[str, list[str]],
    ssh_config: str | None,
    source: str,
    unread: tuple[str, ...],
) -> Resolved:
    def one(keyword: str, default: str = "") -> str:
        return values.get(keyword, [default])[0]

    def number(keyword: str, default: int) -> int:
        text = one(keyword, str(default))
        return int(text) if text.isdigit() else default

    hostname, user, port = one("hostname", typed.host), one("user"), number("port", 22)
    proxy_command = one("proxycommand")
    if proxy_command.lower() == "none":
        proxy_command = ""
    alias = typed.host
    _check_configured(hostname, user, proxy_command, alias)
    tokens = {
        "%": "%", "d": home_folder(), "h": hostname, "i": str(os.getuid()), "n": alias, "p": str(port), "r": user,
        "k": one("hostkeyalias") or alias, "u": pwd.getpwuid(os.getuid()).pw_name, "L": os.uname().nodename.split(".")[0],
        "l": os.uname().nodename,
    }  # fmt: skip

    def path(text: str) -> str:
        return expand_path(text, tokens)

    def paths(keyword: str) -> tuple[str, ...]:
        words = [word for value in values.get(keyword, []) for word in _split_files(value)]
        return tuple(path(word) for word in words if word.lower() != "none")

    agent = one("identityagent", "SSH_AUTH_SOCK")
    if agent not in ("SSH_AUTH_SOCK", "none"):
        agent = "SSH_AUTH_SOCK" if agent == "$SSH_AUTH_SOCK" else path(_expand_dollar(agent))
    jumps: tuple[str, ...] = ()
    if not proxy_command:
        jumps = _jumps(_expand_tokens(one("proxyjump"), tokens, "hnpr%"), alias)
    preferred = one("preferredauthentications", "publickey,keyboard-interactive,password").split(",")
    methods = tuple(
        name for name in preferred if name in _METHODS and one(_METHODS[name], "yes") in ("yes", "true")
    )
    not_honoured = list(unread)
    for keyword, without_effect in _BEYOND_PARAMIKO.items():
        if one(keyword, without_effect).lower() != without_effect:
            not_honoured.append(f"{keyword} {one(keyword)}")
    timeout = one("connecttimeout", "none")
    revoked = one("revokedhostkeys", "none")
    strict = {"true": "yes", "yes": "yes", "accept-new": "accept-new"}
    return Resolved(
        alias=alias,
        hostname=hostname,
        user=user,
        port=port,
        identity_files=tuple(
            path(value.strip('"')) for value in values.get("identityfile", []) if value.lower() != "none"
        ),
        identities_only=one("identitiesonly", "no") == "yes",
        identity_agent=agent,
        user_known_hosts_files=paths("userknownhostsfile"),
        global_known_hosts_files=paths("globalknownhostsfile"),
        revoked_host_keys="" if revoked.lower() == "none" else path(revoked),
        strict_host_key_checking=strict.get(one("stricthostkeychecking", "ask"), "ask"),
        host_key_alias=one("hostkeyalias").lower(),
        host_key_algorithms=tuple(filter(None, one("hostkeyalgorithms").split(","))),
        hash_known_hosts=one("hashknownhosts", "no") == "yes",
        proxy_jump=jumps,
        proxy_command=_expand_tokens(proxy_command, tokens, "hnpr%ku") if proxy_command else "",
        connect_timeout_s=float(timeout) if timeout.isdigit() and int(timeout) > 0 else None,
        server_alive_interval_s=float(number("serveraliveinterval", 0)),
        server_alive_count_max=number("serveralivecountmax", 3),
        preferred_authentications=methods,
        password_prompts=min(3, number("numberofpasswordprompts", 3)),
        batch_mode=one("batchmode", "no") == "yes",
        address_family=one("addressfamily", "any"),
        bind_address=one("bindaddress"),
        ssh_config=ssh_config,
        typed=typed,
        source=source,
        not_honoured=tuple(not_honoured),
    )


def _check_configured(hostname: str, user: str, proxy_command: str, alias: str) -> None:
    """What the configuration says is checked too: it goes into a ProxyCommand line and to the server."""
    try:
        check_host(hostname, f"{hostname} (HostName of {alias})")
    except MoaiError as error:
        raise MoaiError("CONFIG_INVALID", error.message, next="correct HostName in ~/.ssh/config") from error
    broken = user.startswith("-") or not user or not user.isprintable() or " " in user
    if broken or (proxy_command and "%r" in proxy_command and not is_plain(user)):
        raise MoaiError(
            "CONFIG_INVALID",
            f"the user name {user!r} of {alias} is not allowed here",
            next="correct User in ~/.ssh/config",
        )


def _jumps(value: str, alias: str) -> tuple[str, ...]:
    try:
        return tuple(_spelled(hop) for hop in parse_jump(value))
    except MoaiError as error:
        raise MoaiError(
            "CONFIG_INVALID",
            f"ProxyJump of {alias}: {error.message}",
            next="correct ProxyJump in ~/.ssh/config",
        ) from error


def expand_path(text: str, tokens: dict[str, str]) -> str:
    """``~``, ``${NAME}`` and ``%x`` of a path as ssh_config(5) says; unknown tokens stay as they are."""
    text = _expand_braces(text)
    if text.startswith("~"):
        name, slash, rest = text[1:].partition("/")
        if not name:
            text = home_folder() + slash + rest
        else:
            try:
                text = pwd.getpwnam(name).pw_dir + slash + rest
            except KeyError:
                return text
    text = _expand_tokens(text, tokens, "".join(tokens))
    return text if os.path.isabs(text) else os.path.join(os.getcwd(), text)


def _expand_tokens(text: str, tokens: dict[str, str], allowed: str) -> str:
    def value(match: re.Match[str]) -> str:
        letter = match.group(1)
        return tokens[letter] if letter in allowed else match.group(0)

    return re.sub(r"%(.)", value, text)


def _expand_braces(text: str) -> str:
    return re.sub(
        r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", lambda match: os.environ.get(match.group(1), match.group(0)), text
    )


def _expand_dollar(text: str) -> str:
    """IdentityAgent may be ``$NAME``: the environment variable that holds the socket's path."""
    return os.environ.get(text[1:], "none") if re.fullmatch(r"\$[A-Za-z_][A-Za-z0-9_]*", text) else text


def _split_files(value: str) -> list[str]:
    """Splits a list of files. ``ssh -G`` prints names with spaces unquoted: a piece that is no file
    by itself is joined with what follows when the whole is one."""
    words = re.findall(r'"[^"]*"|\S+', value)
    found: list[str] = []
    while words:
        for count in range(len(words), 1, -1):
            joined = " ".join(words[:count])
            if os.path.isfile(os.path.expanduser(joined)):
                break
        else:
            count, joined = 1, words[0]
        found.append(joined.strip('"'))
        words = words[count:]
    return found


def _spelled(hop: Target) -> str:
    host = f"[{hop.host}]" if ":" in hop.host else hop.host
    return (f"{hop.user}@" if hop.user else "") + host + (f":{hop.port}" if hop.port else "")

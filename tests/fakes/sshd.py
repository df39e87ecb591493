"""A real OpenSSH server on loopback, with throw-away keys, for one test.

Owns one ``sshd`` process, its folder (config, keys, log) and the session processes it made. Refuses
to touch anything else: no system keys, no system config, no other sshd. Runs in the test process and
works as root and as an ordinary user (who can then log in only as themself).

    with Sshd(tmp_path / "box", home=home, path="/usr/bin:/bin") as box:
        config = box.ssh_config(tmp_path / "ssh_config", alias="box")
        # ssh -F config box true

The log of the server is ``box.log_text()``; ``log_level="DEBUG1"`` shows every authentication request.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0

_RC_FILES = (".bashrc", ".profile", ".cshrc", ".config/fish/config.fish", ".zshenv")


def find_sshd() -> str | None:
    """The absolute path of OpenSSH's server, or None when it is not installed."""
    return shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/sbin")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that the kernel chose and nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    """Polls ``condition`` every 10 ms; raises AssertionError naming ``what`` after ``timeout_s`` seconds."""
    pause = threading.Event()
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"gave up after {timeout_s} s waiting for {what}")
        pause.wait(0.01)


def make_key(path: Path, key_type: str = "ed25519", passphrase: str = "", bits: int = 0) -> Path:
    """Makes a key pair with ssh-keygen (``path`` and ``path.pub``); returns ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["ssh-keygen", "-q", "-t", key_type, "-N", passphrase, "-C", "test", "-f", str(path)]
    if bits:
        command += ["-b", str(bits)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return path


class Sshd:
    """One OpenSSH server; starts when made, ends with ``stop()`` or at the end of a ``with`` block.

    Args:
        folder: where config, keys, log and known_hosts go; made if missing.
        home: HOME of sessions (a folder; made if missing). None keeps the login's own.
        moai_home: MOAI_HOME of sessions.
        path: PATH of sessions.
        set_env: further variables of sessions.
        shell: program that runs each command as ``SHELL -c COMMAND`` (``"bash"``, ``"fish"``, ``"csh"``,
            or a path); None leaves it to the login shell.
        rc_noise: text every shell prints to standard output when it starts (needs ``home``).
        max_sessions: sessions allowed on one connection (1 forbids a second channel).
        allow_tcp_forwarding: False refuses direct-tcpip, hence ProxyJump through this server.
        password_only: offers only the password method. No password is ever right.
        authorized: further public key files allowed in.
        host_key_types: types of host keys to make.
        log_level: sshd LogLevel; DEBUG1 logs every authentication request.
        config: further lines for the top of sshd_config (the first value of a keyword wins).
        command_prefix: argv put before sshd, for example a namespace runner.
        listen: address to listen on.
    """

    def __init__(
        self,
        folder: Path,
        *,
        home: Path | None = None,
        moai_home: Path | None = None,
        path: str | None = None,
        set_env: dict[str, str] | None = None,
        shell: str | None = None,
        rc_noise: str = "",
        max_sessions: int = 10,
        allow_tcp_forwarding: bool = True,
        password_only: bool = False,
        authorized: Sequence[Path] = (),
        host_key_types: Sequence[str] = ("ed25519",),
        log_level: str = "VERBOSE",
        config: Sequence[str] = (),
        command_prefix: Sequence[str] = (),
        listen: str = "127.0.0.1",
    ) -> None:
        program = find_sshd()
        if program is None:
            raise FileNotFoundError("sshd is not installed (Debian: apt-get install openssh-server)")
        self.program = program
        self.folder = Path(folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        self.host = listen
        self.port = 0
        self.log_path = self.folder / "sshd.log"
        self.known_hosts = self.folder / "known_hosts"
        self.client_key = make_key(self.folder / "client_key")
        self.host_key_types = tuple(host_key_types)
        self.make_host_keys()
        keys = [self.client_key.with_suffix(".pub"), *map(Path, authorized)]
        (self.folder / "authorized_keys").write_text("".join(key.read_text() for key in keys))
        self._command_prefix = list(command_prefix)
        self._process: subprocess.Popen[bytes] | None = None
        self._orphans: list[tuple[int, str]] = []

        variables = dict(set_env or {})
        if home is not None:
            Path(home).mkdir(parents=True, exist_ok=True)
            variables["HOME"] = str(home)
        if moai_home is not None:
            variables["MOAI_HOME"] = str(moai_home)
        if path is not None:
            variables["PATH"] = path
        if rc_noise:
            if home is None:
                raise ValueError("rc_noise needs home: the login's own files are not touched")
            self._write_rc_files(Path(home), rc_noise)
        self._lines = list(config) + [
            f"LogLevel {log_level}",
            "AuthorizedKeysFile %s" % (self.folder / "authorized_keys"),
            "PidFile none",
            "StrictModes no",
            "UsePAM no",
            "UseDNS no",
            "PrintMotd no",
            "PrintLastLog no",
            "KbdInteractiveAuthentication no",
            "PasswordAuthentication %s" % ("yes" if password_only else "no"),
            "PubkeyAuthentication %s" % ("no" if password_only else "yes"),
            "PermitRootLogin yes",
            "Subsystem sftp internal-sftp",
            "MaxStartups 200:30:400",
            f"MaxSessions {max_sessions}",
            "AllowTcpForwarding %s" % ("yes" if allow_tcp_forwarding else "no"),
        ]
        if variables:
            # One line: sshd keeps only the first SetEnv it meets.
            quoted = " ".join('"{}={}"'.format(*item) for item in variables.items())
            self._lines.append("SetEnv " + quoted)
        if shell is not None:
            self._lines.append("ForceCommand " + str(self._write_shell_wrapper(shell)))
        self.start()

    def __enter__(self) -> "Sshd":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # --- keys -------------------------------------------------------------------------------

    def make_host_keys(self) -> None:
        """Makes new host keys, replacing old ones; a running server keeps its keys until ``restart()``.

        ``known_hosts`` is not rewritten if it already exists (so that a test can see a changed key);
        ``trust()`` does that.
        """
        for key_type in self.host_key_types:
            for suffix in ("", ".pub"):
                stale = self.folder / (f"host_{key_type}{suffix}")
                if stale.exists():
                    stale.unlink()
            make_key(self.folder / (f"host_{key_type}"), key_type)

    @property
    def host_public_keys(self) -> list[str]:
        """The public host keys, each as ``"type base64"``."""
        found = []
        for key_type in self.host_key_types:
            words = (self.folder / (f"host_{key_type}.pub")).read_text().split()
            found.append(" ".join(words[:2]))
        return found

    @property
    def host_public_key(self) -> str:
        """The first public host key, as ``"type base64"``."""
        return self.host_public_keys[0]

    @property
    def known_hosts_name(self) -> str:
        """How known_hosts names this server: ``[127.0.0.1]:PORT``."""
        return f"[{self.host}]:{self.port}"

    def trust(self) -> None:
        """Writes the present host keys to ``known_hosts`` (the file named by ``ssh_config``)."""
        lines = [f"{self.known_hosts_name} {key}\n" for key in self.host_public_keys]
        self.known_hosts.write_text("".join(lines))

    def authorize(self, key: Path) -> None:
        """Lets the owner of ``key`` (its public part is ``KEY.pub``) in from now on."""
        with open(self.folder / "authorized_keys", "a", encoding="utf-8") as stream:
            stream.write(Path(str(key) + ".pub").read_text())

    # --- process ----------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Process id of the listener."""
        if self._process is None:
            raise RuntimeError("this sshd is not running")
        return self._process.pid

    def start(self) -> None:
        """Starts the listener, on the same port as before if it has run already."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(parents=True, exist_ok=True)
        attempts = 1 if self.port else 5
        for attempt in range(attempts):
            port = self.port or free_port()
            if self._try_start(port):
                self.port = port
                if not self.known_hosts.exists():
                    self.trust()
                return
        raise RuntimeError(f"sshd did not start: {self.log_text()[-2000:]}")

    def stop(self) -> None:
        """Ends the listener and every session process."""
        self.stop_listener()
        self.kill_sessions()

    def stop_listener(self, kill: bool = False) -> None:
        """Ends only the listener (SIGTERM, or SIGKILL when ``kill``); sessions live on."""
        process, self._process = self._process, None
        if process is None:
            return
        self._orphans += [(pid, _start_time(pid)) for pid in _sshd_descendants(process.pid)]
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """Ends the listener and starts it again on the same port; sessions live on."""
        self.stop_listener()
        self.start()

    def session_pids(self) -> list[int]:
        """Process ids of sshd's own session processes (not of what they run), also of earlier listeners."""
        pids = [] if self._process is None else _sshd_descendants(self._process.pid)
        self._orphans = [(pid, began) for pid, began in self._orphans if began and _start_time(pid) == began]
        for pid, _began in self._orphans:
            pids += [pid] + _sshd_descendants(pid)
        return sorted(set(pids))

    def kill_sessions(self) -> list[int]:
        """SIGKILLs every session process of sshd, waits until they are gone, returns their ids.

        What the sessions were running is left to the kernel: it sees its pipes close, like after a
        container's sshd died.
        """
        pids = self.session_pids()
        born = {pid: _start_time(pid) for pid in pids}
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        wait_until(
            lambda: all(_start_time(pid) != born[pid] or not born[pid] for pid in pids),
            "sessions of sshd to end",
            STOP_TIMEOUT_S,
        )
        return pids

    # --- what clients need ------------------------------------------------------------------

    def ssh_config(self, path: Path, alias: str = "box", append: bool = False, **options: str) -> Path:
        """Writes an ssh_config with one Host block for this server; returns ``path``.

        Args:
            path: file to write; ``append`` adds a block instead of replacing the file.
            alias: the Host name.
            options: keywords that replace or join the defaults (``ProxyJump="hop"``); an empty
                value drops that keyword.
        """
        block = {
            "HostName": self.host,
            "Port": str(self.port),
            "User": self.user,
            "IdentityFile": str(self.client_key),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": str(self.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            **options,
        }
        lines = [f"Host {alias}"] + ["    {} {}".format(*item) for item in block.items() if item[1]]
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a" if append else "w", encoding="utf-8") as stream:
            stream.write("\n".join(lines) + "\n")
        path.chmod(0o600)
        return path

    def log_text(self) -> str:
        """Everything the server has logged so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def saw_an_end(self, since: int) -> bool:
        """Whether a connection ended after log position ``since``.

        The server calls it closed or reset, by whether the client had read everything before it left.
        """
        text = self.log_text()[since:]
        return "Connection closed by" in text or "Connection reset by" in text

    # --- inside -----------------------------------------------------------------------------

    def _try_start(self, port: int) -> bool:
        lines = [f"Port {port}", f"ListenAddress {self.host}"]
        lines += ["HostKey %s" % (self.folder / (f"host_{name}")) for name in self.host_key_types]
        config = self.folder / "sshd_config"
        config.write_text("\n".join(lines + self._lines) + "\n")
        already = len(self.log_text())
        with open(self.folder / "sshd.stderr", "wb") as errors:
            process = subprocess.Popen(
                # Absolute names: with a relative log file every connection is reset at key exchange.
                [*self._command_prefix, self.program, "-D", "-f", str(config), "-E", str(self.log_path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        listening = f"Server listening on {self.host} port {port}."
        wait_until(
            lambda: process.poll() is not None or listening in self.log_text()[already:],
            "sshd to listen",
            START_TIMEOUT_S,
        )
        if process.poll() is not None:
            return False
        self._process = process
        return True

    def _write_shell_wrapper(self, shell: str) -> Path:
        program = shutil.which(shell)
        if program is None:
            raise FileNotFoundError(f"{shell} is not installed")
        wrapper = self.folder / "shell"
        quoted = shlex.quote(program)
        wrapper.write_text(
            "#!/bin/sh\n"
            'case "$SSH_ORIGINAL_COMMAND" in\n'
            f'"") exec {quoted} ;;\n'
            "internal-sftp) exec /usr/lib/openssh/sftp-server ;;\n"
            f'esac\nexec {quoted} -c "$SSH_ORIGINAL_COMMAND"\n'
        )
        wrapper.chmod(0o755)
        return wrapper

    def _write_rc_files(self, home: Path, noise: str) -> None:
        text = home / ".rc_noise"
        text.write_text(noise if noise.endswith("\n") else noise + "\n")
        for name in _RC_FILES:
            rc_file = home / name
            rc_file.parent.mkdir(parents=True, exist_ok=True)
            with open(rc_file, "a", encoding="utf-8") as stream:
                stream.write(f"cat {shlex.quote(str(text))}\n")


def _stat(pid: str) -> tuple[str, list[str]] | None:
    """Program name of ``/proc/PID/stat`` and its fields from the state on; None when it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            head, _, rest = stream.read().rpartition(")")
    except OSError:
        return None
    fields = rest.split()
    return None if not fields or fields[0] in "ZX" else (head.partition("(")[2], fields)


def _process_table() -> list[tuple[int, int, str]]:
    """(pid, parent pid, program name) of every process that is not a zombie."""
    found = [(pid, _stat(pid)) for pid in os.listdir("/proc") if pid.isdigit()]
    return [(int(pid), int(stat[1][1]), stat[0]) for pid, stat in found if stat is not None]


def _sshd_descendants(root_pid: int) -> list[int]:
    """Processes below ``root_pid`` that are sshd itself (newer OpenSSH: sshd-session, sshd-auth)."""
    table = _process_table()
    found: list[int] = []
    parents = {root_pid}
    while parents:
        level = [pid for pid, parent, name in table if parent in parents and name.startswith("sshd")]
        found += level
        parents = set(level)
    return found


def is_running(pid: int) -> bool:
    """Whether ``pid`` is there and no zombie (which only waits for its parent, be it pid 1)."""
    return _stat(str(pid)) is not None


def _start_time(pid: int) -> str:
    """When ``pid`` began, as text to compare; empty when it is gone or a zombie."""
    stat = _stat(str(pid))
    return stat[1][19] if stat is not None else ""

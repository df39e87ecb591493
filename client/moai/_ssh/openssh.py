"""The same seam over the user's own ``ssh``: certificates, FIDO keys, Kerberos, ControlMaster.

Owns one ``ssh`` child a stream, in its own session. Refuses prompts (BatchMode), agent, X11 and port
forwarding, and ``StrictHostKeyChecking no``. ``ssh`` tells what went wrong only in words; they are
mapped to the reasons of the paramiko side. Runs on the laptop.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading

from moai._errors import MoaiError
from moai._ssh.dial import DEFAULT_TIMEOUTS, Timeouts
from moai._ssh.resolve import Resolved
from moai._ssh.seam import STDERR_TAIL_BYTES

KEEPALIVE_S = 10
KEEPALIVE_COUNT = 2
SSH_FAILED = 255
_END_S = 2.0

# First match wins: the words are ssh's own, from its standard error.
_REASONS = (
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED|Host key for .* has changed", "HOST_KEY_CHANGED"),
    (r"REVOKED HOST KEY|marked as revoked|was revoked|Host key .* revoked", "HOST_KEY_REVOKED"),
    (r"Host key verification failed|No \S+ host key is known", "HOST_KEY_UNKNOWN"),
    (
        r"Permission denied \(|Too many authentication failures|No more authentication methods",
        "SIGN_IN_FAILED",
    ),
    (
        (
            r"Could not resolve hostname|Connection refused|Connection timed out|No route to host"
            r"|Network is unreachable|Operation timed out|Connection closed by|Connection reset by"
            r"|kex_exchange_identification|banner exchange|Connection to \S+ timed out|Connection to UNKNOWN"
        ),
        "HOST_UNREACHABLE",
    ),
    (
        r"Bad configuration option|terminating, .* bad configuration|Bad owner or permissions",
        "CONFIG_INVALID",
    ),
    (
        r"open failed: administratively prohibited|Session open refused|shell request failed",
        "SHELL_RESTRICTED",
    ),
)


class OpenSshConnection:
    """Runs commands with ``ssh``; every stream is a child of its own (``seam.Connection``).

    Nothing is connected before ``open_exec``. A failure to connect is raised by the first ``recv``
    of the stream.
    """

    def __init__(
        self, resolved: Resolved, own_known_hosts: str, timeouts: Timeouts = DEFAULT_TIMEOUTS, name: str = ""
    ) -> None:
        self.resolved = resolved
        self.name = name or resolved.alias
        self._own_known_hosts = own_known_hosts
        self._timeouts = timeouts
        self._streams: list[ProcessStream] = []

    def command_line(self, command: str) -> list[str]:
        """The argv of ``ssh`` that runs ``command``."""
        program = shutil.which("ssh")
        if program is None:
            raise MoaiError(
                "CONFIG_INVALID", 'transport = "openssh" needs the program ssh, which is not on PATH'
            )
        resolved = self.resolved
        limit_s = resolved.connect_timeout_s or self._timeouts.tcp_s
        # Ours first: with accept-new, ssh adds a new key to the first file.
        files = [self._own_known_hosts, *resolved.user_known_hosts_files]
        strict = resolved.strict_host_key_checking
        options = {
            "BatchMode": "yes",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "ClearAllForwardings": "yes",
            "PermitLocalCommand": "no",
            "RemoteCommand": "none",
            "UpdateHostKeys": "no",
            "LogLevel": "ERROR",
            "ConnectTimeout": f"{limit_s:.0f}",
            "ServerAliveInterval": str(KEEPALIVE_S),
            "ServerAliveCountMax": str(KEEPALIVE_COUNT),
            # In batch mode ssh refuses for `ask`; `no` in the configuration was read as `ask`.
            "StrictHostKeyChecking": strict if strict in ("yes", "accept-new") else "yes",
            "UserKnownHostsFile": " ".join(f'"{file}"' for file in files),
        }
        argv = [program, "-T"]
        if resolved.ssh_config is not None:
            argv += ["-F", resolved.ssh_config]
        if resolved.typed is not None and resolved.typed.port is not None:
            argv += ["-p", str(resolved.typed.port)]
        if resolved.typed is not None and resolved.typed.user is not None:
            argv += ["-l", resolved.typed.user]
        for keyword, value in options.items():
            argv += ["-o", f"{keyword}={value}"]
        return [*argv, "--", resolved.alias, command]

    def open_exec(self, command: str) -> ProcessStream:
        """Starts ``ssh`` for ``command``; see ``seam.Connection.open_exec``."""
        os.makedirs(os.path.dirname(self._own_known_hosts) or ".", mode=0o700, exist_ok=True)
        process = subprocess.Popen(
            self.command_line(command),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            bufsize=0, start_new_session=True,
        )  # fmt: skip
        stream = ProcessStream(process, self.resolved, self.name)
        self._streams = [other for other in self._streams if not other.is_closed] + [stream]
        return stream

    def close(self) -> None:
        """Ends every stream of this connection."""
        for stream in self._streams:
            stream.close()
        self._streams = []


class ProcessStream:
    """One ``ssh`` child (``seam.Stream``)."""

    def __init__(self, process: subprocess.Popen[bytes], resolved: Resolved, name: str) -> None:
        self._process = process
        self._resolved = resolved
        self._name = name
        self._tail = bytearray()
        self._tail_lock = threading.Lock()
        self._close_lock = threading.Lock()
        self._received = False
        self.is_closed = False
        self._drain = threading.Thread(target=self._read_stderr, name="moai-ssh-stderr", daemon=True)
        self._drain.start()

    def sendall(self, data: bytes) -> None:
        """Sends all of ``data``; see ``seam.Stream``."""
        view = memoryview(data)
        stdin = self._process.stdin
        try:
            while stdin is not None and view:
                view = view[stdin.write(view) :]
        except (OSError, ValueError) as error:
            raise self.failure() or MoaiError(
                "LINK_LOST", f"the connection to {self._name} ended", next="repeat the command"
            ) from error

    def recv(self, n: int) -> bytes:
        """The next bytes of standard output; see ``seam.Stream``.

        Raises:
            MoaiError: why ssh could not connect, when it ended before it brought a single byte.
        """
        stdout = self._process.stdout
        try:
            data = stdout.read(n) if stdout is not None else b""
        except (OSError, ValueError):
            data = b""
        if data:
            self._received = True
        elif not self._received:
            error = self.failure()
            if error is not None:
                raise error
        return data or b""

    def recv_stderr_tail(self) -> bytes:
        """The last 64 KiB of standard error so far (the command's and ssh's own)."""
        with self._tail_lock:
            return bytes(self._tail)

    def shutdown_write(self) -> None:
        """Ends the command's input."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def close(self) -> None:
        """Ends ssh (SIGTERM, after two seconds SIGKILL) and waits for it. Harmless when repeated."""
        with self._close_lock:
            if self.is_closed:
                return
            self.is_closed = True
            self.shutdown_write()
            if self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGTERM)
                try:
                    self._process.wait(timeout=_END_S)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
            self._drain.join(_END_S)
            for pipe in (self._process.stdout, self._process.stderr):
                # A reader still inside the pipe ends by itself now that ssh is gone.
                if pipe is not None and not (pipe is self._process.stderr and self._drain.is_alive()):
                    with contextlib.suppress(OSError):
                        pipe.close()

    def exit_status(self, timeout_s: float) -> int | None:
        """The exit status, or None; also None for 255, which ssh uses for its own failures."""
        try:
            status = self._process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return None
        self._drain.join(min(1.0, timeout_s))
        return None if status < 0 or status == SSH_FAILED else status

    def failure(self) -> MoaiError | None:
        """Why ssh itself failed, or None when it did not, or gave no reason we know."""
        try:
            status = self._process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            return None
        self._drain.join(_END_S)
        said = self.recv_stderr_tail().decode("utf-8", "replace")
        return explain(said, self._resolved, self._name) if status == SSH_FAILED else None

    def _read_stderr(self) -> None:
        while self._process.stderr is not None:
            try:
                piece = self._process.stderr.read(32768)
            except (OSError, ValueError):
                return
            if not piece:
                return
            with self._tail_lock:
                self._tail += piece
                del self._tail[:-STDERR_TAIL_BYTES]


def explain(said: str, resolved: Resolved, name: str) -> MoaiError | None:
    """What ssh's words on standard error mean in our vocabulary; None for words we do not know."""
    for pattern, reason in _REASONS:
        if re.search(pattern, said):
            break
    else:
        return None
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("@")]
    lines = [line for line in lines if re.search(pattern, line)] or lines
    fingerprints = re.findall(r"SHA256:[A-Za-z0-9+/]{43}", said)
    shown = "; ".join(lines[-3:])
    key_trouble = reason.startswith("HOST_KEY")
    return MoaiError(
        reason,
        f"{name} ({resolved.address}): ssh says: {shown}" + (f" ({fingerprints[0]})" if fingerprints else ""),
        next=f"moai remote trust {name}" if key_trouble else f"ssh -v {resolved.alias}",
        details={
            "host": name,
            "address": resolved.address,
            "phase": "ssh",
            **({"offered_fingerprint": fingerprints[0]} if fingerprints else {}),
        },
    )

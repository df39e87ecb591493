"""One command on a paramiko channel, as the rest of the laptop sees it (``seam.Stream``).

Owns the channel and one thread that reads standard error, because an undrained stderr stops stdout.
Refuses to guess: an end of the connection is an end of output, never an exit status. Runs on the laptop.
"""

from __future__ import annotations

import threading

import paramiko

from moai._errors import MoaiError
from moai._ssh.dial import unreachable
from moai._ssh.resolve import Resolved
from moai._ssh.seam import STDERR_TAIL_BYTES

_SEND_BYTES = 2**17


class ChannelStream:
    """A running remote command; made by ``open``."""

    def __init__(self, channel: paramiko.Channel, label: str) -> None:
        self._channel = channel
        self._label = label
        self._tail = bytearray()
        self._tail_lock = threading.Lock()
        self._drain = threading.Thread(target=self._read_stderr, name="moai-ssh-stderr", daemon=True)
        self._drain.start()

    @classmethod
    def open(
        cls, transport: paramiko.Transport, command: str, resolved: Resolved, timeout_s: float
    ) -> ChannelStream:
        """Opens a session channel and runs ``command`` on it, within ``timeout_s`` seconds each.

        Raises:
            MoaiError: SHELL_RESTRICTED when the server refuses, LINK_LOST when the connection is gone,
                HOST_UNREACHABLE when it does not answer.
        """
        channel: paramiko.Channel | None = None
        expired = threading.Event()

        def give_up() -> None:
            expired.set()
            if channel is not None:
                channel.close()

        # paramiko waits for the answer to an exec request without limit; closing the channel ends it.
        alarm = threading.Timer(timeout_s, give_up)
        alarm.daemon = True
        try:
            channel = transport.open_session(timeout=timeout_s)
            alarm.start()
            channel.exec_command(command)
        except paramiko.ChannelException as error:
            raise MoaiError(
                "SHELL_RESTRICTED",
                f"{resolved.alias} ({resolved.address}) refuses another session on this connection: {error}",
                next="end other sessions of this connection, or raise MaxSessions in the host's sshd_config",
                details={"phase": "channel open"},
            ) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            if channel is not None:
                channel.close()
            if expired.is_set() or "Timeout" in str(error):
                raise unreachable(resolved, "command start", f"no answer in {timeout_s:g} s") from error
            if not transport.is_active():
                raise _lost(resolved.alias) from error
            raise MoaiError(
                "SHELL_RESTRICTED",
                f"{resolved.alias} ({resolved.address}) does not run commands: {error}",
                next=f"ssh {resolved.alias} true",
                details={"phase": "exec request"},
            ) from error
        finally:
            alarm.cancel()
        return cls(channel, resolved.alias)

    def sendall(self, data: bytes) -> None:
        """Sends all of ``data``; see ``seam.Stream``."""
        view = memoryview(data)
        try:
            # In pieces: Channel.sendall copies what is left after every packet.
            for start in range(0, len(view), _SEND_BYTES):
                self._channel.sendall(bytes(view[start : start + _SEND_BYTES]))
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise _lost(self._label) from error

    def recv(self, n: int) -> bytes:
        """The next bytes of standard output; see ``seam.Stream``."""
        try:
            return bytes(self._channel.recv(n))
        except (OSError, EOFError):
            return b""

    def recv_stderr_tail(self) -> bytes:
        """The last 64 KiB of standard error so far."""
        with self._tail_lock:
            return bytes(self._tail)

    def shutdown_write(self) -> None:
        """Ends the command's input."""
        try:
            self._channel.shutdown_write()
        except (OSError, EOFError, paramiko.SSHException):
            return  # the connection is gone, and the input with it

    def close(self) -> None:
        """Ends this stream; paramiko tells the server when it still can."""
        try:
            self._channel.close()
        except (OSError, EOFError, paramiko.SSHException):
            return  # the connection is gone, and the channel with it

    def exit_status(self, timeout_s: float) -> int | None:
        """The exit status, or None; see ``seam.Stream``."""
        if not self._channel.status_event.wait(timeout_s):
            return None
        # Standard error may still be on its way to its reader; messages are made of it.
        self._drain.join(min(1.0, timeout_s))
        # paramiko reports -1 when the channel ended without a status (connection lost, signal).
        status = self._channel.exit_status
        return None if status < 0 else status

    def _read_stderr(self) -> None:
        while True:
            try:
                piece = self._channel.recv_stderr(32768)
            except (OSError, EOFError):
                return
            if not piece:
                return
            with self._tail_lock:
                self._tail += piece
                del self._tail[:-STDERR_TAIL_BYTES]


def _lost(label: str) -> MoaiError:
    return MoaiError("LINK_LOST", f"the connection to {label} ended", next="repeat the command")

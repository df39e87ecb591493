"""What the laptop needs of an SSH connection, whichever program provides it.

Owns two protocols and no code: ``connect.SshConnection`` (paramiko) and ``openssh.OpenSshConnection``
(the user's ``ssh``) both fit, and nothing outside ``moai._ssh`` may ask for more. Runs on the laptop.
"""

from __future__ import annotations

from typing import Protocol

STDERR_TAIL_BYTES = 64 * 1024
"""How much of a command's standard error is kept for messages; the rest is read and dropped."""


class Stream(Protocol):
    """One remote command: bytes in, bytes out. Safe for one sender and one receiver thread."""

    def sendall(self, data: bytes) -> None:
        """Sends all of ``data``, waiting for the other side to take it.

        Raises:
            MoaiError: LINK_LOST when the command's input or the connection has closed.
        """

    def recv(self, n: int) -> bytes:
        """The next 1 to ``n`` bytes of standard output, waiting for them; ``b""`` at the end.

        The end does not tell success: it also comes when the connection is lost. Ask
        ``exit_status``.
        """

    def recv_stderr_tail(self) -> bytes:
        """The last 64 KiB of standard error so far. It is read all the time, so it never blocks stdout."""

    def shutdown_write(self) -> None:
        """Ends the command's input (it reads end of file); doing it twice is harmless."""

    def close(self) -> None:
        """Ends this stream at once; the remote command is not awaited. Harmless when repeated."""

    def exit_status(self, timeout_s: float) -> int | None:
        """The command's exit status, or None when it is not known.

        None after ``timeout_s`` seconds without an answer, when the connection ended first, and
        when the command died of a signal: unknown is never success and never failure.
        """


class Connection(Protocol):
    """An authenticated way to a host on which commands can be run."""

    def open_exec(self, command: str) -> Stream:
        """Runs ``command`` (one line for the login's shell) without a terminal.

        Raises:
            MoaiError: LINK_LOST, SHELL_RESTRICTED, or what connecting can raise.
        """

    def close(self) -> None:
        """Ends the connection and every stream on it. Harmless when repeated."""

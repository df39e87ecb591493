"""A paramiko transport that asks for the authentication service once, as RFC 4252 wants it.

Owns that one difference. paramiko's ``Transport`` repeats SSH_MSG_SERVICE_REQUEST before every attempt,
which OpenSSH forgives and other servers answer by hanging up; its ``ServiceRequestingTransport`` waits
without limit and can miss an answer that comes fast. A signature is made in the caller's thread, so
an agent that refuses is an exception there and not the end of the connection. Runs on the laptop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import paramiko
from paramiko.auth_handler import AuthHandler

SERVICE = "ssh-userauth"


class OneServiceTransport(paramiko.Transport):  # type: ignore[misc]
    """``paramiko.Transport`` whose ``auth_*`` calls share one service request."""

    service_accepted = False
    #: The server said why before it closed (RFC 4253, 11.1); a cut or a killed server says nothing.
    was_dismissed = False

    def _parse_disconnect(self, m: paramiko.Message) -> None:
        self.was_dismissed = True
        super()._parse_disconnect(m)

    def get_exception(self) -> Exception | None:
        """As in paramiko; what a damaged packet raised below it (a cipher's own InvalidTag) is an SSHException, too."""
        error: Exception | None = super().get_exception()
        if error is None or isinstance(error, (paramiko.SSHException, EOFError, OSError)):
            return error
        damaged: Exception = paramiko.SSHException(f"a packet arrived damaged ({type(error).__name__}: {error})")
        damaged.__cause__ = error
        return damaged

    def auth_none(self, username: str) -> list[str]:
        """As in paramiko: raises BadAuthenticationType with the methods the server takes."""
        return self._authenticate(lambda handler, event: handler.auth_none(username, event))

    def auth_password(
        self, username: str, password: str, event: object = None, fallback: bool = False
    ) -> list[str]:
        """As in paramiko; never answers a keyboard-interactive question by itself."""
        return self._authenticate(lambda handler, event: handler.auth_password(username, password, event))

    def auth_publickey(self, username: str, key: paramiko.PKey, event: object = None) -> list[str]:
        """As in paramiko."""
        return self._authenticate(lambda handler, event: handler.auth_publickey(username, key, event))

    def auth_interactive(self, username: str, handler: Callable[..., Any], submethods: str = "") -> list[str]:
        """As in paramiko; ``handler`` is called in paramiko's thread."""
        answer = handler
        return self._authenticate(
            lambda handler, event: handler.auth_interactive(username, answer, event, submethods)
        )

    def _authenticate(self, request: Callable[[AuthHandler, threading.Event], None]) -> list[str]:
        if not self.active or not self.initial_kex_done:
            raise paramiko.SSHException("No existing session")
        event = threading.Event()
        handler = _OneServiceHandler(self)
        self.auth_handler = handler
        request(handler, event)
        return list(handler.wait_for_response(event))


class _OneServiceHandler(AuthHandler):  # type: ignore[misc]
    def _request_auth(self) -> None:
        if not self.transport.service_accepted:
            super()._request_auth()
            return
        # What follows an acceptance is the request itself; the acceptance we have already.
        accepted = paramiko.Message()
        accepted.add_string(SERVICE)
        accepted.rewind()
        self._parse_service_accept(accepted)

    def _parse_service_accept(self, m: paramiko.Message) -> None:
        self.transport.service_accepted = True
        super()._parse_service_accept(m)

"""A Fabric connection for scripts, on a transport whose host key we have judged.

Owns the one place where Fabric is used. Refuses Fabric's own connecting (it accepts any host key, even a
changed one) and its ``env=`` (it pastes values unquoted into a shell line that other users of the
host can read). Import it only when it is used: Fabric takes a third of a second. Runs on the laptop.
"""

from __future__ import annotations

from typing import Any

import fabric
import paramiko

from moai._errors import MoaiError
from moai._ssh.connect import SshConnection, connect
from moai._ssh.dial import DEFAULT_TIMEOUTS, Timeouts
from moai._ssh.known_hosts import HostKey
from moai._ssh.prompts import Prompter
from moai._ssh.resolve import Resolved


class FabricHost(fabric.Connection):  # type: ignore[misc]
    """``fabric.Connection`` with ``run``, ``put`` and ``get``; connects on first use, as ours do.

    Args:
        resolved, prompts, own_known_hosts, timeouts: as in ``connect``.
        expected_key: as in ``connect``; after the first connection its key is expected again.
    """

    def __init__(
        self,
        resolved: Resolved,
        prompts: Prompter,
        own_known_hosts: str,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        expected_key: HostKey | None = None,
    ) -> None:
        config = fabric.Config(overrides={"load_ssh_configs": False}, lazy=True)
        super().__init__(
            resolved.hostname, user=resolved.user, port=resolved.port, config=config, forward_agent=False
        )
        # Fabric proxies unknown attributes to its config, so ours are set past it.
        self._set(_how=(resolved, prompts, own_known_hosts, timeouts))
        self._set(_expected_key=expected_key, _link=None)
        self.client.set_missing_host_key_policy(paramiko.RejectPolicy())

    def open(self) -> None:
        """Connects as ``connect`` does and raises what it raises; does nothing when connected."""
        if self.is_connected:
            return
        link: SshConnection = connect(*self._how, expected_key=self._expected_key)
        self._set(_link=link, _expected_key=link.host_key)
        # SSHClient is Fabric's way to SFTP; it gets our transport instead of making one.
        self.client._transport = link.transport
        self.transport = link.transport

    def close(self) -> None:
        """Ends the connection and what lies under it."""
        super().close()
        if self._link is not None:
            self._link.close()

    def run(self, command: str, **kwargs: Any) -> Any:
        """As in Fabric, without ``env=`` and with stdin left alone unless given."""
        return super().run(command, **_without_env(kwargs))

    def sudo(self, command: str, **kwargs: Any) -> Any:
        """As in Fabric, without ``env=``."""
        return super().sudo(command, **_without_env(kwargs))

    def shell(self, **kwargs: Any) -> Any:
        """As in Fabric, without ``env=``."""
        return super().shell(**_without_env(kwargs))


def _without_env(kwargs: dict[str, Any]) -> dict[str, Any]:
    if kwargs.get("env"):
        raise MoaiError(
            "USAGE",
            "env= would put the values into a command line that others on the host can read",
            next="use moai's own `run` with setenv or secrets",
        )
    return {"in_stream": False, **kwargs} if "pty" not in kwargs else kwargs

"""An SSH server of a second make (asyncssh) on loopback, for sign-ins a test's OpenSSH cannot offer.

Owns one server thread with its own event loop, its host key and the list of what clients tried. It runs
commands by ``/bin/sh -c``. Passwords and answers are made up by the test.

    with AsyncSshd(tmp_path / "box", password="right") as box:
        config = box.ssh_config(tmp_path / "ssh_config")
"""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import asyncssh

USER = "tester"
START_TIMEOUT_S = 20.0


class AsyncSshd:
    """One asyncssh server; starts when made.

    Args:
        folder: where host key, client key and known_hosts go.
        password: the right password; None does not offer the method.
        questions: rounds of keyboard-interactive; each a list of (prompt, echo, right answer). Empty
            does not offer the method.
        public_key: whether ``client_key`` is let in.
        keep_silent_after: ``"auth"`` never answers an authentication request.

    ``attempts`` lists what was tried, in order: ``("password", "wrong")``, ``("answers", [...])``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        password: str | None = None,
        questions: Sequence[Sequence[tuple[str, bool, str]]] = (),
        public_key: bool = False,
        keep_silent_after: str = "",
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.password = password
        self.questions = [list(entry) for entry in questions]
        self.public_key = public_key
        self.keep_silent_after = keep_silent_after
        self.user = USER
        self.attempts: list[tuple[str, object]] = []
        self._open: list[asyncssh.SSHServerConnection] = []
        self.port = 0
        self.known_hosts = self.folder / "known_hosts"
        self.client_key = self.folder / "client_key"
        if not self.client_key.exists():
            made = asyncssh.generate_private_key("ssh-ed25519")
            self.client_key.write_bytes(made.export_private_key())
            self.client_key.chmod(0o600)
        self.authorized = asyncssh.read_private_key(str(self.client_key)).convert_to_public()
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(START_TIMEOUT_S)
        public = self.host_key.export_public_key().decode().strip()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public}\n")

    def __enter__(self) -> "AsyncSshd":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the server, its connections and its thread."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(START_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_TIMEOUT_S)
        self._loop.close()

    def ssh_config(self, path: Path, alias: str = "box", **options: str) -> Path:
        """Writes an ssh_config with one Host block for this server; returns ``path``."""
        block = {
            "HostName": "127.0.0.1",
            "Port": str(self.port),
            "User": self.user,
            "IdentityFile": str(self.client_key) if self.public_key else "none",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": str(self.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            **options,
        }
        lines = [f"Host {alias}"] + [f"    {name} {value}" for name, value in block.items()]
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o600)
        return path

    async def _listen(self) -> asyncssh.SSHAcceptor:
        server = await asyncssh.create_server(
            lambda: _Server(self),
            "127.0.0.1",
            0,
            server_host_keys=[self.host_key],
            process_factory=_run,
            encoding=None,
        )
        self.port = server.get_port()
        return server

    async def _end(self) -> None:
        self._server.close()
        for connection in self._open:
            connection.abort()
        for connection in self._open:
            await connection.wait_closed()
        await self._server.wait_closed()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # The event loop closes sockets one step after it was told to.
        for _step in range(3):
            await asyncio.sleep(0)


class _Server(asyncssh.SSHServer):
    def __init__(self, owner: AsyncSshd) -> None:
        self.owner = owner
        self.round = 0

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.owner._open.append(conn)

    async def begin_auth(self, username: str) -> bool:
        if self.owner.keep_silent_after == "auth":
            await asyncio.Event().wait()
        return True

    def public_key_auth_supported(self) -> bool:
        return self.owner.public_key

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        self.owner.attempts.append(("publickey", key.get_fingerprint()))
        return username == USER and key == self.owner.authorized

    def password_auth_supported(self) -> bool:
        return self.owner.password is not None

    def validate_password(self, username: str, password: str) -> bool:
        self.owner.attempts.append(("password", password))
        return username == USER and password == self.owner.password

    def kbdint_auth_supported(self) -> bool:
        return bool(self.owner.questions)

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> object:
        self.round = 0
        return self._challenge()

    def validate_kbdint_response(self, username: str, responses: Sequence[str]) -> object:
        self.owner.attempts.append(("answers", list(responses)))
        right = [answer for _prompt, _echo, answer in self.owner.questions[self.round]]
        if list(responses) != right:
            return False
        self.round += 1
        return True if self.round == len(self.owner.questions) else self._challenge()

    def _challenge(self) -> object:
        prompts = [(prompt, echo) for prompt, echo, _answer in self.owner.questions[self.round]]
        return "Gate", f"round {self.round + 1}", "", prompts


async def _run(process: asyncssh.SSHServerProcess) -> None:
    child = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        process.command or "",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await child.communicate()
    process.stdout.write(output)
    process.stderr.write(errors)
    process.exit(child.returncode or 0)

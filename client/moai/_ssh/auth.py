"""Signing in on a transport whose host key has been judged.

Owns the order of methods (PreferredAuthentications), partial success, and the questions to a person.
Refuses to store, log or repeat an answer, to forward the agent, and to try again by itself. At most
three passwords are asked for. Runs on the laptop, in the thread that connects.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import paramiko

from moai._errors import MoaiError
from moai._ssh.dial import Timeouts, unreachable
from moai._ssh.keys import Identities, Identity, find_identities, load_key
from moai._ssh.prompts import Prompter
from moai._ssh.resolve import Resolved
from moai._ssh.transport import OneServiceTransport

MAX_TRIES = 3


def authenticate(
    transport: OneServiceTransport, resolved: Resolved, prompts: Prompter, timeouts: Timeouts, name: str
) -> None:
    """Signs in, or raises.

    Raises:
        MoaiError: SIGN_IN_NEEDED when only a person could help and nobody can be asked;
            SIGN_IN_FAILED with everything that was offered; HOST_UNREACHABLE when the host stops
            answering.
    """
    session = _Session(transport, resolved, prompts, timeouts, name)
    try:
        session.run()
    finally:
        session.identities.close()


@dataclass
class _Session:
    transport: OneServiceTransport
    resolved: Resolved
    prompts: Prompter
    timeouts: Timeouts
    name: str
    offered: list[str] = field(default_factory=list)
    refused: int = 0
    person_needed: list[str] = field(default_factory=list)
    identities: Identities = field(default_factory=Identities)

    def run(self) -> None:
        self.transport.auth_timeout = self.timeouts.auth_s
        allowed: list[str] = []

        def none() -> list[str]:
            # Nobody accepts the method "none"; the refusal tells which methods there are.
            nonlocal allowed
            try:
                return list(self.transport.auth_none(self.resolved.user))
            except paramiko.BadAuthenticationType as error:
                allowed = list(error.allowed_types)
                return []

        self._attempt(none)
        if self.transport.is_authenticated():
            return
        # A method that has done its part is not used again unless the server asks for it again.
        done: set[str] = set()
        while not self.transport.is_authenticated():
            step = self._one_round(allowed, done)
            if step is None:
                raise self._failure(allowed)
            allowed = step

    def _one_round(self, allowed: list[str], done: set[str]) -> list[str] | None:
        """Tries the methods in the user's order; the server's next list after a success, else None."""
        methods: dict[str, Callable[[], list[str] | None]] = {
            "publickey": self._public_keys,
            "keyboard-interactive": self._interactive,
            "password": self._password,
        }
        for method in self.resolved.preferred_authentications:
            if method not in allowed or method in done:
                continue
            step = methods[method]()
            if self.transport.is_authenticated():
                return []
            if step is not None:
                if method not in step:
                    done.add(method)
                return step
            done.add(method)
        return None

    def _public_keys(self) -> list[str] | None:
        if not self.identities.offered and not self.identities.skipped:
            self.identities = find_identities(self.resolved)
        while self.identities.offered:
            identity = self.identities.offered.pop(0)
            key = identity.key or self._open(identity)
            if key is None:
                continue
            self.offered.append(identity.label)
            step = self._try(lambda key=key: self.transport.auth_publickey(self.resolved.user, key))  # type: ignore[misc]
            if step is not None:
                return step
        return None

    def _open(self, identity: Identity) -> paramiko.PKey | None:
        if not identity.encrypted:
            key = load_key(identity.path)
            if key is None:
                self.identities.skipped.append(f"{identity.path} (a kind of key paramiko does not read)")
            return key
        if not self.prompts.available:
            self.person_needed.append(f"the passphrase of {identity.path}")
            return None
        for _attempt in range(MAX_TRIES):
            phrase = self.prompts.secret(f"Passphrase of {identity.path}: ")
            if not phrase:
                break
            key = load_key(identity.path, phrase)
            if key is not None:
                return key
        self.identities.skipped.append(f"{identity.path} (wrong passphrase)")
        return None

    def _password(self) -> list[str] | None:
        if not self.prompts.available:
            self.person_needed.append("a password")
            return None
        for _attempt in range(self.resolved.password_prompts):
            word = self.prompts.secret(f"Password of {self.resolved.user} on {self.name}: ")
            self.offered.append("password")
            step = self._try(
                lambda word=word: self.transport.auth_password(  # type: ignore[misc]
                    self.resolved.user, word, fallback=False
                )
            )
            if step is not None:
                return step
        return None

    def _interactive(self) -> list[str] | None:
        if not self.prompts.available:
            self.person_needed.append("an answer to a question of the host (keyboard-interactive)")
            return None
        for _attempt in range(self.resolved.password_prompts):
            self.offered.append("keyboard-interactive")
            step = self._try(self._ask_and_answer)
            if step is not None:
                return step
        return None

    def _ask_and_answer(self) -> list[str]:
        """One keyboard-interactive exchange: any number of rounds with any number of prompts.

        paramiko calls back in its own thread. The questions are asked in this one, so that Ctrl-C
        interrupts them, and only the host's time counts against the limit.
        """
        events: queue.Queue[object] = queue.Queue()
        replies: queue.Queue[list[str]] = queue.Queue()

        def ask(title: str, instructions: str, fields: list[tuple[str, bool]]) -> list[str]:
            events.put(("ask", title, instructions, fields))
            return replies.get()

        def exchange() -> None:
            try:
                events.put(("done", self.transport.auth_interactive(self.resolved.user, ask)))
            except (paramiko.SSHException, EOFError, OSError) as error:
                events.put(error)

        self.transport.auth_timeout = self.timeouts.person_s
        thread = threading.Thread(target=exchange, name="moai-ssh-interactive", daemon=True)
        thread.start()
        try:
            while True:
                event = events.get(timeout=self.timeouts.auth_s)
                if isinstance(event, (paramiko.SSHException, EOFError, OSError)):
                    raise event
                if isinstance(event, tuple) and event[0] == "done":
                    return list(event[1])
                if isinstance(event, tuple):
                    replies.put(self._answers(event[1], event[2], event[3]))
        except queue.Empty:
            raise self._silent() from None
        finally:
            # Whatever happened here, paramiko's thread must not wait for an answer for ever.
            replies.put([])
            self.transport.auth_timeout = self.timeouts.auth_s

    def _answers(self, title: str, instructions: str, fields: list[tuple[str, bool]]) -> list[str]:
        heading = "\n".join(text.strip() for text in (title, instructions) if text.strip())
        answers = []
        for text, echo in fields:
            shown = f"{heading}\n({self.name}) {text}" if heading else f"({self.name}) {text}"
            heading = ""
            answers.append(self.prompts.answer(shown, bool(echo)))
        return answers

    def _try(self, attempt: Callable[[], list[str]]) -> list[str] | None:
        """The server's next list after a (partial) success; None when it refused."""
        allowed = self._attempt(attempt)
        return allowed if allowed or self.transport.is_authenticated() else None

    def _attempt(self, attempt: Callable[[], list[str]]) -> list[str]:
        """What may come next: paramiko's answer to a success, nothing after a refusal."""
        try:
            return list(attempt())
        except (paramiko.SSHException, EOFError, OSError) as error:
            if "timeout" in str(error).lower():
                raise self._silent() from error
            if not self.transport.is_active():
                if self.offered and not self.transport.was_dismissed and not self.refused:
                    # Nothing was refused and nothing was said: the connection broke, as it may anywhere.
                    where = f"{self.resolved.alias} ({self.resolved.address})"
                    raise MoaiError("LINK_LOST", f"the connection to {where} ended during the sign-in", "try again") from error
                if self.offered:
                    raise self._failure([], "the host closed the connection after these attempts") from error
                why = "the host closed the connection before sign-in"
                raise unreachable(self.resolved, "authentication", why) from error
            self.refused += 1
            return []

    def _silent(self) -> MoaiError:
        self.transport.close()
        return unreachable(
            self.resolved, "authentication", f"no answer to the sign-in in {self.timeouts.auth_s:g} s"
        )

    def _failure(self, allowed: list[str], why: str = "") -> MoaiError:
        skipped = f"; not offered: {', '.join(self.identities.skipped)}" if self.identities.skipped else ""
        offered = ", ".join(self.offered) or "nothing"
        who = f"{self.resolved.user} on {self.name} ({self.resolved.address})"
        details = {
            "host": self.name, "user": self.resolved.user, "offered": ", ".join(self.offered),
            "accepted_methods": ", ".join(allowed),
        }  # fmt: skip
        if self.person_needed:
            needed = " or ".join(self.person_needed)
            return MoaiError(
                "SIGN_IN_NEEDED",
                f"signing in as {who} needs {needed}, and nobody can be asked here; offered: {offered}{skipped}",
                next=f"moai remote up {self.name}",
                details=details,
            )
        takes = f"; the host takes {', '.join(allowed)}" if allowed else ""
        hint = f"; {why}" if why else ""
        return MoaiError(
            "SIGN_IN_FAILED",
            f"{who} refused every sign-in{hint}; offered: {offered}{skipped}{takes}",
            next=f"ssh -v {self.resolved.alias}",
            details=details,
        )

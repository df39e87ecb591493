"""Signing in: which keys are offered, who is asked, and how it ends when nobody can be asked."""

import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import paramiko
import pytest
from fakes.asyncsshd import AsyncSshd
from fakes.sshd import Sshd, make_key, wait_until
from moai._errors import MoaiError
from moai._ssh.connect import connect
from moai._ssh.dial import Timeouts
from moai._ssh.prompts import NoPrompter, TerminalPrompts, printable
from moai._ssh.resolve import resolve

QUICK = Timeouts(auth_s=1.0)


class Person:
    """Answers from a script and remembers the questions."""

    available = True

    def __init__(self, *answers, yes=True):
        self.answers = list(answers)
        self.asked = []
        self.threads = set()
        self.yes = yes

    def confirm(self, text):
        self.asked.append(text)
        return self.yes

    def secret(self, text):
        return self.answer(text, echo=False)

    def answer(self, text, echo):
        self.asked.append((text, echo))
        self.threads.add(threading.current_thread())
        return self.answers.pop(0)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Sshd(tmp_path_factory.mktemp("server"), log_level="DEBUG1") as running:
        yield running


@pytest.fixture(autouse=True)
def no_agent(monkeypatch):
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture
def agent(tmp_path):
    """A real ssh-agent on a socket of its own; yields (socket path, add)."""
    path = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    wait_until(path.exists, "ssh-agent to listen")

    def add(key):
        environment = {**os.environ, "SSH_AUTH_SOCK": str(path)}
        subprocess.run(["ssh-add", "-q", str(key)], env=environment, check=True, stdin=subprocess.DEVNULL)

    yield str(path), add
    process.terminate()
    process.wait()


def sign_in(config, tmp_path, person=None, **kwargs):
    return connect(resolve("box", str(config)), person or NoPrompter("box"), str(tmp_path / "own"), **kwargs)


def works(link):
    stream = link.open_exec("echo works")
    return stream.recv(100) == b"works\n"


def refusals_in(server, since):
    return server.log_text()[since:].count("Failed publickey")


def test_encrypted_key_asks_for_its_passphrase_once(server, tmp_path):
    key = make_key(tmp_path / "key", passphrase="open sesame")
    server.authorize(key)
    config = server.ssh_config(tmp_path / "config", IdentityFile=str(key))
    person = Person("open sesame")
    with sign_in(config, tmp_path, person) as link:
        assert works(link)
    assert person.asked == [(f"Passphrase of {key}: ", False)]


def test_wrong_passphrase_is_asked_three_times_and_nothing_is_offered(server, tmp_path):
    key = make_key(tmp_path / "key", passphrase="open sesame")
    config = server.ssh_config(tmp_path / "config", IdentityFile=str(key))
    person = Person("a", "b", "c")
    with pytest.raises(MoaiError) as caught:
        sign_in(config, tmp_path, person)
    assert caught.value.reason == "SIGN_IN_FAILED"
    assert "wrong passphrase" in caught.value.message
    assert len(person.asked) == 3


def test_encrypted_key_without_a_terminal_needs_a_person(server, tmp_path):
    key = make_key(tmp_path / "key", passphrase="open sesame")
    config = server.ssh_config(tmp_path / "config", IdentityFile=str(key))
    since = len(server.log_text())
    with pytest.raises(MoaiError) as caught:
        sign_in(config, tmp_path)
    assert caught.value.reason == "SIGN_IN_NEEDED"
    assert str(key) in caught.value.message
    assert caught.value.next == "moai remote up box"
    assert refusals_in(server, since) == 0


@pytest.mark.parametrize("form", ["ed25519", "ecdsa", "rsa", "rsa-pem", "ecdsa-pem", "rsa-pem-encrypted"])
def test_key_files_of_every_kind_sign_in(form, server, tmp_path):
    phrase = "secret words" if form.endswith("encrypted") else ""
    key = make_key(tmp_path / "key", form.split("-")[0], passphrase=phrase)
    if "pem" in form:
        subprocess.run(
            ["ssh-keygen", "-q", "-p", "-m", "PEM", "-P", phrase, "-N", phrase, "-f", str(key)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        assert b"BEGIN OPENSSH" not in key.read_bytes()
    server.authorize(key)
    config = server.ssh_config(tmp_path / "config", IdentityFile=str(key))
    with sign_in(config, tmp_path, Person(*([phrase] if phrase else []))) as link:
        assert works(link)


def test_no_key_is_offered_beside_the_configured_ones(server, tmp_path, agent):
    path, add = agent
    for name in ("one", "two"):
        add(make_key(tmp_path / name))
    wrong = make_key(tmp_path / "wrong")
    config = server.ssh_config(tmp_path / "config", IdentityFile=str(wrong), IdentityAgent=path)
    since = len(server.log_text())
    with pytest.raises(MoaiError) as caught:
        sign_in(config, tmp_path)
    assert caught.value.reason == "SIGN_IN_FAILED"
    assert caught.value.details["offered"] == str(wrong)
    assert refusals_in(server, since) == 1


def test_agent_key_that_is_configured_is_used_without_its_file(server, tmp_path, agent):
    path, add = agent
    add(make_key(tmp_path / "unrelated"))
    add(server.client_key)
    public = tmp_path / "id.pub"
    public.write_text(server.client_key.with_suffix(".pub").read_text())
    config = server.ssh_config(tmp_path / "config", IdentityFile=str(tmp_path / "id"), IdentityAgent=path)
    since = len(server.log_text())
    with sign_in(config, tmp_path) as link:
        assert works(link)
    assert refusals_in(server, since) == 0


def test_agent_key_spares_the_passphrase_of_its_file(server, tmp_path, agent):
    path, add = agent
    add(server.client_key)
    encrypted = tmp_path / "encrypted"
    encrypted.write_bytes(server.client_key.read_bytes())
    encrypted.chmod(0o600)
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-P", "", "-N", "some words", "-f", str(encrypted)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    config = server.ssh_config(tmp_path / "config", IdentityFile=str(encrypted), IdentityAgent=path)
    with sign_in(config, tmp_path) as link:
        assert works(link)


def test_all_agent_keys_are_offered_unless_identities_only(server, tmp_path, agent, monkeypatch):
    path, add = agent
    add(make_key(tmp_path / "other"))
    add(server.client_key)
    monkeypatch.setenv("SSH_AUTH_SOCK", path)
    config = server.ssh_config(
        tmp_path / "config", IdentityFile="none", IdentitiesOnly="no", IdentityAgent="SSH_AUTH_SOCK"
    )
    with sign_in(config, tmp_path) as link:
        assert works(link)
    config = server.ssh_config(tmp_path / "config", IdentityFile="none", IdentitiesOnly="no")
    with pytest.raises(MoaiError) as caught:
        sign_in(config, tmp_path)
    assert caught.value.reason == "SIGN_IN_FAILED"


def test_dead_agent_is_named_and_files_still_serve(server, tmp_path):
    config = server.ssh_config(tmp_path / "config", IdentityAgent=str(tmp_path / "nobody"))
    with sign_in(config, tmp_path) as link:
        assert works(link)
    config = server.ssh_config(
        tmp_path / "config", IdentityAgent=str(tmp_path / "nobody"), IdentityFile="none"
    )
    with pytest.raises(MoaiError) as caught:
        sign_in(config, tmp_path)
    assert str(tmp_path / "nobody") in caught.value.message


def test_agent_is_never_forwarded(server, tmp_path, agent):
    path, add = agent
    add(server.client_key)
    config = server.ssh_config(
        tmp_path / "config", IdentityAgent=path, ForwardAgent="yes", ForwardX11="yes"
    )
    with sign_in(config, tmp_path) as link:
        stream = link.open_exec("echo agent=$SSH_AUTH_SOCK display=$DISPLAY")
        assert stream.recv(100) == b"agent= display=\n"


def test_key_file_that_others_can_read_is_not_offered(server, tmp_path):
    key = tmp_path / "key"
    key.write_bytes(server.client_key.read_bytes())
    key.chmod(0o644)
    config = server.ssh_config(tmp_path / "config", IdentityFile=str(key))
    with pytest.raises(MoaiError) as caught:
        sign_in(config, tmp_path)
    assert caught.value.reason == "SIGN_IN_FAILED"
    assert "chmod 600" in caught.value.message


def test_absent_and_garbled_key_files_are_passed_over(server, tmp_path):
    garbled = tmp_path / "garbled"
    garbled.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nrubbish\n-----END OPENSSH PRIVATE KEY-----\n")
    garbled.chmod(0o600)
    config = server.ssh_config(tmp_path / "config")
    text = config.read_text().replace(
        "    IdentityFile", f"    IdentityFile {garbled}\n    IdentityFile /absent\n    IdentityFile", 1
    )
    config.write_text(text)
    with sign_in(config, tmp_path) as link:
        assert works(link)


def test_refused_key_says_what_was_offered_and_is_not_tried_again(server, tmp_path):
    wrong = make_key(tmp_path / "wrong")
    config = server.ssh_config(tmp_path / "config", IdentityFile=str(wrong))
    since = len(server.log_text())
    with pytest.raises(MoaiError) as caught:
        sign_in(config, tmp_path)
    error = caught.value
    assert error.reason == "SIGN_IN_FAILED"
    assert str(wrong) in error.message and "publickey" in error.message
    assert error.details["accepted_methods"] == "publickey"
    assert refusals_in(server, since) == 1
    assert server.log_text()[since:].count("Connection from") == 1


def test_two_keys_where_the_server_wants_both(tmp_path):
    second = make_key(tmp_path / "second")
    both = ["AuthenticationMethods publickey,publickey"]
    with Sshd(tmp_path / "server", authorized=[second.with_suffix(".pub")], config=both) as server:
        config = server.ssh_config(tmp_path / "config")
        text = config.read_text()
        config.write_text(text + f"    IdentityFile {second}\n")
        with sign_in(config, tmp_path) as link:
            assert works(link)
        config.write_text(text)
        with pytest.raises(MoaiError) as caught:
            sign_in(config, tmp_path)
        assert caught.value.reason == "SIGN_IN_FAILED"


def test_too_many_keys_end_with_what_was_offered(tmp_path):
    with Sshd(tmp_path / "server", config=["MaxAuthTries 2"]) as server:
        config = server.ssh_config(tmp_path / "config", IdentityFile="")
        wrong = [make_key(tmp_path / f"wrong{number}") for number in range(4)]
        config.write_text(config.read_text() + "".join(f"    IdentityFile {key}\n" for key in wrong))
        with pytest.raises(MoaiError) as caught:
            sign_in(config, tmp_path)
    assert caught.value.reason == "SIGN_IN_FAILED"
    assert str(wrong[0]) in caught.value.message
    assert str(wrong[3]) not in caught.value.details["offered"]


def test_password_only_openssh_without_a_terminal(tmp_path):
    with Sshd(tmp_path / "server", password_only=True) as server:
        with pytest.raises(MoaiError) as caught:
            sign_in(server.ssh_config(tmp_path / "config"), tmp_path)
        assert caught.value.reason == "SIGN_IN_NEEDED"
        assert "a password" in caught.value.message
        assert "Failed password" not in server.log_text()


def test_password_is_asked_at_most_three_times_and_never_stored(tmp_path):
    with AsyncSshd(tmp_path / "server", password="right") as server:
        config = server.ssh_config(tmp_path / "config")
        person = Person("wrong", "wronger", "right")
        with sign_in(config, tmp_path, person) as link:
            assert works(link)
            assert "right" not in repr(vars(link)) + repr(os.environ)
        assert server.attempts == [("password", "wrong"), ("password", "wronger"), ("password", "right")]
        assert not any(echo for _text, echo in person.asked)

        server.attempts.clear()
        with pytest.raises(MoaiError) as caught:
            sign_in(config, tmp_path, Person("a", "b", "c", "right"))
        assert caught.value.reason == "SIGN_IN_FAILED"
        assert len(server.attempts) == 3
        assert "'a'" not in str(caught.value.details) and "wronger" not in caught.value.message
    stored = [path for path in tmp_path.rglob("*") if path.is_file() and b"wronger" in path.read_bytes()]
    assert stored == []


def test_two_prompts_and_two_rounds_of_questions(tmp_path):
    rounds = [[("Password: ", False, "secret"), ("Token: ", True, "123456")], [("PIN: ", False, "9")]]
    with AsyncSshd(tmp_path / "server", questions=rounds) as server:
        config = server.ssh_config(tmp_path / "config")
        person = Person("secret", "123456", "9")
        with sign_in(config, tmp_path, person) as link:
            assert works(link)
        assert server.attempts == [("answers", ["secret", "123456"]), ("answers", ["9"])]
        assert [echo for _text, echo in person.asked] == [False, True, False]
        texts = [text for text, _echo in person.asked]
        assert texts[0].startswith("Gate\nround 1\n") and texts[0].endswith("Password: ")
        assert "(box)" in texts[1]
        # Ctrl-C must reach the question, so it is asked in the thread that connects.
        assert person.threads == {threading.current_thread()}


def test_wrong_answers_end_after_three_tries(tmp_path):
    with AsyncSshd(tmp_path / "server", questions=[[("Code: ", True, "1")]]) as server:
        with pytest.raises(MoaiError) as caught:
            sign_in(server.ssh_config(tmp_path / "config"), tmp_path, Person("2", "3", "4", "1"))
        assert caught.value.reason == "SIGN_IN_FAILED"
        assert len(server.attempts) == 3


def test_questions_without_a_terminal_need_a_person(tmp_path):
    with AsyncSshd(tmp_path / "server", questions=[[("Code: ", True, "1")]]) as server:
        with pytest.raises(MoaiError) as caught:
            sign_in(server.ssh_config(tmp_path / "config"), tmp_path)
        assert caught.value.reason == "SIGN_IN_NEEDED"
        assert server.attempts == []


def test_batch_mode_asks_nobody(tmp_path):
    with AsyncSshd(tmp_path / "server", password="right") as server:
        person = Person("right")
        with pytest.raises(MoaiError) as caught:
            sign_in(server.ssh_config(tmp_path / "config", BatchMode="yes"), tmp_path, person)
        assert caught.value.reason == "SIGN_IN_NEEDED"
        assert person.asked == []


def test_preferred_methods_decide_the_order(tmp_path):
    with AsyncSshd(tmp_path / "server", password="right", public_key=True) as server:
        config = server.ssh_config(
            tmp_path / "config", PreferredAuthentications="password,publickey", NumberOfPasswordPrompts="1"
        )
        with sign_in(config, tmp_path, Person("wrong")) as link:
            assert works(link)
        assert [method for method, _value in server.attempts][0] == "password"
        assert server.attempts[-1][0] == "publickey"


def test_interrupted_question_leaves_no_connection(tmp_path):
    class Interrupted(Person):
        def answer(self, text, echo):
            raise KeyboardInterrupt

    with AsyncSshd(tmp_path / "server", questions=[[("Code: ", True, "1")]]) as server:
        with pytest.raises(KeyboardInterrupt):
            sign_in(server.ssh_config(tmp_path / "config"), tmp_path, Interrupted())
        wait_until(lambda: not _ours(), "the sign-in threads to end")


def _ours():
    """Threads of a connection; the test server has some of its own."""
    threads = threading.enumerate()
    return [t for t in threads if t.name.startswith("moai-ssh") or isinstance(t, paramiko.Transport)]


def test_host_that_never_answers_the_sign_in_is_given_up(tmp_path):
    with AsyncSshd(tmp_path / "server", password="right", keep_silent_after="auth") as server:
        with pytest.raises(MoaiError) as caught:
            sign_in(server.ssh_config(tmp_path / "config"), tmp_path, Person("right"), timeouts=QUICK)
        assert caught.value.reason == "HOST_UNREACHABLE"
        assert caught.value.details["phase"] == "authentication"


class KeyThenCode(paramiko.ServerInterface):
    """Wants a key and then a code: partial success between two methods."""

    def check_auth_publickey(self, username, key):
        return paramiko.AUTH_PARTIALLY_SUCCESSFUL

    def check_auth_interactive(self, username, submethods):
        return paramiko.InteractiveQuery("", "", ("Code: ", True))

    def check_auth_interactive_response(self, responses):
        return paramiko.AUTH_SUCCESSFUL if responses == ["42"] else paramiko.AUTH_FAILED

    def get_allowed_auths(self, username):
        return "keyboard-interactive" if self.key_seen else "publickey"

    key_seen = False


def test_key_and_then_a_code(tmp_path):
    host_key = paramiko.Ed25519Key.from_private_key_file(str(make_key(tmp_path / "host")))
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    served = KeyThenCode()
    accept_key = served.check_auth_publickey

    def first_key(username, key):
        served.key_seen = True
        return accept_key(username, key)

    served.check_auth_publickey = first_key

    def serve():
        peer, _address = listener.accept()
        transport = paramiko.Transport(peer)
        transport.add_server_key(host_key)
        transport.start_server(server=served, event=threading.Event())
        transports.append(transport)

    transports = []
    threading.Thread(target=serve, daemon=True).start()
    key = make_key(tmp_path / "key")
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {host_key.get_name()} {host_key.get_base64()}\n")
    config = tmp_path / "config"
    config.write_text(
        f"Host box\n HostName 127.0.0.1\n Port {port}\n User u\n IdentityFile {key}\n IdentitiesOnly yes\n"
        f" IdentityAgent none\n UserKnownHostsFile {known}\n GlobalKnownHostsFile /dev/null\n"
    )
    person = Person("42")
    with sign_in(config, tmp_path, person) as link:
        assert link.is_alive
    assert [text for text, _echo in person.asked] == ["(box) Code: "]
    for transport in transports:
        transport.close()
    listener.close()


def test_nobody_answers_with_the_right_reasons():
    nobody = NoPrompter("box")
    assert not nobody.available
    for ask, reason in (
        (lambda: nobody.confirm("key?"), "HOST_KEY_UNKNOWN"),
        (lambda: nobody.secret("Password:"), "SIGN_IN_NEEDED"),
        (lambda: nobody.answer("Code:", True), "SIGN_IN_NEEDED"),
    ):
        with pytest.raises(MoaiError) as caught:
            ask()
        assert caught.value.reason == reason
        assert "box" in caught.value.next


TALK = """
import sys
from moai._ssh.prompts import TerminalPrompts
person = TerminalPrompts()
print(repr((person.available, person.secret("Secret: "), person.confirm("Sure?"), person.answer("Code: ", True))))
"""


def test_terminal_prompts_read_the_terminal_not_standard_input(tmp_path):
    """The child has a terminal and a redirected stdin: answers typed on the terminal count."""
    leader, follower = pty.openpty()
    script = tmp_path / "talk.py"
    script.write_text(TALK)
    process = subprocess.Popen(
        [sys.executable, "-c", OWN_TERMINAL, os.ttyname(follower), sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )
    process.stdin.write(b"from a file\nyes\nfrom a file\n")
    process.stdin.close()
    shown = b""
    try:
        for prompt, typed in ((b"Secret: ", b"hidden words\n"), (b"(yes/no)? ", b"yes\n"), (b"Code: ", b"42\n")):
            while prompt not in shown:
                shown += os.read(leader, 1024)
            os.write(leader, typed)
        assert process.stdout.read().decode().strip() == "(True, 'hidden words', True, '42')"
        assert b"hidden words" not in shown
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        os.close(leader)
        os.close(follower)


# Makes the named terminal the controlling one of this new session, then runs the rest.
OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(os.open(sys.argv[1], os.O_RDWR), termios.TIOCSCTTY, 0)
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_without_a_terminal_nothing_is_read_from_standard_input():
    script = "from moai._ssh.prompts import TerminalPrompts as T\nprint(T().available)\nT().secret('x')\n"
    result = subprocess.run(
        [sys.executable, "-c", script],
        input=b"a secret\n",
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
        check=False,
    )
    assert result.stdout == b"False\n"
    assert b"there is no terminal" in result.stderr


def test_text_of_a_server_cannot_rewrite_the_terminal():
    assert printable("a\x1b[2Jb\r\x07\u202ec\nd\te") == "a[2Jbc\nd\te"


def test_available_terminal_is_told_apart(monkeypatch):
    def absent(*_args, **_kwargs):
        raise OSError(6, "no such device")

    monkeypatch.setattr(os, "open", absent)
    assert TerminalPrompts().available is False


def test_no_private_key_material_reaches_the_server(server, tmp_path):
    config = server.ssh_config(tmp_path / "config")
    with sign_in(config, tmp_path) as link:
        assert works(link)
    secret = b"".join(server.client_key.read_bytes().splitlines()[2:-2])[:60]
    assert secret not in Path(server.log_path).read_bytes()


def test_a_server_that_dies_during_the_sign_in_is_a_lost_link_and_no_refusal(tmp_path):
    """The keys are not to blame when the sessions of sshd are killed between offer and answer."""
    with Sshd(tmp_path / "server", log_level="DEBUG1") as server:
        config = server.ssh_config(tmp_path / "config")
        killed = []

        from moai._ssh.transport import OneServiceTransport

        original = OneServiceTransport.auth_publickey

        def offer(self, username, key, event=None):
            killed.extend(server.kill_sessions())
            return original(self, username, key, event)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OneServiceTransport, "auth_publickey", offer)
            with pytest.raises(MoaiError) as caught:
                sign_in(config, tmp_path, NoPrompter("box"))
        assert killed and caught.value.reason == "LINK_LOST"
        with sign_in(config, tmp_path, NoPrompter("box")) as link:
            assert link.is_alive

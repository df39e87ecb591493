"""Connecting: the host key is judged before anything else, every phase is bounded, streams lose nothing."""

import hashlib
import os
import signal
import socket
import stat
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import paramiko
import pytest
from fakes.sshd import Sshd, make_key, wait_until
from moai._errors import MoaiError
from moai._ssh import connect as connect_module
from moai._ssh.connect import connect, offered_host_key
from moai._ssh.dial import Timeouts
from moai._ssh.known_hosts import Verdict, parse_key, remember
from moai._ssh.prompts import NoPrompter
from moai._ssh.resolve import resolve

QUICK = Timeouts(tcp_s=1.0, banner_s=1.0, key_exchange_s=1.0, auth_s=5.0, channel_s=1.0)


class Person:
    available = True

    def __init__(self, yes=True):
        self.yes = yes
        self.asked = []

    def confirm(self, text):
        self.asked.append(text)
        return self.yes


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Sshd(tmp_path_factory.mktemp("server"), log_level="DEBUG1") as running:
        yield running


@pytest.fixture
def own(tmp_path):
    return str(tmp_path / "state" / "known_hosts")


def dial(config, own, alias="box", person=None, **kwargs):
    return connect(resolve(alias, str(config)), person or NoPrompter(alias), own, **kwargs)


def fails(reason, config, own, alias="box", person=None, **kwargs):
    with pytest.raises(MoaiError) as caught:
        dial(config, own, alias, person, **kwargs)
    assert caught.value.reason == reason, caught.value.message
    return caught.value


def read_all(stream):
    pieces = []
    while piece := stream.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def assert_nothing_authenticated(server, since):
    """The server saw a connection that went away after key exchange, without one sign-in request."""
    wait_until(lambda: server.saw_an_end(since), "the server to see the end")
    log = server.log_text()[since:]
    assert "Connection from" in log
    for sign in ("userauth-request", "Failed ", "Accepted ", "Invalid user"):
        assert sign not in log


# --- host keys --------------------------------------------------------------------------------


def test_known_host_is_signed_in_to_without_a_question(server, tmp_path, own):
    with dial(server.ssh_config(tmp_path / "config"), own) as link:
        assert link.is_alive
        assert link.fingerprint == parse_key(server.host_public_key.encode()).fingerprint
        assert link.transport.agreed_on_strict_kex
    assert not link.is_alive
    assert not os.path.exists(own)


def test_unknown_host_is_refused_when_nobody_can_be_asked(server, tmp_path, own):
    config = server.ssh_config(tmp_path / "config", UserKnownHostsFile="none", StrictHostKeyChecking="ask")
    since = len(server.log_text())
    error = fails("HOST_KEY_UNKNOWN", config, own)
    assert parse_key(server.host_public_key.encode()).fingerprint in error.message
    assert error.next == "moai remote trust box"
    assert_nothing_authenticated(server, since)
    assert not os.path.exists(own)


def test_unknown_host_is_asked_for_once_and_remembered_in_our_own_file(server, tmp_path, own):
    theirs = tmp_path / "users_known_hosts"
    theirs.write_text("# mine\n")
    config = server.ssh_config(
        tmp_path / "config", UserKnownHostsFile=str(theirs), StrictHostKeyChecking="no"
    )
    person = Person()
    with dial(config, own, person=person) as link:
        assert link.fingerprint in person.asked[0]
    with dial(config, own, person=person):
        assert len(person.asked) == 1
    assert theirs.read_text() == "# mine\n"
    assert stat.S_IMODE(os.stat(own).st_mode) == 0o600


def test_unconfirmed_host_is_neither_used_nor_remembered(server, tmp_path, own):
    config = server.ssh_config(tmp_path / "config", UserKnownHostsFile="none", StrictHostKeyChecking="ask")
    since = len(server.log_text())
    fails("HOST_KEY_UNKNOWN", config, own, person=Person(yes=False))
    assert_nothing_authenticated(server, since)
    assert not os.path.exists(own)


def test_strict_yes_asks_nobody(server, tmp_path, own):
    config = server.ssh_config(tmp_path / "config", UserKnownHostsFile="none")
    person = Person()
    fails("HOST_KEY_UNKNOWN", config, own, person=person)
    assert person.asked == []


def test_accept_new_remembers_unasked_but_not_a_changed_key(server, tmp_path, own):
    config = server.ssh_config(
        tmp_path / "config", UserKnownHostsFile="none", StrictHostKeyChecking="accept-new"
    )
    with dial(config, own):
        pass
    assert server.known_hosts_name in Path(own).read_text()
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text()
    Path(own).write_text(f"{server.known_hosts_name} {other}")
    fails("HOST_KEY_CHANGED", config, own)


def test_changed_key_stops_before_sign_in_and_shows_both(server, tmp_path, own):
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text()
    known = tmp_path / "known_hosts"
    known.write_text(f"{server.known_hosts_name} {other}")
    config = server.ssh_config(
        tmp_path / "config", UserKnownHostsFile=str(known), StrictHostKeyChecking="no"
    )
    since = len(server.log_text())
    person = Person()
    error = fails("HOST_KEY_CHANGED", config, own, person=person)
    assert_nothing_authenticated(server, since)
    assert parse_key(other.encode()).fingerprint in error.message
    assert parse_key(server.host_public_key.encode()).fingerprint in error.message
    assert f"{known}:1" in error.message
    assert error.next == "moai remote trust box"
    assert person.asked == []
    assert known.read_text() == f"{server.known_hosts_name} {other}"


def test_revoked_key_is_refused_by_marker_and_by_file(server, tmp_path, own):
    known = tmp_path / "known_hosts"
    known.write_text(
        f"{server.known_hosts_name} {server.host_public_key}\n@revoked * {server.host_public_key}\n"
    )
    since = len(server.log_text())
    fails("HOST_KEY_REVOKED", server.ssh_config(tmp_path / "c", UserKnownHostsFile=str(known)), own)
    listed = tmp_path / "revoked"
    listed.write_text(server.host_public_key + "\n")
    fails("HOST_KEY_REVOKED", server.ssh_config(tmp_path / "c", RevokedHostKeys=str(listed)), own)
    fails("HOST_KEY_REVOKED", server.ssh_config(tmp_path / "c", RevokedHostKeys=str(tmp_path / "absent")), own)
    krl = tmp_path / "krl"
    subprocess.run(["ssh-keygen", "-q", "-k", "-f", str(krl), str(listed)], check=True)
    fails("HOST_KEY_REVOKED", server.ssh_config(tmp_path / "c", RevokedHostKeys=str(krl)), own)
    assert_nothing_authenticated(server, since)
    listed.write_text("")
    with dial(server.ssh_config(tmp_path / "c", RevokedHostKeys=str(listed)), own) as link:
        assert link.is_alive


def test_reconnect_meets_the_same_key_or_stops(tmp_path, own):
    with Sshd(tmp_path / "server", log_level="DEBUG1") as server:
        config = server.ssh_config(tmp_path / "config")
        with dial(config, own) as link:
            first = link.host_key
        server.make_host_keys()
        server.restart()
        server.trust()
        since = len(server.log_text())
        error = fails("HOST_KEY_CHANGED", config, own, expected_key=first)
        assert first.fingerprint in error.message
        assert_nothing_authenticated(server, since)
        with dial(config, own) as link:
            assert link.host_key != first


def test_pinned_fingerprint_is_the_way_for_scripts(server, tmp_path, own):
    config = server.ssh_config(tmp_path / "config", UserKnownHostsFile="none", StrictHostKeyChecking="ask")
    fails("HOST_KEY_CHANGED", config, own, pinned_fingerprint="SHA256:" + "A" * 43)
    right = parse_key(server.host_public_key.encode()).fingerprint
    with dial(config, own, pinned_fingerprint=right):
        pass
    with dial(config, own):
        pass


def test_trust_sees_the_new_key_without_signing_in(server, tmp_path, own):
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text()
    known = tmp_path / "known_hosts"
    known.write_text(f"{server.known_hosts_name} {other}")
    config = server.ssh_config(tmp_path / "config", UserKnownHostsFile=str(known))
    since = len(server.log_text())
    offered = offered_host_key(resolve("box", str(config)), NoPrompter(), own)
    assert_nothing_authenticated(server, since)
    assert offered.key.line == server.host_public_key
    assert offered.judgement.verdict is Verdict.CHANGED
    assert offered.judgement.known[0].key == parse_key(other.encode())
    remember(own, "127.0.0.1", server.port, offered.key)
    with dial(config, own):
        pass


def test_known_type_is_asked_for_first(tmp_path, own):
    """A host with several keys must not look changed because another type was negotiated."""
    with Sshd(tmp_path / "server", host_key_types=("ed25519", "rsa", "ecdsa")) as server:
        for key in server.host_public_keys:
            server.known_hosts.write_text(f"{server.known_hosts_name} {key}\n")
            with dial(server.ssh_config(tmp_path / "config"), own) as link:
                assert link.host_key.line == key
        server.trust()
        with dial(server.ssh_config(tmp_path / "config", HostKeyAlgorithms="rsa-sha2-512"), own) as link:
            assert link.transport.host_key_type == "rsa-sha2-512"


def test_host_key_alias_is_the_name_that_counts(server, tmp_path, own):
    known = tmp_path / "known_hosts"
    known.write_text(f"the-box {server.host_public_key}\n")
    config = server.ssh_config(
        tmp_path / "config", UserKnownHostsFile=str(known), HostKeyAlias="The-Box"
    )
    with dial(config, own) as link:
        assert link.is_alive
    fails("HOST_KEY_UNKNOWN", server.ssh_config(tmp_path / "config", UserKnownHostsFile=str(known)), own)


def test_our_file_is_never_the_user_s(server, tmp_path):
    theirs = tmp_path / "known_hosts"
    config = server.ssh_config(
        tmp_path / "config", UserKnownHostsFile=str(theirs), StrictHostKeyChecking="accept-new"
    )
    fails("CONFIG_INVALID", config, str(theirs))
    assert not theirs.exists()


# --- algorithms -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "HostKeyAlgorithms ssh-rsa",
        "Ciphers aes128-cbc,aes256-cbc",
        "KexAlgorithms diffie-hellman-group14-sha1",
    ],
)
def test_weak_algorithms_are_not_agreed_on(line, tmp_path, own):
    with Sshd(tmp_path / "server", host_key_types=("rsa",), config=[line]) as server:
        error = fails("HOST_UNREACHABLE", server.ssh_config(tmp_path / "config"), own)
    assert error.details["phase"] == "key exchange"
    assert "no algorithm" in error.message


def test_old_paramiko_is_refused(server, tmp_path, own, monkeypatch):
    monkeypatch.setattr(connect_module.paramiko, "__version__", "4.9.1")
    error = fails("CONFIG_INVALID", server.ssh_config(tmp_path / "config"), own)
    assert "4.9.1" in error.message


# --- phases -----------------------------------------------------------------------------------


def test_refused_port_names_phase_and_address(server, tmp_path, own):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        error = fails("HOST_UNREACHABLE", server.ssh_config(tmp_path / "config", Port=str(port)), own)
    assert error.details == {"phase": "TCP connect", "address": f"127.0.0.1 port {port}", "host": "box"}
    assert "Connection refused" in error.message and str(port) in error.message


def test_name_without_an_address_is_named(server, tmp_path, own):
    error = fails("HOST_UNREACHABLE", server.ssh_config(tmp_path / "config", HostName="box.invalid"), own)
    assert error.details["phase"] == "name lookup"
    assert "box.invalid" in error.message


def test_full_backlog_is_given_up_within_the_limit(server, tmp_path, own):
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = []
        for _number in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        config = server.ssh_config(tmp_path / "config", Port=str(address[1]))
        error = fails("HOST_UNREACHABLE", config, own, timeouts=QUICK)
        for filler in fillers:
            filler.close()
    assert error.details["phase"] in ("TCP connect", "SSH greeting")


@pytest.mark.parametrize(
    ("says", "phase"),
    [
        (b"", "SSH greeting"),
        (b"HTTP/1.1 400 Bad Request\r\n", "SSH greeting"),
        (b"SSH-2.0-Stuck_1.0\r\n", "key exchange"),
        (b"SSH-2.0-Stuck_1.0\r\n\x00\x00\x01", "key exchange"),
    ],
)
def test_server_that_stops_talking_is_given_up_with_its_phase(says, phase, server, tmp_path, own):
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        peers = []

        def serve():
            peer, _address = listener.accept()
            peer.sendall(says)
            peers.append(peer)

        thread = threading.Thread(target=serve)
        thread.start()
        config = server.ssh_config(tmp_path / "config", Port=str(listener.getsockname()[1]))
        error = fails("HOST_UNREACHABLE", config, own, timeouts=QUICK)
        thread.join()
        for peer in peers:
            peer.close()
    assert error.details["phase"] == phase


def test_server_that_hangs_up_is_named(server, tmp_path, own):
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=lambda: listener.accept()[0].close())
        thread.start()
        config = server.ssh_config(tmp_path / "config", Port=str(listener.getsockname()[1]))
        error = fails("HOST_UNREACHABLE", config, own)
        thread.join()
    assert error.details["phase"] == "SSH greeting"


def test_stopped_server_does_not_hold_a_command_for_ever(tmp_path, own):
    with Sshd(tmp_path / "server") as server:
        with dial(server.ssh_config(tmp_path / "config"), own, timeouts=QUICK) as link:
            wait_until(lambda: len(server.session_pids()) > 0, "the session process")
            stopped = server.session_pids()
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            with pytest.raises(MoaiError) as caught:
                link.open_exec("true")
            assert caught.value.reason == "HOST_UNREACHABLE"
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)


def test_no_traceback_reaches_the_terminal(server, tmp_path, own, capfd):
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=lambda: listener.accept()[0].close())
        thread.start()
        fails("HOST_UNREACHABLE", server.ssh_config(tmp_path / "c", Port=str(listener.getsockname()[1])), own)
        thread.join()
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux names this option")
def test_dead_link_is_noticed_by_the_kernel(server, tmp_path, own):
    with dial(server.ssh_config(tmp_path / "config"), own) as link:
        assert link.transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000
        assert link.transport.packetizer._Packetizer__keepalive_interval == connect_module.KEEPALIVE_S


# --- jump hosts and ProxyCommand --------------------------------------------------------------


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    with Sshd(tmp_path_factory.mktemp("far"), log_level="DEBUG1") as running:
        yield running


def test_two_hops_are_both_judged_and_closed(server, far, tmp_path, own):
    config = server.ssh_config(tmp_path / "config", alias="hop")
    server.ssh_config(config, alias="hop2", append=True)
    far.ssh_config(config, alias="box", append=True, ProxyJump=f"hop,{server.user}@hop2")
    threads = threading.active_count()
    with dial(config, own) as link:
        assert read_all(link.open_exec("echo $SSH_CONNECTION")).split()[-1] == str(far.port).encode()
        assert link.fingerprint == parse_key(far.host_public_key.encode()).fingerprint
    wait_until(lambda: threading.active_count() <= threads, "the transports of all hops to end")


def test_jump_host_with_a_changed_key_stops_before_the_target(server, far, tmp_path, own):
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text()
    known = tmp_path / "known_hosts"
    known.write_text(f"{server.known_hosts_name} {other}")
    config = server.ssh_config(tmp_path / "config", alias="hop", UserKnownHostsFile=str(known))
    far.ssh_config(config, alias="box", append=True, ProxyJump="hop")
    since, far_since = len(server.log_text()), len(far.log_text())
    error = fails("HOST_KEY_CHANGED", config, own)
    assert error.details["host"] == "hop"
    assert_nothing_authenticated(server, since)
    assert far.log_text()[far_since:] == ""


def test_target_behind_a_jump_with_a_changed_key_is_refused(server, far, tmp_path, own):
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text()
    known = tmp_path / "known_hosts"
    known.write_text(f"{far.known_hosts_name} {other}")
    config = server.ssh_config(tmp_path / "config", alias="hop")
    far.ssh_config(config, alias="box", append=True, ProxyJump="hop", UserKnownHostsFile=str(known))
    since = len(far.log_text())
    assert fails("HOST_KEY_CHANGED", config, own).details["host"] == "box"
    assert_nothing_authenticated(far, since)


def test_jump_that_may_not_forward_is_named(far, tmp_path, own):
    with Sshd(tmp_path / "server", allow_tcp_forwarding=False) as closed:
        config = closed.ssh_config(tmp_path / "config", alias="hop")
        far.ssh_config(config, alias="box", append=True, ProxyJump="hop")
        error = fails("HOST_UNREACHABLE", config, own)
    assert "hop" in error.details["phase"]


def test_jumps_in_a_circle_are_refused(server, tmp_path, own):
    config = server.ssh_config(tmp_path / "config", alias="box", ProxyJump="hop")
    server.ssh_config(config, alias="hop", append=True, Port="1", ProxyJump="box")
    assert "circle" in fails("CONFIG_INVALID", config, own).message


def test_proxy_command_carries_the_connection_and_ends_with_it(server, tmp_path, own):
    proxy = tmp_path / "proxy.py"
    proxy.write_text(PROXY)
    config = server.ssh_config(
        tmp_path / "config", ProxyCommand=f"python3 {proxy} %h %p {tmp_path}/pid", HostKeyAlias="through"
    )
    server_line = f"through {server.host_public_key}\n"
    known = tmp_path / "known"
    known.write_text(server_line)
    config.write_text(config.read_text().replace(str(server.known_hosts), str(known)))
    with dial(config, own) as link:
        assert read_all(link.open_exec("echo through")) == b"through\n"
        pid = int((tmp_path / "pid").read_text())
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    assert listed.stdout.strip() == ""


def test_proxy_command_that_fails_is_named(server, tmp_path, own):
    error = fails("HOST_UNREACHABLE", server.ssh_config(tmp_path / "c", ProxyCommand="false"), own)
    assert error.details["phase"] == "SSH greeting"


PROXY = """
import os, socket, sys, threading
open(sys.argv[3], "w").write(str(os.getpid()))
there = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while data := os.read(0, 65536):
        there.sendall(data)
    os._exit(0)
threading.Thread(target=up, daemon=True).start()
while data := there.recv(65536):
    os.write(1, data)
"""


# --- streams ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def link(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("link")
    with dial(server.ssh_config(folder / "config"), str(folder / "own")) as running:
        yield running


def test_bytes_arrive_unchanged_both_ways(link):
    data = os.urandom(3_000_000)
    stream = link.open_exec("cat")
    received = []
    reader = threading.Thread(target=lambda: received.append(read_all(stream)))
    reader.start()
    stream.sendall(data)
    stream.shutdown_write()
    stream.shutdown_write()
    reader.join()
    assert received == [data]
    assert stream.exit_status(10.0) == 0
    stream.close()
    stream.close()


def test_rekeying_loses_nothing(tmp_path, own):
    with Sshd(tmp_path / "server", config=["RekeyLimit 1M"]) as server:
        with dial(server.ssh_config(tmp_path / "config"), own) as link:
            stream = link.open_exec("head -c 20000000 /dev/zero | tee /dev/stderr 2>/dev/null")
            assert hashlib.sha256(read_all(stream)).digest() == hashlib.sha256(bytes(20_000_000)).digest()


def test_endless_standard_error_does_not_stop_the_output(link):
    stream = link.open_exec("head -c 8000000 /dev/zero | tr '\\0' e >&2; echo last >&2; echo done")
    assert read_all(stream) == b"done\n"
    assert stream.exit_status(10.0) == 0
    tail = stream.recv_stderr_tail()
    assert tail.endswith(b"eelast\n") and len(tail) == 65536


@pytest.mark.parametrize(("command", "status"), [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", None)])
def test_exit_status_is_the_command_s_own_or_unknown(command, status, link):
    stream = link.open_exec(command)
    assert read_all(stream) == b""
    assert stream.exit_status(10.0) == status


def test_exit_status_of_a_running_command_is_unknown(link):
    stream = link.open_exec("cat")
    assert stream.exit_status(0.05) is None
    stream.close()


def test_lost_connection_is_no_exit_status(tmp_path, own):
    with Sshd(tmp_path / "server") as server:
        link = dial(server.ssh_config(tmp_path / "config"), own)
        stream = link.open_exec("echo begun; cat")
        assert stream.recv(100) == b"begun\n"
        server.kill_sessions()
        assert read_all(stream) == b""
        assert stream.exit_status(5.0) is None
        with pytest.raises(MoaiError) as caught:
            stream.sendall(b"more")
        assert caught.value.reason == "LINK_LOST"
        with pytest.raises(MoaiError) as caught:
            link.open_exec("true")
        assert caught.value.reason in ("LINK_LOST", "HOST_UNREACHABLE")
        assert not link.is_alive
        link.close()
        link.close()


def test_listener_restart_leaves_the_stream_alone(tmp_path, own):
    with Sshd(tmp_path / "server") as server:
        with dial(server.ssh_config(tmp_path / "config"), own) as link:
            stream = link.open_exec("cat")
            server.stop_listener(kill=True)
            server.start()
            stream.sendall(b"still here")
            stream.shutdown_write()
            assert read_all(stream) == b"still here"


def test_one_session_a_connection_refuses_the_second_and_frees_the_first(tmp_path, own):
    with Sshd(tmp_path / "server", max_sessions=1) as server:
        with dial(server.ssh_config(tmp_path / "config"), own) as link:
            first = link.open_exec("cat")
            with pytest.raises(MoaiError) as caught:
                link.open_exec("true")
            assert caught.value.reason == "SHELL_RESTRICTED"
            assert "MaxSessions" in caught.value.next
            first.shutdown_write()
            assert read_all(first) == b""
            assert first.exit_status(10.0) == 0
            first.close()
            # The server frees the session when it has reaped the command, a moment after telling its code.
            again = []

            def opens():
                try:
                    again.append(link.open_exec("echo again"))
                except MoaiError as error:
                    assert error.reason == "SHELL_RESTRICTED"
                return bool(again)

            wait_until(opens, "the session to be free again")
            assert read_all(again[0]) == b"again\n"


def test_server_is_openssh_and_paramiko_is_new_enough():
    assert tuple(int(part) for part in paramiko.__version__.split(".")[:2]) >= connect_module.MIN_PARAMIKO

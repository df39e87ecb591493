"""The user's own ssh and Fabric, behind the same seam and the same host key rules."""

import os
import subprocess
import threading
from pathlib import Path

import pytest
from fakes.asyncsshd import AsyncSshd
from fakes.sshd import Sshd, make_key, wait_until
from moai._errors import MoaiError
from moai._ssh.fabric_host import FabricHost
from moai._ssh.known_hosts import parse_key, remember
from moai._ssh.openssh import OpenSshConnection, explain
from moai._ssh.prompts import NoPrompter
from moai._ssh.resolve import resolve


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Sshd(tmp_path_factory.mktemp("server"), log_level="DEBUG1") as running:
        yield running


@pytest.fixture
def own(tmp_path):
    return str(tmp_path / "state" / "known_hosts")


def read_all(stream):
    pieces = []
    while piece := stream.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def fails(config, own, command="true"):
    link = OpenSshConnection(resolve("box", str(config)), own)
    stream = link.open_exec(command)
    try:
        with pytest.raises(MoaiError) as caught:
            read_all(stream)
        assert stream.exit_status(5.0) is None
    finally:
        link.close()
    return caught.value


def test_same_seam_both_ways(server, tmp_path, own):
    link = OpenSshConnection(resolve("box", str(server.ssh_config(tmp_path / "config"))), own)
    data = os.urandom(3_000_000)
    stream = link.open_exec("cat; echo words >&2; exit 7")
    received = []
    reader = threading.Thread(target=lambda: received.append(read_all(stream)))
    reader.start()
    stream.sendall(data)
    stream.shutdown_write()
    stream.shutdown_write()
    reader.join()
    assert received == [data]
    assert stream.exit_status(10.0) == 7
    assert stream.recv_stderr_tail() == b"words\n"
    link.close()
    link.close()


def test_endless_standard_error_does_not_stop_the_output(server, tmp_path, own):
    link = OpenSshConnection(resolve("box", str(server.ssh_config(tmp_path / "config"))), own)
    stream = link.open_exec("head -c 8000000 /dev/zero | tr '\\0' e >&2; echo done")
    assert read_all(stream) == b"done\n"
    assert stream.exit_status(10.0) == 0
    assert len(stream.recv_stderr_tail()) == 65536
    link.close()


def test_changed_key_sends_nothing(server, tmp_path, own):
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text()
    known = tmp_path / "known_hosts"
    known.write_text(f"{server.known_hosts_name} {other}")
    since = len(server.log_text())
    for strict in ("yes", "no", "accept-new"):
        config = server.ssh_config(
            tmp_path / "config", UserKnownHostsFile=str(known), StrictHostKeyChecking=strict
        )
        error = fails(config, own)
        assert error.reason == "HOST_KEY_CHANGED"
        assert error.next == "moai remote trust box"
        assert error.details["offered_fingerprint"] == parse_key(server.host_public_key.encode()).fingerprint
    assert "userauth-request" not in server.log_text()[since:]
    assert known.read_text() == f"{server.known_hosts_name} {other}"


def test_unknown_key_is_refused_and_ours_is_read(server, tmp_path, own):
    config = server.ssh_config(tmp_path / "config", UserKnownHostsFile="none", StrictHostKeyChecking="no")
    assert fails(config, own).reason == "HOST_KEY_UNKNOWN"
    remember(own, "127.0.0.1", server.port, parse_key(server.host_public_key.encode()))
    link = OpenSshConnection(resolve("box", str(config)), own)
    assert read_all(link.open_exec("echo works")) == b"works\n"
    link.close()


def test_new_key_goes_to_our_file_only(server, tmp_path, own):
    theirs = tmp_path / "users"
    theirs.write_text("# mine\n")
    config = server.ssh_config(
        tmp_path / "config", UserKnownHostsFile=str(theirs), StrictHostKeyChecking="accept-new"
    )
    link = OpenSshConnection(resolve("box", str(config)), own)
    assert read_all(link.open_exec("echo works")) == b"works\n"
    link.close()
    assert theirs.read_text() == "# mine\n"
    assert server.known_hosts_name in Path(own).read_text()


def test_revoked_wrong_key_and_refused_port_have_their_reasons(server, tmp_path, own):
    known = tmp_path / "known_hosts"
    known.write_text(f"@revoked * {server.host_public_key}\n")
    config = server.ssh_config(tmp_path / "config", UserKnownHostsFile=str(known))
    assert fails(config, own).reason == "HOST_KEY_REVOKED"
    wrong = make_key(tmp_path / "wrong")
    config = server.ssh_config(tmp_path / "config", IdentityFile=str(wrong))
    assert fails(config, own).reason == "SIGN_IN_FAILED"
    assert fails(server.ssh_config(tmp_path / "config", Port="1"), own).reason == "HOST_UNREACHABLE"
    assert fails(server.ssh_config(tmp_path / "c", HostName="x.invalid"), own).reason == "HOST_UNREACHABLE"


def test_a_question_is_never_asked(tmp_path, own):
    with AsyncSshd(tmp_path / "server", password="right") as box:
        assert fails(box.ssh_config(tmp_path / "config"), own).reason == "SIGN_IN_FAILED"
        assert box.attempts == []


def test_forwarding_and_remote_command_of_the_config_are_off(server, tmp_path, own):
    config = server.ssh_config(
        tmp_path / "config",
        ForwardAgent="yes",
        ForwardX11="yes",
        RemoteCommand="echo theirs",
        LocalForward=f"{server.port} 127.0.0.1:1",
        ExitOnForwardFailure="yes",
        LogLevel="QUIET",
    )
    link = OpenSshConnection(resolve("box", str(config)), own)
    stream = link.open_exec("echo agent=$SSH_AUTH_SOCK display=$DISPLAY")
    assert read_all(stream) == b"agent= display=\n"
    link.close()


def test_command_that_exits_like_ssh_is_unknown_not_failed(server, tmp_path, own):
    link = OpenSshConnection(resolve("box", str(server.ssh_config(tmp_path / "config"))), own)
    stream = link.open_exec("echo begun; exit 255")
    assert read_all(stream) == b"begun\n"
    assert stream.exit_status(10.0) is None
    link.close()


def test_close_ends_ssh_while_somebody_reads(server, tmp_path, own):
    link = OpenSshConnection(resolve("box", str(server.ssh_config(tmp_path / "config"))), own)
    stream = link.open_exec("echo begun; cat")
    assert stream.recv(100) == b"begun\n"
    pid = stream._process.pid
    ended = threading.Event()
    threading.Thread(target=lambda: (read_all(stream), ended.set()), daemon=True).start()
    link.close()
    assert ended.wait(10.0)
    listed = subprocess.run(["ps", "-p", str(pid)], capture_output=True, check=False)
    assert listed.returncode != 0
    with pytest.raises(MoaiError) as caught:
        stream.sendall(b"x")
    assert caught.value.reason == "LINK_LOST"


def test_killed_session_is_lost_not_failed(tmp_path, own):
    with Sshd(tmp_path / "server") as server:
        link = OpenSshConnection(resolve("box", str(server.ssh_config(tmp_path / "config"))), own)
        stream = link.open_exec("echo begun; cat")
        assert stream.recv(100) == b"begun\n"
        server.kill_sessions()
        assert read_all(stream) == b""
        assert stream.exit_status(10.0) is None
        link.close()


def test_words_of_the_command_are_not_taken_for_ssh_s(server, tmp_path):
    resolved = resolve("box", str(server.ssh_config(tmp_path / "config")))
    assert explain("Permission denied: 'data.bin'\n", resolved, "box") is None
    assert explain("", resolved, "box") is None


# --- Fabric -----------------------------------------------------------------------------------


def test_fabric_runs_and_copies_on_our_transport(server, tmp_path, own):
    with FabricHost(resolve("box", str(server.ssh_config(tmp_path / "config"))), NoPrompter(), own) as host:
        assert host.run("echo works", hide=True).stdout == "works\n"
        source = tmp_path / "file"
        source.write_bytes(b"\x00content")
        host.put(str(source), str(tmp_path / "copy"))
        assert (tmp_path / "copy").read_bytes() == b"\x00content"
        host.get(str(tmp_path / "copy"), str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == b"\x00content"
    assert not host.is_connected


@pytest.mark.parametrize("use", ["run", "put", "get", "sftp", "open"])
def test_fabric_cannot_connect_to_a_changed_key(use, server, tmp_path, own):
    """Plain Fabric accepts any key; every way in of ours must refuse."""
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text()
    known = tmp_path / "known_hosts"
    known.write_text(f"{server.known_hosts_name} {other}")
    config = server.ssh_config(
        tmp_path / "config", UserKnownHostsFile=str(known), StrictHostKeyChecking="no"
    )
    host = FabricHost(resolve("box", str(config)), NoPrompter(), own)
    since = len(server.log_text())
    calls = {
        "run": lambda: host.run("true", hide=True),
        "put": lambda: host.put(str(known), str(tmp_path / "copy")),
        "get": lambda: host.get(str(known), str(tmp_path / "copy")),
        "sftp": host.sftp,
        "open": host.open,
    }
    with pytest.raises(MoaiError) as caught:
        calls[use]()
    assert caught.value.reason == "HOST_KEY_CHANGED"
    wait_until(lambda: server.saw_an_end(since), "the server to see the end")
    assert "userauth-request" not in server.log_text()[since:]
    assert not (tmp_path / "copy").exists()


def test_fabric_reconnect_meets_the_key_of_its_first_session(tmp_path, own):
    with Sshd(tmp_path / "server") as server:
        host = FabricHost(resolve("box", str(server.ssh_config(tmp_path / "config"))), NoPrompter(), own)
        host.run("true", hide=True)
        host.close()
        host.run("true", hide=True)
        host.close()
        server.make_host_keys()
        server.restart()
        server.trust()
        with pytest.raises(MoaiError) as caught:
            host.run("true", hide=True)
        assert caught.value.reason == "HOST_KEY_CHANGED"


def test_fabric_env_is_refused_before_connecting(server, tmp_path, own):
    host = FabricHost(resolve("box", str(server.ssh_config(tmp_path / "config"))), NoPrompter(), own)
    for call in (host.run, host.sudo):
        with pytest.raises(MoaiError) as caught:
            call("true", env={"TOKEN": "a; echo X"})
        assert caught.value.reason == "USAGE"
    assert not host.is_connected

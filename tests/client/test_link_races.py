"""What a long soak found between two threads and in a damaged packet: both are a broken link, which is made anew."""

import asyncio
import contextlib
import socket
import threading

import paramiko
import pytest
from cryptography.exceptions import InvalidTag
from moai import _admin
from moai._config import HostConfig
from moai._errors import CLASSES, LinkLost
from moai._follow import Follower
from moai._link import client, holder, upstream
from moai._rpc import Session
from moai._ssh.transport import OneServiceTransport


class Closed:
    """A stub of a channel that another thread has closed; the one after it answers."""

    tries = 0

    def __init__(self, channel):
        self.channel = channel

    def GetAgent(self, request, **_):
        Closed.tries += 1
        if Closed.tries == 1:
            raise ValueError("Cannot invoke RPC: Channel closed!")
        return "answer"

    def WatchEvents(self, request, **_):
        raise ValueError("Cannot invoke RPC on closed channel!")

    def Broken(self, request, **_):
        raise ValueError("something else")


@pytest.fixture
def session(monkeypatch):
    one = Session(HostConfig(name="h", address="h"))
    monkeypatch.setattr(one, "_connected", lambda: (object(), 1))
    monkeypatch.setattr("moai._skew.check", lambda request, spoken: None)
    return one


def test_a_call_on_a_channel_that_another_thread_closed_is_made_again(session):
    Closed.tries = 0
    assert session.call(Closed, "GetAgent", object()) == "answer" and Closed.tries == 2


def test_a_stream_on_one_is_a_lost_link(session):
    with pytest.raises(LinkLost):
        next(session.stream(Closed, "WatchEvents", object()))


def test_another_value_error_stays_a_defect(session):
    with pytest.raises(ValueError, match="something else"):
        session.call(Closed, "Broken", object())


def test_a_packet_whose_seal_is_broken_is_a_failure_like_any_other(monkeypatch):
    transport = OneServiceTransport.__new__(OneServiceTransport)
    monkeypatch.setattr(paramiko.Transport, "get_exception", lambda self: InvalidTag())
    error = transport.get_exception()
    assert isinstance(error, paramiko.SSHException) and "InvalidTag" in str(error)
    for kept in (None, EOFError(), paramiko.SSHException("x"), OSError()):
        monkeypatch.setattr(paramiko.Transport, "get_exception", lambda self, kept=kept: kept)
        assert transport.get_exception() is kept


def test_disconnecting_from_a_holder_that_is_just_leaving_starts_no_other(tmp_path, monkeypatch):
    """Another one would connect, and after a purge bring the agent up again."""
    monkeypatch.setenv("MOAI_CACHE", str(tmp_path))
    host = HostConfig("box", "box")
    path = client.socket_path(host)
    path.parent.mkdir(parents=True, exist_ok=True)
    started = []
    monkeypatch.setattr(client, "_start", lambda *words: started.append(words))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(8)

        def leave():
            while True:
                peer, _ = listener.accept()
                with peer:
                    if peer.recv(1000):  # A call, not only a look.
                        path.unlink()
                        return

        leaving = threading.Thread(target=leave)
        leaving.start()
        assert _admin.disconnect(host) is True
        leaving.join(30.0)
    assert not leaving.is_alive() and started == []


def test_streams_that_ask_during_an_attempt_share_its_failure(tmp_path):
    """Each of its own would try a way that is down twice as often; who asks afterwards begins a new one."""
    box = holder.Holder(HostConfig("box", "box"), None, tmp_path, None)
    asked, tries = threading.Event(), []

    def open_slowly(mode, kept):
        tries.append(mode)
        assert asked.wait(30.0)
        raise LinkLost("LINK_LOST", f"attempt {len(tries)}")

    box._open = open_slowly

    async def ask():
        both = [asyncio.ensure_future(box.ensure()) for _ in range(2)]
        while not tries:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        asked.set()
        found = await asyncio.gather(*both, return_exceptions=True)
        return [*found, *await asyncio.gather(box.ensure(), return_exceptions=True)]

    assert [error.message for error in asyncio.run(ask())] == ["attempt 1", "attempt 1", "attempt 2"]


class Cut:
    """A session whose streams give one message, except the first ``silent`` ones, and then end with these errors."""

    host = HostConfig("box", "box")

    def __init__(self, *errors, silent=0):
        self.errors, self.silent = list(errors), silent

    def stream(self, *_):
        if not self.silent:
            yield object()
        self.silent = max(0, self.silent - 1)
        if self.errors:
            raise self.errors.pop(0)


def followed(monkeypatch, cut, follow=True):
    follower = Follower(cut, "swift-otter")
    monkeypatch.setattr(follower, "_pause", lambda seconds: None)
    return list(follower._again("ReadLog", lambda: None, lambda: not cut.errors, follow))


@pytest.mark.parametrize("reason", ["SHELL_RESTRICTED", "HOST_UNREACHABLE", "AGENT_FAILED", "DISK_FULL", "HOME_NOT_WRITABLE"])
def test_a_stream_goes_on_after_what_may_mend_itself(monkeypatch, reason):
    """A relay that is killed while it dials looks like a login that runs nothing; an agent may be killed as it starts."""
    assert len(followed(monkeypatch, Cut(LinkLost("LINK_LOST", "cut"), CLASSES[reason](reason, "no")))) == 3


@pytest.mark.parametrize("reason", ["SIGN_IN_FAILED", "PYTHON_NOT_FOUND", "HOST_KEY_CHANGED", "JOB_NOT_FOUND"])
def test_a_stream_ends_with_what_stays_as_it_is(monkeypatch, reason):
    with pytest.raises(CLASSES[reason], match="no"):
        followed(monkeypatch, Cut(LinkLost("LINK_LOST", "cut"), CLASSES[reason](reason, "no")))


def test_a_silent_stream_that_was_cut_goes_on_after_an_agent_that_was_killed_as_it_started(monkeypatch):
    """It has brought no message before the cut: the job prints nothing."""
    errors = LinkLost("LINK_LOST", "cut"), CLASSES["AGENT_FAILED"]("AGENT_FAILED", "no")
    assert len(followed(monkeypatch, Cut(*errors, silent=2))) == 1


def test_who_only_reads_what_is_there_is_told_that_no_agent_starts(monkeypatch):
    with pytest.raises(CLASSES["AGENT_FAILED"], match="no"):
        followed(monkeypatch, Cut(LinkLost("LINK_LOST", "cut"), CLASSES["AGENT_FAILED"]("AGENT_FAILED", "no")), follow=False)


def test_an_install_that_failed_is_not_tried_again_by_a_stream(monkeypatch):
    """Each try would send the bundle again."""
    full = CLASSES["DISK_FULL"]("DISK_FULL", "no", "", {"phase": "install"})
    with pytest.raises(CLASSES["DISK_FULL"], match="no"):
        followed(monkeypatch, Cut(LinkLost("LINK_LOST", "cut"), full))


def test_an_install_says_that_it_was_one(monkeypatch):
    def fails(connection, say):
        raise CLASSES["DISK_FULL"]("DISK_FULL", "no")

    monkeypatch.setattr("moai._bootstrap.install.install", fails)
    with pytest.raises(CLASSES["DISK_FULL"]) as caught:
        upstream._install(None, print)
    assert caught.value.details["phase"] == "install"


def test_an_agent_that_has_never_come_up_is_an_error(monkeypatch):
    with pytest.raises(CLASSES["AGENT_FAILED"], match="no"):
        followed(monkeypatch, Cut(CLASSES["AGENT_FAILED"]("AGENT_FAILED", "no"), silent=1))


def test_an_updated_moai_does_not_speak_to_the_link_of_the_one_before(tmp_path, monkeypatch):
    """That process has the old modules in memory, and would read the new ones' files with them."""
    monkeypatch.setenv("MOAI_CACHE", str(tmp_path))
    before = client.socket_path(HostConfig("box", "box"))
    assert client.socket_path(HostConfig("box", "box")) == before
    monkeypatch.setattr(client, "__version__", "999")
    assert client.socket_path(HostConfig("box", "box")) != before


def test_disconnect_ends_the_link_of_the_version_before_too(tmp_path, monkeypatch):
    monkeypatch.setenv("MOAI_CACHE", str(tmp_path))
    host, closed = HostConfig("box", "box"), []
    monkeypatch.setattr("moai._rpc.close_link", closed.append)
    made = [client.socket_path(host)]
    monkeypatch.setattr(client, "__version__", "999")
    made.append(client.socket_path(host))
    made.append(made[0].with_name(made[0].name.partition("-")[0] + ".sock"))  # As 0.1.0 named it.
    with contextlib.ExitStack() as stack:
        for path in [*made, client.socket_path(HostConfig("other", "other"))]:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(path))
            listener.listen(4)
        assert _admin.disconnect(host) is True
    assert sorted(closed) == sorted(made)
    assert _admin.disconnect(host) is False, "nobody listens any more"

"""The bridge of one upstream: what its thread does when nobody dials it."""

import threading

from fakes.sshd import wait_until
from moai._dial import Handshake
from moai._link.upstream import Upstream


class Nothing:
    """A connection and a stream that only close."""

    def __init__(self):
        self.is_closed = False

    def close(self):
        self.is_closed = True


def bridges():
    return [thread for thread in threading.enumerate() if thread.name == "bridge"]


def test_an_upstream_closed_before_anybody_dialled_leaves_no_thread(tmp_path):
    """After ``up`` the first one is never dialled: its thread went round in accept for a minute."""
    before = len(bridges())
    connection, stream = Nothing(), Nothing()
    upstream = Upstream(connection, stream, Handshake({}, ""), tmp_path)
    assert len(bridges()) == before + 1
    upstream.close()
    wait_until(lambda: len(bridges()) == before, "the thread to end", 10)
    assert connection.is_closed and stream.is_closed and not list(tmp_path.iterdir())


def test_a_released_connection_stays_open(tmp_path):
    before = len(bridges())
    connection, stream = Nothing(), Nothing()
    assert Upstream(connection, stream, Handshake({}, ""), tmp_path).release() is connection
    wait_until(lambda: len(bridges()) == before, "the thread to end", 10)
    assert stream.is_closed and not connection.is_closed

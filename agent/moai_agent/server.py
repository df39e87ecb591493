"""Assemble the grpc.aio server on the Unix socket, follow the jobs, leave when idle."""

import asyncio
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional

import grpc
from moai_worker import identity

from moai_agent import expiry, peers
from moai_agent.config import Config
from moai_agent.environments.registry import Registry
from moai_agent.interceptors import Activity, Edge
from moai_agent.jobs.store import JobStore
from moai_agent.servicers import add_all
from moai_agent.spawner import Spawner

#: Both ends must agree on the ping rate, else the server hangs up with too_many_pings: the laptop
#: pings every 10 s, also without calls.
_OPTIONS = (
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 100),
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
    ("grpc.enable_http_proxy", 0),
)

#: Seconds between looks after itself, and how late one may be without a word in the log.
_LOOK_S, _LATE_S = 5.0, 2.0


class Agent:
    """What the servicers share."""

    def __init__(self, config: Config, spawner: Spawner) -> None:
        self.config = config
        self.store = JobStore(config, spawner)
        self.activity = Activity()
        self.registry = Registry(config)
        self.offers = peers.Offers()
        self.leaving = asyncio.Event()


def serve(config: Config, spawner: Spawner) -> int:
    """Run until idle, SIGTERM or Shutdown; returns the exit code."""
    return asyncio.run(_serve(config, spawner))


async def _serve(config: Config, spawner: Spawner) -> int:
    asyncio.get_running_loop().set_default_executor(_full_pool())
    agent = Agent(config, spawner)
    server = grpc.aio.server(options=_OPTIONS, interceptors=[Edge(config.secret, agent.activity)])
    add_all(server, agent)
    address = _bind_address(config)
    server.add_insecure_port(address)
    await server.start()
    os.chmod(config.host.socket, 0o600)
    config.publish()
    _tell_ready()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.leaving.set)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # The first command must not wait for the login shell: ask it now, beside everything else.
    warming = loop.run_in_executor(None, agent.registry.warm)
    agent.store.sweep()
    agent.store.start_following()
    own = os.stat(config.host.socket).st_ino
    clearing: "Optional[asyncio.Future[Any]]" = None
    while not agent.leaving.is_set():
        begun_s = time.monotonic()
        try:
            await asyncio.wait_for(agent.leaving.wait(), _LOOK_S)
        except asyncio.TimeoutError:
            late_s = time.monotonic() - begun_s - _LOOK_S
            if late_s > _LATE_S:
                sys.stderr.write("the agent stood still for %.1f s: its answers came so much later, the jobs went on\n" % late_s)
                sys.stderr.flush()
            if clearing is None and expiry.is_due(config, agent.activity.idle_s(), agent.store.active_count):
                # Once a process is enough: it lives for minutes after the last call.
                clearing = loop.run_in_executor(None, expiry.look, config, lambda: agent.activity.idle_s() > 0 and not agent.leaving.is_set())
                clearing.add_done_callback(_say_failure)
            if agent.activity.idle_s() > config.idle_s and not agent.store.active_count:
                break
            if _inode(config.host.socket) != own:
                # A cleaner removed the socket: nobody can reach us, so make room for a new agent.
                break
    await server.stop(2.0)
    warming.cancel()
    await agent.store.close()
    if _inode(config.host.socket) == own:
        os.unlink(config.host.socket)
    return 0


def _full_pool() -> ThreadPoolExecutor:
    """The threads for what blocks, all of them started now.

    A pool that starts one when it is needed fails where no more processes are allowed, and does the work all the
    same with another thread: a submission was refused, and its job ran.
    """
    count = min(32, (os.cpu_count() or 1) + 4)
    pool, meeting = ThreadPoolExecutor(count), threading.Barrier(count)
    try:
        for _ in range(count):
            pool.submit(meeting.wait)
    except RuntimeError:
        meeting.abort()
        raise
    return pool


def _bind_address(config: Config) -> str:
    """Bind through an open folder: sun_path holds 107 bytes (unix(7)), homes may be longer."""
    folder = os.open(config.host.run, os.O_RDONLY | os.O_DIRECTORY)
    facts = os.fstat(folder)
    if facts.st_uid != os.getuid() or facts.st_mode & 0o077:
        raise PermissionError("%s is not a private folder of ours" % config.host.run)
    if os.path.lexists(config.host.socket):
        os.unlink(config.host.socket)  # We hold the agent lock, so it belongs to a dead agent.
    return "unix:/proc/self/fd/%d/agent.sock" % folder


def _say_failure(clearing: "asyncio.Future[Any]") -> None:
    """What could not be cleared away stays until tomorrow; the agent does not end by it."""
    if not clearing.cancelled() and clearing.exception() is not None:
        sys.stderr.write("old code could not be cleared away: %r\n" % clearing.exception())


def _inode(path: str) -> Optional[int]:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


def _tell_ready() -> None:
    try:
        os.write(3, b"1")
        os.close(3)
    except OSError:
        sys.stderr.write("started by hand: nobody waits for readiness\n")
    sys.stderr.write("agent %d listens (boot %s)\n" % (os.getpid(), identity.boot_id()))
    sys.stderr.flush()

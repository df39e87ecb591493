"""Paths, limits and identity of this agent process; made once at start, never changed."""

import argparse
import fcntl
import os
import secrets
import sys
from typing import List

from moai_worker import identity, jobdir

from moai_agent import PROTOCOL_MAX, PROTOCOL_MIN, __version__


class Config:
    """What the agent was started with.

    Attributes:
        home: the state folder. host: its folders for this container. payload: the bundle we run
        from. incarnation: 16 hex, new for every agent process. idle_s: seconds without client and
        running job after which the agent leaves.
    """

    def __init__(self, home: str, payload: str, idle_s: float) -> None:
        self.home = home
        self.payload = payload
        self.idle_s = idle_s
        self.host_id = identity.host_id(home)
        self.host = jobdir.HostDir(home, self.host_id).create()
        self.digest = os.path.basename(payload)
        self.incarnation = secrets.token_hex(8)
        self.secret = secrets.token_hex(32)
        self.boot = identity.boot_id()
        self._lock_fd = -1

    @classmethod
    def from_argv(cls, argv: List[str], payload: str) -> "Config":
        """Parse the command line; restores proxy variables the relay hid from gRPC."""
        parser = argparse.ArgumentParser(prog="moai_agent")
        parser.add_argument("--home", required=True)
        parser.add_argument("--idle-seconds", type=float, default=900.0)
        options = parser.parse_args(argv)
        os.environ["MOAI_HOME"] = options.home
        os.umask(0o077)
        return cls(options.home, payload, options.idle_seconds)

    def acquire(self) -> bool:
        """Take the agent lock; False when another agent has it."""
        self._lock_fd = os.open(self.host.agent_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def publish(self) -> None:
        """Write secret and facts for relays; called once the socket listens."""
        jobdir.write_atomic(self.host.secret, self.secret.encode())
        jobdir.write_json(os.path.join(self.host.run, "agent.json"), self.facts())

    def facts(self) -> dict:
        """What the handshake line tells the laptop."""
        return {
            "pid": os.getpid(),
            "start_ticks": identity.start_ticks(os.getpid()),
            "digest": self.digest,
            "version": __version__,
            "protocol_min": PROTOCOL_MIN,
            "protocol_max": PROTOCOL_MAX,
            "incarnation": self.incarnation,
            "boot": self.boot,
        }

    @property
    def main_py(self) -> str:
        """Entry of supervisor and steps in our payload."""
        return os.path.join(self.payload, "worker", "main.py")

    @property
    def supervisor_argv(self) -> List[str]:
        """Command line of a supervisor, less the job folder."""
        return [sys.executable, "-I", "-S", self.main_py, "moai_worker.supervisor"]

    def user_environment(self) -> dict:
        """The environment we were started with, as the user's processes should see it."""
        env = dict(os.environ)
        for name in list(env):
            if name.startswith("MOAI_SAVED_"):
                env[name[len("MOAI_SAVED_") :]] = env.pop(name)
        env.pop("GRPC_ENABLE_FORK_SUPPORT", None)
        return env

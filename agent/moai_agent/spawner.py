"""A single-threaded process that starts supervisors for the agent.

Forked before grpc is imported, because fork() beside gRPC's threads deadlocks or prints "skipping
fork() handlers". Ends when the agent ends (its socket closes); the supervisors it started do not. While it
lives it reaps them: the first process of a container is often one that reaps nobody (``sleep infinity``).
"""

import errno
import json
import os
import signal
import socket
import struct
import sys
import threading
from typing import Any, Dict, List

from moai_worker import stopping

_TIMEOUT_S = 20.0


class Spawner:
    """The agent's end: ``spawn`` blocks until the supervisor runs; safe from several threads."""

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self.pid = pid

    @classmethod
    def start(cls, log: str) -> "Spawner":
        """Fork the spawner; must be called while this process has one thread."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        pid = os.fork()
        if pid == 0:
            ours.close()
            try:
                _serve(theirs, log)
            finally:
                os._exit(0)
        theirs.close()
        ours.settimeout(_TIMEOUT_S)
        return cls(ours, pid)

    def spawn(self, argv: List[str], env: Dict[str, str], private: Dict[str, Any]) -> int:
        """Start ``argv`` in its own session with ``private`` as JSON on descriptor 3.

        Returns its process id. Raises OSError when the spawner is gone or fork failed (EAGAIN).
        """
        raw = json.dumps({"argv": argv, "env": env, "private": private}).encode("utf-8", "surrogateescape")
        with self._lock:
            self._sock.sendall(struct.pack(">I", len(raw)) + raw)
            answer = json.loads(_receive(self._sock).decode())
        if answer.get("error"):
            raise OSError(answer["errno"], answer["error"])
        return int(answer["pid"])


def _receive(sock: socket.socket) -> bytes:
    header = _exactly(sock, 4)
    return _exactly(sock, struct.unpack(">I", header)[0])


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            raise ConnectionError("the spawner's socket was closed")
        data += part
    return data


def _serve(sock: socket.socket, log: str) -> None:
    log_fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    null_fd = os.open("/dev/null", os.O_RDWR)
    for fd, source in ((0, null_fd), (1, log_fd), (2, log_fd)):
        os.dup2(source, fd)
    keep = sock.fileno()
    os.closerange(3, keep)
    os.closerange(keep + 1, 1024)
    stopping.become_subreaper()
    signal.signal(signal.SIGCHLD, lambda *_: _reap())
    while True:
        try:
            request = json.loads(_receive(sock).decode("utf-8", "surrogateescape"))
        except ConnectionError:
            return
        try:
            answer: Dict[str, Any] = {"pid": _double_fork(request, keep)}
        except OSError as error:
            answer = {"error": error.strerror, "errno": error.errno}
        raw = json.dumps(answer).encode()
        sock.sendall(struct.pack(">I", len(raw)) + raw)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return  # Nobody is left.


def _double_fork(request: Dict[str, Any], keep: int) -> int:
    """The middle process feeds the private input and ends; the supervisor has a session of its own."""
    private_r, private_w = os.pipe()
    pid_r, pid_w = os.pipe()
    try:
        middle = os.fork()
    except OSError:
        # Where no more processes are allowed, every further try would cost four descriptors.
        for fd in (private_r, private_w, pid_r, pid_w):
            os.close(fd)
        raise
    if middle == 0:
        try:
            os.close(keep)
            os.close(pid_r)
            os.setsid()
            try:
                child = os.fork()
            except OSError as error:
                os.write(pid_w, b"-%d" % error.errno)
                raise
            if child == 0:
                os.close(private_w)
                os.close(pid_w)
                os.dup2(private_r, 3)
                os.set_inheritable(3, True)
                os.closerange(4, 64)
                os.setsid()
                os.chdir("/")
                os.execve(request["argv"][0], request["argv"], request["env"])
            os.close(private_r)
            os.write(pid_w, b"%d" % child)
            os.close(pid_w)
            raw = json.dumps(request["private"]).encode("utf-8", "surrogateescape")
            while raw:
                raw = raw[os.write(private_w, raw) :]
        except OSError as error:
            sys.stderr.write("spawn failed: %s\n" % error)
        finally:
            os._exit(0)
    os.close(private_r)
    os.close(private_w)
    os.close(pid_w)
    raw = os.read(pid_r, 32)
    os.close(pid_r)
    try:
        os.waitpid(middle, 0)
    except ChildProcessError:
        pass  # The signal of its end was faster.
    if not raw:
        raise OSError(errno.EAGAIN, "the supervisor could not be started (see supervisor.log)")
    if raw.startswith(b"-"):
        raise OSError(int(raw[1:]), os.strerror(int(raw[1:])))
    return int(raw)

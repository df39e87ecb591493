"""The far end of a dial: starts the agent if none runs, then copies bytes both ways.

``python -I -S worker/relay.py NONCE [MODE]`` on the container, with stdin and stdout an SSH exec
channel (or a pipe for ``local``). Writes one line ``MOAI1 NONCE {json}`` and then relays between
stdin/stdout and the agent's Unix socket. MODE: empty = start if needed and relay; ``start`` = start
if needed, write the line, end (used on the laptop itself); ``restart`` = end a running agent first.

Standard library only and no asyncio: this start is on the path of every first command. Ends on the
end of either side, and after 60 s without a byte from the laptop, whose keepalive pings every 10 s,
so half-open links cannot pile up.
"""

import errno
import fcntl
import json
import os
import select
import signal
import socket
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, _HERE)
sys.dont_write_bytecode = False

from moai_worker import identity, jobdir  # noqa: E402  (the path must be set first)

_SILENCE_S = 60.0
_START_S = 20.0
_CHUNK = 256 * 1024


def _connect(host):
    """A connected socket to the running agent, or None."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = None
    try:
        # sun_path holds 107 bytes (unix(7)); a long home is reached through an open folder.
        folder = os.open(host.run, os.O_RDONLY | os.O_DIRECTORY)
        owner = os.fstat(folder)
        if owner.st_uid != os.getuid() or owner.st_mode & 0o077:
            raise PermissionError(errno.EPERM, "not a private folder of ours", host.run)
        sock.connect("/proc/self/fd/%d/agent.sock" % folder)
        return sock
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        sock.close()
        return None
    finally:
        if folder is not None:
            os.close(folder)


def _start(host, home):
    """Start the agent detached from us and wait until it listens or has failed."""
    payload = os.path.dirname(_HERE)
    argv = [sys.executable, "-I"]
    if os.path.isdir(os.path.join(payload, "lib")):
        argv.append("-S")
    argv += [os.path.join(payload, "agent", "moai_agent", "__main__.py"), "--home", home]
    ready_r, ready_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        log = os.open(host.agent_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        null = os.open("/dev/null", os.O_RDWR)
        for fd, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, fd)
        os.dup2(ready_w, 3)
        os.set_inheritable(3, True)
        os.closerange(4, 256)
        os.chdir("/")
        env = dict(os.environ, MOAI_HOME=home, GRPC_ENABLE_FORK_SUPPORT="0")
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "grpc_proxy", "PYTHONPATH"):
            # gRPC would send a Unix socket's traffic through a proxy it finds here.
            if name in env:
                env["MOAI_SAVED_" + name] = env.pop(name)
        os.execve(sys.executable, argv, env)
    os.close(ready_w)
    os.waitpid(pid, 0)
    ready, _, _ = select.select([ready_r], [], [], _START_S)
    answer = os.read(ready_r, 1) if ready else b""
    os.close(ready_r)
    if answer != b"1":
        raise RuntimeError("the agent did not start: " + _tail(host.agent_log))


def _tail(path):
    try:
        with open(path, "rb") as source:
            source.seek(0, os.SEEK_END)
            source.seek(max(0, source.tell() - 2000))
            lines = source.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        lines = []
    return " | ".join(lines[-3:]) or "it left no message"


def _ensure(host, home, mode):
    """A socket to the agent, started under a lock if needed: ten relays at once start one."""
    sock = None if mode == "restart" else _connect(host)
    if sock is not None:
        return sock
    lock = os.open(host.start_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sock = _connect(host)
        if sock is not None and mode == "restart":
            _end_running(host, sock)
            sock = None
        if sock is None:
            _start(host, home)
            sock = _connect(host)
        if sock is None:
            raise RuntimeError("the agent ended right after its start: " + _tail(host.agent_log))
        return sock
    finally:
        os.close(lock)


def _end_running(host, sock):
    """SIGTERM to the agent named in agent.json, and wait until its socket is closed."""
    facts = jobdir.read_json(os.path.join(host.run, "agent.json")) or {}
    pid, ticks = int(facts.get("pid") or 0), facts.get("start_ticks")
    if pid > 1 and ticks and identity.is_alive(pid, ticks):
        os.kill(pid, signal.SIGTERM)
    select.select([sock], [], [], 10.0)
    sock.close()
    # The lock file tells when it is really gone.
    lock = os.open(host.agent_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
    signal.alarm(15)
    fcntl.flock(lock, fcntl.LOCK_EX)
    signal.alarm(0)
    os.close(lock)


def _relay(sock):
    """Copy both ways with half-close, holding at most one chunk a direction."""
    stdin, stdout = 0, 1
    for fd in (stdin, stdout):
        os.set_blocking(fd, False)
    sock.setblocking(False)
    to_agent, to_laptop = b"", b""
    open_in, open_agent = True, True
    while True:
        reads, writes = [], []
        if open_in and not to_agent:
            reads.append(stdin)
        if open_agent and not to_laptop:
            reads.append(sock)
        if to_agent:
            writes.append(sock)
        if to_laptop:
            writes.append(stdout)
        if not reads and not writes:
            return
        readable, writable, _ = select.select(reads, writes, [], _SILENCE_S)
        if not readable and not writable:
            return
        try:
            if stdin in readable:
                to_agent = os.read(stdin, _CHUNK)
                if not to_agent:
                    return
            if sock in readable:
                to_laptop = sock.recv(_CHUNK)
                open_agent = bool(to_laptop)
            if to_agent and (sock in writable or stdin in readable):
                to_agent = to_agent[sock.send(to_agent) :]
            if to_laptop and (stdout in writable or sock in readable):
                to_laptop = to_laptop[os.write(stdout, to_laptop) :]
        except (BlockingIOError, InterruptedError):
            continue
        except (BrokenPipeError, ConnectionResetError):
            return
        if not open_agent and not to_laptop:
            return


def main():
    """See the module docstring."""
    nonce, mode = sys.argv[1], (sys.argv[2] if len(sys.argv) > 2 else "")
    home = jobdir.home_folder()
    answer = {"ok": False, "reason": "AGENT_FAILED", "message": ""}
    sock = None
    try:
        host = jobdir.HostDir(home, identity.host_id(home)).create()
        sock = _ensure(host, home, mode)
        answer = jobdir.read_json(os.path.join(host.run, "agent.json")) or {}
        with open(host.secret) as source:
            answer["secret"] = source.read().strip()
        answer.update(ok=True, host_id=host.host_id, run=host.run)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        answer["reason"] = "DISK_FULL" if full else "HOME_NOT_WRITABLE"
        answer["message"] = "%s: %s" % (error.filename or home, error.strerror)
    except RuntimeError as error:
        answer["message"] = str(error)
    os.write(1, ("MOAI1 %s %s\n" % (nonce, json.dumps(answer))).encode())
    if sock is None:
        return 1
    if mode != "start":
        _relay(sock)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The far end of a dial: starts the agent if none runs, then copies bytes both ways.

``python -I -S worker/relay.py NONCE [MODE]`` runs ``main`` on the container, with stdin and stdout an SSH exec
channel (or a pipe for ``local``). Writes one line ``MOAI1 NONCE {json}`` and then relays between
stdin/stdout and the agent's Unix socket. MODE: empty = start if needed and relay; ``start`` = start
if needed, write the line, end (used on the laptop itself); ``restart`` = end a running agent first.

Standard library only and no asyncio. This start is on the path of every first command, so what the agent
wrote of itself is passed on unread, and ``_socket`` does for ``socket``: with json, enum and the like it
took 16 ms beside the 7 of the interpreter, now 2. Ends on the end of either side, and after 60 s without a
byte from the laptop, whose keepalive pings every 10 s, so half-open links cannot pile up.
"""

import _socket
import errno
import fcntl
import os
import select
import struct
import sys
import time

from moai_worker import identity, jobdir

_SILENCE_S = 60.0
_START_S = 30.0
#: An agent that cannot be used is asked to leave, then killed (jobs go on), then given up on.
_LEAVE_S = 5.0
_GIVE_UP_S = 12.0
_CHUNK = 256 * 1024


def _connect(host):
    """A connected socket to the running agent, or None."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
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
    payload = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    argv = [sys.executable, "-I"]
    if os.path.isdir(os.path.join(payload, "lib")):
        argv.append("-S")
    argv += [os.path.join(payload, "agent", "moai_agent", "__main__.py"), "--home", home]
    log = os.open(host.agent_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    # The last words of the agent before this one would explain the wrong thing.
    began = os.fstat(log).st_size
    ready_r, ready_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _become_agent(argv, home, log, ready_w)
        finally:
            os._exit(127)
    os.close(log)
    os.close(ready_w)
    os.waitpid(pid, 0)
    ready, _, _ = select.select([ready_r], [], [], _START_S)
    answer = os.read(ready_r, 1) if ready else b""
    os.close(ready_r)
    if not ready:
        raise RuntimeError("the agent has not started within %d s (is the container busy?): %s" % (_START_S, _tail(host.agent_log, began)))
    if answer != b"1":
        raise RuntimeError("the agent did not start: " + _tail(host.agent_log, began))


def _become_agent(argv, home, log, ready_w):
    """In the forked child: leave session, descriptors and proxies behind and become the agent."""
    os.setsid()
    if os.fork() == 0:
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


def _tail(path, since=0):
    try:
        with open(path, "rb") as source:
            source.seek(0, os.SEEK_END)
            source.seek(max(since, source.tell() - 2000))
            lines = source.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        lines = []
    return " | ".join(lines[-3:]) or "it left no message"


def _ensure(host, home, mode):
    """A socket to the agent and what it says of itself (see _dial); started under a lock: ten relays at once start one."""
    sock, facts = (None, None) if mode == "restart" else _dial(host)
    if facts is not None:
        return sock, facts
    lock = os.open(host.start_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Whoever starts an agent keeps this until the agent has written its facts.
        fcntl.flock(lock, fcntl.LOCK_EX)
        sock, facts = _dial(host)
        if facts is None or mode == "restart":
            _make_room(host, sock)
            _start(host, home)
            sock, facts = _dial(host)
        if facts is None:
            raise RuntimeError("the agent ended right after its start: " + _tail(host.agent_log))
        return sock, facts
    finally:
        os.close(lock)


def _dial(host):
    """Socket of the running agent, and its facts with its secret: a JSON object in one line.

    The facts are None when it has not (or no longer) written its own.
    """
    sock = _connect(host)
    if sock is None:
        return None, None
    try:
        with open(os.path.join(host.run, "agent.json"), errors="replace") as source:
            facts = source.read().strip()
        with open(host.secret, errors="replace") as source:
            secret = source.read().strip()
    except (FileNotFoundError, NotADirectoryError):
        return sock, None
    pid, peer = _pid_in(facts), _peer(sock)
    if not pid or peer not in (0, pid) or not facts.endswith("}"):
        # Those of an earlier agent: this one listens, but its own are not on disk yet.
        return sock, None
    return sock, facts.replace("\n", "")[:-1] + ', "secret": ' + _quoted(secret) + "}"


def _pid_in(facts):
    """The pid in an agent.json, 0 when there is none; a line of its own where jobdir.write_json wrote it."""
    digits = facts.partition('\n "pid": ')[2].partition("\n")[0].rstrip(",")
    if digits.isascii() and digits.isdigit():
        return int(digits)
    import json

    try:
        return int(json.loads(facts)["pid"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0


def _quoted(text):
    """A string of JSON."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return '"%s"' % text
    import json

    return json.dumps(text)


def _peer(sock):
    """Process id of the listener behind a socket (unix(7), SO_PEERCRED); 0 when it is in another PID namespace."""
    return struct.unpack("3i", sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12))[0]


def _make_room(host, sock):
    """Let an agent that is leaving, or that nobody can use, end first: its lock tells when it has."""
    begin = time.monotonic()
    import signal

    asked, pid = [], 0
    if sock is not None:
        # Closed at once: the agent would wait for us as for every connection.
        pid = _peer(sock)
        sock.close()
    lock = os.open(host.agent_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                waited = time.monotonic() - begin
            pid = pid or _recorded(host)
            for number, after in ((signal.SIGTERM, 0.0), (signal.SIGKILL, _LEAVE_S)):
                if pid and waited >= after and number not in asked:
                    asked.append(number)
                    _signal(pid, number)
            if waited > _GIVE_UP_S:
                raise RuntimeError("another agent (pid %s) holds %s and does not end" % (pid or "?", host.agent_lock))
            time.sleep(0.02)
    finally:
        os.close(lock)


def _recorded(host):
    """The agent named in agent.json, if that very process lives and is an agent; else 0."""
    facts = jobdir.read_json(os.path.join(host.run, "agent.json"))
    if not identity.describes_living(facts):
        return 0
    try:
        with open("/proc/%d/cmdline" % facts["pid"], "rb") as source:
            return facts["pid"] if b"moai_agent" in source.read() else 0
    except OSError:
        return 0


def _signal(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # It has just ended.


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
    sock, reason = None, "AGENT_FAILED"
    try:
        jobdir.make_private(home)
        host = jobdir.HostDir(home, identity.host_id(home)).create()
        sock, facts = _ensure(host, home, mode)
        answer = '%s, "ok": true, "host_id": %s, "run": %s}' % (facts[:-1], _quoted(host.host_id), _quoted(host.run))
    except OSError as error:
        reason = "DISK_FULL" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "HOME_NOT_WRITABLE"
        message = "%s: %s" % (error.filename or home, error.strerror)
    except RuntimeError as error:
        message = str(error)
    if sock is None:
        answer = '{"ok": false, "reason": "%s", "message": %s}' % (reason, _quoted(message))
    os.write(1, ("MOAI1 %s %s\n" % (nonce, answer)).encode())
    if sock is None:
        return 1
    if mode != "start":
        _relay(sock)
    return 0

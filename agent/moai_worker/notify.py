"""Tells somebody that a job ended or stalled: a command on the container, a POST to an address.

Runs in the supervisor, so neither agent nor laptop is needed. Nothing here changes the job's outcome: what
fails becomes a warning. The address may hold a secret: it stays in memory, and no message repeats it.
Standard library only; what only an address needs is imported only where there is one.

The command's output goes into the job's log, each line behind ``[moai] | ``.
"""

import json
import os
import select
import signal
import subprocess
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from moai_worker import identity
from moai_worker.jobdir import JobDir
from moai_worker.watchers import Limits

FINISH, FAILURE, STALL = "finish", "failure", "stall"
_SCHEMA = "moai.webhook/1"
_TRIES = 3
_MAX_OUTPUT_BYTES = 64 * 1024


class Notifier:
    """The command and the address of one job.

    Args:
        job, spec, plan: whose. private: the supervisor's input (``env``, ``webhook``, ``proxy``).
        log_fd: of the job's log. warn: called with a sentence when something failed.
    """

    def __init__(
        self,
        job: JobDir,
        spec: Dict[str, Any],
        plan: Dict[str, Any],
        private: Dict[str, Any],
        limits: Limits,
        log_fd: int,
        warn: Callable[[str], None],
    ) -> None:
        self._job, self._spec, self._plan, self._private = job, spec, plan, private
        self._limits, self._log_fd, self._warn = limits, log_fd, warn
        self._command = str(spec.get("on_finish") or "")
        self._address = str(private.get("webhook") or "")
        if spec.get("webhook") and not self._address:
            warn("the address of the webhook is not known any more; nothing is sent")
        if self._address:
            # Here, not in a thread: another thread may fork while a module is half imported.
            import http.client  # noqa: F401
            import urllib.request  # noqa: F401
        self._child: Optional[subprocess.Popen] = None
        self._status: Optional[int] = None
        self._end_s = 0.0
        self._left = 0
        self._line = b""
        self._posts: List[_Post] = []

    @property
    def wanted(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self._command or self._address)

    def tell(self, event: str, state: str, reason: Optional[Dict[str, Any]]) -> None:
        """Begin to tell; ``pump`` goes on with it. A stall is not told twice at once, an end does not wait for it."""
        if self._child is not None and event != STALL:
            self._kill()
            self._finish("")
        if self._command and self._child is None:
            self._start(event, state, reason)
        if self._address:
            body = {
                "schema": _SCHEMA,
                "job": self._job.id,
                "name": self._spec.get("name") or "",
                "host": os.uname().nodename,
                "event": event,
                "state": state,
                "reason": {k: reason.get(k, "") for k in ("code", "message", "next")} if reason else None,
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
            env = self._private.get("env") or {}
            proxy = self._private.get("proxy") or env.get("https_proxy") or env.get("http_proxy") or ""
            self._posts.append(_Post(self._address, body, proxy, env.get("no_proxy") or "", self._limits))

    def pump(self) -> bool:
        """Take what is new; True when nobody is left to wait for."""
        if self._child is not None:
            self._read()
            if self._status is not None:
                self._ended()
            elif time.monotonic() > self._end_s:
                self.cut("ran longer than %g s and was ended" % self._limits.finish_s)
        for post in list(self._posts):
            if post.done:
                self._posts.remove(post)
                if post.problem:
                    self._warn("the webhook at %s was not reached: %s" % (post.where, post.problem))
        return self._child is None and not self._posts

    def cut(self, why: str = "was cut short") -> None:
        """End the command now and forget what is being sent."""
        self._posts = [post for post in self._posts if post.done]
        if self._child is not None:
            self._kill()
            self._finish("the command at the end " + why)

    def reaped(self, pid: int, status: int) -> None:
        """The supervisor has seen the end of a child."""
        if self._child is not None and pid == self._child.pid:
            self._status = status
            self._child.returncode = 0  # Reaped there; Popen must not wait for it again.

    def processes(self) -> Set[int]:
        """Those of the command: they are not the job's."""
        if self._child is None:
            return set()
        return {self._child.pid} | set(identity.descendants(self._child.pid))

    # -- command -------------------------------------------------------------------------------

    def _start(self, event: str, state: str, reason: Optional[Dict[str, Any]]) -> None:
        env = dict(self._private.get("env") or {})
        env.update({str(k): str(v) for k, v in (self._spec.get("variables") or {}).items()})
        env.update(
            MOAI_EVENT=event,
            MOAI_JOB_ID=self._job.id,
            MOAI_JOB_STATE=state,
            MOAI_JOB_REASON=str((reason or {}).get("code") or ""),
            MOAI_JOB_MESSAGE=str((reason or {}).get("message") or "").replace("\0", ""),
            MOAI_JOB_OUTPUT=str(self._plan.get("output") or ""),
        )
        head = "[moai] on-finish (%s): %s\n" % (event, self._command.replace("\n", "; "))
        self._write(line_break(self._job.log) + head.encode("utf-8", "replace"))
        try:
            self._child = subprocess.Popen(
                ["/bin/sh", "-c", self._command],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
                cwd=self._folder(), env=env, start_new_session=True, close_fds=True, restore_signals=True,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            self._warn("the command at the end could not be started: %s" % error)
            return
        os.set_blocking(self._child.stdout.fileno(), False)  # type: ignore[union-attr]
        self._status, self._line, self._left = None, b"", _MAX_OUTPUT_BYTES
        self._end_s = time.monotonic() + self._limits.finish_s

    def _folder(self) -> str:
        steps = self._plan.get("steps") or [{}]
        for path in (steps[-1].get("cwd"), os.path.expanduser("~")):
            if path and os.path.isdir(path):
                return str(path)
        return "/"

    def _read(self) -> None:
        stream = self._child.stdout if self._child is not None else None
        if stream is None:
            return
        while True:
            try:
                data = os.read(stream.fileno(), 16 * 1024)
            except (BlockingIOError, OSError):
                return
            if not data:
                return
            lines = (self._line + data).split(b"\n")
            self._line = lines.pop()[-4096:]
            for line in lines:
                self._say(line)

    def _say(self, line: bytes) -> None:
        if self._left > 0:
            self._left -= len(line) + 9
            self._write(b"[moai] | " + line[:4096] + b"\n")
            if self._left <= 0:
                self._write(b"[moai] | (more output was left out)\n")

    def _ended(self) -> None:
        self._read()
        self._kill()  # What it left in the background would hold the container.
        status = self._status or 0
        code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        self._finish("the command at the end failed with exit code %d" % code if code else "")

    def _finish(self, problem: str) -> None:
        if self._line:
            self._say(self._line)
        if self._child is not None and self._child.stdout is not None:
            self._child.stdout.close()
            self._child.returncode = 0
        self._child = None
        if problem:
            self._warn(problem)

    def _kill(self) -> None:
        # Its own session and our child: the group's number cannot have become another's meanwhile.
        try:
            os.killpg(self._child.pid, signal.SIGKILL)  # type: ignore[union-attr]
        except (ProcessLookupError, PermissionError):
            return

    def _write(self, data: bytes) -> None:
        try:
            os.write(self._log_fd, data)
        except OSError:
            return  # A full disk: the log is the job's, and this is the least of it.


class _Post:
    """One POST, tried three times in a thread of its own."""

    def __init__(self, address: str, body: Dict[str, Any], proxy: str, no_proxy: str, limits: Limits) -> None:
        from urllib.parse import urlsplit

        self.where = urlsplit(address).hostname or "?"
        self.done, self.problem = False, ""
        self._address, self._limits = address, limits
        self._body = json.dumps(body).encode()
        self._proxy = "" if _is_excluded(self.where, no_proxy) else proxy
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            for number in range(_TRIES):
                self.problem = self._try()
                if not self.problem:
                    break
                if number < _TRIES - 1:
                    select.select([], [], [], self._limits.webhook_pause_s * (number + 1))
        finally:
            self.done = True

    def _try(self) -> str:
        """One try; what went wrong, without the address."""
        import http.client
        import urllib.error
        import urllib.request

        class NoRedirect(urllib.request.HTTPRedirectHandler):
            """Another address is not the one that was given."""

            def redirect_request(self, *args: Any) -> None:
                return None

        proxies = {"http": self._proxy, "https": self._proxy} if self._proxy else {}
        opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), NoRedirect)
        try:
            address, headers = _without_password(self._address)
            headers.update({"Content-Type": "application/json", "User-Agent": "moai"})
            request = urllib.request.Request(address, self._body, headers, method="POST")
            with opener.open(request, timeout=self._limits.webhook_s) as answer:
                answer.read(1024)
            return ""
        except urllib.error.HTTPError as error:
            error.close()
            return "it answered %d" % error.code
        except urllib.error.URLError as error:
            cause = error.reason
            return str(cause.strerror or cause) if isinstance(cause, OSError) else type(cause).__name__
        except OSError as error:
            return str(error.strerror or type(error).__name__)
        except (http.client.HTTPException, ValueError) as error:
            return type(error).__name__  # Their texts may repeat the address.


def line_break(path: str) -> bytes:
    """What must stand before a line of ours at the end of a log: nothing, or a newline."""
    try:
        with open(path, "rb") as source:
            if not source.seek(0, os.SEEK_END):
                return b""
            source.seek(-1, os.SEEK_END)
            return b"" if source.read(1) == b"\n" else b"\n"
    except OSError:
        return b""


def address_problem(address: str) -> str:
    """Why nothing can be sent to an address, without repeating it; "" when it can."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return "it cannot be read"
    if any(ord(sign) <= 32 or ord(sign) > 126 for sign in address):
        return "it holds a blank or a sign that is not ASCII"
    return "" if usable else "it is no http:// or https:// address"


def _without_password(address: str) -> Tuple[str, Dict[str, str]]:
    """(the address without user and password, the header that carries them)."""
    import base64
    from urllib.parse import unquote, urlsplit, urlunsplit

    parts = urlsplit(address)
    if not parts.username:
        return address, {}
    pair = "%s:%s" % (unquote(parts.username), unquote(parts.password or ""))
    bare = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))
    return bare, {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode("ascii")}


def _is_excluded(host: str, no_proxy: str) -> bool:
    names = [name.strip().lstrip(".") for name in no_proxy.split(",") if name.strip()]
    loopback = host in ("localhost", "::1") or host.startswith("127.")
    return loopback or any(name == "*" or host == name or host.endswith("." + name) for name in names)

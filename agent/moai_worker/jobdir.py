"""The on-disk contract: every file name of the state folder and of a job folder, in one place.

Owns the layout and the two ways of writing a small file durably. Nobody else joins these paths.
Used by the agent, the supervisor, the steps and the inspector; standard library only.

Layout (``MOAI_HOME``, default ``~/.moai``)::

    payload/<digest>/            one unpacked bundle, shared, never changed after its rename
    hosts/<hostname>.dial        interpreter and digest to dial with, two lines
    hosts/<host id>/run/         agent.sock, agent.secret, agent.lock, agent.log, queue/
    hosts/<host id>/jobs/<id>/   one job

Job folder: ``spec.json`` what was asked, ``plan.json`` ordered steps, ``log`` stdout and stderr of
the steps, ``log.times`` clock of the log, ``reports.jsonl`` typed reports, ``events.jsonl`` the
journal (the agent is its only writer), ``exit.json`` the outcome, ``supervisor.lock`` held by the
living supervisor and holding its identity, ``control/`` requests to the supervisor, results of the steps
and, while the supervisor tells of the end, ``outcome.json``.
"""

from __future__ import annotations

import errno
import os

# The relay imports this on the path of every first command: typing alone takes 4 ms there, json and what it needs 5.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

#: Written into spec.json; a reader refuses a greater one.
SCHEMA = 1

TERMINAL_STATES = ("SUCCEEDED", "FAILED", "CANCELLED", "INTERRUPTED", "UNKNOWN")


def home_folder() -> str:
    """``MOAI_HOME`` or ``~/.moai``, absolute."""
    return os.path.abspath(os.path.expanduser(os.environ.get("MOAI_HOME") or "~/.moai"))


def make_private(path: str) -> str:
    """Create ``path`` and its parents with mode 0700 whatever the umask; returns ``path``.

    Raises OSError; PermissionError when it exists and belongs to somebody else.
    """
    if not os.path.isdir(path):
        parent = os.path.dirname(path)
        if parent and not os.path.isdir(parent):
            make_private(parent)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass  # Somebody was faster: one of ours, or not, which is looked at below.
        else:
            os.chmod(path, 0o700)
    if os.stat(path).st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "folder belongs to another user", path)
    return path


def write_atomic(path: str, data: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` durably: temp file in the same folder, fsync, rename, fsync of the folder."""
    folder = os.path.dirname(path)
    temp = os.path.join(folder, ".tmp-%d-%s" % (os.getpid(), os.urandom(6).hex()))
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as out:
            out.write(data)
            out.flush()
            os.fchmod(out.fileno(), mode)
            os.fsync(out.fileno())
        os.replace(temp, path)
    except BaseException:
        if os.path.exists(temp):
            os.unlink(temp)
        raise
    sync_folder(folder)


def sync_folder(folder: str) -> None:
    """Make renames inside ``folder`` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_json(path: str, value: Any) -> None:
    """``write_atomic`` of pretty JSON."""
    import json

    write_atomic(path, json.dumps(value, indent=1, sort_keys=True).encode("utf-8") + b"\n")


def read_json(path: str) -> Optional[Dict[str, Any]]:
    """The object in ``path``; None when the file is missing or not (yet) a JSON object."""
    import json

    try:
        with open(path, "rb") as source:
            value = json.loads(source.read().decode("utf-8", "replace"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None


class HostDir:
    """Folders of one container below the state folder."""

    def __init__(self, home: str, host_id: str) -> None:
        self.home = home
        self.host_id = host_id
        self.path = os.path.join(home, "hosts", host_id)
        self.run = os.path.join(self.path, "run")
        self.jobs = os.path.join(self.path, "jobs")
        self.queue = os.path.join(self.run, "queue")
        self.socket = os.path.join(self.run, "agent.sock")
        self.secret = os.path.join(self.run, "agent.secret")
        self.agent_lock = os.path.join(self.run, "agent.lock")
        self.start_lock = os.path.join(self.run, "start.lock")
        self.agent_log = os.path.join(self.run, "agent.log")
        self.supervisor_log = os.path.join(self.run, "supervisor.log")
        self.device_lock = os.path.join(self.run, "devices.lock")
        self.settings = os.path.join(self.path, "settings.json")

    def create(self) -> HostDir:
        """Make the folders (0700). Raises PermissionError when one of them is somebody else's."""
        # From the top: whoever owns a folder above could put another one in the place of ours.
        for folder in (self.home, os.path.dirname(self.path), self.path, self.run, self.jobs, self.queue):
            make_private(folder)
        return self

    def job(self, job_id: str) -> JobDir:
        """The folder of a job, existing or not."""
        return JobDir(os.path.join(self.jobs, job_id))

    def job_ids(self) -> List[str]:
        """Ids of all published job folders, unordered."""
        try:
            names = os.listdir(self.jobs)
        except FileNotFoundError:
            return []
        return [name for name in names if not name.startswith(".")]


class JobDir:
    """File names of one job folder."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.id = os.path.basename(path)
        self.spec = os.path.join(path, "spec.json")
        self.plan = os.path.join(path, "plan.json")
        self.log = os.path.join(path, "log")
        self.log_times = os.path.join(path, "log.times")
        self.reports = os.path.join(path, "reports.jsonl")
        self.events = os.path.join(path, "events.jsonl")
        self.exit = os.path.join(path, "exit.json")
        self.lock = os.path.join(path, "supervisor.lock")
        self.control = os.path.join(path, "control")

    def control_file(self, name: str) -> str:
        """A request (``cancel``, ``checkpoint``, ``stop``, ``evaluate``, ``log-interval``), ``result-<step>`` or
        ``outcome`` in ``control/``."""
        return os.path.join(self.control, name + ".json")

    def host(self) -> HostDir:
        """The host folder this job lies in."""
        jobs = os.path.dirname(self.path)
        host_path = os.path.dirname(jobs)
        return HostDir(os.path.dirname(os.path.dirname(host_path)), os.path.basename(host_path))

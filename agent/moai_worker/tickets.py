"""The queue of an accelerator: ticket files and flock, no agent needed.

Each waiting or running job owns a ticket file in ``run/queue/<accelerator>/`` and holds an
exclusive flock on it for as long as its supervisor lives. The lowest living ticket owns the
accelerator. A ticket whose lock is free is alive only while the child process written into it
lives (its supervisor was killed, the accelerator is still in use); else it is removed.

Run by supervisors. Numbers are handed out under a lock on the queue folder, so order = arrival.
"""

import fcntl
import json
import os
from typing import Any, Dict, List, Optional, Tuple

from moai_worker import identity, jobdir


class Ticket:
    """This job's place in the queue of one accelerator.

    Args:
        queue: the queue folder of the host (``HostDir.queue``).
        accelerator: its key, for example ``default`` or a device id.
        job_id: the job that waits.
    """

    def __init__(self, queue: str, accelerator: str, job_id: str) -> None:
        key = "".join(c if c.isalnum() or c in "._-" else "_" for c in accelerator) or "default"
        self._folder = jobdir.make_private(os.path.join(queue, key))
        self._job_id = job_id
        self._path = ""
        self._fd = -1

    def take(self) -> None:
        """Enter the queue at its end; safe to call once."""
        guard = os.open(os.path.join(self._folder, ".guard"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(guard, fcntl.LOCK_EX)
            last = os.read(guard, 32).strip()
            number = max([int(last or b"0")] + [entry[0] for entry in self._entries()]) + 1
            os.pwrite(guard, b"%020d" % number, 0)
            path = os.path.join(self._folder, "%020d-%s" % (number, self._job_id))
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            self._path, self._fd = path, fd
        finally:
            os.close(guard)

    def ahead(self) -> List[str]:
        """Job ids before this one, the holder first; empty means the accelerator is ours."""
        mine = os.path.basename(self._path)
        names = []
        for _, name in self._entries():
            if name >= mine:
                break
            if self._is_living(name):
                names.append(name.split("-", 1)[1])
        return names

    def note_child(self, child: Optional[Dict[str, Any]]) -> None:
        """Remember the running child (``identity.describe``), so the place survives us."""
        raw = json.dumps({"child": child}).encode()
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, raw, 0)

    def leave(self) -> None:
        """Give the place back."""
        if self._fd >= 0:
            os.unlink(self._path)
            os.close(self._fd)
            self._fd = -1

    def _entries(self) -> List[Tuple[int, str]]:
        found = []
        for name in os.listdir(self._folder):
            number, dash, _ = name.partition("-")
            if dash and number.isdigit():
                found.append((int(number), name))
        return sorted(found)

    def _is_living(self, name: str) -> bool:
        path = os.path.join(self._folder, name)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            raw = os.pread(fd, 4096, 0)
            child = json.loads(raw.decode() or "{}").get("child") if raw else None
            if identity.describes_living(child):
                return True
            # A ticket that was created but not locked yet is only seen under the guard, which its
            # maker holds; so a free ticket without a living child belongs to nobody.
            if not self._guard_is_held():
                try:
                    os.unlink(path)
                except FileNotFoundError:
                    return False
                return False
            return True
        finally:
            os.close(fd)

    def _guard_is_held(self) -> bool:
        guard = os.open(os.path.join(self._folder, ".guard"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(guard)
        return False

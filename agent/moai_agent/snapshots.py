"""Snapshots of code: a manifest and contents by digest, in the work folder; jobs get copies of their own.

Owns ``WORK/code/``: ``contents/<2 hex>/<sha256>`` (never changed once there), ``snapshots/<id>.json``, and
the copies below ``jobs/`` that the ``code`` step makes. A later push never changes a job that waits in a
queue. Refuses names that lead out of the folder, and contents that do not have their digest. Blocking.
"""

import hashlib
import json
import os
import re
from typing import Any, Dict, List, Sequence, Tuple

from moai_worker import jobdir

from moai_agent.errors import AgentError

MAX_FILES = 20000
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
#: Empty, absolute, with a NUL, or with a part that is empty, "." or "..".
_LEADS_OUT = re.compile(r"^$|\0|(?:^|/)\.{0,2}(?:/|$)", re.DOTALL).search
_ID = re.compile(r"^[0-9a-f]{32}$")


class Snapshots:
    """The snapshots of one work folder."""

    def __init__(self, work: str) -> None:
        self.root = os.path.join(work, "code")
        self.contents = os.path.join(self.root, "contents")
        self.manifest = ""

    def named(self, snapshot: str) -> "Snapshots":
        """This, with ``manifest`` set to that of a snapshot."""
        self.manifest = self._manifest(snapshot)
        return self

    def plan(self, files: Sequence[Any], base: str = "", gone: Sequence[str] = ()) -> Tuple[str, List[str]]:
        """Register files (path, sha256, size_bytes, executable); (id, digests that are missing).

        Args:
            base: a snapshot that has all other files. gone: paths of it that are left out.

        The id is ``""`` when base is not (or no longer) here as it was registered. Raises AgentError: USAGE
        for a hostile or impossible list.
        """
        entries: Dict[str, Dict[str, Any]] = {}
        if base:
            known = self._registered(base)
            if known is None:
                return "", []
            entries = {entry["path"]: entry for entry in known}
            for path in gone:
                entries.pop(path, None)
        if max(len(files), len(entries)) > MAX_FILES:
            raise _too_many(max(len(files), len(entries)))
        seen = set()
        for file in files:
            _check_path(file.path)
            if not _SHA256.match(file.sha256):
                raise AgentError("USAGE", "%r is no SHA-256" % file.sha256[:80], "send hex digests")
            if file.path in seen:
                raise AgentError("USAGE", "%s is listed twice" % file.path, "list each file once")
            seen.add(file.path)
            entries[file.path] = {"path": file.path, "sha256": file.sha256, "size": file.size_bytes, "executable": file.executable}
        if len(entries) > MAX_FILES:
            raise _too_many(len(entries))
        raw = json.dumps([entries[path] for path in sorted(entries)], sort_keys=True).encode("utf-8")
        snapshot = hashlib.sha256(raw).hexdigest()[:32]
        path = self._manifest(snapshot)
        if not os.path.exists(path):
            jobdir.make_private(os.path.dirname(path))
            jobdir.write_atomic(path, raw)
        os.utime(path)  # Used now: moai_agent.expiry clears away what was not for long.
        missing = sorted({e["sha256"] for e in entries.values() if not self._has(e["sha256"], e["size"])})
        return snapshot, missing

    def _registered(self, snapshot: str) -> Any:
        """Entries of a snapshot that is here unaltered (its id is the digest of its manifest), else None."""
        try:
            with open(self._manifest(snapshot), "rb") as source:
                raw = source.read()
        except OSError:
            return None
        return json.loads(raw.decode("utf-8")) if hashlib.sha256(raw).hexdigest()[:32] == snapshot else None

    def missing_of(self, snapshot: str) -> int:
        """How many contents of a registered snapshot are not there. Raises FILE_NOT_FOUND."""
        try:
            with open(self._manifest(snapshot), "rb") as source:
                entries = [(e["sha256"], e["size"]) for e in json.loads(source.read().decode("utf-8"))]
            return sum(1 for digest, size in entries if not (_SHA256.match(digest) and self._has(digest, size)))
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            raise AgentError("FILE_NOT_FOUND", "there is no snapshot %s here" % snapshot[:40], "submit again: it is sent then")

    def put(self, sha256: str, pieces: Sequence[bytes]) -> None:
        """Keep one content. Raises AgentError DOWNLOAD_CORRUPT when it has another digest."""
        if not _SHA256.match(sha256):
            raise AgentError("USAGE", "%r is no SHA-256" % sha256[:80], "send hex digests")
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        if digest.hexdigest() != sha256:
            raise AgentError("DOWNLOAD_CORRUPT", "a file of the snapshot arrived altered", "submit again")
        path = self._content(sha256)
        jobdir.make_private(os.path.dirname(path))
        jobdir.write_atomic(path, b"".join(pieces))

    def _manifest(self, snapshot: str) -> str:
        if not _ID.match(snapshot):
            raise AgentError("USAGE", "%r is no snapshot" % snapshot[:40], "submit again")
        return os.path.join(self.root, "snapshots", snapshot + ".json")

    def _content(self, sha256: str) -> str:
        return os.path.join(self.contents, sha256[:2], sha256)

    def _has(self, sha256: str, size: int) -> bool:
        try:
            return os.path.getsize(self._content(sha256)) == size
        except OSError:
            return False


def _too_many(count: int) -> AgentError:
    return AgentError("USAGE", "%d files are more than the %d of a snapshot" % (count, MAX_FILES), "list data in .gitignore")


def _check_path(path: str) -> None:
    if _LEADS_OUT(path) or path == ".moai/snapshot" or len(path) > 4000:
        raise AgentError("USAGE", "%r is no path inside a snapshot" % path[:200], "rename it, or list it in .gitignore")

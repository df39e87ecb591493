"""Digests of files that have not changed since they were last read, so that a large project is not read anew.

One file a folder in the laptop's cache. An entry counts only while size, times and inode are the same, and
only when the file was already older than the clock's grain when it was read (git's rule for its index).
Losing or breaking the cache costs time, nothing else. Runs in the caller's process.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from moai import _files, _paths

#: Changes within so long after a read may leave the times as they are, on coarse file systems.
_GRAIN_NS = 2_000_000_000


class Digests:
    """Digests below one folder; ``save`` keeps those asked for."""

    def __init__(self, root: Path) -> None:
        self.path = _paths.cache_folder() / "digests" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.json"
        try:
            value = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            value = None
        self._known: dict[str, list[int | str]] = value if isinstance(value, dict) else {}
        self._asked: dict[str, list[int | str]] = {}
        self._changed = False
        self._now_ns = time.time_ns()

    def of(self, relative: str, path: str, facts: os.stat_result) -> str:
        """Hex SHA-256 of ``path``, whose ``lstat`` is ``facts``; read only when it is not known."""
        key = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]
        known = self._known.get(relative)
        if isinstance(known, list) and known[:4] == key and len(known) == 5:
            self._asked[relative] = known
            return str(known[4])
        digest = _files.file_digest(path)
        self._changed = True
        if max(facts.st_mtime_ns, facts.st_ctime_ns) < self._now_ns - _GRAIN_NS:
            self._asked[relative] = [*key, digest]
        return digest

    def save(self) -> None:
        """Keep what was asked for; a cache that cannot be written is left as it is."""
        if not self._changed and len(self._asked) == len(self._known):
            return
        temp = self.path.with_suffix(f".{os.getpid()}")
        try:
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            temp.write_text(json.dumps(self._asked), encoding="utf-8")
            os.replace(temp, self.path)
        except OSError:
            temp.unlink(missing_ok=True)

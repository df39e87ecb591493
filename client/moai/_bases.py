"""The last snapshot of a folder that a container was told of, so that the next one is told by its difference.

One file a folder and container in the laptop's cache, beside the digests. It is a hint: the container
compares the base with its id, and asks for all files when it has none such. Losing it costs time, nothing
else. Runs in the caller's process.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moai import _paths

if TYPE_CHECKING:
    from moai._snapshot import File

_IS_ID = re.compile(r"[0-9a-f]{32}").fullmatch


class Base:
    """What was registered last; ``id`` is empty when nothing is remembered.

    Args:
        host: name of the container. work: work folder there, empty = its own. root: folder on the laptop.
    """

    def __init__(self, host: str, work: str, root: Path) -> None:
        key = hashlib.sha256(b"\0".join((host.encode(), work.encode(), os.fsencode(root)))).hexdigest()[:32]
        self.path = _paths.cache_folder() / "digests" / f"{key}.base"
        self.id = ""
        self._known: set[str] = set()
        try:
            id, *known = self.path.read_text(encoding="utf-8").split("\0")
        except (OSError, ValueError):
            return
        if _IS_ID(id):
            self.id, self._known = id, set(known)

    def difference(self, files: Sequence[File]) -> tuple[list[File], list[str]]:
        """(files that the base has not or has otherwise, paths that it has and ``files`` have not)."""
        changed = [file for file in files if _line(file) not in self._known]
        gone = {_path(line) for line in self._known} - {file.path for file in files}
        return changed, sorted(gone)

    def save(self, id: str, files: Sequence[File]) -> None:
        """Remember what was registered; what cannot be written is forgotten."""
        if id == self.id:
            return
        temp = self.path.with_suffix(f".{os.getpid()}")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temp.write_text("\0".join((id, *map(_line, files))), encoding="utf-8")
            os.replace(temp, self.path)
        except OSError:
            temp.unlink(missing_ok=True)


def _line(file: File) -> str:
    # The digest has a fixed length and the path comes last: no separator can be mistaken.
    return f"{file.sha256}{file.executable:d}{file.size_bytes} {file.path}"


def _path(line: str) -> str:
    return line.partition(" ")[2]

"""Requirements files of the laptop, sent along with a request.

Owns which files go: those asked for, those they name with ``-r`` or ``-c`` (by a path beside them), and
the ``pyproject.toml`` of a ``uv.lock``. Their text travels in the request, under flat names; nothing is
left on the container but the job's own copy. Runs in the caller's process.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from moai_proto.v1 import environment_pb2

from moai._errors import MoaiError
from moai._submit import LAPTOP

#: As the agent bounds it.
MOST_BYTES = 2 << 20
_MOST_FILES = 50
_NESTED = re.compile(r"^(?P<option>\s*(?:-r|--requirement|-c|--constraint)(?:\s+|=|(?<=-[rc])))(?P<path>[^\s#]+)", re.MULTILINE)


def collect(files: Sequence[str]) -> tuple[list[environment_pb2.SourceFile], int]:
    """What ``laptop:PATH`` names, followed by what those name; and how many are asked for themselves.

    Raises MoaiError (FILE_NOT_HERE, USAGE).
    """
    collector = _Collector()
    wanted = [Path(one[len(LAPTOP) :]).expanduser() for one in files if one.startswith(LAPTOP)]
    for path in wanted:
        collector.add(path)
    count = len(collector.names)
    collector.follow()
    return collector.messages(), count


def collect_source(source: str) -> list[environment_pb2.SourceFile]:
    """The file an environment is made from, if it is the laptop's, and what belongs to it."""
    if not source.startswith(LAPTOP):
        return []
    path = Path(source[len(LAPTOP) :]).expanduser()
    collector = _Collector()
    collector.add(path)
    if path.name == "uv.lock":
        beside = path.parent / "pyproject.toml"
        if not beside.is_file():
            raise MoaiError("USAGE", f"beside {path} there is no pyproject.toml, which uv needs", "put both into one folder")
        collector.add(beside)
    elif path.suffix not in (".yml", ".yaml"):
        collector.follow()
    return collector.messages()


class _Collector:
    def __init__(self) -> None:
        self.names: dict[Path, str] = {}
        self._texts: dict[Path, str] = {}

    def add(self, path: Path) -> str:
        """The flat name a file travels under."""
        key = path.absolute()
        if key in self.names:
            return self.names[key]
        if len(self.names) >= _MOST_FILES:
            raise MoaiError("USAGE", f"the requirements name more than {_MOST_FILES} files", "put them into one file")
        self._texts[key] = _text(path)
        if sum(len(text.encode("utf-8")) for text in self._texts.values()) > MOST_BYTES:
            raise MoaiError("USAGE", f"the files are larger than {MOST_BYTES >> 20} MiB", "push them, then name their path there")
        name, number = path.name, 2
        while name in self.names.values():
            name, number = f"{number}-{path.name}", number + 1
        self.names[key] = name
        return name

    def follow(self) -> None:
        """Add what the files name, and what those name."""
        done: set[Path] = set()
        while set(self.names) - done:
            for key in [one for one in self.names if one not in done]:
                done.add(key)
                self._texts[key] = _NESTED.sub(lambda found, folder=key.parent: self._renamed(found, folder), self._texts[key])  # type: ignore[misc]

    def _renamed(self, found: re.Match[str], folder: Path) -> str:
        if "://" in found["path"]:
            return found[0]
        return found["option"] + self.add(folder / Path(found["path"]).expanduser())

    def messages(self) -> list[environment_pb2.SourceFile]:
        """What is sent, in the order it was added."""
        return [environment_pb2.SourceFile(name=name, text=self._texts[key]) for key, name in self.names.items()]


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        what = "is a folder" if path.is_dir() else "does not exist on the laptop" if not path.exists() else str(error.strerror)
        raise MoaiError("FILE_NOT_HERE", f"{path} {what}", "check the path after laptop:") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MoaiError("USAGE", f"{path} is not UTF-8 text", "save it as UTF-8") from error

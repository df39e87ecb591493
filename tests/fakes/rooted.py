"""What only root can make: control groups with a limit, processes in namespaces of their own, file systems on a file.

Everything is named after this process and taken away by ``end`` (or at the end of a ``with`` block): groups,
mounts and loop devices. Needs Linux; each maker skips loudly, with the reason, where the kernel or the rights lack.
Control groups are those of version 1, where a test may make a group of its own beside whatever runs.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from .sshd import wait_until

_numbers = itertools.count(1)

need_root = pytest.mark.skipif(os.getuid() != 0, reason="SKIPPED LOUDLY: only root may make this fault")


def attempt(argv: Sequence[str], what: str) -> str:
    """Run a command that needs rights and return what it prints; skips loudly where it cannot be had."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip(f"SKIPPED LOUDLY: there is no {argv[0]} here, so no {what}")
    if done.returncode:
        pytest.skip(f"SKIPPED LOUDLY: no {what} here ({done.stderr.decode(errors='replace').strip()[-300:]})")
    return done.stdout.decode().strip()


class Group:
    """A control group of one controller (``pids``, ``memory``), made for one test.

    Attributes:
        folder: its folder, with the controller's files.
    """

    def __init__(self, controller: str) -> None:
        with open("/proc/mounts", encoding="utf-8") as source:
            mounts = [line.split() for line in source]
        found = [words[1] for words in mounts if words[2] == "cgroup" and controller in words[3].split(",")]
        if not found:
            pytest.skip(f"SKIPPED LOUDLY: no control groups of version 1 for {controller} are mounted here")
        self.top = Path(found[0])
        self.folder = self.top / f"moai-test-{os.getpid()}-{next(_numbers)}"
        try:
            self.folder.mkdir()
        except OSError as error:
            pytest.skip(f"SKIPPED LOUDLY: no control group can be made in {found[0]}: {error}")

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def add(self, *pids: int) -> None:
        """Move whole processes in; what they start from now on belongs to it, too."""
        for pid in pids:
            (self.folder / "cgroup.procs").write_text(str(pid))

    def release(self, *pids: int) -> None:
        """Move whole processes out again."""
        for pid in pids:
            (self.top / "cgroup.procs").write_text(str(pid))

    @property
    def members(self) -> list[int]:
        """Process ids in it."""
        return [int(word) for word in (self.folder / "cgroup.procs").read_text().split()]

    def set(self, name: str, value: object) -> None:
        """Write one of the controller's files."""
        (self.folder / name).write_text(str(value))

    def number(self, name: str, word: str = "") -> int:
        """The number in one of its files, or the one behind ``word``."""
        text = (self.folder / name).read_text()
        return int(text) if not word else next(int(line.split()[1]) for line in text.splitlines() if line.split()[0] == word)

    def end(self) -> None:
        """Give its members back and remove it."""
        if not self.folder.exists():
            return

        def is_gone() -> bool:
            for pid in self.members:
                try:
                    self.release(pid)
                except ProcessLookupError:
                    continue
            try:
                self.folder.rmdir()
            except OSError:
                return False  # A member that is just ending still counts.
            return True

        wait_until(is_gone, f"the control group {self.folder} to be empty")


class Disk:
    """An ext4 file system on a file, whose power can be cut: what was not synced is then lost.

    Attributes:
        path: where it is mounted.
    """

    def __init__(self, folder: Path, path: Path, mib: int = 256) -> None:
        self._folder, self._image, self.path = folder, folder / "disk.img", path
        self._mounted: list[Path] = []
        with open(self._image, "wb") as out:
            out.truncate(mib * 1024 * 1024)
        attempt(["mkfs.ext4", "-q", "-F", str(self._image)], "ext4 file system")
        # Nothing is committed by the clock, only because somebody asked.
        self._mount(self._image, path, "loop,commit=300")

    def __enter__(self) -> "Disk":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _mount(self, image: Path, path: Path, options: str) -> None:
        path.mkdir(exist_ok=True, mode=0o700)
        attempt(["mount", "-t", "ext4", "-o", options, str(image), str(path)], "mounting of a file")
        path.chmod(0o700)
        self._mounted.append(path)

    def cut(self) -> Path:
        """Where the disk is mounted as it would be found if the power had failed now."""
        number = next(_numbers)
        copy = self._folder / f"cut{number}.img"
        while True:
            data = self._image.read_bytes()
            if data == self._image.read_bytes():  # Nothing was written while it was read.
                break
        copy.write_bytes(data)
        path = self._folder / f"cut{number}"
        self._mount(copy, path, "loop")
        return path

    def end(self) -> None:
        """Unmount everything, which gives the loop devices back."""
        for path in reversed(self._mounted):
            wait_until(lambda: subprocess.run(["umount", str(path)], capture_output=True).returncode == 0, f"{path} to be free")
        self._mounted = []

"""A container whose home is a small file system of its own, so that a disk can be filled. Needs root on Linux."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.box import Box

_MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'


@contextlib.contextmanager
def small_box(folder: Path, size: str) -> Iterator[Box]:
    """The container; ``size`` as tmpfs has it (``2m``). Seen by its sshd alone; skips loudly where it cannot be had."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("SKIPPED LOUDLY: a full disk needs root and a mount namespace")
    home = folder / "home"
    home.mkdir()
    with Box(folder, look_alike=False, command_prefix=["unshare", "-m", "/bin/sh", "-c", _MOUNT, "sh", size, str(home)]) as box:
        yield box


def inside(box: Box, script: str) -> str:
    """Run a shell script where the container's home (its ``$1``) is mounted."""
    argv = ["nsenter", "-t", str(box.sshd.pid), "-m", "/bin/sh", "-ec", script, "sh", str(box.home)]
    return subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=30).stdout.decode()

"""The lock files: which wheels, by SHA-256, make the agent's library folder for one Python.

Owns reading ``locks/cpXY.txt`` and choosing, without asking any index, the one wheel of every
requirement that fits a target best. A lock is an ordinary pip requirements file with hashes; comment
lines name each wheel, its size and the digest of its ``RECORD``, so that an unpacked bundle carried
by hand can be checked down to the last file as well. ``scripts/lock_agent.py`` writes them. Refuses a
target one of the requirements has no wheel for. Runs on the laptop; asks no network.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from moai._bootstrap.targets import Target
from moai._errors import MoaiError

LOCKS = Path(__file__).parent / "locks"

_WHEEL = re.compile(r"# wheel (\S+\.whl) size=(\d+) sha256=([0-9a-f]{64}) record=([0-9a-f]{64})")
_PIN = re.compile(r"([a-z0-9-]+)==([0-9][0-9A-Za-z.]*)(?: \\)?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})(?: \\)?")


@dataclass(frozen=True)
class Wheel:
    """One locked file.

    Attributes:
        requirement: the pin it satisfies, for example ``grpcio==1.70.0``.
        filename: name of the wheel file.
        size_bytes: its size.
        sha256: hex digest of the file.
        record_sha256: hex digest of its ``*.dist-info/RECORD``, which lists every file's digest.
    """

    requirement: str
    filename: str
    size_bytes: int
    sha256: str
    record_sha256: str

    @property
    def record_path(self) -> str:
        """Path of ``RECORD`` inside the wheel."""
        name, version = self.filename.split("-")[:2]
        return f"{name}-{version}.dist-info/RECORD"

    def tags(self) -> set[str]:
        """Every ``python-abi-platform`` tag the file name stands for."""
        pythons, abis, platforms = (part.split(".") for part in self.filename[: -len(".whl")].split("-")[-3:])
        return {f"{python}-{abi}-{platform}" for python in pythons for abi in abis for platform in platforms}


@dataclass(frozen=True)
class WheelSet:
    """The wheels chosen for one target, one a requirement, in the lock's order."""

    python_tag: str
    arch: str
    libc: str
    wheels: tuple[Wheel, ...]

    @property
    def key(self) -> str:
        """Names the chosen bytes, so targets that need the same wheels share one cache entry."""
        lines = "".join(f"{wheel.filename} {wheel.sha256}\n" for wheel in sorted(self.wheels, key=_filename))
        return f"{self.platform}-{hashlib.sha256(lines.encode()).hexdigest()[:16]}"

    @property
    def platform(self) -> str:
        """What the wheels are for, without the C library's version, for example ``cp38-x86_64-glibc``."""
        return f"{self.python_tag}-{self.arch}-{self.libc}"

    @property
    def size_bytes(self) -> int:
        """Sum of the wheels' sizes."""
        return sum(wheel.size_bytes for wheel in self.wheels)

    def requirements(self) -> str:
        """A pip requirements file that admits exactly these files."""
        return "".join(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n" for wheel in self.wheels)


def read(python_tag: str, locks: Path | None = None) -> list[Wheel]:
    """Read one lock file.

    Args:
        python_tag: for example ``"cp38"``.
        locks: folder of the lock files; default: the ones that come with moai.

    Returns:
        Every locked wheel, in the file's order.

    Raises:
        MoaiError: PLATFORM_UNSUPPORTED when there is no such lock; INTERNAL when it cannot be
            understood or its comments and hashes disagree.
    """
    path = (locks or LOCKS) / f"{python_tag}.txt"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MoaiError(
            "PLATFORM_UNSUPPORTED",
            f"No agent bundle can be made for {python_tag}: this moai has no list of wheels for it.",
            "Upgrade moai, or use Python 3.8 to 3.14 on the container.",
        ) from None
    wheels: list[Wheel] = []
    pending: list[tuple[str, int, str, str]] = []
    requirement, hashes, noted = "", set(), set()
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if wheel := _WHEEL.fullmatch(line):
            pending.append((wheel[1], int(wheel[2]), wheel[3], wheel[4]))
        elif pin := _PIN.fullmatch(line):
            requirement = f"{pin[1]}=={pin[2]}"
            wheels += [Wheel(requirement, *entry) for entry in pending]
            noted |= {entry[2] for entry in pending}
            pending = []
        elif digest := _HASH.fullmatch(line):
            hashes.add(digest[1])
        elif line and not line.startswith("#"):
            raise MoaiError("INTERNAL", f"{path}, line {number}: not a pin, a hash or a comment: {line!r}.")
    if not wheels or pending or hashes != noted:
        raise MoaiError("INTERNAL", f"{path}: its comments and its hashes do not name the same wheels.")
    return wheels


def choose(wheels: Sequence[Wheel], target: Target) -> WheelSet:
    """Choose the wheel of every requirement that fits the target best, as an installer there would.

    Raises:
        MoaiError: PLATFORM_UNSUPPORTED naming the requirement none of whose wheels fits.
    """
    rank = {tag: position for position, tag in enumerate(target.wheel_tags())}
    best: dict[str, tuple[int, Wheel]] = {}
    for wheel in wheels:
        position = min((rank[tag] for tag in wheel.tags() if tag in rank), default=-1)
        if position >= 0 and (wheel.requirement not in best or position < best[wheel.requirement][0]):
            best[wheel.requirement] = (position, wheel)
    missing = sorted({wheel.requirement for wheel in wheels} - set(best))
    if missing:
        raise MoaiError(
            "PLATFORM_UNSUPPORTED",
            f"No agent bundle can be made for {target.key}: no wheel of {', '.join(missing)} fits it.",
            "Use another Python on the container (3.9 or newer has the most wheels): "
            "add the host with --python PATH.",
            {"target": target.key},
        )
    return WheelSet(target.python_tag, target.arch, target.libc, tuple(wheel for _, wheel in best.values()))


def select(target: Target) -> WheelSet:
    """Read the target's lock and choose its wheels; see `read` and `choose`."""
    return choose(read(target.python_tag), target)


def named(python_tag: str, arch: str, libc: str, filenames: Iterable[str]) -> WheelSet:
    """Find the set that somebody else chose, by its file names.

    Raises:
        MoaiError: BUNDLE_UNAVAILABLE when the lock does not have exactly these, one a requirement.
    """
    asked = sorted(filenames)
    known = read(python_tag) if re.fullmatch(r"cp3\d{1,2}", python_tag) else []
    chosen = tuple(wheel for wheel in known if wheel.filename in asked)
    requirements = [wheel.requirement for wheel in chosen]
    complete = set(requirements) == {wheel.requirement for wheel in known}
    if not chosen or not complete or len(chosen) != len(asked) or len(set(requirements)) != len(requirements):
        raise MoaiError(
            "BUNDLE_UNAVAILABLE",
            f"This moai does not use these wheels on {python_tag[:20]}: {', '.join(asked)[:200] or 'none'}.",
            "Make the bundle with the version of moai that is installed here.",
        )
    return WheelSet(python_tag, arch, libc, chosen)


def _filename(wheel: Wheel) -> str:
    return wheel.filename

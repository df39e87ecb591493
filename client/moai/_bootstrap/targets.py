"""What a container's Python accepts: version, ABI, CPU, C library, and the wheel tags that follow.

Owns the translation of probed facts into a `Target`, and of a target into the complete, ordered list
of tags an installer running there would accept. pip expands a single ``--platform manylinux2014_x86_64``
to little more than itself, and then silently takes years-old wheels; so every tag is spelled out.
Tag rules: https://packaging.python.org/en/latest/specifications/platform-compatibility-tags/ and
PEP 600 (manylinux), PEP 656 (musllinux). Refuses what no bundle can be made for, before anything is
fetched. Runs on the laptop; asks no network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from moai._errors import MoaiError

OLDEST_PYTHON = (3, 8)
NEWEST_PYTHON = (3, 14)

_ARCHES = {"x86_64": "x86_64", "amd64": "x86_64", "x64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
# The oldest glibc each CPU's manylinux tags reach down to, and the names given before PEP 600.
_OLDEST_GLIBC_MINOR = {"x86_64": 5, "aarch64": 17}
_LEGACY_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_KEY = re.compile(r"cp3(\d{1,2})-(x86_64|aarch64)-(glibc|musl)(\d+)\.(\d+)")
_OTHER_PYTHON = "Use a CPython from 3.8 to 3.14 on x86_64 or aarch64: add the host with --python PATH."


@dataclass(frozen=True)
class Target:
    """One interpreter on one platform that the agent's wheels must fit.

    Attributes:
        python: major and minor version, for example ``(3, 8)``.
        implementation: interpreter tag; only ``"cp"`` (CPython) can be served.
        abi: ABI tag, for example ``"cp38"``.
        arch: ``"x86_64"`` or ``"aarch64"``.
        libc: ``"glibc"`` or ``"musl"``.
        libc_version: major and minor version of the C library, for example ``(2, 31)``.

    Raises:
        MoaiError: PYTHON_NOT_FOUND below 3.8; PLATFORM_UNSUPPORTED for everything else that no bundle
            can be made for.
    """

    python: tuple[int, int]
    implementation: str
    abi: str
    arch: str
    libc: str
    libc_version: tuple[int, int]

    def __post_init__(self) -> None:
        version = f"{self.python[0]}.{self.python[1]}"
        if self.python < OLDEST_PYTHON:
            raise MoaiError(
                "PYTHON_NOT_FOUND",
                f"The agent needs Python 3.8 or newer; this one is {version}.",
                _OTHER_PYTHON,
            )
        if self.python > NEWEST_PYTHON:
            raise _unsupported(f"Python {version} is newer than this moai knows (up to 3.{NEWEST_PYTHON[1]})")
        if self.implementation != "cp":
            raise _unsupported(f"the agent's wheels exist for CPython only, not for {self.implementation!r}")
        if self.abi != f"cp3{self.python[1]}":
            raise _unsupported(f"no wheels for ABI {self.abi!r}, a free-threaded or debug build")
        if self.arch not in _OLDEST_GLIBC_MINOR:
            raise _unsupported(f"no wheels for CPU {self.arch!r}")
        if self.libc not in ("glibc", "musl"):
            raise _unsupported(f"no wheels for C library {self.libc!r}")
        major = 2 if self.libc == "glibc" else 1
        if self.libc_version[0] != major:
            found = f"{self.libc} {self.libc_version[0]}.{self.libc_version[1]}"
            raise _unsupported(f"no wheels for {found}; {self.libc} {major}.x is known")

    @classmethod
    def from_facts(cls, facts: Mapping[str, str]) -> Target:
        """Build a target from what the probe printed.

        Args:
            facts: ``python_version`` ("3.8.18") and ``machine`` (``uname -m``) are needed. Optional:
                ``implementation`` (``sys.implementation.name``, default cpython), ``abiflags``
                (``sys.abiflags``), ``pointer_bits`` ("64"), ``system`` ("Linux"), ``libc`` ("glibc" or
                "musl", default glibc) and ``libc_version`` ("2.31"; default: the oldest the newest
                wheels support, 2.17 and 1.2).

        Raises:
            MoaiError: as the class says; also when a needed fact is missing or malformed.
        """
        system = facts.get("system", "Linux")
        if system != "Linux":
            raise _unsupported(f"the agent's bundle is made for Linux; the host runs {system}")
        if facts.get("pointer_bits", "64") != "64":
            raise _unsupported("a 32-bit Python was found, and the agent's wheels are 64-bit")
        python = _version(facts.get("python_version", ""))
        if python is None:
            raise MoaiError(
                "PYTHON_NOT_FOUND",
                f"No Python version in {facts.get('python_version', '')!r}.",
                _OTHER_PYTHON,
            )
        name = facts.get("implementation", "cpython").lower()
        implementation = "cp" if name in ("cpython", "cp") else name
        machine = facts.get("machine", "")
        libc = facts.get("libc", "glibc").lower()
        libc = "glibc" if libc in ("glibc", "gnu", "libc") else libc
        libc_version = _version(facts.get("libc_version", "")) or ((1, 2) if libc == "musl" else (2, 17))
        abi = f"{implementation}{python[0]}{python[1]}{facts.get('abiflags', '')}"
        return cls(python, implementation, abi, _ARCHES.get(machine.lower(), machine), libc, libc_version)

    @classmethod
    def parse(cls, key: str) -> Target:
        """Read back what `key` wrote, for example ``cp38-x86_64-glibc2.31``.

        Raises:
            MoaiError: PLATFORM_UNSUPPORTED when it is not of that form, or as the class says.
        """
        match = _KEY.fullmatch(key)
        if match is None:
            raise _unsupported(f"{key!r} names no target; one looks like cp38-x86_64-glibc2.31")
        minor, arch, libc, major, libc_minor = match.groups()
        return cls((3, int(minor)), "cp", f"cp3{int(minor)}", arch, libc, (int(major), int(libc_minor)))

    @property
    def key(self) -> str:
        """A short name that is safe in file names and understood by `parse`."""
        return f"{self.python_tag}-{self.arch}-{self.libc}{self.libc_version[0]}.{self.libc_version[1]}"

    @property
    def python_tag(self) -> str:
        """The interpreter tag, for example ``cp38``; also the name of the lock file."""
        return f"{self.implementation}{self.python[0]}{self.python[1]}"

    def platform_tags(self) -> list[str]:
        """Every platform tag this target accepts, newest first."""
        major, newest = self.libc_version
        tags = []
        if self.libc == "musl":
            tags += [f"musllinux_{major}_{minor}_{self.arch}" for minor in range(newest, -1, -1)]
        else:
            for minor in range(newest, _OLDEST_GLIBC_MINOR[self.arch] - 1, -1):
                tags.append(f"manylinux_{major}_{minor}_{self.arch}")
                if minor in _LEGACY_NAMES:
                    tags.append(f"{_LEGACY_NAMES[minor]}_{self.arch}")
        return [*tags, f"linux_{self.arch}"]

    def wheel_tags(self) -> Iterator[str]:
        """Every ``python-abi-platform`` tag an installer there accepts, best first."""
        platforms = self.platform_tags()
        minor = self.python[1]
        for abi in (self.abi, "abi3", "none"):
            yield from (f"{self.python_tag}-{abi}-{platform}" for platform in platforms)
        for older in range(minor - 1, 1, -1):
            yield from (f"cp3{older}-abi3-{platform}" for platform in platforms)
        generic = [f"py3{minor}", "py3", *(f"py3{older}" for older in range(minor - 1, -1, -1))]
        for python in generic:
            yield from (f"{python}-none-{platform}" for platform in platforms)
        yield f"{self.python_tag}-none-any"
        yield from (f"{python}-none-any" for python in generic)


def _unsupported(why: str) -> MoaiError:
    return MoaiError("PLATFORM_UNSUPPORTED", f"No agent bundle can be made here: {why}.", _OTHER_PYTHON)


def _version(text: str) -> tuple[int, int] | None:
    match = re.match(r"(\d{1,4})\.(\d{1,4})", text.strip())
    return (int(match.group(1)), int(match.group(2))) if match else None

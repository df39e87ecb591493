"""Our own files that go to the container: the agent, the contract's stubs, and the worker.

Owns where they come from (inside an installed wheel, or the source checkout this module lies in) and
where they go in a bundle: ``agent/`` holds what the agent imports, ``worker/`` what steps run as, and
the two never share a folder, so nothing of the agent's reaches a job. Refuses an installation that lacks
them. Runs on the laptop; imports none of what it reads.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from moai._errors import MoaiError

# The only files that are programs; everything else is imported.
PROGRAMS = ("main.py", "relay.py")


def files() -> list[tuple[str, bytes]]:
    """Read every payload file.

    Returns:
        Path in the bundle and content, sorted by path; Python files only.

    Raises:
        MoaiError: INTERNAL when a part of the payload is not there.
        OSError: a file cannot be read.
    """
    agent, worker = _sources()
    found: dict[str, bytes] = {}
    for folder, name, root in (
        (agent, "moai_agent", "agent"),
        (_stubs(), "moai_proto", "agent"),
        (worker, "moai_worker", "worker"),
    ):
        found.update(_package(folder / name, f"{root}/{name}"))
    for program in PROGRAMS:
        path = worker / program
        if not path.is_file():
            raise _incomplete(path)
        found[f"worker/{program}"] = path.read_bytes()
    return sorted(found.items())


def digest(contents: Iterable[tuple[str, bytes]] | None = None) -> str:
    """Hex SHA-256 over the payload's paths and contents.

    Args:
        contents: what `files` returned; read again when not given.
    """
    total = hashlib.sha256()
    for path, data in files() if contents is None else contents:
        total.update(f"{path}\0{hashlib.sha256(data).hexdigest()}\n".encode())
    return total.hexdigest()


def _sources() -> tuple[Path, Path]:
    """The folders that hold `moai_agent` and `moai_worker`."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_payload"
    if installed.is_dir():
        return installed / "agent", installed / "worker"
    checkout = package.parent.parent / "agent"
    return checkout, checkout


def _stubs() -> Path:
    """The folder that holds `moai_proto`: the checkout's own before any installed one."""
    beside = Path(__file__).resolve().parents[3] / "proto"
    if (beside / "moai_proto").is_dir():
        return beside
    spec = importlib.util.find_spec("moai_proto")
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise _incomplete(Path("moai_proto"))
    return Path(places[0]).parent


def _package(folder: Path, prefix: str) -> dict[str, bytes]:
    found = {
        f"{prefix}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in folder.rglob("*.py")
        if path.is_file() and "__pycache__" not in path.parts
    }
    if not found:
        raise _incomplete(folder)
    return found


def _incomplete(path: Path) -> MoaiError:
    return MoaiError(
        "INTERNAL", f"This installation of moai lacks a part of the agent: {path}.", "Reinstall moai-remote."
    )

"""The agent's bundle: one archive with everything a container needs beside its own Python.

Layout: ``agent/`` and ``worker/`` (our files, see `payload`), ``lib/`` (unpacked wheels, see `wheels`)
and ``manifest.json`` with what it was made of and the SHA-256 of every other file. Owns
``MOAI_CACHE/bundles/``: archives named by their inputs, each beside a note of its digest, made once
however many commands want it at the same time. The digest is that of the archive's bytes; laptops with
another zlib may compress the same contents differently, which costs a second upload and nothing else.
Refuses carried bundles that do not match this moai's payload and locks. Runs on the laptop; asks a
network only through `wheels.fetch`, and only when the cache has neither bundle nor wheels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from moai._bootstrap import archive, cache, lockfile, payload, wheels
from moai._bootstrap.lockfile import WheelSet
from moai._bootstrap.targets import Target
from moai._bootstrap.wheels import Report
from moai._errors import MoaiError

LOCAL_KEY = "local"
_SCHEMA = "moai.bundle/1"
_Files = dict[str, bytes]


@dataclass(frozen=True)
class Bundle:
    """A finished archive on the laptop.

    Attributes:
        path: the ``.tar.gz`` in the cache.
        digest: hex SHA-256 of its bytes.
        size_bytes: its size.
        target_key: what it was asked for: `Target.key`; for a carried one `WheelSet.platform`; ``"local"``
            without wheels. For people: the same archive serves every target that needs the same wheels.
    """

    path: Path
    digest: str
    size_bytes: int
    target_key: str

    @property
    def folder_name(self) -> str:
        """Name of the content-addressed folder it is unpacked to."""
        return self.digest[:16]


def build(target: Target, cache_dir: Path, report: Report | None = None) -> Bundle:
    """Return the bundle for a target, making it if the cache lacks it.

    Args:
        target: the container's Python and platform.
        cache_dir: the laptop's cache folder.
        report: called with a line of text when something slow starts.

    Raises:
        MoaiError: PLATFORM_UNSUPPORTED, BUNDLE_UNAVAILABLE, BUNDLE_CORRUPT or DISK_FULL, as
            `wheels.fetch` says; INTERNAL when moai's own files are missing.
    """
    wheel_set = lockfile.select(target)
    own = payload.files()
    path = _place(cache_dir, own, wheel_set.key)
    with cache.explained("keep the agent's bundle"):
        if found := _cached(path, target.key):
            return found
        with cache.locked(path.with_suffix(".lock")):
            if found := _cached(path, target.key):
                return found
            folder = wheels.fetch(target, cache_dir, report)
            library = {f"lib/{name}": data for name, data in wheels.unpack(folder, wheel_set).items()}
            return _store(path, _with_manifest(own, library, wheel_set), target.key)


def local_bundle(cache_dir: Path) -> Bundle:
    """Return the bundle for the laptop itself: our files without wheels, which its own Python has.

    Raises:
        MoaiError: BUNDLE_UNAVAILABLE or DISK_FULL when the cache cannot be written.
    """
    own = payload.files()
    path = _place(cache_dir, own, LOCAL_KEY)
    with cache.explained("keep the agent's bundle"):
        if found := _cached(path, LOCAL_KEY):
            return found
        with cache.locked(path.with_suffix(".lock")):
            return _cached(path, LOCAL_KEY) or _store(path, _with_manifest(own, {}, None), LOCAL_KEY)


def export(bundle: Bundle, path: Path) -> Path:
    """Copy a bundle out of the cache, to be carried to a laptop without an index.

    Args:
        bundle: what `build` returned.
        path: a file to write (replaced when there), or a folder to put it into.

    Returns:
        The file written.

    Raises:
        MoaiError: BUNDLE_UNAVAILABLE or DISK_FULL when it cannot be written.
    """
    if path.is_dir():
        path = path / f"moai-bundle-{bundle.target_key}-{bundle.folder_name}.tar.gz"
    with cache.explained("write the bundle"):
        cache.write_atomic(path, bundle.path.read_bytes())
        path.chmod(0o644)
    return path


def add(path: Path, cache_dir: Path) -> Bundle:
    """Put a carried bundle into the cache after checking every file in it.

    Our files must be this moai's own, byte for byte; the library must be what the locked wheels
    contain, file by file. So a carried bundle can hold nothing that a fetched one could not.

    Args:
        path: a file that `export` wrote, perhaps elsewhere.
        cache_dir: the laptop's cache folder.

    Raises:
        MoaiError: FILE_NOT_HERE; BUNDLE_CORRUPT when it is no bundle or was changed;
            BUNDLE_UNAVAILABLE when another version of moai made it.
    """
    try:
        files = archive.decode(path)
    except OSError as error:
        raise MoaiError(
            "FILE_NOT_HERE", f"Cannot read {path}: {error.strerror}.", "Check the path."
        ) from error
    own = payload.files()
    wheel_set = _made_of(path, files)
    theirs = [(name, data) for name, data in sorted(files.items()) if name.startswith(("agent/", "worker/"))]
    if theirs != own:
        raise MoaiError(
            "BUNDLE_UNAVAILABLE",
            f"{path} was made by another version of moai, so it would never be used here.",
            "Run `moai bundle build` with the version that `moai version` prints here.",
        )
    library = {name: data for name, data in files.items() if name.startswith("lib/")}
    wheels.verify_library({name[len("lib/") :]: data for name, data in library.items()}, wheel_set)
    if files != _with_manifest(own, library, wheel_set):
        raise MoaiError("BUNDLE_CORRUPT", f"{path}: its manifest does not describe its files.")
    place = _place(cache_dir, own, wheel_set.key)
    with cache.explained("keep the bundle"), cache.locked(place.with_suffix(".lock")):
        return _store(place, files, wheel_set.platform)


def _made_of(path: Path, files: Mapping[str, bytes]) -> WheelSet:
    """The wheels a carried bundle claims to be made of, taken from our own lock, not from it."""
    try:
        inputs = json.loads(files[archive.MANIFEST])["inputs"]
        python, arch, libc = (str(inputs[name]) for name in ("python", "arch", "libc"))
        filenames = [str(name) for name in inputs["wheels"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MoaiError("BUNDLE_CORRUPT", f"{path}: its manifest cannot be understood.") from error
    return lockfile.named(python, arch, libc, filenames)


def _with_manifest(
    own: Iterable[tuple[str, bytes]], library: Mapping[str, bytes], wheel_set: WheelSet | None
) -> _Files:
    files = {**dict(own), **library}
    manifest = {
        "schema": _SCHEMA,
        "inputs": {
            "payload": payload.digest(own),
            "python": wheel_set.python_tag if wheel_set else "",
            "arch": wheel_set.arch if wheel_set else "",
            "libc": wheel_set.libc if wheel_set else "",
            "wheels": {wheel.filename: wheel.sha256 for wheel in wheel_set.wheels} if wheel_set else {},
        },
        "payload": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    files[archive.MANIFEST] = json.dumps(manifest, indent=1, sort_keys=True).encode() + b"\n"
    return files


def _place(cache_dir: Path, own: Iterable[tuple[str, bytes]], key: str) -> Path:
    return cache_dir / "bundles" / f"{payload.digest(own)[:16]}-{key}.tar.gz"


def _cached(path: Path, target_key: str) -> Bundle | None:
    """The cached archive, if it is whole: its bytes must have the digest noted beside it."""
    try:
        noted = _note(path).read_text(encoding="ascii").strip()
        data = path.read_bytes()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    digest = hashlib.sha256(data).hexdigest()
    return Bundle(path, digest, len(data), target_key) if digest == noted else None


def _store(path: Path, files: _Files, target_key: str) -> Bundle:
    data = archive.encode(files)
    digest = hashlib.sha256(data).hexdigest()
    cache.write_atomic(path, data)
    # Written last: an archive without its note is not used.
    cache.write_atomic(_note(path), f"{digest}\n".encode())
    return Bundle(path, digest, len(data), target_key)


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")

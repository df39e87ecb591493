"""Fetching the locked wheels with pip, and turning them into the agent's library folder.

Owns ``MOAI_CACHE/wheels/<key>/``: exactly the wheels of one `WheelSet`, checked against the lock each
time they are used. pip is asked only when they are not there, and gets a requirements file that admits
those files alone. Of the user's pip configuration the parts that say how to reach an index (mirror,
proxy, certificates) are kept; the rest (``user``, ``target``, ``no-binary``, ``require-virtualenv`` ...)
would break a download for another machine and is left out. Runs on the laptop.
"""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from moai._bootstrap import cache, lockfile
from moai._bootstrap.lockfile import Wheel, WheelSet
from moai._bootstrap.targets import Target
from moai._errors import MoaiError

Report = Callable[[str], None]

FETCH_TIMEOUT_S = 300.0
BY_HAND = (
    "Check the network or your pip index, or carry the bundle by hand: run `moai bundle build` "
    "where an index can be reached, then here `moai bundle add FILE`."
)

# https://pip.pypa.io/en/stable/cli/pip/#general-options and cli/pip_download: what leads to an index.
_INDEX_OPTIONS = frozenset(
    ("index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "cert", "client-cert", "proxy")
    + ("timeout", "default-timeout", "retries", "keyring-provider", "cache-dir", "no-cache-dir")
    + ("use-deprecated", "use-feature")
)
_CONFIG_TIMEOUT_S = 30.0
# Left out of the library folder: what the agent never imports. Everything else in a wheel stays.
_NOT_NEEDED = re.compile(r"(^|/)(tests?|testdata|__pycache__)/|\.(pyi|pyc)$|^example\.py$")


def fetch(
    target: Target, cache_dir: Path, report: Report | None = None, wheel_set: WheelSet | None = None, what: str = "agent"
) -> Path:
    """Return a folder with the target's wheels, fetching them if the cache lacks them.

    Args:
        target: what the wheels must fit.
        cache_dir: the laptop's cache folder.
        report: called with a line of text when something slow starts or a cached file was bad.
        wheel_set: other locked wheels than the agent's. what: whose they are, for people.

    Returns:
        A folder holding exactly the chosen wheels, each checked against the lock.

    Raises:
        MoaiError: PLATFORM_UNSUPPORTED (nothing fits; no index was asked), BUNDLE_UNAVAILABLE (pip
            could not get them within 5 minutes), BUNDLE_CORRUPT (it got other bytes), DISK_FULL.
    """
    wheel_set = wheel_set or lockfile.select(target)
    say = report or _silent
    folder = cache_dir / "wheels" / wheel_set.key
    with cache.explained("keep the agent's wheels"):
        if not faults(folder, wheel_set):
            return folder
        with cache.locked(folder.with_name(folder.name + ".lock")):
            found = faults(folder, wheel_set)
            if not found:
                return folder
            if folder.exists():
                say(f"cached wheels are damaged ({found[0]}); fetching them again")
                shutil.rmtree(folder)
            say(f"fetching the {what}'s wheels for {target.key} ({wheel_set.size_bytes / 1e6:.1f} MB)")
            _sweep(folder.parent)
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as scratch:
                download(target, wheel_set, Path(scratch))
                found = faults(Path(scratch) / "wheels", wheel_set)
                if found:
                    raise MoaiError("BUNDLE_CORRUPT", f"pip brought other files than locked: {found[0]}.")
                os.replace(Path(scratch) / "wheels", folder)
    return folder


def _sweep(folder: Path) -> None:
    """Remove what killed commands left half-fetched an hour ago or longer."""
    for path in folder.glob(".fetch-*"):
        if time.time() - path.stat().st_mtime > 3600:
            shutil.rmtree(path, ignore_errors=True)


def faults(folder: Path, wheel_set: WheelSet) -> list[str]:
    """Name what is wrong with a folder of wheels; empty when every locked wheel is there, unchanged."""
    found = []
    for wheel in wheel_set.wheels:
        path = folder / wheel.filename
        if not path.is_file():
            found.append(f"{wheel.filename} is missing")
        elif path.stat().st_size != wheel.size_bytes or cache.sha256_file(path) != wheel.sha256:
            found.append(f"{wheel.filename} does not have the locked SHA-256")
    return found


def unpack(folder: Path, wheel_set: WheelSet) -> dict[str, bytes]:
    """Read the library folder's files out of checked wheels.

    Returns:
        Content by path relative to the library folder, without what the agent never imports.

    Raises:
        MoaiError: BUNDLE_CORRUPT when a wheel is not a zip file, or the result is not what the
            wheels' own records list.
    """
    files: dict[str, bytes] = {}
    for wheel in wheel_set.wheels:
        try:
            with zipfile.ZipFile(folder / wheel.filename) as archive:
                for info in archive.infolist():
                    if not info.is_dir() and not _NOT_NEEDED.search(info.filename):
                        files[info.filename] = archive.read(info)
        except zipfile.BadZipFile as error:
            raise MoaiError("BUNDLE_CORRUPT", f"{wheel.filename} cannot be unpacked: {error}.") from error
    verify_library(files, wheel_set)
    return files


def verify_library(files: Mapping[str, bytes], wheel_set: WheelSet) -> None:
    """Check unpacked files against the lock: each ``RECORD`` by its locked digest, each file by its record.

    Raises:
        MoaiError: BUNDLE_CORRUPT naming the first file that is missing, changed or not listed.
    """
    expected: dict[str, str] = {}
    for wheel in wheel_set.wheels:
        record = files.get(wheel.record_path)
        if record is None or hashlib.sha256(record).hexdigest() != wheel.record_sha256:
            raise _unlike(wheel.record_path, "is not the record of the locked wheel")
        expected[wheel.record_path] = ""
        for path, digest in _record(record):
            if _NOT_NEEDED.search(path) or path == wheel.record_path:
                continue
            if not digest or path in expected or not _is_plain(path):
                raise _unlike(path, f"cannot be taken from {wheel.filename}")
            expected[path] = digest
    for path in sorted(set(expected) ^ set(files)):
        raise _unlike(path, "is missing" if path in expected else "belongs to no locked wheel")
    for path, digest in expected.items():
        if digest and digest != _record_digest(files[path]):
            raise _unlike(path, "does not have the digest its wheel records")


def record_sha256(path: Path, wheel: Wheel) -> str:
    """Hex SHA-256 of the ``RECORD`` inside a wheel file, as the lock notes it.

    Raises:
        MoaiError: BUNDLE_CORRUPT when the wheel has none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return hashlib.sha256(archive.read(wheel.record_path)).hexdigest()
    except (KeyError, zipfile.BadZipFile) as error:
        raise MoaiError("BUNDLE_CORRUPT", f"{path.name} has no record: {error}.") from error


def download(target: Target, wheel_set: WheelSet, scratch: Path) -> None:
    """Have pip put the wheels into ``scratch/wheels``; pip and what it started are gone afterwards.

    Raises:
        MoaiError: BUNDLE_UNAVAILABLE quoting pip's last error.
        OSError: the folder cannot be written.
    """
    requirements = scratch / "requirements.txt"
    requirements.write_text(wheel_set.requirements(), encoding="utf-8")
    (scratch / "wheels").mkdir()
    command = [
        *(*_pip(), "download", "--require-hashes", "--only-binary=:all:", "--no-deps", "--no-input"),
        *("--progress-bar=off", "--disable-pip-version-check"),
        *("--python-version", f"{target.python[0]}.{target.python[1]}"),
        *("--implementation", target.implementation),
        *(part for abi in (target.abi, "abi3", "none") for part in ("--abi", abi)),
        *(part for tag in target.platform_tags() for part in ("--platform", tag)),
        *("-r", str(requirements), "-d", str(scratch / "wheels")),
    ]
    # pip runs in a folder of ours: `python -m` would import a `pip` folder of the current one.
    code, output = _run(command, _pip_environment(os.environ, scratch), scratch, FETCH_TIMEOUT_S)
    if code != 0:
        names = ", ".join(wheel.filename for wheel in wheel_set.wheels)
        raise MoaiError(
            "BUNDLE_UNAVAILABLE",
            f"The wheels for {target.key} are not in the cache and could not be fetched: {_reason(output)}",
            BY_HAND,
            {"target": target.key, "wheels": names},
        )


def _pip() -> tuple[str, str, str]:
    return (sys.executable or "python3", "-m", "pip")


def _run(command: list[str], environment: Mapping[str, str], cwd: Path, timeout_s: float) -> tuple[int, str]:
    """Run a command in its own process group; 124 and what it printed when the time is over."""
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        return 127, f"ERROR: {command[0]}: {error.strerror}"
    with process:
        try:
            output, _ = process.communicate(timeout=timeout_s)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return 124, f"{output}\nERROR: gave up after {timeout_s:.0f} s"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def _pip_environment(environ: Mapping[str, str], cwd: Path) -> dict[str, str]:
    """The caller's environment with pip's settings reduced to those that lead to an index."""
    kept = {
        name: value
        for name, value in environ.items()
        if not name.upper().startswith("PIP_") and name != "PYTHONWARNINGS"
    }
    # `quiet` in a configuration file hides the list; `user` makes pip before 26 list that one file only.
    asking = {**kept, "PIP_QUIET": "0", "PIP_VERBOSE": "0", "PIP_USER": "0"}
    if "PIP_CONFIG_FILE" in environ:
        asking["PIP_CONFIG_FILE"] = environ["PIP_CONFIG_FILE"]
    code, listing = _run([*_pip(), "config", "list"], asking, cwd, _CONFIG_TIMEOUT_S)
    settings = _index_settings(listing if code == 0 else "", environ)
    # Seconds, not pip's minute, until a laptop without a network hears about `moai bundle add`.
    settings.setdefault("retries", "2")
    kept.update({f"PIP_{name.upper().replace('-', '_')}": value for name, value in settings.items()})
    # pip reads no configuration file at all when this names the null device.
    kept["PIP_CONFIG_FILE"] = os.devnull
    return kept


def _index_settings(listing: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Merge ``pip config list`` and the environment as pip does: global, then download, then PIP_*."""
    by_section: dict[str, dict[str, str]] = {"global": {}, "download": {}}
    for line in listing.splitlines():
        name, _, literal = line.partition("=")
        section, _, option = name.partition(".")
        if section in by_section and option in _INDEX_OPTIONS:
            try:
                value = ast.literal_eval(literal)
            except (ValueError, SyntaxError):
                continue
            by_section[section][option] = str(value)
    settings = {**by_section["global"], **by_section["download"]}
    for name, value in environ.items():
        option = name[len("PIP_") :].lower().replace("_", "-")
        if name.startswith("PIP_") and option in _INDEX_OPTIONS:
            settings[option] = value
    return settings


def _reason(output: str) -> str:
    """The last thing pip called an error, without credentials."""
    text = re.sub(r"//[^/@\s]+@", "//****@", output)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:") or "No module named pip" in line]
    return (errors or lines or ["pip said nothing."])[-1].removeprefix("ERROR:").strip()


def _record(record: bytes) -> list[tuple[str, str]]:
    """Paths and digests of a wheel's RECORD (https://packaging.python.org/en/latest/specifications/binary-distribution-format/)."""
    rows = csv.reader(record.decode("utf-8").splitlines())
    return [(row[0], row[1]) for row in rows if len(row) >= 2]


def _record_digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _is_plain(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return not path.startswith("/") and ".." not in parts and not parts[0].endswith(".data")


def _unlike(path: str, why: str) -> MoaiError:
    return MoaiError("BUNDLE_CORRUPT", f"The agent's library does not match its lock: {path} {why}.", BY_HAND)


def _silent(_line: str) -> None:
    """Report nothing."""

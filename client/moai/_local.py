"""The agent on the laptop itself (``--on local``): same payload, same jobs, no SSH, no wheels.

The agent runs on the laptop's own interpreter and finds grpc there; Linux only, because jobs are
supervised through proc(5).
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from moai import _paths
from moai._errors import MoaiError


def state_folder() -> Path:
    """``MOAI_HOME`` or ``~/.moai``, absolute."""
    return Path(os.path.expanduser(os.environ.get("MOAI_HOME") or "~/.moai")).absolute()


def ensure_local(say: Callable[[str], None]) -> tuple[str, str]:
    """Start the local agent if none runs; returns its gRPC address and the secret it wants."""
    if sys.platform != "linux":
        raise MoaiError("UNSUPPORTED", f"jobs on the laptop itself need Linux, this is {sys.platform}", "use a container")
    home = state_folder()
    payload = _unpacked(home)
    nonce = secrets.token_hex(8)
    relay = payload / "worker" / "relay.py"
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(relay), nonce, "start"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            env=_login_environment(home),
        )
    except subprocess.TimeoutExpired as error:
        raise MoaiError("AGENT_FAILED", "the local agent did not start within 60 s") from error
    _, mark, answer = done.stdout.partition(f"MOAI1 {nonce} ".encode())
    if not mark:
        raise MoaiError("AGENT_FAILED", f"the local agent did not start: {done.stderr.decode('utf-8', 'replace')[-500:]}")
    facts = json.loads(answer)
    if not facts.get("ok"):
        raise MoaiError(facts["reason"], facts["message"])
    return _socket_address(Path(facts["run"])), facts["secret"]


def _login_environment(home: Path) -> dict[str, str]:
    """What a login would have. The agent outlives this shell: its exports, secrets among them, do not
    belong there, and what is activated in it must not decide for later commands."""
    kept = ("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "TZ", "TMPDIR", "XDG_RUNTIME_DIR", "SSL_CERT_FILE")
    env = {k: v for k, v in os.environ.items() if k in kept or k.startswith("LC_") or k.lower().endswith("_proxy")}
    if os.environ.get("MOAI_HOME"):
        env["MOAI_HOME"] = str(home)
    return env


def _unpacked(home: Path) -> Path:
    """The payload folder of this moai below the state folder, unpacked once."""
    import shutil
    import tarfile

    from moai._bootstrap import bundle as bundles

    bundle = bundles.local_bundle(_paths.cache_folder())
    target = _paths.own(home / "payload") / bundle.folder_name
    if not target.is_dir():
        temp = target.with_name(f".new-{bundle.folder_name}-{os.getpid()}")
        _paths.private(temp)
        try:
            with tarfile.open(bundle.path, "r:gz") as archive:
                archive.extractall(temp, filter="data")
            _sync(temp)
            try:
                os.rename(temp, target)
            except OSError:
                if not target.is_dir():
                    raise
        finally:
            shutil.rmtree(temp, ignore_errors=True)
    return target


def _sync(folder: Path) -> None:
    """Make everything below durable: after a power cut a payload that has its name must have its bytes."""
    for path in [folder, *folder.rglob("*")]:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _socket_address(run: Path) -> str:
    path = run / "agent.sock"
    if len(os.fsencode(path)) < 100:
        return f"unix:{path}"
    folder = os.open(run, os.O_RDONLY | os.O_DIRECTORY)
    return f"unix:/proc/self/fd/{folder}/agent.sock"

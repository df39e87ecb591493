"""A fast tokenizer for a preparation: which Python there could run one, and its wheels sent along.

The wheels are locked by hash and fetched with the laptop's pip, like the agent's own; unpacked, they travel
as a snapshot, so a second preparation sends nothing. They never enter an environment of the user's. Without
a Python or without wheels the preparation goes on with ``tokenizers``, and says why. Runs in the caller's
process.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from moai_proto.v1 import dataset_pb2, dataset_pb2_grpc

from moai import _paths, _snapshot
from moai._bootstrap import lockfile, wheels
from moai._bootstrap.targets import Target
from moai._errors import MoaiError

if TYPE_CHECKING:
    from moai._host import Host

NAMES = ("auto", "gigatoken", "fastokens", "tokenizers")
#: Sent when any will do: one wheel of 4 MB that needs nothing, and far faster than reading and writing are.
_SENT = "fastokens"
#: After an index did not answer, ``auto`` does not ask again for so long.
_QUIET_S = 3600.0


def engine(host: Host, name: str, environment: str, work: str) -> dataset_pb2.Engine:
    """The engine part of a request; sends wheels when the container lacks them.

    Args:
        name: one of `NAMES`; "" = the variable ``MOAI_ENGINE``, else auto. environment, work: as in JobOptions.

    Raises:
        MoaiError: USAGE; ENGINE_UNAVAILABLE when a fast engine was asked for by name and cannot be had.
    """
    name = name or os.environ.get("MOAI_ENGINE", "") or "auto"
    if name not in NAMES:
        raise MoaiError("USAGE", f"{name!r} is no engine: one of {', '.join(NAMES)}", "leave --engine out")
    if name == "tokenizers":
        return dataset_pb2.Engine(name=name)
    request = dataset_pb2.PlanEngineRequest(environment=environment or host.config.environment)
    pythons = host.session.call(dataset_pb2_grpc.DatasetServiceStub, "PlanEngine", request, timeout_s=120.0).pythons
    found = [
        dataset_pb2.EngineCandidate(name=have, python=one.python)
        for one in pythons
        for have in one.installed
        if name in ("auto", have)
    ]
    if found:
        return dataset_pb2.Engine(name=name, candidates=found[:2])
    if not pythons:
        return _without(name, "the container has no Python 3.10 or newer")
    wanted = _SENT if name == "auto" else name
    quiet = _paths.cache_folder() / f"no-{wanted}"
    if name == "auto" and _is_fresh(quiet):
        return _without(name, f"the index had no wheels of {wanted} within the hour")
    why = ""
    for one in pythons:
        try:
            snapshot = _send(host, wanted, dict(one.facts), work)
        except MoaiError as error:
            if error.reason not in ("PLATFORM_UNSUPPORTED", "BUNDLE_UNAVAILABLE", "PYTHON_NOT_FOUND"):
                raise
            why = why or error.message
            if error.reason == "BUNDLE_UNAVAILABLE":
                quiet.write_text(error.message, encoding="utf-8")
                break
            continue
        quiet.unlink(missing_ok=True)
        candidate = dataset_pb2.EngineCandidate(name=wanted, python=one.python, snapshot=snapshot)
        return dataset_pb2.Engine(name=name, candidates=[candidate])
    return _without(name, why)


def _without(name: str, why: str) -> dataset_pb2.Engine:
    if name != "auto":
        raise MoaiError("ENGINE_UNAVAILABLE", f"the engine {name} cannot be used: {why}", "leave --engine out")
    return dataset_pb2.Engine(name=name, note=why)


def _is_fresh(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < _QUIET_S
    except OSError:
        return False


def _send(host: Host, wanted: str, facts: dict[str, str], work: str) -> str:
    """Id of the snapshot with the unpacked wheels."""
    target = Target.from_facts(facts)
    wheel_set = lockfile.choose(lockfile.read(target.python_tag, lockfile.LOCKS / wanted), target)
    folder = wheels.fetch(target, _paths.cache_folder(), host.session.say, wheel_set, wanted)
    files = wheels.unpack(folder, wheel_set)
    sources: dict[str, str | bytes] = {}
    entries = []
    for path, data in sorted(files.items()):
        digest = hashlib.sha256(data).hexdigest()
        sources[digest] = data
        entries.append(_snapshot.File(path, digest, len(data)))
    code = _snapshot.Code(folder, "", tuple(entries), sources, sum(map(len, files.values())), ())
    return _snapshot.send(host.session, code, work or host.config.work)

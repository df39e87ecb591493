"""Several containers that train as one: they are shown to reach each other, then each gets its job.

Each member is a job of its own container, with its own supervisor and journal, so none of them needs the
laptop. The first host is the leader: rank 0, its log is the training's log. Runs in the caller's process.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from moai_proto.v1 import job_pb2, training_pb2, training_pb2_grpc

from moai._errors import MoaiError
from moai._options import JobOptions, new_request_id

if TYPE_CHECKING:
    from moai._fleet import Fleet
    from moai._host import Host
    from moai._job import Job

_STUB = training_pb2_grpc.TrainingServiceStub
_OPEN_S = 60.0
#: Labels of a member's job.
LABEL, HOSTS_LABEL = "group", "group_hosts"
#: Times a member starts its training again unless another number is asked for.
RETRIES = 3


@dataclasses.dataclass(frozen=True)
class Meeting:
    """Where the members meet: the leader's address and port, and each host's interface towards it."""

    address: str
    port: int
    interfaces: dict[str, str]

    def place(self, group: str, rank: int, names: list[str]) -> job_pb2.TrainingGroup:
        """What the member of this rank is told; ``names`` are the hosts by rank."""
        return job_pb2.TrainingGroup(
            id=group, rank=rank, size=len(names), address=self.address, port=self.port, interface=self.interfaces[names[rank]]
        )


def meet(fleet: Fleet) -> Meeting:
    """Find an address of the first host that all the others reach.

    Raises MoaiError: PEERS_UNREACHABLE with every try and its cause; UNSUPPORTED on a MoAI accelerator.
    """
    leader, *others = fleet.hosts
    nonce = secrets.token_bytes(32)
    offer = leader.session.call(_STUB, "OfferPeer", training_pb2.OfferPeerRequest(nonce=nonce, seconds=_OPEN_S), timeout_s=60.0)
    request = training_pb2.ReachPeerRequest(addresses=offer.addresses, port=offer.port, nonce=nonce)
    tried: dict[str, list[training_pb2.PeerAttempt]] = {}

    def reach(host: Host) -> list[training_pb2.PeerAttempt]:
        return list(host.session.call(_STUB, "ReachPeer", request, timeout_s=30.0).attempts)

    answers = fleet.map(lambda host: [] if host is leader else reach(host))
    answers.check()
    tried = {host.name: answers.ok[host.name] for host in others}
    for offered in offer.addresses:
        through = {name: next((a for a in found if a.address == offered.address and a.is_reached), None) for name, found in tried.items()}
        if all(through.values()):
            interfaces = {name: attempt.local.interface for name, attempt in through.items() if attempt}
            return Meeting(offered.address, offer.port, {leader.name: offered.interface, **interfaces})
    lines = [
        f"{name} -> {attempt.address}: {'reached' if attempt.is_reached else attempt.text}" for name, found in tried.items() for attempt in found
    ]
    raise MoaiError(
        "PEERS_UNREACHABLE",
        f"not every container reaches {leader.name} (port {offer.port}): {'; '.join(lines) or 'it has no network address'}",
        f"put another host first (--on {','.join(reversed([host.name for host in fleet.hosts]))}), or join their networks",
        {"leader": leader.name},
    )


def train(
    fleet: Fleet, model: str, dataset: str, options: JobOptions | None, settings: Mapping[str, Any] | None, recipe: Mapping[str, Any]
) -> list[Job]:
    """A job on every host, the leader's first. Raises MoaiError; what was started by then is cancelled."""
    if len(fleet.hosts) < 2:
        raise MoaiError("USAGE", "one host cannot train together with itself", "name several: --on a,b")
    meeting = meet(fleet)
    options = options or JobOptions()
    group = options.request_id or new_request_id()
    names = [host.name for host in fleet.hosts]

    def start(host: Host) -> Job:
        rank = names.index(host.name)
        own = dataclasses.replace(
            options,
            request_id=f"{group}.{rank}"[-128:],
            # A member that fails takes the others with it: all of them start again and meet at the same place.
            retries=options.retries or RETRIES,
            labels={**options.labels, LABEL: group, HOSTS_LABEL: ",".join(names)},
        )
        return host.train(model, dataset, own, settings=settings, group=meeting.place(group, rank, names), **recipe)

    started = fleet.map(start)
    if started.failed:
        for job in started.ok.values():
            job.cancel()
        started.check()
    return [started.ok[name] for name in names]


def resume(job: Job, settings: Mapping[str, Any], options: JobOptions, force: bool, start_from: str) -> list[Job]:
    """Resume a job and, of a training over several containers, all of its members: the leader's first.

    They are shown to reach each other anew, and their processes agree on the newest checkpoint that each of them has,
    whichever member was named. Raises MoaiError as ``Job.resume`` does; what was started by then is cancelled.
    """
    ordered = _by_rank(job)
    if len(ordered) == 1:
        return [job.resume(settings, options, force, start_from)]
    return _start_members(ordered, options, lambda one, own, place: one._resume_at(settings, own, force, start_from, place))


def again(
    job: Job, on: Host | None, settings: Mapping[str, Any] | None, options: JobOptions | None, say: Callable[[str], None]
) -> list[Job]:
    """Repeat a job and, of a training over several containers, all of its members: the leader's first.

    They are shown to reach each other anew. Raises MoaiError: UNSUPPORTED for another container; what ``train`` and
    ``Job.again`` raise. What was started by then is cancelled.
    """
    from moai import _again

    size = _place(job)[1]
    if not size:
        return [_again.again(job, on, settings, options, say)]
    if on is not None and on.name != job.host.name:
        raise MoaiError(
            "UNSUPPORTED", f"job {job.id} trained as one of {size} containers, which stay the same",
            f"leave --on out, or moai remote train --on ... --nodes {size}",
        )  # fmt: skip
    return _start_members(_by_rank(job), options or JobOptions(), lambda one, own, place: _again.again(one, None, settings, own, say, place))


def _by_rank(job: Job) -> list[Job]:
    """All members by rank, or the job alone. Raises MoaiError (JOB_NOT_FOUND) when one has no job any more."""
    size = _place(job)[1]
    if not size:
        return [job]
    found = {_place(one)[0]: one for one in [job, *members(job)]}
    if sorted(found) != list(range(size)):
        raise MoaiError(
            "JOB_NOT_FOUND", f"of the {size} containers that trained with job {job.id} not every one has its job still",
            f"moai remote train --on ... --nodes {size} starts it anew",
        )  # fmt: skip
    return [found[rank] for rank in range(size)]


def _start_members(
    ordered: list[Job], given: JobOptions, start: Callable[[Job, JobOptions, job_pb2.TrainingGroup], Job]
) -> list[Job]:
    """Start every member's next job with where it meets the others; all of them, or none goes on."""
    from moai._fleet import Fleet

    names = [one.host.name for one in ordered]
    meeting = meet(Fleet([one.host for one in ordered]))
    group = given.request_id or new_request_id()
    labels = {**given.labels, LABEL: group, HOSTS_LABEL: ",".join(names)}
    started: list[Job] = []
    try:
        for rank, one in enumerate(ordered):
            own = dataclasses.replace(given, request_id=f"{group}.{rank}"[-128:], labels=labels)
            started.append(start(one, own, meeting.place(group, rank, names)))
    except MoaiError:
        for one in started:
            one.cancel()
        raise
    return started


def _place(job: Job) -> tuple[int, int]:
    """(rank, size) of a member of a training over several containers; (0, 0) for any other job."""
    request = (job.spec_and_plan()[0].get("request") or {}).get("message") or {}
    group = (request.get("training") or {}).get("group") or {}
    return int(group.get("rank", 0)), int(group.get("size", 0))


def members(job: Job) -> list[Job]:
    """The other jobs of a training over several containers; empty for any other job.

    Raises MoaiError when one of their hosts cannot be asked.
    """
    from moai._api import connect

    labels = job.spec_and_plan()[0].get("labels") or {}
    group = labels.get(LABEL, "")
    if not group:
        return []
    found = []
    for name in str(labels.get(HOSTS_LABEL, "")).split(","):
        if name == job.host.name:
            continue
        host = connect(name)
        found += [host.job(info.id) for info in host.jobs(200) if info.request_id.rpartition(".")[0] == group]
    return found

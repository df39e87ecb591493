"""The rows of ``top``: which of what is known is shown, in which order, and how old it is.

Times are seconds since the epoch by the laptop's clock, as in ``top_model``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from moai._cli.top_model import DeviceRow, HostRow, JobRow

#: Rows older than this say so.
FRESH_S = 3.0
SORTS = ("host", "state", "load", "eta")
_ORDER = {"RUNNING": 0, "STOPPING": 0, "STARTING": 1, "QUEUED": 2}


@dataclass(frozen=True)
class Row:
    """One line of the screen: kind is host, device, job or note; ``age_s`` how old what it shows is."""

    kind: str
    host: HostRow
    age_s: float
    job: JobRow | None = None
    device: DeviceRow | None = None
    note: str = ""

    @property
    def key(self) -> tuple[str, str] | None:
        """What a cursor can stand on: (host, job id or "")."""
        if self.kind == "note" or self.kind == "device":
            return None
        return (self.host.name, self.job.id if self.job else "")


def rows(hosts: Iterable[HostRow], now: float, text: str = "", sort: str = "host") -> list[Row]:
    """The lines of the screen: each container, its further devices, its jobs, and what to know about them.

    Args:
        text: a filter, see ``matches``. sort: one of ``SORTS``; orders containers.
    """
    found: list[Row] = []
    for one in sorted(hosts, key=lambda h: _rank(h, sort)):
        whole = matches(text, one, None)
        jobs = [j for j in one.jobs.values() if whole or matches(text, one, j)]
        if not whole and not jobs:
            continue
        seen_age = _age(now, one.seen_s)
        device_age = _age(now, one.devices_s)
        # One device of a container that answers stands in the container's own line.
        alone = len(one.devices) == 1 and not trouble(one, now)
        found.append(Row("host", one, max(seen_age, device_age) if alone else seen_age, device=one.devices[0] if alone else None))
        if one.error and one.next and one.word != "unreachable":
            found.append(Row("note", one, 0.0, note=f"next: {one.next}"))
        if not alone:
            found += [Row("device", one, device_age, device=d) for d in one.devices]
        found += [Row("note", one, device_age, note=note) for note in one.notes]
        for job in sorted(jobs, key=_job_rank):
            age = 0.0 if job.ended else max(_age(now, job.seen_s), 0.0)
            found.append(Row("job", one, age, job=job))
            found += [Row("note", one, age, job=job, note=note) for note in job.notes]
    return found


def _age(now: float, then: float | None) -> float:
    return 0.0 if then is None else max(0.0, now - then)


def trouble(one: HostRow, now: float) -> str:
    """What is wrong with the way to a container, with when it was last seen; "" when it answers."""
    waits_s = _age(now, one.asked_s)
    if one.error:
        text = one.word
    elif one.doing and one.seen_s is not None:
        text = f"connecting: {one.doing}"
    elif one.asked_s is not None and waits_s > FRESH_S and one.seen_s is not None:
        text = f"no answer for {waits_s:.0f} s"
    elif one.seen_s is None:
        return f"connecting: {one.doing}" if one.doing else "connecting"
    else:
        return ""
    seen = f"last seen {ago_text(_age(now, one.seen_s))}" if one.seen_s is not None else "never seen"
    return f"{text}, {seen}" + (f": {one.error}" if one.error else "")


def ago_text(seconds: float) -> str:
    """``12 s ago``, ``3 min ago``, ``5 h ago``, ``2 d ago``."""
    for unit, size, below in (("s", 1, 100), ("min", 60, 6000), ("h", 3600, 172800)):
        if seconds < below:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds // 86400)} d ago"


def matches(text: str, one: HostRow, job: JobRow | None) -> bool:
    """Whether every word of a filter is found; upper and lower case are the same.

    A word may name its field: ``host:kt``, ``state:queued``, ``job:otter``; else any of them (and name, phase,
    command, owner) may hold it. Without a job: what the container itself shows.
    """
    place = {"host": one.name}
    if job is not None:
        place |= {"job": f"{job.id} {job.name}", "state": job.state, "": f"{job.phase} {job.step} {job.command} {job.owner}"}
    else:
        place |= {"state": one.word, "": " ".join(d.flavor for d in one.devices)}
    for word in unicodedata.normalize("NFC", text).casefold().split():
        name, colon, rest = word.partition(":")
        if colon and name in ("host", "job", "state"):
            if rest not in place.get(name, "").casefold() or name not in place:
                return False
        elif not any(word in value.casefold() for value in place.values()):
            return False
    return True


def _job_rank(job: JobRow) -> tuple[int, float]:
    return (9, -job.order_s) if job.ended else (_ORDER.get(job.state, 1), job.order_s)


def _rank(one: HostRow, sort: str) -> tuple[float, ...]:
    """Sorting is stable, so equal ones keep the order of the settings."""
    live = [j for j in one.jobs.values() if not j.ended]
    if sort == "state":
        worst = 0 if one.error else 1 if any(j.notes or j.state in ("FAILED", "UNKNOWN", "INTERRUPTED") for j in one.jobs.values()) else 2 if live else 3
        return (worst,)
    if sort == "load":
        return (-one.load,)
    if sort == "eta":
        return (min((j.eta_s for j in live if j.eta_s is not None), default=float("inf")),)
    return (0,)

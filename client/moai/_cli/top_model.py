"""What ``top`` knows of every container: answers, failures and time folded into rows; no terminal, no network.

Pollers feed it from their threads, ``top_rows`` makes lines of it; a lock inside keeps both apart. Times are seconds
since the epoch by the laptop's clock: the monotonic one stands still while a laptop sleeps, and everything would
look fresh after the lid was opened.
"""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import moai
from moai._cli.clean import clean

#: An ended job stays on the screen this long.
ENDED_S = 600.0
_POINTS = 64
_RATE_WINDOW_S = 60.0
_MAX_TEXT = 300


def _text(text: str) -> str:
    """Harmless, composed (macOS writes Hangul in pieces) and short."""
    return unicodedata.normalize("NFC", clean(text[:_MAX_TEXT]))


@dataclass(frozen=True)
class DeviceRow:
    """One accelerator; memory in MiB, load and share in percent, ``holder`` who uses it ("" = nobody)."""

    id: int
    name: str
    flavor: str
    is_default: bool
    used: int | None
    total: int | None
    percent: float | None
    load: float | None
    holder: str


@dataclass(frozen=True)
class JobRow:
    """One job as it was at ``seen_s``. ``rate`` is per second of wall clock, in ``rate_unit``."""

    host: str
    id: str
    name: str
    owner: str
    command: str
    state: str
    phase: str
    step: str
    done: float | None
    total: float | None
    unit: str
    eta_s: float | None
    loss: float | None
    loss_step: int | None
    rate: float | None
    rate_unit: str
    notes: tuple[str, ...]
    waits: str
    why: str
    ended: bool
    order_s: float
    end_s: float | None
    seen_s: float
    curve: tuple[float, ...] = ()


@dataclass
class HostRow:
    """One container. ``seen_s``: when it last answered; ``error``: why it does not ("" = it does).

    ``word``: the error in a word or two. ``asked_s``: since when a question is open. ``doing``: what
    connecting is busy with. ``notes``: what its device tool said.
    """

    name: str
    devices: tuple[DeviceRow, ...] = ()
    devices_s: float | None = None
    notes: tuple[str, ...] = ()
    jobs: dict[str, JobRow] = field(default_factory=dict)
    seen_s: float | None = None
    error: str = ""
    word: str = ""
    next: str = ""
    asked_s: float | None = None
    doing: str = ""

    @property
    def load(self) -> float:
        """The highest load of its devices; -1 when unknown."""
        return max((d.load for d in self.devices if d.load is not None), default=-1.0)


class Model:
    """The state of all containers named, in this order."""

    def __init__(self, names: Sequence[str]) -> None:
        self._lock = threading.Lock()
        self._hosts = {name: HostRow(name) for name in names}
        #: (host, job) -> (time, done) of the last minute; -> when its curve was asked for.
        self._progress: dict[tuple[str, str], list[tuple[float, float]]] = {}
        self._primed: dict[tuple[str, str], float] = {}
        self.changes = 0

    # -- what comes in -------------------------------------------------------------------------

    def asking(self, host: str, now: float) -> None:
        """A question to the host is open."""
        with self._lock:
            one = self._hosts[host]
            one.asked_s = one.asked_s or now

    def said(self, host: str, text: str) -> None:
        """What connecting to it is busy with."""
        with self._lock:
            self._hosts[host].doing = _text(text)
            self.changes += 1

    def answered(self, host: str, infos: Iterable[moai.JobInfo], whole: bool, now: float) -> None:
        """Its jobs, newest first; ``whole``: all it has, so that others are gone."""
        with self._lock:
            one = self._hosts[host]
            new = {info.id: self._job(host, info, one.jobs.get(info.id), now) for info in infos}
            if not whole:
                new.update({job_id: job for job_id, job in one.jobs.items() if job_id not in new})
            one.jobs = {i: j for i, j in new.items() if not j.ended or now - (j.end_s or j.order_s) < ENDED_S}
            for memory in (self._progress, self._primed):
                for key in [k for k in memory if k[0] == host and k[1] not in one.jobs]:
                    del memory[key]
            one.seen_s, one.error, one.word, one.next, one.asked_s, one.doing = now, "", "", "", None, ""
            self.changes += 1

    def reported(self, host: str, report: moai.DeviceReport, now: float) -> None:
        """Its accelerators."""
        with self._lock:
            one = self._hosts[host]
            one.devices = tuple(_device(d) for d in report.devices)
            one.devices_s = now
            one.notes = tuple(_text(m) for m in report.messages[:3])
            if report.error is not None:
                one.notes = (_text(report.error.message), *one.notes)
            self.changes += 1

    def no_devices(self, host: str, why: str) -> None:
        """Its accelerators could not be read; what is known of them grows old and says so."""
        with self._lock:
            self._hosts[host].notes = (_text(f"devices: {why}"),)
            self.changes += 1

    def failed(self, host: str, error: moai.MoaiError, now: float) -> None:
        """It could not be asked."""
        words = {4: "unreachable", 5: "host key refused", 9: "needs you"}
        with self._lock:
            one = self._hosts[host]
            one.error, one.next = _text(error.message), _text(error.next)
            one.word, one.asked_s, one.doing = words.get(error.exit_code, "failed"), None, ""
            self.changes += 1

    def curve(self, host: str, job: str, losses: Sequence[tuple[int, float]], now: float) -> None:
        """The loss curve of a job so far."""
        with self._lock:
            self._primed[host, job] = now
            known = self._hosts[host].jobs.get(job)
            if known is not None and losses:
                self._hosts[host].jobs[job] = replace(known, curve=_thin([loss for _, loss in losses]))
                self.changes += 1

    def wants_curve(self, host: str, now: float) -> list[str]:
        """Jobs whose curve was never asked for, or not since it could have missed points."""
        with self._lock:
            return [
                j.id
                for j in self._hosts[host].jobs.values()
                if j.loss is not None and now - self._primed.get((host, j.id), 0.0) > (1e9 if j.ended else _RATE_WINDOW_S)
            ]

    def page(self, host: str) -> int:
        """How many of its newest jobs hold all that have not ended, with room for a few new ones."""
        with self._lock:
            live = [j.order_s for j in self._hosts[host].jobs.values() if not j.ended]
            newer = sum(1 for j in self._hosts[host].jobs.values() if j.order_s >= min(live)) if live else 0
            return max(5, newer + 3)

    def _job(self, host: str, info: moai.JobInfo, before: JobRow | None, now: float) -> JobRow:
        progress = info.progress
        done = progress.done if progress else None
        rate = self._rate(host, info, now)
        unit = progress.unit if progress else ""
        tokens = info.metrics.get("tokens_per_second")
        eta = progress.eta_seconds if progress else None
        if eta is None and rate and progress and progress.total and done is not None:
            eta = max(0.0, progress.total - done) / rate
        loss = info.metrics.get("loss")
        curve = before.curve if before else ()
        if loss is not None and (before is None or before.loss_step != info.metrics_step):
            curve = (*curve, loss)
            # Halves what came first only when full, so that a new point does not move all the others.
            curve = curve if len(curve) <= 2 * _POINTS else _thin(curve)
        waits = [m for t, m in info.conditions if t == "WAITING_FOR_DEVICE"]
        reason = info.reason if info.state not in ("SUCCEEDED",) else None
        return JobRow(
            host=host,
            id=_text(info.id),
            name=_text(info.name),
            owner=_text(info.owner),
            command=_text(info.command),
            state=_text(info.state),
            phase=_text(info.phase),
            step=_text(next((s.name for s in info.steps if s.state == "RUNNING"), "")),
            done=done,
            total=progress.total if progress else None,
            unit=_text(unit),
            eta_s=None if info.ended else eta,
            loss=loss,
            loss_step=info.metrics_step,
            rate=None if info.ended else tokens if tokens is not None else rate,
            rate_unit="tok" if tokens is not None else "B" if unit == "bytes" else _text(unit),
            notes=tuple(_text(f"{t.lower().replace('_', ' ')}: {m}") for t, m in info.conditions if t != "WAITING_FOR_DEVICE"),
            waits=_text(waits[0] if waits else ""),
            why=_text(f"{reason.code.lower()}: {reason.message}" if reason else ""),
            ended=info.ended,
            order_s=info.create_time.timestamp() if info.create_time else 0.0,
            end_s=info.end_time.timestamp() if info.end_time else None,
            seen_s=now,
            curve=curve,
        )

    def _rate(self, host: str, info: moai.JobInfo, now: float) -> float | None:
        """Units a second between looks of the last minute: what a program prints of its own speed may be wrong."""
        key = (host, info.id)
        progress = info.progress
        if info.ended or progress is None or progress.done is None:
            self._progress.pop(key, None)
            return None
        points = self._progress.setdefault(key, [])
        moment = progress.as_of.timestamp() if progress.as_of else now
        if points and (progress.done < points[-1][1] or moment < points[-1][0]):
            points.clear()  # Another step began.
        if not points or moment > points[-1][0]:
            points.append((moment, progress.done))
        while len(points) > 2 and points[-1][0] - points[0][0] > _RATE_WINDOW_S:
            points.pop(0)
        span = points[-1][0] - points[0][0]
        return (points[-1][1] - points[0][1]) / span if span >= 1.0 and points[-1][1] > points[0][1] else None

    # -- what goes out -------------------------------------------------------------------------

    def hosts(self) -> list[HostRow]:
        """All containers, as they are now."""
        with self._lock:
            return [replace(one, jobs=dict(one.jobs)) for one in self._hosts.values()]

    # -- kept between runs ---------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        """What is worth keeping, as JSON values."""
        return {
            one.name: {
                "seen_s": one.seen_s,
                "devices_s": one.devices_s,
                "devices": [asdict(d) for d in one.devices],
                "jobs": [asdict(j) for j in one.jobs.values() if not j.ended],
            }
            for one in self.hosts()
            if one.seen_s is not None
        }

    def load(self, kept: Any) -> None:
        """Rows of an earlier run; what is not understood is left out. They say how old they are."""
        for name, value in kept.items() if isinstance(kept, dict) else ():
            one = self._hosts.get(name)
            if one is None or one.seen_s is not None or not isinstance(value, dict):
                continue
            try:
                devices = tuple(_known(DeviceRow, d) for d in value["devices"])
                jobs = [_known(JobRow, {**j, "curve": tuple(j["curve"]), "notes": tuple(j["notes"]), "host": name}) for j in value["jobs"]]
                times = [None if value[k] is None else float(value[k]) for k in ("seen_s", "devices_s")]
            except (KeyError, TypeError, ValueError):
                continue
            with self._lock:
                one.devices, one.jobs = devices, {j.id: j for j in jobs}
                one.seen_s, one.devices_s = times
                self.changes += 1


def _known(kind: Any, value: dict[str, Any]) -> Any:
    return kind(**{f.name: value[f.name] for f in fields(kind)})


def _device(d: moai.Device) -> DeviceRow:
    holders = [f"{p.command or '?'} (pid {p.pid if p.pid is not None else '?'})" for p in d.processes]
    share = d.memory_used_percent
    if share is None and d.memory_used_mib is not None and d.memory_total_mib:
        share = 100.0 * d.memory_used_mib / d.memory_total_mib
    return DeviceRow(
        d.id, _text(d.name), _text(d.flavor), d.is_default, d.memory_used_mib, d.memory_total_mib, share, d.utilization_percent, _text(", ".join(holders))
    )


def _thin(values: Sequence[float]) -> tuple[float, ...]:
    """At most ``_POINTS`` values, each the mean of its neighbours."""
    count = min(_POINTS, len(values))
    parts = [values[at * len(values) // count : (at + 1) * len(values) // count] for at in range(count)]
    return tuple(sum(part) / len(part) for part in parts)

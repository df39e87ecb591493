"""What callers get back: plain, frozen values, free of gRPC.

Times are aware ``datetime`` in UTC by the container's clock; sizes are bytes unless the name says MiB.
``None`` means unknown. ``as_dict`` gives the stable JSON form described in docs/json.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from moai._html import table

#: States after which nothing changes any more.
TERMINAL_STATES = ("SUCCEEDED", "FAILED", "CANCELLED", "INTERRUPTED", "UNKNOWN")


def iso(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC with microseconds, or None."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment else None


@dataclass(frozen=True)
class Reason:
    """Why something is as it is; ``code`` is the name of an ErrorReason."""

    code: str
    message: str
    next: str = ""
    details: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, str]:
        """JSON form."""
        return {"code": self.code, "message": self.message, "next": self.next}


@dataclass(frozen=True)
class Step:
    """One step of a job."""

    name: str
    state: str
    exit_code: int | None = None


@dataclass(frozen=True)
class Progress:
    """How far the running step is, in ``unit`` (bytes, rows, steps or files)."""

    done: float | None
    total: float | None
    unit: str
    rate: float | None
    eta_seconds: float | None
    as_of: datetime | None

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "step": self.done,
            "total": self.total,
            "unit": self.unit,
            "rate": self.rate,
            "eta_seconds": self.eta_seconds,
            "as_of": iso(self.as_of),
        }


@dataclass(frozen=True)
class JobInfo:
    """A job as it was when asked.

    Attributes:
        state: QUEUED, STARTING, RUNNING, STOPPING, SUCCEEDED, FAILED, CANCELLED, INTERRUPTED, UNKNOWN.
        phase_text: the phase in a sentence. phase_usual: shortest and longest seconds it lasted in runs that
            were seen, and whose; None where none are known.
        reason: why; None while all is well. conditions: (type, text) beside the state.
        exit_code: of the last step, 128 + n for signal n. output: result folder on the container.
        metrics: the latest by name. losses: (training step, loss), thinned to 512 points.
        last_sequence, log_bytes: size of journal and log so far. host_id: container it was submitted on.
    """

    host: str
    id: str
    name: str
    owner: str
    command: str
    kind: str
    state: str
    phase: str
    phase_text: str
    phase_time: datetime | None
    reason: Reason | None
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    exit_code: int | None
    steps: tuple[Step, ...]
    progress: Progress | None
    output: str
    parent: str
    conditions: tuple[tuple[str, str], ...]
    pid: int
    environment: str
    environment_reason: str
    metrics: dict[str, float]
    metrics_step: int | None
    losses: tuple[tuple[int, float], ...]
    folder: str
    request_id: str
    last_sequence: int
    log_bytes: int
    phase_usual: tuple[float, float, str] | None = None
    host_id: str = ""

    @property
    def ended(self) -> bool:
        """Nothing changes any more."""
        return self.state in TERMINAL_STATES

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        p = self.progress
        done = f"{p.done:g} of {p.total:g} {p.unit}" if p and p.done is not None and p.total else "-"
        rows = [("state", self.state), ("command", self.command), ("progress", done), ("output", self.output or "-")]
        rows += [(name, f"{value:.5g}") for name, value in sorted(self.metrics.items())]
        return table((f"{self.host}/{self.id}", ""), rows)

    def as_dict(self) -> dict[str, Any]:
        """An entry of ``moai.jobs/1``."""
        return {
            "host": self.host,
            "job": self.id,
            "name": self.name,
            "owner": self.owner,
            "kind": self.kind,
            "command": self.command,
            "state": self.state,
            "phase": self.phase,
            "reason": self.reason.as_dict() if self.reason else None,
            "conditions": [{"type": t, "message": m} for t, m in self.conditions],
            "create_time": iso(self.create_time),
            "start_time": iso(self.start_time),
            "end_time": iso(self.end_time),
            "exit_code": self.exit_code,
            "steps": [{"name": s.name, "state": s.state} for s in self.steps],
            "progress": self.progress.as_dict() if self.progress else None,
            "output": self.output,
            "parent": self.parent or None,
        }


@dataclass(frozen=True)
class SettingChange:
    """A setting of a resumed recipe; ``old`` is None where it was not set."""

    name: str
    old: Any
    new: Any


@dataclass(frozen=True)
class ResumePlan:
    """What a resume would do: ``changes``, settings that cannot change any more, and where it begins (``text``)."""

    changes: tuple[SettingChange, ...]
    fixed: tuple[str, ...]
    text: str

    def as_dict(self) -> dict[str, Any]:
        """``moai.resume-plan/1`` without its head."""
        return {
            "text": self.text,
            "changes": [{"name": c.name, "old": c.old, "new": c.new} for c in self.changes],
            "fixed": list(self.fixed),
        }


@dataclass(frozen=True)
class Event:
    """One event of a job's journal; ``sequence`` is 1..N without gap.

    ``type`` is state, step, phase, progress, metric, message, artifact or gap; ``data`` is described
    per type in docs/json.md.
    """

    host: str
    job: str
    sequence: int
    time: datetime | None
    step: str
    type: str
    data: dict[str, Any]

    @property
    def is_last(self) -> bool:
        """The terminal event: nothing follows it."""
        return self.type == "state" and self.data.get("state") in TERMINAL_STATES

    def as_dict(self) -> dict[str, Any]:
        """A line of the event stream."""
        return {
            "host": self.host,
            "job": self.job,
            "sequence": self.sequence,
            "time": iso(self.time),
            "step": self.step,
            "type": self.type,
            "data": self.data,
        }


@dataclass(frozen=True)
class LogChunk:
    """Bytes of a job's log, beginning at ``offset``."""

    host: str
    job: str
    offset: int
    data: bytes


@dataclass(frozen=True)
class DeviceProcess:
    """A process that holds a device."""

    job_id: int | None
    pid: int | None
    command: str
    memory_used_mib: int | None


@dataclass(frozen=True)
class Device:
    """One accelerator."""

    id: int
    name: str
    flavor: str
    is_default: bool
    memory_used_mib: int | None
    memory_total_mib: int | None
    memory_used_percent: float | None
    utilization_percent: float | None
    processes: tuple[DeviceProcess, ...]


@dataclass(frozen=True)
class Flavor:
    """One choice of the platform's flavor menu."""

    name: str
    group: str
    is_current: bool


@dataclass(frozen=True)
class DeviceReport:
    """What the container's device tool said: ``provider`` is moreh-smi, ap-smi, nvml or cpu."""

    host: str
    provider: str
    platform_version: str
    latest_version: str
    devices: tuple[Device, ...]
    messages: tuple[str, ...]
    error: Reason | None = None

    def _repr_html_(self) -> str:
        """A table for notebooks: a row a device."""
        rows = [(d.id, d.name, d.flavor or "-", "busy" if d.processes else "free") for d in self.devices]
        return table((f"{self.host}: device", "name", "flavor", "use"), rows or [("-", self.error.message if self.error else "none", "-", "-")])

    def as_dict(self) -> dict[str, Any]:
        """An entry of ``moai.devices/1``."""
        return {
            "host": self.host,
            "provider": self.provider or None,
            "platform_version": self.platform_version or None,
            "latest_version": self.latest_version or None,
            "devices": [
                {
                    "id": d.id,
                    "name": d.name or None,
                    "flavor": d.flavor or None,
                    "is_default": d.is_default,
                    "memory_used_mib": d.memory_used_mib,
                    "memory_total_mib": d.memory_total_mib,
                    "memory_used_percent": d.memory_used_percent,
                    "utilization_percent": d.utilization_percent,
                    "processes": [
                        {
                            "job_id": p.job_id,
                            "pid": p.pid,
                            "command": p.command or None,
                            "memory_used_mib": p.memory_used_mib,
                        }
                        for p in d.processes
                    ],
                }
                for d in self.devices
            ],
            "messages": list(self.messages),
            "error": error_dict(self.error) if self.error else None,
        }


def error_dict(reason: Reason) -> dict[str, str]:
    """The stable form of an error: ``{"reason", "message", "next"}``."""
    return {"reason": reason.code, "message": reason.message, "next": reason.next}


@dataclass(frozen=True)
class Environment:
    """A Python environment of the container; empty versions = not installed.

    Attributes:
        is_default, reason: set by ``Host.environment`` only: jobs that name none run in it, and why, or
            which one they run in instead. shadowed: packages that ``~/.local`` puts in front of its own.
    """

    name: str
    kind: str
    prefix: str
    python: str
    python_version: str
    torch_version: str
    moreh_version: str
    packages: dict[str, str]
    is_default: bool | None = None
    reason: str = ""
    shadowed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """One distribution that is, or would be, changed: install, upgrade, downgrade, reinstall or remove."""

    name: str
    action: str
    before: str
    after: str


@dataclass(frozen=True)
class Repair:
    """A line of a requirements file that was mended; ``used`` is "" when it was left out."""

    file: str
    line: int
    was: str
    why: str
    used: str


@dataclass(frozen=True)
class InstallPlan:
    """What an installation would change.

    Attributes:
        previewed: False when that environment's pip cannot tell (older than 22.2). held: Moreh builds
            that stay as they are.
    """

    environment: str
    python: str
    previewed: bool
    changes: tuple[Change, ...]
    repairs: tuple[Repair, ...]
    held: dict[str, str]


@dataclass(frozen=True)
class Check:
    """One line of ``check``: verdict is ok, warning, failed or skipped.

    ``fix`` names what ``Host.apply`` can do about it (reset-device, make-work-folder,
    remember-environment); "" leaves it to a person. ``argument`` is for that call.
    """

    name: str
    verdict: str
    evidence: str
    remedy: str = ""
    fix: str = ""
    argument: str = ""

    def as_dict(self) -> dict[str, str | None]:
        """An entry of ``moai.check/1``."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "evidence": self.evidence,
            "remedy": self.remedy,
            "fix": self.fix or None,
        }


@dataclass(frozen=True)
class Mount:
    """A writable file system of the container."""

    path: str
    type: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class HostInfo:
    """The agent and its host."""

    host: str
    version: str
    digest: str
    incarnation: str
    host_id: str
    boot: str
    clock: datetime | None
    hostname: str
    user: str
    python: str
    python_version: str
    home: str
    work: str
    cpu_count: int
    memory_bytes: int
    pid: int
    mounts: tuple[Mount, ...]
    active_jobs: int


@dataclass(frozen=True)
class PlannedFile:
    """A file of a download; ``here``: its bytes are on the container already."""

    path: str
    size_bytes: int
    here: bool


@dataclass(frozen=True)
class DownloadPlan:
    """What a download would fetch.

    Attributes:
        commit: what the revision stands for now. size_bytes, file_count: of all files; left_out: path and why.
        free_bytes: where they would go, in ``folder``. files: the largest, at most 1000. missing_bytes: still
        to be fetched. needed_bytes: must be free for it; 0 when nothing is missing. gated: a licence had to be
        accepted, and this token may read it. page: of the repository. token_source: where the token was found;
        "" = none. other_cache: another Hub cache there that holds some of the files; "" = none.
    """

    commit: str
    size_bytes: int
    file_count: int
    left_out: dict[str, str]
    free_bytes: int
    folder: str
    files: tuple[PlannedFile, ...] = ()
    missing_bytes: int = 0
    needed_bytes: int = 0
    gated: bool = False
    page: str = ""
    token_source: str = ""
    other_cache: str = ""


@dataclass(frozen=True)
class TrainingPlan:
    """What a training would do; ``steps`` as in the job's plan.json."""

    steps: tuple[dict[str, Any], ...]
    output: str
    environment: str
    environment_reason: str


@dataclass(frozen=True)
class Report:
    """An archive that ``Job.report`` wrote. ``missing`` holds (file, why it is not in it)."""

    path: Path
    size_bytes: int
    files: tuple[str, ...]
    missing: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class FileEntry:
    """A regular file on the container, ``path`` relative to the folder asked for."""

    path: str
    size_bytes: int
    sha256: str
    mode: int


@dataclass(frozen=True)
class Figure:
    """One number of an estimate; ``value`` None = no data.

    ``evidence`` is guide (a row of the vendor's table), arithmetic (``text`` has the formula), no data
    (``text`` says why) or given. ``unit``: parameters, bytes, rows, hours; a flavor's value is its bytes.
    """

    name: str
    value: float | None
    unit: str
    evidence: str
    text: str


@dataclass(frozen=True)
class Concern:
    """Why a training will not do as asked: FLAVOR_TOO_SMALL, DISK_TOO_SMALL or HOST_MEMORY."""

    code: str
    text: str


@dataclass(frozen=True)
class TrainingNeeds:
    """What a training needs, and what the container has.

    ``flavor`` and ``memory_total_mib`` are the default device's; ``gated``: the Hub asks to accept a licence.
    """

    model: str
    commit: str
    model_type: str
    gated: bool
    figures: tuple[Figure, ...]
    concerns: tuple[Concern, ...]
    recommended_flavor: str
    recommended_batch_size: int
    guide_model: str
    provider: str
    flavor: str
    memory_total_mib: int | None
    folder: str
    free_bytes: int

    def figure(self, name: str) -> Figure | None:
        """The figure of a name."""
        return next((figure for figure in self.figures if figure.name == name), None)

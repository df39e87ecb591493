"""What moai keeps on a container and how it goes: a part of ``Host``.

Runs in the caller's process; the container counts and removes. Results and models are never removed unnamed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from moai import _convert
from moai._errors import MoaiError
from moai._html import table
from moai._types import JobInfo, Mount, iso

if TYPE_CHECKING:
    from moai._config import HostConfig
    from moai._rpc import Session

#: A file system fuller than this is warned of.
FULL_PERCENT = 90.0
_CLEAN_S = 900.0


@dataclass(frozen=True)
class StoredItem:
    """Something moai keeps on a container.

    Attributes:
        kind: job, log, code, snapshot, upload, bundle, prepared, results, checkpoint, model, environment,
            agent or partial. job, state: the job it belongs to and how that ended; "" = none.
        size_bytes: on disk. changed: newest change of anything in it. partial: not all of it was counted.
        kept_because: why a cleaning leaves it; "" = it goes.
    """

    kind: str
    path: str
    job: str
    state: str
    size_bytes: int
    file_count: int
    changed: datetime | None
    partial: bool
    kept_because: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "kind": self.kind,
            "path": self.path,
            "job": self.job or None,
            "state": self.state or None,
            "size_bytes": self.size_bytes,
            "files": self.file_count,
            "change_time": iso(self.changed),
            "partial": self.partial,
            "kept_because": self.kept_because or None,
        }


@dataclass(frozen=True)
class DiskUsage:
    """What moai keeps on a container: ``items``, the file systems they lie on, and why counting ended early."""

    host: str
    items: tuple[StoredItem, ...]
    mounts: tuple[Mount, ...]
    stopped: str

    @property
    def by_kind(self) -> dict[str, int]:
        """Kind -> bytes, the largest first."""
        found: dict[str, int] = {}
        for item in self.items:
            found[item.kind] = found.get(item.kind, 0) + item.size_bytes
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))

    def as_dict(self) -> dict[str, Any]:
        """An entry of ``moai.disk/1``."""
        return {
            "host": self.host,
            "mounts": [
                {"path": m.path, "free_bytes": m.free_bytes, "total_bytes": m.total_bytes, "used_percent": used_percent(m)}
                for m in self.mounts
            ],
            "kinds": self.by_kind,
            "items": [item.as_dict() for item in self.items],
            "stopped": self.stopped or None,
            "error": None,
        }

    def _repr_html_(self) -> str:
        """A table for notebooks: a row a kind."""
        return table((self.host, "kept"), [(kind, f"{count / 1e6:.1f} MB") for kind, count in self.by_kind.items()])


@dataclass(frozen=True)
class Cleaning:
    """What a cleaning removed (or, as a trial, would remove) and what it left, each with its reason."""

    host: str
    items: tuple[StoredItem, ...]
    kept: tuple[StoredItem, ...]
    dry_run: bool

    @property
    def size_bytes(self) -> int:
        """Bytes of what goes."""
        return sum(item.size_bytes for item in self.items)

    def as_dict(self) -> dict[str, Any]:
        """An entry of ``moai.clean/1``."""
        return {
            "host": self.host,
            "dry_run": self.dry_run,
            "size_bytes": self.size_bytes,
            "items": [item.as_dict() for item in self.items],
            "kept": [item.as_dict() for item in self.kept],
            "error": None,
        }


def used_percent(mount: Mount) -> float:
    """How full a file system is for this user, 0 to 100."""
    return round(100.0 * (1 - mount.free_bytes / mount.total_bytes), 1) if mount.total_bytes else 0.0


class Housekeeping:
    """Mixin of ``Host``."""

    session: Session
    config: HostConfig
    #: Jobs of other containers in this home, as of the last call of ``jobs``.
    other_count: int = 0

    def disk_usage(self, limit_s: float = 20.0) -> DiskUsage:
        """What moai keeps there, counted for at most ``limit_s`` seconds (300 at most)."""
        from moai_proto.v1 import file_pb2, file_pb2_grpc

        request = file_pb2.DiskUsageRequest(work=self.config.work, limit_seconds=limit_s)
        answer = self.session.call(file_pb2_grpc.FileServiceStub, "DiskUsage", request, timeout_s=limit_s + 60.0)
        mounts = tuple(Mount(m.path, "", m.free_bytes, m.total_bytes) for m in answer.mounts)
        return DiskUsage(self.config.name, tuple(stored(i) for i in answer.items), mounts, answer.stopped)

    def clean(
        self,
        *,
        older_s: float = 14 * 86400.0,
        checkpoints: bool = False,
        keep_last: int = 1,
        logs: bool = False,
        results: str = "",
        dry_run: bool = False,
        only: Sequence[str] = (),
        force: bool = False,
    ) -> Cleaning:
        """Remove what nothing needs any more: folders of ended jobs, code, uploads, bundles, half-made files.

        Args:
            older_s: only what ended or changed longer ago (an hour at least for what is no job).
            checkpoints: those of ended jobs too, but the newest ``keep_last`` (one at least of a job that did
                not succeed). logs: only the logs of ended jobs, their records stay. results: only the results
                of this ended job. only: of what would go, these paths. force: also others' jobs.

        What a job that has not ended may use stays, and is looked at again before each removal. Results,
        prepared sets, environments and Hub caches stay. Raises JOB_NOT_FOUND, JOB_ACTIVE, JOB_NOT_OWNED for
        ``results``; TIMED_OUT while another cleaning runs.
        """
        from moai_proto.v1 import file_pb2, file_pb2_grpc

        from moai._options import owner

        if keep_last < 0 or older_s < 0:
            raise MoaiError("USAGE", f"neither an age nor a number of checkpoints is negative ({older_s:g} s, {keep_last})", "")
        request = file_pb2.CleanFilesRequest(
            work=self.config.work,
            older_seconds=older_s,
            checkpoints_wanted=checkpoints,
            keep_checkpoints=keep_last,
            logs_wanted=logs,
            results_job=results,
            dry_run=dry_run,
            owner=owner(),
            force=force,
            paths=list(only),
        )
        answer = self.session.call(file_pb2_grpc.FileServiceStub, "CleanFiles", request, timeout_s=_CLEAN_S, patience_s=0.0)
        return Cleaning(
            self.config.name, tuple(stored(i) for i in answer.items), tuple(stored(i) for i in answer.kept), dry_run
        )

    def remove_agent(self, dry_run: bool = False) -> Cleaning:
        """Take moai off the container: its jobs, logs, code, uploads, prepared sets, bundles and the agent itself.

        Results, models and environments stay (``kept``). Raises Conflict (JOB_ACTIVE) naming the jobs that run.
        """
        from moai_proto.v1 import agent_pb2, agent_pb2_grpc

        request = agent_pb2.RemoveAgentRequest(dry_run=dry_run)
        answer = self.session.call(agent_pb2_grpc.AgentServiceStub, "RemoveAgent", request, timeout_s=_CLEAN_S, patience_s=0.0)
        return Cleaning(
            self.config.name, tuple(stored(i) for i in answer.removed), tuple(stored(i) for i in answer.kept), dry_run
        )

    def other_jobs(self, limit: int = 1000) -> list[JobInfo]:
        """Jobs of other containers whose folders lie in this home, as last recorded, newest first."""
        from moai_proto.v1 import job_pb2, job_pb2_grpc

        request = job_pb2.ListJobsRequest(page_size=limit, others_wanted=True)
        answer = self.session.call(job_pb2_grpc.JobServiceStub, "ListJobs", request)
        return [_convert.job(self.config.name, m) for m in answer.jobs]


def stored(m: Any) -> StoredItem:
    """An item of the contract."""
    return StoredItem(
        m.kind, m.path, m.job, m.state, m.size_bytes, m.file_count, _convert.moment(m, "change_time"), m.partial, m.kept_because
    )

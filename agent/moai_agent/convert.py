"""Records of the job folder -> messages of the contract. Nothing else."""

import json
import math
from typing import Any, Dict, Optional

from google.protobuf.timestamp_pb2 import Timestamp
from moai_proto.v1 import file_pb2, job_pb2

from moai_agent.jobs.store import Entry


def timestamp(seconds: Optional[float]) -> Optional[Timestamp]:
    """Seconds since the epoch as a Timestamp; None stays None."""
    if seconds is None:
        return None
    nanos = int(round(float(seconds) * 1e6)) * 1000
    return Timestamp(seconds=nanos // 1000000000, nanos=nanos % 1000000000)


def stored(item: Any) -> file_pb2.StoredItem:
    """An item of the inventory."""
    return file_pb2.StoredItem(
        kind=item.kind,
        path=item.path,
        job=item.job,
        state=item.state,
        size_bytes=item.size_bytes,
        file_count=item.files,
        change_time=timestamp(item.changed or None),
        partial=item.partial,
        kept_because=item.kept_because,
    )


def reason(value: Optional[Dict[str, Any]]) -> Optional[job_pb2.Reason]:
    """A recorded reason."""
    if not isinstance(value, dict) or not value:
        return None
    details = value.get("details")
    details = {str(k): str(v) for k, v in details.items()} if isinstance(details, dict) else {}
    return job_pb2.Reason(
        code=str(value.get("code") or ""),
        message=str(value.get("message") or ""),
        next=str(value.get("next") or ""),
        details=details,
    )


def _number(value: Any) -> Optional[float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:  # JSON has whole numbers of any length.
        return math.inf if value > 0 else -math.inf


def _whole(value: Any) -> Optional[int]:
    number = _number(value)
    # What a program reports may be no count at all; int64 holds what one can be.
    return int(number) if number is not None and math.isfinite(number) and abs(number) < 2**53 else None


def _rest(data: Dict[str, Any], known: str) -> str:
    rest = {k: v for k, v in data.items() if k not in known.split()}
    return json.dumps(rest, sort_keys=True) if rest else ""


def event(record: Dict[str, Any]) -> job_pb2.Event:
    """A journal record as an Event."""
    data = record.get("data") or {}
    out = job_pb2.Event(sequence=record["q"], event_time=timestamp(record.get("t")), step=record.get("step") or "")
    kind = record["type"]
    if kind == "state":
        out.state.CopyFrom(
            job_pb2.StateEvent(
                state=job_pb2.JobState.Value("JOB_STATE_" + data["state"]),
                exit_code=_whole(data.get("exit_code")),
                reason=reason(data.get("reason")) or _first_condition(data),
                output=data.get("output") or "",
            )
        )
    elif kind == "step":
        out.step_change.CopyFrom(
            job_pb2.StepEvent(
                name=str(data.get("name") or ""),
                state=_step_state(data.get("state")),
                exit_code=_whole(data.get("exit_code")),
                pid=_whole(data.get("pid")),
                pid_start_ticks=_whole(data.get("pid_start_ticks")),
                result_json=json.dumps(data["result"], sort_keys=True) if data.get("result") else "",
                reason=reason(data.get("reason")),
            )
        )
    elif kind == "phase":
        out.phase.CopyFrom(
            job_pb2.PhaseEvent(
                phase=str(data.get("phase") or ""),
                text=str(data.get("text") or ""),
                details_json=_rest(data, "phase text"),
            )
        )
    elif kind == "progress":
        out.progress.CopyFrom(
            job_pb2.ProgressEvent(
                done=_number(data.get("done")),
                total=_number(data.get("total")),
                unit=str(data.get("unit") or ""),
                rate=_number(data.get("rate")),
                eta_seconds=_number(data.get("eta_seconds")),
                details_json=_rest(data, "done total unit rate eta_seconds"),
            )
        )
    elif kind == "metric":
        values = data.get("values") if isinstance(data.get("values"), dict) else {}
        numbers = {str(k): _number(v) for k, v in values.items() if _number(v) is not None}
        out.metric.CopyFrom(
            job_pb2.MetricEvent(
                step=_whole(data.get("step")),
                total=_whole(data.get("total")),
                values=numbers,
                details_json=_rest(data, "step total values"),
            )
        )
    elif kind == "message":
        out.message.CopyFrom(
            job_pb2.MessageEvent(
                text=str(data.get("text") or ""),
                level=str(data.get("level") or "info"),
                code=str(data.get("code") or ""),
                details_json=_rest(data, "text level code"),
            )
        )
    elif kind == "artifact":
        out.artifact.CopyFrom(
            job_pb2.ArtifactEvent(
                kind=str(data.get("kind") or ""),
                path=str(data.get("path") or ""),
                details_json=_rest(data, "kind path"),
            )
        )
    else:
        out.gap.CopyFrom(
            job_pb2.GapEvent(
                source=str(data.get("source") or ""),
                start_offset=_whole(data.get("start_offset")) or 0,
                end_offset=_whole(data.get("end_offset")) or 0,
                text=str(data.get("text") or ""),
            )
        )
    return out


def _first_condition(data: Dict[str, Any]) -> Optional[job_pb2.Reason]:
    for condition in data.get("conditions") or []:
        return job_pb2.Reason(code=condition["type"], message=condition["message"])
    return None


def _step_state(name: Any) -> int:
    try:
        return job_pb2.StepState.Value("STEP_STATE_%s" % name)
    except ValueError:
        return job_pb2.STEP_STATE_UNSPECIFIED


def job(entry: Entry, losses: bool = False) -> job_pb2.Job:
    """A job as listed."""
    spec, view = entry.spec, entry.view
    progress = view.get("progress")
    shown = None
    if progress:
        shown = job_pb2.ProgressView(
            done=_number(progress.get("step")),
            total=_number(progress.get("total")),
            unit=str(progress.get("unit") or ""),
            rate=_number(progress.get("rate")),
            eta_seconds=_number(progress.get("eta_seconds")),
            as_of_time=timestamp(progress.get("as_of")),
        )
    metrics = {str(k): _number(v) for k, v in (view.get("metrics") or {}).items() if _number(v) is not None}
    return job_pb2.Job(
        id=entry.job.id,
        name=spec.get("name") or "",
        owner=spec.get("owner") or "",
        command=spec.get("command") or "",
        kind=spec.get("kind") or "",
        state=job_pb2.JobState.Value("JOB_STATE_" + view["state"]),
        phase=view.get("phase") or "",
        phase_time=timestamp(view.get("phase_since")) if view.get("phase") else None,
        phase_text=view.get("phase_text") or "",
        phase_usual_seconds=(view.get("phase_usual") or [[], ""])[0],
        phase_usual_source=(view.get("phase_usual") or [[], ""])[1],
        reason=reason(view.get("reason")),
        create_time=timestamp(spec.get("create_time")),
        start_time=timestamp(view.get("start")),
        end_time=timestamp(view.get("end")),
        exit_code=_whole(view.get("exit_code")),
        steps=[
            job_pb2.Step(name=s["name"], state=_step_state(s["state"]), exit_code=_whole(s.get("exit_code")))
            for s in view.get("steps", [])
        ],
        progress=shown,
        output=view.get("output") or entry.plan.get("output") or "",
        parent=spec.get("parent") or "",
        conditions=[job_pb2.Condition(type=c["type"], message=c["message"]) for c in view.get("conditions") or []],
        pid=view.get("pid") or 0,
        log_bytes=_size(entry.job.log),
        last_sequence=view.get("last") or 0,
        environment=(spec.get("environment") or {}).get("name", ""),
        environment_reason=spec.get("environment_reason") or "",
        metrics=metrics,
        metrics_step=_whole(view.get("metrics_step")),
        folder=entry.job.path,
        request_id=spec.get("request_id") or "",
        host_id=spec.get("host_id") or "",
        losses=[
            job_pb2.LossPoint(step=int(s), loss=_number(v)) for s, v in (view.get("losses") or []) if losses
        ],
    )


def _size(path: str) -> int:
    import os

    try:
        return os.path.getsize(path)
    except OSError:
        return 0

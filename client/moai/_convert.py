"""Messages of the contract -> values of ``moai._types``. Nothing else; unknown enums stay visible.

Stubs are imported where they are needed: most commands use one service of eight.
"""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp

if TYPE_CHECKING:
    from moai_proto.v1 import agent_pb2, device_pb2, environment_pb2, errors_pb2, job_pb2, model_pb2, training_pb2

from moai import _types as t
from moai._errors import MoaiError


def moment(message: Any, name: str) -> datetime | None:
    """A Timestamp field as an aware UTC datetime; None when unset."""
    if not message.HasField(name):
        return None
    stamp: Timestamp = getattr(message, name)
    return datetime.fromtimestamp(stamp.seconds, timezone.utc).replace(microsecond=stamp.nanos // 1000)


def optional(message: Any, name: str) -> Any:
    """An optional scalar; None when unset."""
    return getattr(message, name) if message.HasField(name) else None


def job_state(value: int) -> str:
    """Name without prefix; a value newer than this client reads as UNKNOWN_<n>."""
    from moai_proto.v1 import job_pb2

    return _enum_name(job_pb2.JobState, value, "JOB_STATE_", "UNKNOWN")


def step_state(value: int) -> str:
    """Name without prefix."""
    from moai_proto.v1 import job_pb2

    return _enum_name(job_pb2.StepState, value, "STEP_STATE_", "PENDING")


def _enum_name(enum: Any, value: int, prefix: str, unset: str) -> str:
    if value == 0:
        return unset
    try:
        return str(enum.Name(value)).removeprefix(prefix)
    except ValueError:
        return f"UNKNOWN_{value}"


def reason(message: job_pb2.Reason) -> t.Reason:
    """A recorded reason."""
    return t.Reason(message.code, message.message, message.next, dict(message.details))


def error_reason(info: errors_pb2.ErrorInfo) -> t.Reason:
    """An ErrorInfo as a reason."""
    from moai_proto.v1 import errors_pb2

    name = _enum_name(errors_pb2.ErrorReason, info.reason, "ERROR_REASON_", "INTERNAL")
    return t.Reason(name, info.message, info.next, dict(info.details))


def job(host: str, m: job_pb2.Job) -> t.JobInfo:
    """A job."""
    progress = None
    if m.HasField("progress"):
        p = m.progress
        progress = t.Progress(
            optional(p, "done"), optional(p, "total"), p.unit, optional(p, "rate"), optional(p, "eta_seconds"),
            moment(p, "as_of_time"),
        )  # fmt: skip
    return t.JobInfo(
        host=host,
        id=m.id,
        name=m.name,
        owner=m.owner,
        command=m.command,
        kind=m.kind,
        state=job_state(m.state),
        phase=m.phase,
        phase_text=m.phase_text,
        phase_time=moment(m, "phase_time"),
        phase_usual=(m.phase_usual_seconds[0], m.phase_usual_seconds[1], m.phase_usual_source) if len(m.phase_usual_seconds) == 2 else None,
        reason=reason(m.reason) if m.HasField("reason") else None,
        create_time=moment(m, "create_time"),
        start_time=moment(m, "start_time"),
        end_time=moment(m, "end_time"),
        exit_code=optional(m, "exit_code"),
        steps=tuple(t.Step(s.name, step_state(s.state), optional(s, "exit_code")) for s in m.steps),
        progress=progress,
        output=m.output,
        parent=m.parent,
        conditions=tuple((c.type, c.message) for c in m.conditions),
        pid=m.pid,
        environment=m.environment,
        environment_reason=m.environment_reason,
        metrics=dict(m.metrics),
        metrics_step=optional(m, "metrics_step"),
        losses=tuple((p.step, p.loss) for p in m.losses),
        folder=m.folder,
        request_id=m.request_id,
        last_sequence=m.last_sequence,
        log_bytes=m.log_bytes,
        host_id=m.host_id,
    )


def event(host: str, job_id: str, m: job_pb2.Event) -> t.Event:
    """An event; its ``data`` as docs/json.md says."""
    kind = m.WhichOneof("kind") or "message"
    make = _DATA.get(kind)
    data = make(getattr(m, kind)) if make else {}
    name = "step" if kind == "step_change" else kind
    return t.Event(host, job_id, m.sequence, moment(m, "event_time"), m.step, name, data)


def _reason_dict(m: Any) -> dict[str, Any] | None:
    return reason(m.reason).as_dict() if m.HasField("reason") else None


def _state(m: job_pb2.StateEvent) -> dict[str, Any]:
    data = {"state": job_state(m.state), "exit_code": optional(m, "exit_code"), "reason": _reason_dict(m)}
    return data | ({"output": m.output} if m.output else {})


def _step(m: job_pb2.StepEvent) -> dict[str, Any]:
    return {
        "name": m.name,
        "state": step_state(m.state),
        "exit_code": optional(m, "exit_code"),
        "pid": optional(m, "pid"),
        "pid_start_ticks": optional(m, "pid_start_ticks"),
        "result": _details(m.result_json) or None,
        "reason": _reason_dict(m),
    }


def _phase(m: job_pb2.PhaseEvent) -> dict[str, Any]:
    return {**_details(m.details_json), "phase": m.phase, "text": m.text}


def _progress(m: job_pb2.ProgressEvent) -> dict[str, Any]:
    known = {name: optional(m, name) for name in ("done", "total", "rate", "eta_seconds")}
    return {**_details(m.details_json), **known, "unit": m.unit}


def _metric(m: job_pb2.MetricEvent) -> dict[str, Any]:
    return {**_details(m.details_json), "step": optional(m, "step"), "total": optional(m, "total"), "values": dict(m.values)}


def _message(m: job_pb2.MessageEvent) -> dict[str, Any]:
    return {**_details(m.details_json), "text": m.text, "level": m.level, "code": m.code}


def _artifact(m: job_pb2.ArtifactEvent) -> dict[str, Any]:
    return {**_details(m.details_json), "kind": m.kind, "path": m.path}


def _gap(m: job_pb2.GapEvent) -> dict[str, Any]:
    return {"source": m.source, "start_offset": m.start_offset, "end_offset": m.end_offset, "text": m.text}


_DATA: dict[str, Any] = {
    "state": _state,
    "step_change": _step,
    "phase": _phase,
    "progress": _progress,
    "metric": _metric,
    "message": _message,
    "artifact": _artifact,
    "gap": _gap,
}


def _details(text: str) -> dict[str, Any]:
    value = json.loads(text) if text else {}
    return value if isinstance(value, dict) else {}


def devices(host: str, m: device_pb2.ListDevicesResponse) -> t.DeviceReport:
    """A device table."""
    return t.DeviceReport(
        host=host,
        provider=m.provider,
        platform_version=m.platform_version,
        latest_version=m.latest_version,
        devices=tuple(
            t.Device(
                id=d.id,
                name=d.name,
                flavor=d.flavor,
                is_default=d.is_default,
                memory_used_mib=optional(d, "memory_used_mib"),
                memory_total_mib=optional(d, "memory_total_mib"),
                memory_used_percent=optional(d, "memory_used_percent"),
                utilization_percent=optional(d, "utilization_percent"),
                processes=tuple(
                    t.DeviceProcess(optional(p, "job_id"), optional(p, "pid"), p.command, optional(p, "memory_used_mib"))
                    for p in d.processes
                ),
            )
            for d in m.devices
        ),
        messages=tuple(m.messages),
        error=error_reason(m.error) if m.HasField("error") else None,
    )


def failed_devices(host: str, error: MoaiError) -> t.DeviceReport:
    """The row of a host that could not be asked."""
    return t.DeviceReport(host, "", "", "", (), (), t.Reason(error.reason, error.message, error.next, error.details))


def environment(m: environment_pb2.Environment) -> t.Environment:
    """An environment."""
    return t.Environment(
        m.name, m.kind, m.prefix, m.python, m.python_version, m.torch_version, m.moreh_version, dict(m.packages)
    )


def one_environment(m: environment_pb2.GetEnvironmentResponse, by_setting: bool) -> t.Environment:
    """An environment with its place among the others; ``by_setting``: the host's setting names it."""
    reason = "the host's setting names it (moai remote set --env)" if by_setting else m.reason
    found = environment(m.environment)
    return dataclasses.replace(found, is_default=by_setting or m.is_default, reason=reason, shadowed=tuple(m.shadowed))


def install_plan(value: dict[str, Any]) -> t.InstallPlan:
    """What the step ``install`` kept in changes.json."""
    return t.InstallPlan(
        str(value["environment"]),
        str(value["python"]),
        bool(value["previewed"]),
        tuple(t.Change(c["name"], c["action"], c["before"], c["after"]) for c in value["changes"]),
        tuple(t.Repair(r["file"], r["line"], r["was"], r["why"], r["used"]) for r in value["repairs"]),
        {str(k): str(v) for k, v in value["held"].items()},
    )


def check(m: environment_pb2.Check) -> t.Check:
    """One check; a remedy that this client does not know is left to a person."""
    from moai_proto.v1 import environment_pb2

    verdict = _enum_name(environment_pb2.Verdict, m.verdict, "VERDICT_", "skipped").lower()
    fix = remedies().get(m.fix, "")
    return t.Check(m.name, verdict, m.evidence, m.remedy, fix, m.argument if fix else "")


def remedies() -> dict[int, str]:
    """Number in the contract -> name, of what ``ApplyRemedy`` does: ``reset-device``."""
    from moai_proto.v1 import environment_pb2

    return {
        value: name.removeprefix("REMEDY_").lower().replace("_", "-")
        for name, value in environment_pb2.Remedy.items()
        if value
    }


def host_info(host: str, m: agent_pb2.GetAgentResponse) -> t.HostInfo:
    """The agent and its host."""
    return t.HostInfo(
        host=host,
        version=m.version,
        digest=m.digest,
        incarnation=m.incarnation,
        host_id=m.host_id,
        boot=m.boot,
        clock=moment(m, "clock_time"),
        hostname=m.hostname,
        user=m.user,
        python=m.python,
        python_version=m.python_version,
        home=m.home,
        work=m.work,
        cpu_count=m.cpu_count,
        memory_bytes=m.memory_bytes,
        pid=m.pid,
        mounts=tuple(t.Mount(x.path, x.type, x.free_bytes, x.total_bytes) for x in m.mounts),
        active_jobs=m.active_jobs,
    )


def training_needs(model: str, m: training_pb2.EstimateTrainingResponse) -> t.TrainingNeeds:
    """An estimate."""
    return t.TrainingNeeds(
        model=model,
        commit=m.commit,
        model_type=m.model_type,
        gated=m.gated,
        figures=tuple(t.Figure(f.name, optional(f, "value"), f.unit, f.evidence, f.text) for f in m.figures),
        concerns=tuple(t.Concern(c.code, c.text) for c in m.concerns),
        recommended_flavor=m.recommended_flavor,
        recommended_batch_size=m.recommended_batch_size,
        guide_model=m.guide_model,
        provider=m.provider,
        flavor=m.flavor,
        memory_total_mib=optional(m, "memory_total_mib"),
        folder=m.folder,
        free_bytes=m.free_bytes,
    )


def download_plan(m: model_pb2.PlanDownloadResponse, laptop_source: str) -> t.DownloadPlan:
    """A plan; ``laptop_source``: where the laptop's token was found, told instead of "laptop"."""
    return t.DownloadPlan(
        commit=m.commit,
        size_bytes=m.size_bytes,
        file_count=m.file_count,
        left_out=dict(m.left_out),
        free_bytes=m.free_bytes,
        folder=m.folder,
        files=tuple(t.PlannedFile(f.path, f.size_bytes, f.here) for f in m.files),
        missing_bytes=m.missing_bytes,
        needed_bytes=m.needed_bytes,
        gated=m.gated,
        page=m.page,
        token_source=f"{laptop_source} of the laptop" if m.token_source == "laptop" else m.token_source,
        other_cache=m.other_cache,
    )

"""A post-mortem of one job as one archive for support: collected, redacted, written on the laptop.

Owns what is in it. Refuses to fail for a part: what cannot be had is named, with the reason, and the
rest is written. Everything is held in memory (about 10 MB) so that a secret found in one part is taken
out of all. Runs in the caller's process.
"""

from __future__ import annotations

import errno
import io
import json
import os
import platform
import re
import secrets
import tarfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moai import _redact
from moai import _types as t
from moai._errors import MoaiError
from moai._options import hub_token
from moai._version import __version__

if TYPE_CHECKING:
    from moai._degraded import Inspector
    from moai._job import Job

LOG_BYTES = 2 * 1024 * 1024
#: Read before the kept part, so that a value or table that the cut goes through is whole when it is redacted.
_BEFORE_BYTES = 64 * 1024
_AGENT_LOG_BYTES = 256 * 1024
_JOURNAL_BYTES = 16 * 1024 * 1024
_FIRST_EVENTS, _LAST_EVENTS = 500, 20000

_HELD = {
    "job.json": "state, reason, steps, figures, times",
    "spec.json": "what was asked: command, environment, variables (names of secrets only)",
    "plan.json": "the steps with their arguments",
    "events.jsonl": "every event of the job's journal",
    "phases.txt": "what it was busy with, when and for how long",
    "log.txt": f"the last {LOG_BYTES // 1024 // 1024} MB of what the job printed",
    "memory.txt": "the out-of-memory verdict with its numbers",
    "moreh.json": "Moreh Job ID and framework version, as log and device tool told them",
    "devices.json": "the device table as it is now",
    "environment.json": "the job's Python environment and the versions of all its packages",
    "agent.log": "the end of the agent's own log",
    "laptop.json": "versions here, and how the container is reached",
}


def write(job: Job, path: str | Path = "") -> t.Report:
    """Collect, redact and write; see ``Job.report``."""
    target = _target(job, path)
    parts, missing = _collect(job)
    redactor = _redact.Redactor(_own_secrets())
    for part in parts.values():
        redactor.learn(part)
    texts = {name: _text(name, part, redactor) for name, part in parts.items()}
    shown = [(name, redactor.text(why)) for name, why in missing]
    texts = {"README.txt": redactor.text(_readme(job.info, list(texts), shown)), **texts}
    _save(target, _folder_name(job.id), texts)
    return t.Report(target, target.stat().st_size, tuple(texts), tuple(shown))


def _target(job: Job, path: str | Path) -> Path:
    if path:
        target = Path(path).expanduser().absolute()
        if target.is_dir():
            raise MoaiError("USAGE", f"{target} is a folder", f"-o {target / (_folder_name(job.id) + '.tar.gz')}")
    else:
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        target = Path(f"{_folder_name(job.id)}-{stamp}.tar.gz").absolute()
    if target.exists():
        raise MoaiError("USAGE", f"{target} is there already", "name another file with -o")
    if not target.parent.is_dir():
        raise MoaiError("FILE_NOT_HERE", f"there is no folder {target.parent} here", "name another file with -o")
    return target


def _folder_name(job_id: str) -> str:
    # The id comes from the container.
    return "moai-report-" + (re.sub(r"[^A-Za-z0-9._-]", "-", job_id)[:80].lstrip(".-") or "job")


def _own_secrets() -> list[str]:
    """Values the laptop knows to be secret; a job may print what it was given."""
    named = [value for name, value in os.environ.items() if _redact.is_secret_name(name) and len(value) >= 8]
    return [*named, hub_token()[0]]


# -- collecting ------------------------------------------------------------------------------------


def _collect(job: Job) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Name -> text or JSON value of every part that could be had, and (name, why) of the others."""
    from moai._job import DegradedJob

    parts: dict[str, Any] = {}
    missing: list[tuple[str, str]] = []

    def part(name: str, ask: Callable[[], Any]) -> None:
        try:
            value = ask()
        except MoaiError as error:
            missing.append((name, f"{error.message} [{error.reason}]"))
        else:
            if value is not None:
                parts[name] = value

    part("job.json", lambda: _job(job))
    if isinstance(job, DegradedJob):
        _from_folder(job, job.inspector, part)
        missing += [(name, f"there is no agent to ask: {job.why.message}") for name in ("devices.json", "environment.json")]
    else:
        _from_agent(job, part)
    events = parts.get("events.jsonl") or []
    part("log.txt", lambda: _log(job))
    part("phases.txt", lambda: _phases(events, job.info) if events else None)
    part("memory.txt", lambda: _memory(job.info, events))
    part("moreh.json", lambda: _moreh(events, str(parts.get("log.txt") or ""), parts))
    parts["laptop.json"] = _laptop(job)
    order = list(_HELD)
    return dict(sorted(parts.items(), key=lambda item: order.index(item[0]))), missing


def _job(job: Job) -> dict[str, Any]:
    info = job.refresh()
    more = {
        "environment": info.environment,
        "environment_reason": info.environment_reason,
        "metrics": info.metrics,
        "losses": [list(point) for point in info.losses],
        "folder": info.folder,
        "log_bytes": info.log_bytes,
        "reason_details": info.reason.details if info.reason else {},
    }
    return {**info.as_dict(), **more}


def _from_agent(job: Job, part: Callable[[str, Callable[[], Any]], None]) -> None:
    plans: dict[str, Any] = {}

    def spec() -> Any:
        spec, plans["plan"] = job.spec_and_plan()
        return spec

    part("spec.json", spec)
    part("plan.json", lambda: plans.get("plan"))
    part("events.jsonl", lambda: _bounded([event.as_dict() for event in job.events(follow=False)]))
    part("devices.json", lambda: _devices(job))
    part("environment.json", lambda: _environment(job))
    part("agent.log", lambda: _agent_log(job))


def _from_folder(job: Job, inspector: Inspector, part: Callable[[str, Callable[[], Any]], None]) -> None:
    record: dict[str, Any] = {}

    def spec() -> Any:
        record.update(inspector.record(job.id))
        return record.get("spec")

    part("spec.json", spec)
    part("plan.json", lambda: record.get("plan"))
    part("events.jsonl", lambda: _bounded(_journal(job, inspector.file(job.id, "events", _JOURNAL_BYTES))))
    part("agent.log", lambda: _tail_text(inspector.file(job.id, "agent.log", _AGENT_LOG_BYTES), True))


def _journal(job: Job, raw: bytes) -> list[dict[str, Any]]:
    """Events of a journal as the agent would tell them, as far as its lines can be read."""
    found = []
    for line in raw.split(b"\n"):
        try:
            record = json.loads(line[9:])
        except ValueError:
            continue
        if not isinstance(record, dict) or "q" not in record:
            continue
        moment = record.get("t")
        when = datetime.fromtimestamp(moment, timezone.utc) if isinstance(moment, (int, float)) else None
        data = record.get("data") if isinstance(record.get("data"), dict) else {}
        event = t.Event(job.host.name, job.id, record["q"], when, record.get("step") or "", str(record.get("type")), data or {})
        found.append(event.as_dict())
    return found


def _bounded(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return events if len(events) <= _FIRST_EVENTS + _LAST_EVENTS else events[:_FIRST_EVENTS] + events[-_LAST_EVENTS:]


def _log(job: Job) -> str:
    total = job.info.log_bytes
    wanted = LOG_BYTES + _BEFORE_BYTES
    return _tail_text(b"".join(job.log(max(0, total - wanted))), total > wanted)


def _tail_text(data: bytes, is_cut: bool) -> str:
    """Text of the end of a file; what may be the second half of a value is left out."""
    if is_cut:
        at = data.find(b"\n", 0, _BEFORE_BYTES)
        data = data[at + 1 if at >= 0 else _BEFORE_BYTES :]
    return data.decode("utf-8", "replace")


def _agent_log(job: Job) -> str:
    from moai_proto.v1 import file_pb2, file_pb2_grpc

    from moai import _files

    path = str(Path(job.info.folder).parent.parent / "run" / "agent.log")
    root, _, entries = _files.listing(job.host.session, path, digest=False)
    size = entries[0].size_bytes if entries else 0
    request = file_pb2.GetFilesRequest(path=root, offset=max(0, size - _AGENT_LOG_BYTES))
    chunks = job.host.session.stream(file_pb2_grpc.FileServiceStub, "GetFiles", request)
    return _tail_text(b"".join(chunk.data for chunk in chunks), size > _AGENT_LOG_BYTES)


def _devices(job: Job) -> Any:
    try:
        return job.host.devices(job.info.environment).as_dict()
    except MoaiError:
        return job.host.devices().as_dict()


def _environment(job: Job) -> Any:
    found = [one for one in job.host.environments(all_packages=True) if one.name == job.info.environment]
    if not found:
        raise MoaiError("ENVIRONMENT_NOT_FOUND", f"the environment {job.info.environment!r} is not there any more")
    return [vars(one) for one in found]


def _laptop(job: Job) -> dict[str, Any]:
    config = job.host.config
    return {
        "moai": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "host": config.name,
        "transport": "none" if config.is_local else config.transport,
        "written": t.iso(datetime.now(timezone.utc)),
    }


# -- reading out of it -----------------------------------------------------------------------------


def _phases(events: list[dict[str, Any]], info: t.JobInfo) -> str:
    """One line a phase: when it began (UTC), how long it lasted, its step, what it was."""
    marks: list[tuple[str, str, str]] = []
    for event in events:
        data = event["data"]
        if event["type"] == "phase":
            marks.append((event["time"], event["step"], f"{data.get('phase')}  {data.get('text') or ''}".rstrip()))
        elif event["type"] == "step":
            marks.append((event["time"], str(data.get("name")), f"step {str(data.get('state')).lower()}"))
        elif event["type"] == "state":
            marks.append((event["time"], "", str(data.get("state"))))
    lines = [f"{'BEGAN (UTC)':<28} {'SECONDS':>10}  {'STEP':<18} PHASE"]
    for at, (began, step, text) in enumerate(marks):
        later = next((when for when, _, _ in marks[at + 1 :] if when), None) or (t.iso(info.end_time) if info.ended else None)
        lasted = f"{(_moment(later) - _moment(began)).total_seconds():.1f}" if began and later else "?"
        lines.append(f"{began or '?':<28} {lasted:>10}  {step or '-':<18} {text}")
    return "\n".join(lines) + "\n"


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ")


def _memory(info: t.JobInfo, events: list[dict[str, Any]]) -> str | None:
    """The verdict that memory ran out, in words and numbers; None when nothing says so."""
    told: dict[str, Any] = {}
    for event in events:
        data = event["data"]
        if event["type"] == "message" and str(data.get("code")).endswith("OUT_OF_MEMORY"):
            told = {**told, **{k: v for k, v in data.items() if v is not None}}
    if info.reason is not None and info.reason.code.endswith("OUT_OF_MEMORY"):
        told = {**told, **info.reason.details, "code": info.reason.code, "text": info.reason.message, "next": info.reason.next}
    if not told:
        return None
    where = "the accelerator" if str(told.get("code")).startswith("DEVICE") else "the container's main memory"
    lines = [f"{where} ran out of memory [{told.get('code')}]", "", str(told.get("text") or ""), ""]
    for label, key in (("requested", "requested_bytes"), ("available", "available_bytes")):
        value = str(told.get(key) or "")
        lines.append(f"{label:<10} {int(value):>20} bytes  {int(value) / 2**30:.2f} GiB" if value.isdigit() else f"{label:<10} not told")
    if told.get("next"):
        lines += ["", f"next: {told['next']}"]
    return "\n".join(lines) + "\n"


def _moreh(events: list[dict[str, Any]], log: str, parts: dict[str, Any]) -> dict[str, Any] | None:
    """What Moreh's support asks for; None where there is no trace of the platform."""
    found: dict[str, Any] = {"moreh_job_id": None, "maf_version": None}
    for event in events:
        for key in found:
            if event["data"].get(key) is not None:
                found[key] = event["data"][key]
    for key, pattern in (("moreh_job_id", r"Moreh Job ID:\s*(\d{1,15})"), ("maf_version", r"Moreh Version:\s*([\w.+-]{1,40})")):
        in_log = re.findall(pattern, log)
        if found[key] is None and in_log:
            found[key] = in_log[-1]
    devices = parts.get("devices.json") or {}
    is_moai = devices.get("provider") in ("moreh-smi", "ap-smi")
    found["platform_version"] = devices.get("platform_version") if is_moai else None
    found["latest_version"] = devices.get("latest_version") if is_moai else None
    found["torch_moreh_version"] = next((e["moreh_version"] or None for e in parts.get("environment.json") or []), None)
    return found if any(value is not None for value in found.values()) else None


# -- writing ---------------------------------------------------------------------------------------


def _text(name: str, part: Any, redactor: _redact.Redactor) -> str:
    if name == "log.txt":
        return _last_lines(redactor.text(part))
    if isinstance(part, str):
        return redactor.text(part)
    part = redactor.value(part)
    if name.endswith(".jsonl"):
        return "".join(json.dumps(one, ensure_ascii=False, default=str) + "\n" for one in part)
    return json.dumps(part, ensure_ascii=False, indent=1, default=str) + "\n"


def _last_lines(text: str) -> str:
    """At most LOG_BYTES, from the start of a line where there is one."""
    data = text.encode("utf-8", "replace")
    if len(data) <= LOG_BYTES:
        return text
    data = data[-LOG_BYTES:]
    return data[data.find(b"\n") + 1 :].decode("utf-8", "replace")


def _readme(info: t.JobInfo, names: list[str], missing: list[tuple[str, str]]) -> str:
    reason = f"{info.reason.code}: {info.reason.message}" if info.reason else "-"
    lines = [
        f"Report of job {info.id} on {info.host}, for support. Made by moai {__version__}.",
        "",
        f"state     {info.state}" + (f" (exit {info.exit_code})" if info.exit_code is not None else ""),
        f"reason    {reason}",
        f"command   {info.command}",
        f"started   {t.iso(info.start_time) or '-'}",
        f"ended     {t.iso(info.end_time) or '-'}",
        "",
        "What is in it:",
        "",
        *[f"  {name:<18} {_HELD[name]}" for name in names],
    ]
    if missing:
        lines += ["", "What could not be had:", "", *[f"  {name:<18} {why}" for name, why in missing]]
    lines += [
        "",
        f"Tokens, passwords, keys, authorization headers and signed addresses were replaced by {_redact.MARK}.",
        "Names of hosts and users, paths, your command line and what the job printed are in it: look through",
        "it before you send it.",
    ]
    return "\n".join(lines) + "\n"


def _save(target: Path, folder: str, texts: dict[str, str]) -> None:
    """Publish the archive under its name once it is whole; only its owner may read it."""
    temp = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        try:
            with open(os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                with tarfile.open(fileobj=out, mode="w:gz") as archive:
                    for name, text in texts.items():
                        data = text.encode("utf-8", "replace")
                        entry = tarfile.TarInfo(f"{folder}/{name}")
                        entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
                        archive.addfile(entry, io.BytesIO(data))
            os.replace(temp, target)
        finally:
            temp.unlink(missing_ok=True)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise MoaiError(
            "DISK_FULL" if full else "FILE_NOT_HERE",
            f"{target} on the laptop: {error.strerror or error}",
            "free some space here, then repeat it" if full else "name another file with -o",
        ) from error

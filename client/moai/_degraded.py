"""Jobs of a host whose agent cannot start: listed, read and cancelled from their folders over plain SSH.

Owns no truth of its own: the inspector in the container's payload reads the folders. Slower than the
agent, without events and without following; good enough to see and to stop. Runs in the caller's process.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from moai import _types as t
from moai._dial import NotInstalled, open_channel, read_answer
from moai._errors import MoaiError
from moai._options import owner

if TYPE_CHECKING:
    from moai._host import Host

#: Reasons under which there is no agent to ask, while a login may still run commands.
REASONS = ("AGENT_FAILED", "DISK_FULL", "HOME_NOT_WRITABLE", "AGENT_TOO_OLD", "CLIENT_TOO_OLD", "BUNDLE_UNAVAILABLE")

_ANSWER_S = 60.0
_LINE = (
    'M="${MOAI_HOME:-$HOME/.moai}"; case "$M" in "~/"*) M="$HOME/${M#??}";; esac; h=; IFS= read -r h </proc/sys/kernel/hostname; f="$M/hosts/$h.dial"; '
    'if [ -r "$f" ]; then { IFS= read -r p; IFS= read -r d; } <"$f"; r="$M/payload/$d/worker/main.py"; '
    'if [ -x "$p" ] && [ -r "$r" ]; then exec "$p" -I -S "$r" moai_worker.inspector; fi; fi; exit 127'
)


class Inspector:
    """Asks a host's job folders directly. ``why`` is what keeps the agent from starting."""

    def __init__(self, host: Host, why: MoaiError) -> None:
        self._host, self._why = host, why

    def jobs(self) -> list[t.JobInfo]:
        """All jobs, newest first."""
        answer, _ = self._ask({"verb": "jobs"})
        found = [job_info(self._host.name, one) for one in answer["jobs"]]
        return sorted(found, key=lambda j: j.create_time or datetime.min.replace(tzinfo=timezone.utc), reverse=True)

    def job(self, text: str) -> t.JobInfo:
        """One job by id, prefix or ``last``."""
        answer, _ = self._ask({"verb": "job", "job": text})
        return job_info(self._host.name, answer["job"])

    def log(self, job_id: str, offset: int) -> Iterator[bytes]:
        """The log from an offset to its present end."""
        answer, body = self._ask({"verb": "log", "job": job_id, "offset": offset}, body=True)
        if len(body) != answer["size"]:
            raise MoaiError("LINK_LOST", f"{len(body)} of {answer['size']} bytes of the log arrived", "try again")
        yield body

    def record(self, text: str) -> dict[str, Any]:
        """``{"spec", "plan", "view", ...}`` of one job, as its folder has them."""
        answer, _ = self._ask({"verb": "job", "job": text})
        return dict(answer["job"])

    def file(self, job_id: str, name: str, last_bytes: int) -> bytes:
        """The end of ``events`` (the job's journal) or ``agent.log``."""
        answer, body = self._ask({"verb": "file", "job": job_id, "name": name, "offset": -last_bytes}, body=True)
        return body[: int(answer["size"])]

    def cancel(self, job_id: str, grace_s: float) -> t.JobInfo:
        """End it; returns the job as it is then."""
        answer, _ = self._ask({"verb": "cancel", "job": job_id, "by": owner(), "grace_s": grace_s})
        return job_info(self._host.name, answer["job"])

    def _ask(self, request: dict[str, Any], body: bool = False) -> tuple[dict[str, Any], bytes]:
        nonce = secrets.token_hex(8)
        line = json.dumps(dict(request, nonce=nonce)).encode() + b"\n"
        if self._host.config.is_local:
            answer, rest = self._ask_here(nonce, line)
        else:
            answer, rest = self._ask_there(nonce, line, body)
        if not answer.get("ok"):
            raise MoaiError(str(answer.get("reason")), str(answer.get("message")), "moai remote jobs")
        return answer, rest

    def _ask_there(self, nonce: str, line: bytes, body: bool) -> tuple[dict[str, Any], bytes]:
        connection = self._host.session.plain_connection()
        try:
            stream = open_channel(connection)
            stream.sendall(_LINE.encode() + b"\n" + line)
            answer, rest = read_answer(stream, nonce, _ANSWER_S)
            while body and (data := stream.recv(256 * 1024)):
                rest += data
            return answer, rest
        except NotInstalled:
            raise self._why from None
        finally:
            connection.close()

    def _ask_here(self, nonce: str, line: bytes) -> tuple[dict[str, Any], bytes]:
        from moai._local import state_folder

        payloads = sorted((state_folder() / "payload").glob("*/worker/main.py"), key=lambda p: p.stat().st_mtime)
        if not payloads:
            raise self._why
        argv = [sys.executable, "-I", "-S", str(payloads[-1]), "moai_worker.inspector"]
        done = subprocess.run(argv, input=line, capture_output=True, timeout=_ANSWER_S, check=False)
        mark = f"MOAI1 {nonce} ".encode()
        _, found, rest = done.stdout.partition(mark)
        if not found:
            raise self._why
        head, _, tail = rest.partition(b"\n")
        return json.loads(head), tail


def job_info(host: str, one: dict[str, Any]) -> t.JobInfo:
    """An inspector's description as a JobInfo."""
    spec, view = one["spec"], one["view"]
    environment = spec.get("environment") or {}
    reason = view.get("reason")
    progress = view.get("progress")
    return t.JobInfo(
        host=host,
        id=one["id"],
        name=spec.get("name") or "",
        owner=spec.get("owner") or "",
        command=spec.get("command") or "",
        kind=spec.get("kind") or "",
        state=view["state"],
        phase=view.get("phase") or "",
        phase_text=view.get("phase_text") or "",
        phase_time=_moment(view.get("phase_since")),
        phase_usual=(*view["phase_usual"][0][:2], view["phase_usual"][1]) if view.get("phase_usual") else None,
        reason=t.Reason(reason["code"], reason["message"], reason.get("next") or "") if reason else None,
        create_time=_moment(spec.get("create_time")),
        start_time=_moment(view.get("start")),
        end_time=_moment(view.get("end")),
        exit_code=view.get("exit_code"),
        steps=tuple(t.Step(s["name"], s["state"], s.get("exit_code")) for s in view.get("steps", [])),
        progress=t.Progress(
            progress.get("step"), progress.get("total"), progress.get("unit") or "", progress.get("rate"),
            progress.get("eta_seconds"), _moment(progress.get("as_of")),
        ) if progress else None,
        output=view.get("output") or "",
        parent=spec.get("parent") or "",
        conditions=tuple((c["type"], c["message"]) for c in view.get("conditions") or []),
        pid=view.get("pid") or 0,
        environment=environment.get("name") or "",
        environment_reason=spec.get("environment_reason") or "",
        metrics={k: float(v) for k, v in (view.get("metrics") or {}).items() if isinstance(v, (int, float))},
        metrics_step=view.get("metrics_step"),
        losses=tuple((int(s), float(v)) for s, v in view.get("losses") or []),
        folder=one["folder"],
        request_id=spec.get("request_id") or "",
        last_sequence=view.get("last") or 0,
        log_bytes=one["log_bytes"],
    )  # fmt: skip


def _moment(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, timezone.utc) if seconds else None


"""What a repeated job had from the laptop: whether it is still there, and taking it to another container.

Owns which fields of a request name files, jobs and code. Contents go by way of the laptop, because containers
need not reach each other. Runs in the caller's process.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moai_proto.v1 import file_pb2, file_pb2_grpc, job_pb2

from moai import _engine, _snapshot
from moai._errors import MoaiError

if TYPE_CHECKING:
    from moai._host import Host

#: Where ``laptop:PATH`` lands on a container (``FileService.PutFiles`` without a path).
_UPLOAD = re.compile(r"/uploads/[0-9a-f]{16}/[^/]+$")
_PATHS = ("model", "adapter", "base_model", "source", "prompt_file", "source_path")
#: Requests whose subject may be a job of the same container -> the field that names it.
_BY_JOB = {"GenerateRequest": "model", "EvaluateRequest": "model", "MergeModelRequest": "adapter", "UploadModelRequest": "source"}


def named_job(message: Any) -> str:
    """The job whose result a request is about; "" for a path, a Hub id, or any other request."""
    name = str(getattr(message, _BY_JOB.get(type(message).__name__, ""), ""))
    return "" if "/" in name or name.startswith("~") else name


def refuse_gone(message: Any, host: Host, job_id: str) -> None:
    """FILE_NOT_FOUND when a file that was sent from the laptop was cleared away meanwhile."""
    for holder, name in _named_files(message):
        value = getattr(holder, name)
        if not _UPLOAD.search(value):
            continue
        request = file_pb2.CompareFilesRequest(path=value, digest_wanted=False)
        try:
            host.session.call(file_pb2_grpc.FileServiceStub, "CompareFiles", request)
        except MoaiError as error:
            raise _file_gone(error, value, host, job_id) from None


def in_words(error: MoaiError, message: Any, host: Host, job_id: str) -> MoaiError:
    """What became of the code or the job that a request needs, where that is why it was refused."""
    if message.options.snapshot:
        return _gone(error, f"the code of job {job_id}", host, "with --sync DIR")
    named = named_job(message)
    if named and error.reason == "JOB_NOT_FOUND":
        return MoaiError(
            "JOB_NOT_FOUND", f"job {job_id} is about the result of job {named}, which was deleted from {host.name}",
            "type the command anew with the folder of that result",
        )  # fmt: skip
    return error


def _file_gone(error: MoaiError, path: str, host: Host, job_id: str) -> MoaiError:
    name = Path(path).name
    return _gone(error, f"{name}, which was sent for job {job_id},", host, f"with laptop:{name}")


def _gone(error: MoaiError, what: str, host: Host, how: str) -> MoaiError:
    if error.reason != "FILE_NOT_FOUND":
        return error
    return MoaiError("FILE_NOT_FOUND", f"{what} was cleared away from {host.name} ({error.message})", f"submit it anew {how}")


def renew_engine(message: Any, host: Host, is_elsewhere: bool) -> None:
    """Find the fast tokenizer anew where its wheels or its Python may not be there."""
    dataset = getattr(getattr(message, "training", message), "dataset", None)
    if dataset is None or not dataset.engine.candidates:
        return
    if is_elsewhere or any(one.snapshot for one in dataset.engine.candidates):
        found = _engine.engine(host, dataset.engine.name, message.options.environment, message.options.work)
        dataset.engine.CopyFrom(found)


def move(message: Any, plan: dict[str, Any], source: Host, target: Host, say: Callable[[str], None], job_id: str) -> None:
    """What the job had from the laptop goes to the other container by way of the laptop; say what does not.

    Raises MoaiError: UNSUPPORTED for a request about a job of the first container; FILE_NOT_FOUND.
    """
    named = named_job(message)
    if named:
        raise MoaiError(
            "UNSUPPORTED", f"job {job_id} is about the result of job {named}, which lies on {source.name} and is not sent to {target.name}",
            f"moai remote again {job_id} repeats it there; else pull that result, push it, and name its folder",
        )  # fmt: skip
    if message.options.snapshot:
        try:
            count, size = move_snapshot(source, target, plan, message.options)
        except MoaiError as error:
            raise _gone(error, f"the code of job {job_id}", source, "with --sync DIR") from None
        say(f"code: {count} files sent to {target.name}, {size / 1e6:.1f} MB; the rest was there")
    for holder, name in _named_files(message):
        value = getattr(holder, name)
        if _UPLOAD.search(value):
            with tempfile.TemporaryDirectory(prefix="moai-") as folder:
                try:
                    copy = source.pull(value, folder)
                except MoaiError as error:
                    raise _file_gone(error, value, source, job_id) from None
                setattr(holder, name, target.push(copy))
            say(f"{Path(value).name} sent to {target.name}")
        elif value.startswith(("/", "~", "./", "../")):
            say(f"{value} is not sent: the job looks for it on {target.name}")
    for path in getattr(message, "requirement_paths", ()):
        say(f"{path} is not sent: the job looks for it on {target.name}")
    if message.options.workdir:
        say(f"the working folder {message.options.workdir} is not sent: the job looks for it on {target.name}")


def _named_files(message: Any) -> list[tuple[Any, str]]:
    """(holder, field) of all that is set and may name a file of the container."""
    spec = getattr(message, "training", message)
    dataset = getattr(spec, "dataset", None)
    places = [(dataset, name) for name in ("source", "template")] if dataset is not None else []
    places += [(spec, name) for name in _PATHS if name in spec.DESCRIPTOR.fields_by_name]
    return [(holder, name) for holder, name in places if getattr(holder, name)]


def move_snapshot(source: Host, target: Host, plan: dict[str, Any], options: job_pb2.JobOptions) -> tuple[int, int]:
    """Send a snapshot from one container to another through the laptop: (files sent, their bytes).

    Raises MoaiError: FILE_NOT_FOUND when its contents were cleared away there; DOWNLOAD_CORRUPT.
    """
    inputs = next((s["inputs"] for s in plan.get("steps", []) if s.get("module") == "code"), None)
    if inputs is None:
        raise MoaiError("FILE_NOT_FOUND", f"{source.name} does not say where the job's code lies", "submit it anew with --sync")
    entries = json.loads(source.read(inputs["manifest"]))
    files = [_snapshot.File(e["path"], e["sha256"], e["size"], e["executable"]) for e in entries]

    failed: list[MoaiError] = []

    def content(digest: str) -> bytes:
        try:
            data = source.read(f"{inputs['contents']}/{digest[:2]}/{digest}")
            if hashlib.sha256(data).hexdigest() != digest:
                raise MoaiError("DOWNLOAD_CORRUPT", f"a file of the code on {source.name} is altered", "submit it anew with --sync")
        except MoaiError as error:
            failed.append(error)  # What the upload ends with names none of it.
            raise
        return data

    def contents(digests: list[str], work: str) -> Iterator[file_pb2.PutContentsRequest]:
        for digest in digests:
            yield from _snapshot.pieces(digest, content(digest), work)

    sizes = {e["sha256"]: e["size"] for e in entries}
    try:
        sent = _snapshot.send_files(target.session, files, contents, options.work, str(source.name))
    except MoaiError as error:
        raise (failed[0] if failed else error) from None
    options.snapshot = sent.id
    return len(sent.digests), sum(sizes[digest] for digest in sent.digests)

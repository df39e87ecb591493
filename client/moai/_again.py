"""The same job once more: its recorded request, sent again, here or to another container.

The container keeps every request without its secrets (``request`` in spec.json). It is repeated from the
laptop because only the laptop can give the secrets again and carry code and files to another container.
Runs in the caller's process.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from moai_proto.v1 import (
    dataset_pb2,
    dataset_pb2_grpc,
    file_pb2,
    job_pb2,
    job_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    training_pb2,
    training_pb2_grpc,
)

from moai import _snapshot
from moai._errors import MoaiError
from moai._options import JobOptions, setting, with_token

if TYPE_CHECKING:
    from moai._host import Host
    from moai._job import Job

#: Where ``laptop:PATH`` lands on a container (``FileService.PutFiles`` without a path).
_UPLOAD = re.compile(r"/uploads/[0-9a-f]{16}/[^/]+$")
_CALLS: dict[str, tuple[Any, Any, str]] = {
    "RunCommandRequest": (job_pb2.RunCommandRequest, job_pb2_grpc.JobServiceStub, "RunCommand"),
    "StartTrainingRequest": (training_pb2.StartTrainingRequest, training_pb2_grpc.TrainingServiceStub, "StartTraining"),
    "PrepareDatasetRequest": (dataset_pb2.PrepareDatasetRequest, dataset_pb2_grpc.DatasetServiceStub, "PrepareDataset"),
    "DownloadModelRequest": (model_pb2.DownloadModelRequest, model_pb2_grpc.ModelServiceStub, "DownloadModel"),
}
#: Arguments of the recipe: name -> field of TrainingSpec, or of its dataset.
_TRAINING = ("model", "model_revision", "method", "max_steps", "epochs", "batch_size", "learning_rate", "output")
_DATASET = {"dataset": "source", "dataset_revision": "revision", "template": "template", "block_size": "block_size", "sample": "sample", "dataset_output": "output"}


def again(
    job: Job,
    target: Host | None,
    settings: Mapping[str, Any] | None,
    options: JobOptions | None,
    say: Callable[[str], None],
) -> Job:
    """Submit it once more; see ``Job.again``."""
    spec, plan = job.spec_and_plan()
    record = spec.get("request") or {}
    if record.get("type") not in _CALLS:
        raise MoaiError(
            "UNSUPPORTED", f"job {job.id} ({job.info.kind}) cannot be repeated: its request was not kept",
            "commands, trainings, preparations and downloads of this version can; submit it anew",
        )  # fmt: skip
    kind, stub, method = _CALLS[record["type"]]
    message = json_format.ParseDict(record["message"], kind(), ignore_unknown_fields=True)
    host = target or job.host
    is_elsewhere = host.name != job.host.name
    _complete(message.options, spec, options or JobOptions(), host, is_elsewhere)
    _refuse_missing(job, spec, plan, message.options)
    if spec.get("webhook") and not message.options.webhook:
        say("the address of the webhook was kept in memory only and is gone; give it again with --webhook")
    _apply(message, _values(record.get("settings") or {}), dict(settings or {}), job.id, say)
    if is_elsewhere:
        _move(message, plan, job.host, host, say)
    return host.made(host.session.call(stub, method, message, timeout_s=120.0).job)


def _complete(old: job_pb2.JobOptions, spec: dict[str, Any], given: JobOptions, host: Host, is_elsewhere: bool) -> None:
    """The old options with this submission's id, owner, secrets, and what was said anew."""
    variables = {**dict(old.variables), **given.variables}
    new = with_token(given).message(host.config)
    asked = old.environment
    if is_elsewhere and "/" in asked:
        asked = ""  # A folder or interpreter of the other container.
    old.environment = given.environment or (asked or new.environment if is_elsewhere else spec["environment"]["python"])
    if is_elsewhere:
        old.work = new.work
    for name in ("request_id", "owner", "proxy"):
        setattr(old, name, getattr(new, name))
    old.labels.update(new.labels)
    old.secrets.update({name: value for name, value in new.secrets.items() if name != "HF_TOKEN" or name in spec.get("secrets", [])})
    old.variables.update(variables)
    for name in ("name", "accelerator", "setup", "max_duration_seconds", "workdir", "webhook"):
        if getattr(new, name):
            setattr(old, name, getattr(new, name))
    commit = (spec.get("git") or {}).get("commit")
    if old.git_url and commit:
        old.git_revision = commit  # The branch may have moved since.


def _refuse_missing(job: Job, spec: dict[str, Any], plan: dict[str, Any], options: job_pb2.JobOptions) -> None:
    """A command gets all of its secrets again; our own steps ask for what they lack."""
    if all(step.get("module") for step in plan.get("steps", [])):
        return
    given = {*options.secrets, *options.variables, *(["GIT_TOKEN"] if options.git_url else [])}  # The commit may be there.
    missing = [name for name in spec.get("secrets", []) if name not in given]
    if missing:
        raise MoaiError(
            "SECRET_NEEDED", f"job {job.id} had the secret {', '.join(missing)}, which was kept nowhere",
            f"moai remote again {job.id} {' '.join('--secret ' + name for name in missing)}",
        )  # fmt: skip


def _values(recorded: Mapping[str, str]) -> dict[str, Any]:
    """Settings of resumes in between, from their wire form."""
    found: dict[str, Any] = {}
    for name, text in recorded.items():
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    found.pop("resume", None)
    return found


def _apply(message: Any, earlier: dict[str, Any], settings: dict[str, Any], job_id: str, say: Callable[[str], None]) -> None:
    if not isinstance(message, training_pb2.StartTrainingRequest):
        if settings:
            name = sorted(settings)[0]
            raise MoaiError(
                "UNSUPPORTED", f"job {job_id} has no training of the recipe, so --set {name} means nothing to it",
                "type its command anew with other arguments",
            )  # fmt: skip
        return
    spec = message.training
    if spec.output and "output" not in settings:
        say(f"results go to a folder of their own, not to {spec.output} again; --set output=DIR names one")
        spec.output = ""
    for name, value in {**earlier, **settings}.items():
        try:
            if name in _TRAINING:
                setattr(spec, name, value)
            elif name in _DATASET:
                setattr(spec.dataset, _DATASET[name], value)
            else:
                spec.settings[name] = setting(value)
        except (TypeError, ValueError) as error:
            raise MoaiError("USAGE", f"{name} cannot be {value!r}", f"--set {name}=VALUE") from error


def _move(message: Any, plan: dict[str, Any], source: Host, target: Host, say: Callable[[str], None]) -> None:
    """What the job had from the laptop goes to the other container by way of the laptop; say what does not."""
    if message.options.snapshot:
        count, size = move_snapshot(source, target, plan, message.options)
        say(f"code: {count} files sent to {target.name}, {size / 1e6:.1f} MB; the rest was there")
    spec: Any = getattr(message, "training", None) or message
    places = [(getattr(spec, "dataset", None), "source"), (getattr(spec, "dataset", None), "template"), (spec, "model")]
    for holder, name in places:
        value = getattr(holder, name, "") if holder is not None else ""
        if not isinstance(value, str):
            continue
        if _UPLOAD.search(value):
            with tempfile.TemporaryDirectory(prefix="moai-") as folder:
                setattr(holder, name, target.push(source.pull(value, folder)))
            say(f"{Path(value).name} sent to {target.name}")
        elif value.startswith(("/", "~", "./", "../")):
            say(f"{value} is not sent: the job looks for it on {target.name}")
    if message.options.workdir:
        say(f"the working folder {message.options.workdir} is not sent: the job looks for it on {target.name}")


def move_snapshot(source: Host, target: Host, plan: dict[str, Any], options: job_pb2.JobOptions) -> tuple[int, int]:
    """Send a snapshot from one container to another through the laptop: (files sent, their bytes).

    Raises MoaiError: FILE_NOT_FOUND when its contents were cleared away there; DOWNLOAD_CORRUPT.
    """
    inputs = next((s["inputs"] for s in plan.get("steps", []) if s.get("module") == "code"), None)
    if inputs is None:
        raise MoaiError("FILE_NOT_FOUND", f"{source.name} does not say where the job's code lies", "submit it anew with --sync")
    entries = json.loads(source.read(inputs["manifest"]))
    files = [_snapshot.File(e["path"], e["sha256"], e["size"], e["executable"]) for e in entries]

    def contents(digests: list[str], work: str) -> Iterator[file_pb2.PutContentsRequest]:
        for digest in digests:
            data = source.read(f"{inputs['contents']}/{digest[:2]}/{digest}")
            if hashlib.sha256(data).hexdigest() != digest:
                raise MoaiError("DOWNLOAD_CORRUPT", f"a file of the code on {source.name} is altered", "submit it anew with --sync")
            yield from _snapshot.pieces(digest, data, work)

    sizes = {e["sha256"]: e["size"] for e in entries}
    sent = _snapshot.send_files(target.session, files, contents, options.work, str(source.name))
    options.snapshot = sent.id
    return len(sent.digests), sum(sizes[digest] for digest in sent.digests)

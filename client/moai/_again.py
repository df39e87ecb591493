"""The same job once more: its recorded request, sent again, here or to another container.

The container keeps every request without its secrets (``request`` in spec.json). It is repeated from the
laptop because only the laptop can give the secrets again and carry code and files to another container.
Runs in the caller's process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from moai_proto.v1 import (
    dataset_pb2,
    dataset_pb2_grpc,
    environment_pb2,
    environment_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    training_pb2,
    training_pb2_grpc,
)

from moai import _carry
from moai._errors import MoaiError
from moai._options import JobOptions, setting, with_token

if TYPE_CHECKING:
    from moai._host import Host
    from moai._job import Job

_TRAINING_STUB, _ENVIRONMENT_STUB = training_pb2_grpc.TrainingServiceStub, environment_pb2_grpc.EnvironmentServiceStub
#: Type of the record -> message, service and method.
_CALLS: dict[str, tuple[Any, Any, str]] = {
    "RunCommandRequest": (job_pb2.RunCommandRequest, job_pb2_grpc.JobServiceStub, "RunCommand"),
    "StartTrainingRequest": (training_pb2.StartTrainingRequest, _TRAINING_STUB, "StartTraining"),
    "PrepareDatasetRequest": (dataset_pb2.PrepareDatasetRequest, dataset_pb2_grpc.DatasetServiceStub, "PrepareDataset"),
    "DownloadModelRequest": (model_pb2.DownloadModelRequest, model_pb2_grpc.ModelServiceStub, "DownloadModel"),
    "PreviewDatasetRequest": (dataset_pb2.PreviewDatasetRequest, dataset_pb2_grpc.DatasetServiceStub, "PreviewDataset"),
    "GenerateRequest": (training_pb2.GenerateRequest, _TRAINING_STUB, "Generate"),
    "EvaluateRequest": (training_pb2.EvaluateRequest, _TRAINING_STUB, "Evaluate"),
    "MergeModelRequest": (training_pb2.MergeModelRequest, _TRAINING_STUB, "MergeModel"),
    "UploadModelRequest": (model_pb2.UploadModelRequest, model_pb2_grpc.ModelServiceStub, "UploadModel"),
    "InstallRequirementsRequest": (environment_pb2.InstallRequirementsRequest, _ENVIRONMENT_STUB, "InstallRequirements"),
    "CreateEnvironmentRequest": (environment_pb2.CreateEnvironmentRequest, _ENVIRONMENT_STUB, "CreateEnvironment"),
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
    place: job_pb2.TrainingGroup | None = None,
) -> Job:
    """Submit it once more; see ``Job.again``. ``place``: of a member of a training over several containers, where
    it meets the others this time."""
    spec, plan = job.spec_and_plan()
    message, stub, method = recorded(job, spec, plan)
    host = target or job.host
    is_elsewhere = host.name != job.host.name
    _join(message, job, place)
    _complete(message.options, spec, options or JobOptions(), host, is_elsewhere)
    _refuse_missing(job, spec, plan, message.options)
    if spec.get("webhook") and not message.options.webhook:
        say("the address of the webhook was kept in memory only and is gone; give it again with --webhook")
    _apply(message, _values((spec.get("request") or {}).get("settings") or {}), dict(settings or {}), job.id, say)
    if is_elsewhere:
        _carry.move(message, plan, job.host, host, say, job.id)
    else:
        _carry.refuse_gone(message, host, job.id)
    _carry.renew_engine(message, host, is_elsewhere)
    try:
        made = host.session.call(stub, method, message, timeout_s=120.0).job
    except MoaiError as error:
        raise _carry.in_words(error, message, host, job.id) from None
    return host.made(made)


def recorded(job: Job, spec: Mapping[str, Any], plan: Mapping[str, Any]) -> tuple[Any, Any, str]:
    """(the job's request as it was kept, its service, its method). Raises AgentError (UNSUPPORTED)."""
    record = spec.get("request") or {}
    if record.get("type") not in _CALLS:
        raise MoaiError(
            "UNSUPPORTED", f"job {job.id} ({job.info.kind}) cannot be repeated: its request was not kept, or not by this version",
            "submit it anew",
        )  # fmt: skip
    kind, stub, method = _CALLS[record["type"]]
    message = json_format.ParseDict(record["message"], kind(), ignore_unknown_fields=True)
    _fill(message, plan)
    return message, stub, method


def _fill(message: Any, plan: Mapping[str, Any]) -> None:
    """Prompts and files of the laptop: the record leaves them to the plan."""
    inputs = [step.get("inputs") or {} for step in plan.get("steps", [])]
    if isinstance(message, training_pb2.GenerateRequest):
        message.prompts.extend(next((one["prompts"] for one in inputs if one.get("prompts")), []))
    texts = {file["name"]: file["text"] for one in inputs for file in one.get("files") or []}
    for name in ("requirement_files", "source_files"):
        for file in getattr(message, name, ()):
            file.text = texts[file.name]


def _join(message: Any, job: Job, place: job_pb2.TrainingGroup | None) -> None:
    if not isinstance(message, training_pb2.StartTrainingRequest) or not message.training.HasField("group"):
        return
    if place is None:
        raise MoaiError(
            "UNSUPPORTED", f"job {job.id} trained as one of {message.training.group.size} containers, and alone it would wait for the others",
            f"job.again_all(), or moai remote again {job.id}, starts all of them",
        )  # fmt: skip
    message.training.group.CopyFrom(place)


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

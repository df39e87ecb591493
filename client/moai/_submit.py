"""From what a caller says to the messages of a submission, with the laptop's files sent along.

Runs in the caller's process. Refuses before anything is submitted what could only fail there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moai_proto.v1 import dataset_pb2, file_pb2, file_pb2_grpc, job_pb2, training_pb2

from moai._errors import MoaiError
from moai._options import DEFAULT_ACCELERATOR, JobOptions, hub_endpoint, setting

if TYPE_CHECKING:
    from moai._host import Host

LAPTOP = "laptop:"
_DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt", ".arrow", ".tsv")
_RECIPE = (
    "method", "max_steps", "epochs", "batch_size", "learning_rate", "block_size", "template", "sample", "output",
    "smoke", "model_revision", "dataset_revision", "dataset_output", "engine", "gpus", "upload", "upload_private",
    "upload_revision",
)  # fmt: skip


def claiming(options: JobOptions) -> JobOptions:
    """The options with the default accelerator's queue, unless another is named."""
    return options if options.accelerator else dataclasses.replace(options, accelerator=DEFAULT_ACCELERATOR)


def on_host(host: Host, text: str, upload: bool = True) -> str:
    """A path on the container; ``laptop:PATH`` is sent there first. Raises FILE_NOT_HERE."""
    if not text.startswith(LAPTOP):
        return text
    path = Path(text[len(LAPTOP) :]).expanduser()
    if not path.is_file():
        what = "is a folder; name one file" if path.is_dir() else "does not exist on the laptop"
        raise MoaiError("FILE_NOT_HERE", f"{path} {what}", "check the path after laptop:")
    return host.push(path) if upload else f"/laptop/{path.name}"


def dataset_spec(
    host: Host,
    source: str,
    *,
    template: str = "",
    block_size: int = 0,
    sample: int = 0,
    output: str = "",
    file_name: str = "",
    revision: str = "",
    pack: bool = False,
    mask_prompt: bool = False,
    validation_fraction: float | None = None,
    jobs: int = 0,
    split: str = "",
    upload: bool = True,
) -> dataset_pb2.DatasetSpec:
    """The dataset part of a request. Raises MoaiError (USAGE, FILE_NOT_HERE)."""
    for name, value in (("block size", block_size), ("sample", sample), ("number of jobs", jobs)):
        if value < 0:
            raise MoaiError("USAGE", f"the {name} is negative: {value}", "give a positive number")
    if validation_fraction is not None and not 0 <= validation_fraction < 1:
        raise MoaiError("USAGE", f"the validation fraction is {validation_fraction}", "give a number from 0 to below 1, for example 0.05")
    if Path(source).suffix in _DATA_SUFFIXES and "/" not in source and not source.startswith((LAPTOP, "~")):
        raise MoaiError(
            "USAGE", f"{source} looks like a file, and a bare name means a dataset of the Hub",
            f"laptop:{source} sends it from here, ./{source} names one in the container's home",
        )  # fmt: skip
    if template.startswith(LAPTOP):
        path = Path(template[len(LAPTOP) :]).expanduser()
        if not path.is_file():
            raise MoaiError("FILE_NOT_HERE", f"{path} does not exist on the laptop", "check the path after laptop:")
        template = path.read_text(encoding="utf-8-sig")
        if path.suffix in (".j2", ".jinja", ".jinja2"):
            template = "jinja:" + template
    return dataset_pb2.DatasetSpec(
        source=on_host(host, source, upload),
        revision=revision,
        template=template,
        block_size=block_size,
        sample=sample,
        output=output,
        file_name=file_name,
        pack=pack,
        mask_prompt=mask_prompt,
        validation_fraction=validation_fraction,
        jobs=jobs,
        split=split,
    )


def training_spec(
    host: Host,
    model: str,
    dataset: str,
    settings: Mapping[str, Any],
    recipe: Mapping[str, Any],
    upload: bool = True,
    group: job_pb2.TrainingGroup | None = None,
) -> training_pb2.TrainingSpec:
    """The training part of a request. Raises MoaiError (USAGE, FILE_NOT_HERE)."""
    unknown = sorted(set(recipe) - set(_RECIPE))
    if unknown:
        raise MoaiError("USAGE", f"train has no argument {', '.join(unknown)}", f"one of {', '.join(_RECIPE)}; others go into settings")
    given = {k: v for k, v in recipe.items() if v is not None}
    spec = dataset_spec(
        host,
        dataset,
        template=given.get("template", ""),
        block_size=given.get("block_size", 0),
        sample=given.get("sample", 0),
        output=given.get("dataset_output", ""),
        revision=given.get("dataset_revision", ""),
        upload=upload,
    )
    return training_pb2.TrainingSpec(
        model=model,
        model_revision=given.get("model_revision", ""),
        dataset=spec,
        method=given.get("method", ""),
        max_steps=given.get("max_steps", 0),
        epochs=given.get("epochs", 0.0),
        batch_size=given.get("batch_size", 0),
        learning_rate=given.get("learning_rate", 0.0),
        output=given.get("output", ""),
        endpoint=hub_endpoint(),
        settings={k: setting(v) for k, v in settings.items()},
        smoke=bool(given.get("smoke", False)),
        gpus=str(given.get("gpus", "")),
        group=group,
        upload_repo=given.get("upload", ""),
        upload_private=bool(given.get("upload_private", False)),
        upload_revision=given.get("upload_revision", ""),
    )


def refuse_unsendable(arguments: Sequence[str]) -> None:
    """USAGE for a word that is not UTF-8: the contract carries text."""
    for word in arguments:
        try:
            word.encode("utf-8")
        except UnicodeEncodeError as error:
            raise MoaiError(
                "USAGE", f"the argument {word!r} is not UTF-8", "put it into a script, and run that"
            ) from error


def refuse_missing_script(host: Host, arguments: Sequence[str], options: JobOptions) -> None:
    """SCRIPT_NOT_ON_HOST when the command names a file that is here but not there.

    Only words that look like files of this folder are asked for, so most commands cost no call.
    """
    if host.config.is_local:
        return
    for word in list(arguments)[:4]:
        if word.startswith("-") or not word or "\0" in word or not _is_script(word):
            continue
        base = options.workdir or "~"
        path = word if word.startswith(("/", "~")) else f"{base.rstrip('/')}/{word}"
        try:
            host.session.call(
                file_pb2_grpc.FileServiceStub, "CompareFiles", file_pb2.CompareFilesRequest(path=path, digest_wanted=False)
            )
        except MoaiError as error:
            if error.reason != "FILE_NOT_FOUND":
                raise
            raise MoaiError(
                "SCRIPT_NOT_ON_HOST",
                f"{word} is on the laptop but not on {host.name} ({path})",
                "--sync . runs it in a copy of this folder; --workdir DIR names a folder there that has it",
            ) from error


def _is_script(word: str) -> bool:
    try:
        return Path(word).expanduser().is_file() and ("." in Path(word).name or "/" in word)
    except OSError:
        return False

"""``moai.toml``: what a project trains and how, read strictly from the current folder or one above.

Example (``moai init`` writes one)::

    host = "kt"
    environment = "pytorch"

    [train]
    model = "meta-llama/Meta-Llama-3-70B"
    dataset = "abisee/cnn_dailymail:3.0.0"
    method = "lora"

    [train.settings]
    warmup_steps = 20

    [variables]
    NCCL_DEBUG = "WARN"
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from moai._config import parse_toml
from moai._errors import MoaiError
from moai._options import split_git

FILE = "moai.toml"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _setting(value: Any) -> Any:
    texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
    if texts or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError("a setting is a text, a number, true, false or a list of texts")


def _git(value: str) -> str:
    try:
        split_git(value)
    except MoaiError as error:
        raise ValueError(f"{error.message} ({error.next})") from error
    return value


class TrainTable(_Strict):
    """``[train]``: the recipe's arguments; unset ones are left to flags and defaults.

    ``git`` (``URL[@REV]``) and ``git_submodules`` are for ``train -- CMD``: what ``--git`` and ``--git-submodules`` say.
    """

    model: str | None = None
    model_revision: str | None = None
    dataset: str | None = None
    dataset_revision: str | None = None
    gpus: str | None = None
    method: str | None = Field(default=None, pattern="^(full|lora)$")
    max_steps: int | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0)
    batch_size: int | None = Field(default=None, gt=0)
    block_size: int | None = Field(default=None, gt=1)
    learning_rate: float | None = Field(default=None, gt=0)
    template: str | None = None
    sample: int | None = Field(default=None, gt=0)
    output: str | None = None
    git: Annotated[str, AfterValidator(_git)] | None = None
    git_submodules: bool | None = None
    settings: dict[str, Annotated[Any, AfterValidator(_setting)]] = Field(default_factory=dict)


class LogTable(_Strict):
    """``[log]``: how a script of one's own prints its steps."""

    pattern: str | None = None


class Project(_Strict):
    """The whole file. ``path`` is where it lies; ``sync`` a folder relative to it, sent with every command."""

    path: Path | None = Field(default=None, exclude=True)
    name: str | None = None
    host: str | None = None
    environment: str | None = None
    workdir: str | None = None
    sync: str | None = None
    accelerator: str | None = None
    setup: str | None = None
    retries: int | None = Field(default=None, ge=0, le=100)
    stop_on: list[str] = Field(default_factory=list)
    on_finish: str | None = None
    on_checkpoint: str | None = None
    on_stop: str | None = None
    variables: dict[str, str] = Field(default_factory=dict)
    secrets: list[str] = Field(default_factory=list)
    train: TrainTable = TrainTable()
    log: LogTable = LogTable()


def load_project(folder: Path | None = None) -> Project | None:
    """The nearest ``moai.toml`` at or above ``folder`` (default: here); None when there is none.

    Raises UsageError (CONFIG_INVALID) that lists every mistake at once.
    """
    start = (folder or Path.cwd()).absolute()
    for place in (start, *start.parents):
        path = place / FILE
        if path.is_file():
            return _read(path)
    return None


def _read(path: Path) -> Project:
    try:
        raw = parse_toml(path.read_text(encoding="utf-8-sig"), path)
    except (OSError, UnicodeDecodeError) as error:
        what = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"cannot be read: {error.strerror}"
        raise MoaiError("CONFIG_INVALID", f"{path} {what}", f"edit {path}") from error
    # The file itself may not say where it lies.
    mistakes = ["unknown setting 'path'"] if raw.pop("path", None) is not None else []
    try:
        project = Project.model_validate(raw)
    except ValidationError as error:
        mistakes += mistakes_of(error)
    if mistakes:
        raise MoaiError("CONFIG_INVALID", f"{path}: {'; '.join(mistakes)}", f"edit {path}")
    return project.model_copy(update={"path": path})


def mistakes_of(error: ValidationError) -> list[str]:
    """A sentence a mistake of a file, or of what it would become."""
    return [_mistake(item) for item in error.errors()]


def _mistake(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "the file"
    if item["type"] == "extra_forbidden":
        return f"unknown setting {where!r}"
    if item["type"] in ("model_type", "dict_type"):
        return f"{where} is not a table"
    said = item["msg"].removeprefix("Value error, ")
    if item["loc"] == ("train", "git") and item["type"] == "value_error":
        return f"{where}: {said}"  # It names the value itself, unless that holds a password.
    return f"{where} is {item['input']!r}: {said[0].lower()}{said[1:]}"

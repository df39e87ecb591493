"""A job as a ``moai.toml`` that would repeat it, and flags as lines of one. Runs in the laptop's process."""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moai._config import parse_toml
from moai._errors import MoaiError
from moai._project import FILE, Project, mistakes_of
from moai._types import JobInfo

#: Inputs of the train step that are no settings: they stand in ``[train]`` or belong to one run only.
_NOT_SETTINGS = (
    "model dataset output method max_steps epochs batch_size learning_rate resume control settings identity card gpus group"
).split()


@dataclass(frozen=True)
class ProjectEdit:
    """A change of a ``moai.toml`` that has not been written yet: both texts, and where."""

    path: Path
    before: str
    after: str

    @property
    def replaces(self) -> bool:
        """Whether a value that stands there gets another one."""
        old, new = (_flat(parse_toml(text, self.path)) for text in (self.before, self.after))
        return any(key in new and new[key] != value for key, value in old.items())

    @property
    def diff(self) -> str:
        """As ``diff -u`` shows it; "" when nothing changes."""
        lines = difflib.unified_diff(
            self.before.splitlines(True), self.after.splitlines(True), str(self.path), str(self.path) + " (new)", n=1
        )
        return "".join(lines)

    def write(self) -> Path:
        """Replace the file in one step; its folder must be there."""
        temp = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        temp.write_text(self.after, encoding="utf-8")
        os.replace(temp, self.path)
        return self.path


def edit_project(changes: Mapping[str, Any], path: str | Path = "") -> ProjectEdit:
    """What values would make of a ``moai.toml``: comments and everything not named stay.

    Args:
        changes: as in the file, tables as dictionaries; they are merged. path: the file; default: the one
            that counts here, else a new one in this folder.

    Raises UsageError (CONFIG_INVALID) when the file, before or after, is not a moai.toml.
    """
    import tomlkit

    from moai._project import load_project

    where = Path(path) if path else None
    if where is None:
        project = load_project()
        where = project.path if project and project.path else Path.cwd() / FILE
    before = where.read_text(encoding="utf-8-sig") if where.exists() else ""
    parse_toml(before, where)
    document = tomlkit.parse(before)
    _merge(document, changes)
    after = tomlkit.dumps(document)
    try:
        Project.model_validate(parse_toml(after, where))
    except ValidationError as error:
        raise MoaiError("CONFIG_INVALID", f"{where} would not be a moai.toml: {'; '.join(mistakes_of(error))}", f"edit {where}") from error
    return ProjectEdit(where, before, after)


def _merge(table: Any, changes: Mapping[str, Any]) -> None:
    """Plain values go before the first table, or TOML would read them as part of it."""
    import tomlkit

    for key, value in changes.items():
        if isinstance(value, Mapping):
            if key not in table:
                table[key] = tomlkit.table()
            _merge(table[key], value)
        elif key in table:
            table[key] = value
        else:
            _add(table, key, value)


def _add(table: Any, key: str, value: Any) -> None:
    moved = [(name, table.pop(name)) for name in [n for n, inner in table.items() if isinstance(inner, dict)]]
    table[key] = value
    for name, inner in moved:
        table[name] = inner


def _flat(value: Any, before: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {before: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found.update(_flat(inner, f"{before}.{key}" if before else key))
    return found


def job_toml(info: JobInfo, spec: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """A ``moai.toml`` that would repeat a job; what such a file cannot say stands in comments.

    Secrets are named, never given. Raises MoaiError (UNSUPPORTED) for a job that is neither a command nor a
    training.
    """
    import tomlkit

    steps = {str(step["name"]): step for step in plan.get("steps", [])}
    train = steps.get("train")
    is_recipe = train is not None and bool(train.get("module"))
    if not is_recipe and info.kind not in ("command", "train"):
        raise MoaiError("UNSUPPORTED", f"job {info.id} is a {info.kind}, which a moai.toml cannot repeat", f"moai remote show {info.id}")
    document = tomlkit.document()
    document.add(tomlkit.comment(f"What job {info.id} did on {info.host}: {_line(info.command)}"))
    git = _git(spec, steps)
    command = steps.get("command") or (None if is_recipe else train)
    if command is not None:
        verb = "train" if info.kind == "train" else "run"
        words = shlex.join(str(word) for word in _own_words(command["argv"], spec))
        # A moai.toml clones for trainings only.
        clone = shlex.join(["--git", git[0], *(["--git-submodules"] if git[1] else [])]) + " " if git and verb == "run" else ""
        document.add(tomlkit.comment(f"moai remote {verb} {_line(clone)}-- {_line(words)}"))
    else:
        document.add(tomlkit.comment("moai remote train"))
    if spec.get("max_duration_seconds"):
        document.add(tomlkit.comment(f"with --max-duration {spec['max_duration_seconds']:g}s"))
    if "code" in steps and git is None:
        document.add(tomlkit.comment("it ran in a copy of a folder of the laptop: --sync DIR"))
    document["host"] = info.host
    environment = (spec.get("environment") or {}).get("name") or info.environment
    for key, value in (
        ("name", spec.get("name")),
        ("environment", environment),
        ("workdir", command.get("cwd") if command is not None and "code" not in steps else None),
        ("accelerator", spec.get("accelerator")),
        ("setup", spec.get("setup")),
        *((f"on_{what}", name) for what, name in sorted((spec.get("signals") or {}).items()) if not is_recipe),
        ("secrets", sorted(set(spec.get("secrets") or []) - {"HF_TOKEN"})),
    ):
        if value:
            document[key] = value
    if is_recipe:
        document["train"] = _train_table(steps)
    elif git and info.kind == "train":
        document["train"] = _git_table(git, spec)
    if spec.get("variables"):
        document["variables"] = dict(sorted(spec["variables"].items()))
    if spec.get("log_pattern"):
        document["log"] = {"pattern": spec["log_pattern"]}
    text = tomlkit.dumps(document)
    Project.model_validate(parse_toml(text, Path(FILE)))
    return text


def _own_words(argv: list[str], spec: Mapping[str, Any]) -> list[str]:
    """The command as it was given: without the shell that runs the setup line."""
    if spec.get("setup") and len(argv) > 4 and argv[1] == "-c":
        return argv[4:]
    return argv


def _git(spec: Mapping[str, Any], steps: Mapping[str, Any]) -> tuple[str, bool] | None:
    """What ``--git`` and ``--git-submodules`` say to get the job's code again: the commit that it had, once it is known."""
    inputs = steps["code"]["inputs"] if steps.get("code", {}).get("module") == "gitcode" else None
    if inputs is None:
        return None
    revision = (spec.get("git") or {}).get("commit") or inputs.get("revision")
    return f"{inputs['url']}@{revision}" if revision else str(inputs["url"]), bool(inputs.get("submodules"))


def _git_table(git: tuple[str, bool], spec: Mapping[str, Any]) -> Any:
    import tomlkit

    table = tomlkit.table()
    table["git"] = git[0]
    asked = (spec.get("git") or {}).get("revision")
    if asked and not git[0].endswith(f"@{asked}"):
        table["git"].comment(f"{_line(asked)} stood for that commit")
    if git[1]:
        table["git_submodules"] = True
    return table


def _line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _train_table(steps: Mapping[str, Any]) -> Any:
    import tomlkit

    train, prepare = steps["train"]["inputs"], steps["prepare"]["inputs"]
    download, data = steps.get("download"), steps.get("download-dataset")
    source = data["inputs"]["repo_id"] + (f":{prepare['config']}" if prepare.get("config") else "") if data else prepare["source"]
    values: dict[str, Any] = {
        "model": download["inputs"]["repo_id"] if download else train["model"],
        "model_revision": _revision(download),
        "dataset": source,
        "dataset_revision": _revision(data),
        "method": train.get("method"),
        "max_steps": train.get("max_steps"),
        "epochs": None if train.get("max_steps") else float(train.get("epochs") or 1),
        "batch_size": train.get("batch_size"),
        "block_size": prepare.get("block_size"),
        "learning_rate": train.get("learning_rate"),
        "template": prepare.get("template"),
        "sample": prepare.get("sample"),
        "gpus": train.get("gpus"),
    }
    table = tomlkit.table()
    for key, value in values.items():
        if value is not None and not isinstance(value, dict):
            table[key] = value
    settings = {k: v for k, v in train.items() if k not in _NOT_SETTINGS and v is not None}
    if settings.get("logging_steps") == 1:
        del settings["logging_steps"]  # The recipe's own.
    settings.update(train.get("settings") or {})
    # What --set says of the preparation.
    settings.update({k: prepare[k] for k in ("pack", "mask_prompt", "validation_fraction", "jobs") if prepare.get(k) not in (None, False)})
    flat = {k: v for k, v in _flat(settings).items() if isinstance(v, (str, int, float, bool)) or _is_texts(v)}
    if flat:
        table["settings"] = flat
    return table


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _revision(step: Mapping[str, Any] | None) -> str | None:
    revision = step["inputs"].get("revision") if step else None
    return revision if revision and revision != "main" else None

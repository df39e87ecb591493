"""A new job that goes on where an ended one stopped: what may change, where it begins, and saying both.

Owns ResumeJob. Refuses, before anything is submitted, settings that a checkpoint does not go with, a
checkpoint that is not there, and a command whose secrets nobody gave again.
"""

import asyncio
import json
import os
import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from moai_proto.v1 import job_pb2
from moai_worker import checkpoints, jobdir

from moai_agent.errors import AgentError
from moai_agent.jobs import groups, plans, submit, watching
from moai_agent.jobs.store import Entry

#: Settings that belong to the steps before the training: another value is another run.
_OTHER_STEPS = (
    "model", "model_revision", "dataset", "dataset_revision", "template", "block_size", "sample", "output", "method",
)  # fmt: skip
#: Settings a checkpoint depends on: its weights' shape, and which rows the next step sees.
_BY_CHECKPOINT = ("batch_size", "seed", "lora", "lora.r", "lora.alpha", "lora.dropout", "lora.targets")
_LORA = {"r": 8, "alpha": 16, "dropout": 0.0, "targets": None}
_CODE = "RESUME"


class Resumption(NamedTuple):
    """``entry`` is None when it was only asked; ``changes`` are (name, old, new), old None = not set."""

    entry: Optional[Entry]
    changes: List[Tuple[str, Any, Any]]
    fixed: List[str]
    text: str

    def message(self, job: Optional[job_pb2.Job]) -> job_pb2.ResumeJobResponse:
        """As the contract has it."""
        changes = [
            job_pb2.SettingChange(name=name, old_value="" if old is None else json.dumps(old), new_value=json.dumps(new))
            for name, old, new in self.changes
        ]
        return job_pb2.ResumeJobResponse(job=job, changes=changes, fixed_settings=self.fixed, text=self.text)


async def resume(agent: Any, message: job_pb2.ResumeJobRequest) -> Resumption:
    """The same plan and output as a new, linked job.

    Raises AgentError: JOB_ACTIVE, JOB_NOT_OWNED, CHECKPOINT_MISMATCH, CHECKPOINT_NOT_FOUND, SECRET_NEEDED, USAGE.
    """
    entry = agent.store.find(message.job)
    if entry.view["state"] not in jobdir.TERMINAL_STATES:
        raise AgentError("JOB_ACTIVE", "job %s still runs" % entry.job.id, "moai remote attach %s" % entry.job.id)
    agent.store.check_owner(entry, message.options.owner, message.force)
    inputs = _recipe(entry.plan)
    group = None
    if message.HasField("group"):
        groups.check_resumed(message.group, (inputs or {}).get("group"), entry.job.id)
        group = groups.inputs(message.group)
    asked = {key: plans._value(text) for key, text in message.settings.items()}
    # Looks into checkpoint folders, which may lie on a slow disk.
    loop = asyncio.get_running_loop()
    begin, changes, fixed, text = await loop.run_in_executor(None, _look, entry, inputs, asked, message.start_from)
    if message.dry_run:
        return Resumption(None, changes, fixed, text)
    options = _options(entry, message.options)
    lost = watching.inherit(options, entry.spec)
    _refuse_missing_secrets(entry, options)
    request = submit.Request(agent, message, options, entry.spec["kind"], entry.spec["command"], False)
    request.needs_environment = entry.spec["kind"] != "create"
    request.parent = entry.job.id
    request.record = _record(entry.spec.get("request"), message.settings)
    request.extra = {"log_pattern": entry.spec.get("log_pattern", "")}
    if entry.spec.get("git"):
        request.extra["git"] = entry.spec["git"]
        request.withheld.add("GIT_TOKEN")
    shown = ["%s %s -> %s" % (name, "unset" if old is None else _text(old), _text(new)) for name, old, new in changes]
    first = submit.note(
        "resumes %s: %s%s" % (entry.job.id, text, "; changed: " + ", ".join(shown) if shown else ""), _CODE
    )
    first["data"]["changes"] = [{"name": name, "old": old, "new": new} for name, old, new in changes]
    request.first_notes.append(first)
    request.notes += [submit.note(text, "NOTIFY_FAILED", "warning") for text in lost]
    old_path = entry.job.path

    def make(place: plans.Place) -> Tuple[List[Dict[str, Any]], str]:
        # As JSON text: the old job's folder stands in argv and inputs alike.
        steps = json.loads(json.dumps(entry.plan["steps"]).replace(json.dumps(old_path)[1:-1], place.job_path))
        commit = (jobdir.read_json(entry.job.spec) or {}).get("git", {}).get("commit")
        for step in steps:
            step.setdefault("optional_secrets", list(plans.SECRETS.get(step.get("module") or "", ())))
            step["argv"] = [place.main_py if a.endswith("/worker/main.py") else a for a in step["argv"]]
            if step.get("module") == "train":
                _change(step["inputs"], dict({"resume": begin}, **asked))
                if group is not None:
                    step["inputs"]["group"] = group
            elif step.get("module") == "gitcode" and commit:
                step["inputs"]["revision"] = commit  # The branch may have moved since.
        return steps, entry.plan.get("output", "")

    return Resumption(await request.submit(make), changes, fixed, text)


def _recipe(plan: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """Inputs of the recipe's training; None for jobs without it."""
    return next((s["inputs"] for s in plan.get("steps", []) if s.get("module") == "train"), None)


def _look(
    entry: Entry, inputs: Optional[Dict[str, Any]], asked: Dict[str, Any], start_from: str
) -> Tuple[Any, List[Tuple[str, Any, Any]], List[str], str]:
    """(the recipe's ``resume``, changes, fixed settings, where it begins); raises for what cannot be."""
    if inputs is None:
        if asked or start_from not in ("", "latest"):
            what = "--set %s" % sorted(asked)[0] if asked else "--from %s" % start_from
            raise AgentError(
                "UNSUPPORTED", "job %s has no training of the recipe, so %s means nothing to it" % (entry.job.id, what),
                "moai remote resume %s" % entry.job.id,
            )
        if any(not step.get("module") for step in entry.plan.get("steps", [])):
            return None, [], [], "a command cannot go on where it stopped, so it is started again from its beginning"
        return None, [], [], "what is there already is kept"
    folder = os.path.join(inputs["output"], "checkpoints")
    steps = checkpoints.complete_steps(folder)
    changes = [(name, _old(inputs, name), asked[name]) for name in sorted(asked)]
    changes = [one for one in changes if one[1] != one[2] and one[0] != "resume"]
    over = asked.get("resume") is False
    fixed = list(_OTHER_STEPS) + (list(_BY_CHECKPOINT) if steps and not over else [])
    _refuse_fixed(entry, changes, fixed)
    _refuse_uneven(inputs, asked)
    begin, text = _begin(entry, folder, steps, start_from)
    if over:
        text = "starts over; earlier checkpoints are set aside"
    return begin, changes, fixed, text


def _begin(entry: Entry, folder: str, steps: List[int], start_from: str) -> Tuple[Any, str]:
    if start_from in ("", "latest"):
        if not steps:
            return True, "there is no checkpoint yet, so it begins at step 0"
        return True, "goes on from step %d in %s" % (steps[-1], folder)
    path = os.path.join(folder, "checkpoint-" + start_from)
    if not start_from.isdigit():
        path = os.path.abspath(os.path.expanduser(start_from))
    known = ", ".join(str(step) for step in steps)
    why = "there is no such checkpoint" if not os.path.isdir(path) else checkpoints.why_incomplete(path)
    number = re.search(r"checkpoint-(\d+)$", path)
    if why or not number:
        raise AgentError(
            "CHECKPOINT_NOT_FOUND",
            "%s cannot be resumed from: %s" % (path, why or "its name is not checkpoint-N"),
            "--from %s (steps there: %s)" % (steps[-1], known) if steps else "moai remote resume %s begins at step 0" % entry.job.id,
            {"steps": known},
        )
    later = [step for step in steps if step > int(number.group(1))]
    aside = "; those of step %s are set aside" % ", ".join(map(str, later)) if later else ""
    return path, "goes on from step %s in %s%s" % (number.group(1), path, aside)


def _refuse_fixed(entry: Entry, changes: List[Tuple[str, Any, Any]], fixed: List[str]) -> None:
    wrong = ["%s (%s -> %s)" % (n, "unset" if old is None else _text(old), _text(new)) for n, old, new in changes if n in fixed]
    if not wrong:
        return
    hint = ""
    if any(name == "batch_size" for name, _, _ in changes):
        hint = "--set gradient_accumulation=N makes passes smaller and keeps the rows of a step; else "
    raise AgentError(
        "CHECKPOINT_MISMATCH", "a resumed job cannot change %s: the checkpoint belongs to the old value" % ", ".join(wrong),
        "%smoai remote again %s --set ... starts a new run" % (hint, entry.job.id),
    )


def _refuse_uneven(inputs: Dict[str, Any], asked: Dict[str, Any]) -> None:
    batch = asked.get("batch_size") or _old(inputs, "batch_size") or plans.DEFAULT_BATCH
    parts = asked.get("gradient_accumulation")
    if isinstance(parts, int) and isinstance(batch, int) and (parts < 1 or batch % parts):
        raise AgentError(
            "USAGE", "%d rows a step cannot be divided into %d passes" % (batch, parts),
            "one of %s" % ", ".join(str(n) for n in range(1, batch + 1) if batch % n == 0),
        )


def _old(inputs: Dict[str, Any], name: str) -> Any:
    """A setting's value before; None where it was not set or is only known there."""
    settings = inputs.get("settings") or {}
    if name in settings:
        return settings[name]
    if name.startswith("lora."):
        key = name[len("lora.") :]
        return (inputs.get("lora") or {}).get(key, _LORA.get(key))
    if name == "gradient_accumulation":
        return inputs.get(name) or 1
    value = inputs.get(name)
    return None if isinstance(value, dict) and "from" in value else value


def _change(inputs: Dict[str, Any], values: Dict[str, Any]) -> None:
    settings = inputs.setdefault("settings", {})
    for name, value in values.items():
        if name in inputs and name not in settings:
            inputs[name] = value
        else:
            settings[name] = value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _options(entry: Entry, given: job_pb2.JobOptions) -> job_pb2.JobOptions:
    """The options with what the old job had and nobody said anew."""
    options = job_pb2.JobOptions()
    options.CopyFrom(given)
    # The interpreter, not the prefix: that of a system Python is /usr for all of them.
    options.environment = options.environment or entry.spec["environment"]["python"]
    for name, value in (entry.spec.get("variables") or {}).items():
        if name not in options.variables:
            options.variables[name] = value
    options.accelerator = options.accelerator or entry.spec.get("accelerator") or ""
    options.name = options.name or entry.spec.get("name") or ""
    return options


def _refuse_missing_secrets(entry: Entry, options: job_pb2.JobOptions) -> None:
    """A command gets all of its secrets again: without one it would fail late, or quietly do something else."""
    needed = {name for step in entry.plan.get("steps", []) if not step.get("module") for name in step.get("secrets", [])}
    missing = sorted(needed - set(options.secrets) - set(options.variables))
    if missing:
        raise AgentError(
            "SECRET_NEEDED", "job %s had the secret %s, which was kept nowhere" % (entry.job.id, ", ".join(missing)),
            "moai remote resume %s %s" % (entry.job.id, " ".join("--secret " + name for name in missing)),
            {"secrets": ",".join(missing)},
        )


def _record(record: Optional[Dict[str, Any]], settings: Any) -> Optional[Dict[str, Any]]:
    """The first request with this one's settings, for ``again``."""
    if not record or not settings:
        return record
    return dict(record, settings=dict(record.get("settings") or {}, **dict(settings)))

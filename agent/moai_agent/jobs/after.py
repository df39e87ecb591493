"""What follows a training, as jobs: measuring it, merging its adapter, sending it to the Hub.

Owns the plans of these and how a job's own result, base model, template and data set are found. Refuses at
submission what could only fail later: nothing to merge, no right to write. Like ``submit``, whose way these
jobs take.
"""

import os
from typing import Any, Dict, List, Optional, Tuple

from moai_proto.v1 import dataset_pb2, model_pb2, training_pb2
from moai_worker import jobdir

from moai_agent.errors import AgentError
from moai_agent.jobs import plans, submit, writable
from moai_agent.jobs.store import Entry

_SPLITS = ("", "train", "validation", "test")


def named_job(agent: Any, text: str) -> Optional[Entry]:
    """The job a model argument names; None for a path or a Hub id."""
    if not text or plans.is_path(text) or "/" in text:
        return None
    entry: Entry = agent.store.find(text)
    return entry


def result_of(entry: Entry, doing: str) -> str:
    """The folder of a job's result; MODEL_INVALID when it has none."""
    output = entry.view.get("output") or entry.plan.get("output") or ""
    if not output:
        raise AgentError("MODEL_INVALID", "job %s has no output to %s" % (entry.job.id, doing), "name a training job")
    return str(output)


async def evaluating(agent: Any, message: training_pb2.EvaluateRequest) -> Entry:
    """Evaluate."""
    if not message.model:
        raise AgentError("USAGE", "no model was given", "moai remote evaluate JOB --dataset DATA")
    if message.split not in _SPLITS:
        raise AgentError("USAGE", "split %r is none of train, validation, test" % message.split)
    if message.row_limit < 0 or message.max_new_tokens < 0:
        raise AgentError("USAGE", "the number of rows or tokens is negative", "give a positive number")
    entry = named_job(agent, message.model)
    model = result_of(entry, "evaluate") if entry else message.model
    if entry is None and not message.dataset.source:
        raise AgentError("USAGE", "no data set was given", "--dataset ORG/NAME, a path, or laptop:PATH")
    if entry is not None and not message.dataset.source and not _prepare_inputs(entry):
        raise AgentError("USAGE", "job %s prepared no data set of its own" % entry.job.id, "name one with --dataset")
    request = submit.Request(agent, message, message.options, "evaluate", "evaluate %s" % model, True)
    request.extra = {"endpoint": message.endpoint}
    request.names_job("model", entry)
    return await request.submit(lambda place: (evaluate_steps(place, message, model, entry), ""))


def evaluate_steps(
    place: plans.Place, message: training_pb2.EvaluateRequest, model: str, entry: Optional[Entry]
) -> List[Dict[str, Any]]:
    """[download ->] [prepare ->] evaluate."""
    steps: List[Dict[str, Any]] = []
    settings = submit.trained_settings(entry) if entry else {}
    base = submit.trained_model(entry) if entry else None
    own = _prepare_inputs(entry) if entry else {}
    trust = message.trust_remote_code or bool(settings.get("trust_remote_code"))
    dataset, made_from = _dataset(place, steps, message.dataset, model, base, own, trust)
    # The preparation of a Hub model's rows fetches the model too.
    fetched = any(step["name"] == "download" for step in steps)
    inputs: Dict[str, Any] = {
        "model": plans.earlier("download", "path") if fetched else plans.model_of(place, steps, model, ""),
        "dataset": dataset,
        "split": message.split,
        "rows": message.row_limit or None,
        "max_new_tokens": message.max_new_tokens or 64,
        "compare": message.compare,
        "trust_remote_code": trust,
        "output": os.path.join(place.job_path, "evaluation.json"),
    }
    if base:
        inputs["base_model"] = base
    if message.rouge:
        if made_from is None:
            raise AgentError(
                "USAGE",
                "ROUGE compares texts, and %s holds token ids only" % message.dataset.source,
                "name the data set it was prepared from, or leave --rouge out",
            )
        inputs["rouge"] = made_from
    steps.append(plans.own_step(place, "evaluate", "evaluate", inputs))
    return steps


def _dataset(
    place: plans.Place,
    steps: List[Dict[str, Any]],
    asked: dataset_pb2.DatasetSpec,
    model: str,
    base: Optional[str],
    own: Dict[str, Any],
    trust: bool,
) -> Tuple[Any, Optional[Dict[str, Any]]]:
    """The prepared rows, and the prepare step's inputs they are made with (None: not known)."""
    if not asked.source:
        return own["output"], own
    path = os.path.abspath(os.path.join(place.cwd, os.path.expanduser(asked.source)))
    if plans.is_path(asked.source) and os.path.isfile(os.path.join(path, "dataset_dict.json")):
        return path, own if path == own.get("output") else None
    spec = dataset_pb2.DatasetSpec()
    spec.CopyFrom(asked)
    spec.template = asked.template or str(own.get("template") or "")
    spec.block_size = asked.block_size or int(own.get("block_size") or 0)
    steps += plans.prepare_steps(place, spec, base or _tokenizer_holder(place, model), "")
    inputs: Dict[str, Any] = steps[-1]["inputs"]
    if trust:
        inputs.update(trust_remote_code=True, trust_dataset_code=False)
    return plans.earlier("prepare", "path"), inputs


def _tokenizer_holder(place: plans.Place, model: str) -> str:
    """A full model's folder for the tokenizer: of an adapter, its base where that is on this machine."""
    if not plans.is_path(model):
        return model
    path = os.path.abspath(os.path.join(place.cwd, os.path.expanduser(model)))
    config = jobdir.read_json(os.path.join(path, "adapter_config.json")) or {}
    base = str(config.get("base_model_name_or_path") or "")
    return base if base and os.path.isdir(base) else path


def _prepare_inputs(entry: Entry) -> Dict[str, Any]:
    """The prepare step's inputs of a job, results of its earlier steps filled in; empty without one."""
    found = next((s["inputs"] for s in entry.plan.get("steps", []) if s.get("module") == "prepare"), {})
    return {key: _filled(entry, value) for key, value in found.items()}


def _filled(entry: Entry, value: Any) -> Any:
    if not (isinstance(value, dict) and set(value) == {"from", "key"}):
        return value
    result = jobdir.read_json(entry.job.control_file("result-" + value["from"])) or {}
    return (result.get("result") or {}).get(value["key"])


async def merging(agent: Any, message: training_pb2.MergeModelRequest) -> Entry:
    """MergeModel."""
    if not message.adapter:
        raise AgentError("USAGE", "no adapter was given", "moai remote merge JOB")
    entry = named_job(agent, message.adapter)
    settings = submit.trained_settings(entry) if entry else {}
    adapter = result_of(entry, "merge") if entry else message.adapter
    if entry is not None and settings.get("method", "full") != "lora":
        raise AgentError(
            "USAGE",
            "job %s trained the whole model: there is no adapter to merge" % entry.job.id,
            "moai remote pull %s; its result is a model already" % entry.job.id,
        )
    base = message.base_model or (submit.trained_model(entry) if entry else "") or ""
    words = {key: _filled(entry, value) for key, value in settings.get("card", {}).items()} if entry else {}
    words["command"] = "\n".join(filter(None, [str(words.get("command") or ""), "moai remote merge %s" % message.adapter]))
    trust = message.trust_remote_code or bool(settings.get("trust_remote_code"))
    request = submit.Request(agent, message, message.options, "merge", "merge %s" % message.adapter, True)
    request.names_job("adapter", entry)

    def make(place: plans.Place) -> Tuple[List[Dict[str, Any]], str]:
        source = os.path.abspath(os.path.join(place.cwd, os.path.expanduser(adapter)))
        asked = message.output and os.path.abspath(os.path.join(place.cwd, os.path.expanduser(message.output)))
        output = asked or os.path.join(source, "merged")
        return plans.merge_steps(place, source, output, base, trust, words), output

    return await request.submit(make)


async def uploading(agent: Any, message: model_pb2.UploadModelRequest) -> Entry:
    """UploadModel."""
    if not message.source or not message.repo:
        raise AgentError("USAGE", "a job or folder and a repository are needed", "moai remote upload JOB ORG/NAME")
    entry = named_job(agent, message.source)
    source = result_of(entry, "upload") if entry else message.source
    await writable.check(agent, message.repo, message.endpoint, message.options)
    card = submit.trained_settings(entry).get("card", {}) if entry else {}
    text = "upload %s to %s" % (message.source, message.repo)
    request = submit.Request(agent, message, message.options, "upload", text, False)
    request.extra = {"endpoint": message.endpoint}
    request.names_job("source", entry)

    def make(place: plans.Place) -> Tuple[List[Dict[str, Any]], str]:
        inputs = {
            "path": os.path.abspath(os.path.join(place.cwd, os.path.expanduser(source))),
            "repo": message.repo,
            "private": message.private,
            "revision": message.revision,
            "message": message.commit_message or "%s by moai" % (entry.job.id if entry else os.path.basename(source)),
            "base_model": card.get("model", ""),
        }
        return [plans.upload_step(place, inputs)], ""

    return await request.submit(make)

"""What a training needs on this container: facts gathered here, figures from ``moai_agent.sizing``.

Reads the model's ``config.json`` and the sizes of its weights (from a folder, or from the Hub at a
pinned commit; a weight is never fetched), the default device, the disk and the host's memory. Blocking;
runs in the agent's worker threads. Nothing is written.
"""

import json
import os
import shutil
from typing import Any, Dict, List, NamedTuple, Optional

from moai_proto.v1 import training_pb2
from moai_worker import hub
from moai_worker.errors import StepError

from moai_agent import downloads, sizing, work
from moai_agent.downloads import existing
from moai_agent.errors import AgentError
from moai_agent.jobs import plans, submit
from moai_agent.sizing import flavors

_MIB = 1 << 20
_CONFIG_BYTES = 1 << 20
#: Larger than the index of any model; it lists every tensor.
_INDEX_BYTES = 64 << 20
_WEIGHTS = (".safetensors", ".bin")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_ITEM_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2, "float8_e4m3fn": 1}
#: As moai_worker.train_settings: checkpoints kept, and one more while it is written.
_KEPT = 2


class Model(NamedTuple):
    """What is known of a model without opening its weights. ``missing``: bytes that are not here yet."""

    config: Dict[str, Any]
    commit: str
    gated: bool
    stored_bytes: Optional[int]
    index_bytes: Optional[int]
    missing_bytes: int


def estimate(agent: Any, request: training_pb2.EstimateTrainingRequest) -> training_pb2.EstimateTrainingResponse:
    """Answer EstimateTraining.

    Raises AgentError: USAGE, MODEL_INVALID, and the reasons of the Hub.
    """
    spec = request.training
    if request.rows < 0:
        raise AgentError("USAGE", "the number of rows is negative: %d" % request.rows, "--rows N")
    _check(spec)
    login = agent.registry.login()
    home = login.get("HOME") or os.path.expanduser("~")
    folder = work.asked(request.work, home) or work.folder(agent.config)
    settings = {key: plans._value(text) for key, text in spec.settings.items()}
    model = _model(spec, request, login, folder, home)
    report = agent.registry.devices(request.environment)
    device = next((d for d in report.devices if d.is_default), report.devices[0] if report.devices else None)
    shown = getattr(device, "memory_total_mib", None)
    flavor = getattr(device, "flavor", None) or ""
    total = shown * _MIB if shown else flavors.memory_bytes(flavor)
    free = shutil.disk_usage(existing(folder)).free
    question = _question(spec, request, settings, model)._replace(
        provider=report.provider or "",
        flavor=flavor,
        device_bytes=total,
        host_bytes=_host_bytes(),
        free_bytes=free,
    )
    found = sizing.answer(question)
    return training_pb2.EstimateTrainingResponse(
        commit=model.commit,
        model_type=str(model.config.get("model_type") or "")[:80],
        gated=model.gated,
        figures=[training_pb2.Figure(name=f.name, value=f.value, unit=f.unit, evidence=f.evidence, text=f.text) for f in found.figures],
        concerns=[training_pb2.Concern(code=c.code, text=c.text) for c in found.concerns],
        recommended_flavor=found.flavor,
        recommended_batch_size=found.batch,
        guide_model=found.guide_model,
        provider=report.provider or "",
        flavor=flavor,
        memory_total_mib=total // _MIB if total else None,
        folder=folder,
        free_bytes=free,
    )


def _check(spec: training_pb2.TrainingSpec) -> None:
    known = training_pb2.TrainingSpec()
    known.CopyFrom(spec)
    known.dataset.source = spec.dataset.source or "unknown"
    submit.check_training(known)


def _question(
    spec: training_pb2.TrainingSpec, request: training_pb2.EstimateTrainingRequest, settings: Dict[str, Any], model: Model
) -> sizing.Question:
    rows = request.rows or None
    if rows and spec.dataset.sample:
        rows = min(rows, spec.dataset.sample)
    targets = settings.get("lora.targets")
    if isinstance(targets, str):
        targets = [part.strip() for part in targets.split(",") if part.strip()]
    dtype = str(model.config.get("torch_dtype") or model.config.get("dtype") or "")
    return sizing.Question(
        shape=sizing.read_shape(model.config),
        stored_bytes=model.stored_bytes,
        stored_item=_ITEM_BYTES.get(dtype, 0),
        index_bytes=model.index_bytes,
        download_bytes=model.missing_bytes,
        method=spec.method or "full",
        batch=spec.batch_size or None,
        accumulation=_whole(settings.get("gradient_accumulation"), 1),
        tokens=spec.dataset.block_size or plans.DEFAULT_BLOCK,
        rows=rows,
        epochs=spec.epochs or 1.0,
        steps=spec.max_steps or None,
        rank=_whole(settings.get("lora.r"), 8),
        targets=tuple(str(t) for t in targets) if isinstance(targets, (list, tuple)) else None,
        checkpointing=_flag(settings.get("gradient_checkpointing")),
        checkpoints=_checkpoints(settings),
        bf16=_flag(settings.get("bf16")),
    )


def _checkpoints(settings: Dict[str, Any]) -> int:
    """How many checkpoints lie there at once; the recipe writes them by the clock unless told otherwise."""
    never = not settings.get("save_steps") and settings.get("save_minutes") == 0
    return 0 if never else _whole(settings.get("keep_checkpoints"), _KEPT) + 1


def _whole(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31 else default


def _flag(value: Any) -> Optional[bool]:
    return value if isinstance(value, bool) else None


def _host_bytes() -> Optional[int]:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _model(
    spec: training_pb2.TrainingSpec,
    request: training_pb2.EstimateTrainingRequest,
    login: Dict[str, str],
    folder: str,
    home: str,
) -> Model:
    if plans.is_path(spec.model):
        return _in_folder(os.path.normpath(os.path.join(home, os.path.expanduser(spec.model))))
    endpoint = (spec.endpoint or login.get("HF_ENDPOINT") or hub.DEFAULT_ENDPOINT).rstrip("/")
    hf_home = login.get("HF_HOME") or os.path.join(folder, "huggingface")
    token, _ = downloads.token_of(request.token, login, hf_home)
    attempts, timeout_s = (1, 10.0) if request.quick else (5, 30.0)
    asked = hub.Hub(endpoint, token or None, attempts, timeout_s, request.proxy, downloads.SILENCE_S)
    try:
        return _on_hub(asked, spec.model, spec.model_revision or "main", hf_home, login)
    except StepError as error:
        raise AgentError(error.reason, error.message, error.next, error.details)


def _in_folder(path: str) -> Model:
    if not os.path.isdir(path):
        raise AgentError("MODEL_INVALID", "there is no folder %s on the container" % path, "name a folder there, or ORG/NAME of the Hub")
    config = _read_json(os.path.join(path, "config.json"), _CONFIG_BYTES)
    if config is None:
        raise AgentError("MODEL_INVALID", "%s has no readable config.json" % path, "name the folder of a full model")
    names = [name for name in sorted(os.listdir(path)) if os.path.isfile(os.path.join(path, name))]
    sizes = {name: os.path.getsize(os.path.join(path, name)) for name in _weights(names)}
    index = None
    for name in _INDEXES:
        if name in names and index is None:
            index = _total_size(_read_json(os.path.join(path, name), _INDEX_BYTES))
    return Model(config, "", False, sum(sizes.values()) or None, index, 0)


def _on_hub(asked: hub.Hub, repo: str, revision: str, hf_home: str, login: Dict[str, str]) -> Model:
    try:
        plan = hub.plan_with(asked, repo, revision=revision)
        by_name = {file.path: file for file in plan.files}
        config = _fetched(asked, plan, by_name, "config.json", _CONFIG_BYTES) or {}
        index = None
        for name in _INDEXES:
            # Only where the layout is unknown is the index worth its bytes.
            if index is None and sizing.read_shape(config) is None:
                index = _total_size(_fetched(asked, plan, by_name, name, _INDEX_BYTES))
    finally:
        asked.close()
    stored = sum(by_name[name].size_bytes for name in _weights(list(by_name)))
    here, _ = downloads.held(plan, hf_home, login)
    missing = sum(f.size_bytes for f in plan.files if f.etag not in here)
    return Model(config, plan.commit, plan.gated, stored or None, index, missing)


def _fetched(asked: hub.Hub, plan: hub.Plan, by_name: Dict[str, Any], name: str, limit: int) -> Optional[Dict[str, Any]]:
    file = by_name.get(name)
    if file is None or file.size_bytes > limit:
        return None
    subject = hub.Subject(plan.repo_id, plan.repo_type, plan.revision, name)
    value, _ = asked.get_json(hub.file_path(plan, name), subject)
    return value if isinstance(value, dict) else None


def _weights(names: List[str]) -> List[str]:
    """The weight files among the names; safetensors where both are there."""
    found = [name for name in names if name.endswith(_WEIGHTS) and "/" not in name and not name.startswith(("training_args", "optimizer"))]
    safe = [name for name in found if name.endswith(".safetensors")]
    return safe or found


def _total_size(index: Optional[Dict[str, Any]]) -> Optional[int]:
    metadata = (index or {}).get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    return int(total) if isinstance(total, (int, float)) and 0 < total < 1 << 60 else None


def _read_json(path: str, limit: int) -> Optional[Dict[str, Any]]:
    try:
        with open(path, encoding="utf-8") as source:
            value = json.loads(source.read(limit))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None

"""Plans: the ordered steps of each kind of job, as kept in ``plan.json``.

Pure functions from what was asked to dictionaries. A step of our own has ``module`` and ``inputs``
(see moai_worker.steps); a command has only ``argv``.
"""

import hashlib
import json
import os
import re
import shlex
import sys
from typing import Any, Dict, List, Optional

from moai_proto.v1 import dataset_pb2, job_pb2, training_pb2
from moai_worker import templates

from moai_agent.errors import AgentError
from moai_agent.jobs import groups, preparedsets
from moai_agent.snapshots import Snapshots

#: ORG/NAME or NAME as the Hub allows it, with an optional :CONFIG for datasets.
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[\w.-]+)?$")

DEFAULT_BLOCK = 1024
DEFAULT_BATCH = 8
#: What a tokenizer never needs: files of these kinds are left out where only it is wanted.
WEIGHTS = tuple(
    "*" + ending
    for ending in (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".h5", ".msgpack", ".onnx", ".onnx_data", ".gguf", ".tflite")
)
#: Modules of steps that fetch from elsewhere: they get the user's proxy, and no other does.
NETWORKED = ("download", "install", "create", "framework", "upload", "gitcode")
#: Names under which the address of an index, with its password, may be given as a secret.
INDEXES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX")
#: What experiment trackers sign in with (``--set report_to=...``).
TRACKERS = (
    "WANDB_API_KEY", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "COMET_API_KEY",
    "NEPTUNE_API_TOKEN", "CLEARML_API_ACCESS_KEY", "CLEARML_API_SECRET_KEY", "SWANLAB_API_KEY",
)  # fmt: skip
#: Module -> secrets its steps get, of those the user gave.
SECRETS = {
    "gitcode": ("GIT_TOKEN",), "download": ("HF_TOKEN",), "upload": ("HF_TOKEN",), "install": INDEXES, "create": INDEXES,
    "framework": INDEXES, "train": TRACKERS,
}  # fmt: skip


class Place:
    """Where a plan's steps run and keep things.

    Attributes:
        job_path: the job folder. main_py: entry of the steps. python: the environment's
        interpreter. work: the work folder. hf_home: HF_HOME of the job. endpoint: the Hub. cwd:
        working folder. environment: the environment that ``python`` belongs to.
    """

    def __init__(
        self, job_path: str, main_py: str, python: str, work: str, hf_home: str, endpoint: str, cwd: str,
        environment: Any = None,
    ) -> None:  # fmt: skip
        self.job_path, self.main_py, self.python = job_path, main_py, python
        self.work, self.hf_home, self.endpoint, self.cwd = work, hf_home, endpoint, cwd
        self.environment = environment

    @property
    def job_id(self) -> str:
        """Name of the job folder."""
        return os.path.basename(self.job_path)


def is_path(text: str) -> bool:
    """Whether a model or dataset is meant as a path on the container rather than a Hub id."""
    expanded = os.path.expanduser(text)
    if text.startswith(("/", "~", "./", "../")):
        return True
    return not _HUB_ID.match(text) or (os.path.exists(expanded) and "/" in text)


def _own(place: Place, name: str, module: str, inputs: Dict[str, Any], python: str, **more: Any) -> Dict[str, Any]:
    # -s: packages in ~/.local must not shadow the agent's Python; the user's env stays as it is.
    flags = ["-I"] if python == sys.executable else []
    argv = [python] + flags + [place.main_py, name, module, place.job_path]
    return dict({"name": name, "module": module, "argv": argv, "inputs": inputs, "cwd": place.cwd}, **more)


def code_step(place: Place, snapshot: Any, copy: str) -> Dict[str, Any]:
    """Lay out this job's own copy of a snapshot; first of its steps."""
    inputs = {"manifest": snapshot.manifest, "contents": snapshot.contents, "target": copy, "job": place.job_path}
    step = _own(place, "code", "code", inputs, sys.executable)
    step["cwd"] = "/"  # The working folder of the others is made by this one.
    return step


def own_step(place: Place, name: str, module: str, inputs: Dict[str, Any]) -> Dict[str, Any]:
    """A step on the environment's Python."""
    return _own(place, name, module, inputs, place.python)


def git_step(place: Place, url: str, revision: str, submodules: bool, copy: str, folder: str) -> Dict[str, Any]:
    """Clone a repository into this job's own copy; first of its steps."""
    inputs = {
        "url": url, "revision": revision, "submodules": submodules, "target": copy, "folder": folder,
        "mirrors": os.path.join(place.work, "code", "git"), "job": place.job_path,
    }  # fmt: skip
    step = _own(place, "code", "gitcode", inputs, sys.executable, optional_secrets=list(SECRETS["gitcode"]))
    step["cwd"] = "/"
    return step


def on_agent(place: Place, name: str, module: str, inputs: Dict[str, Any]) -> Dict[str, Any]:
    """A step on the agent's own Python: it needs nothing of an environment, or changes one."""
    return _own(place, name, module, inputs, sys.executable, optional_secrets=list(SECRETS[module]))


def earlier(step: str, key: str) -> Dict[str, str]:
    """An input that stands for a value of an earlier step's result."""
    return {"from": step, "key": key}


def download(place: Place, name: str, repo: str, kind: str, revision: str, output: str = "") -> Dict[str, Any]:
    """Fetch a repository; runs on the agent's own Python because it needs nothing else."""
    inputs = {
        "repo_id": repo,
        "repo_type": kind,
        "revision": revision or "main",
        "endpoint": place.endpoint,
        "hf_home": place.hf_home,
        "token_env": "HF_TOKEN",
        "python": place.python,
    }
    if output:
        inputs["output"] = output
    return on_agent(place, name, "download", inputs)


def model_of(
    place: Place, steps: List[Dict[str, Any]], model: str, revision: str, tokenizer_only: bool = False
) -> Any:
    """The model as an input of later steps; adds its download when it is on the Hub."""
    if is_path(model):
        return os.path.abspath(os.path.join(place.cwd, os.path.expanduser(model)))
    steps.append(download(place, "download", model, "model", revision))
    if tokenizer_only:
        steps[-1]["inputs"]["ignore"] = list(WEIGHTS)
    return {"from": "download", "key": "path"}


def is_named(template: str) -> bool:
    """Whether a template is one of the tutorials', by name."""
    return templates.ALIASES.get(template.lower(), template.lower()) in templates.NAMED


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:10]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text.rstrip("/").split("/")[-1]).strip("-.")[:48] or "set"


def prepare_steps(
    place: Place, spec: dataset_pb2.DatasetSpec, model: str, model_revision: str, tokenizer_only: bool = True
) -> List[Dict[str, Any]]:
    """Fetch what is on the Hub (of the model what its tokenizer needs, unless more is wanted), then tokenise."""
    steps: List[Dict[str, Any]] = []
    inputs = _data_inputs(place, steps, spec, model, model_revision, tokenizer_only)
    output = spec.output or os.path.join(
        place.work,
        "prepared",
        "%s-%s" % (_slug(spec.source.partition(":")[0]), _key(_identity(spec), model, model_revision)),
    )
    inputs.update(
        output=os.path.abspath(os.path.join(place.cwd, os.path.expanduser(output))),
        file_name=spec.file_name or "llama3_dataset.pt",
        jobs=spec.jobs or None,
    )
    inputs.update(_engine_inputs(place, steps, spec.engine))
    steps.append(_own(place, "prepare", "prepare", inputs, place.python))
    return steps


def preview_steps(
    place: Place, spec: dataset_pb2.DatasetSpec, model: str, model_revision: str, rows: int
) -> List[Dict[str, Any]]:
    """Fetch what is on the Hub, without weights, then show rows."""
    steps: List[Dict[str, Any]] = []
    inputs = _data_inputs(place, steps, spec, model, model_revision, True)
    inputs.update(preview=rows, file=os.path.join(place.job_path, "preview.json"))
    steps.append(_own(place, "preview", "preview", inputs, place.python))
    return steps


def _identity(spec: dataset_pb2.DatasetSpec) -> List[Any]:
    """What of a specification makes another result: it names the folder."""
    source, _, config = (spec.source, "", "") if is_path(spec.source) else spec.source.partition(":")
    told: List[Any] = [source, config, spec.revision, spec.template or "summarize", spec.block_size or DEFAULT_BLOCK, spec.sample]
    fraction = spec.validation_fraction if spec.HasField("validation_fraction") else None
    return told + [spec.pack, spec.mask_prompt, fraction, spec.split]


def _data_inputs(
    place: Place, steps: List[Dict[str, Any]], spec: dataset_pb2.DatasetSpec, model: str, model_revision: str, tokenizer_only: bool
) -> Dict[str, Any]:
    """Inputs that prepare and preview share; adds the downloads they need."""
    model_input = model_of(place, steps, model, model_revision, tokenizer_only)
    source, config = spec.source, ""
    if is_path(source):
        source_input: Any = os.path.abspath(os.path.join(place.cwd, os.path.expanduser(source)))
    else:
        source, _, config = source.partition(":")
        steps.append(download(place, "download-dataset", source, "dataset", spec.revision))
        source_input = {"from": "download-dataset", "key": "path"}
    return {
        "source": source_input,
        "config": config or None,
        "split": spec.split or None,
        "model": model_input,
        "template": spec.template or "summarize",
        "block_size": spec.block_size or DEFAULT_BLOCK,
        "sample": spec.sample or None,
        "validation_fraction": spec.validation_fraction if spec.HasField("validation_fraction") else None,
        "pack": spec.pack,
        "mask_prompt": spec.mask_prompt,
        "pad_token_id": None,
        "cache_dir": os.path.join(place.hf_home, "datasets"),
    }


def _engine_inputs(place: Place, steps: List[Dict[str, Any]], engine: dataset_pb2.Engine) -> Dict[str, Any]:
    """Where a fast tokenizer can run; adds the steps that lay out the wheels the laptop sent."""
    candidates = []
    for number, one in enumerate(engine.candidates, 1):
        folder: Any = ""
        if one.snapshot:
            snapshots = Snapshots(place.work)
            if snapshots.missing_of(one.snapshot):
                raise AgentError("FILE_NOT_FOUND", "the wheels of %s are not all here" % one.name, "submit again: they are sent then")
            snapshots.named(one.snapshot)
            name = "engine" if number == 1 else "engine-%d" % number
            steps.append(
                _own(
                    place, name, "code",
                    {
                        "manifest": snapshots.manifest,
                        "contents": snapshots.contents,
                        "target": os.path.join(snapshots.root, "engines", one.snapshot),
                        "shared": True,
                    },
                    sys.executable,
                )
            )  # fmt: skip
            folder = {"from": name, "key": "path"}
        candidates.append({"name": one.name, "python": one.python, "folder": folder})
    return {"engine": engine.name or "auto", "engines": candidates, "engine_note": engine.note}


def train_steps(
    place: Place, spec: training_pb2.TrainingSpec, output: str, facts: Optional[Dict[str, Any]] = None
) -> List[Dict[str, Any]]:
    """download -> prepare -> train -> verify (one generation with ``smoke``; merge and upload where asked).

    Args:
        facts: for the model card, what the request's options tell.
    """
    dataset = dataset_pb2.DatasetSpec()
    dataset.CopyFrom(spec.dataset)
    settings = {key: _value(text) for key, text in spec.settings.items()}
    _take_dataset_settings(dataset, settings)
    folder = os.path.abspath(os.path.join(place.cwd, os.path.expanduser(dataset.source))) if is_path(dataset.source) else ""
    prepared = preparedsets.made_with(folder) if folder else None
    if prepared is not None:
        preparedsets.take_settings(dataset, folder, prepared)
    max_steps = spec.max_steps
    if spec.smoke:
        max_steps = 3
        if prepared is None:
            dataset.sample = 50
    steps = prepare_steps(place, dataset, spec.model, spec.model_revision, tokenizer_only=False)
    if spec.upload_repo:
        # First: a token that may not write is found out before a byte is fetched.
        steps.insert(0, on_agent(place, "check-upload", "upload", {
            "repo": spec.upload_repo, "endpoint": place.endpoint, "check_only": True, "token_env": "HF_TOKEN",
        }))  # fmt: skip
    model_input = next(s for s in steps if s["name"] == "prepare")["inputs"]["model"]
    method = spec.method or "full"
    merged = settings.pop("merged_output", False) is True
    batch = spec.batch_size or DEFAULT_BATCH
    if spec.smoke:
        # 50 rows are to give three steps whatever the real run's batch is; it need not divide them.
        settings.pop("gradient_accumulation", None)
        batch = min(batch, DEFAULT_BATCH)
    inputs: Dict[str, Any] = {
        "model": model_input,
        "dataset": {"from": "prepare", "key": "path"},
        "output": output,
        "method": method,
        "max_steps": max_steps or None,
        "epochs": spec.epochs or 1,
        "batch_size": batch,
        "learning_rate": spec.learning_rate or (1e-4 if method == "lora" else 1e-5),
        "save_steps": 2 if spec.smoke else None,
        "logging_steps": 1,
        "resume": True,
        "control": os.path.join(place.job_path, "control"),
        "card": card(spec, next(s for s in steps if s["name"] == "prepare")["inputs"], facts or {}),
    }
    if spec.gpus:
        inputs["gpus"] = spec.gpus
    if spec.HasField("group"):
        inputs["group"] = groups.inputs(spec.group)
    for name in _RECIPE_SETTINGS:
        if name in settings:
            inputs[name] = settings.pop(name)
    inputs["settings"] = settings
    if inputs.get("trust_remote_code"):
        # The model's own code, its tokenizer's included; a data set's script is not meant.
        prepare = next(s for s in steps if s["name"] == "prepare")
        prepare["inputs"].update(trust_remote_code=True, trust_dataset_code=False)
    steps.append(_own(place, "train", "train", inputs, place.python, optional_secrets=list(TRACKERS)))
    check = {"path": output, "method": method, "model": model_input, "load": bool(spec.smoke)}
    if inputs.get("trust_remote_code"):
        check["trust_remote_code"] = True
    steps.append(_own(place, "verify", "verify", check, place.python))
    if spec.smoke:
        trial = {
            "model": output,
            "base_model": model_input,
            "prompts": ["The city council met on Monday to discuss the new library."],
            "template": dataset.template if is_named(dataset.template) else "summarize",
            "max_new_tokens": 24,
            "output": os.path.join(output, "smoke.jsonl"),
        }
        steps.append(_own(place, "generate", "generate", trial, place.python))
    if merged:
        inside = os.path.join(output, "merged")
        steps += merge_steps(place, output, inside, model_input, bool(inputs.get("trust_remote_code")), inputs["card"], "-merged")
    if spec.upload_repo and not spec.smoke:
        steps.append(upload_step(place, {
            "path": os.path.join(output, "merged") if merged else output, "repo": spec.upload_repo,
            "private": spec.upload_private, "revision": spec.upload_revision, "base_model": spec.model,
            "message": "%s by moai" % place.job_id,
        }))  # fmt: skip
    return steps


def card_facts(options: job_pb2.JobOptions) -> Dict[str, Any]:
    """What a request's options tell a model card."""
    return {"name": options.name, "moai": options.labels.get("moai", ""), "code_commit": options.snapshot}


def card(spec: training_pb2.TrainingSpec, prepare: Dict[str, Any], facts: Dict[str, Any]) -> Dict[str, Any]:
    """Words of the model card that only the request knows (see moai_worker.modelcard)."""
    words = ["moai", "remote", "train", "--model", spec.model, "--dataset", spec.dataset.source]
    for flag, value in (
        ("--model-revision", spec.model_revision), ("--dataset-revision", spec.dataset.revision), ("--method", spec.method),
        ("--max-steps", spec.max_steps), ("--epochs", spec.epochs), ("--batch-size", spec.batch_size),
        ("--block-size", spec.dataset.block_size), ("--lr", spec.learning_rate), ("--template", spec.dataset.template),
        ("--sample", spec.dataset.sample),
    ):  # fmt: skip
        if value:
            words += [flag, "%g" % value if isinstance(value, float) else str(value)]
    for name, value in sorted(spec.settings.items()):
        words += ["--set", "%s=%s" % (name, value)]
    words += ["--smoke"] if spec.smoke else []
    return dict(facts, **{
        "model": spec.model, "model_revision": spec.model_revision, "dataset": spec.dataset.source,
        "dataset_revision": spec.dataset.revision, "dataset_path": prepare["source"], "template": prepare["template"],
        "block_size": prepare["block_size"], "command": " ".join(shlex.quote(word) for word in words),
    })  # fmt: skip


def merge_steps(
    place: Place, adapter: str, output: str, base: Any, trust: bool, words: Dict[str, Any], ending: str = ""
) -> List[Dict[str, Any]]:
    """Merge an adapter, then look whether the result opens.

    Args:
        base: folder of the base model or an earlier step's result; "" = the one the adapter names.
        words: of the model card. ending: of the name of the second step.
    """
    inputs = {"adapter": adapter, "output": output, "base_model": base, "trust_remote_code": trust, "card": words}
    check = {"path": output, "method": "full", "trust_remote_code": trust}
    return [
        _own(place, "merge", "merge", inputs, place.python),
        _own(place, "verify" + ending, "verify", check, place.python),
    ]


def upload_step(place: Place, inputs: Dict[str, Any]) -> Dict[str, Any]:
    """Send a result to the Hub with the environment's huggingface_hub."""
    complete = dict(inputs, endpoint=place.endpoint, token_env="HF_TOKEN")
    return _own(place, "upload", "upload", complete, place.python, optional_secrets=list(SECRETS["upload"]))


def _take_dataset_settings(dataset: dataset_pb2.DatasetSpec, settings: Dict[str, Any]) -> None:
    """Move what ``--set`` says of the preparation out of the settings. Raises USAGE."""
    for name, kind in _DATASET_SETTINGS.items():
        if name in settings:
            value = settings.pop(name)
            if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
                raise AgentError("USAGE", "%s is %r" % (name, value), "--set %s=%s" % (name, "true" if kind is bool else "NUMBER"))
            setattr(dataset, name, value)


#: Settings that belong to the preparation.
_DATASET_SETTINGS: Dict[str, Any] = {"pack": bool, "mask_prompt": bool, "validation_fraction": (int, float), "jobs": int}
#: Settings of the recipe itself; every other ``--set`` goes to TrainingArguments.
_RECIPE_SETTINGS = (
    "gradient_accumulation",
    "warmup_steps",
    "scheduler",
    "seed",
    "save_steps",
    "keep_checkpoints",
    "eval_steps",
    "logging_steps",
    "lora",
    "gradient_checkpointing",
    "bf16",
    "trust_remote_code",
    "early_stop",
    "keep_best",
)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def generate_steps(
    place: Place, request: training_pb2.GenerateRequest, model: str, base: Optional[str], trust: bool = False
) -> List[Dict[str, Any]]:
    """One generation; the model is fetched first when it is on the Hub."""
    steps: List[Dict[str, Any]] = []
    inputs: Dict[str, Any] = {
        "model": model_of(place, steps, model, ""),
        "prompts": list(request.prompts),
        "template": request.template or None,
        "max_new_tokens": request.max_new_tokens or 64,
        "compare": request.compare,
        "output": os.path.join(place.job_path, "generated.jsonl"),
    }
    if request.prompt_file:
        inputs["prompt_file"] = os.path.abspath(os.path.join(place.cwd, os.path.expanduser(request.prompt_file)))
    if base:
        inputs["base_model"] = base
    if trust:
        inputs["trust_remote_code"] = True
    steps.append(_own(place, "generate", "generate", inputs, place.python))
    return steps


def run_output(place: Place, name: str, model: str) -> str:
    """``WORK/runs/<name>-<job>``."""
    return os.path.join(place.work, "runs", "%s-%s" % (_slug(name or model), place.job_id))

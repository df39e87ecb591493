"""Step ``merge``: a LoRA adapter put into its base model's weights, as a model of its own.

Owns one output folder, built beside it and renamed when whole; one made from the same adapter is reused, and
one it did not make is never replaced. A plain LoRA on a safetensors base is merged tensor by tensor, shard by
shard: memory for one shard of the base, on the CPU. Everything else (DoRA, several targets of one name,
embeddings trained along, other weight formats) is merged by peft, which holds the whole model in memory. Which
of the two it is, and how much it takes, is said first. Runs on the Python of the user's environment.
"""

import hashlib
import json
import os
import shutil
from typing import Any, Dict, List, Optional

from .. import checkpoints, compat, modelcard, modelfiles
from ..errors import StepError
from ..jobdir import read_json, write_atomic

#: Written last: the folder is whole, and ours.
MARK = "moai-merge.json"
_INDEX = "model.safetensors.index.json"
_PREFIX = "base_model.model."


def run(inputs: Dict[str, Any], report: Any) -> Dict[str, Any]:
    """Merge; repeating it with the same adapter finds the finished folder.

    Args:
        inputs: ``adapter`` (folder), ``base_model`` (instead of the one the adapter names), ``output``
            (folder; default ``merged`` in the adapter's), ``card`` (words of the model card),
            ``trust_remote_code``.
        report: the step's Reporter.

    Returns:
        ``path``, ``bytes``, ``tensors`` (that were changed), ``by`` (``shards`` or ``peft``), ``reused``.

    Raises:
        StepError: USAGE (a full model, or a folder of somebody else's in the way), MODEL_INVALID,
            PACKAGE_MISSING, DISK_FULL, OUT_OF_MEMORY.
    """
    path = os.path.abspath(os.path.expanduser(str(inputs.get("adapter") or "")))
    if not inputs.get("adapter") or not os.path.isdir(path):
        raise StepError("MODEL_INVALID", "There is no adapter folder {!r}.".format(inputs.get("adapter") or ""),
                        "Name a LoRA training, or the folder of an adapter.")  # fmt: skip
    if not modelfiles.is_adapter(path):
        raise StepError(
            "USAGE",
            "{} holds no adapter{}: there is nothing to merge.".format(
                path, ", but a full model" if os.path.isfile(os.path.join(path, "config.json")) else ""
            ),
            "Use it as it is; only what --method lora leaves is merged.",
        )
    problem = checkpoints.weights_problem(path)
    if problem:
        raise StepError(
            "MODEL_INVALID", "The adapter {} is incomplete: {}.".format(path, problem), "Train it again."
        )
    base = modelfiles.adapter_base(path, str(inputs.get("base_model") or ""))
    modelfiles.check_model_folder(base)
    output = os.path.abspath(os.path.expanduser(str(inputs.get("output") or os.path.join(path, "merged"))))
    key = _key(path, base)
    mark = read_json(os.path.join(output, MARK))
    if mark is not None and mark.get("key") == key and not checkpoints.weights_problem(output):
        report.message("{} was made from this adapter already.".format(output), code="REUSED")
        return dict(mark["result"], reused=True)
    if mark is None and os.path.isdir(output) and os.listdir(output):
        raise StepError(
            "USAGE", "{} exists and was not made by merging, so it is not replaced.".format(output),
            "Name another folder with --output.",
        )  # fmt: skip
    compat.require(("torch", "safetensors", "transformers"))
    compat.prepare_process(report)
    _check_disk(base, output)
    config = read_json(os.path.join(path, "adapter_config.json")) or {}
    reason = why_not_by_shards(path, base, config)
    partial = "{}.partial-{}".format(output, os.getpid())
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial)
    kept = modelcard.foreign(output)
    try:
        if reason:
            tensors = _by_peft(path, base, partial, reason, bool(inputs.get("trust_remote_code")), report)
        else:
            tensors = _by_shards(path, base, partial, config, report)
        _finish(path, base, partial, dict(inputs.get("card") or {}), kept)
        result = {"path": output, "bytes": _size(partial), "tensors": tensors, "by": "peft" if reason else "shards"}
        mark = {"schema": "moai.merge/1", "key": key, "adapter": path, "base_model": base, "result": result}
        write_atomic(os.path.join(partial, MARK), json.dumps(mark, sort_keys=True).encode("utf-8"), mode=0o644)
        shutil.rmtree(output, ignore_errors=True)
        os.rename(partial, output)
    except OSError as error:
        raise compat.failure(error, "merging into {}".format(output), "MODEL_INVALID", "Read the log above.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    report.artifact("model", output, size_bytes=result["bytes"])
    return dict(result, reused=False)


def why_not_by_shards(path: str, base: str, config: Dict[str, Any]) -> str:
    """Why peft has to merge an adapter; "" when it is a plain LoRA on a safetensors base."""
    if str(config.get("peft_type") or "").upper() != "LORA":
        return "it is of the type {}".format(config.get("peft_type"))
    for name in ("use_dora", "use_qalora", "modules_to_save", "rank_pattern", "alpha_pattern", "layer_replication",
                 "trainable_token_indices", "target_parameters", "lora_bias"):  # fmt: skip
        if config.get(name):
            return "it uses {}".format(name)
    if config.get("bias") not in (None, "none"):
        return "it trained biases"
    if not os.path.isfile(os.path.join(path, "adapter_model.safetensors")):
        return "it is not a safetensors file"
    try:
        weights = _weights_of(base)
    except (OSError, ValueError, KeyError):
        return "the base model's files cannot be listed"
    if not weights:
        return "the base model has no safetensors files"
    missing = [name for name in _targets(path) if name + ".weight" not in weights]
    return "the base model stores {} under another name".format(missing[0]) if missing else ""


def _by_shards(path: str, base: str, output: str, config: Dict[str, Any], report: Any) -> int:
    """W + scale * B @ A for each target, one shard of the base in memory at a time; returns how many."""
    import safetensors
    import safetensors.torch
    import torch

    scale = float(config["lora_alpha"]) / (
        float(config["r"]) ** 0.5 if config.get("use_rslora") else float(config["r"])
    )
    shards = sorted(set(_weights_of(base).values()))
    largest = max(os.path.getsize(os.path.join(base, name)) for name in shards)
    report.message(
        "Merging file by file: at most {:,.0f} MB of memory, for the largest of {} files.".format(
            largest * 1.2 / 1e6 + 1, len(shards)
        ),
        code="MERGE_MEMORY",
        memory_bytes=int(largest * 1.2),
    )
    targets = set(_targets(path))
    changed = 0
    with safetensors.safe_open(os.path.join(path, "adapter_model.safetensors"), framework="pt") as adapter:
        for number, shard in enumerate(shards):
            report.phase("merging", "{} ({} of {})".format(shard, number + 1, len(shards)))
            tensors = {}
            with safetensors.safe_open(os.path.join(base, shard), framework="pt") as source:
                metadata = source.metadata() or {"format": "pt"}
                for name in source.keys():
                    weight = source.get_tensor(name)
                    module = name[: -len(".weight")] if name.endswith(".weight") else ""
                    if module in targets:
                        a_RI = adapter.get_tensor("{}{}.lora_A.weight".format(_PREFIX, module)).float()
                        b_OR = adapter.get_tensor("{}{}.lora_B.weight".format(_PREFIX, module)).float()
                        delta = (b_OR @ a_RI) * scale
                        # Conv1D (GPT-2) stores its weight the other way round: in by out.
                        delta = delta.t() if config.get("fan_in_fan_out") else delta
                        merged = weight.float() + delta
                        if not bool(torch.isfinite(merged).all()):
                            raise StepError(
                                "MODEL_INVALID", "The merged weights of {} hold NaN or inf.".format(module),
                                "The adapter is broken: train it again with a lower learning_rate.",
                            )  # fmt: skip
                        weight = merged.to(weight.dtype).contiguous()
                        changed += 1
                    tensors[name] = weight
            safetensors.torch.save_file(tensors, os.path.join(output, shard), metadata=metadata)
            del tensors
            report.progress(number + 1, len(shards), "files", force=True)
    if os.path.isfile(os.path.join(base, _INDEX)):
        shutil.copyfile(os.path.join(base, _INDEX), os.path.join(output, _INDEX))
    return changed


def _by_peft(path: str, base: str, output: str, reason: str, trust: bool, report: Any) -> int:
    compat.require(("peft",))
    import torch

    size = sum(os.path.getsize(os.path.join(base, name)) for name in os.listdir(base) if _is_weight(name))
    report.message(
        "Merging with peft, because {}: about {:,.0f} MB of memory, for the whole model.".format(
            reason, size * 1.2 / 1e6 + 1
        ),
        code="MERGE_MEMORY",
        memory_bytes=int(size * 1.2),
    )
    report.phase("loading", base)
    config = read_json(os.path.join(base, "config.json")) or {}
    dtype = getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "float32"), torch.float32)
    model = modelfiles.load_adapter(modelfiles.load_model(base, dtype, trust), path)
    report.phase("merging", path)
    try:
        merged = model.merge_and_unload(safe_merge=True)
        compat.repair_generation_config(merged, report)
        merged.save_pretrained(output)  # safetensors, in every transformers from 4.35 on
    except compat.library_errors() as error:
        raise compat.failure(error, "merging {}".format(path), "MODEL_INVALID", "Read the log above.") from error
    return len(_targets(path))


def _finish(path: str, base: str, output: str, card: Dict[str, Any], kept: Optional[bytes]) -> None:
    """Config, tokenizer and remote code beside the weights, then the card."""
    for name in sorted(os.listdir(base)):
        wanted = name in ("config.json", "generation_config.json") or name.endswith(".py")
        if wanted and not os.path.exists(os.path.join(output, name)):
            shutil.copyfile(os.path.join(base, name), os.path.join(output, name))
    for holder in (base, path):  # The adapter's own tokenizer wins, where it has one.
        modelfiles.copy_tokenizer(holder, output)
    facts = dict({"model": base}, **card)
    facts["dataset_commit"] = modelcard.commit_of(str(facts.pop("dataset_path", "")))
    summary = read_json(os.path.join(path, "moai-training.json")) or {}
    facts.update(kind="merged", summary=summary, model_commit=modelcard.commit_of(base))
    modelcard.write(output, facts, kept)


def _targets(path: str) -> List[str]:
    """Modules the adapter changes, by the base model's names."""
    import safetensors

    with safetensors.safe_open(os.path.join(path, "adapter_model.safetensors"), framework="np") as source:
        names = list(source.keys())
    ending = ".lora_A.weight"
    return [name[len(_PREFIX) : -len(ending)] for name in names if name.startswith(_PREFIX) and name.endswith(ending)]


def _weights_of(base: str) -> Dict[str, str]:
    """Tensor -> file of a safetensors model; empty when it has another format."""
    index = read_json(os.path.join(base, _INDEX))
    if index is not None:
        return dict(index["weight_map"])
    if not os.path.isfile(os.path.join(base, "model.safetensors")):
        return {}
    import safetensors

    with safetensors.safe_open(os.path.join(base, "model.safetensors"), framework="np") as source:
        return {name: "model.safetensors" for name in source.keys()}


def _key(path: str, base: str) -> str:
    """Digest of what the result depends on: the adapter's content, and the base's files by name and size."""
    total = hashlib.sha256(os.path.realpath(base).encode("utf-8", "replace"))
    for name in sorted(os.listdir(base)):
        if _is_weight(name):
            total.update("{}:{}\0".format(name, os.path.getsize(os.path.join(base, name))).encode("utf-8"))
    for name in ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"):
        file = os.path.join(path, name)
        if os.path.isfile(file):
            with open(file, "rb") as source:
                for block in iter(lambda: source.read(1 << 20), b""):
                    total.update(block)
    return total.hexdigest()


def _is_weight(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def _size(folder: str) -> int:
    return sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))


def _check_disk(base: str, output: str) -> None:
    needed = sum(os.path.getsize(os.path.join(base, name)) for name in os.listdir(base) if _is_weight(name))
    above = output
    while not os.path.isdir(above):
        above = os.path.dirname(above)
    free = shutil.disk_usage(above).free
    if free < needed:
        raise StepError(
            "DISK_FULL",
            "{} has {:.1f} GB free; the merged model needs {:.1f} GB.".format(above, free / 1e9, needed / 1e9),
            "Name a folder on another disk with --output.",
        )

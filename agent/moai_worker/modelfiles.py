"""Open the model folders a step is given: checks on disk first, then ``from_pretrained``.

Owns the opening of full models and adapters for training, verification and generation, the choice
of LoRA targets, and the copying of tokenizer files. Refuses folders that would load but compute
something wrong (weights missing, a config the installed transformers misreads). transformers is
imported inside functions. Runs in the step's process.
"""

import os
import shutil
from typing import Any, Dict, List, Optional, Sequence

from . import checkpoints, compat, picklescan
from .errors import StepError
from .jobdir import read_json

#: Files a tokenizer may consist of. They are copied unchanged: training does not alter them, and a
#: newer transformers would rewrite them into a form older ones cannot read.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "chat_template.jinja",
    "chat_template.json",
)  # fmt: skip


def check_model_folder(path: str) -> Dict[str, Any]:
    """Check a full model's folder without torch and return its config.

    Raises:
        StepError: MODEL_INVALID naming the file at fault.
    """
    next_action = "Download the model again, or name another folder."
    if not os.path.isdir(path):
        raise StepError("MODEL_INVALID", "There is no model folder {}.".format(path), next_action)
    config = read_json(os.path.join(path, "config.json"))
    if config is None:
        what = "is an adapter" if is_adapter(path) else "has no readable config.json"
        raise StepError("MODEL_INVALID", "{} {}.".format(path, what), "Name the folder of a full model.")
    problem = checkpoints.weights_problem(path, ours=False)
    if problem:
        raise StepError("MODEL_INVALID", "{} is incomplete: {}.".format(path, problem), next_action)
    return config


def limits(config: Dict[str, Any]) -> Any:
    """Vocabulary size and longest input by config.json; nested configs (multimodal) are looked into."""
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else {}
    vocab = config.get("vocab_size") or text.get("vocab_size")
    if not isinstance(vocab, int) or vocab < 1:
        raise StepError(
            "MODEL_INVALID",
            "The model's config.json has no vocab_size.",
            "Name a causal language model's folder.",
        )
    # n_positions: GPT-2's name. Models without absolute positions may lack both.
    limit = (
        config.get("max_position_embeddings")
        or text.get("max_position_embeddings")
        or config.get("n_positions")
    )
    return vocab, limit


def has_tokenizer(path: str) -> bool:
    """True when the folder holds a vocabulary (some models keep it elsewhere)."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
    return any(os.path.isfile(os.path.join(path, name)) for name in names)


def is_adapter(path: str) -> bool:
    """True for a folder with ``adapter_config.json``."""
    return os.path.isfile(os.path.join(path, "adapter_config.json"))


def adapter_base(path: str, override: str = "") -> str:
    """Folder of the model an adapter belongs to.

    Args:
        path: the adapter's folder.
        override: used instead of ``base_model_name_or_path``.

    Raises:
        StepError: MODEL_INVALID when it is unknown or not on this machine.
    """
    config = read_json(os.path.join(path, "adapter_config.json")) or {}
    base = override or config.get("base_model_name_or_path") or ""
    base = os.path.abspath(os.path.expanduser(base)) if base else ""
    if not os.path.isdir(base):
        raise StepError(
            "MODEL_INVALID",
            "The adapter {} needs its base model {!r}, which is not there.".format(path, base),
            "Name it with base_model.",
        )
    return base


def load_model(path: str, dtype: Any, trust_remote_code: bool = False) -> Any:
    """Load a causal language model from a folder, on the CPU.

    Args:
        path: folder of a full model.
        dtype: torch dtype of the weights.

    Raises:
        StepError: MODEL_INVALID, PACKAGE_MISSING, OUT_OF_MEMORY as the cause may be.
    """
    import transformers

    config = check_model_folder(path)
    _refuse_newer_config(path, config)
    if not trust_remote_code:
        refuse_code_in_weights(path, ("model.safetensors", "model.safetensors.index.json"))
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            path,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **compat.dtype_argument(dtype),
        )
    except compat.library_errors() as error:
        raise _load_failure(error, path) from error
    missing = set(info.get("missing_keys") or ()) & {name for name, _ in model.named_parameters()}
    if missing:
        raise StepError(
            "MODEL_INVALID",
            "The weights in {} lack {} tensors, for example {}; they would start at random.".format(
                path, len(missing), sorted(missing)[0]
            ),
            "Download the model again, or name the folder of a model with a language-modelling head.",
        )
    return model


def refuse_code_in_weights(path: str, covers: Sequence[str]) -> None:
    """MODEL_INVALID when weights in pickle format would run something beside making tensors."""
    found = picklescan.folder_problem(path, covers)
    if found:
        raise StepError(
            "MODEL_INVALID",
            "The weights in {} are a pickle that may run code: {}.".format(path, found),
            "Take a revision with safetensors; if you trust these, set trust_remote_code=true.",
        )


def load_adapter(model: Any, path: str, trainable: bool = False) -> Any:
    """Put the adapter in ``path`` onto ``model``; MODEL_INVALID when it does not fit."""
    compat.require(("peft",))
    import peft

    problem = checkpoints.weights_problem(path)
    if problem:
        raise StepError(
            "MODEL_INVALID", "The adapter {} is incomplete: {}.".format(path, problem), "Train it again."
        )
    refuse_code_in_weights(path, ("adapter_model.safetensors",))
    try:
        return peft.PeftModel.from_pretrained(model, path, is_trainable=trainable)
    except compat.library_errors() as error:
        raise compat.failure(
            error, "loading the adapter {}".format(path), "MODEL_INVALID", "Name its own base_model."
        ) from error


def load_tokenizer(path: str, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a folder; TOKENIZER_FAILED when it cannot be opened."""
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except compat.library_errors() as error:
        raise compat.failure(
            error, "opening the tokenizer of {}".format(path), "TOKENIZER_FAILED",
            "Check the tokenizer files; an older transformers cannot read those written by transformers 5.",
        ) from error  # fmt: skip


def copy_tokenizer(source: str, target: str) -> List[str]:
    """Copy the tokenizer's files (and remote code, if any) unchanged; returns the names copied."""
    copied = []
    for name in sorted(os.listdir(source)):
        if name in TOKENIZER_FILES or (name.startswith("tokenization") and name.endswith(".py")):
            shutil.copyfile(os.path.join(source, name), os.path.join(target, name))
            copied.append(name)
    return copied


def lora_targets(model: Any, wanted: Optional[List[str]]) -> Dict[str, Any]:
    """Choose the layers LoRA adapts.

    The attention's query and value projections where they are separate, the fused projection where
    they are not, else every linear layer but the output head.

    Args:
        wanted: names from the user; None = choose.

    Returns:
        ``{"targets": [...], "fan_in_fan_out": bool}``.

    Raises:
        StepError: USAGE when a wanted name fits no layer (the names there are listed).
    """
    kinds: Dict[str, str] = {}
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind in ("Linear", "Conv1D") and module is not head:
            kinds.setdefault(name.split(".")[-1], kind)
    if wanted:
        for name in wanted:
            if name.split(".")[-1] not in kinds:
                raise StepError(
                    "USAGE",
                    "The model has no linear layer {!r} for LoRA.".format(name),
                    "Use some of: {}.".format(", ".join(sorted(kinds))),
                )
        chosen = list(wanted)
    else:
        chosen = []
        for group in (("q_proj", "v_proj"), ("query_key_value",), ("qkv_proj",), ("Wqkv",), ("W_pack",),
                      ("c_attn",), ("query", "value"), ("q", "v")):  # fmt: skip
            if all(name in kinds for name in group):
                chosen = list(group)
                break
        chosen = chosen or sorted(kinds)
    if not chosen:
        raise StepError(
            "USAGE", "The model has no linear layers, so LoRA cannot be used.", "Use --method full."
        )
    fused = all(kinds.get(name.split(".")[-1]) == "Conv1D" for name in chosen)
    return {"targets": chosen, "fan_in_fan_out": fused}


def _refuse_newer_config(path: str, config: Dict[str, Any]) -> None:
    if compat.version_of("transformers") >= (5,):
        return
    if "rope_parameters" in config and "rope_theta" not in config:
        raise StepError(
            "MODEL_INVALID",
            "{}/config.json was written by transformers {} (rope_parameters); this transformers would "
            "ignore its rope_theta and compute something else.".format(
                path, config.get("transformers_version", "5")
            ),
            "Use an environment with transformers 5, or the model's original folder.",
        )


def _load_failure(error: BaseException, path: str) -> StepError:
    text = str(error)
    if "trust_remote_code" in text:
        return StepError(
            "MODEL_INVALID",
            "The model {} brings its own Python code.".format(path),
            "Read that code; if you trust it, set trust_remote_code=true.",
        )
    if isinstance(error, RuntimeError) and "not enough memory" in text:
        return StepError(
            "OUT_OF_MEMORY", "Not enough memory to load {}: {}".format(path, text), "Use more memory."
        )
    return compat.failure(
        error, "loading the model {}".format(path), "MODEL_INVALID",
        "Check the folder with: moai remote env list (versions), or download the model again.",
    )  # fmt: skip

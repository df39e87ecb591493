"""Whether a training over several CUDA devices keeps a whole copy on each (DDP) or a part of it (FSDP).

Owns that choice and the arguments that make the installed Trainer do it. DDP is faster and is taken where
weights, gradients and AdamW's state of the whole model fit one device with room for activations. torch and
transformers are imported inside functions. Runs in the training process.
"""

import os
from typing import Any, Dict, Optional

from . import compat
from .errors import StepError

CHOICES = ("auto", "ddp", "fsdp")
#: Of a device's memory, what the state may take before it is spread: the rest is for activations.
_STATE_SHARE = 0.6
#: 32-bit weights, their gradients, AdamW's two values.
_STATE_BYTES = 16
_ITEM_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}


def check(wanted: str) -> str:
    """The choice as given. Raises StepError USAGE for another word."""
    if wanted not in CHOICES:
        raise StepError("USAGE", "sharding is {!r}.".format(wanted), "Use one of: " + ", ".join(CHOICES) + ".")
    return wanted


def is_sharded(wanted: str, method: str, model: str, config: Dict[str, Any], device: Optional[str], report: Any) -> bool:
    """Whether FSDP is used.

    Args:
        wanted: one of ``CHOICES``. method: full or lora. model: the folder with the weights. config: its
            config.json. device: ``"cpu"`` = no accelerator.
    """
    if not compat.has_launcher() or compat.has_moreh() or not compat.accelerator_available(device):
        if wanted == "fsdp":
            report.message("There are no CUDA devices to spread the model over; sharding=fsdp is left out.", level="warning")
        return False
    if wanted != "auto":
        return wanted == "fsdp"
    if compat.process_count() == 1 or method != "full":
        return False
    import torch

    count = parameters(model, config)
    room = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory * _STATE_SHARE
    if not count or count * _STATE_BYTES <= room:
        return False
    report.message(
        "The model's state of {:.0f} GB does not fit one device, so it is spread over {} (FSDP).".format(
            count * _STATE_BYTES / 1e9, compat.process_count()
        ),
        code="SHARDED",
    )
    return True


def parameters(model: str, config: Dict[str, Any]) -> int:
    """Parameters of a model folder by the size of its weights and their type in config.json; 0 = not known."""
    item = _ITEM_BYTES.get(str(config.get("dtype") or config.get("torch_dtype") or "float32"))
    names = os.listdir(model)
    kind = ".safetensors" if any(name.endswith(".safetensors") for name in names) else ".bin"
    size = sum(os.path.getsize(os.path.join(model, name)) for name in names if name.endswith(kind))
    return size // item if item else 0


def arguments() -> Dict[str, Any]:
    """TrainingArguments for FSDP: layers are wrapped by the model's own list, checkpoints hold the whole state.

    A whole state (FULL_STATE_DICT) makes a checkpoint that any number of devices resumes from.
    """
    config = {"state_dict_type": "FULL_STATE_DICT", "use_orig_params": True}
    # A text until transformers 5; from 5.20 on only true.
    return {"fsdp": True if compat.version_of("transformers") >= (5,) else "full_shard auto_wrap", "fsdp_config": config}

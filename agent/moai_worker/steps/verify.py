"""Step ``verify``: is what the training left complete, and does it open?

Owns no file; reads headers and configs, and whole weights only when asked. Runs on the Python of the
user's environment. Success of a training means this step succeeded, not that a line was printed.
"""

import os
import struct
from typing import Any, Dict, List

from .. import checkpoints, compat, modelfiles
from ..errors import StepError
from ..jobdir import read_json

_REMEDY = "Resume the job (moai remote resume): it saves again from its last checkpoint."


def run(inputs: Dict[str, Any], report: Any) -> Dict[str, Any]:
    """Check a result folder.

    Args:
        inputs: ``path`` (the result), ``method`` (``full`` or ``lora``; found out if absent),
            ``model`` (the base model's folder, for adapters), ``load`` (true = load all weights),
            ``trust_remote_code``.
        report: the step's Reporter.

    Returns:
        ``path``, ``bytes`` and ``files`` (checkpoints not counted), ``method``, ``loaded``.

    Raises:
        StepError: OUTPUT_MISSING naming what is absent, cut off or cannot be opened;
            PACKAGE_MISSING.
    """
    path = os.path.abspath(os.path.expanduser(str(inputs.get("path") or "")))
    if not inputs.get("path"):
        raise StepError("USAGE", "There is no path to verify.", "Name the result folder.")
    report.phase("verifying", path)
    if not os.path.isdir(path):
        raise StepError("OUTPUT_MISSING", "There is no folder {}.".format(path), _REMEDY)
    method = inputs.get("method") or ("lora" if modelfiles.is_adapter(path) else "full")
    config_name = "adapter_config.json" if method == "lora" else "config.json"
    if read_json(os.path.join(path, config_name)) is None:
        raise _missing(path, config_name + " is missing or cannot be read")
    problem = checkpoints.weights_problem(path)
    if problem:
        raise _missing(path, problem)
    base = modelfiles.adapter_base(path, inputs.get("model") or "") if method == "lora" else path
    _open(path, base, method, bool(inputs.get("trust_remote_code")))
    loaded = bool(inputs.get("load"))
    if loaded:
        _load(path, base, method, bool(inputs.get("trust_remote_code")), report)
    files = _files(path)
    size = sum(os.path.getsize(file) for file in files)
    report.message("{} is complete: {} files, {:,} bytes.".format(path, len(files), size))
    return {"path": path, "bytes": size, "files": len(files), "method": method, "loaded": loaded}


def _open(path: str, base: str, method: str, trust: bool) -> None:
    """Open config, tokenizer and every safetensors header with the libraries that will read them."""
    compat.require(("transformers",) + (("peft",) if method == "lora" else ()))
    compat.offline()
    import transformers

    try:
        transformers.AutoConfig.from_pretrained(base, trust_remote_code=trust)
        if method == "lora":
            import peft

            peft.PeftConfig.from_pretrained(path)
    except compat.library_errors() as error:
        raise _missing(path, "its config does not open: {}".format(error)) from error
    # A base model without tokenizer files has none to pass on; then there is none to open.
    holder = path if modelfiles.has_tokenizer(path) else base
    if modelfiles.has_tokenizer(holder):
        modelfiles.load_tokenizer(holder, trust)
    for name in sorted(os.listdir(path)):
        if name.endswith(".safetensors"):
            _read_header(path, name)


def _read_header(path: str, name: str) -> None:
    compat.require(("safetensors",))
    import safetensors

    try:
        # "np": framework names decide only what tensors are returned as, and none is read here.
        with safetensors.safe_open(os.path.join(path, name), framework="np") as source:
            count = len(list(source.keys()))
    except compat.library_errors() + (struct.error,) as error:
        raise _missing(path, "{} does not open: {}".format(name, error)) from error
    if count == 0:
        raise _missing(path, name + " holds no tensors")


def _load(path: str, base: str, method: str, trust: bool, report: Any) -> None:
    report.phase("loading", base)
    import torch

    try:
        model = modelfiles.load_model(base, torch.float32, trust)
        if method == "lora":
            modelfiles.load_adapter(model, path)
    except StepError as error:
        if error.reason != "MODEL_INVALID":
            raise
        raise StepError("OUTPUT_MISSING", error.message, _REMEDY, error.details) from error


def _files(path: str) -> List[str]:
    found = []
    for parent, folders, names in os.walk(path):
        if parent == path:
            folders[:] = [name for name in folders if not name.startswith("checkpoints")]
        found += [os.path.join(parent, name) for name in names]
    return found


def _missing(path: str, what: str) -> StepError:
    return StepError("OUTPUT_MISSING", "The result {} is not complete: {}.".format(path, what), _REMEDY)

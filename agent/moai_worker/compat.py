"""One face over the libraries of the user's environment: transformers 4.41 on torch 1.13 to today's.

Owns what differs between versions (argument names, devices, Moreh's extensions) and the reading of
their errors. Decides by looking at installed signatures where it can, by version where it cannot.
torch and transformers are imported inside functions only, after ``prepare_process``.
"""

import errno
import glob
import importlib.util
import inspect
import os
import pickle
import re
import sys
from typing import Any, Dict, Iterable, List, Optional, Tuple, Type

from .errors import StepError

#: "RuntimeError: Error Code 4: OUT_OF_MEMORY", as the Moreh framework words it.
_MAF_ERROR = re.compile(r"Error Code (\d+): ([A-Z_]+)")

_ERRORS = (
    RuntimeError, ValueError, OSError, LookupError, TypeError, AttributeError, ImportError, ArithmeticError,
    pickle.UnpicklingError,
)  # fmt: skip


def library_errors() -> Tuple[Type[Exception], ...]:
    """What loading a model, reading data or a training step may raise for outside causes.

    Everything else is a defect and goes up as it is. safetensors raises a class of its own that
    derives from Exception directly.
    """
    if importlib.util.find_spec("safetensors") is None:
        return _ERRORS
    from safetensors import SafetensorError

    return _ERRORS + (SafetensorError,)


def require(packages: Iterable[str]) -> None:
    """Raise PACKAGE_MISSING naming what this interpreter lacks; nothing is imported."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise StepError(
            "PACKAGE_MISSING",
            "{} has no {}.".format(sys.executable, ", ".join(missing)),
            "moai remote env install --env {} {}".format(sys.executable, " ".join(missing)),
            {"packages": " ".join(missing), "python": sys.executable},
        )


def prepare_process(report: Any) -> None:
    """Set what must be set before torch and huggingface_hub are first imported.

    No network is asked for local folders. Without a launcher one process uses one CUDA device:
    the Trainer would otherwise wrap the model in DataParallel, which changes the meaning of the
    batch size and is slower than one device for most models.
    """
    offline()
    if process_count() > 1:
        return
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        count = len(glob.glob("/dev/nvidia[0-9]*"))
        first = "0"
    else:
        devices = [item.strip() for item in named.split(",") if item.strip()]
        count = len(devices)
        first = devices[0] if devices else ""
    if count > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = first
        report.message(
            "{} CUDA devices are visible; this process uses only device {}.".format(count, first),
            level="warning",
            code="ONE_DEVICE_USED",
        )


def offline() -> None:
    """Ask no Hub: for a local folder the libraries would still look for optional files there."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_DATASETS_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def process_count() -> int:
    """Processes of this run as torchrun announces them; 1 without a launcher."""
    return max(1, int(os.environ.get("WORLD_SIZE") or 1))


def process_rank() -> int:
    """This process among ``process_count()``; 0 decides for all."""
    return int(os.environ.get("RANK") or 0)


def has_launcher() -> bool:
    """Whether a launcher started this process: ours (``launch.is_launched``) or the user's own torchrun."""
    return bool(os.environ.get("WORLD_SIZE"))


def is_first_here() -> bool:
    """Whether this is the first process of its container: the one that reports, seals and tidies there."""
    return int(os.environ.get("LOCAL_RANK") or 0) == 0


def node_count() -> int:
    """Containers that train together; 1 without a launcher."""
    return max(1, int(os.environ.get("GROUP_WORLD_SIZE") or 1))


def save_on_each_node(model: Any) -> None:
    """Let a model write its weights wherever it is told to.

    transformers 5 asks for the first process of all beside ``save_on_each_node``
    (``should_save_on_this_rank`` of distributed/mixin.py), so other containers had checkpoints without weights.
    """
    if hasattr(model, "should_save_on_this_rank"):
        model.should_save_on_this_rank = lambda is_main_process: is_main_process


def gather(value: Any) -> List[Any]:
    """``value`` of every process, by rank; every process waits for all. Needs the processes joined."""
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    everyone: List[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, value)
    return everyone


def versions() -> Dict[str, str]:
    """Versions of the libraries that shape the result, and of Python; what is missing is left out."""
    found = {"python": "{}.{}.{}".format(*sys.version_info[:3])}
    for name in ("torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "safetensors"):
        if importlib.util.find_spec(name) is not None:
            module = __import__(name)
            found[name] = str(getattr(module, "__version__", "unknown"))
    if "torch" in found:
        moreh = getattr(__import__("torch").version, "moreh", None)
        if moreh:
            found["moreh"] = str(moreh)
    return found


def version_of(name: str) -> Tuple[int, ...]:
    """Leading numbers of a package's version: ``2.1.0+moreh25.1`` -> ``(2, 1, 0)``."""
    text = str(getattr(__import__(name), "__version__", "0"))
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in match.group(0).split(".")) if match else (0,)


def dtype_argument(dtype: Any) -> Dict[str, Any]:
    """``from_pretrained`` keyword for the weights' type: ``dtype`` since transformers 4.56."""
    return {"dtype" if version_of("transformers") >= (4, 56) else "torch_dtype": dtype}


def parameters_of(callable_: Any) -> List[str]:
    """Names of the keyword arguments a class or function takes."""
    target = callable_.__init__ if inspect.isclass(callable_) else callable_
    return [name for name in inspect.signature(target).parameters if name != "self"]


def training_arguments(values: Dict[str, Any], given: Dict[str, Any]) -> Any:
    """Build ``transformers.TrainingArguments`` from today's names, whatever the installed version.

    Args:
        values: by the newest names; translated or left out where the installed class differs.
        given: the user's own, passed as they are; already checked to exist.

    Raises:
        StepError: USAGE when the library refuses a value.
    """
    import transformers

    known = set(parameters_of(transformers.TrainingArguments))
    older = {
        "eval_strategy": "evaluation_strategy",
        "use_cpu": "no_cuda",
        "activation_checkpointing": "gradient_checkpointing",
        "activation_checkpointing_kwargs": "gradient_checkpointing_kwargs",
    }
    arguments = {}
    for name, value in values.items():
        if name not in known:
            name = older.get(name, name)
        if name in known:
            arguments[name] = value
    arguments.update(given)
    try:
        return transformers.TrainingArguments(**arguments)
    except (ValueError, TypeError, KeyError) as error:
        raise StepError(
            "USAGE",
            "transformers {} refuses the training settings: {}".format(transformers.__version__, error),
            "Change or leave out: {}.".format(", ".join(sorted(given)) or "the named setting"),
        ) from error


def has_moreh() -> bool:
    """True where torch carries Moreh's extensions (a MoAI container)."""
    import torch

    return hasattr(torch, "moreh")


def enable_advanced_parallelization(wanted: Optional[bool], report: Any) -> bool:
    """Switch on Moreh's automatic parallelization where it exists; call before loading a model.

    Args:
        wanted: None = yes, unless ``MOREH_ENABLE_ADVANCED_PARALLELIZATION`` says something.

    Returns:
        True when it was switched on here.
    """
    if not has_moreh():
        if wanted:
            report.message(
                "This torch has no Moreh extensions; advanced parallelization is off.", level="warning"
            )
        return False
    if wanted is False or (wanted is None and os.environ.get("MOREH_ENABLE_ADVANCED_PARALLELIZATION")):
        return False
    import torch

    enable = getattr(getattr(torch.moreh, "option", None), "enable_advanced_parallelization", None)
    if enable is None:
        report.message(
            "This Moreh torch has no enable_advanced_parallelization; going on without.", level="warning"
        )
        return False
    enable()
    report.message("Advanced parallelization is on.", code="ADVANCED_PARALLELIZATION")
    return True


def accelerator_available(device: Optional[str]) -> bool:
    """True when CUDA (real or Moreh's) may be used; attaches nothing."""
    if device == "cpu":
        return False
    import torch

    return bool(torch.cuda.is_available())


def use_bf16(wanted: Optional[bool], device: Optional[str]) -> bool:
    """Whether the Trainer shall use bf16 autocast.

    On Moreh the framework mixes precision itself, so None means no there (and the device is not
    touched: asking for its properties would attach it).
    """
    if wanted is not None:
        return wanted
    if not accelerator_available(device) or has_moreh():
        return False
    import torch

    return bool(torch.cuda.is_bf16_supported())


def resume_problem() -> str:
    """Why the installed pair of torch and transformers cannot load an optimizer state; "" if it can.

    transformers from about 4.51 refuses ``torch.load`` below torch 2.6 (CVE-2025-32434), which ends
    a run when it is resumed, not when it is started.
    """
    from transformers.utils import import_utils

    check = getattr(import_utils, "check_torch_load_is_safe", None)
    if check is None:
        return ""
    try:
        check()
    except ValueError as error:
        return " ".join(str(error).split())
    return ""


def allow_random_state() -> None:
    """Let torch 2.6 and newer read the random-number state older transformers (4.41) save.

    ``torch.load`` reads plain tensors only since then, and that file holds a numpy array; newer
    transformers name the same four classes around the call.
    """
    import torch

    add = getattr(torch.serialization, "add_safe_globals", None)
    if add is None:
        return
    import numpy

    core = numpy._core if version_of("numpy") >= (2,) else numpy.core
    add([core.multiarray._reconstruct, numpy.ndarray, numpy.dtype, type(numpy.dtype(numpy.uint32))])


def repair_generation_config(model: Any, report: Any) -> None:
    """Make sure the model can be saved: some published models carry sampling values with sampling
    off, which ``save_pretrained`` refuses, after the training."""
    config = getattr(model, "generation_config", None)
    if config is None or getattr(config, "do_sample", False):
        return
    if any(getattr(config, name, None) not in (None, 1.0) for name in ("temperature", "top_p")):
        config.do_sample = True
        report.message("generation_config: do_sample set to true, or the model could not be saved.")


def failure(error: BaseException, doing: str, reason: str, next_action: str) -> StepError:
    """The StepError for a library's exception: memory, disk and missing packages told apart.

    Args:
        error: what was raised.
        doing: a phrase for the message, for example ``"training at step 12"``.
        reason: used when nothing more precise is recognised.
        next_action: its remedy.
    """
    text = "{}: {}".format(type(error).__name__, " ".join(str(error).split()) or "no message")[:1500]
    maf = _MAF_ERROR.search(text)
    details = {"error": type(error).__name__}
    if maf:
        details["moreh_code"] = maf.group(1)
    if (
        type(error).__name__ == "OutOfMemoryError"
        or (maf and maf.group(1) == "4")
        or "CUDA out of memory" in text
    ):
        return StepError(
            "DEVICE_OUT_OF_MEMORY",
            "The accelerator ran out of memory while {}. {}".format(doing, text),
            "Use a smaller batch_size, a larger flavor, --method lora or gradient_checkpointing=true.",
            details,
        )
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "No space left on device" in text or "PytorchStreamWriter failed" in text:
        return StepError(
            "DISK_FULL",
            "The disk is full while {}. {}".format(doing, text),
            "Free space, then resume: it goes on from the last checkpoint.",
            details,
        )
    if isinstance(error, ImportError):
        name = getattr(error, "name", None) or ""
        return StepError(
            "PACKAGE_MISSING",
            "{} lacks {} for {}. {}".format(sys.executable, name or "a package", doing, text),
            "Install it: moai remote env install --env {} {}".format(sys.executable, name or "..."),
            details,
        )
    return StepError(reason, "Failed while {}. {}".format(doing, text), next_action, details)

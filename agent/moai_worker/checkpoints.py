"""Checkpoints of a training run on disk: which are complete, which is newest, which may go.

Owns the folder ``<output>/checkpoints``. A checkpoint counts only when everything needed to go on is
there: the Trainer writes ``trainer_state.json`` last, and we add ``moai-checkpoint.json`` (names,
sizes, what run it belongs to) after everything was flushed to disk, so neither a killed process nor
a crashed host leaves something that looks whole. Standard library only; runs in the step's process.

Formats: safetensors = 8 bytes little-endian header length, JSON header, data
(https://huggingface.co/docs/safetensors); ``torch.save`` writes a zip since torch 1.6.
"""

import json
import os
import re
import shutil
import struct
import zipfile
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .errors import StepError
from .jobdir import read_json, write_json

MARK = "moai-checkpoint.json"
_STATE = "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)$")
#: A safetensors header above this is taken as damage (the library's own limit is 100 MB).
_MAX_HEADER_BYTES = 100 * 1000 * 1000
_WEIGHT_FILES = (
    "model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin",
)  # fmt: skip
_INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


class Checkpoint(NamedTuple):
    """A folder ``checkpoint-<step>``; ``step`` = optimizer steps done."""

    step: int
    path: str


def list_checkpoints(folder: str) -> List[Checkpoint]:
    """Every ``checkpoint-N`` folder, complete or not, lowest step first; empty if there is no folder."""
    if not os.path.isdir(folder):
        return []
    found = []
    for name in os.listdir(folder):
        match = _NAME.match(name)
        path = os.path.join(folder, name)
        if match and os.path.isdir(path):
            found.append(Checkpoint(int(match.group(1)), path))
    return sorted(found)


def why_incomplete(path: str) -> str:
    """Why training cannot go on from this checkpoint; empty when it can.

    Reads headers and sizes, never whole files.
    """
    state = read_json(os.path.join(path, _STATE))
    if state is None or "global_step" not in state:
        return "trainer_state.json is missing or cut off"
    problem = weights_problem(path)
    if problem:
        return problem
    # Spread over devices (FSDP) the Trainer names the whole state of the optimizer differently.
    optimizer = "optimizer.bin" if os.path.isfile(os.path.join(path, "optimizer.bin")) else "optimizer.pt"
    for name in (optimizer, "scheduler.pt"):
        file = os.path.join(path, name)
        if not os.path.isfile(file):
            return name + " is missing"
        if not zipfile.is_zipfile(file):
            return name + " is cut off"
    mark = read_json(os.path.join(path, MARK))
    for name, size in sorted((mark or {}).get("files", {}).items()):
        if name == _STATE:
            continue  # Whole, as was seen above; adapt_batch may have written it anew.
        file = os.path.join(path, name)
        if not os.path.isfile(file) or os.path.getsize(file) != size:
            return name + " is missing or has another size than when it was saved"
    return ""


def weights_problem(path: str, ours: bool = True) -> str:
    """What is wrong with the weights in a model, adapter or checkpoint folder; empty when nothing.

    A folder with an index must hold every file the index names, none empty; safetensors files must
    be as long as their header says.

    Args:
        path: the folder.
        ours: written by this recipe. Others' ``.bin`` files may be in the pickle format torch wrote
            before 1.6, which does not tell its own length.
    """
    names = set()
    for index_name in _INDEX_FILES:
        index_path = os.path.join(path, index_name)
        if os.path.exists(index_path):
            index = read_json(index_path)
            if index is None or not isinstance(index.get("weight_map"), dict) or not index["weight_map"]:
                return index_name + " cannot be read"
            names.update(index["weight_map"].values())
            break
    if not names:
        names.update(name for name in _WEIGHT_FILES if os.path.exists(os.path.join(path, name)))
    if not names:
        return "there are no weights"
    for name in sorted(names):
        file = os.path.join(path, name)
        if not os.path.isfile(file):
            return name + " is missing"
        if os.path.getsize(file) == 0:
            return name + " is empty"
        if name.endswith(".safetensors"):
            problem = safetensors_problem(file)
            if problem:
                return "{}: {}".format(name, problem)
        elif ours and not zipfile.is_zipfile(file):
            return name + " is cut off"
    return ""


def safetensors_problem(file: str) -> str:
    """Compare a safetensors file with its own header; empty when they agree."""
    size = os.path.getsize(file)
    with open(file, "rb") as source:
        head = source.read(8)
        if len(head) < 8:
            return "cut off in its first bytes"
        (length,) = struct.unpack("<Q", head)
        if length > _MAX_HEADER_BYTES or 8 + length > size:
            return "its header is cut off"
        try:
            header = json.loads(source.read(length).decode("utf-8"))
        except ValueError:
            return "its header cannot be read"
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    expected = 8 + length + max(ends or [0])
    if not ends:
        return "it holds no tensors"
    return "" if size == expected else "{} bytes instead of {}".format(size, expected)


def newest_complete(folder: str) -> Tuple[Optional[Checkpoint], List[Tuple[Checkpoint, str]]]:
    """The complete checkpoint with the highest step, and the others with what they lack.

    Returns:
        ``(checkpoint or None, [(incomplete checkpoint, why), ...])``.
    """
    best = None
    rejected = []
    for checkpoint in list_checkpoints(folder):
        why = why_incomplete(checkpoint.path)
        if why:
            rejected.append((checkpoint, why))
        else:
            best = checkpoint
    return best, rejected


def complete_steps(folder: str) -> List[int]:
    """Steps of the complete checkpoints, lowest first."""
    return [item.step for item in list_checkpoints(folder) if not why_incomplete(item.path)]


def seal(path: str, step: int, identity: Dict[str, Any]) -> int:
    """Flush a finished checkpoint to disk, then mark it complete.

    Args:
        path: the checkpoint's folder, written to its end.
        step: optimizer steps done.
        identity: what the run is (see ``differences``).

    Returns:
        Bytes of all files.
    """
    sizes = {}
    for parent, _, names in os.walk(path):
        for name in names:
            file = os.path.join(parent, name)
            _sync(file)
            if name != MARK:
                sizes[os.path.relpath(file, path)] = os.path.getsize(file)
        _sync(parent)
    write_json(os.path.join(path, MARK), {"step": step, "identity": identity, "files": sizes})
    _sync(os.path.dirname(path))
    return sum(sizes.values())


def differences(path: str, identity: Dict[str, Any]) -> List[str]:
    """How the run a checkpoint belongs to differs from this one, as ``name: there, here`` texts.

    Empty for checkpoints without our mark: then nothing is known. Names this run does not compare
    (``gradient_accumulation`` of early checkpoints) do not count.
    """
    mark = read_json(os.path.join(path, MARK)) or {}
    theirs = mark.get("identity") or {}
    return [
        "{}: {} there, {} here".format(key, theirs[key], identity[key])
        for key in sorted(theirs)
        if key in identity and theirs[key] != identity[key]
    ]


def size_of(path: str) -> int:
    """Bytes of a sealed checkpoint as its mark says; 0 without a mark."""
    mark = read_json(os.path.join(path, MARK)) or {}
    return sum(mark.get("files", {}).values())


def adapt_batch(path: str, micro_batch: int) -> bool:
    """Make a checkpoint say that a forward pass takes ``micro_batch`` rows; True when it said another.

    transformers up to 4.45 go on with the number they find there, whatever they are asked.
    """
    file = os.path.join(path, _STATE)
    state = read_json(file)
    if state is None or state.get("train_batch_size") in (None, micro_batch):
        return False
    state["train_batch_size"] = micro_batch
    write_json(file, state)
    return True


def rotate(folder: str, keep: int, protect: Optional[str] = None) -> List[str]:
    """Remove complete checkpoints but the newest ``keep``; call after ``seal``, never before.

    Args:
        folder: the checkpoints folder.
        keep: at least 1.
        protect: one more path that stays (the best by evaluation).

    Returns:
        Paths removed.
    """
    complete = [item for item in list_checkpoints(folder) if not why_incomplete(item.path)]
    removed = []
    for item in complete[: -max(1, keep)]:
        if protect and os.path.abspath(protect) == os.path.abspath(item.path):
            continue
        remove(item.path)
        removed.append(item.path)
    return removed


def remove(path: str) -> None:
    """Delete a checkpoint; its state file goes first, so a half-deleted one is never chosen."""
    state = os.path.join(path, _STATE)
    if os.path.exists(state):
        os.unlink(state)
    shutil.rmtree(path)


def set_aside(folder: str) -> Optional[str]:
    """Rename the checkpoints folder of an earlier run, so that a new one starts clean.

    Returns:
        The new path, or None when there was nothing.
    """
    if not list_checkpoints(folder):
        return None
    target = _free_name(folder)
    os.rename(folder, target)
    return target


def set_aside_after(folder: str, step: int) -> Optional[str]:
    """Move the checkpoints above ``step`` away: a run that begins there again makes its own.

    Returns:
        Where they are now, or None when there was none.
    """
    later = [item for item in list_checkpoints(folder) if item.step > step]
    if not later:
        return None
    target = _free_name(folder)
    os.mkdir(target)
    for item in later:
        os.rename(item.path, os.path.join(target, os.path.basename(item.path)))
    return target


def _free_name(folder: str) -> str:
    number = 1
    while os.path.exists("{}-before-{}".format(folder, number)):
        number += 1
    return "{}-before-{}".format(folder, number)


def named(path: str) -> Checkpoint:
    """The checkpoint in exactly this folder.

    Raises:
        StepError: CHECKPOINT_NOT_FOUND when it is missing or incomplete.
    """
    path = os.path.abspath(os.path.expanduser(path))
    match = _NAME.search(path)
    why = "there is no such folder" if not os.path.isdir(path) else why_incomplete(path)
    if not match and not why:
        why = "its name is not checkpoint-N"
    if why or not match:
        there = complete_steps(os.path.dirname(path))
        raise StepError(
            "CHECKPOINT_NOT_FOUND",
            "Cannot resume from {}: {}.".format(path, why),
            "Complete ones there are of step {}.".format(", ".join(str(step) for step in there))
            if there
            else "Give a complete checkpoint folder, or leave resume out to take the newest one.",
        )
    return Checkpoint(int(match.group(1)), path)


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""The files of a repository: which names can be trusted, and which files are worth fetching.

Owns the reading of one entry of the Hub's file list and the choice among the files. Weights often
lie in a repository several times: safetensors, PyTorch pickles, TensorFlow, Flax, ONNX, GGUF, the
vendor's original layout. ``from_pretrained`` reads one of them and prefers safetensors, which is
also the only one that cannot run code when loaded; the others would double the bytes. Datasets are
taken whole.

Refuses names that would leave the target folder and digests that are not hexadecimal (they become
file names): what a server says is material, not an instruction.

Runs in a step's process on the container (pure functions).
"""

import fnmatch
import json
import os
import re
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from .errors import StepError

#: A git object name: SHA-1, or SHA-256 in repositories of that kind (and LFS digests).
COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
#: Control characters, backslashes, and surrogates (which no file name can hold).
_CONTROL = re.compile("[\\x00-\\x1f\\x7f\\\\\ud800-\udfff]")
#: Extensions of weights in other formats than safetensors and PyTorch's.
_FOREIGN = (".h5", ".msgpack", ".ot", ".onnx", ".onnx_data", ".gguf", ".tflite", ".mlmodel", ".pdparams")
_PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")
#: Folders that hold a second copy for another runtime or in the vendor's own layout.
_FOREIGN_DIRS = ("onnx", "original", "coreml", "openvino", "metal", "gguf", "tflite")


class PlanFile(NamedTuple):
    """One file: ``etag`` is its name in the cache (git blob SHA-1, or the LFS SHA-256). ``xet``: it
    lies in Xet storage (which also serves plain HTTP, see ``xet``)."""

    path: str
    size_bytes: int
    etag: str
    sha256: Optional[str]
    xet: bool = False


def parse_entry(entry: Mapping[str, Any], repo_type: str, repo_id: str) -> PlanFile:
    """A file entry of the Hub's tree answer. Raises StepError MODEL_INVALID or DATASET_INVALID for a
    name, size or digest that cannot be used."""
    path, size, etag = entry.get("path"), entry.get("size"), entry.get("oid")
    sha256 = None
    lfs = entry.get("lfs")
    if isinstance(lfs, dict):
        sha256 = lfs.get("oid") or lfs.get("sha256")
        sha256 = sha256[7:] if isinstance(sha256, str) and sha256.startswith("sha256:") else sha256
        size, etag = lfs.get("size", size), sha256
    why = bad_path(path)
    if why:
        raise _hostile(repo_type, repo_id, "the file name %s, %s" % (json.dumps(path), why))
    if not isinstance(etag, str) or not COMMIT.fullmatch(etag) or (lfs and len(etag) != 64):
        raise _hostile(repo_type, repo_id, "no usable digest for %s" % path)
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise _hostile(repo_type, repo_id, "no usable size for %s" % path)
    return PlanFile(path, size, etag, sha256, bool(entry.get("xetHash")))


def bad_path(path: Any) -> str:
    """Why a path of a repository cannot be written below a folder; empty when it can."""
    if not isinstance(path, str) or not path:
        return "which is empty"
    if _CONTROL.search(path):
        return "which holds control characters or backslashes"
    parts = path.split("/")
    if parts[0] == "" or re.match(r"[A-Za-z]:", path):
        return "which is absolute"
    if any(part in ("", ".", "..") for part in parts):
        return "which leaves its folder"
    if any(len(part.encode("utf-8")) > 255 for part in parts) or len(path.encode("utf-8")) > 3000:
        return "which is too long"
    return ""


def refuse_clashes(files: Sequence[PlanFile], repo_type: str, repo_id: str) -> None:
    """Raise StepError when a path occurs twice, or as a file and as a folder."""
    paths = {file.path for file in files}
    if len(paths) != len(files):
        raise _hostile(repo_type, repo_id, "one path twice")
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            if "/".join(parts[:depth]) in paths:
                raise _hostile(repo_type, repo_id, "%s as a file and as a folder" % "/".join(parts[:depth]))


def _hostile(repo_type: str, repo_id: str, what: str) -> StepError:
    return StepError(
        "DATASET_INVALID" if repo_type == "dataset" else "MODEL_INVALID",
        "The file list of %s holds %s; refused" % (repo_id, what),
        "report it to the repository's owner",
    )


def select(
    files: Sequence[Any],
    repo_type: str,
    allow: Optional[Sequence[str]] = None,
    ignore: Optional[Sequence[str]] = None,
) -> Tuple[List[Any], List[Tuple[str, str]]]:
    """Split files into those to fetch and ``(path, why)`` of those left out.

    Args:
        files: objects with a ``path``.
        allow, ignore: patterns as in ``huggingface_hub`` (``fnmatch`` on the whole path, a pattern
            ending in ``/`` means the folder). What ``allow`` names is never called a duplicate.
    """
    chosen, left_out = [], []
    folders: Dict[str, _Folder] = {}
    for file in files:
        folder, name = os.path.split(file.path)
        folders.setdefault(folder, _Folder()).add(name)
    for file in files:
        why = ""
        if allow and not _matches(file.path, allow):
            why = "not in the allow patterns"
        elif ignore and _matches(file.path, ignore):
            why = "in the ignore patterns"
        elif not allow and repo_type == "model":
            why = _duplicate(file.path, folders)
        if why:
            left_out.append((file.path, why))
        else:
            chosen.append(file)
    return chosen, left_out


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(path, p + "*" if p.endswith("/") else p) for p in patterns)


class _Folder:
    """What lies beside each other in one folder of a repository."""

    def __init__(self) -> None:
        self.weights: Set[str] = set()
        self.safe: Set[str] = set()
        self.has_model_safe = False

    def add(self, name: str) -> None:
        """Note one file."""
        if _is_weights(name):
            self.weights.add(name)
        if name.endswith(".safetensors"):
            self.safe.add(name)
            self.has_model_safe = self.has_model_safe or name.startswith("model")


def _duplicate(path: str, folders: Dict[str, _Folder]) -> str:
    folder, name = os.path.split(path)
    stem, extension = os.path.splitext(name)
    top = path.split("/")[0]
    if folder and top in _FOREIGN_DIRS and "" in folders and folders[""].weights:
        return "second copy of the weights (%s/)" % top
    beside = folders[folder]
    if extension == ".safetensors":
        vendors = stem.startswith("consolidated") and beside.has_model_safe
        return "second copy of the weights (vendor layout)" if vendors else ""
    if extension in _PICKLES and beside.safe:
        return "second copy of the weights (pickle; safetensors is taken)"
    if extension in _FOREIGN and beside.weights:
        return "second copy of the weights (%s)" % extension
    return ""


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors") or (name.startswith("pytorch_model") and name.endswith(".bin"))

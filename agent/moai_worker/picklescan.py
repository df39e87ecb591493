"""Says what a weights file in PyTorch's pickle format would run if it were loaded; loads nothing.

A pickle is a program: it may import any function and call it. Ours is an allow-list of what weights need
(tensors and their storages); whatever else a file names is told, and so is whatever cannot be read, because
an unpickler runs a file up to where it breaks. It stands before ``torch.load``'s own restricted reader, which
old versions of torch get wrong (CVE-2025-32434, before 2.6). Standard library only.
"""

import os
import pickletools
import zipfile
from typing import IO, Any, List, Optional, Sequence

from . import jobdir

#: Files of weights that are pickles.
SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

_TYPES = "Float Double Half BFloat16 Long Int Short Char Byte Bool ComplexFloat ComplexDouble".split()
_ALLOWED = {"torch %sStorage" % kind for kind in _TYPES}
_ALLOWED |= {"torch.storage UntypedStorage", "torch.storage TypedStorage", "torch Size", "torch device", "torch.serialization _get_layout"}
_ALLOWED |= {"torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "collections OrderedDict"}
_ALLOWED |= {"torch %s" % kind for kind in "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()}

#: What names its function on the stack, where a scan can be misled; torch.save uses none of them.
_REFUSED = {"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "FRAME", "NEXT_BUFFER", "READONLY_BUFFER"}
#: A file of torch before 1.6: magic number, protocol, machine, the weights, then keys of what follows raw.
_OLD_PARTS = 5
_MOST_BYTES = 256 * 1024 * 1024


def problem(path: str) -> str:
    """What a weights file would run beside making tensors, or why that cannot be told; "" when nothing.

    A file that is no pickle at all (safetensors under another name) is told as unreadable.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith(".pkl")]
                if not names:
                    return "it holds no data.pkl"
                if len(set(archive.namelist())) != len(archive.namelist()):
                    return "it holds two entries of one name"
                for name in names:
                    if archive.getinfo(name).file_size > _MOST_BYTES:
                        return "%s is larger than that of any model" % name
                    with archive.open(name) as source:
                        found = _scan(source, 1)
                    if found:
                        return found
            return ""
        with open(path, "rb") as source:
            return _scan(source, _OLD_PARTS)
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        return "it cannot be read (%s)" % error


def folder_problem(path: str, covers: Sequence[str]) -> str:
    """``problem`` of the pickled weights of a model folder, with the file's name; "" when there are none.

    Args:
        path: the folder.
        covers: files in whose presence a library does not look at pickles (safetensors of that model).
    """
    names = sorted(os.listdir(path))
    if any(name in covers for name in names):
        return ""
    asked = [name for name in names if name.endswith(SUFFIXES) and ("model" in name or "consolidated" in name)]
    for index in [name for name in names if name.endswith(".index.json")]:
        shards = (jobdir.read_json(os.path.join(path, index)) or {}).get("weight_map")
        # Any name may stand there, and a library opens it.
        asked += [str(name) for name in shards.values()] if isinstance(shards, dict) else []
    for name in dict.fromkeys(asked):
        if name.endswith(".safetensors"):
            continue
        found = problem(os.path.join(path, name))
        if found:
            return "%s: %s" % (name, found)
    return ""


def _scan(source: IO[bytes], parts: int) -> str:
    """The first thing wrong in as many pickles; the bytes behind them are raw."""
    for _ in range(parts):
        last: Optional[str] = None
        try:
            for opcode, argument, _position in pickletools.genops(source):
                last = opcode.name
                wrong = _wrong(last, argument)
                if wrong:
                    return wrong
        except (ValueError, IndexError, UnicodeError, OverflowError, MemoryError, EOFError) as error:
            return "it is no pickle of torch's (%s)" % str(error)[:100]
        if last != "STOP":
            return "it ends in the middle"
    return ""


def _wrong(name: str, argument: Any) -> str:
    if name in _REFUSED:
        return "it uses %s, which weights do not" % name
    if name == "GLOBAL" and argument not in _ALLOWED:
        words: List[str] = str(argument).split(" ")
        return "it runs %s" % ".".join(words)[:200]
    return ""

"""Files of a checkpoint that one container has and another lacks, sent over the training's own process group.

Needed where weights come together on one process only: under FSDP, and after a kill in the middle of the
first checkpoint. Runs in the processes of a training; every one of them must call, for all of them wait.
"""

import os
import re
from typing import Any, Dict, Sequence

from . import checkpoints, compat

_PIECE_BYTES = 32 << 20
#: A process's own: random numbers, and the arguments it was started with.
_OWN = re.compile(r"rng_state.*\.pth|training_args\.bin")
_PARTIAL = ".moai-partial"
_WEIGHTS = (".safetensors", ".bin")


def spread(folder: str, source: int = 0, leave: Sequence[str] = ()) -> int:
    """Give every container the files of ``folder`` that process ``source`` has there and it lacks.

    Args:
        folder: each process's own path of it; made where it is missing. Folders in it are left out.
        source: rank. leave: names that stay where they are.

    Returns:
        Bytes that travelled; the same on every process.

    Raises:
        OSError: the disk of this container. torch's errors when another process ended.
    """
    here = _files(folder, leave)
    theirs = compat.gather(here)[source]
    lacking = [
        name for name, size in theirs.items()
        # Weights that were gathered on one process are empty files on the others.
        if name not in here or (name.endswith(_WEIGHTS) and here[name] != size)
    ] if compat.is_first_here() else []  # fmt: skip
    wanted = sorted(set().union(*compat.gather(lacking)))
    mine = compat.process_rank() == source
    if lacking:
        os.makedirs(folder, exist_ok=True)
    sent = sum(_send(os.path.join(folder, name), source, mine, name in lacking) for name in wanted)
    # Others of this container read only what is whole.
    compat.gather(None)
    return sent


def _send(path: str, source: int, mine: bool, lacking: bool) -> int:
    import torch

    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    size = torch.tensor([os.path.getsize(path) if mine else 0], dtype=torch.int64, device=device)
    torch.distributed.broadcast(size, source)
    total = left = int(size.item())
    reading: Any = open(path, "rb") if mine else None
    writing: Any = open(path + _PARTIAL, "wb") if lacking else None
    try:
        while left:
            length = min(_PIECE_BYTES, left)
            piece = torch.empty(length, dtype=torch.uint8)
            if reading is not None:
                reading.readinto(memoryview(piece.numpy()))
            piece = piece.to(device)
            torch.distributed.broadcast(piece, source)
            if writing is not None:
                writing.write(memoryview(piece.cpu().numpy()))
            left -= length
    finally:
        for file in (reading, writing):
            if file is not None:
                file.close()
    if lacking:
        os.replace(path + _PARTIAL, path)
    return total


def _files(folder: str, leave: Sequence[str]) -> Dict[str, int]:
    """Bytes by name of what may travel."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return {}
    return {
        name: os.path.getsize(os.path.join(folder, name)) for name in names
        if os.path.isfile(os.path.join(folder, name))
        and name not in leave and name != checkpoints.MARK and not name.endswith(_PARTIAL) and not _OWN.fullmatch(name)
    }  # fmt: skip

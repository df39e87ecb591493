"""From one process to several: which CUDA devices a training uses, and torchrun around the same step.

Owns the choice of devices (free ones, named ones, all), the wait while others hold them, and the exec of
``python -m torch.distributed.run`` with this very step, alone or as one of several containers. Never DataParallel, and never on a MoAI
accelerator: there one device is the whole cluster. The container's first rank writes to the job's
log, the others to ``log.rankN`` beside it, so that the log holds one voice. Standard library only; runs in the train step before torch is imported.

Source of the tables read: ``nvidia-smi --help-query-gpu`` and ``--help-query-compute-apps`` (CSV without
header and units).
"""

import glob
import os
import shutil
import subprocess
import sys
import time
from importlib import metadata
from typing import Any, Dict, List, NamedTuple, NoReturn, Optional

from .errors import StepError
from .jobdir import JobDir, read_json, write_json

#: Set for the processes that torchrun starts.
LAUNCHED = "MOAI_LAUNCHED"
#: A device whose driver reports this much held memory without a process is held from another container.
_HELD_MIB = 1024
_TOOL_S = 20.0
_LOOK_S = 5.0


class Device(NamedTuple):
    """A CUDA device. ``holders``: who computes on it, as ``pid (command)`` or what is known instead."""

    index: str
    uuid: str
    total_mib: int
    holders: List[str]


def is_launched() -> bool:
    """Whether this process is one of torchrun's."""
    return os.environ.get(LAUNCHED) == "1"


def separate_output(job_path: str) -> None:
    """Give ranks above 0 a log of their own, ``JOB/log.rankN``; before anything is printed."""
    rank = int(os.environ.get("RANK") or 0)
    if not is_launched() or int(os.environ.get("LOCAL_RANK") or 0) == 0:
        return
    path = os.path.join(job_path, "log.rank%d" % rank)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def spread(inputs: Dict[str, Any], report: Any) -> None:
    """Choose the devices; with more than one, replace this process by torchrun. Returns where one is enough.

    Args:
        inputs: of the train step: ``gpus`` ("" = every free one that divides the batch, "all", how many, or
            indexes with a comma: ``0,2``, ``0,``), ``batch_size``, ``gradient_accumulation``, ``device``,
            ``group`` (``rank, size, address, port, interface, id`` of several containers, or None).
        report: told what is waited for and what was chosen.

    Raises:
        StepError: UNSUPPORTED on MoAI and without CUDA devices; USAGE for numbers that cannot be had.
    """
    if is_launched() or os.environ.get("WORLD_SIZE"):
        return
    asked = str(inputs.get("gpus") or "").strip()
    group = inputs.get("group") or None
    if is_moreh():
        if asked or group:
            raise StepError(
                "UNSUPPORTED",
                "%s: a MoAI accelerator is one device, and spans GPUs and nodes by itself."
                % ("--gpus %s" % asked if asked else "--nodes %d" % group["size"] if group else ""),
                "Choose a larger flavor instead: moai remote device flavors.",
            )
        return
    found = [] if inputs.get("device") == "cpu" else list_devices()
    if not found:
        if asked:
            raise StepError("UNSUPPORTED", "--gpus %s: there is no CUDA device here." % asked, "Leave --gpus out.")
        if group:
            torchrun(1, _members(group))
        return
    parts = int(inputs.get("gradient_accumulation") or 1) * (group["size"] if group else 1)
    chosen = _wait(asked, int(inputs.get("batch_size") or 1), parts, found, report)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
    report.message(
        "Training on CUDA device%s %s." % ("" if len(chosen) == 1 else "s", ", ".join(chosen)),
        code="DEVICES_CHOSEN",
        devices=",".join(chosen),
    )
    if group:
        torchrun(len(chosen), _members(group))
    elif len(chosen) > 1 or "fsdp" in (inputs.get("sharding"), (inputs.get("settings") or {}).get("sharding")):
        torchrun(len(chosen), ["--standalone"])


def _members(group: Dict[str, Any]) -> List[str]:
    """torchrun's words for one of several containers.

    A static rendezvous: with the elastic one (c10d) torch gives out ranks by address, so rank 0, its log and
    its reports could move to another container at every restart. Restarting is the supervisor's (--retries).
    """
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if group.get("interface"):
            os.environ.setdefault(name, group["interface"])
    return [
        "--nnodes", str(group["size"]), "--node_rank", str(group["rank"]), "--master_addr", group["address"],
        "--master_port", str(group["port"]), "--max_restarts", "0",
    ]  # fmt: skip


def torchrun(processes: int, how: List[str]) -> NoReturn:
    """Become ``torch.distributed.run`` around this step, with so many processes here.

    An outcome that says so is left first, in place of an earlier attempt's: torchrun may end before any process
    of ours begins (the port is taken, a member does not come).
    """
    job = JobDir(sys.argv[3])
    _leave(job, sys.argv[1], "torchrun ended before the training began; the end of the log says why.")
    env = dict(os.environ, **{LAUNCHED: "1"})
    # torchrun sets 1 by itself and warns; more would have the processes fight for the cores.
    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    argv = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)] + how + sys.argv
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, argv, env)


def began(job: JobDir, name: str) -> None:
    """Tell, for the case that this process is killed and can tell nothing, that it was there."""
    if is_launched() and (read_json(job.control_file("result-" + name)) or {}).get("launching"):
        _leave(job, name, "A process of the training was killed; which one and how, the end of the log says.")


def _leave(job: JobDir, name: str, message: str) -> None:
    """An outcome that any process of the training replaces with its own."""
    again = "moai remote logs %s, then moai remote resume %s" % (job.id, job.id)
    error = StepError("TRAINING_FAILED", message, again)
    write_json(
        job.control_file("result-" + name),
        {"ok": False, "skipped": False, "result": {}, "error": error.as_dict(), "launching": True},
    )


def is_moreh() -> bool:
    """Whether this Python's torch is Moreh's, told by its version (importing it is not needed)."""
    try:
        return "moreh" in metadata.version("torch")
    except metadata.PackageNotFoundError:
        return False


def list_devices() -> List[Device]:
    """The CUDA devices this process may use, by ``nvidia-smi``; without the tool by their device files.

    ``CUDA_VISIBLE_DEVICES`` of the job narrows them, by index or UUID.
    """
    tool = shutil.which("nvidia-smi")
    rows = _ask(tool, "--query-gpu=index,uuid,memory.total,memory.used") if tool else None
    if rows is None:
        count = len(glob.glob("/dev/nvidia[0-9]*"))
        found = [Device(str(number), "", 0, []) for number in range(count)]
    else:
        held: Dict[str, List[str]] = {}
        for row in _ask(tool, "--query-compute-apps=gpu_uuid,pid") or []:
            if len(row) == 2 and row[1].isdigit():
                held.setdefault(row[0], []).append(_who(int(row[1])))
        found = []
        for row in rows:
            if len(row) != 4 or not row[0].isdigit():
                continue
            total, used = (int(cell) if cell.isdigit() else 0 for cell in row[2:])
            holders = held.get(row[1], [])
            if not holders and used >= _HELD_MIB:
                holders = ["a process outside this container (%d MiB)" % used]
            found.append(Device(row[0], row[1], total, holders))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return [device for name in names for device in found if name == device.index or (name and device.uuid.startswith(name))]


def _wait(asked: str, batch: int, parts: int, found: List[Device], report: Any) -> List[str]:
    """Indexes of the devices to use, once enough of them are free."""
    shown: Optional[str] = None
    while True:
        free = [device.index for device in found if not device.holders]
        chosen = choose(asked, batch, parts, [device.index for device in found], free)
        if chosen:
            return chosen
        busy = "; ".join("device %s: %s" % (device.index, ", ".join(device.holders)) for device in found if device.holders)
        if busy != shown:
            shown = busy
            report.phase("waiting", "waiting for a CUDA device that others hold (%s)" % busy[:600])
        time.sleep(_LOOK_S)
        found = list_devices() or found


def choose(asked: str, batch: int, parts: int, present: List[str], free: List[str]) -> List[str]:
    """Which devices to take now; empty = wait.

    Args:
        asked: see ``spread``. batch, parts: rows a step and accumulation; every device gets the same share.
        present, free: indexes of all, and of those nobody computes on.

    Raises:
        StepError: USAGE naming what cannot be.
    """
    if "," in asked:
        named = [name.strip() for name in asked.split(",") if name.strip()]
        missing = [name for name in named if name not in present]
        if missing or len(set(named)) != len(named):
            raise StepError(
                "USAGE", "--gpus %s: the devices here are %s." % (asked, ", ".join(present)), "Name some of them, each once."
            )
        _divide(batch, parts, len(named))
        return named if all(name in free for name in named) else []
    if asked in ("", "all"):
        wanted = len(present)
        if asked:
            _divide(batch, parts, wanted)
            return list(present) if len(free) == wanted else []
        # As many free ones as share the batch evenly.
        for count in range(len(free), 0, -1):
            if batch % (count * parts) == 0:
                return free[:count]
        return free[:1]
    if not asked.isdigit() or int(asked) == 0:
        raise StepError(
            "USAGE",
            "--gpus %r is neither a number from 1 nor a list of devices." % asked,
            "--gpus 2 (how many), --gpus 0,2 or --gpus 0, (which) or --gpus all",
        )
    count = int(asked)
    if count > len(present):
        raise StepError("USAGE", "--gpus %d: there are %d devices here." % (count, len(present)), "Give at most that many.")
    _divide(batch, parts, count)
    return free[:count] if len(free) >= count else []


def _divide(batch: int, parts: int, count: int) -> None:
    if batch % (count * parts):
        raise StepError(
            "USAGE",
            "A batch of %d rows cannot be shared by %d devices%s." % (batch, count, " with %d accumulation steps" % parts if parts > 1 else ""),
            "Use a batch size that is a multiple of %d." % (count * parts),
        )


def _ask(tool: Optional[str], query: str) -> Optional[List[List[str]]]:
    """Rows of a query; None when the tool does not answer."""
    if tool is None:
        return None
    try:
        done = subprocess.run(
            [tool, query, "--format=csv,noheader,nounits"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, timeout=_TOOL_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    return [[cell.strip() for cell in line.split(",")] for line in done.stdout.decode("utf-8", "replace").splitlines()]


def _who(pid: int) -> str:
    """``pid (command)``; the driver may count pids of another namespace, so the command may be unknown."""
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as source:
            words = source.read(400).replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        words = ""
    return "process %d%s" % (pid, " (%s)" % words[:80] if words else "")

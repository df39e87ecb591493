"""A training over two containers loses a process to SIGKILL: how long until its next step, beside torchrun's own restarts."""

from __future__ import annotations

import math
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fakes import news, tinymodel
from fakes.box import Box, parent_of, processes_of
from measure import Row
from spine import ROUNDS

_LIMIT_S = 180
#: A restart that brings no step within this is counted as none.
_RESTART_LIMIT_S = 90
_STEPS, _SAVE = 2000, 5

#: The same model under torchrun --max-restarts, as a user would write it; argv: model, rows, output. Its checkpoints
#: lie on a disk that both see: with one each, transformers 5.17 writes no weights on the second and nothing is resumed.
_BARE = r"""
import os, sys, torch, transformers
from transformers.trainer_utils import get_last_checkpoint
model, rows, output = sys.argv[1:4]
class Told(transformers.TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            print("step {}/{}".format(state.global_step, state.max_steps), flush=True)
class Rows(torch.utils.data.Dataset):
    def __len__(self): return int(rows)
    def __getitem__(self, at):
        ids = torch.arange(at, at + 64)
        return {"input_ids": ids, "labels": ids}
arguments = transformers.TrainingArguments(
    output_dir=output, max_steps=%d, per_device_train_batch_size=2, logging_steps=1, save_steps=%d, save_total_limit=2,
    use_cpu=True, disable_tqdm=True, report_to=[])
trainer = transformers.Trainer(
    model=transformers.AutoModelForCausalLM.from_pretrained(model), args=arguments, train_dataset=Rows(), callbacks=[Told()])
last = get_last_checkpoint(output) if os.path.isdir(output) else None
trainer.train(resume_from_checkpoint=last)
""" % (_STEPS, _SAVE)


def _steps(log: Path, since: int = 0) -> int:
    """Step lines in a log behind ``since`` bytes."""
    try:
        return sum(line.startswith(b"step ") for line in log.read_bytes()[since:].splitlines())
    except FileNotFoundError:
        return 0


def _until(done: Callable[[], bool], what: str, log: Path) -> None:
    end_s = time.monotonic() + _LIMIT_S
    while not done():
        if time.monotonic() > end_s:
            raise RuntimeError(f"{what} did not come within {_LIMIT_S} s: {log.read_text()[-1500:]}")
        time.sleep(0.02)


def _workers(folder: Path) -> list[int]:
    """The training processes below torchrun in a home."""
    found = processes_of(folder)
    torchruns = {pid for pid, argv in found.items() if "torch.distributed.run" in argv}
    return [pid for pid in found if parent_of(pid) in torchruns and pid not in torchruns]


def recovery(log: Path, leader: Path, victim: Path) -> float:
    """Seconds from SIGKILL of the second one's process to the first step line after the restart; infinite for none."""
    _until(lambda: _steps(log) >= 2 * _SAVE and len(_workers(leader)) == len(_workers(victim)) == 1, "the first steps", log)
    (old,), (killed,) = _workers(leader), _workers(victim)
    start_s = time.monotonic()
    os.kill(killed, signal.SIGKILL)
    _until(lambda: old not in _workers(leader), "the end of the other", log)
    since = log.stat().st_size
    while not _steps(log, since):
        if time.monotonic() - start_s > _RESTART_LIMIT_S:
            return math.inf
        time.sleep(0.02)
    return time.monotonic() - start_s


def ours(folder: Path, python: str, model: str, data: str) -> float:
    """Two containers, ``train --nodes 2 --retries 3``."""
    boxes = [Box(folder / name, alias=name, look_alike=False) for name in "ab"]
    try:
        boxes[1].sshd.ssh_config(boxes[0].ssh_config, alias="b", append=True)
        (boxes[0].folder / "laptop" / "config" / "config.toml").write_text('[hosts.a]\naddress = "a"\n[hosts.b]\naddress = "b"\n')
        done = boxes[0].moai(
            "remote", "train", "--on", "a,b", "--nodes", "2", "--retries", "3", "--env", python, "--model", model, "--dataset", data,
            "--method", "full", "--max-steps", str(_STEPS), "--batch-size", "4", "--block-size", "64", "--set", f"save_steps={_SAVE}",
            "--set", "keep_checkpoints=2", "--set", "eval_steps=0", "--detach", timeout=300,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr.decode())
        job = done.stdout.decode().split()[0].partition("/")[2]
        return recovery(boxes[0].job_dir(job) / "log", boxes[0].home, boxes[1].home)
    finally:
        for box in boxes:
            box.end()


def theirs(folder: Path, python: str, model: str) -> float:
    """Two torchruns with elastic rendezvous and ``--max-restarts``."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    running, homes, script = [], [], folder / "bare.py"
    folder.mkdir(parents=True)
    script.write_text(_BARE)
    for node in range(2):
        home = folder / f"node{node}"
        home.mkdir()
        homes.append(home)
        with open(home / "log", "wb") as log:
            argv = [
                python, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", "--max_restarts", "3", "--rdzv_backend", "c10d",
                "--rdzv_endpoint", f"127.0.0.1:{port}", "--rdzv_id", "bench", "--local_addr", "127.0.0.1", str(script), model, "60", str(folder / "out"),
            ]  # fmt: skip
            env = {**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo"}
            running.append(subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True))
    try:
        # Ranks are given out by address: the one that logs the steps leads.
        _until(lambda: any(_steps(home / "log") for home in homes), "the first step", homes[0] / "log")
        leader, victim = sorted(homes, key=lambda home: -_steps(home / "log"))
        return recovery(leader / "log", leader, victim)
    finally:
        for home in homes:
            for pid in processes_of(home):
                os.kill(pid, signal.SIGKILL)
        for process in running:
            process.wait()


def rows(folder: Path) -> list[Row]:
    """The row of this file; none without a train environment."""
    python = tinymodel.train_python()
    if python is None:
        print("SKIPPED: no train environment (make train-env)", file=sys.stderr)
        return []
    model = str(tinymodel.build(folder / "model", python=str(python)))
    data = news.write_jsonl(str(folder / "news.jsonl"), 60)
    mine, other = [], []
    for number in range(max(3, ROUNDS // 3)):
        for name, times in (("ours", mine), ("theirs", other)):
            place = folder / f"{name}{number}"
            times.append(ours(place, str(python), model, data) if name == "ours" else theirs(place, str(python), model))
            shutil.rmtree(place, ignore_errors=True)
    here, there = statistics.median(mine), statistics.median(other)
    print(f"  ours {[round(one, 1) for one in mine]}, theirs {[round(one, 1) for one in other]}", file=sys.stderr)
    what = "SIGKILL of one of two nodes' training to the next step"
    shown = [f"{one:.1f} s" if one < math.inf else f"none in {_RESTART_LIMIT_S} s" for one in (here, there)]
    ratio = here / there if max(here, there) < math.inf else None
    row = Row(what, "torchrun --max-restarts", *shown, ratio, "<= 30 s", here <= 30)
    print(row.line(), flush=True)
    return [row]

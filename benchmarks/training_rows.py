"""What moai costs a training: the same steps bare, on the accelerator or the CPU that is here.

Step times of one machine differ by tens of per cent from minute to minute. So both trainings are started together
and then stopped and continued in turns (SIGSTOP, SIGCONT), moai's with its agent, supervisor and client: only one
runs at a time, and turns next to each other are compared. Both trainings tell the time of each step themselves.
``MOAI_BENCH_TRAIN`` = steps, hidden size, layers, block, batch (120,256,4,64,8); ``MOAI_TRAIN_PYTHON``:
interpreter with torch and transformers (``.venv-train``).
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from fakes import news, tinymodel
from fakes.box import Laptop, kill_below, processes_of
from fakes.sshd import wait_until
from measure import Row, ms

STEPS, HIDDEN, LAYERS, BLOCK, BATCH = map(int, (os.environ.get("MOAI_BENCH_TRAIN") or "120,256,4,64,8").split(","))
#: The first steps pay for allocators, caches and kernels, on either side.
_WARM = 5
#: Seconds that one of the two runs while the other is stopped, and steps that must fall whole into a turn.
_TURN_S, _TURN_STEPS = 1.5, 4
_PAIRS = 5
#: One process of the same program is some per cent faster than the next (where its memory lies): several of each.
_LAUNCHES = int(os.environ.get("MOAI_BENCH_ROUNDS") or 10) // 2
_LIMIT_S = 1500


class Turn(NamedTuple):
    """While ``who`` ran and the other was stopped: seconds since the epoch."""

    who: str
    begin: float
    end: float


class Compared(NamedTuple):
    """Seconds of a step, and how many times one is the other."""

    ours: float
    bare: float
    ratio: float


#: The same Trainer, arguments and data without moai; argv: model, data set, output, steps, batch, file of times.
_BARE = r"""
import datasets, json, numpy, sys, time, torch, transformers
model, data, output, steps, batch, told = sys.argv[1:7]
times = []
class Clock(transformers.TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            times.append(time.time())
rows = datasets.load_from_disk(data)["train"].with_format("numpy")
def collate(rows):
    ids, mask = (torch.from_numpy(numpy.stack([row[name] for row in rows])).long() for name in ("input_ids", "attention_mask"))
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
transformers.set_seed(42)
arguments = transformers.TrainingArguments(
    output_dir=output, max_steps=int(steps), per_device_train_batch_size=int(batch), learning_rate=1e-5, seed=42,
    lr_scheduler_type="linear", bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(), logging_strategy="steps",
    logging_steps=1, logging_nan_inf_filter=False, save_strategy="no", dataloader_drop_last=True,
    dataloader_pin_memory=torch.cuda.is_available(), remove_unused_columns=False, disable_tqdm=True, report_to=[])
trainer = transformers.Trainer(
    model=transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), args=arguments,
    train_dataset=rows, data_collator=collate, callbacks=[Clock()])
trainer.model.config.use_cache = False
trainer.train()
json.dump(times, open(told, "w"))
"""

#: A plain PyTorch loop that prints a line a step, like the tutorials' trainers; argv: steps, width, file of times.
_OWN = r"""
import json, sys, time, torch
steps, width, told = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(1)
model = torch.nn.Sequential(*[torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.GELU()) for _ in range(4)]).to(device)
optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
batch = torch.randn(256, width, device=device)
times = []
for step in range(1, steps + 1):
    loss = (model(batch) - batch).pow(2).mean()
    loss.backward(); optimizer.step(); optimizer.zero_grad()
    print("[Step %d/%d] | Loss: %.4f | lr: 0.0001" % (step, steps, loss.item()), flush=True)
    times.append(time.time())
json.dump(times, open(told, "w"))
"""


class Bench:
    """A laptop that trains on itself (``--on local``): the container's side is the same code."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder, self.python = folder, python
        self.laptop = Laptop(folder / "laptop")
        # One thread leaves a core to whoever follows, as on a container whose accelerator computes.
        self.env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def moai(self, *words: str) -> bytes:
        """Output of a command that must succeed."""
        done = self.laptop.moai(*words, timeout=900, HF_HUB_OFFLINE="1")
        if done.returncode:
            raise RuntimeError(f"{words[:4]} ended with {done.returncode}: {(done.stderr + done.stdout)[-1500:].decode()}")
        return done.stdout

    def in_turns(self, ours: tuple[str, ...], code: str, *words: str) -> tuple[bytes, list[float], list[Turn]]:
        """Run ``moai OURS`` and a script in turns: the output of the one, the step times of the other, and the turns."""
        told = self.folder / "times.json"
        told.unlink(missing_ok=True)
        out, log = self.folder / "ours.out", self.folder / "bare.log"
        turns: list[Turn] = []
        with open(out, "wb") as mine, open(log, "wb") as theirs:
            argv = [self.python, "-u", "-c", code, *words, str(told)]
            bare = subprocess.Popen(argv, env=self.env, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
            moai = subprocess.Popen(
                [*self.laptop.argv, *ours], env={**self.laptop.env, "HF_HUB_OFFLINE": "1"}, stdin=subprocess.DEVNULL,
                stdout=mine, stderr=mine,
            )  # fmt: skip
            began = time.monotonic()
            try:
                while moai.poll() is None and bare.poll() is None:
                    if time.monotonic() - began > _LIMIT_S:
                        raise RuntimeError(f"not finished within {_LIMIT_S} s")
                    turns.append(self._turn("ours", [bare.pid]))
                    turns.append(self._turn("bare", list(processes_of(self.laptop.folder))))
                if moai.wait(_LIMIT_S) or bare.wait(_LIMIT_S):
                    raise RuntimeError((out.read_bytes()[-1500:] + log.read_bytes()[-1500:]).decode())
            finally:
                for process in (bare, moai):
                    process.kill()
                    process.wait()
        return out.read_bytes(), json.loads(told.read_text()), turns

    def _turn(self, who: str, others: list[int]) -> Turn:
        stopped = [pid for pid in others if _signal(pid, signal.SIGSTOP)]
        begin = time.time()
        try:
            time.sleep(_TURN_S)
            return Turn(who, begin, time.time())
        finally:
            for pid in stopped:
                _signal(pid, signal.SIGCONT)


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def compare(ours: list[float], bare: list[float], turns: list[Turn]) -> Compared:
    """Medians of the turns' mean step seconds, and of the ratios of each turn to the next."""
    found: list[tuple[str, float]] = []
    for who, begin, end in turns:
        times = [at for at in (ours if who == "ours" else bare)[_WARM:] if begin < at < end]
        # Of a turn's first step some lies before it: intervals count from the first step that ended in it.
        found.append((who, (times[-1] - times[0]) / (len(times) - 1) if len(times) > _TURN_STEPS else 0.0))
    ratios = [one / two for (_, one), (_, two) in zip(found[::2], found[1::2], strict=True) if one and two]
    if len(ratios) < _PAIRS:
        raise RuntimeError(f"only {len(ratios)} turns held {_TURN_STEPS} steps of both: more steps (MOAI_BENCH_TRAIN)")
    medians = [statistics.median(mean for name, mean in found if mean and name == who) for who in ("ours", "bare")]
    return Compared(medians[0], medians[1], statistics.median(ratios))


def recipe(bench: Bench) -> Row:
    """The recipe beside the same Trainer in a script."""
    model = tinymodel.build(bench.folder / "model", python=bench.python, hidden=HIDDEN, layers=LAYERS)
    data, prepared = bench.folder / "news.jsonl", bench.folder / "prepared"
    news.write_jsonl(str(data), min(STEPS * BATCH * 2, 4000))
    bench.moai(
        "remote", "prepare", str(data), "--model", str(model), "--block-size", str(BLOCK), "--output", str(prepared),
        "--on", "local", "--env", bench.python,
    )  # fmt: skip
    words = (
        "remote", "train", "--model", str(model), "--dataset", str(prepared), "--method", "full", "--max-steps", str(STEPS),
        "--batch-size", str(BATCH), "--set", "logging_steps=1", "--set", "save_steps=0", "--set", "eval_steps=0",
        "--setenv", "OMP_NUM_THREADS=1", "--on", "local", "--env", bench.python, "--json",
    )  # fmt: skip

    def launch() -> Compared:
        argv = (str(model), str(prepared), str(bench.folder / "bare"), str(STEPS), str(BATCH))
        out, bare, turns = bench.in_turns(words, _BARE, *argv)
        events = [json.loads(line) for line in out.splitlines() if line.startswith(b"{")]
        ours = [_seconds(e["time"]) for e in events if e["type"] == "metric" and "loss" in e["data"]["values"]]
        return compare(ours, bare, turns)

    return _row("step time, recipe (full)", "the same HF Trainer in a script", launch, 1.01)


def own_script(bench: Bench) -> Row:
    """A script of one's own, followed line by line, beside the same from a shell."""
    script, told = bench.folder / "own.py", bench.folder / "own.json"
    script.write_text(_OWN)
    steps, width = str(STEPS * 2), str(HIDDEN * 4)
    words = ("remote", "train", "--on", "local", "--setenv", "OMP_NUM_THREADS=1", "--", bench.python, "-u", str(script), steps, width, str(told))

    def launch() -> Compared:
        _, bare, turns = bench.in_turns(words, _OWN, steps, width)
        return compare(json.loads(told.read_text()), bare, turns)

    return _row("own script's step time, a line a step", "the same from a shell", launch, 1.005)


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def _row(what: str, against: str, launch: Callable[[], Compared], aim: float) -> Row:
    found = [launch() for _ in range(_LAUNCHES)]
    print(f"  ratios of the launches: {', '.join(f'{one.ratio:.3f}' for one in found)}", file=sys.stderr, flush=True)
    ours, bare, ratio = (statistics.median(values) for values in zip(*found, strict=True))
    return Row(what, against, _fine(ours), _fine(bare), ratio, f"<= {aim}x", ratio <= aim)


def _fine(seconds: float) -> str:
    return ms(seconds) if seconds >= 1 else f"{seconds * 1000:.2f} ms"


def rows(folder: Path) -> list[Row]:
    """All rows of this file; none without a train environment."""
    python = tinymodel.train_python()
    if python is None:
        print("SKIPPED: no train environment (make train-env)", file=sys.stderr)
        return []
    bench = Bench(folder, str(python))
    found = []
    try:
        for part in (recipe, own_script):
            found.append(part(bench))
            print(found[-1].line(), flush=True)
    finally:
        kill_below(bench.laptop.folder)
        wait_until(lambda: not processes_of(bench.laptop.folder), "the agent to end", 20)
    return found

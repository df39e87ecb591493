"""What moai costs a training: the same steps bare, alternately, on the accelerator or the CPU that is here.

The bare trainings are scripts as a user has them, run from a shell; both write the time of each step
themselves. ``MOAI_BENCH_TRAIN`` = steps, hidden size, layers, block, batch (60,256,4,128,8);
``MOAI_TRAIN_PYTHON``: interpreter with torch and transformers (``.venv-train``).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from fakes import news, tinymodel
from fakes.box import Laptop
from fakes.sshd import wait_until
from measure import Row, ms

ROUNDS = max(3, int(os.environ.get("MOAI_BENCH_ROUNDS") or 10) // 2)
STEPS, HIDDEN, LAYERS, BLOCK, BATCH = map(int, (os.environ.get("MOAI_BENCH_TRAIN") or "60,256,4,128,8").split(","))
#: The first steps pay for allocators, caches and kernels, on either side.
_WARM = 5

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


def interval(times: list[float]) -> float:
    """Median seconds of a step, the first ones left out."""
    assert len(times) > 2 * _WARM, len(times)
    return statistics.median(after - before for before, after in zip(times[_WARM:], times[_WARM + 1 :], strict=False))


class Bench:
    """A laptop that trains on itself (``--on local``): the container's side is the same code."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder, self.python = folder, python
        self.laptop = Laptop(folder / "laptop")
        # One thread leaves a core to whoever follows, as on a container whose accelerator computes.
        self.env = {**self.laptop.env, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def moai(self, *words: str) -> bytes:
        """Output of a command that must succeed."""
        done = self.laptop.moai(*words, timeout=900, HF_HUB_OFFLINE="1")
        if done.returncode:
            raise RuntimeError(f"{words[:4]} ended with {done.returncode}: {(done.stderr + done.stdout)[-1500:].decode()}")
        return done.stdout

    def bare(self, code: str, *words: str) -> list[float]:
        """Times of the steps of a script run from a shell, its output in a file."""
        told = self.folder / "times.json"
        told.unlink(missing_ok=True)
        with open(self.folder / "bare.log", "wb") as log:
            argv = [self.python, "-u", "-c", code, *words, str(told)]
            done = subprocess.run(argv, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)
        if done.returncode:
            raise RuntimeError((self.folder / "bare.log").read_text()[-1500:])
        times: list[float] = json.loads(told.read_text())
        return times


def recipe(bench: Bench) -> Row:
    """The recipe beside the same Trainer in a script."""
    model = tinymodel.build(bench.folder / "model", python=bench.python, hidden=HIDDEN, layers=LAYERS)
    data = bench.folder / "news.jsonl"
    news.write_jsonl(str(data), STEPS * BATCH * 2)
    made: list[str] = []

    def ours() -> float:
        out = bench.moai(
            "remote", "train", "--model", str(model), "--dataset", str(data), "--method", "full", "--max-steps", str(STEPS),
            "--batch-size", str(BATCH), "--block-size", str(BLOCK), "--set", "logging_steps=1", "--set", "save_steps=0",
            "--set", "eval_steps=0", "--setenv", "OMP_NUM_THREADS=1", "--on", "local", "--env", bench.python, "--json",
        )  # fmt: skip
        events = [json.loads(line) for line in out.splitlines()]
        if not made:
            shown = json.loads(bench.moai("remote", "show", events[0]["job"], "--on", "local", "--json"))
            made.append(next(step for step in shown["plan"]["steps"] if step["name"] == "prepare")["inputs"]["output"])
        return interval([_seconds(e["time"]) for e in events if e["type"] == "metric" and "loss" in e["data"]["values"]])

    def theirs() -> float:
        return interval(bench.bare(_BARE, str(model), made[0], str(bench.folder / "bare"), str(STEPS), str(BATCH)))

    ours()  # Prepares the data set, for both.
    return _row("step time, recipe (full)", "the same HF Trainer in a script", ours, theirs, 1.01)


def own_script(bench: Bench) -> Row:
    """A script of one's own, followed line by line, beside the same from a shell."""
    script = bench.folder / "own.py"
    script.write_text(_OWN)
    steps, width = str(STEPS * 10), str(HIDDEN * 4)
    told = bench.folder / "own.json"

    def ours() -> float:
        words = ("--", bench.python, "-u", str(script), steps, width, str(told))
        bench.moai("remote", "train", "--on", "local", "--setenv", "OMP_NUM_THREADS=1", *words)
        return interval(json.loads(told.read_text()))

    return _row("own script's step time, a line a step", "the same from a shell", ours, lambda: interval(bench.bare(_OWN, steps, width)), 1.005)


def _seconds(stamp: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def _row(what: str, against: str, ours: object, theirs: object, aim: float) -> Row:
    """Median of the rounds' ratios: what slows a whole round slows both of it."""
    mine, other = [], []
    for number in range(ROUNDS):
        pair = [(mine, ours), (other, theirs)]
        for times, measure in pair if number % 2 else reversed(pair):
            times.append(measure())  # type: ignore[operator]
    ratio = statistics.median(one / two for one, two in zip(mine, other, strict=True))
    spread = ", ".join(f"{one / two:.3f}" for one, two in zip(mine, other, strict=True))
    print(f"  ratios: {spread}", file=sys.stderr, flush=True)
    here, there = statistics.median(mine), statistics.median(other)
    return Row(what, against, _fine(here), _fine(there), ratio, f"<= {aim}x", ratio <= aim)


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
        from fakes import box as boxes

        boxes.kill_below(bench.laptop.folder)
        wait_until(lambda: not boxes.processes_of(bench.laptop.folder), "the agent to end", 20)
    return found

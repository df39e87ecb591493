"""What happens between two training steps: reports, saving, requests, and the check for NaN.

Owns the decision when a checkpoint is made (every N steps, by the clock, on request, at a stop, at the
best evaluation), when a run that no longer improves ends, and the turning of the Trainer's log entries into typed reports. Knows no torch: ``attach`` mixes it with
the installed ``TrainerCallback``. Runs in the training process; with several processes rank 0
decides and ``agree`` tells the others.
"""

import math
import os
import shutil
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from . import checkpoints
from .asked import CHECKPOINT, EVALUATE, LOG_INTERVAL, STOP, Asked

_SAVE, _STOP, _EVALUATE = 1, 2, 4
#: Bits of the number all ranks agree on that lie below the new log interval.
_FLAG_BITS = 8


class Best(NamedTuple):
    """The evaluation with the lowest loss."""

    step: int
    loss: float


class StepWatch:
    """The callback's behaviour.

    Args:
        report: the step's Reporter (silent on ranks other than 0).
        total: optimizer steps of the whole run.
        row_tokens: mean tokens in a row, padding included.
        settings: the TrainSettings.
        identity: recorded in each checkpoint (``checkpoints.seal``).
        leader: True on rank 0. first_here: True on the first process of each container.
        agree: sends rank 0's number to all ranks and returns it; the others give 0, and all wait.
        can_evaluate: there are rows to evaluate on.
        checkpoint_bytes: what a checkpoint will take, told to the watchers; 0 = not known.
        clock: monotonic seconds; replaced in tests.
        sizes: bytes of a checkpoint before one was made, and of the result that must still fit behind it.
        free: bytes free for a path; replaced in tests.
        spread: gives the other containers what a checkpoint has on rank 0 only; every rank calls it.
        ran: told the steps done after each, and whether it is to be kept at once (``TrainingRuns.at``).
    """

    def __init__(
        self,
        report: Any,
        total: int,
        row_tokens: float,
        settings: Any,
        identity: Dict[str, Any],
        leader: bool = True,
        agree: Callable[[int], int] = int,
        can_evaluate: bool = False,
        checkpoint_bytes: int = 0,
        clock: Callable[[], float] = time.monotonic,
        first_here: bool = True,
        sizes: Tuple[int, int] = (0, 0),
        free: Callable[[str], int] = lambda path: shutil.disk_usage(path).free,
        spread: Callable[[str], Any] = lambda path: None,
        ran: Callable[[int, bool], None] = lambda step, now: None,
    ) -> None:
        self.report = report
        self.total = total
        self.tokens_per_step = row_tokens * settings.batch_size
        self.settings = settings
        self.identity = identity
        self.leader = leader
        self.first_here = first_here
        self.agree = agree
        self.clock = clock
        self.losses: List[List[float]] = []
        self.saved: List[str] = []
        self.stopped = False
        self.bad_loss: Optional[List[float]] = None
        self.stopped_early = False
        self.best: Optional[Best] = None
        self.step = 0
        self.can_evaluate = can_evaluate
        self.checkpoint_bytes = checkpoint_bytes
        self._asked = Asked(settings.control)
        self._line_step = 0
        self._line_time = 0.0
        self._rate: Optional[float] = None
        self._first: Optional[List[float]] = None
        self._save_time = 0.0
        self._checkpoint_bytes, self._result_bytes = sizes
        self._free = free
        self.spread = spread
        self._ran = ran

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        apply_rates(args, kwargs.get("optimizer"), kwargs.get("lr_scheduler"))
        self.step = self._line_step = state.global_step
        self._line_time = self._save_time = self.clock()
        if self.settings.keep_best:
            # A resumed run: the best checkpoint of the first one must outlive the rotation too.
            self.best = best_of(state.log_history)[0]
        text = "step {} of {}".format(self.step, self.total)
        more = {"checkpoint_bytes": self.checkpoint_bytes} if self.checkpoint_bytes else {}
        self.report.phase("training", text, step=self.step, total=self.total, **more)
        # A try after a failed one goes on as the one before was told to.
        self._set_interval(self.agree((self._asked.earlier_interval() or 0) if self.leader else 0), args, state)
        self.report.progress(self.step, self.total, "steps", force=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step = state.global_step
        self._ran(self.step, False)
        agreed = self.agree(self._wanted() if self.leader else 0)
        wanted = agreed & ((1 << _FLAG_BITS) - 1)
        if agreed >> _FLAG_BITS:
            self._set_interval(agreed >> _FLAG_BITS, args, state)
            self._done(LOG_INTERVAL, "Figures come every {} steps from now on.".format(agreed >> _FLAG_BITS), agreed >> _FLAG_BITS)
        if wanted & _STOP and not self.stopped:
            self.stopped = True
            self.report.message(
                "Stopping after step {} with a checkpoint.".format(self.step), code="STOPPING", step=self.step
            )
        if self.stopped:
            control.should_training_stop = True
        if wanted & _SAVE:
            control.should_save = True
        if wanted & _EVALUATE:
            control.should_evaluate = True
        if control.should_save:
            # A line before every checkpoint: NaN is seen before it is saved, and a resumed run
            # averages its losses over the same steps as an uninterrupted one.
            control.should_log = True
        if not control.should_log:
            self._progress(force=False)
            self._announce(control)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Optional[Dict[str, Any]] = None, **kw: Any
    ) -> None:
        logs = logs or {}
        step = state.global_step
        if "loss" in logs:
            self._step_line(step, logs)
            if not math.isfinite(float(logs["loss"])):
                self.bad_loss = [step, float(logs["loss"])]
                control.should_training_stop = True
                control.should_save = control.should_evaluate = False
            self._announce(control)
        elif any(name.startswith("eval_") for name in logs):
            self.report.metric(step, _numbers(logs))

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Optional[Dict[str, Any]] = None, **kwargs: Any
    ) -> None:
        if EVALUATE in self._asked:
            loss = _numbers(metrics or {}).get("eval_loss")
            text = "Evaluated after step {}{}.".format(self.step, "" if loss is None else ": loss {:.4f}".format(loss))
            self._done(EVALUATE, text, loss)
        self._judge(args, state, control)
        if control.should_save:
            self.report.phase("saving", "checkpoint of step {}".format(self.step), step=self.step)
        else:
            self.report.phase("training", "step {} of {}".format(self.step, self.total), step=self.step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._save_time = self.clock()
        self.agree(0)  # every rank has written its random-number state
        path = os.path.join(args.output_dir, "checkpoint-{}".format(state.global_step))
        self.spread(path)
        if not self.first_here:
            return
        size = self._checkpoint_bytes = checkpoints.seal(path, state.global_step, self.identity)
        removed = checkpoints.rotate(
            args.output_dir, self.settings.keep_checkpoints, best_path(args.output_dir, self.best)
        )
        self._ran(state.global_step, True)
        self.saved = [old for old in self.saved if old not in removed] + [path]
        self.report.artifact("checkpoint", path, step=state.global_step, size_bytes=size)
        if CHECKPOINT in self._asked or STOP in self._asked:
            self.report.message(
                "Checkpoint of step {} is saved.".format(state.global_step),
                code="CHECKPOINT_SAVED",
                step=state.global_step,
                path=path,
            )
            self._asked.settle(CHECKPOINT, STOP)
        if not control.should_training_stop and not self.stopped:
            self.report.phase("training", "step {} of {}".format(self.step, self.total), step=self.step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.leader:
            return
        self._asked.look()
        if self._asked and self.bad_loss is None:
            self.report.message(
                "The training ended at step {} before the request was read.".format(state.global_step),
                code="STOPPING" if STOP in self._asked else "",
                step=state.global_step,
            )
            self._asked.settle()

    def _judge(self, args: Any, state: Any, control: Any) -> None:
        """Early stop and keep-best: the same on every rank, as all have the same log of evaluations."""
        if not (self.settings.early_stop or self.settings.keep_best):
            return
        best, since = best_of(state.log_history)
        self.best = best
        if self.bad_loss is not None or best is None:
            return
        if self.settings.keep_best and best.step == self.step:
            # Not only noted: what is best must be there when the run has gone on and ended.
            control.should_save = True
        if not self.settings.early_stop or since < self.settings.early_stop or self.step >= self.total:
            return
        control.should_training_stop = self.stopped_early = True
        self.report.message(
            "Ending at step {} of {}: {} evaluations brought no eval_loss below {:.6g}, that of step {}.".format(
                self.step, self.total, since, best.loss, best.step
            ),
            code="EARLY_STOP",
            step=self.step,
            best_step=best.step,
            best_loss=best.loss,
        )

    def _wanted(self) -> int:
        """What shall happen after this step, decided by rank 0: flags, and above them a new log interval."""
        self._asked.look()
        last = self.step >= self.total
        wanted = 0
        if CHECKPOINT in self._asked or (STOP in self._asked and not last):
            wanted |= _SAVE
        if STOP in self._asked and not last:
            wanted |= _STOP
        wanted |= self._more_wanted()
        every = self.settings.save_steps
        if every and self.step % every == 0:
            wanted |= _SAVE
        # The model itself is saved after the last step, so the clock asks for nothing there.
        minutes = self.settings.save_minutes
        if minutes and not last and self.clock() - self._save_time >= minutes * 60:
            wanted |= _SAVE
        if wanted & _SAVE and not self._has_room():
            wanted &= ~_SAVE
        return wanted

    def _more_wanted(self) -> int:
        wanted = 0
        if EVALUATE in self._asked:
            if self.can_evaluate:
                wanted |= _EVALUATE
            else:
                self._refuse(EVALUATE, "There are no rows to evaluate on: the data set has no validation split.")
        if LOG_INTERVAL in self._asked:
            interval = self._asked.interval()
            if interval:
                wanted |= interval << _FLAG_BITS
            else:
                self._refuse(LOG_INTERVAL, "The log interval asked for is no number of steps.")
        return wanted

    def _refuse(self, name: str, text: str) -> None:
        self.report.message(text, level="warning", code="UNSUPPORTED", step=self.step, signal=name)
        self._asked.settle(name)

    def _done(self, name: str, text: str, value: Any) -> None:
        """Say that a request is fulfilled; only rank 0 has any."""
        if name in self._asked:
            self.report.message(text, code="SIGNAL_DONE", step=self.step, signal=name, value=value)
            self._asked.settle(name)

    def _set_interval(self, steps: int, args: Any, state: Any) -> None:
        if steps:
            # Older versions read it from the arguments, newer ones from the state.
            args.logging_steps = steps
            state.logging_steps = steps

    def _has_room(self) -> bool:
        """Whether one more checkpoint fits, and the result behind it; says so when not.

        The old ones stay: they go only after a newer one is whole.
        """
        needed = self._checkpoint_bytes + self._result_bytes
        free = self._free(self.settings.output)
        if free >= needed:
            return True
        self.report.message(
            "No checkpoint at step {}: {} has {:.2f} GB free, a checkpoint and the result need {:.2f} GB. "
            "The training goes on and tries again at the next one; earlier checkpoints stay.".format(
                self.step, self.settings.output, free / 1e9, needed / 1e9
            ),
            level="warning",
            code="DISK_FULL",
            step=self.step,
            free_bytes=free,
            needed_bytes=needed,
        )
        self._save_time = self.clock()
        self._asked.settle(CHECKPOINT)  # Whoever asked for it has been answered.
        return False

    def _announce(self, control: Any) -> None:
        """The phase that follows this step, before it may take minutes."""
        if control.should_evaluate:
            self.report.phase("evaluating", "after step {}".format(self.step), step=self.step)
        elif control.should_save:
            self.report.phase("saving", "checkpoint of step {}".format(self.step), step=self.step)

    def _step_line(self, step: int, logs: Dict[str, Any]) -> None:
        now = self.clock()
        steps = max(1, step - self._line_step)
        seconds = max(now - self._line_time, 1e-9)
        if self._first is None:
            # The first window holds attaching and compiling; the estimate starts behind it.
            self._first = [step, now]
            self._rate = steps / seconds
        elif now > self._first[1]:
            self._rate = (step - self._first[0]) / (now - self._first[1])
        self._line_step, self._line_time = step, now
        values = _numbers(logs)
        values["tokens_per_second"] = round(steps * self.tokens_per_step / seconds, 3)
        values["step_seconds"] = round(seconds / steps, 6)
        self.losses.append([step, float(logs["loss"])])
        self.report.metric(step, values)
        self._progress(force=True)
        if self.leader:
            print(_line(step, self.total, values, self._eta()), flush=True)

    def _eta(self) -> Optional[float]:
        return None if not self._rate else round((self.total - self.step) / self._rate, 1)

    def _progress(self, force: bool) -> None:
        rate = None if self._rate is None else round(self._rate, 6)
        self.report.progress(self.step, self.total, "steps", rate, self._eta(), force=force)


def best_of(history: List[Dict[str, Any]]) -> Tuple[Optional[Best], int]:
    """The evaluation with the lowest loss (the first of equals), and how many came after it.

    Made from the whole log each time, so a resumed run counts on where the first one stopped. A loss
    that is no number is never the best, and counts as no improvement.

    Args:
        history: the Trainer's ``log_history``.
    """
    best, since = None, 0
    for entry in history:
        if "eval_loss" not in entry:
            continue
        loss = float(entry["eval_loss"])
        if math.isfinite(loss) and (best is None or loss < best.loss):
            best, since = Best(int(entry["step"]), loss), 0
        else:
            since += 1
    return best, since


def best_path(folder: str, best: Optional[Best]) -> Optional[str]:
    """Where the checkpoint of the best evaluation lies or would lie."""
    return None if best is None else os.path.join(folder, "checkpoint-{}".format(best.step))


def apply_rates(args: Any, optimizer: Any, scheduler: Any) -> None:
    """Make a loaded optimizer follow this run's settings.

    A checkpoint's optimizer and schedule bring back the learning rate and weight decay they were made
    with, and a rate changed at a resume would be ignored in silence. Without a change, the values are
    what they were.
    """
    groups = getattr(optimizer, "param_groups", None)
    bases, factors = getattr(scheduler, "base_lrs", None), getattr(scheduler, "lr_lambdas", None)
    if not groups or not bases or not factors or any(base == 0 for base in bases):
        return
    # Only what transformers makes: one rate for all, the second group without decay.
    if len(set(bases)) == 1 and bases[0] != args.learning_rate:
        scheduler.base_lrs = [args.learning_rate] * len(bases)
        for group, factor in zip(groups, factors):
            group["initial_lr"] = args.learning_rate
            group["lr"] = args.learning_rate * factor(scheduler.last_epoch)
        scheduler._last_lr = [group["lr"] for group in groups]
    if len(groups) == 2 and groups[1].get("weight_decay") == 0:
        groups[0]["weight_decay"] = args.weight_decay


def attach(watch: StepWatch) -> Any:
    """The watch as a callback of the installed transformers."""
    import transformers

    class TrainerWatch(transformers.TrainerCallback):
        """Hands the Trainer's events over to a StepWatch."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            # The training rows' loader is made; from here on only evaluations make one, and they leave no
            # row out: of a validation split smaller than a batch nothing would be left, and no eval_loss.
            args.dataloader_drop_last = False
            watch.on_train_begin(args, state, control, **kwargs)

        on_step_end = staticmethod(watch.on_step_end)
        on_log = staticmethod(watch.on_log)
        on_evaluate = staticmethod(watch.on_evaluate)
        on_save = staticmethod(watch.on_save)
        on_train_end = staticmethod(watch.on_train_end)

    return TrainerWatch()


def agree_over_processes(device: Any) -> Callable[[int], int]:
    """Send rank 0's number to all ranks, which waits for all; without a process group, the number."""
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return int

    def agree(value: int) -> int:
        shared = torch.tensor([value], dtype=torch.int64, device=device)
        # A sum, where the others give 0: unlike a broadcast it ends only when every rank has come.
        torch.distributed.all_reduce(shared)
        return int(shared.item())

    return agree


def _numbers(logs: Dict[str, Any]) -> Dict[str, float]:
    """The entries that are numbers; tensors of one element count (grad_norm in some versions)."""
    values = {}
    for name, value in logs.items():
        if hasattr(value, "item"):
            value = value.item()
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            values[name] = value
    return values


def _line(step: int, total: int, values: Dict[str, float], eta_s: Optional[float]) -> str:
    parts = ["step {}/{}".format(step, total), "loss {:.4f}".format(values.get("loss", float("nan")))]
    if "learning_rate" in values:
        parts.append("lr {:.3g}".format(values["learning_rate"]))
    parts.append("{:.0f} tokens/s".format(values["tokens_per_second"]))
    parts.append("{:.2f} s/step".format(values["step_seconds"]))
    if eta_s is not None:
        hours, rest = divmod(int(eta_s), 3600)
        parts.append("{}:{:02d}:{:02d} left".format(hours, rest // 60, rest % 60))
    return " | ".join(parts)

"""Metrics and progress of one log: which step, out of how many, with which numbers.

Owns the memory of step, total and bars, and the rate limit of bars (once a whole percent). Refuses
to invent a step: the Trainer's dict lines carry none, so theirs is the count of the bar drawn beside
them, marked ``"step_source": "progress_bar"``. Runs in the agent (Python 3.8, standard library
only).
"""

import math
import re
from typing import Any, Dict, List, Optional

from moai_agent.jobs import bars, dialects
from moai_agent.jobs.faults import FaultTracker, Report, clip
from moai_agent.jobs.phases import PhaseTracker

#: Bars whose last percent is remembered.
MAX_BARS = 16

_TRAIN_LABEL = re.compile(r"train|epoch|step|iter")
_EVAL_LABEL = re.compile(r"eval|valid|test|predict")
_WORDS_OF_NUMBERS = ("loss", "duration", "throughput", "| tps")


class MetricTracker:
    """Follows the numbers of one log.

    Args:
        steps, drawn: JSON-able dicts this tracker reads and writes; the caller keeps them.
        phases: told when numbers prove a phase.
        faults: told when numbers prove that the run is alive.
    """

    def __init__(
        self, steps: Dict[str, Any], drawn: Dict[str, Any], phases: PhaseTracker, faults: FaultTracker
    ) -> None:
        self._steps = steps
        self._bars = drawn
        self._phases = phases
        self._faults = faults

    def line(self, text: str, lower: str, out: List[Report]) -> bool:
        """Judge a line without bars; True when it held numbers. ``lower`` is ``text.lower()``."""
        if "{" in text and ("'" in text or '"' in text):
            found = dialects.parse_dict(text)
            if found is not None:
                self.step(found, out, from_dict=True)
                return True
        if "total" in lower:
            total = dialects.parse_total(text)
            if total:
                self._begin(total, "optimization" in lower, out)
                return True
        if "num e" in lower or "batch size" in lower:
            fact = dialects.parse_trainer_fact(text)
            if fact is not None:
                self._steps[fact[0]] = fact[1]
                return True
        if not any(word in lower for word in _WORDS_OF_NUMBERS):
            return False
        found = dialects.parse_step(lower)
        if found is not None:
            self.step(found, out)
            return True
        values = dialects.parse_second_line(lower) if self._steps.get("open") is not None else None
        if values is None:
            return False
        self._metric(self._steps.pop("open"), self._steps.get("total"), values, out)
        return True

    def _begin(self, total: int, now: bool, out: List[Report]) -> None:
        """A run said how many steps it will have; ``now`` when its training begins with that."""
        self._steps.pop("last", None)
        self._steps["total"] = total
        facts = {name: self._steps.pop(name, None) for name in ("num_examples", "num_epochs", "batch_size")}
        if now:
            text = "training, %d steps" % total
            out.extend(self._phases.enter("training", text, total_steps=total, **facts))
        out.append(_progress(0, total, "steps"))

    def step(self, line: dialects.StepLine, out: List[Report], from_dict: bool = False) -> None:
        """Report a line of numbers: metric, then progress where the total is known."""
        if line.kind != "setup":
            self._faults.good()
        if line.total:
            self._steps["total"] = line.total
        total = self._steps.get("total")
        if line.kind != "train":
            step = line.step if line.step is not None else self._steps.get("last")
            self._metric(None if line.kind == "summary" else step, total, line.values, out)
            if line.kind == "summary":
                out.extend(self._phases.enter("trained", "the training loop has ended"))
            return
        if self._phases.current != "training":
            out.extend(self._phases.enter("training", "training"))
        if line.step is None:
            self._stepless(line, total, from_dict, out)
            return
        self._steps["last"] = line.step
        self._metric(line.step, total, line.values, out)
        if total:
            out.append(_progress(line.step, total, "steps", None, line.eta_seconds))
        # One script printed duration and throughput on a line of their own.
        complete = "printed_duration_seconds" in line.values or "warmup_seconds" in line.values
        self._steps.pop("open", None)
        if "loss" in line.values and not complete:
            self._steps["open"] = line.step

    def _stepless(
        self, line: dialects.StepLine, total: Optional[int], from_dict: bool, out: List[Report]
    ) -> None:
        if line.rows is not None:
            self._metric(None, None, line.values, out)
            out.append(_progress(line.rows[0], line.rows[1], "rows"))
        elif from_dict and self._bars.get("bare"):
            # The Trainer's own bar, drawn just before, has no label.
            self._bars["proven"] = True
            self._steps["last"] = self._bars["done"]
            self._metric(self._bars["done"], self._bars["total"], line.values, out, "progress_bar")
        else:
            self._metric(None, total, line.values, out)

    def _metric(
        self,
        step: Optional[int],
        total: Optional[int],
        values: Dict[str, float],
        out: List[Report],
        source: str = "",
    ) -> None:
        if not values:
            return
        data = {"step": step, "values": values}  # type: Dict[str, Any]
        if total:
            data["total"] = total
        if source:
            data["step_source"] = source
        out.append(("metric", data))
        loss = values.get("loss", 0.0)
        if not math.isfinite(loss) and not self._steps.get("not_finite"):
            self._steps["not_finite"] = True
            text = "the loss is %s%s" % (loss, "" if step is None else " at step %d" % step)
            advice = "lower the learning rate or look at the data; training goes on"
            out.append(("message", {"text": text, "level": "warning", "code": "NAN_LOSS", "next": advice}))

    def draw(self, drawn: List[bars.Bar], out: List[Report]) -> None:
        """Report the bars of a line, each at most once a whole percent."""
        for bar in drawn:
            label = bar.label.lower()
            if bar.unit == "B":
                self._other(bar, "bytes", out)
            elif label.startswith("loading"):
                self._counted("loading", "loading the model", bar, out)
            elif bar.unit.startswith(("example", "row", "sample", "line")):
                self._other(bar, "rows", out)
            elif label.startswith(("fetching", "downloading")) or bar.unit.startswith("file"):
                self._other(bar, "files", out)
            elif _EVAL_LABEL.search(label):
                self._counted("evaluating", "evaluating", bar, out)
            elif self._is_training(bar, label):
                self._training(bar, out)
            elif label and not _TRAIN_LABEL.search(label):
                self._other(bar, "items", out)

    def _is_training(self, bar: bars.Bar, label: str) -> bool:
        """The Trainer's bar has no label; evaluation draws one too, with another total."""
        if label and not _TRAIN_LABEL.search(label):
            return False
        known = self._steps.get("total") or self._bars.get("total")
        if known is None or known == int(bar.total):
            return True
        if "total" in self._steps or self._bars.get("proven"):
            return False
        return self._bars["done"] >= self._bars["total"]

    def _training(self, bar: bars.Bar, out: List[Report]) -> None:
        done, total = int(bar.done), int(bar.total)
        if done > self._bars.get("done", 0):
            self._faults.bar_advanced()
        self._bars["total"], self._bars["done"], self._bars["bare"] = total, done, not bar.label
        if not self._changed(bar, "steps"):
            return
        if "loss" in bar.values:
            self._bars["proven"] = True
            self._metric(done, total, bar.values, out)
        out.append(_progress(done, total, "steps", bar.rate, bar.eta_seconds, bar.label))

    def _other(self, bar: bars.Bar, unit: str, out: List[Report]) -> None:
        if self._changed(bar, unit):
            done, total = int(bar.done), int(bar.total)
            out.append(_progress(done, total, unit, bar.rate, bar.eta_seconds, bar.label))

    def _counted(self, phase: str, text: str, bar: bars.Bar, out: List[Report]) -> None:
        if self._changed(bar, phase):
            done, total = int(bar.done), int(bar.total)
            text = "%s, %d of %d" % (text, done, total)
            out.extend(self._phases.enter(phase, text, done=done, total=total))

    def _changed(self, bar: bars.Bar, unit: str) -> bool:
        """Whether a bar shows another whole percent than the last time it was reported."""
        seen = self._bars.setdefault("seen", [])  # type: List[List[Any]]
        key = clip("%s:%s" % (unit, bar.label), 60)
        percent = bar.percent
        for entry in seen:
            if entry[0] == key:
                changed = entry[1] != percent
                entry[1] = percent
                return changed
        seen.append([key, percent])
        del seen[:-MAX_BARS]
        return True


def _progress(
    done: int,
    total: int,
    unit: str,
    rate: Optional[float] = None,
    eta_seconds: Optional[float] = None,
    label: str = "",
) -> Report:
    data = {
        "done": done,
        "total": total,
        "unit": unit,
        "rate": rate,
        "eta_seconds": eta_seconds,
    }  # type: Dict[str, Any]
    if label:
        data["label"] = label
    return ("progress", data)

"""The ways training scripts print their numbers: step lines, metric dicts, own patterns.

Owns the regular expressions and the field extraction; keeps no state and judges one line (or a part
of one) at a time, so every function here is pure. ``logparse`` decides what to report. Refuses to
guess: a line counts only with a step *and* a number that belongs to training, so ``[Step 1/5]
Installing`` of a build script is not a training step. Runs in the agent (Python 3.8, standard
library only).

Names of values: ``loss``, ``learning_rate``, ``epoch``, ``grad_norm``, ``eval_loss``; whatever a
script printed about its own speed carries the prefix ``printed_`` because accelerators run
asynchronously and such timers often stop before the work is done.

Formats: the Moreh tutorial scripts of 2022-2025 (loguru and print), the dict lines of the Hugging
Face Trainer (numbers, or numbers in quotes since transformers 5), nanoGPT and Keras-like lines. Progress
bars are in ``bars``.
"""

import json
import math
import re
from typing import Dict, Match, NamedTuple, Optional, Pattern, Tuple

#: One object for every NaN, so that equal reports compare equal.
NAN = math.nan

#: An own pattern is applied to this much of a line; patterns are the user's and may be slow.
PATTERN_TEXT_CHARS = 4096
#: Longest own pattern in bytes of (ASCII) JSON; it travels in the parser's state.
PATTERN_BYTES = 2000
#: Most values kept of one line.
MAX_VALUES = 64

NUMBER = (
    r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?(?:[eE][-+]?\d+)?"
    r"|\.\d+(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)"
)


def _field(expression: str) -> Pattern[str]:
    return re.compile(expression.replace("NUM", "(" + NUMBER + ")"))


# Expressions for step lines are applied to lower-case text, which is faster than ignoring case.
# Where the step stands: the first three belong to known scripts and need any number of training
# beside them; the last is the common shape of home-made loops and needs a loss.
_STEP_FORMS = (
    re.compile(r"\[step\s{0,9}:?\s{0,9}(\d+)(?:\s*/\s*(\d+))?\s*\]"),
    re.compile(r"\bstep\s*:\s*\[\s*(\d+)\s*/\s*(\d+)\s*\]"),
    re.compile(r"\biteration\s*:\s*(\d+)\s*/\s*(\d+)"),
)
_GENERIC_STEP = re.compile(
    r"\b(?:(?:global|train(?:ing)?)[ _]?)?(?:step|iter(?:ation)?)\b"
    r"\s{0,9}[:=#]?\s{0,9}\[?\s{0,9}(\d+)(?:\s*(?:/|of)\s*(\d+))?"
)
# It begins with a literal, which is fast to find; what stands before it says whose loss it is.
_LOSS = _field(r"loss\s{0,9}[:=]?\s{0,9}(?:tensor\()?NUM")
_BEFORE_LOSS = re.compile(r"(?:\b(?:(val(?:id(?:ation)?)?|eval|test)|train(?:ing)?)[ _]|(?<!\w))$")
#: (value, a word that must be there, expression)
_FIELDS = (
    ("eval_seconds", "elapsed eval time", _field(r"\belapsed eval time\s*:\s*NUM")),
    ("learning_rate", "lr", _field(r"\blr\s{0,9}[:=]?\s{0,9}NUM")),
    ("learning_rate", "learning", _field(r"\blearning[ _]rate\s{0,9}[:=]?\s{0,9}NUM")),
    ("grad_norm", "norm", _field(r"\bgrad(?:ient)?[ _]norm\s{0,9}[:=]?\s{0,9}NUM")),
    ("epoch", "epoch", _field(r"\bepoch\s{0,9}[:=]?\s{0,9}\[?NUM")),
    ("printed_duration_seconds", "duration", _field(r"\bduration(?: for 1 step)?\s*:\s*NUM")),
)
_THROUGHPUT = _field(r"\b(?:throughput|tps)\s*:\s*NUM\s*(tokens|imgs|images|samples)/s")
_BARE_SAMPLES = _field(r"\|\s*NUM\s*\|\s*throughput")
_REMAINING = _field(r"\bestimated time remaining\s*:\s*NUM\s*s")
_WARMUP = re.compile(r"\bwarm-?up done")
_SAMPLES_STEP = _field(r"\bloss:\s*NUM\s+\[\s*(\d+)\s*/\s*(\d+)\s*\]")
_THROUGHPUT_NAMES = {
    "tokens": "printed_tokens_per_second",
    "imgs": "printed_images_per_second",
    "images": "printed_images_per_second",
    "samples": "printed_samples_per_second",
}

_TOTAL = re.compile(r"\btotal(?:_step\s*:|\s+optimization\s+steps\s*=)\s*([\d,]+)", re.IGNORECASE)
_TRAINER_FACT = re.compile(
    r"\b(Num examples|Num Epochs|Total train batch size)[^=\n]{0,80}=\s*([\d,]+)\s*$", re.IGNORECASE
)
_TRAINER_NAMES = {
    "num examples": "num_examples",
    "num epochs": "num_epochs",
    "total train batch size": "batch_size",
}

_PAIR = re.compile(
    r"""(['"])([A-Za-z_][\w./@-]{0,63})\1\s*:\s*(['"]?)(""" + NUMBER + r""")\3\s*(?=[,}])""", re.IGNORECASE
)
RENAMED = {
    "lr": "learning_rate",
    "tps": "printed_tokens_per_second",
    "duration": "printed_duration_seconds",
    "warmup_duration": "warmup_seconds",
}
_DICT_MARKS = frozenset(
    ["loss", "train_loss", "train_runtime", "val_loss", "tps", "warmup_duration", "grad_norm"]
)


class StepLine(NamedTuple):
    """One line of numbers. ``step`` is as printed (some scripts count from 0), None if absent."""

    step: Optional[int]
    total: Optional[int]
    values: Dict[str, float]
    eta_seconds: Optional[float] = None
    #: ``train``, ``eval``, ``summary`` (the run's totals), ``setup`` (loading, warm-up)
    kind: str = "train"
    #: rows done and all rows, where a script counts samples instead of steps
    rows: Optional[Tuple[int, int]] = None


def to_number(text: str) -> float:
    """Turn printed digits (thousands separators allowed, ``nan``, ``inf``) into a float.

    Raises ValueError when ``text`` is no number.
    """
    value = float(text.replace(",", ""))
    return NAN if math.isnan(value) else value


def _count(text: str) -> int:
    """A count of at most 15 digits; longer ones are no counts and would not survive JSON readers."""
    return int(text.replace(",", "")[:15])


def _numbers(lower: str) -> Dict[str, float]:
    """All training numbers of a line, without judging whether it is a step line."""
    values = {}  # type: Dict[str, float]
    for found in _LOSS.finditer(lower):
        before = _BEFORE_LOSS.search(lower[max(0, found.start() - 12) : found.start()])
        if before:
            values.setdefault("eval_loss" if before.group(1) else "loss", to_number(found.group(1)))
    for name, word, pattern in _FIELDS:
        field = pattern.search(lower) if word in lower else None
        if field:
            values[name] = to_number(field.group(1))
    speed = _THROUGHPUT.search(lower) if "/s" in lower else None
    if speed:
        values[_THROUGHPUT_NAMES[speed.group(2)]] = to_number(speed.group(1))
        bare = _BARE_SAMPLES.search(lower)
        if bare:
            values["printed_samples_per_second"] = to_number(bare.group(1))
    return values


def parse_step(lower: str) -> Optional[StepLine]:
    """Read one step line, eval result or warm-up line of any known script; None if it is none.

    Args:
        lower: the line in lower case.
    """
    rows = _SAMPLES_STEP.search(lower) if "loss:" in lower else None
    if rows:
        counts = (_count(rows.group(2)), _count(rows.group(3)))
        return StepLine(None, None, {"loss": to_number(rows.group(1))}, rows=counts)
    values = _numbers(lower)
    if not values:
        return None
    kind = "eval" if "eval_loss" in values and "loss" not in values else "train"
    found = _step_form(lower)
    if found and set(values) - {"epoch"}:
        step = _count(found.group(1))
        total = _count(found.group(2)) if found.group(2) else None
        if "model loading duration" in lower:
            return StepLine(step, total, _renamed(values, "model_loading_seconds"), kind="setup")
        if _WARMUP.search(lower):
            values = _renamed(values, "warmup_seconds")
        left = _REMAINING.search(lower)
        return StepLine(step, total, values, to_number(left.group(1)) if left else None, kind)
    if "loss" not in values and "eval_loss" not in values:
        if "printed_duration_seconds" in values and _WARMUP.search(lower):
            return StepLine(None, None, _renamed(values, "warmup_seconds"), kind="setup")
        return None
    generic = _GENERIC_STEP.search(lower)
    if generic:
        total = _count(generic.group(2)) if generic.group(2) else None
        return StepLine(_count(generic.group(1)), total, values, kind=kind)
    if kind == "eval" or "epoch" in values:
        return StepLine(None, None, values, kind=kind)
    return None


def _step_form(lower: str) -> Optional[Match[str]]:
    for form in _STEP_FORMS:
        found = form.search(lower)
        if found:
            return found
    return None


def _renamed(values: Dict[str, float], duration_name: str) -> Dict[str, float]:
    renamed = dict(values)
    if "printed_duration_seconds" in renamed:
        renamed[duration_name] = renamed.pop("printed_duration_seconds")
    return renamed


def parse_second_line(lower: str) -> Optional[Dict[str, float]]:
    """Read ``Duration: d | Throughput: t tokens/sec``, which one script printed below its step line."""
    if _THROUGHPUT.search(lower) is None or _step_form(lower) is not None:
        return None
    values = _numbers(lower)
    return values if "printed_duration_seconds" in values else None


def parse_dict(text: str) -> Optional[StepLine]:
    """Read a metric dict (Hugging Face Trainer, JSON lines); None unless it holds training numbers.

    Field by field instead of ``ast.literal_eval``: NaN and inf are no Python literals, and other
    text may surround the braces.
    """
    values = {}  # type: Dict[str, float]
    marks = False
    step = None
    for _, key, _, number in _PAIR.findall(text, text.index("{")):
        if key in ("step", "global_step"):
            value = to_number(number)
            step = int(value) if math.isfinite(value) else None
            continue
        marks = marks or key in _DICT_MARKS or key.startswith("eval_")
        if len(values) < MAX_VALUES:
            values[RENAMED.get(key, key)] = to_number(number)
    if not marks:
        return None
    if "loss" in values:
        kind = "train"
    elif "train_runtime" in values:
        kind = "summary"
    elif any(key.startswith("eval_") or key == "val_loss" for key in values):
        kind = "eval"
    else:
        kind = "setup"
    return StepLine(step, None, values, kind=kind)


def parse_total(text: str) -> Optional[int]:
    """Read how many steps a run will have (``Total optimization steps = N``, ``total_step: N``)."""
    found = _TOTAL.search(text)
    return _count(found.group(1)) if found else None


def parse_trainer_fact(text: str) -> Optional[Tuple[str, int]]:
    """Read a line of the Trainer's opening block as (``num_examples``, 25528); None if it is none."""
    found = _TRAINER_FACT.search(text)
    if not found:
        return None
    return _TRAINER_NAMES[found.group(1).lower()], _count(found.group(2))


def compile_pattern(pattern: str) -> Pattern[str]:
    """Compile a user's own pattern.

    Args:
        pattern: a regular expression with named groups; ``step`` and ``total`` are counts, ``lr``
            becomes ``learning_rate``, every other name is a value.

    Raises:
        ValueError: not a regular expression, no named group, or longer than ``PATTERN_BYTES``.
    """
    size = len(json.dumps(pattern))
    if size > PATTERN_BYTES:
        raise ValueError("the pattern takes %d bytes as JSON; at most %d are allowed" % (size, PATTERN_BYTES))
    try:
        compiled = re.compile(pattern)
    except re.error as exc:
        raise ValueError("the pattern %r is not a regular expression: %s" % (pattern[:200], exc)) from exc
    if not compiled.groupindex:
        raise ValueError("the pattern %r has no named group such as (?P<loss>[0-9.]+)" % pattern[:200])
    return compiled


def parse_pattern(pattern: Pattern[str], text: str) -> Optional[StepLine]:
    """Apply a user's pattern to the first ``PATTERN_TEXT_CHARS`` characters of a line."""
    found = pattern.search(text[:PATTERN_TEXT_CHARS])
    if not found:
        return None
    values = {}  # type: Dict[str, float]
    counts = {}  # type: Dict[str, int]
    for name, group in found.groupdict().items():
        if group is None:
            continue
        try:
            value = to_number(group.strip())
        except ValueError:
            continue
        if name in ("step", "total"):
            if math.isfinite(value):
                counts[name] = int(value)
        elif len(values) < MAX_VALUES:
            values[{"lr": "learning_rate"}.get(name, name)] = value
    if not values and "step" not in counts:
        return None
    return StepLine(counts.get("step"), counts.get("total"), values)

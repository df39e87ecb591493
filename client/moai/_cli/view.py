"""What a followed job looks like: a line a finished step, a live status, plain lines without a terminal."""

from __future__ import annotations

import math
import time
from typing import Any

import moai
from moai._cli.clean import clean, pad
from moai._cli.common import columns, has_colour
from moai._cli.curve import sparkline
from moai._cli.language import reason_sentence, say, state_word
from moai._cli.table import STATE_STYLE, duration, paint, size

_MARKS = {"SUCCEEDED": ("✓", "green"), "SKIPPED": ("✓", "dim"), "FAILED": ("✗", "red"), "CANCELLED": ("■", "yellow")}
#: Without a terminal progress is repeated this often only.
_PLAIN_S = 10.0
_BAR = 20


class JobView:
    """Folds events into lines for people. ``feed`` returns the finished lines of an event."""

    def __init__(self, plain: bool, quiet_commands: bool = False) -> None:
        self.plain = plain
        self.colour = has_colour(plain)
        self.state, self.step, self.phase = "", "", ""
        self.progress: dict[str, Any] | None = None
        self.metrics: dict[str, float] = {}
        self.metric_step: int | None = None
        self.metric_total: int | None = None
        self.losses: list[float] = []
        self.link: moai.MoaiError | None = None
        self.condition = ""
        self.started_s: dict[str, float] = {}
        self.phase_s = 0.0
        self.usual = ""
        self.life = ""
        self.last_event: moai.Event | None = None
        self._quiet = quiet_commands
        self._printed_s = 0.0
        self._tokens = 0.0

    # -- events --------------------------------------------------------------------------------

    def feed(self, event: moai.Event) -> list[str]:
        """Lines to print for good."""
        self.last_event = event
        handler = getattr(self, "_on_" + event.type, None)
        return [line for line in handler(event, event.data) if line] if handler else []

    def _on_state(self, event: moai.Event, data: dict[str, Any]) -> list[str]:
        self.state = clean(data["state"])
        reason = data.get("reason") or {}
        waiting = self.state == "QUEUED" or (not event.is_last and reason)
        self.condition = reason.get("message", "") if waiting else ""
        if event.is_last:
            return []
        # A stall and a retry come with a message that says the same in full.
        if self.condition and reason.get("code") not in ("STALLED", "RETRYING"):
            return [self._stamp(f"{self.state.lower()}: {clean(self.condition)}")]
        return []

    def _on_step(self, event: moai.Event, data: dict[str, Any]) -> list[str]:
        name, state = clean(str(data["name"])), clean(data["state"])
        moment = event.time.timestamp() if event.time else time.time()
        if state == "RUNNING":
            self.step, self.phase, self.progress = name, "", None
            self.phase_s, self.usual, self.life = moment, "", ""
            self.metrics, self.metric_step, self.metric_total, self.losses = {}, None, None, []
            self.started_s[name] = moment
            return [] if not self.plain or self._quiet else [self._stamp(f"{name}: started")]
        took = moment - self.started_s.get(name, moment)
        if self._quiet:
            return []  # One step only: the job's own ending says it.
        mark, style = _MARKS.get(state, ("?", "dim"))
        said = _result_text(name, data.get("result") or {})
        if state == "FAILED" and data.get("reason"):
            said = clean(data["reason"]["message"])
        text = f"{pad(name, 17)} {said}  {paint(duration(took), 'dim', self.colour)}"
        return [self._stamp(f"{paint(mark, style, self.colour)} {text}" if not self.plain else f"{name}: {state.lower()} {said} ({duration(took)})")]

    def _on_phase(self, event: moai.Event, data: dict[str, Any]) -> list[str]:
        self.phase_s = event.time.timestamp() if event.time else time.time()
        self.usual = _usual_text(data)
        # The text is a sentence that says the phase; the bare name stands in for it.
        self.phase = clean(str(data.get("text") or data["phase"])).strip()
        return [self._stamp(f"{self.step}: {self.phase}")] if self.plain and not self._quiet else []

    def _on_progress(self, event: moai.Event, data: dict[str, Any]) -> list[str]:
        self.progress = data
        now = time.monotonic()
        # Training steps have lines of their own.
        if self.plain and now - self._printed_s >= _PLAIN_S and not (data.get("unit") == "steps" and self.losses):
            self._printed_s = now
            return [self._stamp(f"{self.step}: {self._progress_text()}")]
        return []

    def _on_metric(self, event: moai.Event, data: dict[str, Any]) -> list[str]:
        values = data["values"]
        if "process_cpu_seconds" in values:
            self.life = _life_text(values)
            return []
        self.metrics.update(values)
        self.metric_step = data.get("step")
        self.metric_total = data.get("total") or self.metric_total
        loss = data["values"].get("loss")
        if isinstance(loss, (int, float)):
            self.losses.append(float(loss))
        return [self._stamp(f"{self.step}: {self._metric_text()}")] if self.plain and not self._quiet else []

    def _on_message(self, event: moai.Event, data: dict[str, Any]) -> list[str]:
        level = clean(data.get("level") or "info")
        if data.get("code") == "ENVIRONMENT" and level == "info" and self._quiet:
            return []
        style = {"warning": "yellow", "error": "red"}.get(level, "dim")
        return [self._stamp(paint(("" if level == "info" else level + ": ") + clean(data["text"]), style, self.colour))]

    def _on_artifact(self, event: moai.Event, data: dict[str, Any]) -> list[str]:
        if data["kind"] in ("checkpoint",):
            return [self._stamp(paint(f"checkpoint {clean(data['path'])}", "dim", self.colour))]
        return []

    def _on_gap(self, event: moai.Event, data: dict[str, Any]) -> list[str]:
        span = f"bytes {data['start_offset']} to {data['end_offset']} of {clean(data['source'])}"
        return [self._stamp(paint(f"gap: {span}: {clean(data['text'])}", "red", self.colour))]

    def _stamp(self, text: str) -> str:
        if not self.plain or self.last_event is None or self.last_event.time is None:
            return text
        return f"[{self.last_event.time.astimezone():%H:%M:%S}] {text}"

    # -- status --------------------------------------------------------------------------------

    def status(self) -> list[str]:
        """The lines of the live area."""
        if self.link is not None:
            gone = say("the link is gone ({why}); reconnecting. The job goes on.", why=clean(self.link.message))
            return [paint("⋯ " + gone, "yellow", self.colour)]
        if self.condition:
            return [paint(f"⋯ {clean(self.condition)}", "yellow", self.colour)]
        if not self.step:
            return []
        head = paint("●", "cyan", self.colour) + " " + pad(self.step, 12)
        if self.metric_step is not None or self.losses:
            lines = [f"{head} {self._metric_text()}"]
            lines += ["  " + line for line in sparkline(self.losses[-2000:], min(60, columns() - 4), 2)] if len(self.losses) > 2 else []
            if self.phase and "training" not in self.phase:
                lines[0] += f"  {self.phase}"
            return lines
        if self.progress is not None and self.progress.get("done") is not None:
            return [f"{head} {self._progress_text()}"]
        if self._quiet:
            return []
        return [f"{head} {self.phase or 'starting'}{self._phase_clock()}"]

    def _phase_clock(self) -> str:
        """How long the phase lasts, how long it usually takes, and what shows that it lives."""
        since_s = time.time() - self.phase_s if self.phase_s else 0.0
        parts = ([duration(since_s)] if since_s >= 5 else []) + [p for p in (self.usual, self.life) if p]
        return "  (" + "; ".join(parts) + ")" if parts else ""

    def _progress_text(self) -> str:
        p = self.progress or {}
        done, total, unit = p.get("done"), p.get("total"), clean(p.get("unit") or "")
        shown = size if unit == "bytes" else _count
        text = shown(done or 0) + (f" / {shown(total)}" if total else "") + ("" if unit == "bytes" else f" {unit}")
        if p.get("rate"):
            text += f"  {shown(p['rate'])}/s"
        if p.get("eta_seconds") is not None:
            text += f"  ETA {duration(p['eta_seconds'])}"
        return self._bar(done, total) + text

    def _bar(self, done: float | None, total: float | None) -> str:
        if not total or done is None or self.plain or not math.isfinite(done / total):
            return ""
        full = int(_BAR * min(1.0, max(0.0, done / total)))
        return "█" * full + "░" * (_BAR - full) + " "

    def _metric_text(self) -> str:
        p = self.progress or {}
        total = self.metric_total or (p.get("total") if p.get("unit") == "steps" else None)
        step = self.metric_step
        text = self._bar(float(step), float(total)) if step is not None and total else ""
        # Figures of a whole evaluation belong to no step.
        if step is not None or total:
            text += f"step {step if step is not None else '?'}" + (f"/{total:.0f}" if total else "")
        names = (
            ("loss", "loss", ".4f"), ("eval_loss", "eval loss", ".4f"), ("perplexity", "perplexity", ",.2f"),
            ("rougeL", "ROUGE-L", ".4f"), ("learning_rate", "lr", ".2e"),
        )  # fmt: skip
        for name, label, form in names:
            if name in self.metrics:
                text += f"  {label} {self.metrics[name]:{form}}"
        rate = self.metrics.get("tokens_per_second")
        if rate is not None:
            text += f"  {rate:,.0f} tok/s"
        elif "steps_per_second" in self.metrics:
            text += f"  {self.metrics['steps_per_second']:.3g} steps/s"
        if p.get("unit") == "steps" and p.get("eta_seconds") is not None:
            text += f"  ETA {duration(p['eta_seconds'])}"
        return text.strip()

    # -- end -----------------------------------------------------------------------------------

    def ending(self, info: moai.JobInfo) -> list[str]:
        """The last lines: how it ended, where the results are, what to do next."""
        took = (info.end_time - info.start_time).total_seconds() if info.end_time and info.start_time else None
        word = paint(state_word(clean(info.state)), STATE_STYLE.get(info.state, "dim"), self.colour)
        line = f"{word} {clean(info.id)} on {info.host}" + (f" in {duration(took)}" if took is not None else "")
        if info.exit_code not in (None, 0):
            line += f", exit code {info.exit_code}"
        lines = [line]
        if info.reason and info.state != "SUCCEEDED":
            lines.append(f"  {clean(info.reason.code)}: {clean(info.reason.message)}")
            if reason_sentence(info.reason.code):
                lines.append(f"  {reason_sentence(info.reason.code)}")
        if info.output:
            lines.append(f"  {pad(say('output'), 7)} {clean(info.output)}")
        lines += [f"  {pad(say('next'), 7)} {text}" for text in next_commands(info)]
        return lines


def _usual_text(data: dict[str, Any]) -> str:
    span = data.get("usual_seconds")
    if not (isinstance(span, list) and len(span) == 2 and all(isinstance(v, (int, float)) for v in span)):
        return ""
    return f"usually {duration(span[0])} to {duration(span[1])}"


def _life_text(values: dict[str, float]) -> str:
    text = f"{values['process_cpu_share'] / 100:.1f} cores busy" if "process_cpu_share" in values else "alive"
    if values.get("process_rss_bytes"):
        text += f", {size(values['process_rss_bytes'])} memory"
    if values.get("process_read_bytes"):
        text += f", {size(values['process_read_bytes'])} read"
    return text


def _count(value: float) -> str:
    """A number of rows or steps, or a rate of them."""
    return f"{value:.2f}" if value < 10 and value != int(value) else f"{value:,.0f}"


def next_commands(info: moai.JobInfo) -> list[str]:
    """What to type after a job has ended."""
    if info.reason and info.reason.next and info.state != "SUCCEEDED":
        return [clean(info.reason.next)]
    if info.state == "SUCCEEDED" and info.kind == "train" and info.output:
        return [f"moai remote generate {info.id} --prompt '...' --compare", f"moai remote pull {info.id}"]
    if info.state == "SUCCEEDED" and info.kind == "merge" and info.output:
        return [f"moai remote pull {info.id}", f"moai remote upload {info.id} ORG/NAME"]
    if info.state in ("INTERRUPTED", "CANCELLED") and info.kind == "train" and info.output:
        return [f"moai remote resume {info.id}"]
    if info.state in ("FAILED", "UNKNOWN"):
        return [f"moai remote logs {info.id}"]
    return []


def _result_text(name: str, result: dict[str, Any]) -> str:
    """A finished step in a few words, from what it returned."""
    parts: list[str] = []
    if "bytes" in result and name.startswith("download"):
        parts.append(f"{result.get('files', '?')} files, {size(result['bytes'])}")
    if isinstance(result.get("rows"), dict):
        counts = " + ".join(f"{n:,} {split}" for split, n in result["rows"].items())
        parts.append(f"{counts} rows of {result.get('block_size')}")
        if result.get("truncated_share"):
            parts.append(f"{100 * result['truncated_share']:.0f} % cut")
    if result.get("final_loss") is not None:
        parts.append(f"{result.get('steps')} steps, loss {result.get('first_loss', 0):.3f} → {result['final_loss']:.3f}")
    if name.startswith("verify") and "files" in result:
        parts.append(f"{result['files']} files, {size(result.get('bytes'))}, opens")
    if name == "generate" and "count" in result:
        parts.append(f"{result['count']} answers")
    if isinstance(result.get("figures"), dict):
        parts.append(f"loss {result['figures'].get('loss', 0):.4f}, {result.get('rows')} rows")
    if name == "merge" and "tensors" in result:
        parts.append(f"{result['tensors']} tensors, {size(result.get('bytes'))}")
    if isinstance(result.get("summary"), str):
        parts.append(result["summary"])
    if result.get("reused"):
        parts.append("already there")
    return clean(", ".join(parts))

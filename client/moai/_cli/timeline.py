"""A job's events as a timeline for people: steps and phases with how long they took, in the laptop's zone.

What comes many times (progress, losses, signs of life) is folded into the phase it belongs to. The numbered
events themselves are in ``attach --json`` and ``show --events --json``.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import moai
from moai._cli.clean import clean, pad
from moai._cli.table import duration, paint, size

_STYLES = {"FAILED": "red", "UNKNOWN": "red", "INTERRUPTED": "yellow", "CANCELLED": "yellow", "SUCCEEDED": "green"}


class _Span:
    """A step or phase that has begun."""

    def __init__(self, text: str, began: datetime | None) -> None:
        self.text, self.began = text, began
        self.losses: list[tuple[int | None, float]] = []
        self.evaluations: list[float] = []
        self.progress: dict[str, object] | None = None

    def took(self, end: datetime | None) -> str:
        return duration((end - self.began).total_seconds()) if end and self.began else ""

    def folded(self) -> str:
        parts = []
        if self.losses:
            (first, loss), (last, final) = self.losses[0], self.losses[-1]
            steps = f"steps {first} to {last}" if first != last else f"step {first}"
            parts.append(f"{steps}, loss {loss:.4f}" + (f" → {final:.4f}" if len(self.losses) > 1 else ""))
        if self.evaluations:
            parts.append("eval loss " + " → ".join(f"{v:.4f}" for v in [*self.evaluations[:1], *self.evaluations[1:][-1:]]))
        if self.progress and not self.losses and self.progress.get("done"):
            done, unit = float(str(self.progress["done"])), str(self.progress.get("unit") or "")
            parts.append(size(done) if unit == "bytes" else f"{done:,.0f} {unit}")
        return "; ".join(parts)


def timeline(events: Iterable[moai.Event], colour: bool = False) -> list[str]:
    """Lines: the day where it changes, then ``time  step  what  (how long)``."""
    return _Timeline(colour).lines(events)


class _Timeline:
    def __init__(self, colour: bool) -> None:
        self._colour = colour
        self._out: list[str] = []
        self._day = ""
        self._steps: dict[str, _Span] = {}
        self._phase: _Span | None = None
        self._phase_step = ""
        self._held: list[tuple[datetime | None, str, str, str]] = []
        self._last: datetime | None = None

    def lines(self, events: Iterable[moai.Event]) -> list[str]:
        for event in events:
            getattr(self, "_on_" + event.type, self._nothing)(event)
            self._last = event.time or self._last
        self._end_phase(self._last)
        return self._out

    def _put(self, moment: datetime | None, step: str, text: str, style: str = "") -> None:
        local = moment.astimezone() if moment else None
        day = f"{local:%Y-%m-%d} ({local:%Z})" if local else self._day
        if day != self._day:
            self._out.append(paint(day, "dim", self._colour))
            self._day = day
        clock = f"{local:%H:%M:%S}" if local else "--:--:--"
        self._out.append(f"{clock}  {pad(clean(step) or '-', 16)}  {paint(clean(text), style, self._colour)}")

    def _nothing(self, event: moai.Event) -> None:
        """A type of a newer agent: it stands in --json."""

    def _on_state(self, event: moai.Event) -> None:
        reason = event.data.get("reason") or {}
        state = str(event.data["state"])
        if event.is_last:
            self._end_phase(event.time)
        text = state.lower() + (f": {reason['message']}" if reason else "")
        self._put(event.time, "", text, _STYLES.get(state, ""))

    def _on_step(self, event: moai.Event) -> None:
        name, state = str(event.data["name"]), str(event.data["state"])
        self._end_phase(event.time)
        if state == "RUNNING":
            self._steps[name] = _Span(name, event.time)
            self._put(event.time, name, "began")
            return
        took = self._steps[name].took(event.time) if name in self._steps else ""
        reason = event.data.get("reason") or {}
        code = f", exit {event.data['exit_code']}" if event.data.get("exit_code") else ""
        text = state.lower() + code + (f" after {took}" if took else "") + (f": {reason['message']}" if reason else "")
        self._put(event.time, name, text, _STYLES.get(state, ""))

    def _on_phase(self, event: moai.Event) -> None:
        self._end_phase(event.time)
        text = str(event.data.get("text") or "")
        phase = str(event.data["phase"])
        self._phase = _Span((text or phase) if not text or text.startswith(phase) else f"{phase}: {text}", event.time)
        self._phase_step = event.step

    def _end_phase(self, end: datetime | None) -> None:
        span, self._phase = self._phase, None
        if span is None:
            return
        folded, took = span.folded(), span.took(end)
        self._put(span.began, self._phase_step, "  " + span.text + (f"; {folded}" if folded else "") + (f"  ({took})" if took else ""))
        held, self._held = self._held, []
        for line in held:
            self._put(*line)

    def _within(self, moment: datetime | None, step: str, text: str, style: str) -> None:
        """A line that stands behind the phase it happened in, whose own line waits for its end."""
        if self._phase is None:
            self._put(moment, step, text, style)
        else:
            self._held.append((moment, step, text, style))

    def _on_progress(self, event: moai.Event) -> None:
        if self._phase is not None:
            self._phase.progress = event.data

    def _on_metric(self, event: moai.Event) -> None:
        values = event.data["values"]
        if self._phase is None:
            return
        if isinstance(values.get("loss"), (int, float)):
            self._phase.losses.append((event.data.get("step"), float(values["loss"])))
        if isinstance(values.get("eval_loss"), (int, float)):
            self._phase.evaluations.append(float(values["eval_loss"]))

    def _on_message(self, event: moai.Event) -> None:
        level = str(event.data.get("level") or "info")
        text = ("" if level == "info" else level + ": ") + str(event.data["text"])
        self._within(event.time, event.step, text, {"warning": "yellow", "error": "red"}.get(level, "dim"))

    def _on_artifact(self, event: moai.Event) -> None:
        self._within(event.time, event.step, f"{event.data['kind']} {event.data['path']}", "dim")

    def _on_gap(self, event: moai.Event) -> None:
        d = event.data
        self._within(event.time, event.step, f"gap: bytes {d['start_offset']} to {d['end_offset']} of {d['source']}: {d['text']}", "red")

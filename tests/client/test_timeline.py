"""``show --events`` and ``plot``: many events folded into a few lines, several jobs in one picture."""

import sys
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import moai
import pytest
from moai._cli import plot, preflight
from moai._cli.timeline import timeline

BEGAN = datetime(2026, 3, 1, 14, 59, 58, tzinfo=timezone.utc)


class Journal:
    """Events of one job, a second apart unless it is said otherwise."""

    def __init__(self):
        self.events, self.at = [], 0.0

    def add(self, type, of="", /, after=1.0, **data):
        self.at += after
        moment = BEGAN + timedelta(seconds=self.at)
        self.events.append(moai.Event("kt", "swift-otter-7f3a", len(self.events) + 1, moment, of, type, data))


@pytest.fixture
def journal():
    one = Journal()
    one.add("state", state="RUNNING", exit_code=None, reason=None)
    one.add("step", "train", name="train", state="RUNNING", exit_code=None, result=None, reason=None)
    one.add("phase", "train", phase="loading", text="loading the model")
    one.add("message", "train", text="only \x1b[31mone\x1b[0m device", level="warning", code="ONE_DEVICE_USED")
    one.add("phase", "train", after=60, phase="training", text="step 0 of 40")
    for step in range(1, 41):
        one.add("metric", "train", step=step, total=40, values={"loss": 2.0 - step / 40})
        one.add("progress", "train", after=0, done=step, total=40, unit="steps", rate=1.0, eta_seconds=1.0)
    one.add("phase", "train", phase="evaluating", text="after step 40")
    one.add("metric", "train", step=40, total=None, values={"eval_loss": 1.25})
    one.add("step", "train", name="train", state="FAILED", exit_code=1, result=None, reason={"code": "X", "message": "the disk is full"})
    one.add("state", state="FAILED", exit_code=1, reason={"code": "DISK_FULL", "message": "the disk is full", "next": ""})
    return one


def test_the_timeline_has_durations_and_the_laptops_zone(journal, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Seoul")
    import time

    time.tzset()
    try:
        lines = timeline(journal.events)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert lines[0] == "2026-03-01 (KST)"
    assert lines[1].startswith("23:59:59  -") and lines[2] == "2026-03-02 (KST)"
    text = "\n".join(lines)
    assert len(lines) == 10, text
    assert "loading the model  (1m01s)" in text and "training: step 0 of 40; steps 1 to 40, loss 1.9750 → 1.0000  (41s)" in text
    assert "evaluating: after step 40; eval loss 1.2500  (2s)" in text
    assert "failed, exit 1 after 1m45s: the disk is full" in text
    assert "warning: only" in text and "\x1b" not in text
    # What happened within a phase stands behind it, though the phase's own line is known only at its end.
    clocks = [line[:8] for line in lines if line[2] == ":"]
    assert clocks[1:] == sorted(clocks[1:])


def test_a_type_of_a_newer_agent_and_a_missing_clock_do_no_harm():
    events = [
        moai.Event("kt", "j", 1, None, "", "state", {"state": "QUEUED", "exit_code": None, "reason": None}),
        moai.Event("kt", "j", 2, None, "x", "weather", {}),
        moai.Event("kt", "j", 3, None, "x", "phase", {"phase": "loading", "text": ""}),
        moai.Event("kt", "j", 4, None, "", "gap", {"source": "log", "start_offset": 1, "end_offset": 2, "text": "cut"}),
    ]
    lines = timeline(events)
    assert [line.split()[0] for line in lines] == ["--:--:--"] * 3 and "loading" in lines[1] and "bytes 1 to 2" in lines[2]


def info(**values):
    return SimpleNamespace(**dict({"id": "swift-otter-7f3a", "name": "", "host": "kt", "command": "train $x_{$ on y"}, **values))


def test_several_jobs_are_drawn_into_one_picture(tmp_path):
    pytest.importorskip("matplotlib")
    curves = [
        plot.Curve(info(name="a$b"), [(1, 2.0), (2, 1.5), (3, float("nan"))], [(2, 1.75)]),
        plot.Curve(info(), [(at, 3.0 - at / 500) for at in range(1, 1000)], []),
    ]
    for name, magic in (("loss.png", b"\x89PNG"), ("loss.svg", b"<?xml")):
        plot.picture(curves, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(magic)
    plot.picture(curves[:1], tmp_path / "one.png")
    for name in ("loss.nothing", "missing/loss.png"):
        with pytest.raises(moai.UsageError):
            plot.picture(curves, tmp_path / name)


def test_of_a_step_told_twice_the_later_loss_is_drawn():
    events = [SimpleNamespace(type="metric", data={"step": step, "values": {"loss": loss}}) for step, loss in ((1, 3.0), (2, 2.5), (2, 2.25))]
    events.append(SimpleNamespace(type="metric", data={"step": 2, "values": {"eval_loss": 2.0}}))
    events.append(SimpleNamespace(type="metric", data={"step": None, "values": {"eval_loss": 9.0}}))
    job = SimpleNamespace(info=info(), events=lambda follow: iter(events))
    found = plot.curve_of(job)
    assert (found.train, found.evaluation) == ([(1, 3.0), (2, 2.25)], [(2, 2.0)])


@pytest.mark.parametrize(
    ("hours", "terminal", "asked"), [(24.0, True, True), (24.0, False, False), (2.0, True, False), (None, True, False)]
)
def test_a_smoke_run_is_offered_before_a_long_training_and_to_people_only(monkeypatch, hours, terminal, asked):
    questions = []

    def confirm(text, **more):
        questions.append(text)
        return True

    monkeypatch.setattr(preflight.typer, "confirm", confirm)
    for stream in ("stdin", "stderr"):
        monkeypatch.setattr(sys, stream, SimpleNamespace(isatty=lambda: terminal, write=lambda text: None, flush=lambda: None))
    assert preflight.offer_smoke(preflight.Agreed("", hours)) is asked
    assert [("1d00h" in text and "--smoke" in text) for text in questions] == [True] * asked

"""Whose time belongs to a model: runs before a kill, other folders' checkpoints, starting over."""

import json
import os

import pytest
from moai_worker.trainingruns import EVERY_S, NAME, TrainingRuns, total_seconds

IDENTITY = {"seed": 42, "lora": {"targets": ("q", "v")}}


class Report:
    def __init__(self):
        self.warned = []

    def message(self, text, level="info"):
        self.warned.append((level, text))


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Begin a run in a folder; its clock is moved by hand."""
    monkeypatch.setenv("MOAI_JOB", "/jobs/swift-otter-7f3a")

    def make(step=0, path=None, folder="out", identity=IDENTITY, anew=False, writes=True, report=None):
        where = tmp_path / folder
        where.mkdir(exist_ok=True)
        now = [100.0]
        run = TrainingRuns(
            str(where), step, str(tmp_path / path) if path else None, identity, anew, writes, report or Report(), lambda: now[0]
        )

        def train(until, seconds, keep=False):
            now[0] += seconds
            run.at(until, keep)

        return run, train, where / NAME

    return make


def spans(runs):
    return [(run["start_step"], run["step"], run["seconds"]) for run in runs]


def test_a_killed_runs_time_is_kept_at_checkpoints_and_every_few_seconds(begin):
    _, train, path = begin()
    train(1, EVERY_S / 2)
    assert not path.exists(), "not at every step"
    train(2, EVERY_S)
    assert spans(json.loads(path.read_text())["runs"]) == [(0, 2, 15.0)]
    train(5, 1.0, keep=True)
    # Killed here: the next one begins at the checkpoint of step 5.
    run, train, _ = begin(5, "out/checkpoint-5")
    train(20, 30.0)
    runs = run.finish()
    assert spans(runs) == [(0, 5, 16.0), (5, 20, 30.0)] and total_seconds(runs) == 46.0
    assert {run["job"] for run in runs} == {"swift-otter-7f3a"}


def test_an_attempt_without_a_checkpoint_counts_only_when_it_is_gone_on_with(begin):
    _, train, _ = begin()
    train(3, EVERY_S)
    assert spans(begin()[0].finish()) == [(0, 3, EVERY_S)], "the attempt that was killed; this one made no step"
    assert begin()[0].finish() == [], "that one has ended: this is another training in its folder"
    _, train, _ = begin()
    train(3, EVERY_S)
    assert begin(identity={"seed": 1})[0].finish() == [], "other settings, another training"
    _, train, _ = begin()
    train(3, EVERY_S)
    assert begin(anew=True)[0].finish() == [], "asked to start over"


def test_a_checkpoint_of_another_folder_brings_its_runs(begin):
    _, train, _ = begin(folder="first")
    train(4, 8.0, keep=True)
    run, train, path = begin(4, "first/checkpoint-4", folder="second")
    train(6, 2.0)
    assert spans(run.finish()) == [(0, 4, 8.0), (4, 6, 2.0)]
    assert path.parent.name == "second"
    run, train, _ = begin(4, "copied/checkpoint-4", folder="third")
    train(6, 2.0)
    assert spans(run.finish()) == [(4, 6, 2.0)], "copied without its account: known from step 4 on"


@pytest.mark.parametrize("text", ["", "[1]", '{"runs": 3}', '{"runs": [1, {"step": true, "start_step": 0, "seconds": 1}, {"step": -1, "start_step": 0, "seconds": 1}, {"step": 1, "start_step": 0, "seconds": Infinity}]}'])
def test_an_account_that_cannot_be_read_is_none(begin, text):
    path = begin()[2]
    path.write_text(text)
    run, train, _ = begin(2, "out/checkpoint-2")
    train(3, 1.0)
    assert spans(run.finish()) == [(2, 3, 1.0)]


def test_only_the_first_process_writes_and_a_full_disk_ends_nothing(begin):
    run, train, path = begin(writes=False)
    train(1, EVERY_S)
    assert spans(run.finish()) == [(0, 1, EVERY_S)] and not path.exists()
    report = Report()
    run, train, path = begin(folder="gone", report=report)
    os.rmdir(str(path.parent))
    train(1, EVERY_S)
    train(2, EVERY_S)
    assert spans(run.finish()) == [(0, 2, 2 * EVERY_S)] and [level for level, _ in report.warned] == ["warning"]

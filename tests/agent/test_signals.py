"""What the agent lets a running recipe be told, and what it refuses with a reason."""

import json
import os

import pytest
from moai_agent.errors import AgentError
from moai_agent.jobs import signals
from moai_agent.jobs.logparse import LogParser
from moai_agent.jobs.store import Entry
from moai_proto.v1 import job_pb2
from moai_worker.jobdir import JobDir

EVALUATE, INTERVAL = job_pb2.JOB_SIGNAL_EVALUATE, job_pb2.JOB_SIGNAL_LOG_INTERVAL


@pytest.fixture
def entry(tmp_path):
    job = JobDir(str(tmp_path / "calm-fox-0001"))
    os.makedirs(job.control)
    plan = {"steps": [{"name": "prepare", "module": "prepare"}, {"name": "train", "module": "train"}]}
    steps = [{"name": "prepare", "state": "SUCCEEDED"}, {"name": "train", "state": "RUNNING"}]
    return Entry(job, {}, plan, {"state": "RUNNING", "steps": steps})


def prepared(entry, rows):
    with open(entry.job.control_file("result-prepare"), "w") as out:
        json.dump({"ok": True, "result": {"rows": rows}}, out)


def refused(entry, signal, value=0):
    with pytest.raises(AgentError) as caught:
        signals.send(entry, signal, value)
    return caught.value.reason


def test_a_request_is_left_for_the_recipe(entry):
    prepared(entry, {"train": 90, "validation": 10})
    for signal in (job_pb2.JOB_SIGNAL_CHECKPOINT, job_pb2.JOB_SIGNAL_STOP, EVALUATE):
        signals.send(entry, signal, 0)
    signals.send(entry, INTERVAL, 25)
    left = sorted(os.listdir(entry.job.control))
    assert left == ["checkpoint.json", "evaluate.json", "log-interval.json", "result-prepare.json", "stop.json"]
    with open(entry.job.control_file("log-interval")) as source:
        assert json.load(source)["value"] == 25


def test_an_evaluation_needs_rows_and_is_left_to_the_recipe_while_nobody_knows(entry):
    signals.send(entry, EVALUATE, 0)
    prepared(entry, {"train": 90})
    assert refused(entry, EVALUATE) == "UNSUPPORTED"
    prepared(entry, {"train": 90, "validation": 0})
    assert refused(entry, EVALUATE) == "UNSUPPORTED"


@pytest.mark.parametrize(("signal", "value"), [(INTERVAL, 0), (INTERVAL, -1), (INTERVAL, 10**7), (0, 0), (99, 0)])
def test_no_signal_and_no_interval_are_usage_errors(entry, signal, value):
    assert refused(entry, signal, value) == "USAGE"


def test_what_has_ended_or_is_no_recipe_cannot_be_told(entry):
    entry.view["steps"][1]["state"] = "SUCCEEDED"
    assert refused(entry, EVALUATE) == "UNSUPPORTED"
    entry.view["steps"][1]["state"] = "FAILED"
    signals.send(entry, job_pb2.JOB_SIGNAL_CHECKPOINT, 0)
    entry.view["state"] = "FAILED"
    assert refused(entry, EVALUATE) == "JOB_FINISHED"
    entry.view["state"], entry.plan = "RUNNING", {"steps": [{"name": "train", "argv": ["x"]}]}
    assert refused(entry, EVALUATE) == "UNSUPPORTED"


def test_lines_of_the_supervisor_are_no_words_of_the_program():
    parser = LogParser()
    text = b"Traceback (most recent call last):\n  File\nRuntimeError: first\n[moai] retry 1 of 2\nhello\n"
    parser.feed(text, 0)
    assert parser.fatal is None
    more = b"ValueError: second\n[moai] on-finish (failure): x\n[moai] | ConnectionError: of the command at the end\n"
    parser.feed(b"Traceback (most recent call last):\n  File\n" + more, len(text))
    assert parser.fatal is not None and "second" in parser.fatal["text"]

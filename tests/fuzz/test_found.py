"""What fuzzing found, each as the shortest input that did it."""

import json
from types import SimpleNamespace

import pytest
from moai import _dial
from moai._errors import MoaiError
from moai_agent import convert
from moai_agent.errors import AgentError
from moai_agent.jobs.store import Entry
from moai_agent.servicers.jobs import JobServicer
from moai_agent.snapshots import Snapshots
from moai_proto.v1 import job_pb2
from moai_worker import jobdir, records


def view_and_event(report):
    """A report as the journal's event, and the view it makes."""
    view = records.new_view({}, {"steps": [{"name": "a"}]})
    event = dict(report, q=1, t=1.0)
    records.fold(view, event)
    return view, event


@pytest.mark.parametrize("value", [10**400, -(10**400)])
@pytest.mark.parametrize("data", ['{"step": 1, "values": {"loss": %d}}', '{"step": %d, "values": {"loss": 1}}'])
def test_a_number_longer_than_any_float_is_shown_as_infinite_or_not_at_all(tmp_path, data, value):
    """Before, one such line ended every listing of jobs with INTERNAL."""
    report = records.parse_report(('{"type": "metric", "data": %s}' % (data % value)).encode())
    assert report is not None
    view, event = view_and_event(report)
    convert.event(event)
    convert.job(Entry(jobdir.JobDir(str(tmp_path)), {}, {}, view), losses=True)


@pytest.mark.parametrize(
    "type, data",
    [
        ("state", {"state": "RUNNING", "reason": 1e308}),
        ("state", {"state": "RUNNING", "reason": {"details": [1]}}),
        ("state", {"state": "RUNNING", "output": ["/x"]}),
        ("state", {"state": "RUNNING", "conditions": {"a": 1}}),
        ("step", {"state": "RUNNING", "name": ["a"]}),
        ("step", {"state": "RUNNING", "name": "a", "pid": "7"}),
        ("step", {"state": "RUNNING", "name": "a", "pid": 2**70}),
        ("step", {"state": "FAILED", "name": "a", "reason": "because"}),
        ("phase", {"phase": "x", "usual_seconds": "long"}),
        ("phase", {"phase": "x", "usual_seconds": [float("inf")]}),
        ("phase", {"phase": "x", "usual_seconds": [1, 2], "usual_source": {"a": 1}}),
    ],
)
def test_a_report_whose_parts_are_of_the_wrong_kind_is_no_report(type, data):
    assert records.parse_report(json.dumps({"type": type, "data": data}).encode()) is None


@pytest.mark.parametrize("value", [3, "because", ["x"]])
def test_a_reason_of_the_wrong_kind_in_an_old_journal_is_left_out(value):
    assert convert.reason(value) is None
    assert convert.reason({"code": "X", "details": value}).code == "X"


@pytest.mark.parametrize("token", ["last", "-1", "²", "9" * 50])
def test_a_made_up_page_of_jobs_is_refused_by_name(token):
    servicer = JobServicer(SimpleNamespace(store=None))
    with pytest.raises(AgentError) as caught:
        servicer.ListJobs(job_pb2.ListJobsRequest(page_token=token), None).send(None)
    assert caught.value.reason == "USAGE"


@pytest.mark.parametrize("text", ["[1]", '[{"sha256": 3, "size": 1}]', "{}x", "null", '[{"size": 1}]'])
def test_a_manifest_altered_on_disk_is_no_snapshot(tmp_path, text):
    store = Snapshots(str(tmp_path))
    name = "0" * 32
    path = tmp_path / "code" / "snapshots" / (name + ".json")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(AgentError) as caught:
        store.missing_of(name)
    assert caught.value.reason == "FILE_NOT_FOUND"


class Said:
    """A channel whose far side answers the dial with ``body``."""

    def __init__(self, body):
        self.body, self.is_closed = body, False

    def open_exec(self, line):
        return self

    def sendall(self, data):
        nonce = data.decode().split("MOAI1 ")[1].split()[0]
        self.answer = f"MOAI1 {nonce} {self.body}\n".encode()

    def recv(self, size):
        answer, self.answer = self.answer, b""
        return answer

    def close(self):
        self.is_closed = True


@pytest.mark.parametrize("body", ["{", "7", "null", "[" * 5000, '{"ok": true}', '{"ok": true, "secret": 3}', '{"ok": true, "secret": "s", "protocol_min": "1"}'])
def test_an_altered_handshake_is_a_broken_link(body):
    said = Said(body)
    with pytest.raises(MoaiError) as caught:
        _dial.dial(said)
    assert caught.value.reason == "LINK_LOST" and said.is_closed

"""A watcher that lets events gather gets the same events in fewer messages."""

import moai
import pytest
from moai_proto.v1 import job_pb2, job_pb2_grpc

EVENTS = 60
REPORT = "{\"t\": 1.0, \"step\": \"\", \"type\": \"metric\", \"data\": {\"step\": %d, \"values\": {\"loss\": 1.5}}}\\n"
JOB = f"""
import os, threading
out = os.open(os.environ["MOAI_REPORTS"], os.O_WRONLY | os.O_APPEND)
for n in range({EVENTS}):
    os.write(out, ('{REPORT}' % n).encode())
    threading.Event().wait(0.02)
"""


def answers(host, job, batch_seconds):
    request = job_pb2.WatchEventsRequest(job=job.id, batch_seconds=batch_seconds)
    return [[e.sequence for e in a.events] for a in host.session.stream(job_pb2_grpc.JobServiceStub, "WatchEvents", request)]


@pytest.mark.parametrize("seconds", [1000.0, -5.0])
def test_the_same_events_in_fewer_messages(local, seconds):
    with moai.connect("local") as host:
        job = host.run(["python3", "-c", JOB])
        found = answers(host, job, seconds)
        events = [number for answer in found for number in answer]
        assert events == list(range(1, len(events) + 1)) and len(events) > EVENTS
        if seconds > 0:
            assert len(found) * 3 < len(events), "no more than a second apart, however long was asked"
        assert [number for answer in answers(host, job, seconds) for number in answer] == events, "and at once when all is there"

"""A container's place among several that train as one, as the agent takes it."""

import pytest
from moai_agent.errors import AgentError
from moai_agent.jobs import groups, submit
from moai_proto.v1 import job_pb2, training_pb2


def place(**other):
    """Rank 1 of 2."""
    return job_pb2.TrainingGroup(**dict(dict(id="night", rank=1, size=2, address="10.0.0.1", port=29400, interface="eth0"), **other))


@pytest.mark.parametrize("wrong", [{"size": 1}, {"rank": 2}, {"rank": -1}, {"address": ""}, {"port": 0}, {"port": 65536}, {"id": ""}])
def test_what_is_no_place_is_refused_with_its_values(wrong):
    with pytest.raises(AgentError) as caught:
        groups.check(place(**wrong))
    assert caught.value.reason == "USAGE"
    groups.check(place())


def test_a_resumed_job_keeps_its_rank_and_may_meet_elsewhere():
    old = groups.inputs(place())
    groups.check_resumed(place(address="10.0.0.7", port=31000, id="day"), old, "swift-otter")
    for wrong, said in (({"rank": 0}, "rank 1 of 2, not rank 0 of 2"), ({"size": 3}, "rank 1 of 2, not rank 1 of 3")):
        with pytest.raises(AgentError, match=said):
            groups.check_resumed(place(**wrong), old, "swift-otter")
    with pytest.raises(AgentError, match="trained alone"):
        groups.check_resumed(place(), None, "swift-otter")


@pytest.mark.parametrize("make", [
    lambda where: training_pb2.StartTrainingRequest(training=training_pb2.TrainingSpec(model="m", group=where)),
    lambda where: job_pb2.ResumeJobRequest(job="swift-otter", group=where),
])  # fmt: skip
def test_a_repeated_request_is_the_same_though_it_would_meet_at_another_port(make):
    first, second = make(place()), make(place(port=31000, address="10.0.0.7", interface="eth1"))
    assert submit._digest(first) == submit._digest(second)
    assert submit._digest(first) != submit._digest(make(place(rank=0)))
    assert submit._digest(first) != submit._digest(make(None))
    assert second == make(place(port=31000, address="10.0.0.7", interface="eth1")), "the request itself stays as it is"

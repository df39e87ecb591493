"""A container's place among several that train as one: what makes sense, and how the recipe gets it."""

from typing import Any, Dict

from google.protobuf.message import Message
from moai_proto.v1 import job_pb2

from moai_agent.errors import AgentError


def check(group: job_pb2.TrainingGroup) -> None:
    """USAGE for what is no place among several."""
    if not (group.size > 1 and 0 <= group.rank < group.size and group.address and 0 < group.port < 65536 and group.id):
        raise AgentError(
            "USAGE", "the group is not a rank among several members with the leader's address: %s" % str(group).replace("\n", " ")
        )


def inputs(group: job_pb2.TrainingGroup) -> Dict[str, Any]:
    """As ``launch.spread`` reads it."""
    return {
        "id": group.id, "rank": group.rank, "size": group.size, "address": group.address, "port": group.port,
        "interface": group.interface,
    }  # fmt: skip


def check_resumed(group: job_pb2.TrainingGroup, old: Any, job: str) -> None:
    """USAGE unless the job trained at this rank among as many: its checkpoints have the random state of that rank."""
    check(group)
    before = old or {}
    if (group.rank, group.size) != (before.get("rank"), before.get("size")):
        was = "rank %d of %d" % (before["rank"], before["size"]) if before else "alone"
        raise AgentError("USAGE", "job %s trained %s, not rank %d of %d" % (job, was, group.rank, group.size))


def without_address(message: Message) -> None:
    """Clear where the members meet: it is another port each time the same request is sent."""
    holder: Any = getattr(message, "training", message)
    if "group" in holder.DESCRIPTOR.fields_by_name and holder.HasField("group"):
        for name in ("address", "port", "interface"):
            holder.group.ClearField(name)

"""DatasetService."""

from typing import Any

from moai_proto.v1 import dataset_pb2, dataset_pb2_grpc

from moai_agent import convert
from moai_agent.jobs import submit


class DatasetServicer(dataset_pb2_grpc.DatasetServiceServicer):
    """See dataset.proto."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    async def PrepareDataset(
        self, request: dataset_pb2.PrepareDatasetRequest, context: Any
    ) -> dataset_pb2.PrepareDatasetResponse:
        """As a job."""
        entry = await submit.preparing(self._agent, request)
        return dataset_pb2.PrepareDatasetResponse(job=convert.job(entry))

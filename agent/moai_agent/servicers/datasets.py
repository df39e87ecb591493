"""DatasetService."""

import asyncio
from typing import Any

from moai_proto.v1 import dataset_pb2, dataset_pb2_grpc

from moai_agent import convert, enginepythons
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

    async def PreviewDataset(
        self, request: dataset_pb2.PreviewDatasetRequest, context: Any
    ) -> dataset_pb2.PreviewDatasetResponse:
        """As a short job."""
        entry = await submit.previewing(self._agent, request)
        return dataset_pb2.PreviewDatasetResponse(job=convert.job(entry))

    async def PlanEngine(
        self, request: dataset_pb2.PlanEngineRequest, context: Any
    ) -> dataset_pb2.PlanEngineResponse:
        """The Pythons that could run a fast tokenizer."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(None, enginepythons.find, self._agent.registry, request.environment)
        pythons = [
            dataset_pb2.EnginePython(python=one.python, facts=one.facts, installed=one.installed) for one in found
        ]
        return dataset_pb2.PlanEngineResponse(pythons=pythons)

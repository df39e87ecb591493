"""ModelService."""

import asyncio
import os
from typing import Any

from moai_proto.v1 import model_pb2, model_pb2_grpc
from moai_worker.errors import StepError

from moai_agent import convert, downloads, work
from moai_agent.errors import AgentError
from moai_agent.jobs import after, submit


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """See model.proto."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    async def PlanDownload(
        self, request: model_pb2.PlanDownloadRequest, context: Any
    ) -> model_pb2.PlanDownloadResponse:
        """Asks the Hub; nothing is written."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, self._plan, request)

    def _plan(self, request: model_pb2.PlanDownloadRequest) -> model_pb2.PlanDownloadResponse:
        login = self._agent.registry.login()
        home = login.get("HOME") or os.path.expanduser("~")
        folder = work.asked(request.work, home) or work.folder(self._agent.config)
        try:
            return downloads.plan(request, login, folder)
        except StepError as error:
            raise AgentError(error.reason, error.message, error.next, error.details)

    async def DownloadModel(
        self, request: model_pb2.DownloadModelRequest, context: Any
    ) -> model_pb2.DownloadModelResponse:
        """As a job."""
        entry = await submit.downloading(self._agent, request)
        return model_pb2.DownloadModelResponse(job=convert.job(entry))

    async def UploadModel(
        self, request: model_pb2.UploadModelRequest, context: Any
    ) -> model_pb2.UploadModelResponse:
        """As a job."""
        entry = await after.uploading(self._agent, request)
        return model_pb2.UploadModelResponse(job=convert.job(entry))

"""ModelService."""

import asyncio
import os
import shutil
from typing import Any

from moai_proto.v1 import model_pb2, model_pb2_grpc
from moai_worker import hub
from moai_worker.errors import StepError

from moai_agent import convert, work
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
        repo = request.repo
        login = self._agent.registry.login()
        endpoint = repo.endpoint or login.get("HF_ENDPOINT") or "https://huggingface.co"
        try:
            plan = hub.plan_download(
                repo.id,
                repo_type=repo.type or "model",
                revision=repo.revision or "main",
                endpoint=endpoint,
                token=request.token or login.get("HF_TOKEN") or None,
            )
        except StepError as error:
            raise AgentError(error.reason, error.message, error.next, error.details)
        folder = existing(work.folder(self._agent.config))
        return model_pb2.PlanDownloadResponse(
            commit=plan.commit,
            size_bytes=plan.total_bytes,
            file_count=len(plan.files),
            left_out={str(path): str(why) for path, why in plan.left_out},
            free_bytes=shutil.disk_usage(folder).free,
            folder=folder,
        )

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


def existing(path: str) -> str:
    """The nearest folder above that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path

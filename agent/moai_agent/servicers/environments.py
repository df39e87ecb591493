"""EnvironmentService."""

import asyncio
from typing import Any

from moai_proto.v1 import environment_pb2, environment_pb2_grpc

from moai_agent import checks, convert
from moai_agent.jobs import environments

_VERDICTS = {
    "ok": environment_pb2.VERDICT_OK,
    "warning": environment_pb2.VERDICT_WARNING,
    "failed": environment_pb2.VERDICT_FAILED,
    "skipped": environment_pb2.VERDICT_SKIPPED,
}


class EnvironmentServicer(environment_pb2_grpc.EnvironmentServiceServicer):
    """See environment.proto."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    async def ListEnvironments(
        self, request: environment_pb2.ListEnvironmentsRequest, context: Any
    ) -> environment_pb2.ListEnvironmentsResponse:
        """All, looked up anew."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(None, lambda: self._agent.registry.list(fresh=True))
        return environment_pb2.ListEnvironmentsResponse(environments=[_environment(e) for e in found])

    async def GetEnvironment(
        self, request: environment_pb2.GetEnvironmentRequest, context: Any
    ) -> environment_pb2.GetEnvironmentResponse:
        """Looked up anew."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(None, environments.look, self._agent, request.environment)
        return environment_pb2.GetEnvironmentResponse(
            environment=_environment(found.environment),
            is_default=found.is_default,
            reason=found.reason,
            shadowed=found.environment.shadowed,
        )

    async def InstallRequirements(
        self, request: environment_pb2.InstallRequirementsRequest, context: Any
    ) -> environment_pb2.InstallRequirementsResponse:
        """As a job."""
        entry = await environments.installing(self._agent, request)
        return environment_pb2.InstallRequirementsResponse(job=convert.job(entry))

    async def CreateEnvironment(
        self, request: environment_pb2.CreateEnvironmentRequest, context: Any
    ) -> environment_pb2.CreateEnvironmentResponse:
        """As a job."""
        entry = await environments.creating(self._agent, request)
        return environment_pb2.CreateEnvironmentResponse(job=convert.job(entry))

    async def CheckEnvironment(
        self, request: environment_pb2.CheckEnvironmentRequest, context: Any
    ) -> environment_pb2.CheckEnvironmentResponse:
        """Named checks, in the order a person would make them."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            None,
            lambda: checks.run_all(
                self._agent.config,
                self._agent.registry,
                environment=request.environment,
                model=request.model,
                token=request.token,
                endpoint=request.endpoint,
                folder=request.work,
            ),
        )
        return environment_pb2.CheckEnvironmentResponse(
            checks=[
                environment_pb2.Check(
                    name=c.name, verdict=_VERDICTS[c.verdict], evidence=c.evidence, remedy=c.remedy
                )
                for c in found
            ]
        )


def _environment(found: Any) -> environment_pb2.Environment:
    packages = {
        name: getattr(found, name)
        for name in ("transformers", "datasets", "peft", "accelerate")
        if getattr(found, name)
    }
    return environment_pb2.Environment(
        name=found.name,
        kind=found.kind,
        prefix=found.prefix,
        python=found.python,
        python_version=found.python_version or "",
        torch_version=found.torch_version or "",
        moreh_version=found.moreh_version or "",
        packages=packages,
    )

"""EnvironmentService."""

import asyncio
from typing import Any

from moai_proto.v1 import environment_pb2, environment_pb2_grpc

from moai_agent import checks, convert
from moai_agent.checks import ground
from moai_agent.environments import packages_of
from moai_agent.jobs import environments

_VERDICTS = {
    "ok": environment_pb2.VERDICT_OK,
    "warning": environment_pb2.VERDICT_WARNING,
    "failed": environment_pb2.VERDICT_FAILED,
    "skipped": environment_pb2.VERDICT_SKIPPED,
}
_REMEDIES = {
    "": environment_pb2.REMEDY_UNSPECIFIED,
    ground.RESET_DEVICE: environment_pb2.REMEDY_RESET_DEVICE,
    ground.MAKE_WORK_FOLDER: environment_pb2.REMEDY_MAKE_WORK_FOLDER,
    ground.REMEMBER_ENVIRONMENT: environment_pb2.REMEDY_REMEMBER_ENVIRONMENT,
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

        def work() -> environment_pb2.ListEnvironmentsResponse:
            found = self._agent.registry.list(fresh=True)
            home = self._agent.registry.login().get("HOME") or ""
            answer = environment_pb2.ListEnvironmentsResponse(environments=[_environment(e) for e in found])
            if request.all_packages_wanted:
                for message, one in zip(answer.environments, found):
                    message.packages.update(packages_of(one, home))
            return answer

        return await loop.run_in_executor(None, work)

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

        def work() -> environment_pb2.CheckEnvironmentResponse:
            under = checks.Ground(
                self._agent.config,
                self._agent.registry,
                environment=request.environment,
                model=request.model,
                token=request.token,
                endpoint=request.endpoint,
                folder=request.work,
                deep=request.deep,
                proxy=request.proxy,
            )
            return environment_pb2.CheckEnvironmentResponse(checks=[_check(c) for c in checks.run_all(under)])

        return await loop.run_in_executor(None, work)

    async def ApplyRemedy(
        self, request: environment_pb2.ApplyRemedyRequest, context: Any
    ) -> environment_pb2.ApplyRemedyResponse:
        """One of the few that change nothing else."""
        fix = next((name for name, value in _REMEDIES.items() if value == request.remedy), "")
        loop = asyncio.get_running_loop()
        text = await loop.run_in_executor(
            None, lambda: checks.apply(self._agent, fix, request.argument, request.environment)
        )
        return environment_pb2.ApplyRemedyResponse(text=text)


def _check(found: checks.Check) -> environment_pb2.Check:
    return environment_pb2.Check(
        name=found.name,
        verdict=_VERDICTS[found.verdict],
        evidence=found.evidence,
        remedy=found.remedy,
        fix=_REMEDIES[found.fix],
        argument=found.argument,
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

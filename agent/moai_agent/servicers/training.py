"""TrainingService."""

import asyncio
import json
import os
import sys
from typing import Any

from moai_proto.v1 import training_pb2, training_pb2_grpc

from moai_agent import convert, needs, peers, work
from moai_agent.devices.report import MOAI_PROVIDERS
from moai_agent.errors import AgentError
from moai_agent.jobs import after, plans, submit


class TrainingServicer(training_pb2_grpc.TrainingServiceServicer):
    """See training.proto."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    async def PlanTraining(
        self, request: training_pb2.PlanTrainingRequest, context: Any
    ) -> training_pb2.PlanTrainingResponse:
        """What StartTraining would do; nothing is written."""
        submit.check_training(request.training)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, self._plan, request)

    def _plan(self, request: training_pb2.PlanTrainingRequest) -> training_pb2.PlanTrainingResponse:
        config = self._agent.config
        environment, why = self._agent.registry.choose(request.options.environment, True)
        home = self._agent.registry.login().get("HOME") or os.path.expanduser("~")
        folder = work.asked(request.options.work, home) or work.folder(config)
        place = plans.Place(
            job_path=config.host.job("JOB").path,
            main_py=config.main_py,
            python=environment.python or sys.executable,
            work=folder,
            hf_home=os.path.join(folder, "huggingface"),
            endpoint=request.training.endpoint,
            cwd=os.path.expanduser(request.options.workdir or "~"),
        )
        output = submit.training_output(place, request.training, request.options.name)
        steps = plans.train_steps(place, request.training, output)
        return training_pb2.PlanTrainingResponse(
            plan_json=json.dumps({"steps": steps, "output": output}, sort_keys=True),
            environment="%s (%s)" % (environment.name, environment.python),
            environment_reason=why,
            output=output,
        )

    async def EstimateTraining(
        self, request: training_pb2.EstimateTrainingRequest, context: Any
    ) -> training_pb2.EstimateTrainingResponse:
        """Asks the Hub and the device tool; nothing is written."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, needs.estimate, self._agent, request)

    async def OfferPeer(self, request: training_pb2.OfferPeerRequest, context: Any) -> training_pb2.OfferPeerResponse:
        """Open a port for others to try."""
        loop = asyncio.get_running_loop()
        report = await loop.run_in_executor(None, self._agent.registry.devices, "")
        if report.provider in MOAI_PROVIDERS:
            raise AgentError(
                "UNSUPPORTED",
                "--nodes: a MoAI accelerator spans GPUs and nodes by itself; containers do not share one training",
                "choose a larger flavor: moai remote device flavors",
            )
        port = await self._agent.offers.open(request.nonce, request.seconds)
        return training_pb2.OfferPeerResponse(
            addresses=[training_pb2.NetworkAddress(interface=one.interface, address=one.address) for one in peers.addresses()],
            port=port,
        )

    async def ReachPeer(self, request: training_pb2.ReachPeerRequest, context: Any) -> training_pb2.ReachPeerResponse:
        """Try another container's port."""
        offered = [peers.Address(one.interface, one.address) for one in request.addresses]
        found = await peers.reach(offered, request.port, request.nonce)
        return training_pb2.ReachPeerResponse(
            attempts=[
                training_pb2.PeerAttempt(
                    address=one.address,
                    is_reached=one.is_reached,
                    text=one.text,
                    local=training_pb2.NetworkAddress(interface=one.local.interface, address=one.local.address) if one.local else None,
                )
                for one in found
            ]
        )

    async def StartTraining(
        self, request: training_pb2.StartTrainingRequest, context: Any
    ) -> training_pb2.StartTrainingResponse:
        """As a job."""
        self._agent.offers.take(request.training.group.port)
        entry = await submit.training(self._agent, request)
        return training_pb2.StartTrainingResponse(job=convert.job(entry))

    async def Generate(
        self, request: training_pb2.GenerateRequest, context: Any
    ) -> training_pb2.GenerateResponse:
        """As a job."""
        entry = await submit.generating(self._agent, request)
        return training_pb2.GenerateResponse(job=convert.job(entry))

    async def Evaluate(
        self, request: training_pb2.EvaluateRequest, context: Any
    ) -> training_pb2.EvaluateResponse:
        """As a job."""
        entry = await after.evaluating(self._agent, request)
        return training_pb2.EvaluateResponse(job=convert.job(entry))

    async def MergeModel(
        self, request: training_pb2.MergeModelRequest, context: Any
    ) -> training_pb2.MergeModelResponse:
        """As a job."""
        entry = await after.merging(self._agent, request)
        return training_pb2.MergeModelResponse(job=convert.job(entry))

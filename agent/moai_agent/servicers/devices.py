"""DeviceService."""

import asyncio
from typing import Any

from moai_proto.v1 import device_pb2, device_pb2_grpc

from moai_agent.errors import AgentError


class DeviceServicer(device_pb2_grpc.DeviceServiceServicer):
    """See device.proto."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    async def ListDevices(
        self, request: device_pb2.ListDevicesRequest, context: Any
    ) -> device_pb2.ListDevicesResponse:
        """One reading."""
        loop = asyncio.get_running_loop()
        timeout_s = request.timeout_seconds or 15.0
        report = await loop.run_in_executor(
            None, self._agent.registry.devices, request.environment, timeout_s
        )
        answer = device_pb2.ListDevicesResponse(
            provider=report.provider or "",
            platform_version=report.platform_version or "",
            latest_version=report.latest_version or "",
            devices=[_device(d) for d in report.devices],
            messages=report.messages,
        )
        if report.error is not None:
            problem = AgentError(report.error.reason, report.error.message, report.error.next)
            answer.error.CopyFrom(problem.info())
        return answer


def _device(device: Any) -> device_pb2.Device:
    return device_pb2.Device(
        id=int(device.id),
        name=device.name or "",
        flavor=device.flavor or "",
        is_default=bool(device.is_default),
        memory_used_mib=device.memory_used_mib,
        memory_total_mib=device.memory_total_mib,
        memory_used_percent=device.memory_used_percent,
        utilization_percent=device.utilization_percent,
        processes=[
            device_pb2.DeviceProcess(
                job_id=p.job_id, pid=p.pid, command=p.command or "", memory_used_mib=p.memory_used_mib
            )
            for p in device.processes
        ],
    )

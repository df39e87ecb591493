"""DeviceService."""

import asyncio
from typing import Any, AsyncIterator, Callable

from moai_proto.v1 import device_pb2, device_pb2_grpc

from moai_agent.devices.control import Control
from moai_agent.errors import AgentError


class DeviceServicer(device_pb2_grpc.DeviceServiceServicer):
    """See device.proto."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    async def _do(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, work)

    def _control(self, environment: str) -> Control:
        return Control(self._agent.registry.tools_of(environment), self._agent.config.host.device_lock)

    def _report(self, environment: str, timeout_s: float) -> device_pb2.ListDevicesResponse:
        return _table(self._agent.registry.devices(environment, timeout_s))

    async def ListDevices(
        self, request: device_pb2.ListDevicesRequest, context: Any
    ) -> device_pb2.ListDevicesResponse:
        """One reading."""
        return await self._do(lambda: self._report(request.environment, request.timeout_seconds or 15.0))

    async def WatchDevices(
        self, request: device_pb2.WatchDevicesRequest, context: Any
    ) -> AsyncIterator[device_pb2.WatchDevicesResponse]:
        """A reading whenever it differs from the last one sent."""
        interval_s = max(1.0, request.interval_seconds or 5.0)
        last = None
        while True:
            report = await self._do(lambda: self._report(request.environment, 15.0))
            raw = report.SerializeToString(deterministic=True)
            if raw != last:
                last = raw
                yield device_pb2.WatchDevicesResponse(report=report)
            await asyncio.sleep(interval_s)

    async def ListFlavors(
        self, request: device_pb2.ListFlavorsRequest, context: Any
    ) -> device_pb2.ListFlavorsResponse:
        """The menu."""
        found = await self._do(lambda: self._control(request.environment).flavors())
        flavors = [device_pb2.Flavor(name=i.flavor, group=i.group, is_current=i.flavor == found.current) for i in found.items]
        return device_pb2.ListFlavorsResponse(flavors=flavors, current=found.current, accelerator=found.accelerator)

    async def SwitchFlavor(
        self, request: device_pb2.SwitchFlavorRequest, context: Any
    ) -> device_pb2.SwitchFlavorResponse:
        """By name, verified."""

        def work() -> device_pb2.SwitchFlavorResponse:
            control = self._control(request.environment)
            before = control.flavors().current
            now = control.switch_flavor(request.flavor, request.force)
            return device_pb2.SwitchFlavorResponse(flavor=now.current, previous=before)

        return await self._do(work)

    async def SelectDevice(
        self, request: device_pb2.SelectDeviceRequest, context: Any
    ) -> device_pb2.SelectDeviceResponse:
        """The table afterwards."""
        report = await self._do(lambda: self._control(request.environment).select(request.device))
        return device_pb2.SelectDeviceResponse(report=_table(report))

    async def ResetDevice(
        self, request: device_pb2.ResetDeviceRequest, context: Any
    ) -> device_pb2.ResetDeviceResponse:
        """Only when nobody alive owns it, or forced."""
        outcome = await self._do(lambda: self._control(request.environment).reset(request.force))
        return device_pb2.ResetDeviceResponse(idle=outcome == "idle")

    async def AddDevice(self, request: device_pb2.AddDeviceRequest, context: Any) -> device_pb2.AddDeviceResponse:
        """The table afterwards."""
        report = await self._do(lambda: self._control(request.environment).add(request.flavor))
        return device_pb2.AddDeviceResponse(report=_table(report))

    async def RemoveDevice(
        self, request: device_pb2.RemoveDeviceRequest, context: Any
    ) -> device_pb2.RemoveDeviceResponse:
        """The table afterwards."""
        report = await self._do(lambda: self._control(request.environment).remove(request.device, request.force))
        return device_pb2.RemoveDeviceResponse(report=_table(report))


def _table(report: Any) -> device_pb2.ListDevicesResponse:
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

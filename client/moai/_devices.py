"""What can be changed about a container's accelerators: a part of ``Host``.

Runs in the caller's process; each change is verified on the container by reading the table again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from moai import _convert
from moai import _types as t

if TYPE_CHECKING:
    from moai._rpc import Session

_CHANGE_S = 180.0


class DeviceControl:
    """Mixin of ``Host``: flavors and devices of MoAI platforms. Elsewhere every call is UNSUPPORTED."""

    session: Session

    @property
    def name(self) -> str:
        """What the configuration calls the host."""
        return self.session.host.name

    def _device_call(self, method: str, request: Any) -> Any:
        from moai_proto.v1 import device_pb2_grpc

        return self.session.call(device_pb2_grpc.DeviceServiceStub, method, request, timeout_s=_CHANGE_S)

    def watch_devices(self, interval_s: float = 5.0, environment: str = "") -> Iterator[t.DeviceReport]:
        """The device table now and whenever it changes; blocks between. Raises LinkLost when cut."""
        from moai_proto.v1 import device_pb2, device_pb2_grpc

        request = device_pb2.WatchDevicesRequest(environment=environment, interval_seconds=interval_s)
        for answer in self.session.stream(device_pb2_grpc.DeviceServiceStub, "WatchDevices", request):
            yield _convert.devices(self.name, answer.report)

    def flavors(self, environment: str = "") -> list[t.Flavor]:
        """The flavors the platform's menu offers; the present one is marked."""
        from moai_proto.v1 import device_pb2

        answer = self._device_call("ListFlavors", device_pb2.ListFlavorsRequest(environment=environment))
        return [t.Flavor(f.name, f.group, f.is_current) for f in answer.flavors]

    def switch_flavor(self, flavor: str, force: bool = False, environment: str = "") -> tuple[str, str]:
        """Give the default device another flavor, by name; returns (now, before).

        A flavor is shared by every container of the same token. Raises NotFound (FLAVOR_NOT_FOUND, with
        the menu), Conflict (DEVICE_IN_USE), AgentError (DEVICE_TOOL_FAILED, UNSUPPORTED).
        """
        from moai_proto.v1 import device_pb2

        request = device_pb2.SwitchFlavorRequest(flavor=flavor, force=force, environment=environment)
        answer = self._device_call("SwitchFlavor", request)
        return answer.flavor, answer.previous

    def select_device(self, device: int, environment: str = "") -> t.DeviceReport:
        """Make a device the default one."""
        from moai_proto.v1 import device_pb2

        request = device_pb2.SelectDeviceRequest(device=device, environment=environment)
        return _convert.devices(self.name, self._device_call("SelectDevice", request).report)

    def reset_device(self, force: bool = False, environment: str = "") -> bool:
        """Release the default device; True when something was released, False when nothing ran.

        Raises Conflict (DEVICE_IN_USE) while a living process owns it, unless ``force``: that job ends.
        """
        from moai_proto.v1 import device_pb2

        request = device_pb2.ResetDeviceRequest(force=force, environment=environment)
        return not self._device_call("ResetDevice", request).idle

    def add_device(self, flavor: str, environment: str = "") -> t.DeviceReport:
        """Add a device of a flavor. Raises Conflict (DEVICE_LIMIT)."""
        from moai_proto.v1 import device_pb2

        request = device_pb2.AddDeviceRequest(flavor=flavor, environment=environment)
        return _convert.devices(self.name, self._device_call("AddDevice", request).report)

    def remove_device(self, device: int, force: bool = False, environment: str = "") -> t.DeviceReport:
        """Remove a device. Raises NotFound (DEVICE_NOT_FOUND), Conflict (DEVICE_IN_USE)."""
        from moai_proto.v1 import device_pb2

        request = device_pb2.RemoveDeviceRequest(device=device, force=force, environment=environment)
        return _convert.devices(self.name, self._device_call("RemoveDevice", request).report)

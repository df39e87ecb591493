from moai_proto.v1 import errors_pb2 as _errors_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListDevicesRequest(_message.Message):
    __slots__ = ("environment", "timeout_seconds")
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    environment: str
    timeout_seconds: float
    def __init__(self, environment: _Optional[str] = ..., timeout_seconds: _Optional[float] = ...) -> None: ...

class DeviceProcess(_message.Message):
    __slots__ = ("job_id", "pid", "command", "memory_used_mib")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_MIB_FIELD_NUMBER: _ClassVar[int]
    job_id: int
    pid: int
    command: str
    memory_used_mib: int
    def __init__(self, job_id: _Optional[int] = ..., pid: _Optional[int] = ..., command: _Optional[str] = ..., memory_used_mib: _Optional[int] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("id", "name", "flavor", "is_default", "memory_used_mib", "memory_total_mib", "memory_used_percent", "utilization_percent", "processes")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FLAVOR_FIELD_NUMBER: _ClassVar[int]
    IS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_MIB_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_MIB_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_PERCENT_FIELD_NUMBER: _ClassVar[int]
    UTILIZATION_PERCENT_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    id: int
    name: str
    flavor: str
    is_default: bool
    memory_used_mib: int
    memory_total_mib: int
    memory_used_percent: float
    utilization_percent: float
    processes: _containers.RepeatedCompositeFieldContainer[DeviceProcess]
    def __init__(self, id: _Optional[int] = ..., name: _Optional[str] = ..., flavor: _Optional[str] = ..., is_default: bool = ..., memory_used_mib: _Optional[int] = ..., memory_total_mib: _Optional[int] = ..., memory_used_percent: _Optional[float] = ..., utilization_percent: _Optional[float] = ..., processes: _Optional[_Iterable[_Union[DeviceProcess, _Mapping]]] = ...) -> None: ...

class ListDevicesResponse(_message.Message):
    __slots__ = ("provider", "platform_version", "latest_version", "devices", "messages", "error")
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_VERSION_FIELD_NUMBER: _ClassVar[int]
    LATEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    provider: str
    platform_version: str
    latest_version: str
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    messages: _containers.RepeatedScalarFieldContainer[str]
    error: _errors_pb2.ErrorInfo
    def __init__(self, provider: _Optional[str] = ..., platform_version: _Optional[str] = ..., latest_version: _Optional[str] = ..., devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ..., messages: _Optional[_Iterable[str]] = ..., error: _Optional[_Union[_errors_pb2.ErrorInfo, _Mapping]] = ...) -> None: ...

class WatchDevicesRequest(_message.Message):
    __slots__ = ("environment", "interval_seconds")
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    environment: str
    interval_seconds: float
    def __init__(self, environment: _Optional[str] = ..., interval_seconds: _Optional[float] = ...) -> None: ...

class WatchDevicesResponse(_message.Message):
    __slots__ = ("report",)
    REPORT_FIELD_NUMBER: _ClassVar[int]
    report: ListDevicesResponse
    def __init__(self, report: _Optional[_Union[ListDevicesResponse, _Mapping]] = ...) -> None: ...

class Flavor(_message.Message):
    __slots__ = ("name", "group", "is_current")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    IS_CURRENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    group: str
    is_current: bool
    def __init__(self, name: _Optional[str] = ..., group: _Optional[str] = ..., is_current: bool = ...) -> None: ...

class ListFlavorsRequest(_message.Message):
    __slots__ = ("environment",)
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    environment: str
    def __init__(self, environment: _Optional[str] = ...) -> None: ...

class ListFlavorsResponse(_message.Message):
    __slots__ = ("flavors", "current", "accelerator")
    FLAVORS_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    ACCELERATOR_FIELD_NUMBER: _ClassVar[int]
    flavors: _containers.RepeatedCompositeFieldContainer[Flavor]
    current: str
    accelerator: str
    def __init__(self, flavors: _Optional[_Iterable[_Union[Flavor, _Mapping]]] = ..., current: _Optional[str] = ..., accelerator: _Optional[str] = ...) -> None: ...

class SwitchFlavorRequest(_message.Message):
    __slots__ = ("environment", "flavor", "force")
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    FLAVOR_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    environment: str
    flavor: str
    force: bool
    def __init__(self, environment: _Optional[str] = ..., flavor: _Optional[str] = ..., force: bool = ...) -> None: ...

class SwitchFlavorResponse(_message.Message):
    __slots__ = ("flavor", "previous")
    FLAVOR_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    flavor: str
    previous: str
    def __init__(self, flavor: _Optional[str] = ..., previous: _Optional[str] = ...) -> None: ...

class SelectDeviceRequest(_message.Message):
    __slots__ = ("environment", "device")
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    environment: str
    device: int
    def __init__(self, environment: _Optional[str] = ..., device: _Optional[int] = ...) -> None: ...

class SelectDeviceResponse(_message.Message):
    __slots__ = ("report",)
    REPORT_FIELD_NUMBER: _ClassVar[int]
    report: ListDevicesResponse
    def __init__(self, report: _Optional[_Union[ListDevicesResponse, _Mapping]] = ...) -> None: ...

class ResetDeviceRequest(_message.Message):
    __slots__ = ("environment", "force")
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    environment: str
    force: bool
    def __init__(self, environment: _Optional[str] = ..., force: bool = ...) -> None: ...

class ResetDeviceResponse(_message.Message):
    __slots__ = ("idle",)
    IDLE_FIELD_NUMBER: _ClassVar[int]
    idle: bool
    def __init__(self, idle: bool = ...) -> None: ...

class AddDeviceRequest(_message.Message):
    __slots__ = ("environment", "flavor")
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    FLAVOR_FIELD_NUMBER: _ClassVar[int]
    environment: str
    flavor: str
    def __init__(self, environment: _Optional[str] = ..., flavor: _Optional[str] = ...) -> None: ...

class AddDeviceResponse(_message.Message):
    __slots__ = ("report",)
    REPORT_FIELD_NUMBER: _ClassVar[int]
    report: ListDevicesResponse
    def __init__(self, report: _Optional[_Union[ListDevicesResponse, _Mapping]] = ...) -> None: ...

class RemoveDeviceRequest(_message.Message):
    __slots__ = ("environment", "device", "force")
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    environment: str
    device: int
    force: bool
    def __init__(self, environment: _Optional[str] = ..., device: _Optional[int] = ..., force: bool = ...) -> None: ...

class RemoveDeviceResponse(_message.Message):
    __slots__ = ("report",)
    REPORT_FIELD_NUMBER: _ClassVar[int]
    report: ListDevicesResponse
    def __init__(self, report: _Optional[_Union[ListDevicesResponse, _Mapping]] = ...) -> None: ...

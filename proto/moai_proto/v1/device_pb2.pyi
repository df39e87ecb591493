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

from moai_proto.v1 import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_OK: _ClassVar[Verdict]
    VERDICT_WARNING: _ClassVar[Verdict]
    VERDICT_FAILED: _ClassVar[Verdict]
    VERDICT_SKIPPED: _ClassVar[Verdict]

class Remedy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REMEDY_UNSPECIFIED: _ClassVar[Remedy]
    REMEDY_RESET_DEVICE: _ClassVar[Remedy]
    REMEDY_MAKE_WORK_FOLDER: _ClassVar[Remedy]
    REMEDY_REMEMBER_ENVIRONMENT: _ClassVar[Remedy]
VERDICT_UNSPECIFIED: Verdict
VERDICT_OK: Verdict
VERDICT_WARNING: Verdict
VERDICT_FAILED: Verdict
VERDICT_SKIPPED: Verdict
REMEDY_UNSPECIFIED: Remedy
REMEDY_RESET_DEVICE: Remedy
REMEDY_MAKE_WORK_FOLDER: Remedy
REMEDY_REMEMBER_ENVIRONMENT: Remedy

class ListEnvironmentsRequest(_message.Message):
    __slots__ = ("all_packages_wanted",)
    ALL_PACKAGES_WANTED_FIELD_NUMBER: _ClassVar[int]
    all_packages_wanted: bool
    def __init__(self, all_packages_wanted: bool = ...) -> None: ...

class Environment(_message.Message):
    __slots__ = ("name", "kind", "prefix", "python", "python_version", "torch_version", "moreh_version", "packages")
    class PackagesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    TORCH_VERSION_FIELD_NUMBER: _ClassVar[int]
    MOREH_VERSION_FIELD_NUMBER: _ClassVar[int]
    PACKAGES_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    prefix: str
    python: str
    python_version: str
    torch_version: str
    moreh_version: str
    packages: _containers.ScalarMap[str, str]
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., prefix: _Optional[str] = ..., python: _Optional[str] = ..., python_version: _Optional[str] = ..., torch_version: _Optional[str] = ..., moreh_version: _Optional[str] = ..., packages: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ListEnvironmentsResponse(_message.Message):
    __slots__ = ("environments",)
    ENVIRONMENTS_FIELD_NUMBER: _ClassVar[int]
    environments: _containers.RepeatedCompositeFieldContainer[Environment]
    def __init__(self, environments: _Optional[_Iterable[_Union[Environment, _Mapping]]] = ...) -> None: ...

class GetEnvironmentRequest(_message.Message):
    __slots__ = ("environment",)
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    environment: str
    def __init__(self, environment: _Optional[str] = ...) -> None: ...

class GetEnvironmentResponse(_message.Message):
    __slots__ = ("environment", "is_default", "reason", "shadowed")
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    IS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SHADOWED_FIELD_NUMBER: _ClassVar[int]
    environment: Environment
    is_default: bool
    reason: str
    shadowed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, environment: _Optional[_Union[Environment, _Mapping]] = ..., is_default: bool = ..., reason: _Optional[str] = ..., shadowed: _Optional[_Iterable[str]] = ...) -> None: ...

class CheckEnvironmentRequest(_message.Message):
    __slots__ = ("environment", "model", "token", "endpoint", "work", "deep", "proxy")
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    DEEP_FIELD_NUMBER: _ClassVar[int]
    PROXY_FIELD_NUMBER: _ClassVar[int]
    environment: str
    model: str
    token: str
    endpoint: str
    work: str
    deep: bool
    proxy: str
    def __init__(self, environment: _Optional[str] = ..., model: _Optional[str] = ..., token: _Optional[str] = ..., endpoint: _Optional[str] = ..., work: _Optional[str] = ..., deep: bool = ..., proxy: _Optional[str] = ...) -> None: ...

class Check(_message.Message):
    __slots__ = ("name", "verdict", "evidence", "remedy", "fix", "argument")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    FIX_FIELD_NUMBER: _ClassVar[int]
    ARGUMENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    verdict: Verdict
    evidence: str
    remedy: str
    fix: Remedy
    argument: str
    def __init__(self, name: _Optional[str] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., evidence: _Optional[str] = ..., remedy: _Optional[str] = ..., fix: _Optional[_Union[Remedy, str]] = ..., argument: _Optional[str] = ...) -> None: ...

class CheckEnvironmentResponse(_message.Message):
    __slots__ = ("checks",)
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    checks: _containers.RepeatedCompositeFieldContainer[Check]
    def __init__(self, checks: _Optional[_Iterable[_Union[Check, _Mapping]]] = ...) -> None: ...

class SourceFile(_message.Message):
    __slots__ = ("name", "text")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    text: str
    def __init__(self, name: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class InstallRequirementsRequest(_message.Message):
    __slots__ = ("options", "requirements", "requirement_paths", "requirement_files", "requirement_file_count", "dry_run")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    REQUIREMENTS_FIELD_NUMBER: _ClassVar[int]
    REQUIREMENT_PATHS_FIELD_NUMBER: _ClassVar[int]
    REQUIREMENT_FILES_FIELD_NUMBER: _ClassVar[int]
    REQUIREMENT_FILE_COUNT_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    options: _job_pb2.JobOptions
    requirements: _containers.RepeatedScalarFieldContainer[str]
    requirement_paths: _containers.RepeatedScalarFieldContainer[str]
    requirement_files: _containers.RepeatedCompositeFieldContainer[SourceFile]
    requirement_file_count: int
    dry_run: bool
    def __init__(self, options: _Optional[_Union[_job_pb2.JobOptions, _Mapping]] = ..., requirements: _Optional[_Iterable[str]] = ..., requirement_paths: _Optional[_Iterable[str]] = ..., requirement_files: _Optional[_Iterable[_Union[SourceFile, _Mapping]]] = ..., requirement_file_count: _Optional[int] = ..., dry_run: bool = ...) -> None: ...

class InstallRequirementsResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class CreateEnvironmentRequest(_message.Message):
    __slots__ = ("options", "name", "python_version", "moreh_version", "torch_version", "source_path", "source_files")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    MOREH_VERSION_FIELD_NUMBER: _ClassVar[int]
    TORCH_VERSION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_PATH_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FILES_FIELD_NUMBER: _ClassVar[int]
    options: _job_pb2.JobOptions
    name: str
    python_version: str
    moreh_version: str
    torch_version: str
    source_path: str
    source_files: _containers.RepeatedCompositeFieldContainer[SourceFile]
    def __init__(self, options: _Optional[_Union[_job_pb2.JobOptions, _Mapping]] = ..., name: _Optional[str] = ..., python_version: _Optional[str] = ..., moreh_version: _Optional[str] = ..., torch_version: _Optional[str] = ..., source_path: _Optional[str] = ..., source_files: _Optional[_Iterable[_Union[SourceFile, _Mapping]]] = ...) -> None: ...

class CreateEnvironmentResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class ApplyRemedyRequest(_message.Message):
    __slots__ = ("remedy", "argument", "environment")
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    ARGUMENT_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    remedy: Remedy
    argument: str
    environment: str
    def __init__(self, remedy: _Optional[_Union[Remedy, str]] = ..., argument: _Optional[str] = ..., environment: _Optional[str] = ...) -> None: ...

class ApplyRemedyResponse(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

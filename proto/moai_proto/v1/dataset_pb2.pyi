from moai_proto.v1 import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DatasetSpec(_message.Message):
    __slots__ = ("source", "revision", "template", "block_size", "sample", "output", "file_name", "pack", "mask_prompt", "validation_fraction", "jobs", "engine", "split")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    FILE_NAME_FIELD_NUMBER: _ClassVar[int]
    PACK_FIELD_NUMBER: _ClassVar[int]
    MASK_PROMPT_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FRACTION_FIELD_NUMBER: _ClassVar[int]
    JOBS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    source: str
    revision: str
    template: str
    block_size: int
    sample: int
    output: str
    file_name: str
    pack: bool
    mask_prompt: bool
    validation_fraction: float
    jobs: int
    engine: Engine
    split: str
    def __init__(self, source: _Optional[str] = ..., revision: _Optional[str] = ..., template: _Optional[str] = ..., block_size: _Optional[int] = ..., sample: _Optional[int] = ..., output: _Optional[str] = ..., file_name: _Optional[str] = ..., pack: bool = ..., mask_prompt: bool = ..., validation_fraction: _Optional[float] = ..., jobs: _Optional[int] = ..., engine: _Optional[_Union[Engine, _Mapping]] = ..., split: _Optional[str] = ...) -> None: ...

class Engine(_message.Message):
    __slots__ = ("name", "candidates", "note")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    name: str
    candidates: _containers.RepeatedCompositeFieldContainer[EngineCandidate]
    note: str
    def __init__(self, name: _Optional[str] = ..., candidates: _Optional[_Iterable[_Union[EngineCandidate, _Mapping]]] = ..., note: _Optional[str] = ...) -> None: ...

class EngineCandidate(_message.Message):
    __slots__ = ("name", "python", "snapshot")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    name: str
    python: str
    snapshot: str
    def __init__(self, name: _Optional[str] = ..., python: _Optional[str] = ..., snapshot: _Optional[str] = ...) -> None: ...

class PrepareDatasetRequest(_message.Message):
    __slots__ = ("options", "dataset", "model", "model_revision", "endpoint")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_REVISION_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    options: _job_pb2.JobOptions
    dataset: DatasetSpec
    model: str
    model_revision: str
    endpoint: str
    def __init__(self, options: _Optional[_Union[_job_pb2.JobOptions, _Mapping]] = ..., dataset: _Optional[_Union[DatasetSpec, _Mapping]] = ..., model: _Optional[str] = ..., model_revision: _Optional[str] = ..., endpoint: _Optional[str] = ...) -> None: ...

class PrepareDatasetResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class PreviewDatasetRequest(_message.Message):
    __slots__ = ("options", "dataset", "model", "model_revision", "endpoint", "rows")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_REVISION_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    options: _job_pb2.JobOptions
    dataset: DatasetSpec
    model: str
    model_revision: str
    endpoint: str
    rows: int
    def __init__(self, options: _Optional[_Union[_job_pb2.JobOptions, _Mapping]] = ..., dataset: _Optional[_Union[DatasetSpec, _Mapping]] = ..., model: _Optional[str] = ..., model_revision: _Optional[str] = ..., endpoint: _Optional[str] = ..., rows: _Optional[int] = ...) -> None: ...

class PreviewDatasetResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class PlanEngineRequest(_message.Message):
    __slots__ = ("environment",)
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    environment: str
    def __init__(self, environment: _Optional[str] = ...) -> None: ...

class PlanEngineResponse(_message.Message):
    __slots__ = ("pythons",)
    PYTHONS_FIELD_NUMBER: _ClassVar[int]
    pythons: _containers.RepeatedCompositeFieldContainer[EnginePython]
    def __init__(self, pythons: _Optional[_Iterable[_Union[EnginePython, _Mapping]]] = ...) -> None: ...

class EnginePython(_message.Message):
    __slots__ = ("python", "facts", "installed")
    class FactsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    INSTALLED_FIELD_NUMBER: _ClassVar[int]
    python: str
    facts: _containers.ScalarMap[str, str]
    installed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, python: _Optional[str] = ..., facts: _Optional[_Mapping[str, str]] = ..., installed: _Optional[_Iterable[str]] = ...) -> None: ...

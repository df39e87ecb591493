from moai_proto.v1 import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HubRepo(_message.Message):
    __slots__ = ("id", "type", "revision", "endpoint")
    ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    id: str
    type: str
    revision: str
    endpoint: str
    def __init__(self, id: _Optional[str] = ..., type: _Optional[str] = ..., revision: _Optional[str] = ..., endpoint: _Optional[str] = ...) -> None: ...

class PlanDownloadRequest(_message.Message):
    __slots__ = ("repo", "token", "proxy", "work", "output")
    REPO_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PROXY_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    repo: HubRepo
    token: str
    proxy: str
    work: str
    output: str
    def __init__(self, repo: _Optional[_Union[HubRepo, _Mapping]] = ..., token: _Optional[str] = ..., proxy: _Optional[str] = ..., work: _Optional[str] = ..., output: _Optional[str] = ...) -> None: ...

class PlannedFile(_message.Message):
    __slots__ = ("path", "size_bytes", "here")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    HERE_FIELD_NUMBER: _ClassVar[int]
    path: str
    size_bytes: int
    here: bool
    def __init__(self, path: _Optional[str] = ..., size_bytes: _Optional[int] = ..., here: bool = ...) -> None: ...

class PlanDownloadResponse(_message.Message):
    __slots__ = ("commit", "size_bytes", "file_count", "left_out", "free_bytes", "folder", "files", "missing_bytes", "needed_bytes", "gated", "page", "token_source", "other_cache")
    class LeftOutEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FILE_COUNT_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    MISSING_BYTES_FIELD_NUMBER: _ClassVar[int]
    NEEDED_BYTES_FIELD_NUMBER: _ClassVar[int]
    GATED_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_SOURCE_FIELD_NUMBER: _ClassVar[int]
    OTHER_CACHE_FIELD_NUMBER: _ClassVar[int]
    commit: str
    size_bytes: int
    file_count: int
    left_out: _containers.ScalarMap[str, str]
    free_bytes: int
    folder: str
    files: _containers.RepeatedCompositeFieldContainer[PlannedFile]
    missing_bytes: int
    needed_bytes: int
    gated: bool
    page: str
    token_source: str
    other_cache: str
    def __init__(self, commit: _Optional[str] = ..., size_bytes: _Optional[int] = ..., file_count: _Optional[int] = ..., left_out: _Optional[_Mapping[str, str]] = ..., free_bytes: _Optional[int] = ..., folder: _Optional[str] = ..., files: _Optional[_Iterable[_Union[PlannedFile, _Mapping]]] = ..., missing_bytes: _Optional[int] = ..., needed_bytes: _Optional[int] = ..., gated: bool = ..., page: _Optional[str] = ..., token_source: _Optional[str] = ..., other_cache: _Optional[str] = ...) -> None: ...

class DownloadModelRequest(_message.Message):
    __slots__ = ("options", "repo", "output", "streams")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    REPO_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    options: _job_pb2.JobOptions
    repo: HubRepo
    output: str
    streams: int
    def __init__(self, options: _Optional[_Union[_job_pb2.JobOptions, _Mapping]] = ..., repo: _Optional[_Union[HubRepo, _Mapping]] = ..., output: _Optional[str] = ..., streams: _Optional[int] = ...) -> None: ...

class DownloadModelResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class UploadModelRequest(_message.Message):
    __slots__ = ("options", "source", "repo", "private", "revision", "commit_message", "endpoint")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REPO_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    COMMIT_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    options: _job_pb2.JobOptions
    source: str
    repo: str
    private: bool
    revision: str
    commit_message: str
    endpoint: str
    def __init__(self, options: _Optional[_Union[_job_pb2.JobOptions, _Mapping]] = ..., source: _Optional[str] = ..., repo: _Optional[str] = ..., private: bool = ..., revision: _Optional[str] = ..., commit_message: _Optional[str] = ..., endpoint: _Optional[str] = ...) -> None: ...

class UploadModelResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FileEntry(_message.Message):
    __slots__ = ("path", "size_bytes", "sha256", "mode")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    path: str
    size_bytes: int
    sha256: str
    mode: int
    def __init__(self, path: _Optional[str] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ..., mode: _Optional[int] = ...) -> None: ...

class CompareFilesRequest(_message.Message):
    __slots__ = ("path", "digest_wanted")
    PATH_FIELD_NUMBER: _ClassVar[int]
    DIGEST_WANTED_FIELD_NUMBER: _ClassVar[int]
    path: str
    digest_wanted: bool
    def __init__(self, path: _Optional[str] = ..., digest_wanted: bool = ...) -> None: ...

class CompareFilesResponse(_message.Message):
    __slots__ = ("root", "is_file", "files")
    ROOT_FIELD_NUMBER: _ClassVar[int]
    IS_FILE_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    root: str
    is_file: bool
    files: _containers.RepeatedCompositeFieldContainer[FileEntry]
    def __init__(self, root: _Optional[str] = ..., is_file: bool = ..., files: _Optional[_Iterable[_Union[FileEntry, _Mapping]]] = ...) -> None: ...

class PutFilesRequest(_message.Message):
    __slots__ = ("path", "name", "size_bytes", "data", "sha256", "mode")
    PATH_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    path: str
    name: str
    size_bytes: int
    data: bytes
    sha256: str
    mode: int
    def __init__(self, path: _Optional[str] = ..., name: _Optional[str] = ..., size_bytes: _Optional[int] = ..., data: _Optional[bytes] = ..., sha256: _Optional[str] = ..., mode: _Optional[int] = ...) -> None: ...

class PutFilesResponse(_message.Message):
    __slots__ = ("path",)
    PATH_FIELD_NUMBER: _ClassVar[int]
    path: str
    def __init__(self, path: _Optional[str] = ...) -> None: ...

class GetFilesRequest(_message.Message):
    __slots__ = ("path", "offset")
    PATH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    path: str
    offset: int
    def __init__(self, path: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class GetFilesResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class SnapshotFile(_message.Message):
    __slots__ = ("path", "sha256", "size_bytes", "executable")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXECUTABLE_FIELD_NUMBER: _ClassVar[int]
    path: str
    sha256: str
    size_bytes: int
    executable: bool
    def __init__(self, path: _Optional[str] = ..., sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ..., executable: bool = ...) -> None: ...

class PlanSnapshotRequest(_message.Message):
    __slots__ = ("files", "work", "base", "gone")
    FILES_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[SnapshotFile]
    work: str
    base: str
    gone: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, files: _Optional[_Iterable[_Union[SnapshotFile, _Mapping]]] = ..., work: _Optional[str] = ..., base: _Optional[str] = ..., gone: _Optional[_Iterable[str]] = ...) -> None: ...

class PlanSnapshotResponse(_message.Message):
    __slots__ = ("id", "missing", "base")
    ID_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    id: str
    missing: _containers.RepeatedScalarFieldContainer[str]
    base: str
    def __init__(self, id: _Optional[str] = ..., missing: _Optional[_Iterable[str]] = ..., base: _Optional[str] = ...) -> None: ...

class PutContentsRequest(_message.Message):
    __slots__ = ("sha256", "data", "last", "work")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    data: bytes
    last: bool
    work: str
    def __init__(self, sha256: _Optional[str] = ..., data: _Optional[bytes] = ..., last: bool = ..., work: _Optional[str] = ...) -> None: ...

class PutContentsResponse(_message.Message):
    __slots__ = ("count",)
    COUNT_FIELD_NUMBER: _ClassVar[int]
    count: int
    def __init__(self, count: _Optional[int] = ...) -> None: ...

class StoredItem(_message.Message):
    __slots__ = ("kind", "path", "job", "state", "size_bytes", "file_count", "change_time", "partial", "kept_because")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FILE_COUNT_FIELD_NUMBER: _ClassVar[int]
    CHANGE_TIME_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    KEPT_BECAUSE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    path: str
    job: str
    state: str
    size_bytes: int
    file_count: int
    change_time: _timestamp_pb2.Timestamp
    partial: bool
    kept_because: str
    def __init__(self, kind: _Optional[str] = ..., path: _Optional[str] = ..., job: _Optional[str] = ..., state: _Optional[str] = ..., size_bytes: _Optional[int] = ..., file_count: _Optional[int] = ..., change_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., partial: bool = ..., kept_because: _Optional[str] = ...) -> None: ...

class DiskMount(_message.Message):
    __slots__ = ("path", "free_bytes", "total_bytes")
    PATH_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    path: str
    free_bytes: int
    total_bytes: int
    def __init__(self, path: _Optional[str] = ..., free_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ...) -> None: ...

class DiskUsageRequest(_message.Message):
    __slots__ = ("work", "limit_seconds", "limit_entries")
    WORK_FIELD_NUMBER: _ClassVar[int]
    LIMIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    work: str
    limit_seconds: float
    limit_entries: int
    def __init__(self, work: _Optional[str] = ..., limit_seconds: _Optional[float] = ..., limit_entries: _Optional[int] = ...) -> None: ...

class DiskUsageResponse(_message.Message):
    __slots__ = ("items", "mounts", "stopped")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    MOUNTS_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[StoredItem]
    mounts: _containers.RepeatedCompositeFieldContainer[DiskMount]
    stopped: str
    def __init__(self, items: _Optional[_Iterable[_Union[StoredItem, _Mapping]]] = ..., mounts: _Optional[_Iterable[_Union[DiskMount, _Mapping]]] = ..., stopped: _Optional[str] = ...) -> None: ...

class CleanFilesRequest(_message.Message):
    __slots__ = ("work", "older_seconds", "checkpoints_wanted", "keep_checkpoints", "logs_wanted", "results_job", "dry_run", "owner", "force", "paths")
    WORK_FIELD_NUMBER: _ClassVar[int]
    OLDER_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_WANTED_FIELD_NUMBER: _ClassVar[int]
    KEEP_CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    LOGS_WANTED_FIELD_NUMBER: _ClassVar[int]
    RESULTS_JOB_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    work: str
    older_seconds: float
    checkpoints_wanted: bool
    keep_checkpoints: int
    logs_wanted: bool
    results_job: str
    dry_run: bool
    owner: str
    force: bool
    paths: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, work: _Optional[str] = ..., older_seconds: _Optional[float] = ..., checkpoints_wanted: bool = ..., keep_checkpoints: _Optional[int] = ..., logs_wanted: bool = ..., results_job: _Optional[str] = ..., dry_run: bool = ..., owner: _Optional[str] = ..., force: bool = ..., paths: _Optional[_Iterable[str]] = ...) -> None: ...

class CleanFilesResponse(_message.Message):
    __slots__ = ("items", "kept")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[StoredItem]
    kept: _containers.RepeatedCompositeFieldContainer[StoredItem]
    def __init__(self, items: _Optional[_Iterable[_Union[StoredItem, _Mapping]]] = ..., kept: _Optional[_Iterable[_Union[StoredItem, _Mapping]]] = ...) -> None: ...

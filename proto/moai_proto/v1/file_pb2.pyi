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
    __slots__ = ("files", "work")
    FILES_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[SnapshotFile]
    work: str
    def __init__(self, files: _Optional[_Iterable[_Union[SnapshotFile, _Mapping]]] = ..., work: _Optional[str] = ...) -> None: ...

class PlanSnapshotResponse(_message.Message):
    __slots__ = ("id", "missing")
    ID_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    id: str
    missing: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., missing: _Optional[_Iterable[str]] = ...) -> None: ...

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

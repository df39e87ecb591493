from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    JOB_STATE_QUEUED: _ClassVar[JobState]
    JOB_STATE_STARTING: _ClassVar[JobState]
    JOB_STATE_RUNNING: _ClassVar[JobState]
    JOB_STATE_STOPPING: _ClassVar[JobState]
    JOB_STATE_SUCCEEDED: _ClassVar[JobState]
    JOB_STATE_FAILED: _ClassVar[JobState]
    JOB_STATE_CANCELLED: _ClassVar[JobState]
    JOB_STATE_INTERRUPTED: _ClassVar[JobState]
    JOB_STATE_UNKNOWN: _ClassVar[JobState]

class StepState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STEP_STATE_UNSPECIFIED: _ClassVar[StepState]
    STEP_STATE_PENDING: _ClassVar[StepState]
    STEP_STATE_RUNNING: _ClassVar[StepState]
    STEP_STATE_SUCCEEDED: _ClassVar[StepState]
    STEP_STATE_SKIPPED: _ClassVar[StepState]
    STEP_STATE_FAILED: _ClassVar[StepState]
    STEP_STATE_CANCELLED: _ClassVar[StepState]

class JobSignal(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_SIGNAL_UNSPECIFIED: _ClassVar[JobSignal]
    JOB_SIGNAL_CHECKPOINT: _ClassVar[JobSignal]
    JOB_SIGNAL_STOP: _ClassVar[JobSignal]
    JOB_SIGNAL_EVALUATE: _ClassVar[JobSignal]
    JOB_SIGNAL_LOG_INTERVAL: _ClassVar[JobSignal]
JOB_STATE_UNSPECIFIED: JobState
JOB_STATE_QUEUED: JobState
JOB_STATE_STARTING: JobState
JOB_STATE_RUNNING: JobState
JOB_STATE_STOPPING: JobState
JOB_STATE_SUCCEEDED: JobState
JOB_STATE_FAILED: JobState
JOB_STATE_CANCELLED: JobState
JOB_STATE_INTERRUPTED: JobState
JOB_STATE_UNKNOWN: JobState
STEP_STATE_UNSPECIFIED: StepState
STEP_STATE_PENDING: StepState
STEP_STATE_RUNNING: StepState
STEP_STATE_SUCCEEDED: StepState
STEP_STATE_SKIPPED: StepState
STEP_STATE_FAILED: StepState
STEP_STATE_CANCELLED: StepState
JOB_SIGNAL_UNSPECIFIED: JobSignal
JOB_SIGNAL_CHECKPOINT: JobSignal
JOB_SIGNAL_STOP: JobSignal
JOB_SIGNAL_EVALUATE: JobSignal
JOB_SIGNAL_LOG_INTERVAL: JobSignal

class JobOptions(_message.Message):
    __slots__ = ("request_id", "name", "owner", "environment", "variables", "secrets", "workdir", "accelerator", "max_duration_seconds", "labels", "setup", "work", "proxy", "snapshot", "snapshot_folder", "retries", "on_finish", "webhook", "stop_on", "git_url", "git_revision", "git_submodules_wanted", "wait_for_access", "on_checkpoint", "on_stop")
    class VariablesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class SecretsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    VARIABLES_FIELD_NUMBER: _ClassVar[int]
    SECRETS_FIELD_NUMBER: _ClassVar[int]
    WORKDIR_FIELD_NUMBER: _ClassVar[int]
    ACCELERATOR_FIELD_NUMBER: _ClassVar[int]
    MAX_DURATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SETUP_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    PROXY_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FOLDER_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    ON_FINISH_FIELD_NUMBER: _ClassVar[int]
    WEBHOOK_FIELD_NUMBER: _ClassVar[int]
    STOP_ON_FIELD_NUMBER: _ClassVar[int]
    GIT_URL_FIELD_NUMBER: _ClassVar[int]
    GIT_REVISION_FIELD_NUMBER: _ClassVar[int]
    GIT_SUBMODULES_WANTED_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_ACCESS_FIELD_NUMBER: _ClassVar[int]
    ON_CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    ON_STOP_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    name: str
    owner: str
    environment: str
    variables: _containers.ScalarMap[str, str]
    secrets: _containers.ScalarMap[str, str]
    workdir: str
    accelerator: str
    max_duration_seconds: float
    labels: _containers.ScalarMap[str, str]
    setup: str
    work: str
    proxy: str
    snapshot: str
    snapshot_folder: str
    retries: int
    on_finish: str
    webhook: str
    stop_on: _containers.RepeatedScalarFieldContainer[str]
    git_url: str
    git_revision: str
    git_submodules_wanted: bool
    wait_for_access: bool
    on_checkpoint: str
    on_stop: str
    def __init__(self, request_id: _Optional[str] = ..., name: _Optional[str] = ..., owner: _Optional[str] = ..., environment: _Optional[str] = ..., variables: _Optional[_Mapping[str, str]] = ..., secrets: _Optional[_Mapping[str, str]] = ..., workdir: _Optional[str] = ..., accelerator: _Optional[str] = ..., max_duration_seconds: _Optional[float] = ..., labels: _Optional[_Mapping[str, str]] = ..., setup: _Optional[str] = ..., work: _Optional[str] = ..., proxy: _Optional[str] = ..., snapshot: _Optional[str] = ..., snapshot_folder: _Optional[str] = ..., retries: _Optional[int] = ..., on_finish: _Optional[str] = ..., webhook: _Optional[str] = ..., stop_on: _Optional[_Iterable[str]] = ..., git_url: _Optional[str] = ..., git_revision: _Optional[str] = ..., git_submodules_wanted: bool = ..., wait_for_access: bool = ..., on_checkpoint: _Optional[str] = ..., on_stop: _Optional[str] = ...) -> None: ...

class Reason(_message.Message):
    __slots__ = ("code", "message", "next", "details")
    class DetailsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    next: str
    details: _containers.ScalarMap[str, str]
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., next: _Optional[str] = ..., details: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("name", "state", "exit_code")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: StepState
    exit_code: int
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[StepState, str]] = ..., exit_code: _Optional[int] = ...) -> None: ...

class ProgressView(_message.Message):
    __slots__ = ("done", "total", "unit", "rate", "eta_seconds", "as_of_time")
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    ETA_SECONDS_FIELD_NUMBER: _ClassVar[int]
    AS_OF_TIME_FIELD_NUMBER: _ClassVar[int]
    done: float
    total: float
    unit: str
    rate: float
    eta_seconds: float
    as_of_time: _timestamp_pb2.Timestamp
    def __init__(self, done: _Optional[float] = ..., total: _Optional[float] = ..., unit: _Optional[str] = ..., rate: _Optional[float] = ..., eta_seconds: _Optional[float] = ..., as_of_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Condition(_message.Message):
    __slots__ = ("type", "message")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    type: str
    message: str
    def __init__(self, type: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("id", "name", "owner", "command", "kind", "state", "phase", "reason", "create_time", "start_time", "end_time", "exit_code", "steps", "progress", "output", "parent", "conditions", "pid", "log_bytes", "last_sequence", "environment", "environment_reason", "metrics", "metrics_step", "folder", "request_id", "losses", "phase_time", "phase_text", "phase_usual_seconds", "phase_usual_source", "host_id")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    LOG_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_REASON_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    METRICS_STEP_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    PHASE_TIME_FIELD_NUMBER: _ClassVar[int]
    PHASE_TEXT_FIELD_NUMBER: _ClassVar[int]
    PHASE_USUAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PHASE_USUAL_SOURCE_FIELD_NUMBER: _ClassVar[int]
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    owner: str
    command: str
    kind: str
    state: JobState
    phase: str
    reason: Reason
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    exit_code: int
    steps: _containers.RepeatedCompositeFieldContainer[Step]
    progress: ProgressView
    output: str
    parent: str
    conditions: _containers.RepeatedCompositeFieldContainer[Condition]
    pid: int
    log_bytes: int
    last_sequence: int
    environment: str
    environment_reason: str
    metrics: _containers.ScalarMap[str, float]
    metrics_step: int
    folder: str
    request_id: str
    losses: _containers.RepeatedCompositeFieldContainer[LossPoint]
    phase_time: _timestamp_pb2.Timestamp
    phase_text: str
    phase_usual_seconds: _containers.RepeatedScalarFieldContainer[float]
    phase_usual_source: str
    host_id: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., owner: _Optional[str] = ..., command: _Optional[str] = ..., kind: _Optional[str] = ..., state: _Optional[_Union[JobState, str]] = ..., phase: _Optional[str] = ..., reason: _Optional[_Union[Reason, _Mapping]] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., exit_code: _Optional[int] = ..., steps: _Optional[_Iterable[_Union[Step, _Mapping]]] = ..., progress: _Optional[_Union[ProgressView, _Mapping]] = ..., output: _Optional[str] = ..., parent: _Optional[str] = ..., conditions: _Optional[_Iterable[_Union[Condition, _Mapping]]] = ..., pid: _Optional[int] = ..., log_bytes: _Optional[int] = ..., last_sequence: _Optional[int] = ..., environment: _Optional[str] = ..., environment_reason: _Optional[str] = ..., metrics: _Optional[_Mapping[str, float]] = ..., metrics_step: _Optional[int] = ..., folder: _Optional[str] = ..., request_id: _Optional[str] = ..., losses: _Optional[_Iterable[_Union[LossPoint, _Mapping]]] = ..., phase_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., phase_text: _Optional[str] = ..., phase_usual_seconds: _Optional[_Iterable[float]] = ..., phase_usual_source: _Optional[str] = ..., host_id: _Optional[str] = ...) -> None: ...

class LossPoint(_message.Message):
    __slots__ = ("step", "loss")
    STEP_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    step: int
    loss: float
    def __init__(self, step: _Optional[int] = ..., loss: _Optional[float] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("sequence", "event_time", "step", "state", "step_change", "phase", "progress", "metric", "message", "artifact", "gap")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STEP_CHANGE_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    event_time: _timestamp_pb2.Timestamp
    step: str
    state: StateEvent
    step_change: StepEvent
    phase: PhaseEvent
    progress: ProgressEvent
    metric: MetricEvent
    message: MessageEvent
    artifact: ArtifactEvent
    gap: GapEvent
    def __init__(self, sequence: _Optional[int] = ..., event_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., step: _Optional[str] = ..., state: _Optional[_Union[StateEvent, _Mapping]] = ..., step_change: _Optional[_Union[StepEvent, _Mapping]] = ..., phase: _Optional[_Union[PhaseEvent, _Mapping]] = ..., progress: _Optional[_Union[ProgressEvent, _Mapping]] = ..., metric: _Optional[_Union[MetricEvent, _Mapping]] = ..., message: _Optional[_Union[MessageEvent, _Mapping]] = ..., artifact: _Optional[_Union[ArtifactEvent, _Mapping]] = ..., gap: _Optional[_Union[GapEvent, _Mapping]] = ...) -> None: ...

class StateEvent(_message.Message):
    __slots__ = ("state", "exit_code", "reason", "output")
    STATE_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    state: JobState
    exit_code: int
    reason: Reason
    output: str
    def __init__(self, state: _Optional[_Union[JobState, str]] = ..., exit_code: _Optional[int] = ..., reason: _Optional[_Union[Reason, _Mapping]] = ..., output: _Optional[str] = ...) -> None: ...

class StepEvent(_message.Message):
    __slots__ = ("name", "state", "exit_code", "pid", "result_json", "reason", "pid_start_ticks")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    RESULT_JSON_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PID_START_TICKS_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: StepState
    exit_code: int
    pid: int
    result_json: str
    reason: Reason
    pid_start_ticks: int
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[StepState, str]] = ..., exit_code: _Optional[int] = ..., pid: _Optional[int] = ..., result_json: _Optional[str] = ..., reason: _Optional[_Union[Reason, _Mapping]] = ..., pid_start_ticks: _Optional[int] = ...) -> None: ...

class PhaseEvent(_message.Message):
    __slots__ = ("phase", "text", "details_json")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DETAILS_JSON_FIELD_NUMBER: _ClassVar[int]
    phase: str
    text: str
    details_json: str
    def __init__(self, phase: _Optional[str] = ..., text: _Optional[str] = ..., details_json: _Optional[str] = ...) -> None: ...

class ProgressEvent(_message.Message):
    __slots__ = ("done", "total", "unit", "rate", "eta_seconds", "details_json")
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    ETA_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DETAILS_JSON_FIELD_NUMBER: _ClassVar[int]
    done: float
    total: float
    unit: str
    rate: float
    eta_seconds: float
    details_json: str
    def __init__(self, done: _Optional[float] = ..., total: _Optional[float] = ..., unit: _Optional[str] = ..., rate: _Optional[float] = ..., eta_seconds: _Optional[float] = ..., details_json: _Optional[str] = ...) -> None: ...

class MetricEvent(_message.Message):
    __slots__ = ("step", "total", "values", "details_json")
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    DETAILS_JSON_FIELD_NUMBER: _ClassVar[int]
    step: int
    total: int
    values: _containers.ScalarMap[str, float]
    details_json: str
    def __init__(self, step: _Optional[int] = ..., total: _Optional[int] = ..., values: _Optional[_Mapping[str, float]] = ..., details_json: _Optional[str] = ...) -> None: ...

class MessageEvent(_message.Message):
    __slots__ = ("text", "level", "code", "details_json")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_JSON_FIELD_NUMBER: _ClassVar[int]
    text: str
    level: str
    code: str
    details_json: str
    def __init__(self, text: _Optional[str] = ..., level: _Optional[str] = ..., code: _Optional[str] = ..., details_json: _Optional[str] = ...) -> None: ...

class ArtifactEvent(_message.Message):
    __slots__ = ("kind", "path", "details_json")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    DETAILS_JSON_FIELD_NUMBER: _ClassVar[int]
    kind: str
    path: str
    details_json: str
    def __init__(self, kind: _Optional[str] = ..., path: _Optional[str] = ..., details_json: _Optional[str] = ...) -> None: ...

class GapEvent(_message.Message):
    __slots__ = ("source", "start_offset", "end_offset", "text")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    START_OFFSET_FIELD_NUMBER: _ClassVar[int]
    END_OFFSET_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    source: str
    start_offset: int
    end_offset: int
    text: str
    def __init__(self, source: _Optional[str] = ..., start_offset: _Optional[int] = ..., end_offset: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class RunCommandRequest(_message.Message):
    __slots__ = ("options", "arguments", "kind", "expected_paths", "exit_code_trusted", "log_pattern")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_PATHS_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_TRUSTED_FIELD_NUMBER: _ClassVar[int]
    LOG_PATTERN_FIELD_NUMBER: _ClassVar[int]
    options: JobOptions
    arguments: _containers.RepeatedScalarFieldContainer[str]
    kind: str
    expected_paths: _containers.RepeatedScalarFieldContainer[str]
    exit_code_trusted: bool
    log_pattern: str
    def __init__(self, options: _Optional[_Union[JobOptions, _Mapping]] = ..., arguments: _Optional[_Iterable[str]] = ..., kind: _Optional[str] = ..., expected_paths: _Optional[_Iterable[str]] = ..., exit_code_trusted: bool = ..., log_pattern: _Optional[str] = ...) -> None: ...

class RunCommandResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class GetJobRequest(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class GetJobResponse(_message.Message):
    __slots__ = ("job", "spec_json", "plan_json")
    JOB_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    PLAN_JSON_FIELD_NUMBER: _ClassVar[int]
    job: Job
    spec_json: str
    plan_json: str
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ..., spec_json: _Optional[str] = ..., plan_json: _Optional[str] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "others_wanted")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    OTHERS_WANTED_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    others_wanted: bool
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., others_wanted: bool = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs", "next_page_token", "other_count")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    OTHER_COUNT_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    next_page_token: str
    other_count: int
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., other_count: _Optional[int] = ...) -> None: ...

class CancelJobRequest(_message.Message):
    __slots__ = ("job", "owner", "force", "grace_seconds")
    JOB_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    GRACE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    job: str
    owner: str
    force: bool
    grace_seconds: float
    def __init__(self, job: _Optional[str] = ..., owner: _Optional[str] = ..., force: bool = ..., grace_seconds: _Optional[float] = ...) -> None: ...

class CancelJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class TrainingGroup(_message.Message):
    __slots__ = ("id", "rank", "size", "address", "port", "interface")
    ID_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    id: str
    rank: int
    size: int
    address: str
    port: int
    interface: str
    def __init__(self, id: _Optional[str] = ..., rank: _Optional[int] = ..., size: _Optional[int] = ..., address: _Optional[str] = ..., port: _Optional[int] = ..., interface: _Optional[str] = ...) -> None: ...

class ResumeJobRequest(_message.Message):
    __slots__ = ("job", "options", "settings", "force", "start_from", "dry_run", "group")
    class SettingsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    JOB_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    START_FROM_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    job: str
    options: JobOptions
    settings: _containers.ScalarMap[str, str]
    force: bool
    start_from: str
    dry_run: bool
    group: TrainingGroup
    def __init__(self, job: _Optional[str] = ..., options: _Optional[_Union[JobOptions, _Mapping]] = ..., settings: _Optional[_Mapping[str, str]] = ..., force: bool = ..., start_from: _Optional[str] = ..., dry_run: bool = ..., group: _Optional[_Union[TrainingGroup, _Mapping]] = ...) -> None: ...

class SettingChange(_message.Message):
    __slots__ = ("name", "old_value", "new_value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OLD_VALUE_FIELD_NUMBER: _ClassVar[int]
    NEW_VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    old_value: str
    new_value: str
    def __init__(self, name: _Optional[str] = ..., old_value: _Optional[str] = ..., new_value: _Optional[str] = ...) -> None: ...

class ResumeJobResponse(_message.Message):
    __slots__ = ("job", "changes", "fixed_settings", "text")
    JOB_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    FIXED_SETTINGS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    job: Job
    changes: _containers.RepeatedCompositeFieldContainer[SettingChange]
    fixed_settings: _containers.RepeatedScalarFieldContainer[str]
    text: str
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ..., changes: _Optional[_Iterable[_Union[SettingChange, _Mapping]]] = ..., fixed_settings: _Optional[_Iterable[str]] = ..., text: _Optional[str] = ...) -> None: ...

class DeleteJobRequest(_message.Message):
    __slots__ = ("job", "owner", "force")
    JOB_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    job: str
    owner: str
    force: bool
    def __init__(self, job: _Optional[str] = ..., owner: _Optional[str] = ..., force: bool = ...) -> None: ...

class DeleteJobResponse(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class SignalJobRequest(_message.Message):
    __slots__ = ("job", "signal", "owner", "force", "value")
    JOB_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    job: str
    signal: JobSignal
    owner: str
    force: bool
    value: int
    def __init__(self, job: _Optional[str] = ..., signal: _Optional[_Union[JobSignal, str]] = ..., owner: _Optional[str] = ..., force: bool = ..., value: _Optional[int] = ...) -> None: ...

class SignalJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class WatchEventsRequest(_message.Message):
    __slots__ = ("job", "after_sequence", "follow_disabled", "batch_seconds")
    JOB_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_DISABLED_FIELD_NUMBER: _ClassVar[int]
    BATCH_SECONDS_FIELD_NUMBER: _ClassVar[int]
    job: str
    after_sequence: int
    follow_disabled: bool
    batch_seconds: float
    def __init__(self, job: _Optional[str] = ..., after_sequence: _Optional[int] = ..., follow_disabled: bool = ..., batch_seconds: _Optional[float] = ...) -> None: ...

class WatchEventsResponse(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class ReadLogRequest(_message.Message):
    __slots__ = ("job", "offset", "follow", "limit_bytes")
    JOB_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    job: str
    offset: int
    follow: bool
    limit_bytes: int
    def __init__(self, job: _Optional[str] = ..., offset: _Optional[int] = ..., follow: bool = ..., limit_bytes: _Optional[int] = ...) -> None: ...

class ReadLogResponse(_message.Message):
    __slots__ = ("offset", "data", "end_reached")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_REACHED_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    end_reached: bool
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ..., end_reached: bool = ...) -> None: ...

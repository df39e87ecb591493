from moai_proto.v1 import dataset_pb2 as _dataset_pb2
from moai_proto.v1 import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NetworkAddress(_message.Message):
    __slots__ = ("interface", "address")
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    interface: str
    address: str
    def __init__(self, interface: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class OfferPeerRequest(_message.Message):
    __slots__ = ("nonce", "seconds")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    seconds: float
    def __init__(self, nonce: _Optional[bytes] = ..., seconds: _Optional[float] = ...) -> None: ...

class OfferPeerResponse(_message.Message):
    __slots__ = ("addresses", "port")
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    addresses: _containers.RepeatedCompositeFieldContainer[NetworkAddress]
    port: int
    def __init__(self, addresses: _Optional[_Iterable[_Union[NetworkAddress, _Mapping]]] = ..., port: _Optional[int] = ...) -> None: ...

class ReachPeerRequest(_message.Message):
    __slots__ = ("addresses", "port", "nonce")
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    addresses: _containers.RepeatedCompositeFieldContainer[NetworkAddress]
    port: int
    nonce: bytes
    def __init__(self, addresses: _Optional[_Iterable[_Union[NetworkAddress, _Mapping]]] = ..., port: _Optional[int] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class PeerAttempt(_message.Message):
    __slots__ = ("address", "is_reached", "text", "local")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    IS_REACHED_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    address: str
    is_reached: bool
    text: str
    local: NetworkAddress
    def __init__(self, address: _Optional[str] = ..., is_reached: bool = ..., text: _Optional[str] = ..., local: _Optional[_Union[NetworkAddress, _Mapping]] = ...) -> None: ...

class ReachPeerResponse(_message.Message):
    __slots__ = ("attempts",)
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    attempts: _containers.RepeatedCompositeFieldContainer[PeerAttempt]
    def __init__(self, attempts: _Optional[_Iterable[_Union[PeerAttempt, _Mapping]]] = ...) -> None: ...

class TrainingSpec(_message.Message):
    __slots__ = ("model", "model_revision", "dataset", "method", "max_steps", "epochs", "batch_size", "learning_rate", "output", "endpoint", "settings", "smoke", "gpus", "group", "upload_repo", "upload_private", "upload_revision")
    class SettingsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_REVISION_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    SMOKE_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_REPO_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_PRIVATE_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_REVISION_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_revision: str
    dataset: _dataset_pb2.DatasetSpec
    method: str
    max_steps: int
    epochs: float
    batch_size: int
    learning_rate: float
    output: str
    endpoint: str
    settings: _containers.ScalarMap[str, str]
    smoke: bool
    gpus: str
    group: _job_pb2.TrainingGroup
    upload_repo: str
    upload_private: bool
    upload_revision: str
    def __init__(self, model: _Optional[str] = ..., model_revision: _Optional[str] = ..., dataset: _Optional[_Union[_dataset_pb2.DatasetSpec, _Mapping]] = ..., method: _Optional[str] = ..., max_steps: _Optional[int] = ..., epochs: _Optional[float] = ..., batch_size: _Optional[int] = ..., learning_rate: _Optional[float] = ..., output: _Optional[str] = ..., endpoint: _Optional[str] = ..., settings: _Optional[_Mapping[str, str]] = ..., smoke: bool = ..., gpus: _Optional[str] = ..., group: _Optional[_Union[_job_pb2.TrainingGroup, _Mapping]] = ..., upload_repo: _Optional[str] = ..., upload_private: bool = ..., upload_revision: _Optional[str] = ...) -> None: ...

class PlanTrainingRequest(_message.Message):
    __slots__ = ("options", "training")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    options: _job_pb2.JobOptions
    training: TrainingSpec
    def __init__(self, options: _Optional[_Union[_job_pb2.JobOptions, _Mapping]] = ..., training: _Optional[_Union[TrainingSpec, _Mapping]] = ...) -> None: ...

class PlanTrainingResponse(_message.Message):
    __slots__ = ("plan_json", "environment", "environment_reason", "output")
    PLAN_JSON_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_REASON_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    plan_json: str
    environment: str
    environment_reason: str
    output: str
    def __init__(self, plan_json: _Optional[str] = ..., environment: _Optional[str] = ..., environment_reason: _Optional[str] = ..., output: _Optional[str] = ...) -> None: ...

class EstimateTrainingRequest(_message.Message):
    __slots__ = ("training", "rows", "token", "environment", "work", "quick", "proxy")
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    QUICK_FIELD_NUMBER: _ClassVar[int]
    PROXY_FIELD_NUMBER: _ClassVar[int]
    training: TrainingSpec
    rows: int
    token: str
    environment: str
    work: str
    quick: bool
    proxy: str
    def __init__(self, training: _Optional[_Union[TrainingSpec, _Mapping]] = ..., rows: _Optional[int] = ..., token: _Optional[str] = ..., environment: _Optional[str] = ..., work: _Optional[str] = ..., quick: bool = ..., proxy: _Optional[str] = ...) -> None: ...

class Figure(_message.Message):
    __slots__ = ("name", "value", "unit", "evidence", "text")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    unit: str
    evidence: str
    text: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., unit: _Optional[str] = ..., evidence: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class Concern(_message.Message):
    __slots__ = ("code", "text")
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    code: str
    text: str
    def __init__(self, code: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class EstimateTrainingResponse(_message.Message):
    __slots__ = ("commit", "model_type", "gated", "figures", "concerns", "recommended_flavor", "recommended_batch_size", "guide_model", "provider", "flavor", "memory_total_mib", "folder", "free_bytes")
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    MODEL_TYPE_FIELD_NUMBER: _ClassVar[int]
    GATED_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    CONCERNS_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDED_FLAVOR_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDED_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    GUIDE_MODEL_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    FLAVOR_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_MIB_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    commit: str
    model_type: str
    gated: bool
    figures: _containers.RepeatedCompositeFieldContainer[Figure]
    concerns: _containers.RepeatedCompositeFieldContainer[Concern]
    recommended_flavor: str
    recommended_batch_size: int
    guide_model: str
    provider: str
    flavor: str
    memory_total_mib: int
    folder: str
    free_bytes: int
    def __init__(self, commit: _Optional[str] = ..., model_type: _Optional[str] = ..., gated: bool = ..., figures: _Optional[_Iterable[_Union[Figure, _Mapping]]] = ..., concerns: _Optional[_Iterable[_Union[Concern, _Mapping]]] = ..., recommended_flavor: _Optional[str] = ..., recommended_batch_size: _Optional[int] = ..., guide_model: _Optional[str] = ..., provider: _Optional[str] = ..., flavor: _Optional[str] = ..., memory_total_mib: _Optional[int] = ..., folder: _Optional[str] = ..., free_bytes: _Optional[int] = ...) -> None: ...

class StartTrainingRequest(_message.Message):
    __slots__ = ("options", "training")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    options: _job_pb2.JobOptions
    training: TrainingSpec
    def __init__(self, options: _Optional[_Union[_job_pb2.JobOptions, _Mapping]] = ..., training: _Optional[_Union[TrainingSpec, _Mapping]] = ...) -> None: ...

class StartTrainingResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("options", "model", "prompts", "prompt_file", "template", "max_new_tokens", "compare", "endpoint")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FILE_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPARE_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    options: _job_pb2.JobOptions
    model: str
    prompts: _containers.RepeatedScalarFieldContainer[str]
    prompt_file: str
    template: str
    max_new_tokens: int
    compare: bool
    endpoint: str
    def __init__(self, options: _Optional[_Union[_job_pb2.JobOptions, _Mapping]] = ..., model: _Optional[str] = ..., prompts: _Optional[_Iterable[str]] = ..., prompt_file: _Optional[str] = ..., template: _Optional[str] = ..., max_new_tokens: _Optional[int] = ..., compare: bool = ..., endpoint: _Optional[str] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class EvaluateRequest(_message.Message):
    __slots__ = ("options", "model", "dataset", "split", "row_limit", "rouge", "max_new_tokens", "compare", "trust_remote_code", "endpoint")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    ROW_LIMIT_FIELD_NUMBER: _ClassVar[int]
    ROUGE_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPARE_FIELD_NUMBER: _ClassVar[int]
    TRUST_REMOTE_CODE_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    options: _job_pb2.JobOptions
    model: str
    dataset: _dataset_pb2.DatasetSpec
    split: str
    row_limit: int
    rouge: bool
    max_new_tokens: int
    compare: bool
    trust_remote_code: bool
    endpoint: str
    def __init__(self, options: _Optional[_Union[_job_pb2.JobOptions, _Mapping]] = ..., model: _Optional[str] = ..., dataset: _Optional[_Union[_dataset_pb2.DatasetSpec, _Mapping]] = ..., split: _Optional[str] = ..., row_limit: _Optional[int] = ..., rouge: bool = ..., max_new_tokens: _Optional[int] = ..., compare: bool = ..., trust_remote_code: bool = ..., endpoint: _Optional[str] = ...) -> None: ...

class EvaluateResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class MergeModelRequest(_message.Message):
    __slots__ = ("options", "adapter", "base_model", "output", "trust_remote_code")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    TRUST_REMOTE_CODE_FIELD_NUMBER: _ClassVar[int]
    options: _job_pb2.JobOptions
    adapter: str
    base_model: str
    output: str
    trust_remote_code: bool
    def __init__(self, options: _Optional[_Union[_job_pb2.JobOptions, _Mapping]] = ..., adapter: _Optional[str] = ..., base_model: _Optional[str] = ..., output: _Optional[str] = ..., trust_remote_code: bool = ...) -> None: ...

class MergeModelResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

"""Garbage at a living agent: on its socket, and in the requests of a caller who has the secret.

One connection ends or one call is refused; the agent stays the same process, answers others, and has no defect to log.
"""

import os
import random
import socket
from pathlib import Path

import grpc
import moai
import pytest
from fuzz.mutations import spoil
from google.protobuf.descriptor import FieldDescriptor
from moai._local import ensure_local
from moai._rpc import TRAILER
from moai_proto.v1 import agent_pb2, errors_pb2, file_pb2, job_pb2

SECONDS = float(os.environ.get("FUZZ_SECONDS") or 0)
FACTOR = max(1, int(SECONDS / 8))
pytestmark = pytest.mark.timeout(max(300, 10 * SECONDS))
RAW, CALLS = 60 * FACTOR, 500 * FACTOR

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000") + bytes.fromhex("00000408000000000000ffff")
#: method -> request, and fields that must not be made up: what follows for ever, writes elsewhere, or starts a job.
METHODS = {
    "AgentService/GetAgent": (agent_pb2.GetAgentRequest, {}),
    "JobService/GetJob": (job_pb2.GetJobRequest, {}),
    "JobService/ListJobs": (job_pb2.ListJobsRequest, {}),
    "JobService/CancelJob": (job_pb2.CancelJobRequest, {}),
    "JobService/SignalJob": (job_pb2.SignalJobRequest, {}),
    "JobService/ResumeJob": (job_pb2.ResumeJobRequest, {"dry_run": True}),
    "JobService/WatchEvents": (job_pb2.WatchEventsRequest, {"follow_disabled": True}),
    "JobService/ReadLog": (job_pb2.ReadLogRequest, {"follow": False}),
    "FileService/PlanSnapshot": (file_pb2.PlanSnapshotRequest, {"work": ""}),
}
TEXTS = ["", "x", "last", "../..", "/", "\0", "a" * 5000, "\u202e\x1b[2J", "1", "-1", "99999999999999999999", "NaN", "{", "[1,2]", '{"a":1}', "é" * 100]
NUMBERS = [0, 1, 2, 5, 500, 2**31 - 1]


@pytest.fixture
def agent(local):
    """(socket path, secret, id of an ended job, pid) of an agent of this test's own."""
    with moai.connect("local") as host:
        job = host.run(["echo", "hello"])
        job.wait(60)
        pid = host.info().pid
    address, secret = ensure_local(lambda text: None)
    yield Path(address.removeprefix("unix:")), secret, job.id, pid
    with moai.connect("local") as host:
        assert host.info().pid == pid, "the agent has died and another one came"
        assert host.job(job.id).info.state == "SUCCEEDED"
        log = Path(host.info().home) / "hosts" / host.info().host_id / "run" / "agent.log"
    assert "Traceback" not in log.read_text(errors="replace"), log.read_text(errors="replace")[-3000:]


def test_bytes_that_are_no_call_end_one_connection_only(agent):
    path, _, _, _ = agent
    for number in range(RAW):
        rng = random.Random(f"raw-{number}")
        data = spoil(rng, PREFACE, [PREFACE]) if rng.random() < 0.8 else rng.randbytes(rng.randint(0, 3000))
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(10.0)
            sock.connect(str(path))
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
            except (BrokenPipeError, ConnectionResetError):
                continue


def made_up(rng, kind, job, depth=0):
    """A request whose fields hold what no laptop of ours would send."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        if rng.random() < 0.4:
            continue
        count = rng.randint(1, 3) if field.label == FieldDescriptor.LABEL_REPEATED else 1
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        for _ in range(count):
            try:
                _set(rng, message, field, job, depth)
            except (ValueError, UnicodeEncodeError, OverflowError):
                continue  # cannot be sent
    return message


def _set(rng, message, field, job, depth):
    if field.message_type is not None:
        if depth < 3:
            value = made_up(rng, field.message_type._concrete_class, job, depth + 1)
            if field.label == FieldDescriptor.LABEL_REPEATED:
                getattr(message, field.name).append(value)
            else:
                getattr(message, field.name).CopyFrom(value)
        return
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        value = job if field.name == "job" and rng.random() < 0.8 else rng.choice(TEXTS)
        value = value.encode() if field.type == FieldDescriptor.TYPE_BYTES else value
    elif kind == FieldDescriptor.CPPTYPE_BOOL:
        value = rng.random() < 0.5
    elif kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        value = rng.choice([0.0, -1.0, 1e300, float("nan"), float("inf"), 3.5])
    else:
        value = rng.choice([*NUMBERS, -1, -(2**31), 2**62])
    if field.label == FieldDescriptor.LABEL_REPEATED:
        getattr(message, field.name).append(value)
    else:
        setattr(message, field.name, value)


def test_requests_of_any_content_are_answered_or_refused_by_a_reason(agent):
    path, secret, job, _ = agent
    names = sorted(METHODS)
    with grpc.insecure_channel(f"unix:{path}") as channel:
        for number in range(CALLS):
            rng = random.Random(f"call-{number}")
            name = rng.choice(names)
            kind, fixed = METHODS[name]
            request = made_up(rng, kind, job)
            for field, value in fixed.items():
                setattr(request, field, value)
            data = request.SerializeToString()
            is_garbage = rng.random() < 0.2 and name == "JobService/GetJob"
            if is_garbage:
                data = spoil(rng, data + b"\x0a\x03abc", [data])
            metadata = [("moai-secret", secret if rng.random() < 0.9 else "wrong")]
            try:
                # Every method as a stream of answers: gRPC does not tell the difference on the wire.
                list(channel.unary_stream(f"/moai_proto.v1.{name}")(data, metadata=metadata, timeout=20.0))
            except grpc.RpcError as error:
                told = [errors_pb2.ErrorInfo.FromString(v) for k, v in error.trailing_metadata() or () if k == TRAILER]
                if is_garbage and not told:
                    continue  # refused by gRPC itself, before any code of ours
                assert told, (number, name, error.code(), error.details())
                assert told[0].reason != errors_pb2.ERROR_REASON_INTERNAL, (number, name, told[0].message, request)

"""What the agent's socket takes from strangers and from defective callers: bounded, typed, and nothing more."""

import os
import random
import socket
import struct

import grpc
import moai
import pytest
from fakes import box as boxes
from moai_proto.v1 import agent_pb2, agent_pb2_grpc, job_pb2, job_pb2_grpc

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.fixture
def host(local):
    with moai.connect("local") as one:
        one.jobs()
        yield one


@pytest.fixture
def run_folder(host, local):
    (found,) = (local.moai_home / "hosts").glob("*/run")
    return found


def garbage(chance):
    """Bytes as a stranger sends them: noise, requests of other protocols, frames that lie."""
    frame = struct.pack(">I", chance.randrange(1 << 24))[1:] + bytes([chance.randrange(256), chance.randrange(256)])
    frame += struct.pack(">I", chance.getrandbits(32)) + chance.randbytes(chance.randrange(200))
    settings = b"\0\0\0\4\0\0\0\0\0"
    return chance.choice(
        [
            chance.randbytes(chance.randrange(1, 300)), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"SSH-2.0-x\r\n", PREFACE[: chance.randrange(24)],
            PREFACE + settings + frame, PREFACE + settings + frame * 3, PREFACE + frame, b"\x16\x03\x01" + chance.randbytes(60),
        ]
    )  # fmt: skip


def connect(run_folder):
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(run_folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        one.connect(f"/proc/self/fd/{folder}/agent.sock")
    finally:
        os.close(folder)
    return one


def test_garbage_ends_its_own_connection_and_no_other(host, local, run_folder):
    chance = random.Random(11)
    job = host.run(["sleep", "300"])
    before = boxes.processes_of(local.moai_home)
    stuck = [connect(run_folder) for _ in range(20)]  # They say nothing and stay.
    for _ in range(400):
        with connect(run_folder) as one:
            one.settimeout(10)
            try:
                one.sendall(garbage(chance))
                one.shutdown(socket.SHUT_WR)
                while one.recv(65536):
                    pass
            except (BrokenPipeError, ConnectionResetError):
                continue
    assert job.refresh().state in ("STARTING", "RUNNING")
    assert set(boxes.processes_of(local.moai_home)) >= {pid for pid, argv in before.items() if any("moai_agent" in w for w in argv)}
    for one in stuck:
        one.close()
    assert "Traceback" not in (run_folder / "agent.log").read_text()
    job.cancel()


def test_what_is_too_large_is_refused_and_the_next_call_works(run_folder):
    secret = ("moai-secret", (run_folder / "agent.secret").read_text())
    folder = os.open(run_folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with grpc.insecure_channel(f"unix:/proc/self/fd/{folder}/agent.sock") as channel:
            jobs, agent = job_pb2_grpc.JobServiceStub(channel), agent_pb2_grpc.AgentServiceStub(channel)
            for request, metadata in (
                (job_pb2.RunCommandRequest(arguments=["x" * (5 << 20)]), [secret]),
                (job_pb2.RunCommandRequest(arguments=["true"]), [secret, ("x", "y" * 40_000)]),
            ):
                with pytest.raises(grpc.RpcError) as refused:
                    jobs.RunCommand(request, metadata=metadata, timeout=20)
                assert refused.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL), refused.value
                assert agent.GetAgent(agent_pb2.GetAgentRequest(), metadata=[secret], timeout=20).version
            assert not jobs.ListJobs(job_pb2.ListJobsRequest(), metadata=[secret], timeout=20).jobs
    finally:
        os.close(folder)


def test_only_the_services_of_the_contract_answer(run_folder):
    """No reflection, no health, no channelz: nothing that tells of the agent or runs anything else."""
    secret = ("moai-secret", (run_folder / "agent.secret").read_text())
    folder = os.open(run_folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with grpc.insecure_channel(f"unix:/proc/self/fd/{folder}/agent.sock") as channel:
            for method in (
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                "/grpc.health.v1.Health/Check", "/grpc.channelz.v1.Channelz/GetServers", "/moai_proto.v1.JobService/Exec",
            ):  # fmt: skip
                with pytest.raises(grpc.RpcError) as refused:
                    channel.unary_unary(method)(b"", metadata=[secret], timeout=10)
                assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED, method
    finally:
        os.close(folder)


def test_agent_and_supervisor_leave_no_core_files(host, local):
    job = host.run(["sh", "-c", "read x"])
    seen = set()
    for pid, argv in boxes.processes_of(local.moai_home).items():
        kind = next((w for w in ("moai_agent", "moai_worker.supervisor") if any(w in a for a in argv)), "")
        if kind:
            with open(f"/proc/{pid}/limits") as source:
                (line,) = [line for line in source if line.startswith("Max core file size")]
            assert line.split()[4:6] == ["0", "0"], (argv, line)
            seen.add(kind)
    job.wait(60, check=False)
    assert "moai_agent" in seen


@pytest.mark.parametrize(("facts", "reason"), [((2, 3), "CLIENT_TOO_OLD"), ((0, 0), "AGENT_TOO_OLD"), ((None, None), "AGENT_TOO_OLD")])
def test_an_agent_that_speaks_another_protocol_is_named_before_any_call(facts, reason):
    from moai._dial import Handshake
    from moai._link import upstream

    said = {} if facts[0] is None else {"protocol_min": facts[0], "protocol_max": facts[1]}
    with pytest.raises(moai.MoaiError) as refused:
        upstream._check_protocol(Handshake(said, "secret"))
    assert refused.value.reason == reason and refused.value.next

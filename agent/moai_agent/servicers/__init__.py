"""gRPC skins: check the request, call the core, convert the answer. No logic lives here."""

from typing import Any

from moai_proto.v1 import (
    agent_pb2_grpc,
    dataset_pb2_grpc,
    device_pb2_grpc,
    environment_pb2_grpc,
    file_pb2_grpc,
    job_pb2_grpc,
    model_pb2_grpc,
    training_pb2_grpc,
)


def add_all(server: Any, agent: Any) -> None:
    """Register every service of the contract."""
    from moai_agent.servicers.agent import AgentServicer
    from moai_agent.servicers.datasets import DatasetServicer
    from moai_agent.servicers.devices import DeviceServicer
    from moai_agent.servicers.environments import EnvironmentServicer
    from moai_agent.servicers.files import FileServicer
    from moai_agent.servicers.jobs import JobServicer
    from moai_agent.servicers.models import ModelServicer
    from moai_agent.servicers.training import TrainingServicer

    agent_pb2_grpc.add_AgentServiceServicer_to_server(AgentServicer(agent), server)
    device_pb2_grpc.add_DeviceServiceServicer_to_server(DeviceServicer(agent), server)
    environment_pb2_grpc.add_EnvironmentServiceServicer_to_server(EnvironmentServicer(agent), server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(agent), server)
    dataset_pb2_grpc.add_DatasetServiceServicer_to_server(DatasetServicer(agent), server)
    training_pb2_grpc.add_TrainingServiceServicer_to_server(TrainingServicer(agent), server)
    job_pb2_grpc.add_JobServiceServicer_to_server(JobServicer(agent), server)
    file_pb2_grpc.add_FileServiceServicer_to_server(FileServicer(agent), server)

"""AgentService."""

import asyncio
import os
import platform
import pwd
import sys
import time
from typing import Any, List

from moai_proto.v1 import agent_pb2, agent_pb2_grpc
from moai_worker import identity

from moai_agent import PROTOCOL_MAX, PROTOCOL_MIN, __version__, convert, housekeeping, removal, work


class AgentServicer(agent_pb2_grpc.AgentServiceServicer):
    """See agent.proto."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    async def GetAgent(self, request: agent_pb2.GetAgentRequest, context: Any) -> agent_pb2.GetAgentResponse:
        """Who we are and facts about the host."""
        config = self._agent.config
        return agent_pb2.GetAgentResponse(
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_MAX,
            version=__version__,
            digest=config.digest,
            incarnation=config.incarnation,
            host_id=config.host_id,
            clock_time=convert.timestamp(time.time()),
            hostname=identity.hostname(),
            user=_user(),
            python=sys.executable,
            python_version=platform.python_version(),
            home=config.home,
            work=work.folder(config),
            cpu_count=len(os.sched_getaffinity(0)),
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            pid=os.getpid(),
            boot=config.boot,
            mounts=_mounts(),
            active_jobs=self._agent.store.active_count,
        )

    async def Shutdown(self, request: agent_pb2.ShutdownRequest, context: Any) -> agent_pb2.ShutdownResponse:
        """Leave after the answer."""
        self._agent.leaving.set()
        return agent_pb2.ShutdownResponse()

    async def RemoveAgent(
        self, request: agent_pb2.RemoveAgentRequest, context: Any
    ) -> agent_pb2.RemoveAgentResponse:
        """Off this container, then leave."""
        jobs = housekeeping.known_jobs(self._agent.store.entries())
        answer = await asyncio.get_running_loop().run_in_executor(None, self._remove, request.dry_run, jobs)
        if not request.dry_run:
            self._agent.leaving.set()
        return answer

    def _remove(self, dry_run: bool, jobs: List[housekeeping.Known]) -> agent_pb2.RemoveAgentResponse:
        counter = housekeeping.Counter()
        works = housekeeping.Inventory(self._agent.config, jobs, "", counter).works
        plan = removal.Removal(self._agent.config, works, counter)
        if not dry_run:
            plan.run()
        return agent_pb2.RemoveAgentResponse(
            removed=[convert.stored(item) for item in plan.going], kept=[convert.stored(item) for item in plan.staying]
        )


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _mounts() -> List[agent_pb2.Mount]:
    return [
        agent_pb2.Mount(path=m.path, type=m.type, free_bytes=m.free_bytes, total_bytes=m.total_bytes)
        for m in work.writable_mounts()
    ]

"""The right to write to a repository of the Hub, asked for when a job is submitted."""

import asyncio
from typing import Any

from moai_proto.v1 import job_pb2
from moai_worker import hub, hubwrite
from moai_worker.errors import StepError

from moai_agent.errors import AgentError

#: A question at submission must not hold the caller up; the job asks again, with the host's proxy.
_ASK_S = 10.0


async def check(agent: Any, repo: str, endpoint: str, options: job_pb2.JobOptions) -> None:
    """TOKEN_INVALID, UPLOAD_REFUSED or USAGE when the token may not write to ``repo``.

    A Hub that does not answer here is no refusal: the job's first step asks again, through the proxy.
    """
    variables = agent.registry.login()
    given = dict(options.variables)
    where = endpoint or given.get("HF_ENDPOINT") or variables.get("HF_ENDPOINT") or hub.DEFAULT_ENDPOINT
    token = options.secrets.get("HF_TOKEN") or given.get("HF_TOKEN") or variables.get("HF_TOKEN") or ""

    def ask() -> None:
        try:
            hubwrite.check(where, token.strip() or None, repo, attempts=1, timeout_s=_ASK_S)
        except StepError as error:
            if error.reason != "HUB_UNREACHABLE":
                raise AgentError(error.reason, error.message, error.next, error.details)

    await asyncio.get_running_loop().run_in_executor(None, ask)

"""Start of the agent: spawner first, grpc after it (a process with gRPC threads must not fork)."""

import os
import resource
import sys


def main() -> int:
    """``__main__.py --home FOLDER``; descriptor 3, if open, gets ``1`` once the agent listens."""
    agent = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    payload = os.path.dirname(agent)
    sys.path[:0] = [agent, os.path.join(payload, "worker"), os.path.join(payload, "lib")]
    from moai_agent.config import Config
    from moai_agent.spawner import Spawner

    # Calls carry secrets, which a core file would keep on the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    config = Config.from_argv(sys.argv[1:], payload)
    if not config.acquire():
        return 0
    spawner = Spawner.start(config.host.supervisor_log)
    from moai_agent.server import serve

    return serve(config, spawner)


if __name__ == "__main__":
    sys.exit(main())

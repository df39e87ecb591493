"""``python -m moai`` and the console script ``moai``."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    if sys.platform == "win32":
        print("error: moai runs on Linux and macOS; on Windows, inside WSL2", file=sys.stderr)
        sys.exit(1)
    # What is imported lives as long as the process; looking for garbage in it costs 15 ms of a start.
    gc.set_threshold(20_000, 20, 50)
    from moai._cli.main import main as run


    code = run()
    sys.stdout.flush()
    # Threads of gRPC and paramiko end with the process; waiting for them would only delay the prompt.
    import os

    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()

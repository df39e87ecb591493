"""``python -m moai`` and the console script ``moai``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    if sys.platform == "win32":
        print("error: moai runs on Linux and macOS; on Windows, inside WSL2", file=sys.stderr)
        sys.exit(1)
    from moai._cli.main import main as run

    code = run()
    sys.stdout.flush()
    # Threads of gRPC and paramiko end with the process; waiting for them would only delay the prompt.
    import os

    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()

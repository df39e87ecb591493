"""Entry of everything that runs from the worker folder: ``main.py MODULE [ARGUMENT...]``.

MODULE is ``moai_worker.supervisor``, ``moai_worker.inspector`` or the name of a step. This file and
``moai_worker`` are all the folder holds, so a step sees its own environment and nothing of ours.
"""

import importlib
import os
import sys


def main() -> int:
    """Run the module's ``main`` with the remaining arguments; returns its exit code."""
    here = os.path.dirname(os.path.abspath(__file__))
    if here not in sys.path:
        sys.path.insert(0, here)
    sys.dont_write_bytecode = True
    name = sys.argv[1]
    if name.startswith("moai_worker."):
        return importlib.import_module(name).main(sys.argv[2:])
    runner = importlib.import_module("moai_worker.runner")
    return runner.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

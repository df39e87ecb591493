"""Entry of a dial: ``relay.py NONCE [MODE]``; see moai_worker.relay, which stays compiled from one start to the next."""

import os
import sys

# Before the first import of ours: it may leave a __pycache__ folder in the payload.
os.umask(0o077)
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = False

from moai_worker.relay import main  # noqa: E402  (the path must be set first)

if __name__ == "__main__":
    sys.exit(main())

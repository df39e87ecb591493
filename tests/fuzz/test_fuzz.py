"""Some thousand spoilt inputs for every reader, the same on each run; ``make fuzz`` goes on for FUZZ_SECONDS a target.

A failure names its number; ``FUZZ_FIRST=number FUZZ_COUNT=1`` repeats it alone.
"""

import os
import random
import time

import pytest
from fuzz.targets import TARGETS

#: Inputs of a target a run: about a second each. Time does not decide, so every run does the same.
COUNTS = {"smi_tables": 600, "log_parser": 600, "reports": 2500, "journal": 700, "settings": 500, "known_host_files": 900, "handshake": 6000, "bundles": 2000, "snapshots": 700}
SECONDS = float(os.environ.get("FUZZ_SECONDS") or 0)
FIRST = int(os.environ.get("FUZZ_FIRST") or 0)
COUNT = int(os.environ.get("FUZZ_COUNT") or 0)


def numbers(name):
    """Which inputs are tried."""
    if not SECONDS:
        yield from range(FIRST, FIRST + (COUNT or COUNTS[name]))
        return
    first, end_s = FIRST or random.SystemRandom().randrange(10**9), time.monotonic() + SECONDS
    while time.monotonic() < end_s:
        yield from range(first, first + 100)
        first += 100


@pytest.mark.timeout(max(300, 2 * SECONDS))
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_whatever_comes_is_read_or_refused(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MOAI_CONFIG", str(tmp_path))
    attempt = TARGETS[name](tmp_path)
    done = 0
    for number in numbers(name):
        try:
            attempt(random.Random(f"{name}-{number}"))
        except BaseException:
            print(f"FUZZ_FIRST={number} FUZZ_COUNT=1 pytest tests/fuzz -k {name}")
            raise
        done += 1
    assert done
    print(f"{name}: {done} inputs")

"""Fill .cache/moai with the agent's wheels for the Pythons that the tests' containers run.

Run by ``make install``; asks the index once per Python and nothing when the wheels are there.
"""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
from pathlib import Path

_REPO = Path(__file__).resolve().parents[1]
_FACTS = r"""
import json, platform, struct, sys
name, version = platform.libc_ver()
print(json.dumps({"ok": "1", "executable": sys.executable, "python_version": platform.python_version(),
  "implementation": sys.implementation.name, "abiflags": getattr(sys, "abiflags", ""),
  "pointer_bits": str(struct.calcsize("P") * 8), "system": platform.system(), "machine": platform.machine(),
  "libc": name or "musl", "libc_version": version}))
"""


def interpreters() -> list[str]:
    """The Pythons a look-alike's login may find: the system's, and pyenv's where there is one."""
    found = ["/usr/bin/python3", *sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/3.*/bin/python3")))]
    return [path for path in found if os.access(path, os.X_OK)]


def main() -> int:
    """Fetch; a Python that moai does not serve is passed over with a word."""
    cache = _REPO / ".cache" / "moai"
    os.environ["MOAI_CACHE"] = str(cache)
    sys.path[:0] = [str(_REPO / "client"), str(_REPO / "proto")]
    from moai import MoaiError
    from moai._bootstrap import bundle
    from moai._bootstrap.targets import Target

    seen: set[str] = set()
    for python in interpreters():
        facts = json.loads(subprocess.run([python, "-I", "-S", "-c", _FACTS], capture_output=True, check=True).stdout)
        try:
            target = Target.from_facts(facts)
            if target.key in seen:
                continue
            seen.add(target.key)
            made = bundle.build(target, cache, print)
        except MoaiError as error:
            print(f"no bundle for {python}: {error.message}", file=sys.stderr)
            continue
        print(f"{target.key}: {made.size_bytes / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

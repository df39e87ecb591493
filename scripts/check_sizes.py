"""Refuse source files past 600 lines (tests: 800): a room that long is split, not lived in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LIMITS = ((("tests/",), 800), (("",), 600))


def main() -> int:
    """Print what is too long; exit 1 when there is any."""
    listed = subprocess.run(["git", "ls-files", "*.py"], capture_output=True, text=True, check=True).stdout.split("\n")
    bad = []
    for name in filter(None, listed):
        path = Path(name)
        if "_pb2" in name or not path.exists():
            continue
        limit = next(limit for prefixes, limit in LIMITS if name.startswith(prefixes))
        count = len(path.read_text(encoding="utf-8").splitlines())
        if count > limit:
            bad.append(f"{name}: {count} lines, at most {limit}")
    print("\n".join(bad) or "sizes: all files are short enough", file=sys.stderr if bad else sys.stdout)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())

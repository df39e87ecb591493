"""``make bench``: every benchmark, ours and the alternative in one run; writes docs/performance.md.

``run.py [NAME...]``: only these groups (the keys of GROUPS). The table between the markers of docs/performance.md is
replaced when all of a group ran. Rounds: ``MOAI_BENCH_ROUNDS`` (10).
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

_REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_REPO / "tests"), str(_REPO / "benchmarks")]

import download_rows  # noqa: E402
import fleet  # noqa: E402
import platform_rows  # noqa: E402
import prepare  # noqa: E402
import pull_rows  # noqa: E402
import spine  # noqa: E402
import sync_rows  # noqa: E402
import together_rows  # noqa: E402
import top  # noqa: E402
import training_rows  # noqa: E402
from measure import HEADER, Row  # noqa: E402

GROUPS = {
    "spine": spine.rows,
    "platform": platform_rows.rows,
    "download": download_rows.rows,
    "prepare": prepare.rows,
    "sync": sync_rows.rows,
    "pull": pull_rows.rows,
    "training": training_rows.rows,
    "together": together_rows.rows,
    "top": top.rows,
    "fleet": fleet.rows,
}
PAGE = _REPO / "docs" / "performance.md"


def main() -> int:
    """Run the groups named, or all."""
    names = sys.argv[1:] or list(GROUPS)
    missed: list[Row] = []
    for name in names:
        folder = Path(tempfile.mkdtemp(prefix="moai-bench-"))
        print(f"{name}\n{HEADER}", flush=True)
        try:
            found = GROUPS[name](folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        missed += [row for row in found if not row.met]
        _write(name, found)
    for row in missed:
        print(f"aim missed: {row.what}: {row.ours} (aim {row.aim})", file=sys.stderr)
    return 0


def _write(name: str, found: list[Row]) -> None:
    if not PAGE.exists():
        return
    text = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    head, mark, rest = text.partition(begin)
    _, mark_end, tail = rest.partition(end)
    if not mark or not mark_end:
        return
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.release().split('-')[0]}"
    body = "\n".join([HEADER, *(row.line() for row in found)])
    PAGE.write_text(f"{head}{begin}\n{body}\n\nMeasured on {machine}; `make bench BENCH={name}` reproduces it.\n{end}{tail}", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())

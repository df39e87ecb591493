"""Known vulnerabilities of what moai installs on the laptop and of what it sends to containers.

Runs pip-audit over this environment and over every lock file of the agent, and over the exact hashes
those locks name. Ends with 1 when a vulnerability is known. Advisories come from a service on the
network: what could not be looked up is counted and said loudly, and is an error with ``--strict`` (CI).

    python scripts/audit.py [--strict] [--timeout SECONDS]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

LOCKS = Path(__file__).resolve().parents[1] / "client" / "moai" / "_bootstrap" / "locks"


def audit(words: list[str], timeout_s: int) -> tuple[int, list[str], str]:
    """(packages looked up, vulnerabilities, why the rest was not) of one run of pip-audit."""
    # One that cannot be reached at all is tried several times by pip-audit; the bound is on the whole.
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--timeout", "10", *words]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return 0, [], f"no answer within {timeout_s} s"
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
        return 0, [], last[0][:200]
    known = [one for one in found if "vulns" in one]
    bad = [f"{one['name']} {one['version']}: {v['id']} (fixed in {', '.join(v['fix_versions']) or 'nothing yet'})" for one in known for v in one["vulns"]]
    skipped = [one for one in found if "skip_reason" in one and "editable" not in one["skip_reason"]]
    return len(known), bad, f"{len(skipped)} not looked up ({skipped[0]['skip_reason'][:120]}, ...)" if skipped else ""


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strict", action="store_true", help="fail when something could not be looked up")
    parser.add_argument("--timeout", type=int, default=180, metavar="SECONDS", help="for each list of packages")
    options = parser.parse_args()
    subjects = [("this environment", ["--skip-editable"])]
    for lock in sorted(LOCKS.rglob("*.txt")):
        subjects.append((str(lock.relative_to(LOCKS)), ["--requirement", str(lock), "--require-hashes", "--disable-pip"]))
    unknown = vulnerable = 0
    for name, words in subjects:
        count, bad, why = audit(words, options.timeout)
        print(f"{name}: {count} packages looked up, {len(bad)} vulnerabilities" + (f"; {why}" if why else ""), flush=True)
        for line in bad:
            print("  " + line)
        vulnerable += len(bad)
        unknown += bool(why)
        if not count and why and name == subjects[0][0]:
            print("!!! the advisories cannot be reached from here: NOTHING was audited", file=sys.stderr)
            break
    return 1 if vulnerable or (unknown and options.strict) else 0


if __name__ == "__main__":
    sys.exit(main())

"""The workload of the kill tests: numbered lines, typed reports, its own digest, a chosen exit code.

``ticker.py FOLDER LINES METRICS EXIT [PACE [GATE]]`` on the container. Prints LINES lines to standard output
(each holds its number and a digest of all before), appends METRICS metric reports to the file named by
``MOAI_REPORTS``, adds a line to FOLDER/spawned when it starts and writes the SHA-256 of everything it
printed to FOLDER/sha256 at the end. PACE is the seconds the whole takes, at least; with GATE
it waits after half of the lines until that file is there. Standard library only, Python 3.8.
"""

import hashlib
import json
import os
import sys
import time


def main() -> int:
    folder, lines, metrics, code = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    pace_s = float(sys.argv[5]) if len(sys.argv) > 5 else 0.0
    gate = sys.argv[6] if len(sys.argv) > 6 else ""
    with open(os.path.join(folder, "spawned"), "a") as out:
        out.write("%d\n" % os.getpid())
    reports = os.open(os.environ["MOAI_REPORTS"], os.O_WRONLY | os.O_APPEND)
    digest = hashlib.sha256()
    start_s = time.monotonic()
    for number in range(1, lines + 1):
        line = ("line %06d %s caf\u00e9\n" % (number, digest.hexdigest()[:16])).encode("utf-8")
        digest.update(line)
        os.write(1, line)
        if metrics and number * metrics // lines != (number - 1) * metrics // lines:
            step = number * metrics // lines
            report = {"t": time.time(), "step": "", "type": "metric", "data": {"step": step, "values": {"loss": 1.0 / step}}}
            os.write(reports, json.dumps(report).encode() + b"\n")
        while gate and number == lines // 2 and not os.path.exists(gate):
            time.sleep(0.05)
        behind_s = start_s + pace_s * number / lines - time.monotonic()
        if behind_s > 0.01:
            time.sleep(behind_s)
    with open(os.path.join(folder, "sha256"), "w") as out:
        out.write(digest.hexdigest())
    return code


if __name__ == "__main__":
    sys.exit(main())

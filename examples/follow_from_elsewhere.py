"""Follow a job that another machine submitted, and go on exactly where this program was killed.

    python examples/follow_from_elsewhere.py HOST/JOB [STATE_FILE]

Events are numbered and log bytes have offsets; whoever keeps the last ones misses nothing and sees nothing twice.
"""

import json
import sys
from pathlib import Path

import moai


def main(name: str, state_file: str = "followed.json") -> int:
    """Returns the exit code of the job's end."""
    path = Path(state_file)
    seen = json.loads(path.read_text()) if path.exists() else {"sequence": 0, "offset": 0}
    job = moai.job(name)
    for item in job.stream(after=seen["sequence"], offset=seen["offset"]):
        if isinstance(item, moai.LogChunk):
            sys.stdout.write(item.data.decode("utf-8", "replace"))
            seen["offset"] = item.offset + len(item.data)
        else:
            print(f"[{item.sequence}] {item.type}")
            seen["sequence"] = item.sequence
        path.write_text(json.dumps(seen))
    info = job.refresh()
    print(info.state)
    return 0 if info.state == "SUCCEEDED" else 3


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

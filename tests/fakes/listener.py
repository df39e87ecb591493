"""A laptop program that follows one job and may be killed at any byte.

``listener.py HOST JOB FOLDER``: appends each event as a JSON line to FOLDER/events and the log's bytes to
FOLDER/log, and begins where these files end, as a careful program would. Ends when the job has ended,
after writing FOLDER/done.
"""

import json
import os
import sys
import threading
import time

import moai

_TRY_S = 30.0


def main() -> int:
    host, job_id, folder = sys.argv[1:4]
    events, log = os.path.join(folder, "events"), os.path.join(folder, "log")
    after = _heal(events)
    offset = os.path.getsize(log) if os.path.exists(log) else 0
    job = _find(host, job_id)
    with open(events, "ab", buffering=0) as event_out, open(log, "ab", buffering=0) as log_out:
        for item in job.stream(after=after, offset=offset):
            if isinstance(item, moai.Event):
                event_out.write(json.dumps(item.as_dict()).encode() + b"\n")
            else:
                assert item.offset == log_out.seek(0, os.SEEK_END), "bytes repeated or lost"
                log_out.write(item.data)
    with open(os.path.join(folder, "done"), "w") as out:
        out.write("yes")
    return 0


def _find(host: str, job_id: str) -> moai.Job:
    """The job; a way that is broken just now is tried again for a while."""
    end_s = time.monotonic() + _TRY_S
    while True:
        try:
            return moai.connect(host).job(job_id)
        except moai.HostUnreachable:
            if time.monotonic() > end_s:
                raise
            threading.Event().wait(0.5)


def _heal(path: str) -> int:
    """Drop a torn last line; the last sequence that is whole."""
    if not os.path.exists(path):
        return 0
    with open(path, "rb+") as source:
        data = source.read()
        whole = data.rfind(b"\n") + 1
        source.truncate(whole)
    lines = data[:whole].splitlines()
    return int(json.loads(lines[-1])["sequence"]) if lines else 0


if __name__ == "__main__":
    sys.exit(main())

"""How fast a job's log is parsed: lines per second and microseconds a line, by kind of line.

Run ``python benchmarks/log_parser.py [LINES]`` from the repository's root. Every kind is timed three
times and the best is shown; ``split only`` is what Python needs just to cut the bytes into lines.
The target is below 10 microseconds for a line that means nothing: a job that prints 10 000 lines a
second then costs less than a tenth of a core.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "agent"))

from moai_agent.jobs.logparse import LogParser

CHUNK_BYTES = 256 * 1024
KINDS = {
    "noise": "2024-06-11 10:06:02,551 - datasets.builder - INFO - row %d of the corpus was read and kept",
    "noise with common words": "DEBUG step cache: saved block %d, no error, memory 12 MiB, no loss at all",
    "tqdm": "\r 12%%|█▏        | %d/1000000 [01:02<07:10,  1.50it/s]",
    "step line": "2024-06-11 10:06:02.551 | INFO     | __main__:main:161 - [Step %d/99999999] | Loss: 2.03 | "
    "Duration: 2.71 | Throughput: 48365.87 tokens/sec",
    "Trainer dict": "{'loss': 2.5, 'grad_norm': 0.5, 'learning_rate': 5e-05, 'epoch': 0.03, 'step': %d}",
    "MAF info": "[2024-06-11 10:02:44.902] [info] Something about block %d that nobody knows",
}


def best_s(work, data):
    """Best of three runs in seconds."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work(data)
        times.append(time.perf_counter() - start)
    return min(times)


def parse(data):
    """Parse a whole log in chunks of ``CHUNK_BYTES``."""
    parser = LogParser()
    for start in range(0, len(data), CHUNK_BYTES):
        parser.feed(data[start : start + CHUNK_BYTES], start)
    parser.finish()


def main():
    """Print one row a kind of line."""
    lines = int(sys.argv[1]) if len(sys.argv) > 1 else 50000
    print("%-26s %12s %10s" % ("kind (%d lines)" % lines, "lines/s", "us/line"))
    for name, template in KINDS.items():
        data = "".join(template % n + "\n" for n in range(lines)).encode("utf-8")
        seconds = best_s(parse, data)
        print("%-26s %12.0f %10.2f" % (name, lines / seconds, seconds / lines * 1e6))
    data = "".join(KINDS["noise"] % n + "\n" for n in range(lines)).encode("utf-8")
    seconds = best_s(lambda raw: raw.replace(b"\r", b"\n").split(b"\n"), data)
    print("%-26s %12.0f %10.2f" % ("split only", lines / seconds, seconds / lines * 1e6))


if __name__ == "__main__":
    main()

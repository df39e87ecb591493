"""Reading the platform's tables and logs: how fast, and what following costs."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

from fakes.box import Box
from fakes.container import build_home
from fakes.sshd import wait_until
from measure import Row
from spine import Bench

sys.path.append(str(Path(__file__).resolve().parents[1] / "agent"))

_LINES = """
import sys, time
start, total = time.monotonic(), int(sys.argv[1])
for n in range(total):
    sys.stdout.write('2024-06-11 10:06:02.551 | INFO     | __main__:main:161 - [Step %d/999999] | Loss: 2.03125 | Duration: 2.71 | Throughput: 48365.87 tokens/sec\\n' % n if n % 10 == 0 else 'epoch 1 batch %d of some training script\\n' % n)
    if n % 100 == 99:
        sys.stdout.flush()
        ahead = start + n / 10000.0 - time.monotonic()
        if ahead > 0: time.sleep(ahead)
"""


def tables(folder: Path) -> Row:
    """Device tables parsed a second: a running accelerator with its process table."""
    from moai_agent.devices import smi

    home = build_home(str(folder / "home"))
    home.set_running(4711, "python tutorial/train_llama3_70b.py --batch-size 512", 1200345)
    text = home.run("moreh-smi").stdout
    assert smi.parse(text).devices
    count, start_s = 0, time.perf_counter()
    while time.perf_counter() - start_s < 2.0:
        for _ in range(100):
            smi.parse(text)
        count += 100
    rate = count / (time.perf_counter() - start_s)
    return Row("device tables parsed", "-", f"{rate:,.0f}/s", "-", None, ">= 10^4/s", rate >= 1e4)


def following(folder: Path) -> Row:
    """CPU of the agent while it follows a training log of 10^4 lines a second."""
    with Box(folder / "box") as box:
        bench = Bench(box)
        bench.ours("remote", "up")
        (box.home / "lines.py").write_text(_LINES)
        bench.ours("remote", "devices")
        pid = box.agent_pids()[0]
        bench.ours("remote", "train", "--detach", "--trust-exit-code", "--", "python3", "lines.py", "150000")
        begin_s = time.monotonic() + 3
        wait_until(lambda: time.monotonic() > begin_s, "the log to flow", 5)
        before_s, start_s = _cpu_s(pid), time.monotonic()
        wait_until(lambda: time.monotonic() > start_s + 8, "eight seconds", 10)
        share = (_cpu_s(pid) - before_s) / (time.monotonic() - start_s) * 100
    return Row("following a log of 10^4 lines/s, CPU", "-", f"{share:.1f} % of a core", "-", None, "< 10 %", share < 10)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rows(folder: Path) -> list[Row]:
    """All rows of this file."""
    found = []
    for part in (tables, following):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        row = part(folder)
        print(row.line(), flush=True)
        found.append(row)
    return found

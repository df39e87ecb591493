"""Signs of life: what the processes of a silent job really do."""

import subprocess
import sys

from moai_worker.vitals import Vitals

_BUSY = """
import sys
data = bytearray(64 * 1024 * 1024)
with open(sys.executable, 'rb') as source:
    size = len(source.read())
sys.stdout.write('%d\\n' % size)
sys.stdout.flush()
sys.stdin.readline()
total = 0
for number in range(10 ** 7): total += number
sys.stdout.write('done\\n')
sys.stdout.flush()
sys.stdin.readline()
"""


def test_cpu_memory_and_reads_of_all_processes_are_told():
    child = subprocess.Popen(
        [sys.executable, "-c", _BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, universal_newlines=True
    )
    try:
        size = int(child.stdout.readline())
        vitals = Vitals()
        first = vitals.sample([child.pid])
        assert "process_cpu_share" not in first and first["process_count"] == 1
        assert first["process_rss_bytes"] >= 64 * 1024 * 1024
        assert first["process_read_bytes"] >= size
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "done\n"
        second = vitals.sample([child.pid])
        assert second["process_cpu_seconds"] > first["process_cpu_seconds"]
        assert second["process_cpu_share"] > 0
    finally:
        child.kill()
        child.communicate()
    gone = vitals.sample([child.pid])
    assert gone["process_count"] == 0 and gone["process_cpu_share"] == 0


def test_they_are_kept_apart_from_the_figures_of_the_training():
    from moai_worker import records

    view = records.new_view({}, {"steps": [{"name": "train"}]})
    records.fold(view, {"q": 1, "t": 5.0, "type": "metric", "data": {"step": 3, "values": {"loss": 0.5}}})
    silent = {"process_cpu_seconds": 9.0, "process_rss_bytes": 1.0}
    records.fold(view, {"q": 2, "t": 6.0, "type": "metric", "data": {"step": None, "values": silent}})
    assert view["metrics"] == {"loss": 0.5} and view["metrics_step"] == 3
    assert view["vitals"]["process_cpu_seconds"] == 9.0 and view["vitals"]["as_of"] == 6.0

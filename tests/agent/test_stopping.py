"""Who belongs to a job: one look at the processes may miss somebody, so an empty one is not believed."""

import os
import subprocess
import sys

from moai_worker import identity, stopping

MARKER = "MOAI_JOB=here/swift-otter"


def child():
    name, value = MARKER.split("=")
    return subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, env=dict(os.environ, **{name: value}))


def test_whoever_was_forked_during_the_first_look_is_found_by_the_second(monkeypatch):
    with child() as process:
        looks, real = [], identity.process_table

        def table():
            looks.append(1)
            found = real()
            if len(looks) == 1:
                del found[process.pid]
            return found

        monkeypatch.setattr(identity, "process_table", table)
        assert process.pid in stopping.family(os.getpid(), MARKER) and len(looks) == 2
        looks.clear()
        assert process.pid in stopping.family(None, MARKER) and len(looks) == 2


def test_whoever_is_older_than_the_supervisor_is_not_looked_into_and_without_one_everybody_is():
    with child() as older, child() as root:
        younger = child()
        try:
            # Not its child, so that only the mark tells: as one that has left the tree.
            ticks = {pid: identity.start_ticks(pid) for pid in (older.pid, root.pid, younger.pid)}
            assert ticks[older.pid] <= ticks[root.pid] <= ticks[younger.pid]
            found = stopping.family(root.pid, MARKER)
            assert younger.pid in found and root.pid not in found
            assert (older.pid in found) == (ticks[older.pid] == ticks[root.pid])
            assert {older.pid, root.pid, younger.pid} <= set(stopping.family(None, MARKER))
        finally:
            younger.communicate()

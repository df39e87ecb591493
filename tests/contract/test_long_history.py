"""Ten million events and ten gigabytes of log before the agent starts; and an agent whose event loop stands still.

Rows A14 and A13 of the fault list in docs/reliability.md. The log is sparse, the journal is not: every line of it is one
that an agent might have written.
"""

import ctypes
import json
import os
import time
import zlib
from pathlib import Path

import moai
import oracles
import pytest
from fakes.rooted import need_root
from fakes.sshd import wait_until
from moai_worker import records
from moai_worker.jobdir import read_json
from test_agent_faults import FULL, agents, check, host, kill_agent, ticker

__all__ = ["host"]  # a fixture

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
MIB, GIB = 1024 * 1024, 1024 * 1024 * 1024


def most_memory(pid):
    """Most bytes a process ever had in memory (VmHWM of proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def prolong(folder, count, log_bytes):
    """Let the journal say that ``count`` more events came from a log of ``log_bytes``; returns its last sequence."""
    path = folder / "events.jsonl"
    data = path.read_bytes()
    lines = data.splitlines()
    view = records.read_view(read_json(str(folder / "spec.json")), read_json(str(folder / "plan.json")), data)
    past = [one for one in map(records.decode, lines) if one is not None]
    last = max(one["q"] for one in past if "q" in one)
    reports = max(one["end"] for one in past if one.get("src") == "reports")
    pattern = '{"q":%d,"t":1700000000.0,"step":"command","type":"message","data":{"text":"line %d","level":"info","code":""},"src":"log","end":%d}'
    view["last"] = last + count
    with open(path, "ab") as out:
        for first in range(last + 1, last + count + 1, 10_000):
            bodies = [(pattern % (q, q, (q - last) * log_bytes // count)).encode() for q in range(first, min(first + 10_000, last + count + 1))]
            out.write(b"".join(b"%08x %b\n" % (zlib.crc32(body), body) for body in bodies))
        out.write(records.encode({"cursor": {"q": last + count, "reports": reports, "log": log_bytes, "log_state": None, "view": view}}))
    os.truncate(folder / "log", log_bytes)
    return last + count


def test_a14_an_agent_starts_as_fast_after_a_long_history_and_goes_on_where_that_ends(host, local, tmp_path):
    count, log_bytes = (10_000_000 if FULL else 1_000_000), 10 * GIB
    job = ticker(host, tmp_path / "job", 0.2, tmp_path / "gate")
    folder = Path(job.info.folder)
    wait_until(lambda: (folder / "reports.jsonl").read_bytes().count(b'"metric"') == 30, "the first half", 30.0)
    wait_until(lambda: job.refresh().last_sequence >= 33, "its events")
    first_half = b"".join(job.log())
    kill_agent(local)
    last = prolong(folder, count, log_bytes)
    assert (folder / "events.jsonl").stat().st_size > 100 * count
    begun_s = time.monotonic()
    listed = {one.id: one for one in host.jobs()}
    ready_s = time.monotonic() - begun_s
    (agent,) = agents(local)
    assert listed[job.id].state == "RUNNING" and job.refresh().last_sequence == last
    (tmp_path / "gate").touch()
    begun_s = time.monotonic()
    events, tail = [], b""
    for item in job.stream(after=last, offset=log_bytes):
        if isinstance(item, moai.Event):
            events.append(item.as_dict())
        else:
            assert item.offset == log_bytes + len(tail)
            tail += item.data
    rest_s = time.monotonic() - begun_s
    print(f"A14: {count} events: ready after {ready_s:.2f} s, the rest after {rest_s:.2f} s, {most_memory(agent) / MIB:.0f} MiB")
    assert agents(local) == [agent] and most_memory(agent) < 150 * MIB
    assert ready_s < 5.0 and rest_s < 5.0
    assert [e["sequence"] for e in events] == list(range(last + 1, last + len(events) + 1))
    oracles.check_exit(events, "FAILED", 37)
    oracles.check_log(first_half + tail, (tmp_path / "job" / "sha256").read_text())
    assert [step for step in oracles.metrics_of(events) if step] == list(range(31, 61))
    assert len((tmp_path / "job" / "spawned").read_text().split()) == 1


class StoppedThread:
    """One thread of a process that stands still, as in a call that never returns, while all others go on (ptrace(2))."""

    ATTACH, DETACH, ALL = 16, 17, 0x40000000

    def __init__(self, tid: int) -> None:
        self.tid, self._libc = tid, ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        self._libc.ptrace.restype = ctypes.c_long

    def __enter__(self) -> "StoppedThread":
        if self._libc.ptrace(self.ATTACH, self.tid, None, None) != 0:
            pytest.skip(f"SKIPPED LOUDLY: no thread can be stopped here: {os.strerror(ctypes.get_errno())}")
        os.waitpid(self.tid, self.ALL)
        return self

    def __exit__(self, *_: object) -> None:
        self._libc.ptrace(self.DETACH, self.tid, None, None)


@need_root
def test_a13_an_event_loop_that_stands_still_is_told_of_and_no_state_is_made_up(host, local, tmp_path):
    """Only the thread of the loop: gRPC's own threads still answer pings, so that the link is not what is wrong."""
    still_s = 30.0 if FULL else 12.0
    job = ticker(host, tmp_path / "job", 0.2)
    ended = Path(job.info.folder) / "exit.json"
    (agent,) = agents(local)
    follower = local.start("remote", "attach", job.id, "--on", "local", "--json", "--exit-code", "job")
    begun_s = time.monotonic()
    with StoppedThread(agent):
        assert len(os.listdir(f"/proc/{agent}/task")) > 2
        wait_until(lambda: ended.exists(), "the job to end by itself", 30.0)
        asked = local.start("remote", "jobs", "--on", "local")
        wait_until(lambda: time.monotonic() > begun_s + still_s, "the loop to have stood still", 60.0)
        assert follower.poll() is None, "nothing is known, and nothing is said"
    out, err = asked.communicate(timeout=60)
    assert asked.returncode == 0 and job.id.encode() in out, err.decode()
    out, err = follower.communicate(timeout=60)
    assert follower.returncode == 37, err.decode()
    assert agents(local) == [agent]
    states = [one["data"]["state"] for one in map(json.loads, out.splitlines()) if one.get("type") == "state"]
    assert states == ["STARTING", "RUNNING", "FAILED"], states
    check(job, tmp_path / "job")
    log = next(local.moai_home.glob("hosts/*/run/agent.log"))
    wait_until(lambda: "the agent stood still for" in log.read_text(), "the agent to tell of it")

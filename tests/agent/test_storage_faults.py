"""The disk fails at every single step of writing: whole or not at all, and what was acknowledged is there.

Rows S3, S4, S5, S9 and J5 of the fault list in docs/reliability.md, without root: the calls of the system are made to
fail in this process.
"""

import errno
import json
import os
import subprocess
import types

import pytest
from moai_agent.errors import AgentError
from moai_agent.jobs.follower import Follower
from moai_agent.jobs.journal import Journal
from moai_agent.jobs.store import JobStore
from moai_worker import identity, jobdir, records, stopping
from moai_worker.evidence import Evidence
from moai_worker.reporter import Reporter

FULL = bool(os.environ.get("MOAI_TEST_SEEDS"))
SPEC = {"schema": 1, "id": "swift-otter-7f3a", "create_time": 1.0}
PLAN = {"schema": 1, "steps": [{"name": "command", "argv": ["x"]}], "output": ""}
#: What writes, makes durable or publishes.
CALLS = ("open", "mkdir", "write", "pwrite", "fsync", "fdatasync", "fchmod", "rename", "replace", "ftruncate")


class Failing:
    """Lets the n-th of the calls that write fail once, then all of them work again."""

    def __init__(self, monkeypatch, number, code=errno.ENOSPC, calls=CALLS):
        self.left, self.failed = number, ""
        for name in calls:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name), code))

    def _wrap(self, name, real, code):
        def call(*args, **kwargs):
            is_reading = name == "open" and len(args) > 1 and not args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not is_reading:
                self.left -= 1
                if self.left == 0:
                    self.failed = name
                    raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)

        return call


def store_in(folder):
    host = jobdir.HostDir(str(folder), "host-00000000").create()
    config = types.SimpleNamespace(host=host, home=str(folder), supervisor_argv=["true"])
    spawned = []
    spawner = types.SimpleNamespace(spawn=lambda argv, env, private: spawned.append(argv))
    return JobStore(config, spawner), host, spawned


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_s3_a_submission_is_whole_or_not_at_all_wherever_the_disk_fails(tmp_path, code):
    number, failed = 0, []
    while True:
        number += 1
        store, host, spawned = store_in(tmp_path / str(number))
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(patch, number, code)
            try:
                store.create(dict(SPEC), dict(PLAN), {}, [])
                answered = True
            except AgentError as error:
                assert error.reason == ("DISK_FULL" if code == errno.ENOSPC else "START_FAILED"), error.reason
                answered = False
        failed.append(failing.failed)
        job = host.job(SPEC["id"])
        assert [name for name in os.listdir(host.jobs) if name.startswith(".")] == [], "a half-made folder is left"
        if os.path.isdir(job.path):
            # Published: everything is in it, whether or not the caller heard of it.
            assert jobdir.read_json(job.spec) == SPEC and jobdir.read_json(job.plan) == PLAN
        if answered:
            assert os.path.isdir(job.path) and spawned
        # The same request once more, now that there is space, ends as one job.
        assert store.create(dict(SPEC), dict(PLAN), {}, []) == SPEC["id"]
        assert jobdir.read_json(job.spec) == SPEC
        if not failing.failed:
            break
    assert number > 15 and {"mkdir", "fsync", "replace", "rename"} <= set(failed)


def job_with_reports(folder, count):
    job = jobdir.HostDir(str(folder), "host-00000000").create().job(SPEC["id"])
    jobdir.make_private(job.control)
    jobdir.write_json(job.plan, PLAN)
    jobdir.write_json(job.spec, SPEC)
    jobdir.write_atomic(job.log, b"")
    jobdir.write_atomic(job.reports, b"")
    reporter = Reporter(job.reports, "command")
    for step in range(1, count + 1):
        reporter.metric(step, {"loss": 1.0})
    reporter.close()
    jobdir.write_json(job.exit, {"state": "FAILED", "exit_code": 7, "end_time": 2.0, "log_bytes": 0})
    return job


def events_of(job):
    with open(job.events, "rb") as source:
        return [record for _, record in records.scan(source.read()) if "q" in record]


def test_s3_the_journal_is_complete_after_a_disk_that_was_full_at_any_write(tmp_path, monkeypatch):
    """The n-th write fails, or takes only a part before it does; what follows is neither doubled nor lost."""
    # Small pieces, so that the journal is written often.
    monkeypatch.setattr("moai_agent.jobs.follower._READ_BYTES", 400)
    last, number = 10**9, 0
    while last >= number:
        number += 1
        for taken in (0, 1, 30):
            job = job_with_reports(tmp_path / ("%d-%d" % (number, taken)), 12)
            follower = Follower(job, SPEC, PLAN)
            state = {"count": 0, "failing": False}
            real = os.pwrite

            def pwrite(fd, data, offset):
                state["count"] += 1
                if state["failing"]:
                    state["failing"] = False
                    raise OSError(errno.ENOSPC, "No space left on device")
                if state["count"] == number:
                    state["failing"] = True
                    return real(fd, data[: max(1, min(taken, len(data) - 1))], offset) if taken else pwrite(fd, data, offset)
                return real(fd, data, offset)

            monkeypatch.setattr(os, "pwrite", pwrite)
            for _ in range(200):
                follower.advance()
                if follower.ended and not follower._pending:
                    break
            monkeypatch.setattr(os, "pwrite", real)
            follower.journal.close()
            last = state["count"]
            events = events_of(job)
            assert [e["q"] for e in events] == list(range(1, len(events) + 1)), (number, taken)
            assert [e["data"]["step"] for e in events if e["type"] == "metric"] == list(range(1, 13)), (number, taken)
            assert events[-1]["data"]["state"] == "FAILED" and events[-1]["data"]["exit_code"] == 7


def test_s4_a_disk_that_cannot_sync_is_not_taken_for_one_that_has(tmp_path, monkeypatch):
    """Said once, not tried again blindly: the pages may be gone. What was acknowledged before stays readable."""
    journal = Journal(str(tmp_path / "events.jsonl"))
    assert journal.append([{"q": 1, "type": "message", "data": {}}])
    calls = []

    def fdatasync(fd):
        calls.append(fd)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with pytest.raises(OSError):
        journal.sync()
    assert len(calls) == 1
    journal.close()
    again = Journal(str(tmp_path / "events.jsonl"))
    assert again.recover({"last": 0}).last == 1
    again.close()


def test_s5_a_journal_cut_or_flipped_at_any_byte_of_its_tail_is_its_longest_valid_prefix(tmp_path):
    lines = [records.encode({"q": n, "t": 1.0, "step": "", "type": "message", "data": {"text": "x" * (n % 40)}}) for n in range(1, 900)]
    whole = b"".join(lines)
    borders, total = [0], 0
    for line in lines:
        total += len(line)
        borders.append(total)
    path = str(tmp_path / "events.jsonl")
    tail = range(max(0, len(whole) - 65536), len(whole))

    def recovered(data):
        with open(path, "wb") as out:
            out.write(data)
        journal = Journal(path)
        last = journal.recover({"last": 0}).last
        size = journal.size
        journal.close()
        return last, size

    def prefix(at):
        kept = sum(1 for border in borders[1:] if border <= at)
        return kept, borders[kept]

    # Every byte with MOAI_TEST_SEEDS (minutes); a step that is prime to the lines' lengths otherwise.
    for at in tail[:: 1 if FULL else 499]:
        assert recovered(whole[:at]) == prefix(at), at
        flipped = whole[:at] + bytes([whole[at] ^ 0x04]) + whole[at + 1 :]
        assert recovered(flipped) == prefix(at), at


@pytest.mark.parametrize("state", [{"v": 99, "what": ["ever"]}, {"v": None}, {}, [], None])
def test_s9_a_cursor_of_a_newer_agent_is_no_obstacle_and_nothing_comes_twice(tmp_path, state):
    job = job_with_reports(tmp_path, 3)
    with open(job.log, "wb") as out:
        out.write(b"[Step 1/2] Loss: 0.5\n[Step 2/2] Loss: 0.25\n")
    with open(job.events, "wb") as out:
        out.write(records.encode({"cursor": {"q": 0, "reports": 0, "log": 21, "log_state": state, "view": {"newer": 1}, "newer": {}}}))
    follower = Follower(job, SPEC, PLAN)
    for _ in range(50):
        follower.advance()
    follower.journal.close()
    events = events_of(job)
    assert [e["q"] for e in events] == list(range(1, len(events) + 1)) and events[-1]["type"] == "state"
    assert [e["data"]["step"] for e in events if e.get("src") == "log" and e["type"] == "metric"] == [2]


def test_j5_a_process_that_has_the_number_of_a_dead_one_is_neither_the_job_nor_touched(tmp_path):
    """The agent was away, the job died, and its pid now belongs to somebody else."""
    job = job_with_reports(tmp_path, 0)
    os.unlink(job.exit)
    with subprocess.Popen(["sleep", "300"], env={}, start_new_session=True) as innocent:
        try:
            there = identity.describe(innocent.pid)
            recycled = dict(there, start_ticks=there["start_ticks"] - 1)
            for child, boot, state in ((recycled, None, "UNKNOWN"), (dict(there, boot="another"), "another", "INTERRUPTED")):
                supervisor = dict(recycled, boot=boot or there["boot"])
                with open(job.lock, "w") as out:
                    json.dump({"supervisor": supervisor, "child": child}, out)
                evidence = Evidence(job)
                assert not evidence.child_living and not evidence.supervised
                assert evidence.verdict()["state"] == state
                family = stopping.family(None, "MOAI_JOB=host-00000000/" + SPEC["id"])
                assert innocent.pid not in family
            assert innocent.poll() is None
        finally:
            innocent.kill()

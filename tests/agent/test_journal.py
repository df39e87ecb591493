"""The journal: what is written is read back; what is torn, cut or altered is dropped and derived again."""

import errno
import json
import os
import random

import pytest
from moai_agent.jobs.follower import Follower
from moai_agent.jobs.journal import Journal, JournalReader
from moai_worker import jobdir, records
from moai_worker.reporter import Reporter


def make_job(tmp_path, steps=None, name="swift-otter-7f3a"):
    job = jobdir.HostDir(str(tmp_path), "host-00000000").create().job(name)
    jobdir.make_private(job.control)
    plan = {"schema": 1, "steps": steps or [{"name": "command", "argv": ["x"]}], "output": ""}
    spec = {"schema": 1, "id": name, "create_time": 1.0}
    jobdir.write_json(job.plan, plan)
    jobdir.write_json(job.spec, spec)
    jobdir.write_atomic(job.log, b"")
    jobdir.write_atomic(job.reports, b"")
    return job, spec, plan


def event(sequence, source="reports", end=0):
    return {"q": sequence, "t": 1.5, "step": "s", "type": "metric", "data": {"step": sequence, "values": {"loss": 1.0}}, "src": source, "end": end}


def sequences(path, after=0):
    return [record["q"] for record in JournalReader(path, after).read(10**6)]


def test_lines_survive_a_round_trip():
    rng = random.Random(1)
    for number in range(300):
        text = "".join(chr(rng.choice([rng.randrange(32, 127), rng.randrange(0xAC00, 0xD7A3), 0x1F600, 10])) for _ in range(20))
        record = {"q": number, "data": {"text": text, "value": rng.random()}}
        line = records.encode(record)
        assert line.endswith(b"\n") and line.count(b"\n") == 1
        assert records.decode(line[:-1]) == record


def test_every_flipped_byte_is_noticed():
    line = records.encode(event(7, end=99))
    for at in range(len(line) - 1):
        broken = bytearray(line)
        broken[at] ^= 0x01
        assert records.decode(bytes(broken[:-1])) is None, at


def test_a_cut_at_any_byte_leaves_the_longest_valid_prefix(tmp_path):
    path = str(tmp_path / "events.jsonl")
    journal = Journal(path)
    lines = [records.encode(event(n, end=n * 10)) for n in range(1, 40)]
    assert journal.append([event(n, end=n * 10) for n in range(1, 40)])
    journal.close()
    with open(path, "rb") as source:
        whole = source.read()
    borders = [0]
    for line in lines:
        borders.append(borders[-1] + len(line))
    for cut in range(len(whole) + 1):
        with open(path, "wb") as out:
            out.write(whole[:cut])
        journal = Journal(path)
        found = journal.recover({"last": 0, "metrics": {}, "losses": []})
        kept = max(n for n, border in enumerate(borders) if border <= cut)
        assert (found.last, journal.size) == (kept, borders[kept])
        if kept:
            assert found.skip["reports"] == (kept * 10, 1)
        journal.close()


def test_only_one_writes_a_journal(tmp_path):
    path = str(tmp_path / "events.jsonl")
    first = Journal(path)
    with pytest.raises(BlockingIOError):
        Journal(path)
    first.close()
    Journal(path).close()


def test_a_reader_gets_what_comes_after_a_sequence(tmp_path):
    path = str(tmp_path / "events.jsonl")
    journal = Journal(path)
    journal.append([event(n) for n in range(1, 2001)])
    reader = JournalReader(path, 1990)
    assert [r["q"] for r in reader.read(4)] == [1991, 1992, 1993, 1994]
    assert [r["q"] for r in reader.read()] == list(range(1995, 2001))
    journal.append([{"cursor": {"q": 2000}}, event(2001)])
    assert [r["q"] for r in reader.read()] == [2001], "cursors carry no sequence and are not events"
    assert list(reader.read()) == []
    journal.close()


def test_a_reader_of_a_long_journal_begins_near_what_it_wants_and_misses_nothing(tmp_path):
    """Also where a cursor is longer than what is looked at at once."""
    path, last = str(tmp_path / "events.jsonl"), 12000
    journal = Journal(path)
    for first in range(1, last, 1000):
        size = 600_000 if first % 3000 == 1 else 2000
        journal.append([event(n) for n in range(first, first + 1000)] + [{"cursor": {"q": first + 999, "view": "x" * size}}])
    assert journal.size > 3 * 1024 * 1024
    for after in [1, 2, 999, 1000, 1001, 2999, 3000, 3001, last - 1, last, *random.Random(1).sample(range(last), 20)]:
        reader = JournalReader(path, after)
        assert [r["q"] for r in reader.read(3)] == list(range(after + 1, min(after + 3, last) + 1))
        assert sequences(path, after) == list(range(after + 1, last + 1))
    reader = JournalReader(path, last)
    assert list(reader.read()) == []
    journal.append([event(last + 1)])
    assert [r["q"] for r in reader.read()] == [last + 1]
    journal.close()


def test_a_full_disk_writes_nothing_and_loses_nothing(tmp_path, monkeypatch):
    path = str(tmp_path / "events.jsonl")
    journal = Journal(path)
    assert journal.append([event(1)])
    real = os.pwrite

    def full(fd, data, offset):
        real(fd, data[: len(data) // 2], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    assert not journal.append([event(2)])
    monkeypatch.undo()
    assert journal.append([event(2)])
    assert sequences(path) == [1, 2]
    journal.close()


def follow_to_end(job, spec, plan):
    """All a follower has to do right now."""
    follower = Follower(job, spec, plan)
    while follower.advance():
        pass
    return follower


def test_an_agent_killed_at_any_byte_of_the_journal_repeats_and_loses_nothing(tmp_path):
    job, spec, plan = make_job(tmp_path)
    reporter = Reporter(job.reports)
    for number in range(1, 21):
        reporter.metric(number, {"loss": 1.0 / number})
    reporter.close()
    with open(job.log, "ab") as log:
        log.write(b"".join(b"[Step %d/20] Loss: 0.5\n" % n for n in range(1, 21)))
    follower = follow_to_end(job, spec, plan)
    follower._write_cursor()
    follower.journal.close()
    with open(job.events, "rb") as source:
        whole = source.read()
    expected = [(r["q"], r["type"], r["data"]) for _, r in records.scan(whole) if "q" in r]
    assert len([e for e in expected if e[1] == "metric"]) >= 20
    for cut in list(range(0, len(whole), 7)) + [len(whole)]:
        with open(job.events, "wb") as out:
            out.write(whole[:cut])
        follower = follow_to_end(job, spec, plan)
        follower.journal.close()
        with open(job.events, "rb") as source:
            again = [(r["q"], r["type"], r["data"]) for _, r in records.scan(source.read()) if "q" in r]
        assert again == expected, cut


def test_a_torn_report_line_becomes_a_gap_and_not_silence(tmp_path):
    job, spec, plan = make_job(tmp_path)
    with open(job.reports, "wb") as out:
        out.write(b'{"t": 1, "type": "metric", "data": {"step": 1, "values": {}}}\n{"t": 2, "ty\nnot json\n' + b"x" * 70000 + b"\n")
        out.write(b'{"t": 3, "type": "metric", "data": {"step": 2, "values": {}}}\n')
    follower = follow_to_end(job, spec, plan)
    follower.journal.close()
    with open(job.events, "rb") as source:
        events = [r for _, r in records.scan(source.read()) if "q" in r]
    assert [e["type"] for e in events] == ["metric", "gap", "gap", "gap", "metric"]
    assert all(e["data"]["end_offset"] > e["data"]["start_offset"] for e in events if e["type"] == "gap")


def test_figures_of_our_own_steps_come_from_their_reports_only(tmp_path):
    steps = [{"name": "train", "module": "train", "argv": ["x"]}]
    job, spec, plan = make_job(tmp_path, steps)
    reporter = Reporter(job.reports, "train")
    reporter.metric(1, {"loss": 0.5})
    reporter.close()
    with open(job.log, "ab") as log:
        log.write(b"{'loss': 0.5, 'learning_rate': 0.1, 'epoch': 0.1}\n[Step 1/2] Loss: 0.5\n")
    follower = follow_to_end(job, spec, plan)
    follower.journal.close()
    with open(job.events, "rb") as source:
        events = [r for _, r in records.scan(source.read()) if "q" in r]
    assert [e["src"] for e in events if e["type"] == "metric"] == ["reports"]


def test_the_view_is_the_fold_of_the_events():
    plan = {"steps": [{"name": "a"}, {"name": "b"}]}
    view = records.new_view({"create_time": 1.0}, plan)
    for number, (kind, data) in enumerate(
        [
            ("state", {"state": "STARTING"}),
            ("step", {"name": "a", "state": "RUNNING", "pid": 7}),
            ("state", {"state": "RUNNING"}),
            ("progress", {"done": 1, "total": 2, "unit": "rows"}),
            ("step", {"name": "a", "state": "SUCCEEDED", "exit_code": 0}),
            ("step", {"name": "b", "state": "RUNNING", "pid": 8}),
            ("metric", {"step": 3, "values": {"loss": 0.25}}),
            ("state", {"state": "FAILED", "exit_code": 1, "reason": {"code": "COMMAND_FAILED", "message": "m"}}),
        ],
        1,
    ):
        records.fold(view, {"q": number, "t": 10.0 + number, "type": kind, "data": data})
    assert view["state"] == "FAILED" and view["last"] == 8 and view["pid"] == 0
    assert [s["state"] for s in view["steps"]] == ["SUCCEEDED", "FAILED"]
    assert (view["start"], view["end"], view["losses"]) == (13.0, 18.0, [[3, 0.25]])
    line = records.encode({"q": 1, "t": 1.0, "step": "", "type": "state", "data": {"state": "RUNNING"}})
    assert records.read_view({}, plan, line + b"garbage")["state"] == "RUNNING"


def test_requests_walk_the_same_ids():
    from moai_agent.jobs import names

    first = list(names.candidates("request-0001"))
    assert first == list(names.candidates("request-0001"))
    assert first[0] != next(names.candidates("request-0002"))
    assert all(jobs.count("-") == 2 and jobs == jobs.lower() for jobs in first)
    assert json.dumps(first)


def test_the_usual_length_of_a_phase_stays_with_it_and_leaves_with_it():
    view = records.new_view({}, {"steps": [{"name": "train"}]})
    seen = {"phase": "compiling", "text": "compiling 18 candidates", "usual_seconds": [1, 384], "usual_source": "guides"}
    records.fold(view, {"q": 1, "t": 1.0, "type": "phase", "data": seen})
    assert view["phase_usual"] == [[1, 384], "guides"]
    records.fold(view, {"q": 2, "t": 2.0, "type": "phase", "data": {"phase": "ready", "text": "attached"}})
    assert view["phase_usual"] is None

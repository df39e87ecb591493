"""``top`` without containers: what it folds, what it draws at 60, 80 and 200 columns, what its keys do."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import moai
import pytest
from fakes.fleet import NOW, FakeHost, busy_report, gpu_report, job_info, moment, training
from fakes.sshd import wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from moai._cli import seen
from moai._cli.clean import width
from moai._cli.top_model import ENDED_S, Model
from moai._cli.top_poll import Poller, Slots
from moai._cli.top_rows import ago_text, matches, rows, trouble
from moai._cli.top_text import HELP, heading, layout, plain_text, row, title

FRAMES = Path(__file__).resolve().parents[1] / "data"
REFUSED = moai.MoaiError("HOST_UNREACHABLE", "127.0.0.1 port 2201: connection refused", "ssh dead")


def fleet(now=NOW):
    """One of everything: busy, stale, dead, never seen, in need of somebody."""
    model = Model(["kt", "서울-연구소", "dead", "cold", "otp"])
    model.reported("kt", busy_report("kt"), now)
    waits = (("WAITING_FOR_DEVICE", "waits for accelerator default behind swift-otter-7f3a"),)
    jobs = [
        training("kt", "swift-otter-7f3a", name="요약-학습"),
        job_info("kt", "brave-lynx-11aa", "QUEUED", conditions=waits, steps=(), create_time=moment(now - 900)),
        job_info("kt", "calm-newt-33bb", phase="loading", conditions=(("STALLED", "no output and no CPU for 12 minutes"),)),
        job_info("kt", "old-mole-77cc", "FAILED", end_time=moment(now - 100), reason=moai.Reason("OUT_OF_MEMORY", "killed by the kernel")),
    ]
    model.answered("kt", jobs, True, now)
    model.curve("kt", "swift-otter-7f3a", jobs[0].losses, now)
    model.reported("서울-연구소", gpu_report("서울-연구소"), now - 7)
    fetching = moai.Progress(12e9, 132e9, "bytes", 1e8, 1200.0, moment(now - 7))
    model.answered("서울-연구소", [job_info("서울-연구소", "patient-finch-9d1e", name="한국어 모델", steps=(moai.Step("download", "RUNNING"),), progress=fetching)], True, now - 7)
    model.answered("dead", [job_info("dead", "lone-kite-0001")], True, now - 12)
    model.failed("dead", REFUSED, now)
    model.said("cold", "installing the agent")
    model.failed("otp", moai.MoaiError("SIGN_IN_NEEDED", "a one-time password is asked for", "moai remote up otp"), now)
    return model


def picture(model, columns, now=NOW, **query):
    """The lines without a terminal."""
    shown = rows(model.hosts(), now, **query)
    form = layout(columns, shown)
    lines = [title(model.hosts(), form.columns, now, "", "host"), heading(form), *(row(one, form, now) for one in shown)]
    assert all(sum(width(text) for text, _ in line) <= form.columns for line in lines)
    return [plain_text(line) for line in lines]


def only(model, name):
    return next(h for h in model.hosts() if h.name == name)


# -- what is folded ----------------------------------------------------------------------------------


def test_a_row_older_than_three_seconds_says_how_old_it_is():
    model = Model(["kt"])
    model.reported("kt", busy_report("kt"), NOW)
    model.answered("kt", [training("kt", "swift-otter-7f3a")], True, NOW)
    assert "ago" not in "\n".join(picture(model, 80, NOW + 3))
    assert all(line.endswith("12s ago") for line in picture(model, 80, NOW + 12)[2:])
    assert picture(model, 80, NOW + 4000)[-1].endswith("66m ago")


def test_a_dead_host_says_when_it_was_seen_and_its_rows_grow_old():
    lines = "\n".join(picture(fleet(), 80))
    assert "x dead               unreachable, last seen 12 s ago" in lines
    assert next(line for line in lines.split("\n") if "lone-kite" in line).endswith("12s ago")
    assert "1 without answer" not in lines and "2 without answer (1 job)" in lines, "what runs there is not counted as running"


def test_an_open_question_is_no_answer_and_a_host_that_comes_back_is_well():
    model = Model(["kt"])
    model.answered("kt", [], True, NOW)
    model.asking("kt", NOW + 1)
    assert trouble(only(model, "kt"), NOW + 3) == ""
    assert trouble(only(model, "kt"), NOW + 8) == "no answer for 7 s, last seen 8 s ago"
    model.failed("kt", REFUSED, NOW + 9)
    assert trouble(only(model, "kt"), NOW + 9).startswith("unreachable, last seen 9 s ago: 127")
    model.said("kt", "starting the agent")
    model.answered("kt", [], True, NOW + 10)
    assert trouble(only(model, "kt"), NOW + 10) == "" and only(model, "kt").doing == ""


def test_a_part_of_the_jobs_takes_none_away_and_the_whole_does():
    model = Model(["kt"])
    first, second = job_info("kt", "a-a-0001"), job_info("kt", "b-b-0002", create_time=moment(NOW))
    model.answered("kt", [second, first], True, NOW)
    model.answered("kt", [second], False, NOW + 1)
    assert set(only(model, "kt").jobs) == {"a-a-0001", "b-b-0002"}
    assert only(model, "kt").jobs["a-a-0001"].seen_s == NOW, "what was not told grows old"
    assert model.page("kt") == 5
    model.answered("kt", [second], True, NOW + 2)
    assert set(only(model, "kt").jobs) == {"b-b-0002"}


def test_the_page_that_is_asked_for_holds_every_job_that_has_not_ended():
    model = Model(["kt"])
    ended = [job_info("kt", f"n-{n}", "SUCCEEDED", create_time=moment(NOW - n), end_time=moment(NOW)) for n in range(20)]
    model.answered("kt", [*ended, job_info("kt", "old", create_time=moment(NOW - 50))], True, NOW)
    assert model.page("kt") >= 21


def test_an_ended_job_stays_for_a_while():
    model = Model(["kt"])
    model.answered("kt", [job_info("kt", "a", "SUCCEEDED", end_time=moment(NOW))], True, NOW)
    assert "a" in only(model, "kt").jobs
    model.answered("kt", [job_info("kt", "a", "SUCCEEDED", end_time=moment(NOW))], True, NOW + ENDED_S + 1)
    assert not only(model, "kt").jobs


def test_throughput_is_counted_over_the_wall_clock():
    model = Model(["kt"])

    def step(done, at, printed=99999.0):
        progress = moai.Progress(float(done), 560.0, "steps", printed, None, moment(NOW + at))
        model.answered("kt", [job_info("kt", "a", progress=progress, metrics={"printed_tokens_per_second": printed})], True, NOW + at)
        return only(model, "kt").jobs["a"]

    assert step(0, 0).rate is None, "one look tells no rate"
    job = step(10, 20)
    assert (job.rate, job.rate_unit, job.eta_s) == (0.5, "steps", 1100.0)
    assert step(3, 21).rate is None, "another step began"
    for at in range(22, 200, 2):
        job = step(3 + (at - 21) * 2, at)
    assert job.rate == pytest.approx(2.0)


def test_the_loss_curve_grows_by_what_is_seen_and_begins_with_what_was():
    model = Model(["kt"])
    model.answered("kt", [training("kt", "a", 40)], True, NOW)
    assert model.wants_curve("kt", NOW) == ["a"]
    model.curve("kt", "a", training("kt", "a", 40).losses, NOW)
    assert model.wants_curve("kt", NOW + 1) == [] and model.wants_curve("kt", NOW + 61) == ["a"]
    model.answered("kt", [training("kt", "a", 40)], True, NOW + 1)
    assert len(only(model, "kt").jobs["a"].curve) == 40, "the same step is no new point"
    for n in range(41, 400):
        model.answered("kt", [training("kt", "a", n, losses=())], True, NOW + n)
    assert 64 <= len(only(model, "kt").jobs["a"].curve) <= 128


def test_a_filter_finds_words_and_fields():
    model = fleet()
    kt = only(model, "kt")
    job = kt.jobs["swift-otter-7f3a"]
    for text in ("", "KT", "otter", "요약", "running", "state:run", "host:k otter", "job:요약", "training", "mina"):
        assert matches(text, kt, job), text
    for text in ("dead", "state:queued", "host:otter", "otter brave", "job:kt"):
        assert not matches(text, kt, job), text
    assert [r.job.id for r in rows(model.hosts(), NOW, "state:queued") if r.job] == ["brave-lynx-11aa"]
    assert {r.host.name for r in rows(model.hosts(), NOW, "host:dead")} == {"dead"}
    assert matches("\u1112\u1161\u11ab", only(model, "서울-연구소"), next(iter(only(model, "서울-연구소").jobs.values()))), "decomposed Hangul"


@pytest.mark.parametrize(
    "sort, first", [("host", "kt"), ("state", "dead"), ("load", "kt"), ("eta", "서울-연구소")]
)
def test_containers_are_ordered_as_asked(sort, first):
    names = [r.host.name for r in rows(fleet().hosts(), NOW, sort=sort) if r.kind == "host"]
    assert names[0] == first and len(names) == 5


def test_what_was_seen_is_kept_and_shown_as_that_old(monkeypatch, tmp_path):
    monkeypatch.setenv("MOAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MOAI_CONFIG", str(tmp_path / "config"))
    (tmp_path / "cache").mkdir()
    seen.save(fleet().dump())
    again = Model(["kt", "dead", "new"])
    again.load(seen.load())
    lines = picture(again, 80, NOW + 300)
    assert next(line for line in lines if "swift-otter" in line).endswith("5m ago")
    assert "~ new              connecting" in lines
    for broken in ("", "[]", '{"form": 2}', '{"form": 1, "hosts": {"kt": {"jobs": 3}}}', '{"form": 1, "hosts": {"kt": {"jobs": [], "devices": [1], "seen_s": 1, "devices_s": 1}}}'):
        (tmp_path / "cache" / "top.json").write_text(broken)
        fresh = Model(["kt"])
        fresh.load(seen.load())
        assert only(fresh, "kt").seen_s is None


# -- what is drawn -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(20, 260), st.text(max_size=40), st.text(max_size=40), st.floats(), st.floats())
def test_no_line_is_wider_than_the_terminal(columns, name, text, loss, load):
    model = Model([name])
    device = moai.Device(0, text, text, True, 5, 10, None, load, (moai.DeviceProcess(None, None, text, None),))
    model.reported(name, moai.DeviceReport(name, "moreh-smi", "", "", (device, device), (text,)), NOW)
    model.answered(name, [training(name, text, name=text, metrics={"loss": loss}, conditions=(("STALLED", text),))], True, NOW)
    for line in picture(model, columns, NOW + 9):
        assert not re.search("[\x00-\x1f\x7f-\x9f]", line)


def test_ages_in_words():
    assert [ago_text(s) for s in (0, 99.9, 100, 5999, 6000, 172799, 200000)] == [
        "0 s ago", "99 s ago", "1 min ago", "99 min ago", "1 h ago", "47 h ago", "2 d ago",
    ]  # fmt: skip


# -- asking ------------------------------------------------------------------------------------------


def test_one_dead_host_delays_no_other():
    never = threading.Event()
    hosts = [FakeHost(f"h{n}", gate=never) for n in range(20)] + [FakeHost("well", [training("well", "a")])]
    model = Model([h.name for h in hosts])
    poller = Poller(hosts, model, 0.2, losses=lambda host, info: info.losses)
    poller.start()
    try:
        wait_until(lambda: "a" in only(model, "well").jobs, "the living host past twenty hanging ones", 20)
    finally:
        never.set()
        poller.close()


def test_young_questions_are_bounded_and_old_ones_give_way():
    slots = Slots(2, patience_s=60)
    first, _ = slots.enter(), slots.enter()
    third = threading.Event()
    threading.Thread(target=lambda: (slots.enter(), third.set()), daemon=True).start()
    assert not third.wait(0.1)
    slots.leave(first)
    assert third.wait(10)
    impatient = Slots(1, patience_s=0.05)
    impatient.enter()
    impatient.enter()


def test_a_defect_shows_in_the_row():
    host = FakeHost("kt", error=ZeroDivisionError("oops"))
    model = Model(["kt"])
    poller = Poller([host], model, 0.2)
    poller.start()
    try:
        wait_until(lambda: "a defect in moai: ZeroDivisionError" in only(model, "kt").error, "the defect to show", 20)
    finally:
        poller.close()


def test_a_host_that_needs_somebody_is_not_asked_again_until_there_is_a_link(monkeypatch):
    linked = threading.Event()
    looked = threading.Semaphore(0)

    def is_linked(config):
        looked.release()
        return linked.is_set()

    monkeypatch.setattr(moai, "is_linked", is_linked)
    monkeypatch.setattr("moai._cli.top_poll._RETRY_S", 0.03)
    host = FakeHost("otp", error=moai.MoaiError("SIGN_IN_NEEDED", "a password is asked for", "moai remote up otp"))
    poller = Poller([host], Model(["otp"]), 0.01)
    poller.start()
    try:
        for _ in range(5):
            assert looked.acquire(timeout=20)
        assert host.asked == 1
        linked.set()
        wait_until(lambda: host.asked > 1, "the link to be noticed", 20)
    finally:
        poller.close()


# -- the screen --------------------------------------------------------------------------------------


def frame(app):
    """The terminal's text."""
    return ["".join(segment.text for segment in strip).rstrip() for strip in app.screen._compositor.render_strips()]


def on_screen(model, columns, script, hosts=None, height=22):
    """Run ``script(app, pilot)`` in a terminal of this size; what the application returned."""
    from moai._cli.top_view import TopApp

    async def main():
        app = TopApp(model, hosts or {})
        async with app.run_test(size=(columns, height)) as pilot:
            await pilot.pause()
            await script(app, pilot)
            if app.is_running:
                await pilot.press("q")
        return app.return_value

    return asyncio.run(main())


@pytest.fixture
def still(monkeypatch):
    """The screen's clock stands at NOW."""
    from moai._cli import top_view

    monkeypatch.setattr(top_view, "time", SimpleNamespace(time=lambda: NOW, monotonic=top_view.time.monotonic))


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_frame_is_the_stored_one(still, columns):
    shown = []

    async def look(app, pilot):
        shown.extend(frame(app))

    assert on_screen(fleet(), columns, look) is None
    stored = FRAMES / f"top-{columns}.txt"
    if os.environ.get("STORE_FRAMES"):
        stored.write_text("\n".join(shown) + "\n", encoding="utf-8")
    assert "\n".join(shown) + "\n" == stored.read_text(encoding="utf-8")
    assert max(width(line) for line in shown) <= columns


def test_attach_leaves_with_the_job_under_the_cursor(still):
    async def go(app, pilot):
        await pilot.press("down", "a")

    assert on_screen(fleet(), 80, go) == ("kt", "calm-newt-33bb")

    async def enter(app, pilot):
        await pilot.press("home", "enter")
        assert frame(app)[-1].strip() == "move to a job first", "three jobs: which one?"
        await pilot.press("end", "up", "up", "up", "enter")

    assert on_screen(fleet(), 80, enter) == ("dead", "lone-kite-0001"), "a container with one job stands for it"


def until(pilot, found):
    async def wait():
        for _ in range(500):
            await pilot.pause(0.01)
            if found():
                return
        raise AssertionError("it did not come")

    return wait()


def test_cancel_asks_first_and_the_other_verbs_are_told(still):
    hosts = {name: FakeHost(name) for name in ("kt", "dead")}
    hosts["dead"].error = REFUSED

    async def go(app, pilot):
        await pilot.press("c")
        assert frame(app)[-1] == "cancel swift-otter-7f3a on kt and every process of it? y / n"
        await pilot.press("n", "y")
        assert hosts["kt"].calls == []
        await pilot.press("c", "y")
        await until(pilot, lambda: "swift-otter-7f3a was asked to end" in frame(app)[-1])
        await pilot.press("k")
        await until(pilot, lambda: "asked for a checkpoint" in frame(app)[-1])
        await pilot.press("s")
        await until(pilot, lambda: "save and end" in frame(app)[-1])
        assert hosts["kt"].calls == [(verb, "swift-otter-7f3a") for verb in ("cancel", "checkpoint", "stop")]
        app.board.cursor = ("dead", "lone-kite-0001")
        await pilot.press("k")
        await until(pilot, lambda: "connection refused [HOST_UNREACHABLE]  next: ssh dead" in frame(app)[-1])

    on_screen(fleet(), 120, go, hosts)


def test_the_filter_works_while_it_is_typed_and_esc_shows_all(still):
    async def go(app, pilot):
        everything = frame(app)
        await pilot.press("f", *"요약")
        assert [line.split()[0] for line in frame(app)[3:5] if line.strip()] == ["swift-otter-7f3a"]
        assert frame(app)[-1].startswith("요약")
        await pilot.press(*"q?", "enter")
        assert "nothing fits the filter" in frame(app)[2]
        await pilot.press("slash", "backspace", "backspace", "enter", "down")
        assert "filter 요약" in frame(app)[0] and "enter attach" in frame(app)[-1]
        await pilot.press("escape")
        await pilot.pause()
        assert frame(app) == everything

    on_screen(fleet(), 80, go)


def test_help_order_and_a_small_terminal(still):
    async def go(app, pilot):
        await pilot.press("question_mark")
        assert all(line in "\n".join(frame(app)) for line in HELP if len(line) < 70)
        await pilot.press("escape", "o")
        assert "by state" in frame(app)[0]
        await pilot.press("o", "o", "o")
        assert "by" not in frame(app)[0]
        await pilot.resize_terminal(40, 6)
        await pilot.press("end")
        await pilot.pause()
        assert len(frame(app)) == 6 and "otp" in "".join(frame(app))

    on_screen(fleet(), 80, go)

"""What the command line puts on a terminal: harmless, aligned, complete."""

from __future__ import annotations

import base64
import io
import itertools
import math
import re
from contextlib import redirect_stdout
from datetime import datetime, timezone

import moai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moai._cli import screen as screen_module
from moai._cli import view as view_module
from moai._cli.clean import LogCleaner, clean, fit, pad, width
from moai._cli.curve import chart, sparkline
from moai._cli.follow import _at_a_character, log_line
from moai._cli.screen import Screen
from moai._cli.table import ago, duration, print_table, size
from moai._cli.view import JobView

PLAIN_TEXT = re.compile("[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*")
COLOURED_TEXT = re.compile("(?:[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\x1b\\[[0-9;:]*m)*")
quick = settings(deadline=None, max_examples=150)

#: Bytes that are likely to mean something to a terminal, mixed with text.
hostile = st.lists(
    st.one_of(
        st.sampled_from(["\x1b", "\x1b[", "\x1b]", "\x1bP", "\x1b_", "\x1b^", "\x1bX", "\x9b", "\x9d", "\x90", "\x9c", "\x07"]),
        st.sampled_from(["\x1b\\", "\x1b[0m", "\x1b[1;31m", "\x1b[2J", "\x1b[?1049h", "m", "[", "0", ";", "?", " ", "\r", "\n", "\t"]),
        st.sampled_from(["\x18", "\x1a", "\x00", "\x08", "\x7f", "\x85", "é", "한", "\u200b", "\u202e", "text"]),
        st.text(max_size=3),
    ),
    max_size=14,
).map(lambda parts: "".join(parts).encode("utf-8", "replace"))


def cleaned(data: bytes, colour: bool = False, cuts: list[int] | None = None) -> str:
    """What the cleaner makes of ``data`` cut at ``cuts``."""
    cleaner = LogCleaner(colour)
    edges = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts or [])})
    return "".join(cleaner.feed(data[a:b]) for a, b in itertools.pairwise(edges)) + cleaner.finish()


def attacks() -> list[bytes]:
    """Sequences that move, hide, rename, copy, answer, draw or lie; whole and unfinished."""
    found: list[str] = []
    strings = ["]0;owned", "]2;owned", "]8;;http://evil.example/", "]52;c;cm0gLXJm", "]4;1;rgb:00/00/00", "]10;?", "]1337;File=:AA"]
    strings += ["]777;notify;a;b", "]9;hi", "P$q\"p", "P+q544e", "Pq#0!9~", "_Gf=24;AAAA", "^private", "Xstart"]
    c1 = {"]": "\x9d", "P": "\x90", "_": "\x9f", "^": "\x9e", "X": "\x98"}
    for body in strings:
        for start in ("\x1b" + body, c1[body[0]] + body[1:]):
            found += [start + end for end in ("\x07", "\x1b\\", "\x9c", "\x18", "\n", "", "\x1b[31m", "\x1b")]
    moves = ["H", "2J", "3J", "K", "1A", "99B", "5C", "5D", "10;10H", "s", "u", "6n", "5n", "c", ">c", "?1049h", "?1049l", "?25l", "?1000h"]
    moves += ["4h", "20h", "!p", "1;5r", "2;3;4t", "21t", "8;1;1t", "0 q", "1 p", "?2004h", ">4;2m", "?5m", " m", "1$m", "=1m", "8p"]
    for body in moves:
        found += ["\x1b[" + body, "\x9b" + body, "\x1b[" + body[:-1]]
    found += ["\x1b" + final for final in "78=>DEHMNOVWZcnolm|}~"]
    found += ["\x1b" + mid + final for mid in "#%()*+-./" for final in "80BG"]
    found += ["\x1b\x1b[0m[2J", "\x1b\x1b[31m]0;x\x07", "\x1b[\x1b[2J", "\x1b[3\x1b]0;x\x072J", "\x1b[" + "9" * 5000 + "m", "\x1b[31\x07m"]
    found += ["\x1b]" + "A" * 9000 + "\x07", "\x1b] \x1b\\\x1b]0;x\x1b\\", "\x1bP\x1b[2J\x1b\\", "\x1b]0;a\x90b\x07", "\x1b[31;\u202e1m"]
    found += list("\x00\x05\x07\x08\x0b\x0c\x0e\x0f\x11\x13\x1a\x7f\x84\x85\x88\x8d\x8e\x8f\x96\x97\x9a\x9c")
    return [one.encode() for one in found]


# -- the cleaner -------------------------------------------------------------------------------------


def test_no_attack_gets_through_however_it_is_cut():
    corpus = attacks()
    assert len(set(corpus)) >= 200
    for attack in corpus:
        data = b"before " + attack + b"\nafter\n"
        for colour, allowed in ((False, PLAIN_TEXT), (True, COLOURED_TEXT)):
            whole = cleaned(data, colour)
            assert allowed.fullmatch(whole), attack
            # A stray start hides its own line at most.
            assert whole.startswith("before ") and "\nafter\n" in whole, attack
            cuts = range(1, len(data)) if len(data) < 200 else (1, 8, 9, 100, len(data) - 8)
            assert all(cleaned(data, colour, [cut]) == whole for cut in cuts), attack
        assert PLAIN_TEXT.fullmatch(clean(data.decode()))


@pytest.mark.parametrize(
    ("attack", "seen"),
    [
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://evil.example/\x1b\\click\x1b]8;;\x1b\\", "click"),
        ("\x1b]52;c;cm0gLXJm\x07x", "x"),
        ("a\x1b[2Jb\x1b[?1049hc", "abc"),
        ("\x1bPq#0;2;0;0;0#0!9~\x1b\\x", "x"),
        ("\x1b_Gf=24;AAAA\x1b\\x", "x"),
        ("\x9b31mx\x9d0;t\x9cy", "xy"),
    ],
)
def test_the_payload_of_a_sequence_goes_with_it(attack, seen):
    assert cleaned(attack.encode()) == seen
    assert clean(attack) == seen


@quick
@given(hostile, st.booleans(), st.lists(st.integers(0, 200), max_size=6))
def test_pieces_give_what_the_whole_gives_and_nothing_but_colours_survives(data, colour, cuts):
    whole = cleaned(data, colour)
    assert cleaned(data, colour, cuts) == whole
    assert (COLOURED_TEXT if colour else PLAIN_TEXT).fullmatch(whole)


@quick
@given(st.binary(max_size=60), st.booleans(), st.lists(st.integers(0, 60), max_size=4))
def test_random_bytes_are_cut_anywhere_too(data, colour, cuts):
    whole = cleaned(data, colour)
    assert cleaned(data, colour, cuts) == whole
    assert (COLOURED_TEXT if colour else PLAIN_TEXT).fullmatch(whole)


@quick
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]) | st.sampled_from("\n\t\r")), st.lists(st.integers(0, 400), max_size=8))
def test_valid_text_passes_unharmed_wherever_its_bytes_are_cut(text, cuts):
    assert cleaned(text.encode(), False, cuts) == text
    assert cleaned(text.encode(), True, cuts) == text + "\x1b[0m"


@quick
@given(st.lists(st.sampled_from(["\x1b[m", "\x1b[31m", "\x1b[38;2;1;2;3m", "\x1b[4:3m", "red", " "])).map("".join))
def test_colours_stay_when_they_are_wanted_and_go_when_not(text):
    assert cleaned(text.encode(), True) == text + "\x1b[0m"
    assert cleaned(text.encode()) == re.sub("\x1b[^m]*m", "", text)


def test_bytes_that_are_not_utf_8_are_seen_as_such():
    assert cleaned(b"a\xffb\xc3") == "a\ufffdb\ufffd"


def test_an_endless_sequence_is_not_kept_in_memory():
    for start in (b"\x1b[", b"\x1b]0;", b"\x1bP"):
        cleaner = LogCleaner(True)
        assert "".join(cleaner.feed(start + b"1" * 4096) for _ in range(200)) == ""
        assert sum(len(value) for value in vars(cleaner).values() if isinstance(value, str)) < 1000


# -- identifiers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("char", "\u00ad\u061c\u200b\u200c\u200d\u200e\u200f\u2028\u202a\u202e\u2060\u2066\u2069\u3164\ufeff\U000e0041")
def test_characters_that_reorder_or_hide_are_shown_by_number(char):
    assert clean(f"job{char}x") == f"job<U+{ord(char):04X}>x"


@quick
@given(st.text() | hostile.map(lambda data: data.decode("utf-8", "replace")))
def test_an_identifier_is_one_harmless_line_and_cleaning_it_again_changes_nothing(text):
    shown = clean(text)
    assert PLAIN_TEXT.fullmatch(shown)
    assert not set(shown) & set("\n\r\t\u200b\u200e\u202e\u2066\ufeff\u2028")
    assert clean(shown) == shown
    shown.encode("utf-8")


def test_several_lines_stay_when_they_are_wanted():
    assert clean("a\n\tb\r\n\x1b[2Jc", newlines=True) == "a\n\tb\nc"
    assert clean("a\n\tb\nc") == "a  b c"


# -- widths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("", 0),
        ("abc", 3),
        ("한글", 4),
        ("\u1112\u1161\u11ab\u1100\u1173\u11af", 4),  # the same, decomposed: as macOS names files
        ("日本語", 6),
        ("e\u0301", 1),
        ("नी", 1 + 1),  # a letter and a spacing vowel
        ("ก\u0e31", 1),  # a mark without a combining class
        ("a\u200bb", 2),
        ("ｆｕｌｌ", 8),
        ("½…é", 3),
    ],
)
def test_width_is_what_a_terminal_uses(text, columns):
    assert width(text) == columns


@quick
@given(st.text(st.sampled_from("ab 한글日\u0301\u1161\u11abé…ｆ\u200b")), st.integers(0, 20))
def test_fit_and_pad_keep_to_their_columns(text, columns):
    short = fit(text, columns)
    assert width(short) <= columns
    assert short == text if width(text) <= columns else short.endswith("…" if columns else "")
    assert width(pad(text, columns)) == columns
    assert text.startswith(short.removesuffix("…"))


def test_fit_keeps_what_combines_with_the_last_letter():
    assert fit("e\u0301e\u0301e\u0301", 2) == "e\u0301…"
    assert fit("한글입니다", 5) == "한글…"
    assert fit("한글입니다", 4) == "한…"


# -- tables --------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """Standard output that is a terminal and obeys only what our own screen uses."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What is seen in the end, without colours; anything but our own sequences is an error."""
        rows, row, column = [""], 0, 0
        for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\n|\r|[^\x1b\n\r]+|.", self.getvalue()):
            if token == "\n":
                row, column = row + 1, 0
                rows += [""] * (row + 1 - len(rows))
            elif token == "\r":
                column = 0
            elif token == "\x1b[J":
                rows[row:] = [rows[row][:column]]
            elif token.startswith("\x1b[") and token.endswith("F"):
                row, column = row - int(token[2:-1]), 0
                assert row >= 0, "above the first line"
            elif re.fullmatch("\x1b\\[[0-9;:]*m", token):
                continue
            else:
                assert not token.startswith("\x1b"), repr(token)
                rows[row] = rows[row][:column] + token + rows[row][column + len(token) :]
                column += len(token)
        return rows


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of 60 columns."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def table_on(terminal: Terminal, *args, **kwargs) -> str:
    """What ``print_table`` prints on it."""
    terminal.truncate(0)
    terminal.seek(0)
    with redirect_stdout(terminal):
        print_table(*args, **kwargs)
    return terminal.getvalue()


HEADER = ["HOST", "JOB", "NAME", "STATE", "DOING", "AGE", "COMMAND"]


def test_a_table_fits_sixty_columns_whatever_is_in_it(terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    cell = st.text(st.sampled_from("abc 한글\u0301日\x1b[2J\n\t\u202e"), max_size=30)

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.lists(cell, min_size=7, max_size=7), min_size=1, max_size=3), st.integers(0, 6))
    def check(rows, grow):
        printed = table_on(terminal, HEADER, rows, grow=grow).removesuffix("\n").split("\n")
        assert len(printed) == len(rows) + 1
        assert all(width(line) <= 60 and PLAIN_TEXT.fullmatch(line) for line in printed)

    check()


def test_columns_of_wide_characters_are_aligned(terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    printed = table_on(terminal, ["A", "B"], [["한글", "x"], ["abcd", "x"], ["e\u0301", "x"]])
    assert [width(line[: line.index("x")]) for line in printed.splitlines()[1:]] == [6, 6, 6]


def test_only_the_state_is_coloured_and_only_on_a_terminal(terminal, monkeypatch, capsys):
    monkeypatch.delenv("NO_COLOR", raising=False)
    table = (["JOB", "STATE"], [["a", "FAILED"]], ["red"])
    assert "a    \x1b[31mFAILED\x1b[0m" in table_on(terminal, *table)
    assert "\x1b" not in table_on(terminal, *table, plain=True)
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            assert "\x1b" not in table_on(terminal, *table)
    print_table(["JOB", "STATE"], [["a" * 90, "FAILED"]], ["red"])
    assert "a" * 90 + "  FAILED\n" in capsys.readouterr().out  # nothing is cut in a pipe


@pytest.mark.parametrize(("value", "shown"), [(None, "?"), (math.nan, "?"), (math.inf, "?"), (0, "0s"), (59.4, "59s"), (3600, "1h00m"), (-5, "0s")])
def test_durations(value, shown):
    assert duration(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(None, "?"), (math.nan, "?"), (0, "0 B"), (999, "999 B"), (269_100_000, "269.1 MB"), (3e15, "3000.00 TB")])
def test_sizes(value, shown):
    assert size(value) == shown


def test_a_moment_of_a_clock_ahead_of_ours_is_now():
    assert ago(datetime(9999, 1, 1, tzinfo=timezone.utc)) == "0s ago"


# -- curves --------------------------------------------------------------------------------------------


@quick
@given(st.lists(st.floats(width=64), max_size=80), st.integers(1, 40), st.integers(1, 4), st.booleans())
def test_a_curve_of_any_numbers_keeps_to_its_rows_and_columns(values, columns, rows, plain):
    lines = sparkline(values, columns, rows, plain)
    if not any(math.isfinite(v) for v in values):
        assert lines == []
        return
    assert len(lines) == rows and all(len(line) <= columns for line in lines)
    assert set("".join(lines)) <= set(" .:-=+*#@" if plain else " ▁▂▃▄▅▆▇█")
    assert lines[-1].strip(), "the lowest point is seen"
    drawn = chart(list(enumerate(values)), columns + 10, rows, plain)
    assert len(drawn) == rows + 1


def test_a_curve_has_gaps_for_what_is_no_number():
    assert sparkline([1.0, math.nan, 2.0, math.inf, 3.0], 10) == ["▁ ▄ █"]
    assert sparkline([1.0, math.nan, 3.0], 10, plain=True) == [". @"]
    assert sparkline([math.nan, math.inf], 10) == []
    assert chart([(1, math.nan)], 60) == ["no loss has been reported"]


def test_constants_and_single_points_are_a_line_at_the_bottom():
    assert sparkline([2.5] * 5, 10) == ["▁▁▁▁▁"]
    assert sparkline([2.5], 10, 2) == [" ", "▁"]
    assert chart([(7, 2.5)], 60, 2) == ["   2.500┤ ", "   2.500┤▁", "         step 7 step 7"]


def test_many_points_are_averaged_into_the_columns():
    assert sparkline([0.0, 0.0, 4.0, 4.0, 8.0, 8.0], 3) == ["▁▄█"]
    assert sparkline([-1.7e308, 1.7e308], 2) == ["▁█"]
    assert all(len(line.partition("┤")[0]) == 8 for line in chart([(1, 1e-5), (2, 123456.0)], 60)[:-1])


# -- the screen ----------------------------------------------------------------------------------------


@pytest.fixture
def at_once(monkeypatch):
    """Redraws are not thinned out."""
    monkeypatch.setattr(screen_module, "_REDRAW_S", 0.0)


def test_text_scrolls_above_a_status_that_is_erased_before_it(terminal, at_once):
    status = ["working 1"]
    screen = Screen(lambda: status, enabled=True, stream=terminal)
    screen.write("one\ntwo\n")
    assert terminal.lines() == ["one", "two", "working 1", ""]
    status[:] = ["working 2", "more"]
    screen.draw()
    assert terminal.lines() == ["one", "two", "working 2", "more", ""]
    status[:] = ["working 3"]
    screen.write("three\n")
    screen.line("ours")
    assert terminal.lines() == ["one", "two", "three", "ours", "working 3", ""]
    screen.close()
    assert terminal.lines() == ["one", "two", "three", "ours", ""]


def test_of_a_progress_bar_only_the_last_state_stays(terminal, at_once):
    screen = Screen(lambda: ["status"], enabled=True, stream=terminal)
    for percent in range(0, 101, 10):
        screen.write(f"\r{percent:3d}% |{'#' * (percent // 10):10}|")
    assert terminal.lines() == ["100% |##########|", "status", ""]
    screen.write("\ndone\r\nlast\r")
    assert terminal.lines() == ["100% |##########|", "done", "last", "status", ""]
    screen.close()
    assert terminal.lines() == ["100% |##########|", "done", "last", ""]


def test_a_line_without_its_end_is_shown_live_and_kept_for_the_end(terminal, at_once):
    screen = Screen(lambda: [], enabled=True, stream=terminal)
    screen.write("half")
    assert terminal.lines() == ["half", ""]
    screen.write(" a line\nrest")
    screen.close()
    assert terminal.lines() == ["half a line", "rest", ""]


def test_status_and_bar_never_take_more_than_one_line_each(terminal, at_once):
    long = "\x1b[36m●\x1b[0m " + "x" * 200
    screen = Screen(lambda: [long, "한" * 100], enabled=True, stream=terminal)
    screen.write("\x1b[31m" + "b\t" * 60)
    assert all(width(line) < 60 for line in terminal.lines())
    screen.draw()
    screen.draw()
    assert len(terminal.lines()) == 4


def test_colours_of_the_log_end_above_our_lines_and_go_on_below(terminal, at_once):
    screen = Screen(lambda: ["status"], enabled=True, stream=terminal)
    screen.write("\x1b[8mhidden\n")
    assert terminal.getvalue().endswith("\x1b[8mhidden\n\x1b[0mstatus\n")
    screen.write("still hidden\n")
    assert "\x1b[8mstill hidden\n\x1b[0mstatus\n" in terminal.getvalue()
    screen.write("\x1b[0mseen\n")
    assert terminal.getvalue().endswith("\x1b[8m\x1b[0mseen\nstatus\n")


def test_the_end_of_a_coloured_log_leaves_no_empty_line(terminal, at_once):
    for tail, left in (("", ["text", ""]), ("50%\r", ["text", "50%", ""])):
        terminal.truncate(0)
        terminal.seek(0)
        screen, cleaner = Screen(lambda: [], enabled=True, stream=terminal), LogCleaner(colour=True)
        screen.write(cleaner.feed(b"\x1b[1mtext\n" + tail.encode()))
        screen.write(cleaner.finish())
        screen.close()
        assert terminal.lines() == left
        assert terminal.getvalue().rstrip("\n").endswith("\x1b[0m")


def test_without_a_terminal_there_is_text_and_nothing_else():
    stream = io.StringIO()
    screen = Screen(lambda: ["status"], enabled=False, stream=stream)
    screen.write("10%\r20%")
    screen.write("\n")
    screen.draw(force=True)
    screen.line("ours")
    screen.close()
    assert stream.getvalue() == "10%\r20%\nours\n"


def test_redraws_are_thinned_out_but_finished_lines_are_not(terminal, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(screen_module.time, "monotonic", lambda: clock[0])
    screen = Screen(lambda: ["status"], enabled=True, stream=terminal)
    for number in range(1000):
        clock[0] += 0.001
        screen.write(f"\r{number}")
    assert terminal.getvalue().count("status") <= 11
    screen.write("\nline\n")
    assert terminal.lines() == ["999", "line", "status", ""]


# -- the view of a job ---------------------------------------------------------------------------------

MOMENT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def event(kind: str, at_s: float = 0.0, step: str = "train", /, **data) -> moai.Event:
    """An event ``at_s`` seconds after the beginning."""
    moment = datetime.fromtimestamp(MOMENT.timestamp() + at_s, timezone.utc)
    return moai.Event("box", "calm-owl-1234", 1, moment, step, kind, data)


def feed(view: JobView, *events: moai.Event) -> list[str]:
    """The finished lines of some events, without their time stamps."""
    return [re.sub(r"^\[\d\d:\d\d:\d\d\] ", "", line) for one in events for line in view.feed(one)]


def run_through(view: JobView) -> list[str]:
    """A training from queue to end."""
    return feed(
        view,
        event("state", state="QUEUED", reason={"code": "WAITING_FOR_DEVICE", "message": "behind calm-elk-0001"}),
        event("state", state="RUNNING", reason=None),
        event("step", name="download", state="RUNNING"),
        event("phase", phase="downloading", text="Fetching org/model"),
        event("progress", done=500, total=1000, unit="bytes", rate=100.0, eta_seconds=5.0),
        event("step", 9, name="download", state="SUCCEEDED", result={"files": 3, "bytes": 269_100_000}),
        event("step", 9, name="train", state="RUNNING"),
        event("metric", 10, step=1, total=40, values={"loss": 2.5, "learning_rate": 1e-4}),
        event("metric", 12, step=2, total=40, values={"loss": 2.0, "tokens_per_second": 1234.0}),
        event("artifact", 13, kind="checkpoint", path="runs/a/checkpoint-2"),
        event("message", 14, text="slow disk", level="warning", code="X"),
        event("gap", 15, source="log", start_offset=5, end_offset=9, text="the disk was full"),
        event("step", 70, name="train", state="FAILED", reason={"code": "OUT_OF_MEMORY", "message": "no memory"}),
        event("state", 71, state="FAILED", reason={"code": "OUT_OF_MEMORY", "message": "no memory"}),
    )


def test_without_a_terminal_every_event_is_a_line():
    assert run_through(JobView(plain=True)) == [
        "queued: behind calm-elk-0001",
        "download: started",
        "download: Fetching org/model",
        "download: 500 B / 1.0 kB  100 B/s  ETA 5s",
        "download: succeeded 3 files, 269.1 MB (9s)",
        "train: started",
        "train: step 1/40  loss 2.5000  lr 1.00e-04",
        "train: step 2/40  loss 2.0000  lr 1.00e-04  1,234 tok/s",
        "checkpoint runs/a/checkpoint-2",
        "warning: slow disk",
        "gap: bytes 5 to 9 of log: the disk was full",
        "train: failed no memory (1m01s)",
    ]


def test_plain_lines_carry_the_events_own_time():
    line = JobView(plain=True).feed(event("step", name="train", state="RUNNING"))[0]
    assert line == f"[{MOMENT.astimezone():%H:%M:%S}] train: started"


def test_on_a_terminal_only_finished_things_are_lines_and_the_rest_is_status():
    view = JobView(plain=False)
    assert [re.sub(" +", " ", line) for line in run_through(view)] == [
        "queued: behind calm-elk-0001",
        "✓ download 3 files, 269.1 MB 9s",
        "checkpoint runs/a/checkpoint-2",
        "warning: slow disk",
        "gap: bytes 5 to 9 of log: the disk was full",
        "✗ train no memory 1m01s",
    ]


def test_the_status_is_never_blank_and_never_stale():
    view = JobView(plain=False)
    feed(view, event("state", state="QUEUED", reason={"code": "WAITING_FOR_DEVICE", "message": "behind\x1b[2J calm-elk"}))
    assert view.status() == ["⋯ behind calm-elk"]
    feed(view, event("state", state="RUNNING", reason=None), event("step", name="download", state="RUNNING"))
    assert view.status() == ["● download     starting"]
    for text, shown in (("", "downloading"), ("Fetching org/model", "Fetching org/model")):
        feed(view, event("phase", phase="downloading", text=text))
        assert view.status() == [f"● download     {shown}"]
    feed(view, event("progress", done=500, total=1000, unit="bytes", rate=None, eta_seconds=None))
    assert view.status() == ["● download     " + "█" * 10 + "░" * 10 + " 500 B / 1.0 kB"]
    feed(view, event("step", name="train", state="RUNNING"))
    assert view.status() == ["● train        starting"]
    feed(view, *(event("metric", step=step, total=40, values={"loss": 3.0 - step / 10}) for step in range(1, 5)))
    head, *curve = view.status()
    assert head == "● train        " + "█" * 2 + "░" * 18 + " step 4/40  loss 2.6000"
    assert len(curve) == 2
    view.link = moai.MoaiError("LINK_LOST", "the link broke")
    assert view.status() == ["⋯ the link is gone (the link broke); reconnecting. The job goes on."]


@quick
@given(
    st.sampled_from([None, 0.0, 5.0, -5.0, 1e308, math.nan, math.inf]), st.sampled_from([None, 0.0, 4.0, -4.0, 5e-324, math.nan]),
    st.sampled_from([None, 0.0, 1.5, math.nan, math.inf]), st.sampled_from([None, 0.0, 90.0, -3.0, math.nan, math.inf]), st.booleans(),
)  # fmt: skip
def test_no_figure_of_a_container_breaks_the_view(done, total, rate, eta, plain):
    view = JobView(plain=plain)
    figures = {"loss": math.nan, "learning_rate": math.inf, "eval_loss": -1e300, "tokens_per_second": math.nan}
    feed(view, event("step", name="train", state="RUNNING"))
    for unit in ("bytes", "steps", "", "\x1b[2J"):
        feed(view, event("progress", done=done, total=total, unit=unit, rate=rate, eta_seconds=eta))
        assert all(PLAIN_TEXT.fullmatch(line) and len(line) < 500 for line in view.status())
    feed(view, *[event("metric", step=step, total=None, values=figures) for step in (None, 1, 2, 3)])
    assert view.status()


def test_what_a_container_names_is_cleaned_everywhere_in_the_view(monkeypatch):
    bad = "x\x1b]0;t\x07\x1b[2J\u202ey"
    for plain in (True, False):
        view = JobView(plain=plain)
        reason = {"code": bad, "message": bad}
        lines = [
            *view.feed(event("state", state="QUEUED", reason=reason)), *view.status(),
            *view.feed(event("state", state="RUNNING", reason=None)),
            *view.feed(event("step", name=bad, state="RUNNING")), *view.status(),
            *view.feed(event("phase", phase=bad, text=bad)), *view.status(),
            *view.feed(event("progress", done=1.0, total=2.0, unit=bad, rate=1.0, eta_seconds=1.0)), *view.status(),
            *view.feed(event("message", text=bad, level=bad)), *view.feed(event("artifact", kind="checkpoint", path=bad)),
            *view.feed(event("gap", source=bad, start_offset=0, end_offset=1, text=bad)),
            *view.feed(event("step", name=bad, state="FAILED", reason=reason)), *view.feed(event("step", name=bad, state=bad)),
            *view.ending(info(id=bad, state="FAILED", reason=moai.Reason(bad, bad, bad), output=bad)),
        ]  # fmt: skip
        assert len(lines) > 10
        assert all(PLAIN_TEXT.fullmatch(line) and "\u202e" not in line for line in lines), lines


def test_a_job_of_one_command_is_told_by_its_log_and_its_end(monkeypatch):
    view = JobView(plain=True, quiet_commands=True)
    assert run_through(view) == [
        "queued: behind calm-elk-0001",
        "download: 500 B / 1.0 kB  100 B/s  ETA 5s",
        "checkpoint runs/a/checkpoint-2",
        "warning: slow disk",
        "gap: bytes 5 to 9 of log: the disk was full",
    ]


def test_a_running_jobs_phase_is_a_sentence_with_its_usual_range_and_where_it_was_seen():
    from moai._cli.jobs import _facts

    now = info(
        state="RUNNING", end_time=None, exit_code=None, phase="compiling", phase_text="compiling 18 candidates",
        phase_time=MOMENT, phase_usual=(1.0, 384.0, "runs in public guides"),
    )  # fmt: skip
    assert dict(_facts(now, {}))["phase"] == "compiling 18 candidates; usually 1s to 6m24s (runs in public guides)"
    held = info(state="RUNNING", end_time=None, exit_code=None, phase="waiting", phase_text="process 12345 holds it", phase_usual=None)
    assert dict(_facts(held, {}))["phase"] == "process 12345 holds it"
    assert "phase" not in dict(_facts(info(), {}))


def info(**changes) -> moai.JobInfo:
    """An ended job."""
    values = dict.fromkeys(moai.JobInfo.__dataclass_fields__, "") | {
        "host": "box", "id": "calm-owl-1234", "kind": "train", "state": "SUCCEEDED", "reason": None, "create_time": MOMENT,
        "start_time": MOMENT, "end_time": datetime.fromtimestamp(MOMENT.timestamp() + 125, timezone.utc), "exit_code": 0,
        "steps": (), "progress": None, "conditions": (), "pid": 0, "metrics": {}, "metrics_step": None, "losses": (),
        "last_sequence": 9, "log_bytes": 0,
    }  # fmt: skip
    return moai.JobInfo(**{**values, **changes})


def test_the_end_says_how_why_where_and_what_to_type():
    ended = JobView(plain=True).ending
    assert ended(info(output="/data/runs/a")) == [
        "SUCCEEDED calm-owl-1234 on box in 2m05s",
        "  output  /data/runs/a",
        "  next    moai remote generate calm-owl-1234 --prompt '...' --compare",
        "  next    moai remote pull calm-owl-1234",
    ]
    reason = moai.Reason("OUT_OF_MEMORY", "no memory", "--batch-size 4")
    assert ended(info(state="FAILED", exit_code=1, reason=reason)) == [
        "FAILED calm-owl-1234 on box in 2m05s, exit code 1",
        "  OUT_OF_MEMORY: no memory",
        "  next    --batch-size 4",
    ]
    assert ended(info(state="INTERRUPTED", exit_code=None, output="/o"))[-1] == "  next    moai remote resume calm-owl-1234"
    assert ended(info(state="UNKNOWN", exit_code=None))[-1] == "  next    moai remote logs calm-owl-1234"


def test_colours_mark_the_state_and_nothing_else(monkeypatch):
    monkeypatch.setattr(view_module, "has_colour", lambda plain: True)
    line = JobView(plain=False).ending(info(state="FAILED"))[0]
    assert line == "\x1b[31mFAILED\x1b[0m calm-owl-1234 on box in 2m05s"


# -- JSON lines ----------------------------------------------------------------------------------------


@quick
@given(st.binary(max_size=40) | st.text(max_size=20).map(lambda t: t.encode("utf-8", "replace")), st.lists(st.integers(0, 40), max_size=5))
def test_json_lines_of_a_log_lose_no_byte_and_split_no_character(data, cuts):
    edges = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    lines, rest = [], None
    for start, stop in itertools.pairwise(edges):
        whole, rest = _at_a_character(moai.LogChunk("box", "job", start, data[start:stop]), rest)
        lines += [log_line(whole)] if whole.data else []
    lines += [log_line(rest)] if rest is not None else []
    at = 0
    for line in lines:
        text, raw = line["data"]["text"], line["data"]["base64"]
        assert line["offset"] == at
        at += len(base64.b64decode(raw) if raw is not None else text.encode())
    assert at == len(data)
    try:
        assert "".join(line["data"]["text"] for line in lines) == data.decode()
        assert all(line["data"]["base64"] is None for line in lines)
    except UnicodeDecodeError:
        assert any(line["data"]["base64"] is not None for line in lines)

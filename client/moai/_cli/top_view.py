"""The screen of ``top`` on Textual: draws the model's lines, moves a cursor, passes keys on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input

import moai
from moai._cli.clean import clean, pad, width
from moai._cli.top_model import Model
from moai._cli.top_rows import SORTS, Row, rows
from moai._cli.top_text import HELP, KEYS, KEYS_SHORT, NARROWEST, Line, heading, layout, row, title

#: Something new is drawn at most this often; ages go on without anything new.
_TICK_S = 1.0
#: In the first seconds everything new is drawn at once, so that the picture is whole soon.
_FIRST_TICK_S = 0.1
_FIRST_S = 3.0
_HEAD = 2
_STYLES = {"": Style(), "dim": Style(dim=True), "bold": Style(bold=True)} | {
    name: Style(color=name) for name in ("green", "red", "yellow", "cyan")
}
_CURSOR = Style(reverse=True)


class Board(Widget):
    """The whole picture as lines; the only thing drawn. Keeps the cursor's row in sight."""

    can_focus = True

    def __init__(self, screen: TopApp) -> None:
        super().__init__(id="board")
        self.top = screen
        self.rows: list[Row] = []
        self.cursor: tuple[str, str] | None = None
        self.moved = False
        self.offset_rows = 0
        self.now = time.time()

    def update(self) -> None:
        """Take the model's rows as they are now."""
        self.now = time.time()
        self.rows = rows(self.top.model.hosts(), self.now, self.top.filter_text, self.top.sort)
        keys = [one.key for one in self.rows if one.key]
        # Until somebody moves it, the cursor waits for the first job to come.
        if self.cursor not in keys or not (self.moved or self.cursor[1]):
            self.cursor = next((key for key in keys if key[1]), keys[0] if keys else None)
        self._keep_in_sight()
        self.refresh()

    @property
    def room(self) -> int:
        """Lines for rows."""
        return max(1, self.size.height - _HEAD - 1)

    def at(self) -> int:
        """Index of the cursor's row; -1 when there is none."""
        return next((n for n, one in enumerate(self.rows) if one.key is not None and one.key == self.cursor), -1)

    def move(self, by: int) -> None:
        """Move the cursor over so many rows it can stand on."""
        stops = [n for n, one in enumerate(self.rows) if one.key]
        self.moved = True
        if stops:
            here = stops.index(self.at()) if self.at() in stops else 0
            self.cursor = self.rows[stops[max(0, min(len(stops) - 1, here + by))]].key
            self._keep_in_sight()
            self.refresh()

    def _keep_in_sight(self) -> None:
        at = self.at()
        self.offset_rows = min(self.offset_rows, max(0, len(self.rows) - self.room))
        if at >= 0:
            self.offset_rows = max(min(self.offset_rows, at), at - self.room + 1)

    def render_line(self, y: int) -> Strip:
        """One line of the terminal."""
        columns = self.size.width
        line, marked = self._line(y, columns)
        used, segments = 0, []
        for text, style in line:
            shown = _agreed(text)
            used += width(text)
            segments.append(Segment(shown, _STYLES.get(style, _STYLES[""]) + (_CURSOR if marked else Style())))
        blank = max(0, columns - used)
        segments.append(Segment(" " * blank, _CURSOR if marked else Style()))
        return Strip(segments, used + blank).crop(0, columns)

    def _line(self, y: int, columns: int) -> tuple[Line, bool]:
        form = layout(columns, self.rows)
        if y == self.size.height - 1:
            return self.top.footer(columns), False
        if y == 0:
            return title(self.top.model.hosts(), max(columns, NARROWEST), self.now, self.top.filter_text, self.top.sort), False
        if self.top.helping:
            return ([("  " + HELP[y - 2], "")] if 2 <= y < len(HELP) + 2 else []), False
        if y == 1:
            return heading(form), False
        at = y - _HEAD + self.offset_rows
        if at >= len(self.rows):
            return ([("  nothing fits the filter; esc shows all", "dim")] if not self.rows and self.top.filter_text and y == _HEAD else []), False
        one = self.rows[at]
        return row(one, form, self.now), one.key is not None and one.key == self.cursor


def _agreed(text: str) -> str:
    """The text with what the toolkit would measure otherwise replaced, so that no line is torn."""
    if text.isascii() or cell_len(text) == width(text):
        return text
    return "".join(c if cell_len(c) == width(c) else "?" * width(c) for c in text)


class TopApp(App[tuple[str, str]]):
    """The application. Ends with (host, job) when a job is to be attached, else None.

    Args:
        model: fed by somebody else. hosts: by name, for what keys do to jobs.
    """

    TITLE = "moai top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { background: ansi_default; color: ansi_default; }
    #board { height: 1fr; background: ansi_default; color: ansi_default; }
    #filter { dock: bottom; height: 1; border: none; padding: 0; background: ansi_default; color: ansi_default; display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit"),
        Binding("ctrl+c", "quit", priority=True),
        Binding("up", "move(-1)"),
        Binding("down", "move(1)"),
        Binding("pageup", "page(-1)"),
        Binding("pagedown", "page(1)"),
        Binding("home", "move(-1000000)"),
        Binding("end", "move(1000000)"),
        Binding("enter,a", "attach"),
        Binding("c", "ask_cancel"),
        Binding("k", "signal('checkpoint')"),
        Binding("s", "signal('stop')"),
        Binding("f,slash", "filter"),
        Binding("o", "sort"),
        Binding("question_mark", "help"),
        Binding("escape", "shut"),
        Binding("y", "yes"),
        Binding("n", "shut"),
    ]

    def __init__(self, model: Model, hosts: dict[str, Any]) -> None:
        super().__init__(ansi_color=True)
        self.model, self.moai_hosts = model, hosts
        self.filter_text, self.sort, self.helping = "", SORTS[0], False
        self.said: tuple[str, str] = ("", "")
        self.asked: tuple[str, str] | None = None
        self.board = Board(self)
        self._drawn_changes, self._drawn_s, self._start_s = -1, 0.0, time.monotonic()

    def compose(self) -> ComposeResult:
        """One board, and a line to type a filter into."""
        yield self.board
        yield Input(id="filter", placeholder="filter: words, host:NAME state:QUEUED; enter keeps it, esc shows all", select_on_focus=False)

    def on_mount(self) -> None:
        """First picture at once, from what was kept."""
        self.board.focus()
        self.board.update()
        self.set_interval(_FIRST_TICK_S, self._tick)

    def _tick(self) -> None:
        now, changes = time.monotonic(), self.model.changes
        is_new = changes != self._drawn_changes and now - self._start_s < _FIRST_S
        if is_new or now - self._drawn_s >= _TICK_S:
            self._drawn_changes, self._drawn_s = changes, now
            self.board.update()

    def on_resize(self, event: events.Resize) -> None:
        """The cursor stays in sight."""
        self.call_after_refresh(self.board.update)

    def footer(self, columns: int) -> Line:
        """What is asked, what was said last, or the keys."""
        if self.asked:
            return [(pad(f"cancel {self.asked[1]} on {self.asked[0]} and every process of it? y / n", columns), "yellow")]
        if self.said[0]:
            return [(pad(self.said[0], columns), self.said[1])]
        return [(pad(KEYS if columns >= width(KEYS) else KEYS_SHORT, columns), "dim")]

    def say(self, text: str, style: str = "") -> None:
        """Show a line at the bottom until the next key."""
        self.said = (clean(text), style)
        self.board.refresh()

    # -- keys ----------------------------------------------------------------------------------

    def on_key(self, event: events.Key) -> None:
        """Any key takes the last words away, and any but yes the question; what the key does comes after."""
        self.said = ("", "")
        if event.key != "y":
            self.asked = None
        self.board.refresh()

    def action_move(self, by: int) -> None:
        """Move the cursor."""
        self.board.move(by)

    def action_page(self, by: int) -> None:
        """Move it by a screen."""
        self.board.move(by * max(1, self.board.room - 1))

    def on_mouse_scroll_down(self) -> None:
        """As the arrow keys."""
        self.board.move(1)

    def on_mouse_scroll_up(self) -> None:
        """As the arrow keys."""
        self.board.move(-1)

    def on_click(self, event: events.Click) -> None:
        """Put the cursor on a row."""
        at = event.y - _HEAD + self.board.offset_rows
        if 0 <= at < len(self.board.rows) and self.board.rows[at].key:
            self.board.cursor, self.board.moved = self.board.rows[at].key, True
            self.board.refresh()

    def _chosen(self) -> tuple[str, str] | None:
        """(host, job) under the cursor; of a container with one job that has not ended, that one."""
        at = self.board.at()
        if at < 0:
            self.say("there is no row to act on")
            return None
        one = self.board.rows[at]
        if one.job:
            return (one.host.name, one.job.id)
        live = [job.id for job in one.host.jobs.values() if not job.ended]
        if len(live) == 1:
            return (one.host.name, live[0])
        self.say(f"{one.host.name}: {one.host.next}" if one.host.error and one.host.next else "move to a job first")
        return None

    def action_attach(self) -> None:
        """Leave and follow."""
        chosen = self._chosen()
        if chosen:
            self.exit(chosen)

    def action_ask_cancel(self) -> None:
        """Ask before a job is ended."""
        self.asked = self._chosen()
        self.board.refresh()

    def action_yes(self) -> None:
        """The answer to the question."""
        asked, self.asked = self.asked, None
        if asked:
            self._do(asked, "was asked to end", lambda job: job.cancel())

    def action_signal(self, name: str) -> None:
        """Checkpoint or stop."""
        chosen = self._chosen()
        if chosen:
            words = {"checkpoint": "was asked for a checkpoint", "stop": "was asked to save and end"}
            self._do(chosen, words[name], lambda job: getattr(job, name)())

    def _do(self, chosen: tuple[str, str], done: str, act: Callable[[Any], object]) -> None:
        """Act on a job in a thread: a host may be slow, the screen is not."""
        host, job = chosen
        self.say(f"asking {host} ...")

        def work() -> None:
            try:
                act(self.moai_hosts[host].job(job))
                text, style = f"{job} {done}", "green"
            except moai.MoaiError as error:
                text, style = f"{error.message} [{error.reason}]" + (f"  next: {error.next}" if error.next else ""), "red"
            self.call_from_thread(self.say, text, style)

        threading.Thread(target=work, name="moai-top-act", daemon=True).start()

    def action_filter(self) -> None:
        """Type a filter; it works while you type."""
        line = self.query_one("#filter", Input)
        line.display = True
        line.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter at once."""
        self.filter_text = event.value
        self.board.update()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the filter, give the keys back."""
        self._close_filter()

    def _close_filter(self) -> None:
        line = self.query_one("#filter", Input)
        line.display = False
        self.board.focus()
        self.call_after_refresh(self.board.update)

    def action_sort(self) -> None:
        """The next order."""
        self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]
        self.board.update()

    def action_help(self) -> None:
        """Show or hide the keys."""
        self.helping = not self.helping
        self.board.refresh()

    def action_shut(self) -> None:
        """Close what is open; then the filter goes."""
        if self.asked or self.helping:
            self.asked, self.helping = None, False
        elif self.filter_text or self.query_one("#filter", Input).display:
            self.query_one("#filter", Input).value = ""
            self._close_filter()
        self.board.refresh()

"""Follow a job on the screen or as JSON lines; Ctrl-C leaves it running and says how to come back."""

from __future__ import annotations

import base64
import sys
import threading
from dataclasses import replace
from typing import Any

import typer

import moai
from moai._cli.clean import LogCleaner
from moai._cli.common import has_colour, is_plain, note, print_json
from moai._cli.language import say
from moai._cli.screen import Screen
from moai._cli.view import JobView

EXIT_DETACHED = 130


def exit_code(info: moai.JobInfo, own: bool = False) -> int:
    """The exit code of an ended job (docs/exit-codes.md); with ``own`` the command's own."""
    if own and info.exit_code is not None:
        return info.exit_code
    return {"SUCCEEDED": 0, "FAILED": 3, "UNKNOWN": 6, "CANCELLED": 7, "INTERRUPTED": 8}.get(info.state, 6)


def has_own_log(info: moai.JobInfo) -> bool:
    """Whether a job's log is its own program's: then it is shown, else the events tell the same better."""
    return any(s.name == "command" for s in info.steps) or (info.kind == "train" and not info.output)


def follow(
    job: moai.Job, *, as_json: bool, plain: bool = False, after: int = 0, log: bool = True, own_code: bool = False
) -> None:
    """Follow until the job has ended, then leave with its exit code.

    Args:
        log: show the job's log (for JSON lines it is always there).
        own_code: leave with the command's own exit code.
    """
    if after > job.info.last_sequence:
        raise moai.Conflict(
            "SEQUENCE_OUT_OF_RANGE", f"job {job.id} has {job.info.last_sequence} events, not {after}", "name one of these, or 0 for all"
        )
    try:
        if as_json:
            _json_lines(job, after)
        else:
            _screen(job, plain, after, log)
    except KeyboardInterrupt:
        _detached(job, as_json)
        raise typer.Exit(EXIT_DETACHED) from None
    info = job.refresh()
    code = exit_code(info, own_code)
    if code:
        raise typer.Exit(code)


def _detached(job: moai.Job, as_json: bool) -> None:
    del as_json
    note("")
    text = "detached; {job} goes on. moai remote attach {job} comes back, moai remote cancel {job} ends it"
    note(say(text, job=job.id))


def _json_lines(job: moai.Job, after: int) -> None:
    rest: moai.LogChunk | None = None
    item: moai.Event | moai.LogChunk | None = None
    for item in job.stream(after=after):
        if isinstance(item, moai.Event):
            if rest is not None and item.is_last:
                print_json(log_line(rest))
            print_json(item.as_dict())
            continue
        whole, rest = _at_a_character(item, rest)
        if whole.data:
            print_json(log_line(whole))
    if rest is not None and not (isinstance(item, moai.Event) and item.is_last):
        print_json(log_line(rest))


def _at_a_character(chunk: moai.LogChunk, rest: moai.LogChunk | None) -> tuple[moai.LogChunk, moai.LogChunk | None]:
    """The chunk with what was held back before it, cut before an unfinished UTF-8 character."""
    if rest is not None:
        chunk = replace(chunk, offset=rest.offset, data=rest.data + chunk.data)
    data = chunk.data
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            need = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            if need > back:
                keep = len(data) - back
                return replace(chunk, data=data[:keep]), replace(chunk, offset=chunk.offset + keep, data=data[keep:])
            break
        if byte < 0x80:
            break
    return chunk, None


def log_line(chunk: moai.LogChunk) -> dict[str, Any]:
    """A piece of the log as a JSON line; ``base64`` only where the bytes are not UTF-8."""
    data: dict[str, Any]
    try:
        data = {"text": chunk.data.decode("utf-8"), "base64": None}
    except UnicodeDecodeError:
        data = {"text": chunk.data.decode("utf-8", "replace"), "base64": base64.b64encode(chunk.data).decode("ascii")}
    return {
        "host": chunk.host,
        "job": chunk.job,
        "offset": chunk.offset,
        "time": None,
        "step": "",
        "type": "log",
        "data": data,
    }


def _screen(job: moai.Job, plain: bool, after: int, log: bool) -> None:
    """Log on stdout, everything else in the status area (a terminal) or on stderr (a pipe)."""
    still = is_plain(plain)
    view = JobView(plain=still, quiet_commands=log)
    screen = Screen(view.status, enabled=not still)
    cleaner = LogCleaner(has_colour(plain)) if sys.stdout.isatty() else None

    def on_link(error: moai.MoaiError | None) -> None:
        view.link = error
        if still:
            gone = "the link is gone ({why}); reconnecting. The job goes on."
            note(say("the link is back") if error is None else say(gone, why=error.message))

    ticker = _Ticker(screen) if not still else None
    try:
        for item in job.stream(after=after, on_link=on_link) if log else job.events(after=after, on_link=on_link):
            if isinstance(item, moai.LogChunk):
                if cleaner is None:
                    sys.stdout.buffer.write(item.data)
                    sys.stdout.buffer.flush()
                else:
                    with _lock(ticker):
                        screen.write(cleaner.feed(item.data))
                continue
            with _lock(ticker):
                for line in view.feed(item):
                    _put(line, screen, still, log)
                screen.draw()
    finally:
        if ticker is not None:
            ticker.stop()
        if cleaner is not None:
            screen.write(cleaner.finish() if log else "")
        screen.close()
    for line in view.ending(job.refresh()):
        print(line, file=sys.stderr)


def _put(line: str, screen: Screen, still: bool, log: bool) -> None:
    if still:
        # With the log on stdout ours must not mix into it; without, ours is the result.
        print(line, file=sys.stderr if log else sys.stdout, flush=True)
    else:
        screen.line(line)


class _Ticker:
    """Redraws while nothing happens, so that clocks and the link's state are never stale."""

    def __init__(self, screen: Screen) -> None:
        self.lock = threading.Lock()
        self._screen, self._done = screen, threading.Event()
        self._thread = threading.Thread(target=self._run, name="moai-screen", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.wait(0.25):
            with self.lock:
                if not self._done.is_set():
                    self._screen.draw()

    def stop(self) -> None:
        self._done.set()
        self._thread.join(1.0)


def _lock(ticker: _Ticker | None) -> Any:
    import contextlib

    return ticker.lock if ticker is not None else contextlib.nullcontext()

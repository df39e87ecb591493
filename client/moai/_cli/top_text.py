"""The lines of ``top`` for a width in columns, by East Asian width; from 60 columns up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moai._cli.clean import clean, fit, pad, width
from moai._cli.curve import sparkline
from moai._cli.table import STATE_STYLE, duration, size
from moai._cli.top_model import DeviceRow, HostRow, JobRow
from moai._cli.top_rows import FRESH_S, Row, ago_text, trouble

NARROWEST = 60

#: Pieces of a line: text and a style of ``table.paint`` ("" = none).
Line = list[tuple[str, str]]

HELP = (
    "enter, a   attach: leave and follow the job",
    "c          cancel the job (asks first)",
    "k          save a checkpoint now (recipes)",
    "s          save and stop (recipes)",
    "f, /       filter: words, or host:NAME job:ID state:QUEUED; esc shows all again",
    "o          order of containers: host, state, load, eta",
    "up, down, page up, page down, home, end   move",
    "q          quit; jobs go on",
    "",
    "SEEN says how old a row is once it is older than 3 seconds.",
    "RATE is counted over the wall clock, not what a program prints about itself.",
)
KEYS = "enter attach  c cancel  k checkpoint  s stop  f filter  o order  ? help  q quit"
KEYS_SHORT = "a attach  c cancel  f filter  ? help  q quit"


@dataclass(frozen=True)
class Layout:
    """Columns of a job's line; 0 = not shown."""

    columns: int
    job: int
    name: int
    state: int
    doing: int
    curve: int
    loss: int
    eta: int
    rate: int
    seen: int = 7

    def cells(self) -> list[tuple[str, int]]:
        """(heading, columns) of what is shown, from left to right."""
        all_ = (
            ("JOB", self.job), ("NAME", self.name), ("STATE", self.state), ("DOING", self.doing), ("CURVE", self.curve),
            ("LOSS", self.loss), ("ETA", self.eta), ("RATE", self.rate), ("SEEN", self.seen),
        )  # fmt: skip
        return [(name, count) for name, count in all_ if count]


def layout(columns: int, rows: Sequence[Row] = ()) -> Layout:
    """What fits; JOB is as wide as the rows' ids, DOING takes what is left."""
    columns = max(NARROWEST, columns)
    job = min(18 if columns < 80 else 22, max([16, *(width(one.job.id) for one in rows if one.job)]))
    steps = ((200, 20, 40), (160, 18, 24), (120, 14, 16), (100, 0, 12), (80, 0, 8), (0, 0, 0))
    name, curve = next((n, c) for least, n, c in steps if columns >= least)
    state, loss = (11 if columns >= 100 else 9), (6 if columns >= 72 else 0)
    rate = 11 if columns >= 100 else 0
    fixed = [job, name, state, curve, loss, 6, rate, 7]
    doing = columns - 2 - sum(fixed) - sum(1 for c in fixed if c)
    return Layout(columns, job, name, state, doing, curve, loss, 6, rate)


def heading(form: Layout) -> Line:
    """Names of the columns."""
    return [("  " + " ".join(pad(name, count) for name, count in form.cells()), "dim")]


def title(hosts: Sequence[HostRow], columns: int, now: float, text: str, sort: str) -> Line:
    """The first line: how many of what, and what is left out."""
    jobs = [j for h in hosts if not h.error for j in h.jobs.values() if not j.ended]
    queued = sum(1 for j in jobs if j.state == "QUEUED")
    running = len(jobs) - queued
    away = [h for h in hosts if h.error]
    # What runs there is not known: it is counted apart.
    unseen = sum(1 for h in away for j in h.jobs.values() if not j.ended)
    parts = [f"moai top  {len(hosts)} host{'s' * (len(hosts) != 1)}", f"{running} running, {queued} queued"]
    line: Line = [("  ".join(parts), "bold")]
    if away:
        line.append((f"  {len(away)} without answer" + (f" ({unseen} job{'s' * (unseen != 1)})" if unseen else ""), "red"))
    if text:
        line.append((f"  filter {text}", "yellow"))
    if sort != "host":
        line.append((f"  by {sort}", "dim"))
    return _cut(line, columns)


def row(one: Row, form: Layout, now: float, plain: bool = False) -> Line:
    """One row, at most ``form.columns`` wide."""
    if one.kind == "job" and one.job is not None:
        return _job(one.job, one, form, plain)
    if one.kind == "note":
        return _cut([(("    " if one.job else "  ") + "! " + one.note, "yellow")], form.columns)
    room = form.columns - 2 - form.job - 1 - form.seen - 1
    seen = _seen(one)
    if one.kind == "device" and one.device is not None:
        mark = "*" if one.device.is_default else " "
        stale = "dim" if seen or one.host.error else ""
        return [(pad(f"  {mark}{one.device.id} {one.device.name}", form.job + 2) + " ", "dim"), (pad(_device(one.device, room, named=True), room), stale), (" " + seen, "yellow")]
    return _host(one, form, room, now)


def _host(one: Row, form: Layout, room: int, now: float) -> Line:
    wrong = trouble(one.host, now)
    busy = wrong.startswith("connecting")
    style = "dim" if busy else "red" if one.host.error else "yellow" if wrong else "green"
    line: Line = [("~ " if busy else "x " if one.host.error else "? " if wrong else "* ", style), (pad(clean(one.host.name), form.job), "bold"), (" ", "")]
    if wrong:
        # The sentence says when it was seen, so it may have that column too.
        return _cut([*line, (wrong, style)], form.columns)
    shown = _device(one.device, room) if one.device else "no device" if one.host.devices_s is not None and not one.host.devices else ""
    return [*line, (pad(shown, room), ""), (" " + _seen(one), "yellow")]


def _device(d: DeviceRow, room: int, named: bool = False) -> str:
    flavor = d.flavor or ("" if named else d.name or "?")
    load = f"load {d.load:.0f} %" if d.load is not None else "" if d.holder or d.used or d.percent else "idle"
    share = f"{d.percent:.0f} %" if d.percent is not None else ""
    if room < 45:
        return " ".join([pad(flavor.partition(".")[0], 11), pad(f"mem {share}" if share else "", 9), load]).rstrip()
    memory = f"{_gib(d.used)}/{_gib(d.total)} GiB" if d.used is not None and d.total else ""
    text = " ".join([pad(flavor, 16), pad(f"{memory} {share}".strip(), 20), pad(load, 10)])
    return (f"{text} {d.holder}" if d.holder and room >= 60 else text).rstrip()


def _gib(mib: int | None) -> str:
    value = (mib or 0) / 1024
    return f"{value:.0f}" if value >= 100 or value == 0 else f"{value:.1f}"


def _job(job: JobRow, one: Row, form: Layout, plain: bool) -> Line:
    old = one.age_s > FRESH_S
    texts = {
        "JOB": job.id,
        "NAME": job.name,
        "STATE": job.state,
        "DOING": _doing(job),
        "CURVE": "",
        "LOSS": _number(job.loss),
        "ETA": duration(job.eta_s) if job.eta_s is not None else "",
        "RATE": _rate(job),
        "SEEN": _seen(one),
    }
    if form.curve and job.curve:
        texts["CURVE"] = "".join(sparkline(job.curve, form.curve, 1, plain))
    styles = {"STATE": STATE_STYLE.get(job.state, ""), "SEEN": "yellow", "CURVE": "cyan"}
    line: Line = [("  ", "")]
    cells = form.cells()
    if not any(texts[name] for name in ("CURVE", "LOSS", "ETA", "RATE")):
        # Nothing to the right: a job that waits or has ended may say in full why.
        span = sum(c + 1 for name, c in cells if name in ("CURVE", "LOSS", "ETA", "RATE"))
        cells = [(name, c + span if name == "DOING" else c) for name, c in cells if name not in ("CURVE", "LOSS", "ETA", "RATE")]
    for name, columns in cells:
        style = "dim" if job.ended and name != "STATE" else styles.get(name, "")
        # Figures of a container that is away are dim: they were true.
        line.append((pad(texts[name], columns) + " ", "dim" if old and name not in ("SEEN", "JOB") else style))
    line[-1] = (line[-1][0][:-1], line[-1][1])
    return line


def _doing(job: JobRow) -> str:
    if job.ended:
        return job.why or job.command
    if job.waits:
        # Who is before it is what matters where there is little room; the state says that it waits.
        _, behind, who = job.waits.partition(" behind ")
        return f"behind {who}" if behind else job.waits
    text = [job.step if job.step != "command" else ""]
    if job.done is not None and job.total:
        if job.unit == "steps":
            text.append(f"{job.done:.0f}/{job.total:.0f}")
        else:
            text.append(f"{100 * job.done / job.total:.0f} %" + (f" of {size(job.total)}" if job.unit == "bytes" else ""))
    elif job.loss_step is not None:
        text.append(f"step {job.loss_step}")
    if job.phase and job.phase != job.step:
        text.append(job.phase)
    return " ".join(t for t in text if t) or job.command


def _rate(job: JobRow) -> str:
    if job.rate is None:
        return ""
    if job.rate_unit == "B":
        return f"{size(job.rate)}/s"
    unit = {"steps": "step", "rows": "row", "files": "file"}.get(job.rate_unit, job.rate_unit)
    return f"{_count(job.rate)} {unit}/s"


def _count(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}" if value < 100000 else f"{value / 1000:.0f}k"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if 0.001 <= abs(value) < 10000 or value == 0 else f"{value:.0e}"


def _seen(one: Row) -> str:
    """Seven columns at most: ``12s ago``, ``99m ago``."""
    if one.age_s <= FRESH_S:
        return ""
    count, unit, ago = ago_text(one.age_s).split()
    return f"{count}{unit[0]} {ago}"


def _cut(line: Line, columns: int) -> Line:
    """The line without what is past ``columns``."""
    found: Line = []
    for text, style in line:
        left = columns - sum(width(t) for t, _ in found)
        if left <= 0:
            break
        found.append((fit(text, left), style))
    return found


def plain_text(line: Line) -> str:
    """The line without styles."""
    return "".join(text for text, _ in line).rstrip()

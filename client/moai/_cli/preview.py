"""``moai remote prepare --preview N``: rows as the model would see them, for people and as JSON."""

from __future__ import annotations

import moai
from moai._cli.clean import clean
from moai._cli.common import has_colour, print_json
from moai._cli.follow import exit_code, follow
from moai._cli.start import announce
from moai._cli.table import paint

_TEXT = 1200
_IDS = 24


def show_preview(target: moai.Host, job: moai.Job, detach: bool, as_json: bool, plain: bool) -> None:
    """Wait for a preview job and print what it found; it ends as ``follow`` ends. Raises MoaiError."""
    if detach:
        announce(job, True, as_json)
        return
    if as_json:
        info = job.wait(check=False)
        if info.state != "SUCCEEDED":
            job.wait(check=True)  # Raises how it ended.
        print_json({"schema": "moai.preview/1", "host": target.name, "job": job.id, **target.previewed(job)})
        return
    try:
        follow(job, as_json=False, plain=plain, log=False)
    finally:
        if exit_code(job.info) == 0 and job.info.state == "SUCCEEDED":
            show_rows(job, plain)


def show_rows(job: moai.Job, plain: bool) -> None:
    """What an ended preview found: rows as text and ids, then the counts."""
    told, colour = job.host.previewed(job), has_colour(plain)
    samples = told["samples"]
    for number, one in enumerate(samples, 1):
        cut = f", cut at {told['block_size']}" if one["cut"] else ""
        print(paint(f"[{number}/{len(samples)}] {clean(one['file'])}, row {one['row']}: {one['count']:,} ids{cut}", "dim", colour))
        print(_shortened(clean(one["text"], newlines=True)))
        if one["prompt"] is not None:
            print(paint("  prompt, left out of the labels: ", "dim", colour) + _shortened(repr(clean(one["prompt"], newlines=False)[-60:])))
        shown = " ".join(f"{token!r}:{id_}" for token, id_ in zip(one["tokens"][:_IDS], one["ids"], strict=False))
        more = len(one["ids"]) - _IDS
        print(paint("  ids ", "dim", colour) + clean(shown, newlines=False) + (f" … {more:,} more" if more > 0 else ""))
    counts = " + ".join(f"{n:,} {split}" for split, n in told["rows"].items())
    print(f"{counts} rows; of {told['measured']:,} measured: mean {told['mean']:,.0f} ids, longest {told['longest']:,}")
    if told["packed"]:
        print(f"packed into rows of {told['block_size']:,}: nothing is cut")
    else:
        print(f"{100 * told['truncated_share']:.1f} % are longer than {told['block_size']:,} and would be cut")


def _shortened(text: str) -> str:
    return text if len(text) <= _TEXT else f"{text[: _TEXT // 2]} … {text[-_TEXT // 2 :]}"

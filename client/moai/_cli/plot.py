"""``moai remote plot``: loss curves of one or several jobs, as a picture or in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import moai
from moai._cli.common import On, Plain, columns, find_job, is_plain, note
from moai._cli.curve import chart

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def plot(
    job: Annotated[list[str], typer.Argument(metavar="JOB...", help="One or several jobs.")],
    on: On = "",
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="PNG, PDF or SVG; without it, the terminal.")] = "",
    plain: Plain = False,
) -> None:
    """Loss over training steps, from the jobs' own reports."""
    curves = [(one.info, losses(one)) for one in (find_job(name, on) for name in job)]
    empty = [info.id for info, points in curves if not points]
    if empty:
        raise moai.UsageError("USAGE", f"{', '.join(empty)} reported no loss", "name a training job")
    if not output:
        for info, points in curves:
            print(f"{info.id}  {info.command}")
            print("\n".join(chart(points, min(100, columns()), 10, is_plain(plain))))
        return
    picture(curves, Path(output))
    print(output)
    note(f"{len(curves)} curve(s)")


def losses(one: moai.Job) -> list[tuple[int, float]]:
    """Every (step, loss) the job has reported so far."""
    found = []
    for event in one.events(follow=False):
        if event.type == "metric" and event.data.get("step") is not None and "loss" in event.data["values"]:
            found.append((int(event.data["step"]), float(event.data["values"]["loss"])))
    return found


def picture(curves: list[tuple[moai.JobInfo, list[tuple[int, float]]]], path: Path) -> None:
    """Draw with matplotlib. Raises UsageError when it is not installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise moai.UsageError("USAGE", "pictures need matplotlib, which is not installed here", "pip install 'moai-remote[plot]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120)
    for info, points in curves:
        steps, values = zip(*points, strict=True)
        line: Any = axes.plot(steps, values, marker="o" if len(steps) < 60 else "", markersize=3, linewidth=1.2, alpha=0.9)
        line[0].set_label(f"{info.name or info.id} ({info.host})")
    axes.set_xlabel("training step")
    axes.set_ylabel("loss")
    axes.set_title(curves[0][0].command if len(curves) == 1 else "training loss")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)

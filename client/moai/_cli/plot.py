"""``moai remote plot``: loss curves of one or several jobs, as a picture or in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

import moai
from moai._cli.clean import clean
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
    """Loss over training steps, from the jobs' own reports; the evaluation loss too where there is one."""
    curves = [curve_of(find_job(name, on)) for name in dict.fromkeys(job)]
    empty = [one.info.id for one in curves if not one.train and not one.evaluation]
    if empty:
        raise moai.UsageError("USAGE", f"{', '.join(empty)} reported no loss", "name a training job")
    if not output:
        for one in curves:
            print(clean(f"{one.info.id}  {one.info.command}"))
            for label, points in (("", one.train), ("evaluation loss", one.evaluation)):
                if len(points) > 1 or (points and not one.train):
                    print("\n".join(([label] if label else []) + chart(points, min(100, columns()), 10, is_plain(plain))))
        return
    picture(curves, Path(output))
    print(output)
    note(f"{len(curves)} job(s), {sum(len(one.train) for one in curves):,} points")


class Curve(NamedTuple):
    """(step, loss) points of one job, steps ascending."""

    info: moai.JobInfo
    train: list[tuple[int, float]]
    evaluation: list[tuple[int, float]]


def curve_of(one: moai.Job) -> Curve:
    """Every loss the job has reported so far; of a step reported twice, the later one."""
    found: dict[str, dict[int, float]] = {"loss": {}, "eval_loss": {}}
    for event in one.events(follow=False):
        if event.type != "metric" or event.data.get("step") is None:
            continue
        for name, points in found.items():
            value = event.data["values"].get(name)
            if isinstance(value, (int, float)):
                points[int(event.data["step"])] = float(value)
    return Curve(one.info, sorted(found["loss"].items()), sorted(found["eval_loss"].items()))


def picture(curves: list[Curve], path: Path) -> None:
    """Draw with matplotlib: a colour a job, dashes for evaluation. Raises UsageError when it cannot."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise moai.UsageError("USAGE", "pictures need matplotlib, which is not installed here", "pip install 'moai-remote[plot]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120)
    try:
        for at, (info, train, evaluation) in enumerate(curves):
            colour, name = f"C{at % 10}", _plain(f"{info.name or info.id} ({info.host})")
            for points, style, mark, label in ((train, "-", "o", name), (evaluation, "--", "s", f"{name}, evaluation")):
                if points:
                    steps, values = zip(*points, strict=True)
                    shown = mark if len(steps) < 60 else ""
                    axes.plot(steps, values, style, color=colour, marker=shown, markersize=3, linewidth=1.2, alpha=0.9, label=label)
        axes.set_xlabel("training step")
        axes.set_ylabel("loss")
        title = _plain(curves[0].info.command) if len(curves) == 1 else "training loss"
        axes.set_title(title if len(title) <= 80 else title[:77] + "...", fontsize=11)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
        figure.tight_layout()
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise moai.UsageError("USAGE", f"{path} cannot be written: {error}", "-o loss.png") from error
    finally:
        plt.close(figure)


def _plain(text: str) -> str:
    """For a picture: matplotlib reads what stands between dollars as a formula."""
    return clean(text).replace("$", r"\$")

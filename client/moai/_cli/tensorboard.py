"""``moai remote tensorboard``: a job's event files here, and the laptop's own TensorBoard on them."""

from __future__ import annotations

import shutil
import subprocess
from typing import Annotated

import typer

import moai
from moai._cli.common import JobName, On, find_job, note, seconds
from moai._cli.table import size

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def tensorboard(
    job: JobName = "last",
    on: On = "",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of TensorBoard; 0 = any. [6006]")] = 6006,
    every: Annotated[str, typer.Option("--every", metavar="TIME", help="How often to look for more.")] = "10s",
    no_run: Annotated[bool, typer.Option("--no-run", help="Only fetch the event files; print their folder.")] = False,
) -> None:
    """Fetch a job's event files as they grow and run the laptop's tensorboard on them; Ctrl-C ends it."""
    pause_s = max(0.2, seconds(every, "--every"))
    program = shutil.which("tensorboard")
    if program is None and not no_run:
        raise moai.UsageError("USAGE", "tensorboard is not installed on this laptop", "pip install tensorboard, or --no-run fetches only")
    one = find_job(job, on)
    files = one.event_files()
    note(f"{size(files.pull())} new in {files.folder}")
    if no_run or program is None:
        print(files.folder)
        return
    with subprocess.Popen([program, "--logdir", str(files.folder), "--port", str(port)]) as child:
        try:
            _feed(child, one, files, pause_s)
        except KeyboardInterrupt:
            # The terminal sent it to tensorboard too.
            child.terminate()
        except BaseException:
            child.terminate()
            raise
    if child.returncode not in (0, -15, 130, -2):
        raise moai.MoaiError("COMMAND_FAILED", f"tensorboard ended with exit code {child.returncode}", f"{program} --logdir {files.folder}")


def _feed(child: subprocess.Popen[bytes], one: moai.Job, files: object, pause_s: float) -> None:
    """Fetch again and again until tensorboard ends; a broken link is told once, and tried again."""
    broken = ""
    ended = one.info.ended
    while True:
        try:
            child.wait(pause_s)
            return
        except subprocess.TimeoutExpired:
            if ended:
                continue
        try:
            # In this order: what was written before the end is fetched after it.
            ended = one.refresh().ended
            files.pull()  # type: ignore[attr-defined]
            broken = ""
        except moai.MoaiError as error:
            if error.message != broken:
                note(f"no news: {error.message}")
            broken = error.message

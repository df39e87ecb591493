"""``moai remote report``: a post-mortem of a job as one archive, without secrets, for support."""

from __future__ import annotations

from typing import Annotated

import typer

from moai._cli.common import JobName, Json, On, find_job, note, print_json
from moai._cli.table import size

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def report(
    job: JobName = "last",
    on: On = "",
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="Where; default moai-report-JOB-TIME.tar.gz here.")] = "",
    as_json: Json = False,
) -> None:
    """Write log, events, phases, versions and device table of a job into one archive, secrets taken out."""
    one = find_job(job, on)
    made = one.report(output)
    if as_json:
        print_json(
            {
                "schema": "moai.report/1",
                "host": one.host.name,
                "job": one.id,
                "path": str(made.path),
                "size_bytes": made.size_bytes,
                "files": list(made.files),
                "missing": [{"name": name, "message": why} for name, why in made.missing],
            }
        )
        return
    print(made.path)
    note(f"{size(made.size_bytes)}: {', '.join(made.files)}")
    for name, why in made.missing:
        note(f"! without {name}: {why}")
    note("secrets were replaced as far as they can be told; look through it before you send it (README.txt says what is in it)")

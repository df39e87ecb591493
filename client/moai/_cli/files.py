"""``moai remote push`` and ``pull``: files, verified, resumed, published whole."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

import moai
from moai._cli.clean import clean
from moai._cli.common import Json, On, find_job, host, hosts, is_plain, note, on_each, print_json, several, worst
from moai._cli.table import print_table, size

app = typer.Typer(rich_markup_mode=None, add_completion=False)


class _Meter:
    """One line of progress on standard error, ten times a second at most."""

    def __init__(self, quiet: bool) -> None:
        self.files: dict[str, int] = {}
        self._quiet = quiet or is_plain(False, sys.stderr)
        self._last_s = 0.0
        self._start_s = time.monotonic()

    def __call__(self, name: str, done: int, total: int) -> None:
        self.files[name] = done
        now = time.monotonic()
        if self._quiet or (now - self._last_s < 0.1 and done < total):
            return
        self._last_s = now
        rate = sum(self.files.values()) / max(0.001, now - self._start_s)
        sys.stderr.write(f"\r\x1b[K{clean(name)}  {size(done)} / {size(total)}  {size(rate)}/s")
        sys.stderr.flush()

    def close(self) -> str:
        if not self._quiet and self.files:
            sys.stderr.write("\r\x1b[K")
        return f"{len(self.files)} files, {size(sum(self.files.values()))}"


@app.command()
def push(
    source: Annotated[Path, typer.Argument(metavar="PATH", help="File or folder here.")],
    target: Annotated[str, typer.Argument(metavar="[THERE]", help="Path there; ~/NAME by default.")] = "",
    on: On = "",
    as_json: Json = False,
) -> None:
    """Copy a file or folder to a container; what is there already is not sent again."""
    if several(on):
        _push_each(source, target, on, as_json)
        return
    meter = _Meter(as_json)
    where = host(on)
    path = where.push(source, target or f"~/{source.resolve().name}", say=meter)
    said = meter.close()
    if as_json:
        print_json({"schema": "moai.push/1", "host": where.name, "path": path, "files": len(meter.files)})
        return
    print(clean(path))
    note(f"{said} to {where.name}")


def _push_each(source: Path, target: str, on: str, as_json: bool) -> None:
    """The same to several hosts at once: a row a host, or a document a line. Leaves with the worst exit code."""

    def one(where: moai.Host) -> tuple[str, int]:
        meter = _Meter(True)
        return where.push(source, target or f"~/{source.resolve().name}", say=meter), len(meter.files)

    rows, codes = [], []
    document: dict[str, object]
    for where, answer in on_each(hosts(on), one):
        if isinstance(answer, moai.MoaiError):
            codes.append(answer.exit_code)
            rows.append([where.name, clean(f"error: {answer.message}"), "-"])
            document = {"reason": answer.reason, "message": f"{where.name}: {answer.message}", "next": answer.next}
        else:
            rows.append([where.name, clean(answer[0]), str(answer[1])])
            document = {"schema": "moai.push/1", "host": where.name, "path": answer[0], "files": answer[1]}
        if as_json:
            print_json(document)
    if not as_json:
        print_table(["HOST", "PATH", "FILES"], rows, grow=1)
    if codes:
        raise typer.Exit(worst(codes))


@app.command()
def pull(
    source: Annotated[str, typer.Argument(metavar="JOB|PATH", help="A job (its results), or a path there.")],
    target: Annotated[Path, typer.Argument(metavar="[HERE]", help="Folder here.")] = Path(),
    on: On = "",
    only: Annotated[str, typer.Option("--only", metavar="WHAT", help="adapter, checkpoint (the newest), final, or a file pattern.")] = "",
    as_json: Json = False,
) -> None:
    """Copy a job's results, or any file or folder, to the laptop; an interrupted copy goes on."""
    meter = _Meter(as_json)
    left_out: list[moai.FileEntry] = []
    if source.startswith(("/", "~", "./", "../")):
        where = host(on)
        path = where.pull(source, target, only=only, say=meter, left_out=left_out)
    else:
        job = find_job(source, on)
        where = job.host
        path = job.pull(target, only=only, say=meter, left_out=left_out)
    said = meter.close()
    if as_json:
        document = {"schema": "moai.pull/1", "host": where.name, "path": str(path.absolute()), "files": len(meter.files)}
        document["left_out"] = {"files": len(left_out), "bytes": sum(entry.size_bytes for entry in left_out)}
        print_json(document)
        return
    print(path)
    note(f"{said} from {where.name}")
    if left_out:
        note(f"left out by --only {only}: {_groups(left_out)}")


def _groups(entries: list[moai.FileEntry]) -> str:
    """What stayed there, by the folder or file it is in: at most four, the largest first."""
    found: dict[str, list[int]] = {}
    for entry in entries:
        parts = entry.path.split("/")
        name = "/".join(parts[:2]) if parts[0].startswith("checkpoints") and len(parts) > 2 else parts[0]
        found.setdefault(name, []).append(entry.size_bytes)
    ranked = sorted(found.items(), key=lambda item: -sum(item[1]))
    shown = [f"{clean(name)} ({size(sum(sizes))})" for name, sizes in ranked[:4]]
    rest = len(ranked) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "") + f"; {size(sum(e.size_bytes for e in entries))} in all"

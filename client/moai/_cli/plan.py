"""``moai remote plan``: what training a model needs, each figure with its evidence."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

import moai
from moai._cli.clean import clean
from moai._cli.common import Env, Json, On, Plain, host, note, pairs, print_json
from moai._cli.settings import merge
from moai._cli.table import duration, print_table, size

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_LABELS = {
    "activations_checkpointed": "activations, gradient checkpointing",
    "accelerator": "accelerator, sum",
    "host_memory": "host memory",
    "disk": "disk, sum",
    "trained": "trained parameters",
}


@app.command()
def plan(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="Hub id, or a folder there. [moai.toml, --tutorial]")] = "",
    on: On = "",
    method: Annotated[str, typer.Option("--method", metavar="full|lora", help="What is trained. [full]")] = "",
    batch: Annotated[int, typer.Option("--batch", "--batch-size", min=1, help="Rows a step. [recommended]")] = None,  # type: ignore[assignment]
    seq: Annotated[int, typer.Option("--seq", "--block-size", min=2, help="Tokens a row. [1024]")] = None,  # type: ignore[assignment]
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows of the dataset: for hours and disk.")] = None,  # type: ignore[assignment]
    epochs: Annotated[float, typer.Option("--epochs", help="Passes over the data. [1]")] = None,  # type: ignore[assignment]
    revision: Annotated[str, typer.Option("--model-revision", metavar="REV", help="Branch, tag or commit. [main]")] = "",
    set_: Annotated[list[str], typer.Option("--set", metavar="K=V", help="A setting of the recipe, as train takes it.")] = [],  # noqa: B006
    tutorial: Annotated[str, typer.Option("--tutorial", metavar="NAME", help="Values of a tutorial.")] = "",
    env: Env = "",
    as_json: Json = False,
    plain: Plain = False,
) -> None:
    """What training a model needs: parameters, memory, disk, flavor, hours, and where each figure comes from."""
    project = moai.load_project()
    preset = moai.tutorial(tutorial) if tutorial else None
    flags: dict[str, Any] = {
        "model": model or None, "method": method or None, "batch_size": batch, "block_size": seq, "epochs": epochs,
        "model_revision": revision or None,
    }  # fmt: skip
    recipe, settings = merge(flags, pairs(set_, "--set"), project, preset)
    values = {name: one.value for name, one in recipe.items() if name not in ("dataset", "dataset_revision", "template", "output", "gpus")}
    wanted = values.pop("model", "")
    if not wanted:
        raise moai.UsageError("USAGE", "no model was given", "moai remote plan ORG/NAME")
    target = host(on or (project.host if project else "") or "")
    needs = target.estimate_training(
        wanted, rows=rows or (preset.rows if preset else 0), environment=env,
        settings={name: one.value for name, one in settings.items()}, **values,
    )  # fmt: skip
    if as_json:
        print_json(document(target.name, values.get("method") or "full", needs))
        return
    print(clean(f"{needs.model}{' at ' + needs.commit[:12] if needs.commit else ''} on {target.name}, {values.get('method') or 'full'}"))
    print_table(["FIGURE", "VALUE", "EVIDENCE", "FROM"], [row(figure) for figure in needs.figures], grow=3, plain=plain)
    print(clean(_has(needs)))
    for line in warnings(needs):
        note(line)


def document(host_name: str, method: str, needs: moai.TrainingNeeds) -> dict[str, Any]:
    """``moai.needs/1``."""
    return {
        "schema": "moai.needs/1",
        "host": host_name,
        "model": needs.model,
        "commit": needs.commit or None,
        "model_type": needs.model_type or None,
        "gated": needs.gated,
        "method": method,
        "figures": [
            {"name": f.name, "value": f.value, "unit": f.unit, "evidence": f.evidence, "text": f.text} for f in needs.figures
        ],
        "concerns": [{"code": c.code, "text": c.text} for c in needs.concerns],
        "recommended_flavor": needs.recommended_flavor or None,
        "recommended_batch_size": needs.recommended_batch_size or None,
        "guide_model": needs.guide_model or None,
        "device": {"provider": needs.provider or None, "flavor": needs.flavor or None, "memory_total_mib": needs.memory_total_mib},
        "disk": {"folder": needs.folder, "free_bytes": needs.free_bytes},
    }


def row(figure: moai.Figure) -> list[str]:
    """A line of the table."""
    return [_LABELS.get(figure.name, figure.name), amount(figure), figure.evidence, figure.text]


def amount(figure: moai.Figure) -> str:
    """The value with its unit."""
    if figure.value is None:
        return "-"
    if figure.unit in ("bytes", "flavor"):
        return size(figure.value)
    if figure.unit == "hours":
        return duration(figure.value * 3600)
    return f"{figure.value:,.0f}"


def warnings(needs: moai.TrainingNeeds) -> list[str]:
    """What will not do, and what to type; two lines each."""
    lines = []
    for concern in needs.concerns:
        lines.append(f"warning: {concern.text}")
        if concern.code == "FLAVOR_TOO_SMALL" and needs.recommended_flavor and needs.recommended_flavor != needs.flavor:
            lines.append(f"  next: {to_switch(needs, needs.recommended_flavor)}")
        elif concern.code == "FLAVOR_TOO_SMALL":
            lines.append("  next: a smaller --batch-size, --set gradient_checkpointing=true, or --method lora")
        elif concern.code == "DISK_TOO_SMALL":
            lines.append("  next: moai remote set NAME --work DIR takes another disk")
        elif concern.code == "HOST_MEMORY":
            lines.append("  next: a container with more memory, or a smaller model")
    return lines


def to_switch(needs: moai.TrainingNeeds, flavor: str) -> str:
    """What to add to ``moai remote train`` to get a flavor."""
    size_gb = re.search(r"\.(\d+)gb$", flavor.lower())
    if needs.provider == "ap-smi" and size_gb:
        return f"--setenv ACCELERATOR_PLATFORM_FLAVOR=flavor-default-{int(size_gb.group(1)) // 64} sets it for the job"
    return f"--flavor {flavor} switches before the start; every container of the token gets it too"


def _has(needs: moai.TrainingNeeds) -> str:
    memory = f" with {size(needs.memory_total_mib * 1024 * 1024)}" if needs.memory_total_mib else ""
    return f"there: {needs.flavor or needs.provider or 'no device'}{memory}; {size(needs.free_bytes)} free for {needs.folder}"

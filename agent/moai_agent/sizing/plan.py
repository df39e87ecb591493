"""Puts counts, bytes, the guide and what the container has into one list of figures. Pure.

Evidence of a figure: ``guide`` (a row of the vendor's table), ``arithmetic`` (a formula, named in the
text), ``no data``, or ``given`` for what was asked. Hours come from a guide row or not at all.
"""

from typing import List, NamedTuple, Optional, Tuple

from moai_agent.sizing import flavors, guide, memory
from moai_agent.sizing.memory import Memory, Step
from moai_agent.sizing.parameters import Counts, Shape, count, lora

GUIDE, ARITHMETIC, NO_DATA, GIVEN = "guide", "arithmetic", "no data", "given"
_MOAI = ("moreh-smi", "ap-smi")
#: Share of the memory that the platform's planner uses unless told otherwise.
_USABLE = 0.8
_GB = 1e9
_DEFAULT_BATCH = 8
#: int32 ids and an int8 mask in Arrow, int64 ids in the torch file.
_PREPARED_TOKEN_BYTES = 13


class Question(NamedTuple):
    """What is to be trained where.

    Attributes:
        shape: sizes of a known decoder, or None. stored_bytes: weights as stored (to download, or in
            the folder); None = unknown. stored_item: bytes of one stored parameter; 0 = unknown.
        index_bytes: total that the weights' own index names; None without one.
        download_bytes: what is not here yet. method: full or lora. batch, rows: None = not given.
        tokens: of a row. rank, targets: of LoRA. checkpointing: None = chosen by device.
        checkpoints: how many lie on disk at once; 0 = none are written.
        provider: moreh-smi, ap-smi, nvml, cpu. flavor, device_bytes: of the default device.
        host_bytes: memory of the host. free_bytes: where results go. bf16: None = by device.
    """

    shape: Optional[Shape]
    stored_bytes: Optional[int] = None
    stored_item: int = 0
    index_bytes: Optional[int] = None
    download_bytes: int = 0
    method: str = "full"
    batch: Optional[int] = None
    accumulation: int = 1
    tokens: int = 1024
    rows: Optional[int] = None
    epochs: float = 1.0
    steps: Optional[int] = None
    rank: int = 8
    targets: Optional[Tuple[str, ...]] = None
    checkpointing: Optional[bool] = None
    checkpoints: int = 0
    provider: str = ""
    flavor: str = ""
    device_bytes: Optional[int] = None
    host_bytes: Optional[int] = None
    free_bytes: Optional[int] = None
    bf16: Optional[bool] = None


class Figure(NamedTuple):
    """One number with its evidence; ``value`` None where there is no data. ``unit``: bytes, parameters,
    rows, hours or flavor (the value is then in ``text``)."""

    name: str
    value: Optional[float]
    unit: str
    evidence: str
    text: str


class Concern(NamedTuple):
    """Why it will not do as asked; ``code`` is FLAVOR_TOO_SMALL, DISK_TOO_SMALL or HOST_MEMORY."""

    code: str
    text: str


class Needs(NamedTuple):
    """The answer. ``flavor`` and ``batch``: recommended; empty and 0 where nothing can be said."""

    figures: List[Figure]
    concerns: List[Concern]
    flavor: str
    batch: int
    guide_model: str


def answer(question: Question) -> Needs:
    """What the training needs, figure by figure, and what of it the container lacks."""
    shape = question.shape
    if shape is None:
        return _unknown(question)
    counts = count(shape)
    trained = counts.total if question.method == "full" else lora(shape, question.rank, question.targets)
    name = guide.known_as(shape, counts.total)
    fitting = guide.rows_of(name, question.method, question.tokens)
    is_moai = question.provider in _MOAI or not question.provider
    row = _row(fitting, question)
    step = _step(question, 1)
    checkpointing = question.checkpointing if question.checkpointing is not None else is_moai
    batch, batch_why = _batch(question, shape, counts, step, trained or 0, checkpointing, row)
    # One pass has fewer rows with accumulation.
    step = step._replace(rows=max(1, (batch or _DEFAULT_BATCH) // max(1, question.accumulation)))
    used = memory.measure(shape, counts, step, trained or 0)
    figures = [_parameters(shape, counts), _trained(question, trained, counts)]
    figures += _device(question, shape, step, used, checkpointing, trained is None, row)
    figures += [_host(question, counts)]
    figures += _disk(question, counts.total, trained)
    needed = used.total(checkpointing)
    flavor, flavor_figure = _flavor(question, row, needed, is_moai)
    figures += [flavor_figure, batch_why, _hours(question, row, name, fitting, batch)]
    concerns = _concerns(question, figures, row, flavor, needed, is_moai)
    return Needs(figures, concerns, flavor, batch or 0, name or "")


def _row(fitting: List[guide.Row], question: Question) -> Optional[guide.Row]:
    """The present flavor's row where the guide has one, else the smallest flavor's."""
    if question.flavor:
        here = guide.pick(fitting, question.flavor, question.batch)
        if here is not None:
            return here
    return guide.pick(fitting, None, question.batch)


def _step(question: Question, rows: int) -> Step:
    is_moai = question.provider in _MOAI or not question.provider
    mixed = question.bf16 if question.bf16 is not None else question.provider != "cpu"
    if not mixed:
        precision = memory.FP32
    elif question.method == "lora" and not is_moai:
        precision = memory.BF16
    else:
        precision = memory.AUTOCAST
    return Step(question.method, precision, memory.EAGER if is_moai else memory.SDPA, rows, question.tokens)


def _batch(
    question: Question, shape: Shape, counts: Counts, step: Step, trained: int, checkpointing: bool, row: Optional[guide.Row]
) -> Tuple[Optional[int], Figure]:
    if question.batch is not None:
        return question.batch, Figure("batch", question.batch, "rows", GIVEN, "as asked")
    if row is not None:
        text = "%s on %s in the guide (%s)" % (row.model, row.flavor, guide.RELEASE)
        return row.batch, Figure("batch", row.batch, "rows", GUIDE, text)
    if question.device_bytes:
        room = question.device_bytes * _USABLE
        best = memory.largest_rows(shape, counts, step, trained, room, checkpointing)
        if best is not None:
            text = "the largest power of two within %d %% of the device" % round(100 * _USABLE)
            return best, Figure("batch", best, "rows", ARITHMETIC, text)
    return None, Figure("batch", None, "rows", NO_DATA, "figures are for %d rows" % _DEFAULT_BATCH)


def _parameters(shape: Shape, counts: Counts) -> Figure:
    parts = ["embeddings %s" % _short(counts.embeddings), "attention %s" % _short(counts.attention), "MLP %s" % _short(counts.mlp)]
    parts.append("norms and biases %s" % _short(counts.norms + counts.biases))
    parts.append("head tied" if shape.tied else "head %s" % _short(counts.head))
    return Figure("parameters", counts.total, "parameters", ARITHMETIC, "config.json (%s): %s" % (shape.model_type, ", ".join(parts)))


def _trained(question: Question, trained: Optional[int], counts: Counts) -> Figure:
    if question.method == "full":
        return Figure("trained", counts.total, "parameters", ARITHMETIC, "all of them")
    if trained is None:
        return Figure("trained", None, "parameters", NO_DATA, "unknown LoRA target")
    return Figure("trained", trained, "parameters", ARITHMETIC, "LoRA of rank %d" % question.rank)


def _device(
    question: Question, shape: Shape, step: Step, used: Memory, checkpointing: bool, no_adapter: bool, row: Optional[guide.Row]
) -> List[Figure]:
    where = "32-bit weights" if step.precision != memory.BF16 else "bf16 base, 32-bit adapter"
    copies = used.copies_checkpointed if checkpointing else used.copies
    if copies:
        where += ", and 16-bit copies of %s under autocast" % ("one layer and the head" if checkpointing else "all matrices")
    evidence = NO_DATA if no_adapter else ARITHMETIC
    figures = [
        Figure("weights", used.weights + copies, "bytes", ARITHMETIC, where),
        Figure("gradients", None if no_adapter else used.gradients, "bytes", evidence, "4 B a trained parameter"),
        Figure("optimizer", None if no_adapter else used.optimizer, "bytes", evidence, "AdamW: 8 B a trained parameter"),
        Figure("activations", used.activations, "bytes", ARITHMETIC, memory.formula(shape, step, False)),
        Figure("activations_checkpointed", used.checkpointed, "bytes", ARITHMETIC, memory.formula(shape, step, True)),
    ]
    text = "sum, %s gradient checkpointing" % ("with" if checkpointing else "without")
    if question.provider in _MOAI or not question.provider:
        text += ", all rows at once; the platform may split them, and hold several copies of the weights"
    if row is not None:
        text += "; %.1f GB measured for %s on %s with batch %d (%s)" % (
            row.vram_mib * 1024 * 1024 / _GB, row.model, row.flavor, row.batch, guide.RELEASE,
        )  # fmt: skip
    return figures + [Figure("accelerator", None if no_adapter else used.total(checkpointing), "bytes", evidence, text)]


def _host(question: Question, counts: Counts) -> Figure:
    is_moai = question.provider in _MOAI or not question.provider
    half = question.method == "lora" and not is_moai and (question.bf16 is not False) and question.provider != "cpu"
    item = 2 if half else 4
    return Figure("host_memory", counts.total * item, "bytes", ARITHMETIC, "the model is opened on the host: %d B a parameter" % item)


def _disk(question: Question, total: Optional[int], trained: Optional[int]) -> List[Figure]:
    download = question.download_bytes if question.stored_bytes is not None else None
    there = "as the Hub lists them" if download else "all of it is there already"
    figures = [Figure("download", download, "bytes", NO_DATA if download is None else ARITHMETIC, there if download is not None else "unknown size")]
    if question.rows:
        prepared: Optional[float] = float(question.rows) * question.tokens * _PREPARED_TOKEN_BYTES
        text = "%d rows x %d tokens x %d B (Arrow and the torch file)" % (question.rows, question.tokens, _PREPARED_TOKEN_BYTES)
        figures.append(Figure("dataset", prepared, "bytes", ARITHMETIC, text + "; the raw data set comes on top"))
    else:
        prepared = None
        figures.append(Figure("dataset", None, "bytes", NO_DATA, "say how many rows: --rows N"))
    saved = (total if question.method == "full" else trained) or 0
    known = (total if question.method == "full" else trained) is not None
    item = "the trained model in fp32: 4 B a parameter" if question.method == "full" else "the adapter in fp32"
    figures.append(Figure("output", saved * 4 if known else None, "bytes", ARITHMETIC if known else NO_DATA, item))
    kept = saved * (4 + memory.OPTIMIZER_BYTES) * question.checkpoints
    text = "%d x 12 B a trained parameter (one more than is kept)" % question.checkpoints if question.checkpoints else "none are written"
    figures.append(Figure("checkpoints", kept if known else None, "bytes", ARITHMETIC if known else NO_DATA, text))
    if known and download is not None:
        text = "sum" if prepared is not None else "sum, without the data set"
        figures.append(Figure("disk", download + (prepared or 0) + saved * 4 + kept, "bytes", ARITHMETIC, text))
    else:
        figures.append(Figure("disk", None, "bytes", NO_DATA, "parts of it are unknown"))
    return figures


def _flavor(question: Question, row: Optional[guide.Row], needed: int, is_moai: bool) -> Tuple[str, Figure]:
    if not is_moai:
        return "", Figure("flavor", None, "flavor", NO_DATA, "no MoAI accelerator here")
    if row is not None:
        text = "%s: %s, batch %d, %d MiB (%s)" % (row.flavor, row.model, row.batch, row.vram_mib, guide.RELEASE)
        return row.flavor, Figure("flavor", flavors.memory_bytes(row.flavor), "flavor", GUIDE, text)
    name = flavors.smallest(needed / _USABLE)
    if name is None:
        return "", Figure("flavor", None, "flavor", NO_DATA, "no flavor has %.0f GB" % (needed / _USABLE / _GB))
    text = "%s: the smallest whose %d %% hold the accelerator's %.1f GB" % (name, round(100 * _USABLE), needed / _GB)
    return name, Figure("flavor", flavors.memory_bytes(name), "flavor", ARITHMETIC, text)


def _hours(
    question: Question, row: Optional[guide.Row], name: Optional[str], fitting: List[guide.Row], batch: Optional[int]
) -> Figure:
    if row is None or not question.rows:
        if name is None:
            why = "the guide has no model of this family and size"
        elif question.method != "full":
            why = "the guide's rows of %s are full fine-tuning" % name
        elif not fitting:
            why = "the guide has no row of %s with %d tokens" % (name, question.tokens)
        elif row is None:
            why = "the guide has no row of %s with batch %d" % (name, batch or 0)
        else:
            why = "say how many rows: --rows N"
        return Figure("hours", None, "hours", NO_DATA, why)
    epochs = question.epochs
    if question.steps is not None:
        epochs = question.steps * float(row.batch) / question.rows
    text = "%s on %s, batch %d: %.0f min for %d rows, scaled by rows (%s); attaching and loading come on top" % (
        row.model, row.flavor, row.batch, row.minutes, row.rows, guide.RELEASE,
    )  # fmt: skip
    return Figure("hours", guide.hours(row, question.rows, epochs), "hours", GUIDE, text)


def _concerns(
    question: Question, figures: List[Figure], row: Optional[guide.Row], flavor: str, needed: int, is_moai: bool
) -> List[Concern]:
    found = []
    value = {figure.name: figure.value for figure in figures}
    have = question.device_bytes
    if have and value["accelerator"] is not None and question.provider != "cpu":
        if row is not None and flavors.devices(question.flavor) != flavors.devices(row.flavor):
            wanted = flavors.memory_bytes(row.flavor) or 0
            if have < wanted and have < row.vram_mib * 1024.0 * 1024.0:
                text = "%s is smaller than %s, where the guide ran %s with batch %d (%d MiB)" % (
                    question.flavor or "the device", row.flavor, row.model, row.batch, row.vram_mib,
                )  # fmt: skip
                found.append(Concern("FLAVOR_TOO_SMALL", text))
        elif row is None and needed > have * (_USABLE if is_moai else 1.0):
            text = "about %.1f GB are needed on the accelerator with all rows at once; %s has %.1f GB" % (
                needed / _GB, question.flavor or "the device", have / _GB,
            )  # fmt: skip
            found.append(Concern("FLAVOR_TOO_SMALL", text))
    disk, host = value.get("disk"), value.get("host_memory")
    if disk is not None and question.free_bytes is not None and disk > question.free_bytes:
        text = "about %.1f GB of disk are needed; %.1f GB are free" % (disk / _GB, question.free_bytes / _GB)
        kept = value.get("checkpoints")
        if kept:
            text += " (%.1f GB are for checkpoints; --set save_minutes=0 writes none by the clock)" % (kept / _GB)
        found.append(Concern("DISK_TOO_SMALL", text))
    if host is not None and question.host_bytes and host > question.host_bytes:
        text = "the model needs %.1f GB of host memory; the host has %.1f GB" % (host / _GB, question.host_bytes / _GB)
        found.append(Concern("HOST_MEMORY", text))
    return found


def _unknown(question: Question) -> Needs:
    """A model whose layout is not known: only what follows from the size of its weights."""
    why = "its config.json is of no layout this moai can count"
    size = question.index_bytes if question.index_bytes is not None else question.stored_bytes
    total = trained = None
    if size is not None and question.stored_item:
        total = size // question.stored_item
        source = "the weights' index" if question.index_bytes is not None else "the size of the weight files"
        text = "from %s: %d B at %d B a parameter; %s" % (source, size, question.stored_item, why)
        figures = [Figure("parameters", total, "parameters", ARITHMETIC, text)]
        trained = total if question.method == "full" else None
    else:
        figures = [Figure("parameters", None, "parameters", NO_DATA, why)]
    known = trained is not None
    evidence = ARITHMETIC if known else NO_DATA
    figures.append(Figure("trained", trained, "parameters", evidence, "all of them" if known else why))
    item = 4 if question.method == "full" else 2
    weights = None if total is None else total * item
    figures.append(Figure("weights", weights, "bytes", ARITHMETIC if weights else NO_DATA, "%d B a parameter" % item if weights else why))
    figures.append(Figure("gradients", trained * 4 if trained else None, "bytes", evidence, "4 B a trained parameter" if known else why))
    figures.append(Figure("optimizer", trained * 8 if trained else None, "bytes", evidence, "AdamW: 8 B a trained parameter" if known else why))
    for name in ("activations", "activations_checkpointed", "accelerator"):
        figures.append(Figure(name, None, "bytes", NO_DATA, why))
    host = None if total is None else total * 4
    figures.append(Figure("host_memory", host, "bytes", ARITHMETIC if host else NO_DATA, "4 B a parameter" if host else why))
    figures += _disk(question, total, trained)
    flavor = Figure("flavor", None, "flavor", NO_DATA, why)
    batch = Figure("batch", question.batch, "rows", GIVEN if question.batch else NO_DATA, "as asked" if question.batch else why)
    figures += [flavor, batch, Figure("hours", None, "hours", NO_DATA, "the guide has no model of this family and size")]
    needs = Needs(figures, [], "", question.batch or 0, "")
    return needs._replace(concerns=_concerns(question, figures, None, "", 0, False))


def _short(number: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return "%.2f%s" % (number / size, unit)
    return "%d" % number

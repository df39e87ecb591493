"""The vendor's public LLM parameter guide for MAF 24.5 as data, and when a row of it may be used.

Rows are full fine-tuning with advanced parallelization on. ``minutes`` is read as one epoch of the
tutorial's data set, which the printed step totals of the tutorials bear out. A row speaks for its own
model (type, vocabulary and size), flavor, batch and row length, and for nothing else: no interpolation,
no scaling but by the number of rows. Pure.
"""

from typing import List, NamedTuple, Optional

from moai_agent.sizing import flavors
from moai_agent.sizing.parameters import Shape

RELEASE = "MAF 24.5"
_TOLERANCE = 0.02


class Row(NamedTuple):
    """One measured run. ``rows``: rows of one epoch of the tutorial's data."""

    model: str
    flavor: str
    batch: int
    vram_mib: int
    minutes: float
    context: int
    rows: int


#: Name in the guide -> (model type, vocabulary, parameters).
_MODELS = {
    "Llama3 8B": ("llama", 128256, 8030261248),
    "Llama3 70B": ("llama", 128256, 70553706496),
    "Llama2 13B": ("llama", 32000, 13015864320),
    "Mistral 7B": ("mistral", 32000, 7241732096),
    "Qwen1.5 7B": ("qwen2", 151936, 7721324544),
    "Baichuan2 13B": ("baichuan", 125696, 13896668160),
    "Cerebras GPT 13B": ("gpt2", 50257, 12853386240),
}
_NEWS, _CODE, _SUPPORT, _EVOL = 287113, 18612, 26872, 26588

ROWS: List[Row] = [
    Row("Llama3 8B", "2xLarge.1024GB", 128, 867021, 220, 1024, _NEWS),
    Row("Llama3 8B", "4xLarge.2048GB", 256, 1366564, 140, 1024, _NEWS),
    Row("Llama3 8B", "8xLarge.4096GB", 1024, 2089476, 78, 1024, _NEWS),
    Row("Llama3 70B", "8xLarge.4096GB", 512, 3516969, 1440, 1024, _NEWS),
    Row("Llama2 13B", "2xLarge.1024GB", 128, 699751, 560, 1024, _NEWS),
    Row("Llama2 13B", "4xLarge.2048GB", 256, 1121814, 249, 1024, _NEWS),
    Row("Llama2 13B", "8xLarge.4096GB", 512, 1853432, 144, 1024, _NEWS),
    Row("Mistral 7B", "2xLarge.1024GB", 256, 762652, 19, 1024, _CODE),
    Row("Mistral 7B", "4xLarge.2048GB", 512, 1147841, 15, 1024, _CODE),
    Row("Mistral 7B", "8xLarge.4096GB", 1024, 1112135, 16, 1024, _CODE),
    Row("Qwen1.5 7B", "2xLarge.1024GB", 128, 758555, 30, 1024, _CODE),
    Row("Qwen1.5 7B", "4xLarge.2048GB", 256, 1403640, 15, 1024, _CODE),
    Row("Qwen1.5 7B", "8xLarge.4096GB", 512, 1899079, 14, 1024, _CODE),
    Row("Baichuan2 13B", "2xLarge.1024GB", 128, 866656, 30, 1024, _SUPPORT),
    Row("Baichuan2 13B", "4xLarge.2048GB", 256, 1541212, 28, 1024, _SUPPORT),
    Row("Baichuan2 13B", "8xLarge.4096GB", 512, 2845656, 17, 1024, _SUPPORT),
    Row("Cerebras GPT 13B", "4xLarge.2048GB", 16, 1764955, 81, 1024, _EVOL),
    Row("Cerebras GPT 13B", "8xLarge.4096GB", 32, 3460240, 62, 1024, _EVOL),
    Row("Cerebras GPT 13B", "8xLarge.4096GB", 16, 1951344, 100, 2048, _EVOL),
]


def known_as(shape: Shape, parameters: int) -> Optional[str]:
    """The guide's name of a model: same type and vocabulary, parameters within 2 %."""
    for name, (kind, vocab, known) in _MODELS.items():
        if (shape.model_type, shape.vocab) == (kind, vocab) and abs(parameters - known) <= _TOLERANCE * known:
            return name
    return None


def rows_of(name: Optional[str], method: str, context: int) -> List[Row]:
    """The rows that speak for a model trained this way; none for LoRA or another row length."""
    if name is None or method != "full":
        return []
    return [row for row in ROWS if row.model == name and row.context == context]


def pick(rows: List[Row], flavor: Optional[str], batch: Optional[int]) -> Optional[Row]:
    """The row for a flavor and a batch, each of them any when None; the smallest flavor first."""
    for row in rows:
        if flavor is not None and flavors.devices(row.flavor) != flavors.devices(flavor):
            continue
        if batch is not None and row.batch != batch:
            continue
        return row
    return None


def hours(row: Row, rows: int, epochs: float) -> float:
    """The row's time, scaled by rows alone."""
    return row.minutes / 60.0 * rows * epochs / row.rows


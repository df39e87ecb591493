"""Bytes of a training step: weights, gradients, optimizer, activations.

As the recipe trains (moai_worker.recipe): AdamW; full training keeps 32-bit weights, under bf16
autocast where the device has it; LoRA may keep a frozen base in bf16.

**Activations**, per token and layer, are what autograd keeps for the backward pass of a Hugging Face
decoder, with h hidden, A all query heads, f the MLP's width, a heads, s tokens a row, m bytes of a
matrix product's result (4, or 2 under bf16)::

    norms      2 * (4h + 4h)         the norm's input and its normalised value, in fp32
    inputs     (copies) * m * h      inputs of the projections; under autocast each makes its own
    attention  m * (2A + 2K)         query, key, value and the result; K all key heads (4A where they
                                     are repeated to all heads: without a fused kernel)
    scores     a * s * (4 or 6)      only where no fused attention kernel exists ("eager"), and once a
                                     causal mask of 4 * s
    MLP        4 * m * f             gate, its activation, up, their product

LoRA keeps neither the normalised values nor the inputs of frozen maps. The head adds logits and their
logarithms over the vocabulary V, and the loss's gradient in two steps: ``V * (m + 4 + 8)`` a token. With gradient
checkpointing only each layer's input stays, and one layer is there at a time. ``tests/worker`` checks
the formula against measured bytes of real models: within 8 % on torch 2.13 and transformers 5. Pure.
"""

from typing import NamedTuple, Optional

from moai_agent.sizing.parameters import Counts, Shape

#: Precisions: everything 32 bit; 32-bit weights under bf16 autocast; a bf16 base under autocast.
FP32, AUTOCAST, BF16 = "fp32", "autocast", "bf16"
SDPA, EAGER = "sdpa", "eager"

#: AdamW keeps two 4-byte values for a trained parameter.
OPTIMIZER_BYTES = 8
_FP32_BYTES = 4


class Step(NamedTuple):
    """What one training step processes.

    Attributes:
        method: ``full`` or ``lora``. precision: FP32, AUTOCAST or BF16 (LoRA only).
        attention: SDPA or EAGER. rows: rows of one forward pass. tokens: of a row.
    """

    method: str
    precision: str
    attention: str
    rows: int
    tokens: int


class Memory(NamedTuple):
    """Bytes on the accelerator; ``activations`` and ``copies`` without, the other two with gradient checkpointing."""

    weights: int
    copies: int
    copies_checkpointed: int
    gradients: int
    optimizer: int
    activations: int
    checkpointed: int

    def total(self, checkpointing: bool) -> int:
        """Everything at once: an upper bound, for gradients appear while activations go."""
        fixed = self.weights + self.gradients + self.optimizer
        return fixed + (self.copies_checkpointed + self.checkpointed if checkpointing else self.copies + self.activations)


def measure(shape: Shape, counts: Counts, step: Step, trained: int) -> Memory:
    """The bytes of a step.

    Args:
        trained: parameters that are trained (all, or the adapter's).
    """
    lora = step.method == "lora"
    base = 2 if step.precision == BF16 else _FP32_BYTES
    weights = counts.total * base + (trained * _FP32_BYTES if lora else 0)
    # Autocast keeps a 16-bit copy of every matrix until the backward pass has used it.
    head = shape.vocab * shape.hidden
    matrices = counts.matrices + (head if shape.tied else 0)
    copies = 2 * matrices if step.precision == AUTOCAST else 0
    one_layer = 2 * (head + (counts.attention + counts.mlp) // shape.layers) if copies else 0
    layer, head_bytes = layer_bytes(shape, step), _head_bytes(shape, step)
    tokens = step.rows * step.tokens
    kept = shape.hidden * (2 if step.precision == BF16 else 4)
    return Memory(
        weights=weights,
        copies=copies,
        copies_checkpointed=one_layer,
        gradients=trained * _FP32_BYTES,
        optimizer=trained * OPTIMIZER_BYTES,
        activations=tokens * (shape.layers * layer + head_bytes),
        checkpointed=tokens * (shape.layers * kept + layer + head_bytes),
    )


def layer_bytes(shape: Shape, step: Step) -> int:
    """Bytes a token that one layer keeps for the backward pass."""
    lora, m = step.method == "lora", 4 if step.precision == FP32 else 2
    family, h, wide = shape.family, shape.hidden, shape.attention_width
    if shape.model_type == "gpt2":
        norms = 2 * 4 * h  # LayerNorm is one operation: its input, and two numbers a row.
    else:
        norms = family.layer_norms * (4 * h if lora else 8 * h)
    attention = m * (4 * wide if step.attention == EAGER else 2 * wide + 2 * shape.kv_width)
    scores = shape.heads * step.tokens * (4 if step.precision == FP32 else 6) if step.attention == EAGER else 0
    if lora:
        targets = 1 if family.fused_qkv else 2
        inputs = h * (4 if step.precision == FP32 else 2 * targets)
        inner = family.mlp_tensors - 1
    else:
        qkv, mlp = (1 if family.fused_qkv else 3), (1 if family.fused_mlp or family.mlp_tensors != 4 else 2)
        inputs = 2 * 4 * h if step.precision == FP32 else (qkv + mlp) * 2 * h
        inner = family.mlp_tensors
    return norms + inputs + attention + scores + inner * m * shape.mlp


def _head_bytes(shape: Shape, step: Step) -> int:
    """Last norm, logits, their logarithms, and the gradients of both while the loss goes back."""
    m = 4 if step.precision == FP32 else 2
    mask = 4 * step.tokens if step.attention == EAGER else 0
    return mask + shape.vocab * (m + 4 + 8) + shape.hidden * (4 if step.method == "lora" else 8 + m)


def formula(shape: Shape, step: Step, checkpointing: bool) -> str:
    """The activations' formula with its numbers, for people."""
    layer, head = layer_bytes(shape, step), _head_bytes(shape, step)
    tokens = "%d x %d tokens" % (step.rows, step.tokens)
    how = "%s, %s attention" % (step.precision, step.attention)
    if checkpointing:
        kept = shape.hidden * (2 if step.precision == BF16 else 4)
        return "%s x (%d layers x %d B inputs + one layer of %d B + head %d B); %s" % (
            tokens, shape.layers, kept, layer, head, how,
        )  # fmt: skip
    return "%s x (%d layers x %d B + head %d B); %s" % (tokens, shape.layers, layer, head, how)


def largest_rows(shape: Shape, counts: Counts, step: Step, trained: int, room: float, checkpointing: bool) -> Optional[int]:
    """The largest power of two of rows whose step fits ``room`` bytes; None when not even one does."""
    best = None
    rows = 1
    while rows <= 1 << 16 and measure(shape, counts, step._replace(rows=rows), trained).total(checkpointing) <= room:
        best, rows = rows, rows * 2
    return best

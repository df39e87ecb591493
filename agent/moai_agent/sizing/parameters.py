"""Parameters of a decoder, counted from its ``config.json``.

Exact for the layouts listed in ``_FAMILIES``: token (and position) embeddings, attention with grouped
keys and values, gated or plain MLP, norms, biases, tied or separate heads. Everything else is refused
(``read_shape`` gives None): a guess would look like a count. Defaults that ``config.json`` may leave
out (a tied head, a bias) are those of the public model definitions. Pure.
"""

from typing import Any, Dict, NamedTuple, Optional, Tuple

_LARGEST = 1 << 40


class Family(NamedTuple):
    """What a model type fixes that its config need not say.

    Attributes:
        tied: the head is the embedding unless the config says otherwise.
        qkv_bias: query, key and value have biases. layer_norms: norms of width ``hidden`` a layer.
        head_norms: norms of width ``head_dim`` a layer. fused_qkv, fused_mlp: one matrix for all.
        mlp_tensors: tensors of the MLP's width that autograd keeps a layer (4 for a gated one).
        query: names of the matrices LoRA adapts unless told otherwise.
    """

    tied: bool = False
    qkv_bias: bool = False
    layer_norms: int = 2
    head_norms: int = 0
    fused_qkv: bool = False
    fused_mlp: bool = False
    mlp_tensors: int = 4
    query: str = "q_proj, v_proj"


_FAMILIES: Dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(head_norms=2),
    "gemma": Family(tied=True),
    "gemma2": Family(tied=True, layer_norms=4),
    "phi3": Family(fused_qkv=True, fused_mlp=True, query="qkv_proj"),
    "baichuan": Family(fused_qkv=True, query="W_pack"),
    "gpt2": Family(tied=True, qkv_bias=True, fused_qkv=True, mlp_tensors=5, query="c_attn"),
}
#: Types whose config may name a default that the file leaves out.
_HEAD_DIM = {"gemma": 256, "gemma2": 256, "qwen3": 128}


class Shape(NamedTuple):
    """The sizes that count.

    Attributes:
        model_type: as in the config. positions: learned position embeddings; 0 when there are none.
        mlp: inner width. biases: further bias parameters of one layer. tied: the head is the embedding.
    """

    model_type: str
    family: Family
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    positions: int
    biases: int
    tied: bool

    @property
    def attention_width(self) -> int:
        """All query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """All key heads together."""
        return self.kv_heads * self.head_dim


class Counts(NamedTuple):
    """Parameters by part; ``matrices`` are those of the layers' linear maps and a separate head."""

    embeddings: int
    attention: int
    mlp: int
    norms: int
    biases: int
    head: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)

    @property
    def matrices(self) -> int:
        """Weights that matrix products read: attention, MLP, a head of its own."""
        return self.attention + self.mlp + self.head


def read_shape(config: Dict[str, Any]) -> Optional[Shape]:
    """The sizes of a known decoder; None for an unknown type or a config that does not add up."""
    if not isinstance(config, dict):
        return None
    kind = config.get("model_type")
    family = _FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None or config.get("add_cross_attention"):
        return None
    tied = config.get("tie_word_embeddings")
    tied = family.tied if tied is None else bool(tied)
    if kind == "gpt2":
        return _gpt2(config, family, tied)
    sizes = [_whole(config, name) for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")]
    mlp = _whole(config, "intermediate_size")
    if None in sizes or mlp is None:
        return None
    vocab, hidden, layers, heads = [int(size or 0) for size in sizes]
    kv_heads = _whole(config, "num_key_value_heads") or heads
    if kind == "baichuan":
        kv_heads = heads
    head_dim = _whole(config, "head_dim") or _HEAD_DIM.get(str(kind)) or hidden // heads
    if heads % kv_heads or (not config.get("head_dim") and kind not in _HEAD_DIM and hidden % heads):
        return None
    biases = 0
    wide, narrow = heads * head_dim, kv_heads * head_dim
    if family.qkv_bias:
        biases += wide + 2 * narrow
    elif config.get("attention_bias") and not family.fused_qkv:
        biases += wide + 2 * narrow + hidden
    if config.get("mlp_bias") and kind == "llama":
        biases += 2 * mlp + hidden
    return Shape(str(kind), family, vocab, hidden, layers, heads, kv_heads, head_dim, mlp, 0, biases, tied)


def _gpt2(config: Dict[str, Any], family: Family, tied: bool) -> Optional[Shape]:
    names = (("vocab_size",), ("n_embd", "hidden_size"), ("n_layer", "num_hidden_layers"),
             ("n_head", "num_attention_heads"), ("n_positions", "max_position_embeddings", "n_ctx"))  # fmt: skip
    sizes = [next((found for found in (_whole(config, name) for name in group) if found), None) for group in names]
    if None in sizes:
        return None
    vocab, hidden, layers, heads, positions = [int(size or 0) for size in sizes]
    if hidden % heads:
        return None
    mlp = _whole(config, "n_inner") or 4 * hidden
    # Attention 3h + h, MLP f + h, and the shift of each of the two norms.
    biases = 4 * hidden + mlp + hidden + 2 * hidden
    return Shape("gpt2", family, vocab, hidden, layers, heads, heads, hidden // heads, mlp, positions, biases, tied)


def count(shape: Shape) -> Counts:
    """All parameters of a shape, by part."""
    family = shape.family
    wide, narrow = shape.attention_width, shape.kv_width
    gated = 3 if family.mlp_tensors == 4 else 2
    norms = shape.layers * (family.layer_norms * shape.hidden + family.head_norms * shape.head_dim) + shape.hidden
    last_shift = shape.hidden if shape.model_type == "gpt2" else 0
    return Counts(
        embeddings=(shape.vocab + shape.positions) * shape.hidden,
        attention=shape.layers * (2 * shape.hidden * wide + 2 * shape.hidden * narrow),
        mlp=shape.layers * gated * shape.hidden * shape.mlp,
        norms=norms,
        biases=shape.layers * shape.biases + last_shift,
        head=0 if shape.tied else shape.vocab * shape.hidden,
    )


def lora(shape: Shape, rank: int, targets: Optional[Tuple[str, ...]] = None) -> Optional[int]:
    """Parameters an adapter of this rank trains; None for a target this module does not know.

    Args:
        targets: names of linear maps; None: those the recipe chooses (query and value, or the fused
            projection).
    """
    h, wide, narrow, mlp = shape.hidden, shape.attention_width, shape.kv_width, shape.mlp
    sides = {
        "q_proj": h + wide, "k_proj": h + narrow, "v_proj": h + narrow, "o_proj": wide + h,
        "gate_proj": h + mlp, "up_proj": h + mlp, "down_proj": mlp + h,
    }  # fmt: skip
    if shape.family.fused_qkv:
        sides = {shape.family.query: h + wide + 2 * narrow}
    total = 0
    for name in targets or tuple(part.strip() for part in shape.family.query.split(",")):
        if name not in sides:
            return None
        total += sides[name]
    return shape.layers * rank * total


def _whole(config: Dict[str, Any], name: str) -> Optional[int]:
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _LARGEST:
        return None
    return value

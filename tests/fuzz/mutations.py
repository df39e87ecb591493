"""Seeded ways to spoil a valid sample: bytes, lines, and values of JSON. Standard library only.

The same seed gives the same inputs on every machine, so a failing number is replayable.
"""

import json
import random
from collections.abc import Sequence
from typing import Any

#: Values that programs forget.
_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, -(2**63) - 1, 10**400, 0.0, -0.0, 1e308, -1e308, float("nan"),
    float("inf"), float("-inf"), "", "\0", "a" * 3000, "\ud800", "\u202e", "\x1b]52;c;aGk=\x07", "../x", "/", [], [[]],
    [None], {}, {"": None}, {"type": "gap"}, "SUCCEEDED", "RUNNING", "NaN", "1e999", "0x7f",
]  # fmt: skip
_BYTES = [
    b"", b"\0", b"\n", b"\r", b"\r\n", b"\x1b[2K", b"\x1b]", b"\xff\xfe", b"\xed\xa0\x80", "\u2028".encode(), "é".encode()[:1], b"{", b"}", b"[" * 300,
    b'"', b"|", b"+--+", b"%s", b"-1", b"99999999999999999999", b"1e999", b"NaN", b"," * 50, b"=" * 50, b" " * 500, b"../", b"%", b"\\u",
]  # fmt: skip


def spoil(rng: random.Random, sample: bytes, others: Sequence[bytes] = ()) -> bytes:
    """One to six changes to ``sample``; ``others`` are spliced in."""
    data = bytearray(sample)
    for _ in range(rng.randint(1, 6)):
        _change(rng, data, others)
    return bytes(data[: 256 * 1024])


def _change(rng: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    at = rng.randint(0, len(data))
    size = min(len(data) - at, int(rng.expovariate(1 / 20.0)))
    kind = rng.randrange(9)
    if kind == 0 and data:
        position = rng.randrange(len(data))
        data[position] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[at : at + size]
    elif kind == 2:
        data[at:at] = data[at : at + size] * rng.randint(1, 5)
    elif kind == 3:
        data[at : at + size] = rng.choice(_BYTES)
    elif kind == 4:
        data[at:at] = rng.choice(_BYTES)
    elif kind == 5:
        del data[at:]
    elif kind == 6 and others:
        other = rng.choice(others)
        start = rng.randint(0, len(other))
        data[at:at] = other[start : start + rng.randint(0, 400)]
    elif kind == 7:
        _lines(rng, data)
    else:
        data[at : at + size] = bytes(rng.randrange(256) for _ in range(size))


def _lines(rng: random.Random, data: bytearray) -> None:
    """Swap, double or drop a line."""
    lines = bytes(data).split(b"\n")
    one, two = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(3)
    if kind == 0:
        lines[one], lines[two] = lines[two], lines[one]
    elif kind == 1:
        lines.insert(one, lines[two])
    else:
        del lines[one]
    data[:] = b"\n".join(lines)


def spoil_value(rng: random.Random, value: Any) -> Any:
    """The value with some of its parts replaced, dropped, doubled or renamed."""
    if rng.random() < 0.12:
        return rng.choice(_VALUES)
    if isinstance(value, dict):
        out = {}
        for key, inner in value.items():
            chance = rng.random()
            if chance < 0.05:
                continue
            out[rng.choice(["", "q", "type", "data", key + "x"]) if chance < 0.08 else key] = spoil_value(rng, inner)
        if rng.random() < 0.05:
            out[rng.choice(["t", "step", "state", "values", "reason", "extra"])] = rng.choice(_VALUES)
        return out
    if isinstance(value, list):
        out_list = [spoil_value(rng, inner) for inner in value if rng.random() > 0.05]
        return out_list * 2 if rng.random() < 0.05 else out_list
    if isinstance(value, str) and rng.random() < 0.2:
        return spoil(rng, value.encode()).decode("utf-8", "replace")
    return value


def spoil_json(rng: random.Random, value: Any) -> bytes:
    """A spoilt value as one line of JSON, now and then spoilt as bytes too."""
    try:
        text = json.dumps(spoil_value(rng, value), ensure_ascii=rng.random() < 0.5)
    except (TypeError, ValueError):
        text = "{}"
    data = text.encode("utf-8", "surrogatepass")
    return spoil(rng, data) if rng.random() < 0.2 else data

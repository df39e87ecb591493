"""Flavors of a MoAI accelerator: how much memory a name stands for.

From the platform's public flavor table (MI250 clusters): a flavor of G GB has G/64 devices of
65520 MiB. Names differ between sites (``4xLarge.2048GB``, ``4xlarge``, ``flavor-default-32``); where
the device table shows a total, that counts and not the name. Pure.
"""

import re
from typing import List, Optional, Tuple

MIB_PER_DEVICE = 65520
_MIB = 1 << 20

#: (name, devices), smallest first.
FLAVORS: List[Tuple[str, int]] = [
    ("Small.64GB", 1),
    ("Medium.128GB", 2),
    ("Large.256GB", 4),
    ("xLarge.512GB", 8),
    ("1.5xLarge.768GB", 12),
    ("2xLarge.1024GB", 16),
    ("3xLarge.1536GB", 24),
    ("4xLarge.2048GB", 32),
    ("6xLarge.3072GB", 48),
    ("8xLarge.4096GB", 64),
    ("12xLarge.6144GB", 96),
    ("24xLarge.12288GB", 192),
    ("48xLarge.24576GB", 384),
]


def size_word(name: str) -> str:
    """``4xLarge.2048GB`` and ``4xlarge`` are ``4xlarge``; ``1.5xLarge.768GB`` keeps its point."""
    return re.sub(r"\.\d+(?:\s*gb)?$", "", name.strip().lower())


def devices(name: str) -> Optional[int]:
    """Devices of a flavor; None for a name of no known catalogue."""
    default = re.match(r"flavor-default-(\d{1,4})$", name.strip().lower())
    if default:
        return int(default.group(1))
    word = size_word(name)
    return next((number for flavor, number in FLAVORS if size_word(flavor) == word), None)


def memory_bytes(name: str) -> Optional[int]:
    """Memory of a flavor."""
    number = devices(name)
    return None if number is None else number * MIB_PER_DEVICE * _MIB


def smallest(needed_bytes: float) -> Optional[str]:
    """The smallest flavor with that much memory; None when even the largest has less."""
    return next((name for name, number in FLAVORS if number * MIB_PER_DEVICE * _MIB >= needed_bytes), None)

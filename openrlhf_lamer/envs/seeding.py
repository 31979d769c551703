"""Random draws that are the same on every machine, in every process and Python version.

Of `random.Random`, only the sequence of `random()` is promised to stay as it is, so
everything drawn for a board is drawn from that.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import sha256
from typing import TypeVar

T = TypeVar("T")


def generator(*parts: str | int) -> random.Random:
    """A generator of its own for these `parts`: an environment's name, its options, a seed."""
    return random.Random(int.from_bytes(sha256(repr(parts).encode()).digest(), "big"))


def below(rng: random.Random, n: int) -> int:
    """A whole number from 0 to `n` - 1."""
    return int(rng.random() * n)


def choose(rng: random.Random, items: Sequence[T]) -> T:
    """One of `items`."""
    return items[int(rng.random() * len(items))]

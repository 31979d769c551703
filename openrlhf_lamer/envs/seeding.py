"""Random draws that are the same on every machine, in every process and Python version.

Python promises to keep only one sequence of `random.Random`, that of `random()`, so every draw
for a board is made from it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import sha256
from typing import TypeVar

T = TypeVar("T")


def generator(*parts: str | int) -> random.Random:
    """A generator that belongs to these `parts`: an environment's name, its options, a seed."""
    return random.Random(int.from_bytes(sha256(repr(parts).encode()).digest(), "big"))


def below(rng: random.Random, n: int) -> int:
    """A whole number from 0 to `n` - 1."""
    return int(rng.random() * n)


def choose(rng: random.Random, items: Sequence[T]) -> T:
    """One of `items`."""
    return items[int(rng.random() * len(items))]

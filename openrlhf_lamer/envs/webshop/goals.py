"""Goals and their split, from the original's rows.

The original draws prices from a generator that each worker seeds in its own way. Here every draw has
its own generator, named by the purpose of the draw: a product's price is the same in any process, with
any part of the catalogue loaded.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from openrlhf_lamer.envs.seeding import below, generator
from openrlhf_lamer.envs.webshop.scoring import comparable
from openrlhf_lamer.envs.webshop.shop import Goal, Product

UNLIMITED = 1_000_000.0
"""Price limit of a goal that names none."""

TEST, DEV = 500, 1000
"""Most goals of a held-out split."""


def drawn_price(asin: str, low: float, high: float) -> float:
    """The price of a product that is offered from `low` to `high`."""
    return low + (high - low) * generator("webshop", "price", asin).random()


def goals_of(product: Product, number: int, row: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Iterator[Goal]:
    """The goals written for a product.

    Args:
        product: The product.
        number: Its number.
        row: Its entry in the original's files: its list of `items_human_ins.json`, or its entry
            of `items_ins_v2.json`, which has a goal for each combination of options.
    """
    if not isinstance(row, Mapping):
        for written in row:
            text, wanted = written["instruction"].strip("."), [str(option) for option in written["instruction_options"]]
            limit = _price_limit(product, text)
            yield from _goal(product, number, text, limit, written["instruction_attributes"], wanted)
    elif row.get("instruction") is not None:
        names, limit = sorted(product.options), _price_limit(product)
        for values in itertools.product(*(product.options[name] for name in names)):
            pairs = list(dict(zip(names, values, strict=True)).items())
            asked = ", and ".join(f"{name}: {value}" for name, value in pairs)
            text = row["instruction"] + (f" with {asked}" if asked else "")
            yield from _goal(product, number, text, limit, row["instruction_attributes"], pairs)


def _price_limit(product: Product, *request: str) -> float:
    """The price limit of a request; without a request, of all generated goals of the product.

    As in the original, it is the higher one of two different limits, drawn once for each written request, but
    only once for all generated goals of a product.
    """
    limits = list(itertools.islice((10.0 * tens for tens in range(1, 100) if 10.0 * tens > product.price), 4))
    if len(limits) < 2:
        return UNLIMITED
    rng = generator("webshop", "limit", product.asin, *request)
    first = below(rng, len(limits))
    second = (first + 1 + below(rng, len(limits) - 1)) % len(limits)
    return limits[max(first, second)]


def _goal(
    product: Product,
    number: int,
    text: str,
    limit: float,
    attributes: Sequence[str],
    options: Sequence[str | tuple[str, str]],
) -> Iterator[Goal]:
    if not attributes:  # the original leaves these out
        return
    if limit != UNLIMITED:
        text += f", and price lower than {limit:.2f} dollars"
    yield Goal(number, text, tuple(attributes), tuple(map(comparable, options)), limit)


def ordered(goals: Sequence[Goal]) -> tuple[Goal, ...]:
    """The goals as the original shuffles them, so that a number means the same goal here and there."""
    shuffled = list(goals)
    random.Random(233).shuffle(shuffled)
    return tuple(shuffled)


def split(goals: Sequence[Goal]) -> dict[str, tuple[int, ...]]:
    """Numbers of the goals of each split: the original's splits, or a fifth each where there are few goals.

    The first 500 are `test`, the next 1000 `dev`, the rest `train`. A goal that is repeated in the same words, apart
    from the price, belongs to the first split that has it.
    """
    test = min(TEST, -(-len(goals) // 5))
    dev = min(DEV, len(goals) // 5)
    numbers: dict[str, list[int]] = {"test": [], "dev": [], "train": []}
    first: dict[tuple[object, ...], str] = {}
    for number, goal in enumerate(goals):
        place = "test" if number < test else "dev" if number < test + dev else "train"
        words = goal.instruction.rpartition(", and price lower than ")[0] or goal.instruction
        if first.setdefault((goal.product, words, goal.attributes, goal.options), place) == place:
            numbers[place].append(number)
    return {place: tuple(chosen) for place, chosen in numbers.items()}

"""Compilation of the original's rows to a shop.

`items` are rows of `items_shuffle.json`; `attributes` is `items_ins_v2.json`, by asin; `instructions` is
`items_human_ins.json`, by asin.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from hashlib import sha256
from typing import Any

from openrlhf_lamer.envs.base import TaskError
from openrlhf_lamer.envs.webshop.goals import drawn_price, goals_of, ordered
from openrlhf_lamer.envs.webshop.nouns import Tagger
from openrlhf_lamer.envs.webshop.ranking import Index, IndexBuilder
from openrlhf_lamer.envs.webshop.shop import Goal, Product

GET = "get WebShop's data again with its setup.sh (-d small or -d all), and give that folder as --data or WEBSHOP_DATA"
"""Remedy for missing or damaged data."""

NO_PRICE = 100.0
"""Dollars for a product without a price."""


@dataclass(frozen=True)
class Rows:
    """A catalogue in the original's form.

    Attributes:
        items: The products; read once.
        attributes: Attributes of each product, by asin.
        instructions: The goals written by people, by asin; None where goals come from `attributes`.
        source: Where the rows come from, for messages.
    """

    items: Iterable[Mapping[str, Any]]
    attributes: Mapping[str, Any]
    instructions: Mapping[str, Any] | None
    source: str


@dataclass(frozen=True)
class Compiled:
    """A shop without its products, which went to `keep` in the order of the rows.

    Attributes:
        numbers: The number of each kept product; numbers follow the asins.
        goals: The goals, in the original's order.
        index: The index.
        digest: Hash of products, their nouns and goals.
    """

    numbers: list[int]
    goals: tuple[Goal, ...]
    index: Index
    digest: str


def compile_rows(rows: Rows, nouns: Tagger, keep: Callable[[Product], None]) -> Compiled:
    """Read a catalogue through once, handing each product to `keep`.

    Raises:
        TaskError: A row cannot be read, or there are no products or no goals.
    """
    index, digest = IndexBuilder(), sha256()
    asins: list[str] = []
    goals: list[Goal] = []
    written, file = rows.instructions, "items_human_ins"
    if written is None:
        written, file = rows.attributes, "items_ins_v2"
    for product in read_products(rows, nouns):
        keep(product)
        index.add(product.indexed)
        try:
            goals += goals_of(product, len(asins), written.get(product.asin, ()))
        except (KeyError, TypeError, AttributeError) as error:
            raise _unreadable(rows, f"a goal of {product.asin} ({file})", error) from error
        asins.append(product.asin)
        digest.update(_dump(product.to_row()))
    if not asins:
        raise TaskError(
            f"webshop: the search index of {rows.source} is empty: there is not one product in it with an asin of "
            f"at most 10 characters; {GET}"
        )
    if not goals:
        raise TaskError(
            f"webshop: {rows.source} has no goals: {file} has none for any of its {len(asins)} products; {GET}"
        )
    numbers = [0] * len(asins)
    for number, place in enumerate(sorted(range(len(asins)), key=asins.__getitem__)):
        numbers[place] = number
    goals = [replace(goal, product=numbers[goal.product]) for goal in goals]
    for goal in goals:
        digest.update(_dump(goal.to_row()))
    return Compiled(numbers, ordered(goals), index.build(numbers), digest.hexdigest()[:16])


def read_products(rows: Rows, nouns: Tagger) -> Iterator[Product]:
    """The products of a catalogue, each asin once, as the original reads them."""
    seen: set[str] = set()
    for position, item in enumerate(rows.items):
        try:
            asin = str(item["asin"])
            if asin == "nan" or len(asin) > 10 or asin in seen:
                continue
            seen.add(asin)
            product = read_product(asin, item, rows.attributes.get(asin, {}), nouns)
        except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise _unreadable(rows, f"product {position}", error) from error
        yield product


def read_product(asin: str, item: Mapping[str, Any], described: Mapping[str, Any], nouns: Tagger) -> Product:
    """A product from its row and its entry of `items_ins_v2.json`."""
    bullets = item["small_description"]
    prices = [float(Decimal(re.sub(r"[^\d.]", "", part))) for part in (item.get("pricing") or "").split("$")[1:]]
    prices = prices[:2] or [NO_PRICE]
    options: dict[str, tuple[str, ...]] = {}
    for name, values in (item["customization_options"] or {}).items():
        if values is not None:
            options[name.lower()] = tuple(value["value"].strip().replace("/", " | ").lower() for value in values)
    return Product(
        asin=asin,
        name=_text(item["name"]),
        query=_text(item["query"]).lower().strip(),
        product_category=_text(item["product_category"]),
        description=_text(item["full_description"]),
        bullets=tuple(map(_text, bullets if isinstance(bullets, list) else [bullets])),
        options=options,
        attributes=tuple(map(_text, described.get("attributes", ["DUMMY_ATTR"]))),
        price=prices[0] if len(prices) == 1 else drawn_price(asin, *prices),
        price_tag=" to ".join(f"${price}" for price in prices),
        nouns=nouns(_text(item["name"])),
    )


def _unreadable(rows: Rows, what: str, error: Exception) -> TaskError:
    fault = f"it has no {error}" if isinstance(error, KeyError) else repr(error)
    return TaskError(f"webshop: {rows.source}: {what} is not in the form of WebShop's data: {fault}; {GET}")


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"

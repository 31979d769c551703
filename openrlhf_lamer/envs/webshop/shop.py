"""Contents of a shop: products, goals and an index. Immutable, and shared by all sessions of a process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

from openrlhf_lamer.envs.webshop.ranking import Index

GoalKind = Literal["human", "generated"]


@dataclass(frozen=True, eq=False)
class Product:
    """One product.

    Attributes:
        asin: The shop's code for it, as shown.
        name: Its title.
        query: The search term that it was filed under, in lower case.
        product_category: Its place in the shop's tree, parts separated by `›`.
        description: One text.
        bullets: Lines of the page "Features".
        options: Values to choose from, by the option's name, all in lower case.
        attributes: Properties by which purchases are judged; never shown.
        price: Dollars; drawn from the range where the shop names one.
        price_tag: The price as shown.
        nouns: The nouns of its name in lower case, repeated ones too.
    """

    asin: str
    name: str
    query: str
    product_category: str
    description: str
    bullets: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]]
    attributes: tuple[str, ...]
    price: float
    price_tag: str
    nouns: tuple[str, ...]

    def to_row(self) -> dict[str, Any]:
        """This product, JSON-ready."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Product:
        """The product of a row that `to_row` gave, also after it went through JSON."""
        options = {name: tuple(values) for name, values in row["options"].items()}
        listed = {name: tuple(row[name]) for name in ("bullets", "attributes", "nouns")}
        return cls(**{**row, **listed, "options": options})

    @property
    def indexed(self) -> str:
        """Text that a search looks in: name, description, first bullet and options."""
        options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in self.options.items())
        return " ".join((self.name, self.description, self.bullets[0] if self.bullets else "", options)).lower()

    @cached_property
    def values(self) -> tuple[str, ...]:
        """All values of all options, each once."""
        return tuple(dict.fromkeys(value for values in self.options.values() for value in values))


@dataclass(frozen=True, slots=True)
class Goal:
    """A request to buy something.

    Attributes:
        product: Number of the product it was written for.
        instruction: The request as the shopper reads it.
        attributes: Properties that the purchase must have.
        options: Options that must have been chosen, as `scoring.comparable` gives them.
        price_upper: Most dollars it may cost.
    """

    product: int
    instruction: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]
    price_upper: float

    def to_row(self) -> list[Any]:
        """This goal, JSON-ready."""
        return [self.product, self.instruction, self.attributes, self.options, self.price_upper]

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Goal:
        """The goal of a row that `to_row` gave, after it went through JSON."""
        product, instruction, attributes, options, price_upper = row
        return cls(product, instruction, tuple(attributes), tuple(options), price_upper)


@dataclass(frozen=True, eq=False)
class Shop:
    """A catalogue with its goals.

    Attributes:
        products: By number; numbers follow the asins.
        goals: By number, in the original's order.
        kind: Kind of the goals.
        splits: Numbers of the goals of `test`, `dev` and `train`.
        index: Search index over the products.
        digest: Hash of products, their nouns and goals: equal where tasks mean and score the same.
        tagger: Name of the tagger that found the nouns.
        origin: Name of the file that the products are from, or "synthetic".
        source: Where the catalogue lies on this machine, for messages.
    """

    products: Sequence[Product]
    goals: Sequence[Goal]
    kind: GoalKind
    splits: Mapping[str, Sequence[int]]
    index: Index
    digest: str
    tagger: str
    origin: str
    source: str

    @property
    def catalogue(self) -> str:
        """The catalogue as a task's spec names it: its digest, then a description in words."""
        what = f"{self.origin}, {len(self.products)} products, {self.kind} goals, nouns: {self.tagger}"
        return f"{self.digest} ({what})"

"""Score of a purchase, as in the original, from 0 to 1.

    score = type · (attributes met + options met + price met) / (attributes + options + 1)

`type` is 1 where the product was filed under the same query, shares two levels of the category
tree, or more than a fifth of the goal's nouns; ½ otherwise; but 0.1 where it shares less than a tenth of them,
and 0 where it shares none. Texts are compared by their sets of words, as `thefuzz.fuzz.token_set_ratio` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from openrlhf_lamer.envs.webshop.shop import Goal, Product

ALIKE = 85
"""Texts with a higher ratio count as the same."""

# The original's list, in its order: an option is judged by the first of these that it contains.
COLOURS = tuple(
    """
    alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel
    camo caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry
    cream crystal dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green
    grey heather indigo ivory ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot
    midnight mint mocha multicolor mushroom mustard natural navy nude olive orange peach pewter pink plum purple
    rainbow red rose royal rust sand sapphire seashell silver skull slate steel stone stonewash sunflower tan
    taupe teal tiger turquoise violet walnut wheat white wine yellow
    """.split()
)

_LATIN_1 = dict.fromkeys(range(128, 256))


@dataclass(frozen=True, slots=True)
class Score:
    """Judgement of a purchase.

    Attributes:
        type: Factor for the kind of product.
        attributes: Attributes of the goal that it has.
        options: Options of the goal that were chosen.
        price: Whether it is cheap enough.
        total: The score, from 0 to 1.
    """

    type: float
    attributes: int
    options: int
    price: bool
    total: float


def score(bought: Product, chosen: Iterable[str], goal: Goal, wanted: Product) -> Score:
    """Judge the purchase of a product with the values `chosen` for its options.

    Args:
        bought: The product.
        chosen: Values of its options.
        goal: The request.
        wanted: The product that the goal was written for.
    """
    comparables = [comparable(value) for value in chosen]
    attributes = sum(has(bought, attribute) for attribute in goal.attributes)
    options = sum(any(ratio(value, option) > ALIKE for value in comparables) for option in goal.options)
    price = bought.price <= goal.price_upper
    factor = type_factor(bought, wanted)
    total = (attributes + options + price) / (len(goal.attributes) + len(goal.options) + 1) * factor
    return Score(factor, attributes, options, price, total)


def type_factor(bought: Product, wanted: Product) -> float:
    """Closeness of a product to the wanted kind: 1, ½, 0.1 or 0."""
    shared = len(set(bought.nouns) & set(wanted.nouns)) / len(wanted.nouns) if wanted.nouns else 0.2
    if shared == 0:
        return 0.0
    if shared < 0.1:
        return 0.1
    levels = _levels(bought) & _levels(wanted)
    return 1.0 if bought.query == wanted.query or len(levels) >= 2 or shared > 0.2 else 0.5


def has(product: Product, attribute: str) -> bool:
    """Whether the product has the attribute: in its own list, or word for word in its texts."""
    return (
        any(ratio(own, attribute) > ALIKE for own in product.attributes)
        or attribute in product.name.lower()
        or attribute in " ".join(product.bullets).lower()
        or attribute in product.description.lower()
    )


@lru_cache(maxsize=1 << 12)
def comparable(option: str | tuple[str, str]) -> str:
    """An option in the form that is compared: the first colour in it, or itself. A pair is its name and its value."""
    return next((colour for colour in COLOURS if colour in option), str(option))


def ratio(one: str, other: str) -> int:
    """Likeness of two texts as sets of words, from 0 to 100; 0 where one has no words."""
    from rapidfuzz import fuzz, utils  # of the extra `webshop`

    one, other = (utils.default_process(text.translate(_LATIN_1)) for text in (one, other))
    return round(fuzz.token_set_ratio(one, other)) if one and other else 0


def _levels(product: Product) -> set[str]:
    return {level.strip() for level in product.product_category.split("›")}

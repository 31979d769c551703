"""A catalogue from a seed, in the original's form: no text in it was taken from a shop.

Each product depends on its position only, so a larger catalogue begins like a smaller one.
"""

from __future__ import annotations

import json
import random
import string
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from openrlhf_lamer.envs.seeding import below, choose, generator
from openrlhf_lamer.envs.webshop.compiling import Rows
from openrlhf_lamer.envs.webshop.shop import GoalKind
from openrlhf_lamer.envs.webshop.source import HUMAN

T = TypeVar("T")
Row = dict[str, Any]

DEFAULT_PRODUCTS = 1000

_DIGITS = string.digits + string.ascii_uppercase


@cache
def _words() -> dict[str, Any]:
    return tomllib.loads(files("openrlhf_lamer.envs.webshop").joinpath("words.toml").read_text("utf-8"))


def synthetic_rows(products: int, goals: GoalKind) -> Rows:
    """The first `products` products of the synthetic catalogue, with their goals."""
    made = [_product(position) for position in range(products)]
    return Rows(
        items=[item for item, _, _ in made],
        attributes={item["asin"]: described for item, described, _ in made},
        instructions={item["asin"]: written for item, _, written in made} if goals == "human" else None,
        source=f"the synthetic catalogue of {products} products",
    )


def write_files(folder: Path, products: int) -> None:
    """Write the catalogue as the original's three files."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = synthetic_rows(products, "human")
    files = {
        f"items_shuffle_{products}.json": rows.items,
        f"items_ins_v2_{products}.json": rows.attributes,
        HUMAN: rows.instructions,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _product(position: int) -> tuple[Row, Row, list[Row]]:
    """A product's row of each of the three files."""
    rng = generator("webshop", "product", position)
    words = _words()
    kind, brand = choose(rng, words["kinds"]), choose(rng, words["brands"]).replace("-", " ").replace("&", " & ")
    head = choose(rng, kind["heads"])
    traits = _sample(rng, kind["traits"], 3 + below(rng, 3))
    options = {
        (name.title() if below(rng, 5) == 0 else name): _in_order(rng, words["tables"][table])
        for name, table in kind["axes"].items()
        if below(rng, 8)
    }
    shown = traits[: 1 + below(rng, 2)]
    model = f"{choose(rng, string.ascii_uppercase)}{choose(rng, string.ascii_uppercase)}-{100 + below(rng, 900)}"
    bullets = [_bullet(rng, trait, head) for trait in traits]
    bullets += [f"{brand} {model}, sold with a two year guarantee."]
    asin = _asin(position)
    item = {
        "name": f"{brand} {' '.join(shown).title()} {head}, {model}",
        "asin": asin,
        "category": kind["department"],
        "query": kind["query"],
        "product_category": kind["path"],
        "full_description": _description(rng, brand, head, kind, traits),
        "small_description": _sample(rng, bullets, len(bullets)),
        "pricing": _pricing(rng, kind),
        "images": [f"https://shop.invalid/{asin}.jpg"],
        "customization_options": {name: [{"value": v} for v in values] for name, values in options.items()} or "",
    }
    asked = _sample(rng, traits, 1 + below(rng, 2))
    described = {
        "attributes": traits,
        "instruction": f"Show me {kind['query']} that are {' and '.join(asked)}",
        "instruction_attributes": asked,
    }
    return item, described, _written(rng, asin, head, traits, options)


def _written(rng: random.Random, asin: str, head: str, traits: list[str], options: dict[str, list[str]]) -> list[Row]:
    """Two to four requests that the product answers, no two the same."""
    requests: dict[str, Row] = {}
    for _ in range(2 + below(rng, 3)):
        asked = _sample(rng, traits, 1 + below(rng, 3))
        chosen = {name.lower(): choose(rng, values) for name, values in options.items() if below(rng, 4)}
        values = [value.replace("/", " | ") for value in chosen.values()]
        text = f"{choose(rng, _words()['openings'])} {head.lower()}, {', '.join(asked)}"
        if chosen:
            text += "; take " + " and ".join(f"{name} {value}" for name, value in zip(chosen, values, strict=True))
        requests[text] = {
            "asin": asin,
            "instruction": text + ".",
            "instruction_attributes": asked,
            "instruction_options": values,
        }
    return list(requests.values())


def _bullet(rng: random.Random, trait: str, head: str) -> str:
    form = choose(rng, ("{0}: what you expect of a {1}", "You get a {1} that is {0}", "{0} in every detail"))
    text = form.format(trait, head.lower())
    return text[0].upper() + text[1:] + "."


def _description(rng: random.Random, brand: str, head: str, kind: Row, traits: list[str]) -> str:
    opening = choose(rng, ("{0} builds this {1} to be {2}.", "This {1} by {0} is {2}.", "{2}: the {1} from {0}."))
    text = opening.format(brand, head.lower(), " and ".join(traits[:2]))
    return f"{text[0].upper()}{text[1:]} One of our {kind['query']}. {choose(rng, _words()['closings'])}".strip()


def _pricing(rng: random.Random, kind: Row) -> str:
    """A price, a range of prices, or sometimes none."""
    low, high = kind["prices"]
    price = low + (high - low) * rng.random() ** 2
    form = below(rng, 12)
    if form == 0:
        return ""
    return f"${price:.2f}" + (f"${price * (1.1 + rng.random()):.2f}" if form < 4 else "")


def _asin(position: int) -> str:
    """A number of ten characters; the prime spreads them, so that no two are the same."""
    number = (position * 2_654_435_761 + 1_234_567_891) % 36**8
    text = ""
    for _ in range(8):
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return "B0" + text


def _sample(rng: random.Random, items: Sequence[T], count: int) -> list[T]:
    """`count` different elements of `items`, in random order."""
    left = list(items)
    return [left.pop(below(rng, len(left))) for _ in range(min(count, len(left)))]


def _in_order(rng: random.Random, table: Sequence[str]) -> list[str]:
    """Two to five values of a table, in its order."""
    return sorted(_sample(rng, table, 2 + below(rng, 4)), key=table.index)

"""WebShop: scores of purchases by hand, and nouns."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from openrlhf_lamer.envs.webshop import nouns
from openrlhf_lamer.envs.webshop.scoring import comparable, has, ratio, score
from openrlhf_lamer.envs.webshop.shop import Goal, Product


def product(name: str = "", **fields: Any) -> Product:
    plain: dict[str, Any] = {
        "asin": "B000000000",
        "name": name,
        "query": "lamps",
        "product_category": "Home › Light",
        "description": "",
        "bullets": (),
        "options": {},
        "attributes": (),
        "price": 20.0,
        "price_tag": "$20.0",
        "nouns": nouns.bundled(name),
    }
    return Product(**{**plain, **fields})


class TestScores:
    """The formula by hand: type · (attributes + options + price) / (asked attributes + asked options + 1)."""

    def goal(self, attributes: tuple[str, ...] = (), options: tuple[str, ...] = (), limit: float = 30.0) -> Goal:
        return Goal(0, "", attributes, options, limit)

    def test_each_part_counts(self) -> None:
        lamp = product("Desk Lamp", attributes=("dimmable light",), bullets=("Folds flat",))
        goal = self.goal(("dimmable light", "folds flat", "heavy"), ("red", "large"))
        assert score(lamp, ["large", "bright red"], goal, lamp).total == (2 + 2 + 1) / 6
        assert score(lamp, ["small"], goal, lamp).total == (2 + 0 + 1) / 6
        dear = product("Desk Lamp", attributes=("dimmable light",), price=30.01)
        assert score(dear, [], goal, lamp).total == 1 / 6
        assert score(product("Desk Lamp", price=30.0), [], goal, lamp).total == 1 / 6

    @pytest.mark.parametrize(
        ("bought", "factor"),
        [
            (product("Sofa"), 0.0),  # no noun shared, whatever else fits
            (product("A B C D E F G H I J Lamp"), 1.0),
            (product("Lamp", query="chairs", product_category="x"), 1.0),  # a quarter of the nouns
            (product("Oak", query="chairs", product_category="x › Light"), 1.0),
        ],
    )
    def test_kinds_of_four_nouns(self, bought: Product, factor: float) -> None:
        wanted = product("Oak Desk Lamp Shade")
        assert score(bought, [], self.goal(), wanted).type == factor

    @pytest.mark.parametrize(
        ("shared", "query", "category", "factor"),
        [
            (2, "lamps", "x", 1.0),  # the same query
            (2, "chairs", "Light › Home › Desk", 1.0),  # two levels, in any order
            (2, "chairs", "Home", 0.5),  # a sixth of the nouns, and nothing else
            (3, "chairs", "Home", 1.0),  # a quarter
            (1, "lamps", "Home › Light", 0.1),  # a twelfth: too little even for the same query
        ],
    )
    def test_kinds_of_twelve_nouns(self, shared: int, query: str, category: str, factor: float) -> None:
        names = tuple(f"n{number}" for number in range(12))
        wanted = product(nouns=names)
        bought = product(nouns=names[:shared], query=query, product_category=category)
        assert score(bought, [], self.goal(), wanted).type == factor

    def test_repeated_and_missing_nouns(self) -> None:
        wanted = product(nouns=("set",) * 5 + ("of",))
        assert score(product(nouns=("set",), query="x", product_category=""), [], self.goal(), wanted).type == 0.5
        assert score(product(nouns=(), query="x"), [], self.goal(), product(nouns=())).type == 1.0
        assert score(product(nouns=(), query="x", product_category=""), [], self.goal(), product(nouns=())).type == 0.5

    def test_attributes_in_lists_and_texts(self) -> None:
        assert has(product(attributes=("easy to assemble",)), "easy assemble")
        assert not has(product(attributes=("easy assembly",)), "hard to lift")
        assert has(product("A Non-Stick Pan"), "non-stick")
        assert has(product(bullets=("Long", "lasting")), "long lasting"), "bullets are read as one text"
        assert has(product(description="Made of OAK"), "oak")

    def test_options_by_colour_and_words(self) -> None:
        assert comparable("dark navy blue") == "blue", "the first of the list, not of the text"
        assert comparable("12 oz") == "12 oz"
        assert comparable(("color", "red")) == "red"
        assert comparable(("color", "dark red")) == "('color', 'dark red')"
        assert ratio("('size', 'x-large')", "x-large") == 100
        assert ratio("12 oz", "13 oz") <= 85 < ratio("pack of 2, 12 oz", "12 oz (pack of 2)")
        assert ratio("", "") == ratio("!?", "x") == 0

    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("Fenwold Brass Desk Lamp with Clamp, 3 Pack", ("fenwold", "brass", "desk", "lamp", "clamp", "pack")),
            ("Women's running shoes, extremely light", ("women", "running", "shoes", "light")),
            ("100% of the 2-in-1", ()),
        ],
    )
    def test_bundled_tagger(self, name: str, found: tuple[str, ...]) -> None:
        assert nouns.bundled(name) == found

    def test_spacy_is_asked_where_it_is_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def load(name: str, disable: list[str]) -> Any:
            if name != "en_core_web_sm":
                raise OSError(name)
            return model

        def model(name: str) -> list[SimpleNamespace]:
            return [SimpleNamespace(text=word, pos_="PROPN" if word.istitle() else "ADJ") for word in name.split()]

        model.meta = {"version": "3.8.0"}  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
        label, tagger = nouns.best_tagger()
        assert (label, tagger("small Brass Lamp")) == ("spacy en_core_web_sm 3.8.0", ("brass", "lamp"))
        monkeypatch.setattr(nouns, "SPACY_MODEL", "not_downloaded")
        assert nouns.best_tagger() == ("bundled", nouns.bundled)
        monkeypatch.setitem(sys.modules, "spacy", None)
        assert nouns.best_tagger()[0] == "bundled"

"""WebShop: ranking, pages and scores as recorded from a checked engine, its data, and its tasks."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.envs import Task, TaskError, TextEnv, check_env, make
from openrlhf_lamer.envs.webshop import nouns
from openrlhf_lamer.envs.webshop.env import WebShop
from openrlhf_lamer.envs.webshop.goals import ordered, split
from openrlhf_lamer.envs.webshop.ranking import IndexBuilder, stored_length, words
from openrlhf_lamer.envs.webshop.scoring import comparable, has, ratio, score
from openrlhf_lamer.envs.webshop.session import Session
from openrlhf_lamer.envs.webshop.shop import Goal, Product
from openrlhf_lamer.envs.webshop.stemming import stem
from openrlhf_lamer.envs.webshop.stored import prepare
from openrlhf_lamer.policies.scripted import OraclePolicy, RandomPolicy
from openrlhf_lamer.records import Stop, Trial
from openrlhf_lamer.tasks import SEEDS

DATA = Path(__file__).parent / "data" / "webshop"
"""Fourteen rows in the original's form, written for these tests; and what was recorded on them."""

RECORDED: dict[str, Any] = json.loads((DATA / "ranking.json").read_text("utf-8"))
TRANSCRIPTS: list[dict[str, Any]] = json.loads((DATA / "transcripts.json").read_text("utf-8"))


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:8]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> WebShop:
    """The small catalogue, prepared."""
    folder = tmp_path_factory.mktemp("small") / "data"
    copy_data(folder)
    prepare(folder, None, "human")
    return shop_env(data=str(folder), goals="human")


@pytest.fixture
def synthetic() -> WebShop:
    return shop_env(data="synthetic")


def shop_env(**options: Any) -> WebShop:
    env = make("webshop", **options)
    assert isinstance(env, WebShop)
    return env


def copy_data(folder: Path) -> Path:
    folder.mkdir()
    for file in DATA.glob("items_*.json"):
        shutil.copy(file, folder)
    return folder


def goal_task(env: WebShop, goal: int) -> Task:
    return Task("webshop", spec={"goal": goal, "catalogue": env.shop.catalogue})


class TestRanking:
    """Against 400 documents and 500 queries made of words that are hard to tell apart, or to stem."""

    @staticmethod
    def text(name: str, number: int, longest: int) -> str:
        rng, listed = random.Random(f"{name} {number}"), RECORDED["words"].split(" ")
        return " ".join(listed[int(rng.random() ** 1.6 * len(listed))] for _ in range(1 + int(rng.random() * longest)))

    def test_top_tens(self) -> None:
        documents = [self.text("document", number, 90 if number % 7 else 12) for number in range(400)]
        documents[50:60] = [documents[49]] * 10  # equal scores
        shuffled = list(range(400))
        random.Random(0).shuffle(shuffled)
        builder = IndexBuilder()
        for number in shuffled:
            builder.add(documents[number])
        index = builder.build(shuffled)
        found = [index.search(self.text("query", number, 7)) for number in range(500)]
        assert [",".join(map(str, top[:10])) for top in found] == RECORDED["top"]
        assert max(map(len, found)) == 50

    def test_stems(self) -> None:
        pairs = [pair.split(":") for pair in RECORDED["stems"].split(" ")]
        assert len(pairs) > 1400
        assert [[word, stem(word)] for word, _ in pairs] == pairs

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("The Women's SHOES, size 7.5!", ["women", "shoe", "size", "7.5"]),
            ("don't stop: U.S.A. 1,000-2,000", ["don't", "stop", "u.s.a", "1,000", "2,000"]),
            ("x_y __ a_ _", ["x_y", "a_"]),
            ("漢字ひら カタカナ", ["漢", "字", "ひ", "ら", "カタカナ"]),
            ("to be, or not to be", []),
        ],
    )
    def test_words(self, text: str, expected: list[str]) -> None:
        assert words(text) == expected

    def test_lengths_in_one_byte(self) -> None:
        stored = [stored_length(length) for length in range(100_000)]
        assert stored[:41] == list(range(41))
        assert (stored[41], stored[55], stored[56], stored[57], stored[1000]) == (40, 54, 56, 56, 984)
        assert len(set(stored)) <= 256
        assert all(kept <= length for length, kept in enumerate(stored))

    def test_nothing_found(self, synthetic: WebShop) -> None:
        synthetic.reset(Task("webshop", seed=0))
        assert "Page 1 (Total results: 0)" in synthetic.step("search[zzyzx]").observation.text
        assert synthetic.step("search[ ]").observation.text.endswith("Page 1 (Total results: 0) [SEP] Next >")


class TestPages:
    @pytest.mark.parametrize("entry", TRANSCRIPTS, ids=range(len(TRANSCRIPTS)))
    def test_recorded_episodes(self, small: WebShop, entry: dict[str, Any]) -> None:
        first = small.reset(goal_task(small, entry["goal"]))
        assert digest(first.text) == entry["first"]
        for action, page, *scores in entry["steps"]:
            step = small.step(action)
            assert digest(step.observation.text) == page, action
            assert step.terminated == bool(scores)
            assert step.info["task_score"] == (scores[0] if scores else 0.0)

    def test_a_purchase_page_by_page(self, small: WebShop) -> None:
        request = "I need a brass desk lamp that can be dimmed, and price lower than 80.00 dollars"
        first = small.reset(goal_task(small, 2))
        assert first.text == f"WebShop [SEP] Instruction: [SEP] {request} [SEP] Search"
        assert first.admissible == ()
        results = small.step("search[Lamp]").observation
        assert results.text.startswith(
            f"Instruction: [SEP] {request} [SEP] Back to Search [SEP] Page 1 (Total results: 12) [SEP] Next > [SEP] B0"
        )
        assert results.text.count("[SEP] B0000000") == 10
        assert results.admissible[:2] == ("click[back to search]", "click[next >]")
        assert len(results.admissible) == 12
        second = small.step("click[Next >]").observation
        assert " [SEP] < Prev [SEP] Next > [SEP] B0" in second.text
        assert len(second.admissible) == 3 + 2
        small.step("click[next >]")
        small.step("click[next >]")
        beyond = small.step("click[next >]").observation
        assert beyond.text.endswith("Page 5 (Total results: 12) [SEP] < Prev [SEP] Next >")
        small.step("search[brass]")
        page = small.step("click[b000000012]").observation
        assert page.text.endswith(
            "< Prev [SEP] color [SEP] antique brass [SEP] matte black [SEP] plug [SEP] eu | uk [SEP] us [SEP] "
            "Fenwold Brass Desk Lamp with Clamp [SEP] Price: $42.5 [SEP] Rating: N.A. [SEP] "
            "Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
        )
        details = small.step("click[features]").observation
        assert details.text.endswith("< Prev [SEP] Dimmable light [SEP] Solid brass arm [SEP] Cord of 2.5 metres")
        assert details.admissible == ("click[back to search]", "click[< prev]")
        assert small.step("click[< prev]").observation == page
        assert small.step("click[reviews]").observation.text.endswith("Back to Search [SEP] < Prev")
        small.step("click[< prev]")
        small.step("click[EU | UK]")
        assert small.step("click[antique brass]").observation == page
        receipt = small.step("click[buy now]")
        assert '[SEP] {"color": "antique brass", "plug": "eu | uk"} [SEP]' in receipt.observation.text
        assert receipt.observation.text.endswith("(min 0.0, max 1.0) [SEP] 1.0 [SEP] Reward Details [SEP] None")
        assert (receipt.won, receipt.reward, receipt.observation.admissible) == (True, 10.0, ())

    def test_leaving_the_product_drops_the_options(self, small: WebShop) -> None:
        small.reset(goal_task(small, 2))
        small.step("search[brass]")
        small.step("click[b000000012]")
        plain = small.anchor()
        small.step("click[us]")
        chosen = small.anchor()
        assert plain != chosen, "what was chosen is part of the state, though no page shows it"
        small.step("click[features]")
        small.step("click[< prev]")
        assert small.anchor() == chosen
        small.step("click[< prev]")
        small.step("click[b000000012]")
        assert small.anchor() == plain

    @pytest.mark.parametrize(
        "action",
        ["", "buy now", "click[]", "search[]", "click[search]", "click[b000000012]", "Click[x]", "click[buy now]"],
    )
    def test_what_the_page_does_not_offer_is_refused(self, small: WebShop, action: str) -> None:
        first = small.reset(goal_task(small, 2))
        anchor = small.anchor()
        step = small.step(action)
        assert (step.valid, step.observation, step.terminated, small.anchor()) == (False, first, False, anchor)

    def test_bound_rewards(self, small: WebShop) -> None:
        shaped = shop_env(data=small.data, goals="human", reward="shaped")
        for env, paid in ((small, 0.0), (shaped, 5.0)):
            env.reset(goal_task(small, 2))
            for action in ("search[brass]", "click[b000000012]"):
                assert env.step(action).reward == 0.0
            bought = env.step("click[buy now]")
            assert bought.info == {
                "task_score": 0.5,
                "type": 1.0,
                "attributes": 1,
                "options": 0,
                "price": True,
                "tagger": small.shop.tagger,
            }
            assert (bought.reward, bought.won, bought.terminated) == (paid, False, True)


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


class TestGoals:
    def test_the_original_s_split(self) -> None:
        goals = [Goal(number, f"goal {number}", ("x",), (), 10.0) for number in range(6000)]
        places = split(goals)
        assert places["test"] == tuple(range(500))
        assert places["dev"] == tuple(range(500, 1500))
        assert places["train"] == tuple(range(1500, 6000))

    def test_the_original_s_order(self) -> None:
        goals = [Goal(number, "", ("x",), (), 10.0) for number in range(12_087)]
        assert [goal.product for goal in ordered(goals)[:6]] == [8655, 10304, 6940, 2750, 3667, 2144]

    def test_one_goal_asked_twice_is_in_one_split(self) -> None:
        goals = [
            Goal(number % 7, "a lamp, and price lower than 20.00 dollars", ("x",), (), 20.0) for number in range(50)
        ]
        places = split(goals)
        held = [{goals[number].product for number in numbers} for numbers in places.values()]
        assert [len(each) for each in held] == [7, 0, 0]

    @pytest.mark.parametrize("kind", ["human", "generated"])
    def test_no_goal_is_in_two_splits(self, kind: str) -> None:
        shop = shop_env(data="synthetic", goals=kind, products=300).shop
        seen = [
            {(goal.product, goal.instruction.partition(", and price")[0]) for goal in map(shop.goals.__getitem__, each)}
            for each in shop.splits.values()
        ]
        assert all(seen)
        assert len(seen[0] | seen[1] | seen[2]) == sum(map(len, seen))
        assert sum(map(len, shop.splits.values())) == len(shop.goals), "the catalogue asks nothing twice"

    def test_seeds_of_a_split_are_its_goals(self, synthetic: WebShop) -> None:
        shop = synthetic.shop
        for place, seeds in (("test", SEEDS["eval"]), ("train", SEEDS["train"])):
            asked = [synthetic.reset(Task("webshop", seed=seed)).text for seed in seeds[:600]]
            goals = [shop.goals[number].instruction for number in shop.splits[place]]
            assert all(goal in text for goal, text in zip((goals * 2)[:600], asked, strict=True))
        for seed in (-1, 2**31, 2**70):
            synthetic.reset(Task("webshop", seed=seed))
            assert int(synthetic.anchor().partition(":")[0]) in shop.splits["train"]

    def test_limits_are_above_the_price(self, synthetic: WebShop) -> None:
        shop = synthetic.shop
        limits = {goal.price_upper - shop.products[goal.product].price for goal in shop.goals}
        assert min(limits) > 10
        assert max(limits) <= 40
        prices = [product.price for product in shop.products if " to " in product.price_tag]
        assert len(prices) > 100
        for each in shop.products:
            ends = [float(tag) for tag in each.price_tag.replace("$", "").split(" to ")]
            assert ends[0] <= each.price <= ends[-1]

    def test_a_spec_names_the_catalogue(self, synthetic: WebShop) -> None:
        shop = synthetic.shop
        dev = shop.splits["dev"][0]
        assert shop.goals[dev].instruction in synthetic.reset(goal_task(synthetic, dev)).text
        for spec, message in (
            ({"goal": 0, "catalogue": "0123"}, f"the catalogue 0123, but .* is {shop.digest}"),
            ({"goal": len(shop.goals), "catalogue": shop.catalogue}, "goal.* is a whole number"),
            ({"goal": "1", "catalogue": shop.catalogue}, "goal.* is a whole number"),
            ({"goal": 0}, "keys goal and catalogue"),
        ):
            with pytest.raises(TaskError, match=message):
                synthetic.reset(Task("webshop", spec=spec))

    def test_too_few_goals(self, tmp_path: Path) -> None:
        folder = copy_data(tmp_path / "data")
        rows = json.loads((DATA / "items_human_ins.json").read_text("utf-8"))
        (folder / "items_human_ins.json").write_text(json.dumps({"B00000000E": rows["B00000000E"]}))
        prepare(folder, None, "human")
        env = shop_env(data=str(folder), goals="human")
        env.reset(Task("webshop", seed=SEEDS["eval"].start))
        message = r"too few goals \(1\) for a split train"
        with pytest.raises(TaskError, match=message):
            env.reset(Task("webshop", seed=0))
        with pytest.raises(TaskError, match=message):
            WebShop.tasks("train", options={"data": str(folder), "goals": "human"})


class TestSyntheticCatalogue:
    @pytest.mark.parametrize(("kind", "number"), [("human", 2986), ("generated", 10_030)])
    def test_the_oracle_wins_all_goals(self, kind: str, number: int) -> None:
        env = shop_env(data="synthetic", goals=kind)
        assert len(env.shop.goals) == number
        assert sum(oracle_wins(env, goal) for goal in range(number)) == number

    def test_the_oracle_wins_from_anywhere(self, synthetic: WebShop) -> None:
        rng = random.Random(0)
        for seed in range(60):
            synthetic.reset(Task("webshop", seed=seed))
            for _ in range(rng.randrange(12)):
                action = synthetic.random_action(rng)
                if action != "click[buy now]":
                    synthetic.step(action)
            assert finish(synthetic)

    def test_a_larger_catalogue_begins_like_a_smaller_one(self) -> None:
        def rows(products: int) -> dict[str, dict[str, Any]]:
            shop = shop_env(data="synthetic", products=products).shop
            return {product.asin: product.to_row() for product in shop.products}

        few, many = rows(60), rows(200)
        assert (len(few), len(many)) == (60, 200)
        assert few.items() <= many.items()

    def test_it_is_the_same_in_every_process(self) -> None:
        code = (
            "import random\n"
            "from openrlhf_lamer.envs import Task, make\n"
            "for goals in ('human', 'generated'):\n"
            "    env = make('webshop', data='synthetic', products=150, goals=goals)\n"
            "    print(env.shop.digest)\n"
            "    for seed in range(20):\n"
            "        rng, step = random.Random(seed), env.reset(Task('webshop', seed=seed))\n"
            "        for _ in range(10):\n"
            "            step = env.step(env.random_action(rng))\n"
            "            print(step.observation, step.info, env.anchor())\n"
            "            if step.terminated: break\n"
        )
        answers = {
            subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONIOENCODING": "utf-8"},
                capture_output=True,
                encoding="utf-8",
                check=True,
            ).stdout
            for hash_seed in ("0", "4711")
        }
        assert len(answers) == 1
        assert answers.pop().count("Buy Now") > 20

    def test_it_is_frozen(self, synthetic: WebShop) -> None:
        """Panels name this digest: a change of the catalogue makes other tasks of them."""
        assert synthetic.shop.digest == "976a74aa4fe856bb"

    def test_all_share_one_shop(self) -> None:
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda _: shop_env(data="synthetic", products=37), range(16)))
        assert len({id(env.shop) for env in made}) == 1

    def test_a_thousand_sessions_are_small(self, synthetic: WebShop) -> None:
        def play(seed: int) -> TextEnv:
            env, rng = shop_env(data="synthetic"), random.Random(seed)
            env.reset(Task("webshop", seed=seed))
            for _ in range(6):
                action = env.random_action(rng)
                if action != "click[buy now]":
                    env.step(action)
            return env

        play(0)
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        kept = [play(seed) for seed in range(1000)]
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(kept) == 1000
        assert after - before < 50e6


def oracle_wins(env: WebShop, goal: int) -> bool:
    env.reset(goal_task(env, goal))
    return finish(env)


def finish(env: WebShop) -> bool:
    """Whether the oracle wins from here, within 12 turns and with a score of 1."""
    for _ in range(12):
        step = env.step(env.oracle() or "none")
        if step.terminated:
            return step.won and step.info["task_score"] == 1.0 and step.reward == 10.0
    return False


class TestData:
    @pytest.mark.parametrize("goals", ["human", "generated"])
    def test_every_check_passes_on_a_folder(self, small: WebShop, goals: str) -> None:
        prepare(Path(small.data), None, "generated")
        check_env("webshop", data=small.data, goals=goals)

    def test_what_is_on_disk_is_what_is_in_memory(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(app, ["prepare", "webshop", "--out", str(tmp_path / "made"), "--products", "120"])
        assert result.exit_code == 0, result.output
        stored = shop_env(data=str(tmp_path / "made")).shop
        made = shop_env(data="synthetic", products=120).shop
        assert (stored.digest, stored.tagger) == (made.digest, made.tagger)
        assert stored.digest in result.output
        assert stored.splits == made.splits
        assert list(stored.goals) == list(made.goals)
        rows = [each.to_row() for each in made.products]
        assert [each.to_row() for each in stored.products] == rows
        for goal in made.goals[:50]:
            assert stored.index.search(goal.instruction) == made.index.search(goal.instruction)
        assert stored.products[-1].asin == made.products[-1].asin
        with pytest.raises(IndexError):
            stored.products[120]

    def test_the_first_products_of_a_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = copy_data(tmp_path / "data")
        (folder / "items_shuffle_14.json").rename(folder / "items_shuffle.json")
        (folder / "items_ins_v2_14.json").rename(folder / "items_ins_v2.json")
        words = ["prepare", "webshop", "--data", str(folder), "--products", "9", "--goals", "human"]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        assert "9 products, 7 goals" in result.output
        monkeypatch.setenv("WEBSHOP_DATA", str(folder))
        assert len(shop_env(products=9, goals="human").shop.products) == 9

    def test_not_prepared(self, tmp_path: Path) -> None:
        folder = copy_data(tmp_path / "data")
        message = (
            f"{folder} has not been prepared with generated goals; "
            f"run: openrlhf-lamer prepare webshop --data {folder} --goals generated"
        )
        with pytest.raises(TaskError, match=message):
            shop_env(data=str(folder))
        with pytest.raises(TaskError, match=r"no folder .*; get WebShop's data .* setup\.sh"):
            shop_env(data=str(tmp_path / "nowhere"))

    def test_changed_damaged_or_of_another_version(self, tmp_path: Path) -> None:
        folder = copy_data(tmp_path / "data")
        prepare(folder, None, "human")
        compiled = folder / "openrlhf-lamer-human-all"
        meta = (compiled / "meta.json").read_text()
        for file, content, message in (
            (compiled / "meta.json", meta.replace('"format": 2', '"format": 0'), r"another version \(format 0\); run:"),
            (compiled / "meta.json", meta[:-9], "is damaged .*; run:"),
            (compiled / "terms.txt", "lamp", r"terms\.txt is not of the size it was prepared with; run:"),
            (folder / "items_shuffle_14.json", "[]", r"items_shuffle_14\.json has changed since .*; run:"),
        ):
            kept = file.read_bytes()
            file.write_text(content)
            with pytest.raises(TaskError, match=message):
                shop_env(data=str(folder), goals="human")
            file.write_bytes(kept)
        shop_env(data=str(folder), goals="human")

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("items_shuffle_14.json", None, "items_shuffle.json is missing; get"),
            ("items_ins_v2_14.json", None, "items_ins_v2_14.json is missing; get"),
            ("items_human_ins.json", None, "items_human_ins.json is missing; get"),
            ("items_shuffle_14.json", 5000, "items_shuffle_14.json is half downloaded or corrupt: product 8"),
            ("items_human_ins.json", 700, "items_human_ins.json is half downloaded or corrupt"),
            ("items_shuffle_14.json", "<html>", "is no list of products: it begins with b'<html>'; get"),
            ("items_shuffle_14.json", "[]", "the search index of .* is empty"),
            ("items_shuffle_14.json", "[7]", "product 0 is 7, no row of a catalogue"),
            ("items_shuffle_14.json", '[{"asin": "B1"}]', "product 0 .*: it has no 'small_description'"),
            ("items_shuffle_14.json", '[{"asin": "\ud800"}]', "is corrupt"),
            ("items_human_ins.json", "{}", "has no goals"),
            ("items_human_ins.json", "[]", "is no table"),
            (
                "items_human_ins.json",
                '{"B000000001": [{}]}',
                "a goal of B000000001 .items_human_ins.*: it has no 'instruction",
            ),
        ],
    )
    def test_bad_files_are_named(self, tmp_path: Path, name: str, content: str | int | None, message: str) -> None:
        folder = copy_data(tmp_path / "data")
        file = folder / name
        if content is None:
            file.unlink()
        elif isinstance(content, int):
            file.write_bytes(file.read_bytes()[:content])
        else:
            file.write_bytes(content.encode("utf-8", "surrogatepass"))
        result = CliRunner().invoke(app, ["prepare", "webshop", "--data", str(folder), "--goals", "human"])
        assert result.exit_code == 2
        assert "error: --data" in result.output
        with pytest.raises(TaskError, match=message):
            prepare(folder, None, "human")
        assert sorted(file.name for file in folder.iterdir() if file.is_dir()) == [], "no draft is left"

    @pytest.mark.parametrize(
        ("arguments", "message"), [([], "give --data FOLDER"), (["--out", str(DATA)], "there is something already")]
    )
    def test_what_cannot_be_prepared_is_said(
        self, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("WEBSHOP_DATA", raising=False)
        result = CliRunner().invoke(app, ["prepare", "webshop", *arguments])
        assert (result.exit_code, message in result.output) == (2, True)

    def test_a_file_read_in_pieces(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: WebShop) -> None:
        """However the pieces fall: within a row, or within a character of several bytes."""
        folder = copy_data(tmp_path / "data")
        for size in (1, 7, 64):
            monkeypatch.setattr("openrlhf_lamer.envs.webshop.source._CHUNK", size)
            assert prepare(folder, None, "human").digest == small.shop.digest

    @pytest.mark.parametrize(("option", "value"), [("products", 0), ("products", "9"), ("goals", "all")])
    def test_a_wrong_option_is_refused(self, option: str, value: Any) -> None:
        with pytest.raises(TaskError, match=f"webshop: {option} is .*{value!r}"):
            make("webshop", **{"data": "synthetic", option: value})


def test_the_agent_s_prompts(synthetic: WebShop) -> None:
    agent, _ = load_agent("openrlhf_lamer.agents.webshop")
    assert (agent.max_turns, agent.window) == (12, 15)
    initial = synthetic.reset(Task("webshop", seed=0))
    page = synthetic.step("search[lamp]").observation

    def prompts() -> Iterator[str]:
        for observation in (initial, page):
            yield agent.play_message(
                continuing=False,
                env=synthetic.facts,
                initial=initial,
                memory=(),
                turns=(),
                observation=observation,
                episode=0,
                num_episodes=3,
                turns_left=12,
            )

    first, second = prompts()
    assert "You can use search[your words].\n" in first
    assert "You can use search[your words] or one of: click[back to search], click[next >], click[b0" in second
    assert synthetic.shop.goals[synthetic.shop.splits["train"][0]].instruction in first


@pytest.mark.parametrize("context", ["turn", "episode"])
def test_trials(play: Callable[..., Trial], chat: Chat, context: str) -> None:
    agent, _ = load_agent("openrlhf_lamer.agents.webshop")
    settings: dict[str, Any] = {"agent": agent, "context": context, "max_length": 60_000, "max_new_tokens": 400}
    settings["env_options"] = {"data": "synthetic", "products": 120}
    won = play(OraclePolicy(chat), **settings)
    assert won.failure is None
    assert [episode.stop for episode in won.episodes] == [Stop.WON]
    lost = play(RandomPolicy(chat, 1), seed=4, **settings)
    assert lost.failure is None
    assert len(lost.episodes) == 3
    assert lost.episodes[0].turns[0].anchor == lost.episodes[2].turns[0].anchor


def test_a_session_is_its_key(synthetic: WebShop) -> None:
    """Sessions of equal keys are the same page, with the same ways on."""
    rng = random.Random(3)
    goal = synthetic.shop.goals[0]
    known: dict[str, tuple[str, tuple[str, ...]]] = {}
    for _ in range(40):
        session = Session(synthetic.shop, goal)
        for _ in range(15):
            targets = session.clickables()
            click = rng.choice(targets) if targets and rng.random() < 0.9 else None
            session.act(f"click[{click}]" if click else f"search[{rng.choice(('lamp', 'red shirt'))}]")
            shown = (session.text(), session.clickables())
            assert known.setdefault(session.key(), shown) == shown
            if session.score:
                break

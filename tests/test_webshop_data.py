"""WebShop: goals and their splits, the synthetic catalogue, and data on disk."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from stand_ins import answer_under_any_hash_seed
from typer.testing import CliRunner
from webshop_shops import DATA, copy_data, goal_task, shop_env

from openrlhf_lamer.cli.main import app
from openrlhf_lamer.envs import Task, TaskError, TextEnv, check_env, make
from openrlhf_lamer.envs.webshop.env import WebShop
from openrlhf_lamer.envs.webshop.goals import ordered, split
from openrlhf_lamer.envs.webshop.shop import Goal
from openrlhf_lamer.envs.webshop.stored import prepare
from openrlhf_lamer.tasks import SEEDS

pytest_plugins = "webshop_shops"


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
        assert answer_under_any_hash_seed(code).count("Buy Now") > 20

    def test_it_is_frozen(self, synthetic: WebShop) -> None:
        """Panels name this digest: a changed catalogue changes their tasks."""
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


@pytest.mark.parametrize("package", ["nltk", "rapidfuzz", "regex"])
def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(TaskError, match=rf"'{package}' is not installed; run pip install 'openrlhf-lamer\[webshop\]'"):
        make("webshop", data="synthetic", products=7)
    assert WebShop.data_check().remedy == "run pip install 'openrlhf-lamer[webshop]'"
    refused = CliRunner().invoke(app, ["prepare", "webshop", "--out", "nowhere"])
    assert (refused.exit_code, "openrlhf-lamer[webshop]" in refused.output) == (2, True)


def test_nothing_else_needs_the_extra() -> None:
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(('nltk', 'rapidfuzz', 'regex'))\n"
        "from openrlhf_lamer import envs, panels, room\n"
        "from openrlhf_lamer.agents import load_agent\n"
        "from openrlhf_lamer.config import LamerConfig\n"
        "from openrlhf_lamer.evaluation.reflections import reading\n"
        "agent = load_agent('openrlhf_lamer.agents.sokoban')[0]\n"
        "print(room.needed(agent, LamerConfig(), 512) > 0, reading('webshop'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True <class 'openrlhf_lamer.envs.webshop.env.WebShop'>\n"

"""WebShop's sets of tasks: which goals they hold, and of which catalogue. And titles that no action can name."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import pytest
from typer.testing import CliRunner

from openrlhf_lamer import panels
from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.config import ConfigError, LamerConfig
from openrlhf_lamer.envs import Task, TaskError
from openrlhf_lamer.envs.webshop import stored
from openrlhf_lamer.envs.webshop.env import WebShop
from openrlhf_lamer.envs.webshop.session import BUTTONS, Page, Session
from openrlhf_lamer.envs.webshop.shop import Goal, Product, Shop
from openrlhf_lamer.envs.webshop.stored import prepare
from openrlhf_lamer.games import games
from openrlhf_lamer.tasks import read_dataset, write_dataset

DATA = Path(__file__).parent / "data" / "webshop"
PANEL = {"data": "synthetic", "products": 1000, "goals": "generated"}


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEBSHOP_DATA", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Data in the original's form: 12 products, and 10 goals that were written for them."""
    target = tmp_path / "shop"
    target.mkdir()
    for file in DATA.glob("items_*.json"):
        shutil.copy(file, target)
    return target


def goals_of(shop: Shop, tasks: list[Task]) -> list[Goal]:
    specs = [task.spec for task in tasks if task.spec is not None]
    assert len(specs) == len(tasks)
    return [shop.goals[spec["goal"]] for spec in specs]


def request(goal: Goal) -> tuple[Any, ...]:
    """The request of a goal, whatever it may cost."""
    return goal.product, goal.instruction.partition(", and price lower")[0], goal.attributes, goal.options


def wins(env: WebShop, turns: int = 12) -> bool:
    """Whether the oracle wins from here."""
    for _ in range(turns):
        step = env.step(env.oracle() or "none")
        if step.terminated:
            return step.won and step.info["task_score"] == 1.0
    return False


class TestSplits:
    def test_goals_are_the_generated_ones_unless_asked_otherwise(self) -> None:
        env = WebShop(data="synthetic")
        assert env.goals == "generated"
        assert {name: len(numbers) for name, numbers in env.shop.splits.items()} == {
            "test": 500,
            "dev": 1000,
            "train": 8530,
        }

    @pytest.mark.parametrize("kind", ["generated", "human"])
    def test_each_goal_of_a_split_is_one_task(self, kind: str) -> None:
        options: dict[str, Any] = {"data": "synthetic", "goals": kind}
        shop = WebShop(**options).shop
        seen: set[tuple[Any, ...]] = set()
        for split, place in (("train", "train"), ("eval", "test"), ("dev", "dev")):
            tasks = WebShop.tasks(split, options=options)
            assert [task.spec["goal"] for task in tasks if task.spec] == list(shop.splits[place])
            assert {(task.split, task.spec["catalogue"]) for task in tasks if task.spec} == {(split, shop.catalogue)}
            assert all(task.options == options for task in tasks)
            asked = {request(goal) for goal in goals_of(shop, tasks)}
            assert len(asked) == len(tasks) == len({task.id for task in tasks})
            assert not seen & asked, "what is asked in one split is asked in no other"
            seen |= asked
        assert len(seen) == len(shop.goals)
        assert WebShop.tasks("train", 4, first=3, options=options) == WebShop.tasks("train", options=options)[3:7]

    def test_a_task_is_played_as_its_goal_says(self) -> None:
        env = WebShop(data="synthetic")
        tasks = WebShop.tasks("dev", 50, options={"data": "synthetic"})
        for task, goal in zip(tasks, goals_of(env.shop, tasks), strict=True):
            assert goal.instruction in env.reset(task).text
            assert env.anchor().startswith(f"{env.shop.goals.index(goal)}:")

    def test_more_tasks_than_goals_are_refused_with_the_number_there_are(self, folder: Path, tmp_path: Path) -> None:
        options = {"data": str(folder), "goals": "human"}
        prepare(folder, None, "human")
        words = ["prepare", "tasks", "--env", "webshop", "--options", json.dumps(options), "--out"]
        for split, goals in (("train", 6), ("eval", 2), ("dev", 2)):
            assert len(WebShop.tasks(split, options=options)) == goals
            for num in (goals + 1, 4096):
                message = rf"{goals} human goals in the split {split}, .* {num} from number 0 on .* at most {goals}"
                with pytest.raises(TaskError, match=message):
                    WebShop.tasks(split, num, options=options)
            out = tmp_path / "out" / split
            result = CliRunner().invoke(app, [*words, str(out), "--split", split])
            assert (result.exit_code, out.exists()) == (2, False)
            assert f"--split {split} --num 4096 --first 0: webshop: {folder} has {goals} human goals" in result.output
            result = CliRunner().invoke(app, [*words, str(out), "--split", split, "--num", str(goals)])
            assert result.exit_code == 0, result.output
            assert len({task.id for task in read_dataset(out / f"{split}.jsonl")}) == goals
        for first, num in ((6, 1), (7, None), (-1, 2), (0, 0)):
            with pytest.raises(TaskError, match="are not among them"):
                WebShop.tasks("train", num, first=first, options=options)
        with pytest.raises(TaskError, match="webshop has no split 'test'; there are: train, eval, dev"):
            WebShop.tasks("test", 1)

    def test_the_panel_is_128_test_goals_that_can_be_won(self) -> None:
        panel = panels.load("webshop/eval")
        tasks, env = panel.tasks(), WebShop(**PANEL)
        assert (panel.options, len({task.id for task in tasks})) == (PANEL, 128)
        assert tasks == WebShop.tasks("eval", 128, options=PANEL)
        asked = {request(goal) for goal in goals_of(env.shop, tasks)}
        trained_on = {request(goal) for goal in goals_of(env.shop, WebShop.tasks("train", options=PANEL))}
        assert len(asked) == 128
        assert not asked & trained_on
        for task in tasks:
            env.reset(task)
            assert wins(env), task.id
        assert panels.verify(panel) == []


class TestCatalogues:
    def test_a_task_of_another_catalogue_is_refused_and_both_are_named(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Written where WEBSHOP_DATA is set, played where it is not; and the other way round."""
        prepare(folder, None, "generated")
        synthetic, here = WebShop(), WebShop.tasks("train", 1)[0]
        monkeypatch.setenv("WEBSHOP_DATA", str(folder))
        original, there = WebShop(), WebShop.tasks("train", 1)[0]
        assert (here.options, there.options) == ({}, {})
        for env, own, strange in ((synthetic, here, there), (original, there, here)):
            env.reset(own)
            assert strange.spec is not None
            with pytest.raises(TaskError) as refused:
                env.reset(strange)
            message = str(refused.value)
            assert f"the task is of the catalogue {strange.spec['catalogue']}," in message
            assert f"but {env.shop.source} is {env.shop.catalogue}:" in message
        assert "(synthetic, 1000 products, generated goals, nouns: bundled)" in synthetic.shop.catalogue
        assert f"(items_shuffle_14.json, 12 products, generated goals, nouns: {original.shop.tagger})" in message
        assert str(folder) in message

    @pytest.mark.parametrize("options", [{"products": 999}, {"goals": "human"}])
    def test_other_options_are_another_catalogue(self, options: dict[str, Any]) -> None:
        task = WebShop.tasks("eval", 1, options={"data": "synthetic"})[0]
        with pytest.raises(TaskError, match="the task is of the catalogue"):
            WebShop(data="synthetic", **options).reset(Task("webshop", spec=task.spec))

    def test_the_same_files_elsewhere_are_the_same_catalogue(self, folder: Path, tmp_path: Path) -> None:
        """Whatever the folder and the files are called."""
        shutil.copytree(folder, tmp_path / "copy")
        for file in (tmp_path / "copy").glob("items_*_14.json"):
            file.rename(file.with_name(file.name.replace("_14", "")))
        shops = [prepare(each, None, "generated") for each in (folder, tmp_path / "copy")]
        assert shops[0].digest == shops[1].digest
        task = WebShop.tasks("train", 1, options={"data": str(folder)})[0]
        WebShop(data=str(tmp_path / "copy")).reset(Task("webshop", spec=task.spec))

    def test_the_tagger_of_nouns_is_part_of_it(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Scores of near misses differ with it, so tasks do."""
        before = prepare(folder, None, "generated")
        task = WebShop.tasks("train", 1, options={"data": str(folder)})[0]
        shutil.copytree(folder, other := folder.with_name("other"))
        spacy = ("spacy en_core_web_sm 3.8.0", lambda name: tuple(name.lower().split()[:2]))
        monkeypatch.setattr(stored, "best_tagger", lambda: spacy)
        after = prepare(other, None, "generated")
        assert [goal.to_row() for goal in before.goals] == [goal.to_row() for goal in after.goals]
        assert before.digest != after.digest
        with pytest.raises(TaskError, match=r"nouns: bundled\).* nouns: spacy en_core_web_sm 3\.8\.0\)"):
            WebShop(data=str(other)).reset(Task("webshop", spec=task.spec))

    def test_the_synthetic_one_has_the_bundled_tagger_on_every_machine(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stored, "best_tagger", lambda: pytest.fail("the best tagger is asked"))
        words = ["prepare", "webshop", "--products", "40", "--out", str(tmp_path / "made")]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        task = WebShop.tasks("train", 1, options={"data": str(tmp_path / "made")})[0]
        WebShop(data="synthetic", products=40).reset(Task("webshop", spec=task.spec))

    def test_training_and_evaluation_refuse_it_before_they_start(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prepare(folder, None, "generated")
        monkeypatch.setenv("WEBSHOP_DATA", str(folder))
        path = tmp_path / "eval.jsonl"
        write_dataset(path, WebShop.tasks("eval", 3))
        monkeypatch.delenv("WEBSHOP_DATA")
        out = tmp_path / "run"
        result = CliRunner().invoke(app, ["eval", "--tasks", str(path), "--player", "oracle", "--out", str(out)])
        assert (result.exit_code, out.exists()) == (2, False)
        assert f"--tasks {path}: webshop: the task is of the catalogue" in result.output.replace("\n", "")
        pytest.importorskip("openrlhf")
        from openrlhf_lamer.integration.launch.dataset import check_dataset, try_first

        agent, _ = load_agent("openrlhf_lamer.agents.webshop")
        dataset = check_dataset("eval.dataset", str(path), "eval", "label", {"webshop": "agent"})
        assert dataset.rows == 3
        with pytest.raises(ConfigError, match=r"--eval\.dataset .*, row 1: webshop: the task is of the catalogue"):
            try_first(dataset, games({"webshop": agent}, LamerConfig()))
        try_first(dataset, games({"webshop": agent}, LamerConfig(env_options={"data": str(folder)})))


def test_generated_goals_of_a_product_have_one_price_limit() -> None:
    """Drawn once, as in the original; requests that people wrote have one each."""
    limits: dict[str, dict[int, set[float]]] = {}
    for kind in ("generated", "human"):
        shop = WebShop(data="synthetic", goals="generated" if kind == "generated" else "human").shop
        found: dict[int, set[float]] = {}
        for goal in shop.goals:
            found.setdefault(goal.product, set()).add(goal.price_upper)
            assert goal.instruction.endswith(f", and price lower than {goal.price_upper:.2f} dollars")
            tens, price = goal.price_upper / 10, shop.products[goal.product].price
            assert tens == int(tens)
            assert 10 < goal.price_upper - price <= 40, "the second to fourth multiple of ten above the price"
        limits[kind] = found
    assert {len(each) for each in limits["generated"].values()} == {1}
    assert len(limits["generated"]) == 1000
    assert max(len(each) for each in limits["human"].values()) == 3
    drawn = [
        round(each.pop() // 10 - shop.products[number].price // 10) for number, each in limits["generated"].items()
    ]
    for above, share in ((2, 1 / 6), (3, 2 / 6), (4, 3 / 6)):  # the higher one of two of four
        assert drawn.count(above) / 1000 == pytest.approx(share, abs=0.05)


class TestTitlesThatNoActionCanName:
    """An action's argument begins after its last bracket, as in the original."""

    @pytest.fixture
    def bracketed(self, folder: Path) -> WebShop:
        """The same products with brackets in every title, list of options and request."""
        (path,) = folder.glob("items_shuffle*.json")
        rows = json.loads(path.read_text("utf-8"))
        for number, row in enumerate(rows):
            row["name"] = f"[{number + 2} Pack] {row['name']} [New\nModel]"
            for name, values in (row["customization_options"] or {}).items():
                if values:
                    values.insert(0, {**values[0], "value": f"any [of {name}]"})
        path.write_text(json.dumps(rows), "utf-8")
        (path,) = folder.glob("items_ins_v2*.json")
        described = json.loads(path.read_text("utf-8"))
        for each in described.values():
            if each.get("instruction"):
                each["instruction"] = f"[gift] {each['instruction']} [asap]"
        path.write_text(json.dumps(described), "utf-8")
        prepare(folder, None, "generated")
        return WebShop(data=str(folder), goals="generated")

    def test_the_oracle_finds_a_way_to_all_that_can_be_bought(self, bracketed: WebShop) -> None:
        """It wins where every option that is asked for can be chosen, and buys the product elsewhere."""
        shop, won = bracketed.shop, 0
        for number, goal in enumerate(shop.goals):
            bracketed.reset(Task("webshop", spec={"goal": number, "catalogue": shop.digest}))
            actions, step = [], None
            while len(actions) < 20 and not (step and step.terminated):
                actions.append(bracketed.oracle() or "none")
                step = bracketed.step(actions[-1])
                assert step.valid, actions
            assert actions[-1] == "click[buy now]"
            assert f"click[{shop.products[goal.product].asin.lower()}]" in actions
            if not any("[" in option for option in goal.options):
                won += 1
                assert step is not None
                assert step.won, actions
        assert won > 10

    def test_what_is_offered_is_accepted(self, bracketed: WebShop) -> None:
        """Random actions and the listed ones; a title or option with a bracket is shown, but not listed."""
        rng, shown = random.Random(0), 0
        for seed in range(60):
            observation = bracketed.reset(Task("webshop", seed=seed))
            for _ in range(12):
                assert not any("[" in action[6:] for action in observation.admissible)
                shown += "any [of " in observation.text
                step = bracketed.step(bracketed.random_action(rng))
                assert step.valid
                observation = step.observation
                if step.terminated:
                    break
        assert shown > 20


@pytest.mark.parametrize(
    "value", ["salt & pepper", "<small>", "6' x 9'", 'a "quoted" one', "crème brûlée", "back\\slash", "plain"]
)
def test_a_receipt_shows_options_as_the_template_of_the_original_does(value: str) -> None:
    """Its filter `tojson`, which leaves nothing in a page that HTML could take for its own."""
    product = Product("B000000000", "Lamp", "lamps", "", "", (), {"kind": (value,)}, (), 5.0, "$5.0", ("lamp",))
    shop = WebShop(data="synthetic", products=20).shop
    shop = replace(shop, products=[product], goals=[Goal(0, "", ("x",), (), 10.0)])
    session = Session(shop, shop.goals[0], page=Page.PRODUCT, product=0)
    assert session.clickables() == (*BUTTONS, value)
    assert session.act(f"click[{value}]")
    assert session.act("click[buy now]")
    expected = jinja2.Environment(autoescape=True).from_string("{{ options | tojson }}").render(options={"kind": value})
    assert f" [SEP] options [SEP] {expected} [SEP] attrs [SEP] " in session.text()

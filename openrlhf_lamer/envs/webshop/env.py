"""WebShop: find a product that fits a request, choose its options and buy it."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from threading import Lock
from typing import Any

from openrlhf_lamer.doctor import Check, Verdict, ok, told
from openrlhf_lamer.envs.base import SUCCESS_REWARD, EpisodeOverError, Observation, Step, TaskError, TextEnv
from openrlhf_lamer.envs.seeding import below, choose
from openrlhf_lamer.envs.webshop import nouns, require, stored
from openrlhf_lamer.envs.webshop.compiling import compile_rows
from openrlhf_lamer.envs.webshop.goals import split
from openrlhf_lamer.envs.webshop.scoring import ALIKE, comparable, ratio
from openrlhf_lamer.envs.webshop.session import (
    BACK,
    BUTTONS,
    BUY,
    NEXT,
    PER_PAGE,
    PREVIOUS,
    Page,
    Session,
    can_be_named,
)
from openrlhf_lamer.envs.webshop.shop import Goal, GoalKind, Product, Shop
from openrlhf_lamer.envs.webshop.synthetic import DEFAULT_PRODUCTS, synthetic_rows
from openrlhf_lamer.records import Task
from openrlhf_lamer.tasks import SEEDS
from openrlhf_lamer.vocabulary import RewardScheme

SYNTHETIC = "synthetic"
ENV_VAR = "WEBSHOP_DATA"

LARGE = 100_000
"""With more products than this, a search takes longer than the event loop should wait."""

_shops: dict[tuple[str, int | None, GoalKind], Shop] = {}
_opening = Lock()


class WebShop(TextEnv):
    """Buy what an instruction asks for.

    Description:
        A shop with a search engine, and an instruction that names a kind of product, what it must be like,
        which options to take and what it may cost. Pages are those of the original's text mode.

    Actions:
        `search[words]`, on any page: the first ten of at most 50 results; it clears the options.
        `click[target]`: a button, product or option of the page in any case, such as `click[next >]`,
        `click[b0abcdefgh]` or `click[x-large]`; `click[buy now]` buys.
        Anything else, or a target that is not on the page, is refused.

    Observation:
        The texts of the page, separated by ` [SEP] `. `admissible` lists the clicks that the page offers; a
        search is always allowed, and not listed. Chosen options are not shown.

    Rewards:
        The score of a purchase (see `scoring`) is from 0 to 1 and stands in `Step.info["task_score"]`.
        sparse: 10 for a purchase with score 1, else 0.
        shaped: ten times the score, at the purchase.

    Termination:
        A purchase ends the episode; it is won with a score of 1.

    Options:
        data: "synthetic"; or a folder with the original's files, prepared by `openrlhf-lamer prepare
        webshop`; by default what the environment variable WEBSHOP_DATA names, else "synthetic".
        products: Number of products, from the first on; by default 1000 synthetic ones, or all of a folder.
        goals: "generated" (a request for each combination of a product's options, as the paper trains on), or
            "human" (written requests).
        reward: "sparse" or "shaped".

    Goals are numbered as in the original: 0 to 499 are `test`, 500 to 1499 `dev`, the rest `train`; of fewer
    than 5000 goals, at most a fifth each is held out. The splits of tasks are `train`, `eval` (the goals of `test`) and
    `dev`, and have each goal once. A task's spec is `{"goal": 3, "catalogue": "..."}`: the number of the goal, and the
    `Shop.catalogue` that it is from; another catalogue refuses it. To play without a list of tasks, a seed stands
    for a goal of the present catalogue: a seed of the evaluation range for a goal of `test`, any other for one of
    `train`. Consecutive seeds are consecutive goals, and after the last goal comes the first.

    All instances of a process share one shop. Reviews are empty, as in the original's data; its search words for
    developers (`<r>`, `<a>`, `<c>`, `<q>`) and its page of attributes, which text mode hides, are left out.
    """

    name = "webshop"
    holds_out = False  # the goals themselves are split
    splits = (*SEEDS, "dev")
    difficulties = ({"data": "synthetic", "goals": "human"}, {"data": "synthetic", "goals": "generated"})

    @classmethod
    def tasks(
        cls, split: str, num: int | None = None, *, first: int = 0, options: Mapping[str, Any] | None = None
    ) -> list[Task]:
        """Goals number `first` to `first + num` of a split, one task each.

        Args:
            split: "train", "eval" (the original's test goals) or "dev".
            num: Number of tasks; None for all from `first` on.
            first: Number of the first one.
            options: Options of the environment, which choose the catalogue.

        Raises:
            TaskError: There is no such split, it has fewer goals, or the catalogue cannot be opened.
        """
        if split not in cls.splits:
            raise TaskError(f"webshop has no split {split!r}; there are: {', '.join(cls.splits)}")
        options = dict(options or {})
        shop = cls(**{name: options[name] for name in ("data", "products", "goals") if name in options}).shop
        goals = _goals(shop, "test" if split == "eval" else split)
        left = max(len(goals) - first, 0)
        num = left if num is None else num
        if first < 0 or not 1 <= num <= left:
            raise TaskError(
                f"webshop: {shop.source} has {len(goals)} {shop.kind} goals in the split {split}, each of which makes "
                f"one task; {num} from number {first} on are not among them: ask for at most {left}"
            )
        chosen = goals[first : first + num]
        specs = [{"goal": goal, "catalogue": shop.catalogue} for goal in chosen]
        return [Task(cls.name, spec=spec, options=options, split=split) for spec in specs]

    @classmethod
    def data_check(cls) -> Check:
        """State of the catalogue in the folder that WEBSHOP_DATA names; the synthetic one needs no data."""
        name, data, shops = "WebShop's data", os.environ.get(ENV_VAR), []
        try:
            require()
        except TaskError as problem:
            return told(name, Verdict.WARNING, problem)
        if not data or data == SYNTHETIC:
            return ok(name, f"{ENV_VAR} is not set: a synthetic catalogue, which needs no data")
        try:
            for products, goals in stored.compiled_kinds(Path(data)) or [(None, "generated")]:
                shop = stored.load(Path(data), products, goals)
                shops.append(f"{len(shop.products)} products with {len(shop.goals)} {goals} goals")
        except TaskError as problem:
            return told(name, Verdict.ERROR, problem)
        return ok(name, f"{data}, compiled: {'; '.join(shops)}")

    @classmethod
    def prepare_command(cls) -> Callable[..., None]:
        """Command that checks and compiles data, or makes a catalogue."""
        from openrlhf_lamer.envs.webshop.command import webshop

        return webshop

    def __init__(
        self,
        data: str = "",
        products: int | None = None,
        goals: GoalKind = "generated",
        reward: RewardScheme = "sparse",
    ) -> None:
        super().__init__(reward)
        if goals not in ("human", "generated"):
            raise TaskError(f"webshop: goals is 'human' or 'generated', not {goals!r}")
        self.data, self.goals = data, goals
        self.products = None if products is None else self._whole("products", products, 1, 10_000_000)
        self.shop = open_shop(data, self.products, goals)
        self.slow = len(self.shop.products) > LARGE
        self._session: Session | None = None
        self._goal = 0
        self._plan: dict[int, str | None] = {}
        """Queries that find the product of a goal, for the goals that the oracle has met."""

    def reset(self, task: Task) -> Observation:
        """Begin an episode: the goal that the task's seed or spec names, at the shop's first page."""
        self._session = None
        self._check_task(task)
        self._goal = self._number(task)
        self._session = Session(self.shop, self.shop.goals[self._goal])
        return self._observation(self._session)

    def step(self, action: str) -> Step:
        """Search or click."""
        session = self._running()
        done = session.act(action)
        info: dict[str, Any] = {"task_score": 0.0}
        won, paid = False, 0.0
        if session.score is not None:
            won = session.score.total == 1.0
            paid = SUCCESS_REWARD * (session.score.total if self.reward == "shaped" else won)
            info = {
                "task_score": session.score.total,
                "type": session.score.type,
                "attributes": session.score.attributes,
                "options": session.score.options,
                "price": session.score.price,
                "tagger": self.shop.tagger,
            }
        return Step(
            observation=self._observation(session),
            reward=float(paid),
            terminated=session.score is not None,
            truncated=False,
            won=won,
            valid=done is not None,
            info=info,
            action=done,
        )

    def anchor(self) -> str:
        """The goal, the page, and everything that is not shown: search, position in it, chosen options."""
        assert self._session is not None
        return f"{self._goal}:{self._session.key()}"

    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        """At worst nothing; at best a purchase with the full score."""
        return 0.0, SUCCESS_REWARD

    def long_states(self) -> tuple[Observation, ...]:
        """The first page; then a full page of results and a product with a dozen options, in turn."""
        name = " ".join(3 * ["black long sleeve cotton shirt, women's size large"])
        top = f"Instruction: [SEP] {name} and {name} [SEP] Back to Search"
        codes = [f"B0123{number:05}" for number in range(PER_PAGE)]
        cards = " [SEP] ".join(f"{code} [SEP] {name} [SEP] $10.50 to $12.50" for code in codes)
        choices = [f"{number} ounces, pack of {number}" for number in range(10, 22)]
        options = " [SEP] ".join(choices)
        return (
            Observation(top),
            Observation(f"{top} [SEP] Next > [SEP] {cards}", _clicks(BACK, NEXT, *map(str.lower, codes))),
            Observation(f"{top} [SEP] {options} [SEP] {name}", _clicks(*BUTTONS, *choices)),
        )

    def oracle(self) -> str | None:
        """The next action towards buying the product that the goal was written for, with the options that it names.

        None where no search is known that finds it.
        """
        session = self._session
        if session is None or session.page is Page.DONE:
            return None
        goal = session.goal
        if session.product == goal.product:
            if session.page is Page.DETAIL:
                return f"click[{PREVIOUS}]"
            choice = _choice(goal, self.shop.products[goal.product])
            missing = (value for name, value in choice.items() if session.options.get(name) != value)
            return f"click[{next(missing, BUY)}]"
        if session.page is Page.RESULTS and goal.product in session.hits:
            page = session.hits.index(goal.product) // PER_PAGE + 1
            if page == session.number:
                return f"click[{self.shop.products[goal.product].asin.lower()}]"
            return f"click[{NEXT if page > session.number else PREVIOUS}]"
        query = self._query(goal)
        return None if query is None else f"search[{query}]"

    def wanted(self) -> str:
        """The instruction."""
        return "" if self._session is None else self._session.goal.instruction

    def why_refused(self, action: str) -> str:
        """The reason: neither a search nor a click, or a target that the page does not offer."""
        name, bracket, target = action.partition("[")
        if name != "click" or not bracket:
            return "write search[words] or click[target]"
        offered = self._running().clickables()
        target = target.rpartition("]")[0].lower()
        guess = f"; did you mean click[{close[0]}]?" if (close := get_close_matches(target, offered, n=1)) else ""
        return f"this page has nothing to click that is called {target!r}{guess}"

    def random_action(self, rng: Any) -> str:
        """A click that the page offers, or a search for words of the instruction; on the first page always a search."""
        session = self._running()
        targets = session.clickables()
        if targets and below(rng, 8):
            return f"click[{choose(rng, targets)}]"
        words = _searchable(session.goal.instruction).split()
        start = below(rng, len(words))
        return f"search[{' '.join(words[start : start + 1 + below(rng, 6)])}]"

    def _running(self) -> Session:
        if self._session is None or self._session.page is Page.DONE:
            raise EpisodeOverError("webshop: no episode is running; call reset first")
        return self._session

    def _number(self, task: Task) -> int:
        """The number of a task's goal."""
        shop = self.shop
        if task.seed is not None:
            place = "test" if task.seed in SEEDS["eval"] else "train"
            numbers = _goals(shop, place)
            first = SEEDS["eval"].start if place == "test" else 0
            return numbers[(task.seed - first) % len(numbers)]
        spec: Mapping[str, Any] = task.spec or {}
        if set(spec) != {"goal", "catalogue"}:
            raise TaskError(f"webshop: a spec has the keys goal and catalogue, not {sorted(map(str, spec))}")
        if str(spec["catalogue"]).partition(" ")[0] != shop.digest:
            raise TaskError(
                f"webshop: the task is of the catalogue {spec['catalogue']}, but {shop.source} is "
                f"{shop.catalogue}: play it with the data and options that it was written with (data, or {ENV_VAR}; "
                "products; goals), or write tasks of this one: openrlhf-lamer prepare tasks --env webshop"
            )
        return self._whole("spec['goal']", spec["goal"], 0, len(shop.goals) - 1)

    def _observation(self, session: Session) -> Observation:
        return Observation(session.text(), _clicks(*session.clickables()))

    def _query(self, goal: Goal) -> str | None:
        """A search that finds the goal's product."""
        if goal.product not in self._plan:
            product = self.shop.products[goal.product]
            tries = map(_searchable, (product.name.lower(), f"{product.name.lower()} {' '.join(product.values)}"))
            found = (query for query in tries if goal.product in self.shop.index.search(query))
            self._plan[goal.product] = next(found, None)
        return self._plan[goal.product]


def _clicks(*targets: str) -> tuple[str, ...]:
    """The actions that click on `targets`."""
    return tuple(f"click[{target}]" for target in targets)


def open_shop(data: str, products: int | None, goals: GoalKind) -> Shop:
    """The shop of these options, shared within this process.

    Raises:
        TaskError: The data is missing, damaged or not prepared, or the extra `webshop` is not installed.
    """
    data = data or os.environ.get(ENV_VAR) or SYNTHETIC
    if data == SYNTHETIC:
        products = products or DEFAULT_PRODUCTS
    key = (data, products, goals)
    with _opening:
        if key not in _shops:
            require()
            if data == SYNTHETIC:
                _shops[key] = _synthetic(products or DEFAULT_PRODUCTS, goals)
            else:
                _shops[key] = stored.load(Path(data), products, goals)
        return _shops[key]


def _synthetic(products: int, goals: GoalKind) -> Shop:
    """The synthetic catalogue in memory. Its tagger is the bundled one: the same scores on every machine."""
    rows = synthetic_rows(products, goals)
    kept: list[Product] = []
    compiled = compile_rows(rows, nouns.bundled, kept.append)
    kept = [product for _, product in sorted(zip(compiled.numbers, kept, strict=True), key=lambda pair: pair[0])]
    places = split(compiled.goals)
    return Shop(
        products=kept,
        goals=compiled.goals,
        kind=goals,
        splits=places,
        index=compiled.index,
        digest=compiled.digest,
        tagger=nouns.BUNDLED,
        origin=SYNTHETIC,
        source=rows.source,
    )


def _goals(shop: Shop, place: str) -> Sequence[int]:
    """Numbers of the goals of a split; raises `TaskError` where there are none."""
    if not shop.splits[place]:
        raise TaskError(f"webshop: {shop.source} has too few goals ({len(shop.goals)}) for a split {place}")
    return shop.splits[place]


def _searchable(text: str) -> str:
    """`text` without brackets and line breaks: an action cannot contain them, and no searchable word does."""
    return re.sub(r"[][\n]", " ", text)


def _choice(goal: Goal, product: Product) -> dict[str, str]:
    """Values of the product's options, by name, that together meet the most options of the goal."""
    # A value that several options have sets the last of them; a value named like a button sets none.
    sets = {
        value: name
        for name, values in product.options.items()
        for value in values
        if value not in BUTTONS and can_be_named(value)
    }

    fits: list[list[tuple[str, str] | None]] = []
    for option in goal.options:
        alike = {value: ratio(comparable(value), option) for value in sets}
        best = (
            max((v for v in sets if sets[v] == name), key=alike.__getitem__, default="") for name in product.options
        )
        fits.append([(sets[value], value) for value in best if alike.get(value, 0) > ALIKE] + [None])

    def met(choice: tuple[tuple[str, str] | None, ...]) -> int:
        chosen = dict(filter(None, choice))
        return sum(pair is not None and chosen[pair[0]] == pair[1] for pair in choice)

    return dict(filter(None, max(itertools.product(*fits), key=met)))

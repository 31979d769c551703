"""WebShop: ranking, pages and trials, as recorded from a checked engine."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import pytest
from webshop_shops import DATA, goal_task, shop_env

from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.envs import Task
from openrlhf_lamer.envs.webshop.env import WebShop
from openrlhf_lamer.envs.webshop.ranking import IndexBuilder, stem, stored_length, words
from openrlhf_lamer.envs.webshop.session import Session
from openrlhf_lamer.policies.scripted import OraclePolicy, RandomPolicy
from openrlhf_lamer.records import Stop, Trial

RECORDED: dict[str, Any] = json.loads((DATA / "ranking.json").read_text("utf-8"))
TRANSCRIPTS: list[dict[str, Any]] = json.loads((DATA / "transcripts.json").read_text("utf-8"))


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:8]


pytest_plugins = "webshop_shops"


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
    """Sessions with equal keys are on the same page and offer the same next steps."""
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

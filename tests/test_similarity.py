"""Anchors by similarity: measure and clusters by hand and against plain code, and what estimators make of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from openrlhf_lamer.advantage import CreditConfig, TurnTable, get, with_returns
from openrlhf_lamer.advantage.groups import codes
from openrlhf_lamer.advantage.similarity import leaders, likeness, merged
from openrlhf_lamer.cli.credit_file import read_case
from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn

Seen = list[tuple[str, str]]
"""Anchor and observation of each turn of an episode."""


def table_of(*trials: tuple[int, list[Seen]], rewards: list[float] | None = None) -> TurnTable:
    """Trials as their group and their episodes; each turn's return is its own reward."""
    paid = iter(rewards or [])
    cases = [
        {
            "group": group,
            "episodes": [
                {
                    "rewards": [next(paid, 0.0) for _ in seen],
                    "anchors": [anchor for anchor, _ in seen],
                    "observations": [text for _, text in seen],
                }
                for seen in episodes
            ],
        }
        for group, episodes in trials
    ]
    return read_case({"gamma_step": 0, "gamma_traj": 0, "trials": cases}).table


def together(table: TurnTable) -> list[set[int]]:
    """Rows of play turns by anchor group, for tables of one turn an episode."""
    anchor = codes(table.group, table.anchor)
    rows = np.flatnonzero(table.plays)
    return sorted(({*rows[anchor[rows] == code].tolist()} for code in set(anchor[rows].tolist())), key=min)


def texts_of(*texts: str) -> TurnTable:
    """One trial a text, all of one group, each with an anchor of its own."""
    return table_of(*((0, [[(f"state {i}", text)]]) for i, text in enumerate(texts)))


class TestMeasure:
    """k words have k + 1 pairs, with a mark (·) at both ends."""

    @pytest.mark.parametrize(
        ("one", "other", "s"),
        [
            ("go to shelf 1", "go to shelf 1", 1),
            ("go to shelf 1", "go to shelf 2", 2 * 3 / 10),  # ·go, go to, to shelf of 5 pairs each
            ("mug 1 on shelf 2", "mug 2 on shelf 1", 2 * 2 / 12),  # ·mug and on shelf of 6 each
            ("a b c d", "a b", 2 * 2 / 8),  # ·a, ab of 5 and 3
            ("a b", "b a", 0),
            ("a a a a", "a a", 2 * 3 / 8),  # ·a, a·, and aa once of three times and once
            ("a  b\n\tc ", "a b c", 1),
            ("", " ", 1),  # the one pair of marks
            ("", "a", 0),
            ("Höhle é", "Höhle è", 2 * 1 / 6),
            ("a\ud800 b", "a\ud800 c", 2 * 1 / 6),  # half of a surrogate pair, as a game may write it
            ("ab c", "a bc", 0),
        ],
    )
    def test_by_hand(self, one: str, other: str, s: float) -> None:
        found = likeness([one, other])
        assert found.tolist() == [[1, pytest.approx(s)], [pytest.approx(s), 1]]

    @settings(deadline=None)
    @given(st.lists(st.text(alphabet="ab é\n", max_size=12), min_size=1, max_size=6))
    @example(["a" * 3000, "a" * 2999, "a " * 3000])
    def test_it_is_what_counters_give(self, texts: list[str]) -> None:
        assert likeness(texts) == pytest.approx(np.array([[plain_likeness(a, b) for b in texts] for a in texts]))

    def test_more_pairs_than_are_counted_at_once(self) -> None:
        long = " ".join(map(str, range(9999)))
        found = likeness([long, long + " end", "no", long.replace("5000", "x")])
        assert found[0] == pytest.approx([1, 2 * 9999 / 20001, 0, 2 * 9998 / 20000])


def plain_likeness(a: str, b: str) -> float:
    one, other = (Counter(pairwise(["", *text.split(), ""])) for text in (a, b))
    return 2 * (one & other).total() / (one.total() + other.total())


class TestLeaders:
    def test_a_chain_does_not_connect_unlike_texts(self) -> None:
        """0 is like 1, 1 like 2, 2 like 3; single links would make them one."""
        ratio = np.eye(4)
        for i, j in ((0, 1), (1, 2), (2, 3)):
            ratio[i, j] = ratio[j, i] = 0.8
        assert leaders(ratio, 0.8).tolist() == [0, 0, 2, 2]
        assert leaders(ratio, 0.81).tolist() == [0, 1, 2, 3]

    def test_each_joins_the_most_similar_leader_and_of_equals_the_first(self) -> None:
        ratio = np.eye(4)
        for i, j, s in ((0, 2, 0.7), (1, 2, 0.9), (0, 3, 0.8), (1, 3, 0.8)):
            ratio[i, j] = ratio[j, i] = s
        assert leaders(ratio, 0.6).tolist() == [0, 1, 1, 0]


class TestStates:
    def test_by_hand(self) -> None:
        """s of neighbours is 0.6, of the first and the third 0.4, and 0 of the last with any.

        "you see cup 2" and "you see mug 1" lead; of these equals, the second text joins the first.
        """
        table = texts_of("you see mug 1", "you see mug 2", "you see cup 2", "nothing")
        assert together(merged(table, 0.6)) == [{0}, {1, 2}, {3}]
        assert together(merged(table, 0.4)) == [{0, 1, 2}, {3}]
        assert together(merged(table, 0.61)) == [{0}, {1}, {2}, {3}]

    def test_the_state_of_most_turns_leads(self) -> None:
        """Once "you see mug 2" has two turns, it leads, and takes both of its neighbours in."""
        mug = ("again", "you see mug 2")
        table = table_of((0, [[("a", "you see mug 1")]]), (0, [[mug]]), (0, [[("c", "you see cup 2")]]), (0, [[mug]]))
        assert together(merged(table, 0.6)) == [{0, 1, 2, 3}]

    def test_one_state_stays_one_whatever_is_seen_there(self) -> None:
        """Its text is the first alphabetically: "b c d" joins it, and "x y z" does not."""
        table = table_of(*((0, [[seen]]) for seen in (("s", "x y z"), ("s", "a c d"), ("t", "b c d"), ("u", "x y w"))))
        assert together(merged(table, 0.5)) == [{0, 1, 2}, {3}]
        assert together(merged(table, 1)) == [{0, 1}, {2}, {3}]

    def test_groups_never_mix_and_reflections_stay(self) -> None:
        seen = [[("a", "one room")], [("b", "one room")]]
        table = table_of((0, seen), (1, seen))
        found = merged(table, 0.5)
        assert together(found) == [{0, 2}, {3, 5}]
        reflections = ~table.plays
        assert np.array_equal(found.anchor[reflections], table.anchor[reflections])

    def test_at_one_the_table_is_the_same_and_needs_no_texts(self) -> None:
        table = replace(texts_of("a", "a"), observation=None)
        assert merged(table, 1) is table
        with pytest.raises(ValueError, match="the column observation"):
            merged(table, 0.9)

    def test_no_turns(self) -> None:
        assert len(merged(table_of(), 0.5)) == 0
        assert merged(table_of((0, [[], []])), 0.5).anchor.tolist() == [-1]


WORDS = st.lists(st.sampled_from("abc"), max_size=5).map(" ".join)
TRIALS = st.lists(
    st.tuples(st.integers(0, 1), st.lists(st.lists(st.tuples(st.sampled_from("stuv"), WORDS), max_size=4), max_size=2)),
    max_size=6,
)
LEVELS = st.sampled_from([0.2, 0.4, 0.5, 0.6, 0.75, 0.9])


def plain_clusters(table: TurnTable, similarity: float) -> list[tuple[int, ...]]:
    """For each play turn, the rows that share its anchor, one state after the other."""
    assert table.observation is not None
    rows = np.flatnonzero(table.plays).tolist()
    states: dict[tuple[int, int], list[int]] = {}
    for row in rows:
        states.setdefault((int(table.group[row]), int(table.anchor[row])), []).append(row)
    text = {state: min(table.observation[row] for row in own) for state, own in states.items()}
    order = sorted(states, key=lambda state: (-len(states[state]), text[state]))
    chosen: list[tuple[int, int]] = []
    for state in order:
        if all(s[0] != state[0] or plain_likeness(text[s], text[state]) < similarity for s in chosen):
            chosen.append(state)
    joined: dict[tuple[int, int], list[int]] = {}
    for state, own in states.items():
        leader = max((s for s in chosen if s[0] == state[0]), key=lambda s: plain_likeness(text[s], text[state]))
        joined.setdefault(leader, []).extend(own)
    of = {row: tuple(sorted(own)) for own in joined.values() for row in own}
    return [of[row] for row in rows]


def clusters(table: TurnTable) -> list[tuple[int, ...]]:
    rows, anchor = np.flatnonzero(table.plays), codes(table.group, table.anchor)
    return [tuple(rows[anchor[rows] == anchor[row]].tolist()) for row in rows]


@settings(deadline=None)
@given(TRIALS, LEVELS)
def test_it_is_the_plain_clustering(trials: Any, similarity: float) -> None:
    table = table_of(*trials)
    assert clusters(merged(table, similarity)) == plain_clusters(table, similarity)


@settings(deadline=None, max_examples=50)
@given(TRIALS, LEVELS, st.randoms(use_true_random=False))
def test_the_order_of_trials_is_immaterial(trials: Any, similarity: float, rng: Any) -> None:
    """Also for the advantages, of both estimators."""
    order = rng.sample(range(len(trials)), len(trials))
    rewards = [[[float(rng.randint(-4, 4)) for _ in seen] for seen in episodes] for _, episodes in trials]

    def advantages(name: str, of: list[int]) -> np.ndarray:
        flat = [reward for i in of for seen in rewards[i] for reward in seen]
        table = table_of(*(trials[i] for i in of), rewards=flat)
        config = CreditConfig(0, 0, options={"similarity": similarity})
        advantage = get(name).estimate(table, config)
        own = {i: advantage[table.trial == position] for position, i in enumerate(of)}
        return np.concatenate([own[i] for i in range(len(trials))] or [np.empty(0)])

    for name in ("lamer_gigpo", "lamer_hgpo"):
        assert advantages(name, order) == pytest.approx(advantages(name, list(range(len(trials)))), abs=1e-9)


@settings(deadline=None)
@given(TRIALS, st.booleans(), st.sampled_from(["lamer_gigpo", "lamer_hgpo"]))
def test_at_one_estimators_do_what_they_did_before(trials: Any, reference: bool, name: str) -> None:
    """To the last bit, with texts and without."""
    count = sum(len(seen) for _, episodes in trials for seen in episodes)
    table = table_of(*trials, rewards=np.random.default_rng(0).normal(size=count).tolist())
    config = CreditConfig(0, 0, reference=reference)
    before = get(name).estimate(replace(table, observation=None), config)
    for options in ({}, {"similarity": 1.0}, {"similarity": "1"}):
        assert np.array_equal(get(name).estimate(table, replace(config, options=options)), before)


@pytest.mark.parametrize("name", ["lamer_gigpo", "lamer_hgpo"])
def test_turns_that_look_alike_are_compared(name: str) -> None:
    """Two trials in states that differ in a word, with G 1 and 3: by similarity, each is compared with 2."""
    table = table_of((0, [[("s", "you see mug 1")]]), (0, [[("t", "you see mug 2")]]), rewards=[1, 3])
    table = with_returns(table, CreditConfig())
    estimate = get(name).estimate
    episode = np.array([-1, 1]) if name == "lamer_gigpo" else np.zeros(2)
    assert estimate(table, CreditConfig()) == pytest.approx(episode)
    assert estimate(table, CreditConfig(options={"similarity": 0.6})) == pytest.approx(episode + np.array([-1, 1]))


def test_hgpo_compares_earlier_states_by_similarity_too() -> None:
    """The turns at "end" follow alike states, so they are in one context at every level."""
    table = table_of(
        (0, [[("s", "you see mug 1"), ("end", "end")]]), (0, [[("t", "you see mug 2"), ("end", "end")]]),
        rewards=[0, 1, 0, 3],
    )  # fmt: skip
    table = replace(table, memory=np.arange(4))
    for similarity, want in ((1, [-1, 1]), (0.6, [-1, 1])):
        options = {"similarity": similarity, "depth": 1, "depth_power": 0}
        assert get("lamer_hgpo").estimate(table, CreditConfig(0, 0, options=options))[[1, 3]].tolist() == want
    third = table_of(
        (0, [[("s", "you see mug 1"), ("end", "end")]]), (0, [[("t", "you see mug 2"), ("end", "end")]]),
        (0, [[("u", "nothing"), ("end", "end")]]), rewards=[0, 1, 0, 3, 0, 8],
    )  # fmt: skip
    third = replace(third, memory=np.arange(6))
    options = {"similarity": 0.6, "depth": 1, "depth_power": 0}
    # Level 0 compares with 4, level 1 the first two with each other, half each.
    advantage = get("lamer_hgpo").estimate(third, CreditConfig(0, 0, options=options))
    assert advantage[[1, 3, 5]].tolist() == [(-3 - 1) / 2, (-1 + 1) / 2, 4]
    options["similarity"] = 1
    assert get("lamer_hgpo").estimate(third, CreditConfig(0, 0, options=options))[[1, 3, 5]].tolist() == [-3, -1, 4]


@pytest.mark.parametrize("similarity", [0, -0.5, 1.1, "nan"])
@pytest.mark.parametrize("name", ["gigpo", "hgpo"])
def test_the_option_is_checked(name: str, similarity: Any) -> None:
    with pytest.raises(ValueError, match=rf"--lamer\.{name}\.similarity .*: .*states of a task count as one"):
        get(f"lamer_{name}").settle(CreditConfig(options={"similarity": similarity}))


def test_live_trials_give_their_observations() -> None:
    def turn(phase: Phase, episode: int, text: str) -> Turn:
        return Turn(phase, episode, int(phase is Phase.REFLECT), (1,), (2,), None, "", "up", True, 0.0, text[:1], text)

    episodes = (
        Episode((turn(Phase.PLAY, 0, "a room"),), Stop.LOST, "over", turn(Phase.REFLECT, 0, "over")),
        Episode((turn(Phase.PLAY, 1, "b room"),), Stop.LOST, "over"),
    )
    trial = Trial(Task("toy", seed=0), episodes)
    table = TurnTable.from_trials([trial], [0])
    assert table.observation is not None
    assert table.observation.tolist() == ["a room", "over", "b room"]
    assert table.observation[0] is trial.episodes[0].turns[0].observation  # not a copy
    part = table.take(table.plays)
    assert part.observation is not None
    assert part.observation.tolist() == ["a room", "b room"]
    assert together(merged(table, 0.3)) == [{0, 2}]

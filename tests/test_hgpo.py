"""`lamer_hgpo`: hand-computed vectors by level, what refines a context, and how tables get their codes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import sqrt
from typing import Any

import numpy as np
import pytest

from openrlhf_lamer.advantage import CreditConfig, TurnTable, get, with_returns
from openrlhf_lamer.advantage.gigpo import step_term
from openrlhf_lamer.advantage.groups import EPS
from openrlhf_lamer.advantage.hgpo import contexts
from openrlhf_lamer.cli.credit_file import read_case
from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn


def episode(rewards: list[float], steps: str, remark: str = "") -> dict[str, Any]:
    """An episode whose turns are written as state and action, such as "ax by"."""
    turns = steps.split()
    return {
        "rewards": rewards,
        "anchors": [turn[0] for turn in turns],
        "actions": [turn[1:] for turn in turns],
        "remark": remark,
    }


def table_of(*trials: list[dict[str, Any]]) -> TurnTable:
    """Trials of one group; every turn's return is its own reward, a reflection's the next episode's first."""
    cases = [{"group": 0, "episodes": episodes} for episodes in trials]
    return read_case({"gamma_step": 0, "gamma_traj": 0, "trials": cases}).table


def advantages(table: TurnTable, **options: Any) -> np.ndarray:
    own = {name: options.pop(name) for name in ("depth", "depth_power") if name in options}
    return get("lamer_hgpo").estimate(table, CreditConfig(**options, options=own))


class TestHistoryByHand:
    """Four trials come to state b with G 6, 2, 1, 3: two through ax, one through ay, one through cx.

    Level 0 compares all, ν = 3. From level 1 on, the first two have each other alone, ν = 4, and the others nobody.
    """

    table = table_of(
        [episode([0, 6], "ax bx")], [episode([0, 2], "ax by")], [episode([0, 1], "ay bx")], [episode([0, 3], "cx bx")]
    )

    def at_b(self, **options: Any) -> np.ndarray:
        return advantages(self.table, **options)[1::2]

    def test_default(self) -> None:
        # Levels 0 … 3 weigh 1 … 4: (1 · 3 + 9 · 2) / 10, (1 · -1 + 9 · -2) / 10.
        assert self.at_b() == pytest.approx([2.1, -1.9, -2, 0])
        assert self.at_b() == pytest.approx(self.at_b(depth=2, depth_power=1, norm="mean"))

    def test_depth(self) -> None:
        assert self.at_b(depth=1) == pytest.approx([13 / 6, -11 / 6, -2, 0])
        # Without history, the memory's level remains, where all remember nothing.
        assert self.at_b(depth=0) == pytest.approx([3, -1, -2, 0])

    def test_depth_power(self) -> None:
        assert self.at_b(depth_power=0) == pytest.approx([9 / 4, -7 / 4, -2, 0])
        assert self.at_b(depth=1, depth_power=2) == pytest.approx([29 / 14, -27 / 14, -2, 0])

    def test_mean_std(self) -> None:
        # σ² at level 0: (3² + 1² + 2² + 0²) / 3; with two: 2 · 2².
        coarse, fine = sqrt(14 / 3) + EPS, sqrt(8) + EPS
        want = [0.1 * 3 / coarse + 0.9 * 2 / fine, -0.1 / coarse - 0.9 * 2 / fine, -2 / coarse, 0]
        assert self.at_b(norm="mean_std") == pytest.approx(want)

    def test_first_turns_have_one_beginning(self) -> None:
        assert advantages(self.table)[::2].tolist() == [0, 0, 0, 0]


class TestMemoryByHand:
    """Three trials in state a, twice each; the remarks are p, p, q; G of episode 1: 8, 4, 0.

    Level 0, all six turns: the trials' means are 4, 2, 0, ν = 2. Last level: episode 0, ν = 0; remark p, ν = 6.
    """

    table = table_of(
        *([episode([0], "ax", remark), episode([g], "ax")] for remark, g in (("p", 8), ("p", 4), ("q", 0)))
    )

    def test_by_hand(self) -> None:
        advantage = advantages(self.table, depth=0).reshape(3, 3)  # play, reflection, play
        assert advantage[:, 0] == pytest.approx(np.full(3, (-2 + 2 * 0) / 3))
        assert advantage[:, 1] == pytest.approx([4, 0, -4])
        assert advantage[:, 2] == pytest.approx([(6 + 2 * 2) / 3, (2 + 2 * -2) / 3, -2])

    def test_what_happened_is_memory_too(self) -> None:
        other = table_of(
            *([episode([0], step, "p"), episode([g], "ax")] for step, g in (("ax", 8.0), ("ay", 4.0), ("ax", 0.0)))
        )
        *_, finest = contexts(other, 2)
        assert finest[2] == finest[8] != finest[5]


def test_a_turn_alone_at_every_level_gets_nothing() -> None:
    assert advantages(table_of([episode([5, 1], "ax bx")], [episode([3, 2], "cx dx")])).tolist() == [0] * 4
    # Two visits by the same trial are not compared.
    assert advantages(table_of([episode([5, 1], "ax ax")], [episode([3, 2], "cx dx")])).tolist() == [0] * 4
    assert advantages(table_of([episode([5, 1], "ax ax")]), reference=True) == pytest.approx([2, -2])


def test_a_trial_weighs_one_in_a_context() -> None:
    table = table_of([episode([4, 4, 4], "ax ax ax")], [episode([0], "ax")])
    # Level 0: ν = 2, over turns 3. The first turns are alike at all levels, the later ones alone from level 1 on.
    assert advantages(table) == pytest.approx([2, 2, 2, -2])
    # Over turns, the later ones have each other at level 1, where they are equal: (1 · 1 + 2 · 0) / 3.
    assert advantages(table, reference=True) == pytest.approx([0.1 * 1 + 0.9 * 2, 1 / 3, 1 / 3, -0.1 * 3 - 0.9 * 2])


def test_groups_and_phases_are_apart_at_every_level() -> None:
    table = table_of([episode([1], "ax"), episode([1], "ax")], [episode([2], "ax")])
    table = replace(table, group=table.trial, anchor=np.zeros(len(table), dtype=int))
    for context in contexts(table, 2):
        assert len(set(context[:3]) & set(context[3:])) == 0
        assert context[1] not in (context[0], context[2])


def test_levels_are_nested_and_the_first_is_gigpos() -> None:
    rng = np.random.default_rng(0)
    trials = [
        [episode(rng.normal(size=k).tolist(), " ".join(rng.choice(["ax", "ay", "bx"], size=k))) for k in lengths]
        for lengths in rng.integers(1, 6, size=(12, 3))
    ]
    table = table_of(*trials)
    levels = list(contexts(table, 3))
    assert len(levels) == 5
    for coarse, fine in pairwise(levels):
        assert len(np.unique(np.stack([coarse, fine]), axis=1)[0]) == len(np.unique(fine))
        assert len(np.unique(fine)) > len(np.unique(coarse))
    # A weight of 0 for all levels but the first leaves GiGPO's step term, where it compares with another trial.
    alone = with_returns(replace(table, memory=table.trial), CreditConfig(0, 0))
    step = step_term(alone, "mean", False)
    shared = np.array([len(np.unique(table.trial[levels[0] == code])) > 1 for code in levels[0]])
    assert advantages(alone, depth=0)[shared] == pytest.approx(step[shared])


@pytest.mark.parametrize("column", ["action", "memory"])
def test_the_columns_must_be_there(column: str) -> None:
    with pytest.raises(ValueError, match="columns action and memory"):
        advantages(replace(TestHistoryByHand.table, **{column: None}))


@pytest.mark.parametrize("options", [{"depth": -1}, {"depth_power": -1}, {"depth_power": np.inf}])
def test_config_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        advantages(TestHistoryByHand.table, **options)


class TestFromTrials:
    """Two trials of three episodes of one turn; they differ in the first remark, or in the first action."""

    def turn(self, phase: Phase, number: int, action: str) -> Turn:
        # Ids and log-probabilities differ from trial to trial; they are no part of what is remembered.
        self.ids += 1
        return Turn(phase, number, int(phase is Phase.REFLECT), (self.ids,), (2,), None, "", action, True, 0, "s", "")

    def trial(self, actions: str, remarks: str) -> Trial:
        episodes = tuple(
            Episode(
                (self.turn(Phase.PLAY, n, action),),
                Stop.LOST,
                "s",
                self.turn(Phase.REFLECT, n, remarks[n]) if n < len(remarks) else None,
            )
            for n, action in enumerate(actions)
        )
        return Trial(Task("toy", seed=0), episodes)

    @pytest.fixture(autouse=True)
    def fresh_ids(self) -> None:
        self.ids = 0

    @pytest.mark.parametrize(
        ("memory", "other", "equal"),
        [
            ("both", ("xyz", "pq"), [True, True, True]),
            ("both", ("xyz", "rq"), [True, False, False]),
            ("both", ("wyz", "pq"), [True, False, False]),
            ("both", ("xyz", "pr"), [True, True, False]),
            ("reflection", ("wyz", "pq"), [True, True, True]),
            ("reflection", ("xyz", "rq"), [True, False, False]),
            ("history", ("xyz", "rq"), [True, True, True]),
            ("history", ("wyz", "pq"), [True, False, False]),
        ],
    )
    def test_memory_is_what_is_shown(self, memory: Any, other: tuple[str, str], equal: list[bool]) -> None:
        table = TurnTable.from_trials([self.trial("xyz", "pq"), self.trial(*other)], [0, 0], memory)
        assert table.memory is not None
        one, two = table.memory.reshape(2, 5)  # play, reflection, play, reflection, play
        assert (one == two)[[0, 2, 4]].tolist() == equal
        assert one[0] == one[1]
        assert one[2] == one[3]
        assert len(set(one[::2])) == 3

    def test_actions(self) -> None:
        table = TurnTable.from_trials([self.trial("xx", "p"), self.trial("yx", "x")], [0, 0])
        assert table.action is not None
        assert table.action.tolist() == [0, 1, 0, 2, 0, 0]

    def test_a_reply_without_an_action_is_an_action_of_its_own(self) -> None:
        trial = self.trial("xx", "p")
        mute = replace(trial.episodes[0], turns=(replace(trial.episodes[0].turns[0], action=None),))
        table = TurnTable.from_trials([replace(trial, episodes=(mute, trial.episodes[1]))], [0])
        assert table.action is not None
        assert len(set(table.action.tolist())) == 3

"""`lamer_gigpo`: hand-computed vectors for each term, the reference's quirks, golden vectors."""

from __future__ import annotations

from dataclasses import replace
from json import loads
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openrlhf_lamer.advantage import CreditConfig, TurnTable, get
from openrlhf_lamer.advantage.gigpo import episode_term, step_term
from openrlhf_lamer.advantage.groups import EPS
from openrlhf_lamer.cli.credit_file import read_case
from openrlhf_lamer.vocabulary import Norm

GOLDEN = loads((Path(__file__).parent / "data" / "credit.json").read_text())


@pytest.mark.parametrize(("norm", "key"), [("mean", "gigpo_mean_norm"), ("mean_std", "gigpo_mean_std_norm")])
@pytest.mark.parametrize("case", GOLDEN)
def test_golden(case: dict[str, Any], norm: Norm, key: str) -> None:
    laid_out = read_case(case, cross_episode="chained", norm=norm, reference=True)
    assert np.allclose(get("lamer_gigpo").estimate(laid_out.table, laid_out.config), case[key], rtol=0, atol=1e-5)


def trial(*episodes: dict[str, float], group: int = 0) -> dict[str, Any]:
    """A trial from one mapping per episode, from anchor to reward."""
    laid_out = [{"rewards": list(turns.values()), "anchors": list(turns)} for turns in episodes]
    return {"group": group, "episodes": laid_out}


def table_of(*trials: dict[str, Any], gamma_traj: float = 0.5) -> TurnTable:
    return read_case({"gamma_step": 1, "gamma_traj": gamma_traj, "trials": list(trials)}).table


class TestByHand:
    """Two trials of one group; γ_step = 1, γ_traj = ½.

        row            0   1   2        3   4
        trial          0   0   0        1   1
        episode        0   0   1        0   0
        turn           a   remark  a    a   b
        reward         0   -   4        0   1
        G              2   4   4        1   1

    Episode rewards: trial 0 has 0 and 4, trial 1 has 1. μ = ½(½(0 + 4) + 1) = 1.5.
    Anchor a: trial 0 has G 2 and 4, mean 3; trial 1 has 1; ν = 2. Anchor b and the reflection are alone.
    """

    table = table_of(trial({"a": 0}, {"a": 4}), trial({"a": 0, "b": 1}))

    def test_episode_term(self) -> None:
        assert episode_term(self.table, "mean", False) == pytest.approx([-1.5, 0, 2.5, -0.5, -0.5])

    def test_step_term(self) -> None:
        assert step_term(self.table, "mean", False) == pytest.approx([0, 0, 2, -1, 0])

    def test_default(self) -> None:
        estimate = get("lamer_gigpo").estimate
        assert estimate(self.table, CreditConfig()) == pytest.approx([-1.5, 0, 4.5, -1.5, -0.5])
        assert estimate(self.table, CreditConfig(options={"step_weight": 2})) == pytest.approx(
            [-1.5, 0, 6.5, -2.5, -0.5]
        )
        assert estimate(self.table, CreditConfig(options={"step_weight": 0})) == pytest.approx(
            [-1.5, 0, 2.5, -0.5, -0.5]
        )

    def test_mean_std(self) -> None:
        # σ² of episodes: ½(1.5² + 2.5²) + 0.5² over 2 - 1; of anchor a: ½(0² + 2²) + 1² over 2 - 1; 1 where alone.
        episode = np.array([-1.5, 0, 2.5, -0.5, -0.5]) / (sqrt(4.5) + EPS)
        step = np.array([0, 0, 2, -1, 0]) / (sqrt(3) + EPS)
        assert episode_term(self.table, "mean_std", False) == pytest.approx(episode)
        assert step_term(self.table, "mean_std", False) == pytest.approx(step)

    def test_reference_counts_an_episode_once_per_turn_and_reflections_as_zero(self) -> None:
        # Rows' episode rewards 0, 0, 4, 1, 1: mean 1.2, and the reflection pays for it.
        assert episode_term(self.table, "mean", True) == pytest.approx([-1.2, -1.2, 2.8, -0.2, -0.2])
        assert step_term(self.table, "mean", True) == pytest.approx([2 - 7 / 3, 0, 4 - 7 / 3, 1 - 7 / 3, 0])


def test_reflections_are_compared_within_one_episode_index() -> None:
    # G of the reflections: trial 0: 2 + ½·8 = 6 and 8; trial 1: 4. By default 6 meets 4, and 8 is alone.
    table = table_of(trial({"a": 0}, {"a": 2}, {"a": 8}), trial({"a": 0}, {"a": 4}))
    reflections = table.phase == 1
    assert table.returns[reflections].tolist() == [6, 8, 4]
    assert step_term(table, "mean", False)[reflections] == pytest.approx([1, 0, -1])
    assert step_term(table, "mean", True)[reflections] == pytest.approx([0, 2, -2])
    assert episode_term(table, "mean", False)[reflections].tolist() == [0, 0, 0]


def test_a_reflection_meets_no_play_turn_of_the_same_code() -> None:
    table = table_of(trial({"a": 0}, {"a": 2}), trial({"a": 0}, {"a": 4}))
    recoded = replace(table, anchor=np.zeros(len(table), dtype=int))
    assert np.array_equal(step_term(recoded, "mean", False), step_term(table, "mean", False))


def test_equal_anchors_of_two_groups_are_two_states() -> None:
    table = table_of(trial({"a": 1}), trial({"a": 3}), trial({"a": 10}, group=1), trial({"a": 30}, group=1))
    assert step_term(table, "mean", False) == pytest.approx([-1, 1, -10, 10])


def test_group_of_one_turn() -> None:
    """By default its mean is its own reward; in the reference's episode term it is 0."""
    table = table_of(trial({"a": 4}))
    for config, quirk in ((CreditConfig(norm="mean"), 4), (CreditConfig(norm="mean_std"), 4 / (1 + EPS))):
        assert get("lamer_gigpo").estimate(table, config).tolist() == [0]
        assert get("lamer_gigpo").estimate(table, replace(config, reference=True)) == pytest.approx([quirk], rel=1e-12)


def test_play_rewards_alone_make_the_episode_reward() -> None:
    table = table_of(trial({"a": 0}, {"a": 4}), trial({"a": 2}))
    fined = replace(table, reward=table.reward - 0.5 * (table.phase == 1))
    for reference in (False, True):
        assert np.array_equal(episode_term(fined, "mean", reference), episode_term(table, "mean", reference))

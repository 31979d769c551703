"""`lamer_pkpo`: hand-computed vectors, every subset by brute force, small groups, and its scale."""

from __future__ import annotations

from itertools import combinations, product
from math import comb, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_lamer.advantage import CreditConfig, TurnTable, get
from openrlhf_lamer.advantage.groups import EPS
from openrlhf_lamer.advantage.pkpo import advantages
from openrlhf_lamer.cli.credit_file import read_case


def table_of(*rewards: list[list[float]], groups: list[int] | None = None) -> TurnTable:
    """Trials as lists of episodes as lists of play rewards."""
    trials = [
        {"group": group, "episodes": [{"rewards": own, "anchors": ["s"] * len(own)} for own in trial]}
        for trial, group in zip(rewards, groups or [0] * len(rewards), strict=True)
    ]
    return read_case({"gamma_step": 0.5, "gamma_traj": 0.5, "trials": trials}).table


def estimate(table: TurnTable, k: int, **options: Any) -> np.ndarray:
    config = CreditConfig(gamma_step=0.5, gamma_traj=0.5, options={"k": k}, **options)
    return get("lamer_pkpo").estimate(table, config)


def one_group(reward: list[float], k: int) -> list[float]:
    return advantages(np.array(reward, dtype=float), np.zeros(len(reward), dtype=int), k).tolist()


def by_subsets(g: list[float], k: int) -> list[float]:
    """n · s^(loo-1): over all k-subsets that hold i, their maximum less the maximum without i, by hand."""
    n = len(g)
    if min(k, n) == 1:
        return [g[i] - (sum(g) - g[i]) / (n - 1) if n > 1 else 0.0 for i in range(n)]
    k = min(k, n)
    out = [0.0] * n
    for subset in combinations(range(n), k):
        for i in subset:
            out[i] += max(g[j] for j in subset) - max(g[j] for j in subset if j != i)
    return [n * total / comb(n, k) for total in out]


class TestByHand:
    """Four attempts earn 0, 10, 4, 10."""

    reward = [0.0, 10.0, 4.0, 10.0]

    def test_two(self) -> None:
        # For 4, the other one is 0, 10 or 10: 2 · (4 + 0 + 0) / 3. For a 10 it is 0, 4 or 10: 2 · (10 + 6 + 0) / 3.
        assert one_group(self.reward, 2) == pytest.approx([0, 32 / 3, 8 / 3, 32 / 3])

    def test_three(self) -> None:
        # For a 10, the other two have the maximum 4, or 10 twice: 3 · 6 / 3. A 4 is never the best of three.
        assert one_group(self.reward, 3) == pytest.approx([0, 6, 0, 6])

    def test_four(self) -> None:
        # All four: a 10 is no better than the other 10.
        assert one_group(self.reward, 4) == [0, 0, 0, 0]

    def test_one_is_leave_one_out(self) -> None:
        assert one_group(self.reward, 1) == pytest.approx([-8, 16 / 3, -8 / 3, 16 / 3])

    def test_every_turn_gets_its_trials(self) -> None:
        # Sums of turns, whatever γ_step is: 0, 10, 4, 10.
        table = table_of([[1, -1]], [[0, 0, 10]], [[4]], [[5, 5]])
        advantage = estimate(table, 2)
        assert advantage == pytest.approx(np.repeat([0, 32 / 3, 8 / 3, 32 / 3], [2, 3, 1, 2]))
        sigma = sqrt((6**2 + 4**2 + 2**2 + 4**2) / 3)
        assert estimate(table, 2, norm="mean_std") == pytest.approx(advantage / (sigma + EPS))

    def test_of_several_episodes_the_trial_is_the_sample(self) -> None:
        # γ_traj = ½: 2 + ½ · 4 = 4, and 1; the reflection between has no reward of its own.
        assert estimate(table_of([[2], [4]], [[1]]), 2).tolist() == [6, 6, 6, 0]

    def test_groups_are_apart(self) -> None:
        table = table_of([[0]], [[1]], [[100]], [[104]], groups=[7, 7, 3, 3])
        assert estimate(table, 2).tolist() == [0, 2, 0, 8]


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.floats(-10, 10) | st.integers(-2, 2).map(float) | st.just(10.0), min_size=1, max_size=8),
    st.integers(1, 9),
)
def test_it_is_the_mean_over_all_subsets(reward: list[float], k: int) -> None:
    """Real rewards, with ties; groups that are smaller than k compare all that there are."""
    assert one_group(reward, k) == pytest.approx(by_subsets(reward, k), abs=1e-9)


@given(st.integers(1, 12), st.data())
def test_wins_and_losses_have_a_closed_form(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(2, 12))
    k, wins = min(k, n), [1.0] * c + [0.0] * (n - c)
    win = k * comb(n - c, k - 1) / comb(n - 1, k - 1)
    if k > 1:
        assert one_group(wins, k) == pytest.approx([win] * c + [0] * (n - c))


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=8), max_size=6), st.integers(1, 9), st.randoms())
def test_groups_of_unequal_size_in_any_order(groups: list[list[float]], k: int, rng: Any) -> None:
    """The vectorised computation over all groups equals the one group by group."""
    rows = [(group, i) for group, own in enumerate(groups) for i in range(len(own))]
    rng.shuffle(rows)
    reward = np.array([groups[group][i] for group, i in rows])
    found = advantages(reward, np.array([group for group, _ in rows], dtype=int), k)
    alone = [by_subsets(own, k) for own in groups]
    assert found == pytest.approx([alone[group][i] for group, i in rows], abs=1e-9)


def test_equal_rewards_give_exactly_nothing() -> None:
    """So that a group that teaches nothing is seen to teach nothing."""
    assert one_group([0.1] * 7, 3) == [0] * 7
    assert one_group([0.1, 0.1, 0.3, 0.1], 2)[:2] == [0, 0]


def test_large_groups_do_not_overflow() -> None:
    """C(5000, 2500) overflows a float. Two of 5000 trials win, and a subset holds half of the trials."""
    n, k = 5000, 2500
    advantage = one_group([1.0, 1.0] + [0.0] * (n - 2), k)
    # k · C(n-2, k-1) / C(n-1, k-1) = k · (n - k) / (n - 1).
    assert advantage[:2] == pytest.approx([k * (n - k) / (n - 1)] * 2, rel=1e-9)
    assert set(advantage[2:]) == {0.0}


@pytest.mark.parametrize("k", [0, -1, "many"])
def test_k_is_checked(k: Any) -> None:
    with pytest.raises(ValueError, match=r"--lamer\.pkpo\.k"):
        get("lamer_pkpo").settle(CreditConfig(options={"k": k}))


@pytest.mark.parametrize(("n", "k"), [(4, 1), (4, 2), (4, 3), (4, 4), (3, 2)])
def test_exactly_unbiased_for_the_best_of_k(n: int, k: int) -> None:
    """Over all groups of n draws from three actions: E[(1/n) Σ score · A] is the gradient of E[max of k]."""
    reward, logits = np.array([0.3, -1.0, 2.0]), np.array([0.4, 0.1, -0.7])
    chance = np.exp(logits) / np.exp(logits).sum()
    score = np.eye(3) - chance

    def expected(size: int, value: Any) -> Any:
        groups = np.array(list(product(range(3), repeat=size)))
        return sum(np.prod(chance[drawn]) * value(drawn) for drawn in groups)

    found = expected(n, lambda drawn: np.array(one_group(reward[drawn].tolist(), k)) @ score[drawn] / n)
    gradient = expected(k, lambda drawn: reward[drawn].max() * score[drawn].sum(axis=0))
    assert found == pytest.approx(gradient, abs=1e-12)

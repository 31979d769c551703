"""`lamer_ppo`: hand-computed vectors along the chain of turns, and its ties to the chained returns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_lamer.advantage import PLAY, REFLECT, CreditConfig, TurnTable, get, with_returns
from openrlhf_lamer.advantage.groups import EPS
from openrlhf_lamer.advantage.table import FloatArray


def table_of(*turns: tuple[int, int, int, float, float]) -> TurnTable:
    """Turns as (trial, episode, phase, reward, value), all of one group and one anchor."""
    trial, episode, phase, reward, values = (np.array(column) for column in zip(*turns, strict=True))
    zeros = np.zeros(len(turns), dtype=int)
    index = np.arange(len(turns))
    return TurnTable(zeros, trial, episode, index, phase, reward.astype(float), zeros, values=values.astype(float))


def advantages(table: TurnTable, **options: Any) -> FloatArray:
    config = get("lamer_ppo").settle(CreditConfig(**options))
    return get("lamer_ppo").estimate(with_returns(table, config), config)


def targets(table: TurnTable, **options: Any) -> FloatArray:
    config = get("lamer_ppo").settle(CreditConfig(**options))
    function = get("lamer_ppo").targets
    assert function is not None
    return function(with_returns(table, config), config)


class TestByHand:
    """One trial; γ_step = ½, γ_traj = ¼.

    turn        0       1                     reflection   0
    reward r    1       2                     -½           4
    value V     1       2                     3            4
    d           ½       ¼                     1            0
    ρ           1       2 + ¼ · ½             -½           4
    δ           1       2.125 + ¾ - 2         -½ + 4 - 3   0
    """

    table = table_of((0, 0, PLAY, 1, 1), (0, 0, PLAY, 2, 2), (0, 0, REFLECT, -0.5, 3), (0, 1, PLAY, 4, 4))
    gammas = {"gamma_step": 0.5, "gamma_traj": 0.25}

    def test_default_is_lambda_one(self) -> None:
        assert advantages(self.table, **self.gammas).tolist() == [1.5, 1, 0.5, 0]
        assert targets(self.table, **self.gammas).tolist() == [2.5, 3, 3.5, 4]

    def test_lambda_at_turn_boundaries(self) -> None:
        assert advantages(self.table, **self.gammas, lambd=0.5).tolist() == [1.234375, 0.9375, 0.5, 0]
        assert targets(self.table, **self.gammas, lambd=0.5).tolist() == [2.234375, 2.9375, 3.5, 4]
        assert advantages(self.table, **self.gammas, lambd=0).tolist() == [1, 0.875, 0.5, 0]

    def test_without_a_reflection_the_next_first_turn_follows(self) -> None:
        table = table_of((0, 0, PLAY, 1, 1), (0, 0, PLAY, 2, 2), (0, 1, PLAY, 4, 4))
        assert advantages(table, **self.gammas, lambd=0).tolist() == [1, 2 + 0.25 * 4 - 2, 0]
        assert targets(table, **self.gammas).tolist() == [2.5, 3, 4]

    def test_a_reflections_penalty_reaches_no_earlier_turn(self) -> None:
        free = replace(self.table, reward=np.where(self.table.plays, self.table.reward, 0.0))
        change = targets(self.table, **self.gammas) - targets(free, **self.gammas)
        assert change.tolist() == [0, 0, -0.5, 0]

    def test_a_trailing_reflection_and_the_next_trial(self) -> None:
        table = table_of((0, 0, PLAY, 1, 0), (0, 0, REFLECT, -0.5, 0), (1, 0, PLAY, 8, 5))
        assert targets(table, **self.gammas).tolist() == [1, -0.5, 8]
        assert advantages(table, **self.gammas, lambd=0).tolist() == [1.125, -0.5, 3]

    def test_mean_std_is_over_the_batch_with_equal_trials(self) -> None:
        table = table_of((0, 0, PLAY, 0, 0), (0, 0, PLAY, 2, 0), (1, 0, PLAY, 4, 0))
        # At γ = 0 the rewards; the trials' means are 1 and 4: μ = 2.5, σ² = ½(2.5² + 0.5²) + 1.5².
        want = np.array([-2.5, -0.5, 1.5]) / (np.sqrt(5.5) + EPS)
        options: dict[str, Any] = {"gamma_step": 0, "gamma_traj": 0, "norm": "mean_std"}
        assert advantages(table, **options) == pytest.approx(want)
        assert targets(table, **options).tolist() == [0, 2, 4]

    def test_reference_changes_nothing(self) -> None:
        assert np.array_equal(advantages(self.table, reference=True), advantages(self.table))


@pytest.mark.parametrize("gamma_traj", [0, 1])
def test_whole_numbers_are_discounts_like_others(gamma_traj: int) -> None:
    """γ_step = ½ stays ½ beside an integer γ_traj."""
    table = TestByHand.table
    own, later = advantages(table, gamma_step=0.5, gamma_traj=gamma_traj), 4.0 * gamma_traj
    assert own.tolist() == [1 + 0.5 * (2 + later) - 1, 2 + later - 2, 0.5, 0]
    assert own.tolist() == advantages(table, gamma_step=0.5, gamma_traj=float(gamma_traj)).tolist()


def test_the_papers_form_is_refused() -> None:
    config = CreditConfig(cross_episode="paper")
    table = with_returns(TestByHand.table, config)
    for function in (get("lamer_ppo").estimate, get("lamer_ppo").targets):
        assert function is not None
        with pytest.raises(ValueError, match=r"--lamer\.cross_episode paper: lamer_ppo .* give chained"):
            function(table, config)


def test_values_must_be_there_and_finite() -> None:
    table = with_returns(replace(TestByHand.table, values=None), CreditConfig())
    with pytest.raises(ValueError, match="lamer_ppo needs the critic's value of every turn"):
        get("lamer_ppo").estimate(table, CreditConfig())
    with pytest.raises(ValueError, match=r"row 3 .*: the critic's value is not finite"):
        replace(table, values=np.array([0, 0, 0, np.inf]))
    with pytest.raises(ValueError, match="one length"):
        replace(table, values=np.zeros(3))


ROWS = st.tuples(st.floats(-10, 10), st.floats(-10, 10))
EPISODES = st.tuples(st.lists(ROWS, max_size=4), ROWS | st.none())
"""Play turns, possibly none, and a reflection or none."""
TRIALS = st.lists(st.lists(EPISODES, max_size=4), min_size=1, max_size=4)
DISCOUNTS = st.sampled_from([0.0, 1.0]) | st.floats(0, 1)


@settings(deadline=None)
@given(trials=TRIALS, gamma_step=DISCOUNTS, gamma_traj=DISCOUNTS)
def test_at_lambda_one_it_is_the_chained_return_less_the_value(
    trials: list[list[tuple[list[tuple[float, float]], tuple[float, float] | None]]],
    gamma_step: float,
    gamma_traj: float,
) -> None:
    turns = [
        (i, n, phase, *row)
        for i, trial in enumerate(trials)
        for n, (plays, reflection) in enumerate(trial)
        for phase, row in [(PLAY, play) for play in plays] + ([(REFLECT, reflection)] if reflection else [])
    ]
    if not turns:
        return
    table = table_of(*turns)
    assert table.values is not None
    config = CreditConfig(gamma_step, gamma_traj, "chained")
    chained = with_returns(table, config)
    gammas = {"gamma_step": gamma_step, "gamma_traj": gamma_traj}
    assert targets(table, **gammas) == pytest.approx(chained.returns, abs=1e-9)
    assert advantages(table, **gammas) == pytest.approx(chained.returns - table.values, abs=1e-9)
    without = replace(table, values=np.zeros(len(table)))
    assert advantages(without, **gammas) == pytest.approx(chained.returns, abs=1e-9)


@settings(deadline=None)
@given(st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_equals_the_naive_recursion(lambd: float, seed: int) -> None:
    """One trial of ragged episodes, walked backwards turn by turn."""
    rng = np.random.default_rng(seed)
    turns = []
    for n in range(4):
        turns += [(0, n, PLAY, rng.normal(), rng.normal()) for _ in range(rng.integers(1, 4))]
        turns += [(0, n, REFLECT, -0.5, rng.normal())] * (n < 3)
    want = np.zeros(len(turns))
    for t in reversed(range(len(turns))):
        _, n, phase, reward, value = turns[t]
        if t + 1 == len(turns):
            want[t] = reward - value
            continue
        _, following, next_phase, next_reward, next_value = turns[t + 1]
        if phase == REFLECT:
            gamma = 1.0
        else:
            gamma = 0.9 if (following, next_phase) == (n, PLAY) else 0.6
        earned = reward - gamma * next_reward * (next_phase == REFLECT)
        want[t] = earned + gamma * next_value - value + gamma * lambd * want[t + 1]
    assert advantages(table_of(*turns), gamma_step=0.9, gamma_traj=0.6, lambd=lambd) == pytest.approx(want)


def test_no_turns() -> None:
    empty = np.zeros(0, dtype=int)
    table = TurnTable(empty, empty, empty, empty, empty, np.zeros(0), empty, values=np.zeros(0))
    assert advantages(table).tolist() == targets(table).tolist() == []

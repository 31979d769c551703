"""Difference credit: an episode is paid what it earns above the one before. By hand, and against a plain walk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_lamer.advantage import REFLECT, CreditConfig, TurnTable, get, with_returns
from openrlhf_lamer.advantage.returns import paid
from openrlhf_lamer.cli.credit_file import read_case
from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn

HALF = {"gamma_step": 0.5, "gamma_traj": 0.25}
DISCOUNTS = st.sampled_from([0.0, 1.0]) | st.floats(0, 1)


def table_of(*trials: list[list[float]], valid: list[list[list[bool]]] | None = None) -> TurnTable:
    """Trials as lists of episodes as lists of play rewards, all of one group and one anchor."""
    cases = []
    for i, trial in enumerate(trials):
        episodes: list[dict[str, Any]] = [{"rewards": own, "anchors": ["s"] * len(own)} for own in trial]
        for n, episode in enumerate(episodes):
            if valid is not None:
                episode["valid"] = valid[i][n]
        cases.append({"group": 0, "episodes": episodes})
    return read_case({"gamma_step": 1, "gamma_traj": 1, "trials": cases}).table


def returns_of(table: TurnTable, form: Any = "difference", **gammas: Any) -> list[float]:
    return with_returns(table, CreditConfig(cross_episode=form, **gammas)).returns.tolist()


class TestByHand:
    """One trial: episode 0 earns 1, 2; a reflection; episode 1 earns 4. γ_step = ½, γ_traj = ¼.

    turn        0              1              reflection   0
    reward      1              2              0            4
    paid        0              3 - 0          0            4 - 3
    G           ½ · 3.25       3 + ¼ · 1      1            1
    """

    table = table_of([[1, 2], [4]])

    def test_rewards_and_returns(self) -> None:
        assert paid(self.table).tolist() == [0, 3, 0, 1]
        assert returns_of(self.table, **HALF) == [1.625, 3.25, 1, 1]
        assert self.table.reward.tolist() == [1, 2, 0, 4]

    def test_a_worse_episode_is_charged(self) -> None:
        # 8, then 2, then 6: paid 8, -6, 4, one turn each.
        table = table_of([[8], [2], [6]])
        assert paid(table).tolist() == [8, 0, -6, 0, 4]
        assert returns_of(table, **HALF) == [8 + 0.25 * (-6 + 0.25 * 4), -5, -5, 4, 4]

    def test_fines_stay_on_their_turns_and_are_not_paid_back(self) -> None:
        """The first action of episode 0, the last one of episode 1 and the first reflection are refused."""
        table = table_of([[-0.5, 0], [1, -0.5], [4]], valid=[[[False, True], [True, False], [True]]])
        fined = replace(table, reward=np.where((table.phase == REFLECT) & (table.episode == 0), -0.5, table.reward))
        # R is 0, 1, 4: the refused last turn of episode 1 is also paid 1 - 0.
        assert paid(fined).tolist() == [-0.5, 0, -0.5, 0, 0.5, 0, 3]
        late = 0.5 + 0.25 * 3
        assert returns_of(fined, **HALF) == [
            *(-0.5 + 0.5 * 0.25 * 0.5 * late, 0.25 * 0.5 * late, -0.5 + 0.5 * late),
            *(0.5 * late, late, 3, 3),
        ]

    def test_where_fines_are_not_known_they_count_as_earned(self) -> None:
        table = replace(table_of([[-1], [0]]), valid=None)
        assert paid(table).tolist() == [-1, 0, 1]

    def test_an_episode_without_turns_is_passed_over(self) -> None:
        table = table_of([[3], [], [8]])  # rows: play 0, reflection 0, reflection 1, play 2
        assert paid(table).tolist() == [3, 0, 0, 5]
        assert returns_of(table, gamma_step=1, gamma_traj=0.5) == [3 + 0.25 * 5, 2.5, 5, 5]

    def test_trials_do_not_mix(self) -> None:
        first, second = [[1.0], [2.0, 3.0]], [[5.0, 0.0], [7.0]]
        alone = returns_of(table_of(first), **HALF) + returns_of(table_of(second), **HALF)
        assert returns_of(table_of(first, second), **HALF) == alone

    def test_small_tables(self) -> None:
        assert returns_of(table_of()) == []
        assert returns_of(table_of([])) == []
        assert returns_of(table_of([[], []])) == [0]
        assert returns_of(table_of([[1, 2]]), gamma_step=0.5) == [1.5, 3]


def walk(trial: list[list[float]], valid: list[list[bool]], gamma_step: float, gamma_traj: float) -> list[float]:
    """A trial's returns one turn after the other, as MAGE's code has them, with fines on their turns."""
    earned = [sum(r for r, v in zip(*episode, strict=True) if v) for episode in zip(trial, valid, strict=True)]
    out: list[float] = []
    later = 0.0
    for n in reversed(range(len(trial))):
        last = len(trial[n]) - 1
        for t in reversed(range(len(trial[n]))):
            reward = 0.0 if valid[n][t] else trial[n][t]
            if t == last:
                reward += earned[n] - (earned[n - 1] if n else 0.0)
            later = reward + (gamma_traj if t == last else gamma_step) * later
            out.insert(0, later)
        if n:
            out.insert(0, later)  # the reflection
    return out


@st.composite
def trials(draw: st.DrawFn) -> tuple[list[list[list[int]]], list[list[list[bool]]]]:
    """Trials of rewards, and which of their turns are valid."""
    lengths = draw(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), max_size=4))
    rewards = [[draw(st.lists(st.integers(-9, 9), min_size=k, max_size=k)) for k in trial] for trial in lengths]
    valid = [[draw(st.lists(st.booleans(), min_size=k, max_size=k)) for k in trial] for trial in lengths]
    return rewards, valid


@settings(deadline=None)
@given(trials(), DISCOUNTS, DISCOUNTS)
def test_it_is_the_plain_walk(drawn: Any, gamma_step: float, gamma_traj: float) -> None:
    rewards, valid = drawn
    table = table_of(*rewards, valid=valid)
    want = [g for own, of in zip(rewards, valid, strict=True) for g in walk(own, of, gamma_step, gamma_traj)]
    assert returns_of(table, gamma_step=gamma_step, gamma_traj=gamma_traj) == pytest.approx(want, abs=1e-9)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.lists(st.booleans(), min_size=1, max_size=5), min_size=1, max_size=4), min_size=1, max_size=4),
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.lists(st.booleans(), min_size=16, max_size=16),
    DISCOUNTS,
    DISCOUNTS,
)
def test_win_or_nothing_with_a_stop_at_success_is_chained(
    valid: Any, won: list[bool], remarks: list[bool], gamma_step: float, gamma_traj: float
) -> None:
    """For all discounts, fines included: no episode but the last earns anything, and that on its last turn."""
    rewards = [[[-0.5 * (not ok) for ok in episode] for episode in trial] for trial in valid]
    for trial, ok, wins in zip(rewards, valid, won, strict=False):
        if wins:  # only an accepted action wins
            trial[-1][-1], ok[-1][-1] = 10.0, True
    table = table_of(*rewards, valid=valid)
    reflection = np.flatnonzero(table.phase == REFLECT)
    fines = np.zeros(len(table))
    fines[reflection] = -0.5 * np.array(remarks)[: len(reflection)]
    table = replace(table, reward=table.reward + fines)
    gammas = {"gamma_step": gamma_step, "gamma_traj": gamma_traj}
    assert returns_of(table, "difference", **gammas) == pytest.approx(returns_of(table, "chained", **gammas), abs=1e-12)


@pytest.mark.parametrize(
    "trial",
    [
        pytest.param([[10.0], [10.0]], id="goes on after success"),
        pytest.param([[3.0], [10.0]], id="a lost episode pays"),
        pytest.param([[1.0, 10.0]], id="a turn before the last pays"),
    ],
)
def test_otherwise_it_is_not_chained(trial: list[list[float]]) -> None:
    table = table_of(trial)
    assert returns_of(table, "difference", **HALF) != returns_of(table, "chained", **HALF)


@given(st.lists(st.lists(st.integers(-9, 9), min_size=1, max_size=4), min_size=1, max_size=4))
def test_without_discounts_it_telescopes_to_the_last_episode(trial: list[list[float]]) -> None:
    """G of a turn in episode n is R of the last episode less R_{n-1}: the last attempt is all that counts."""
    table = table_of(trial)
    earned = [float(sum(episode)) for episode in trial]
    want = [earned[-1] - (earned[n - 1] if n else 0) for n in table.episode + (table.phase == REFLECT)]
    assert returns_of(table, gamma_step=1, gamma_traj=1) == want


def test_gigpos_episode_term_compares_differences() -> None:
    """One turn an episode: R 4, then 6; the other trial 2, then 8. Paid 4, 2, and 2, 6; μ = ½(½(4 + 2) + ½(2 + 6))."""
    table = table_of([[4], [6]], [[2], [8]])
    config = CreditConfig(gamma_step=1, gamma_traj=1, cross_episode="difference", options={"step_weight": 0})
    advantage = get("lamer_gigpo").estimate(with_returns(table, config), config)
    assert advantage.tolist() == [0.5, 0, -1.5, -1.5, 0, 2.5]


@settings(deadline=None)
@given(trials(), DISCOUNTS, DISCOUNTS, st.integers(0, 9))
def test_ppo_takes_it_as_a_recursion(drawn: Any, gamma_step: float, gamma_traj: float, seed: int) -> None:
    """At λ = 1 its advantage is G less the value, as in the chained form."""
    config = CreditConfig(gamma_step, gamma_traj, "difference")
    table = with_returns(table_of(*drawn[0], valid=drawn[1]), config)
    table = replace(table, values=np.random.default_rng(seed).normal(size=len(table)))
    targets = get("lamer_ppo").targets
    assert targets is not None
    assert table.values is not None
    assert get("lamer_ppo").settle(config) == replace(config, norm="mean")
    assert get("lamer_ppo").estimate(table, config) == pytest.approx(table.returns - table.values, abs=1e-9)
    assert targets(table, config) == pytest.approx(table.returns, abs=1e-9)


def test_live_trials_say_which_actions_were_refused() -> None:
    def turn(index: int, valid: bool, reward: float) -> Turn:
        return Turn(Phase.PLAY, 0, index, (1,), (2,), None, "", "up", valid, reward, "s", "a room")

    trial = Trial(Task("toy", seed=0), (Episode((turn(0, False, -0.5), turn(1, True, 0.0)), Stop.LOST, ""),))
    table = TurnTable.from_trials([trial, trial], [0, 0])
    assert table.valid is not None
    assert table.valid.tolist() == [0, 1, 0, 1]

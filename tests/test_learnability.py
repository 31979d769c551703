"""Learnability of groups of trials, and how often their tasks are drawn then, against plain computations."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_lamer import advantage
from openrlhf_lamer.advantage import TurnTable
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.learnability import FLOOR, SMOOTHING, TaskWeights, filters_by_wins, learnability, trial_returns
from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn

CONFIG = LamerConfig()  # γ_step 0.95, γ_traj 0.6


def trial(*episodes: list[float], remark: float = 0.0) -> Trial:
    """A trial with these rewards of its turns; 10 is a win, and each lost episode but the last has a reflection."""
    played = []
    for n, rewards in enumerate(episodes):
        turns = tuple(
            Turn(Phase.PLAY, n, i, (1,), (2,), None, "", "a", True, reward, f"s{i}", "")
            for i, reward in enumerate(rewards)
        )
        looks_back = n < len(episodes) - 1
        reflection = Turn(Phase.REFLECT, n, len(turns), (1,), (2,), None, "", None, False, remark, "s", "")
        stop = Stop.WON if rewards and rewards[-1] == 10 else Stop.LOST
        played.append(Episode(turns, stop, "", reflection if looks_back else None))
    return Trial(Task("minesweeper", seed=0), tuple(played))


TRIALS = [
    trial([0, 10]),
    trial([0, 0, 10]),
    trial([0, -0.5], [10], remark=-0.5),
    trial([], [0, 10]),
    trial([0, 0], [0], [0]),
]


def test_a_trials_return_is_that_of_its_first_turn_with_our_estimators() -> None:
    """By Eq. 4 of the paper; in the chained form later episodes are discounted by the turns before them too."""
    paper = [0.95 * 10, 0.95**2 * 10, 0.95 * -0.5 + 0.6 * 10, 0.95 * 10, 0.0]
    chained = [*paper[:2], 0.95 * (-0.5 + 0.6 * 10), 0.95 * 10, 0.0]
    assert trial_returns("lamer_gigpo", TRIALS, CONFIG) == pytest.approx(paper)
    for estimator, config in (
        ("lamer_ppo", CONFIG),
        ("lamer_rloo", CONFIG.model_copy(update={"cross_episode": "chained"})),
    ):
        assert trial_returns(estimator, TRIALS, config) == pytest.approx(chained)


def test_a_trials_return_is_the_hosts_scalar_with_the_hosts_estimators() -> None:
    assert trial_returns("rloo", TRIALS, CONFIG) == pytest.approx([10, 10, -0.5 + 0.6 * 10, 0.6 * 10, 0])


def test_a_trials_return_is_its_plain_reward_with_pkpo() -> None:
    """An attempt wins or not, in however many turns. A group of wins has no advantage there, and teaches nothing."""
    expected = [10, 10, -0.5 - 0.5 + 0.6 * 10, 0.6 * 10, 0]
    assert trial_returns("lamer_pkpo", TRIALS, CONFIG) == pytest.approx(expected)
    assert learnability(trial_returns("lamer_pkpo", TRIALS[:2], CONFIG)) == 0
    wins = TurnTable.from_trials(TRIALS[:2], [0, 0], CONFIG.memory)
    estimator = advantage.get("lamer_pkpo")
    credit = CONFIG.credit(estimator)
    assert not estimator.estimate(advantage.with_returns(wins, credit), credit).any()


def test_groups_teach_where_their_trials_earned_different_returns() -> None:
    def taught(estimator: str, *trials: Trial) -> float | None:
        return learnability(trial_returns(estimator, trials, CONFIG))

    first, third = trial([10]), trial([0], [0], [10])
    assert taught("lamer_gigpo", first, third) == pytest.approx(((10 - 3.6) / 2) ** 2)
    assert taught("group_norm", first, third) == pytest.approx(((10 - 3.6) / 2) ** 2)
    # Faster wins count where credit discounts turns, and penalties everywhere; those of reflections nowhere.
    slow = trial([0, 10])
    assert taught("lamer_gigpo", first, slow) == pytest.approx(0.25**2)
    assert taught("group_norm", first, slow) == 0
    lost, penalised = trial([0], [0]), trial([0], [-0.5])
    assert taught("lamer_gigpo", lost, penalised) == pytest.approx((0.3 / 2) ** 2)
    assert taught("lamer_gigpo", lost, trial([0], [0], remark=-0.5)) == 0
    assert taught("lamer_gigpo", first, first, first) == 0
    assert taught("lamer_gigpo", lost, lost) == 0
    assert taught("lamer_gigpo", first) is None


@given(st.integers(2, 30), st.data())
def test_with_wins_and_losses_only_it_is_p_times_1_minus_p(size: int, data: st.DataObject) -> None:
    won = data.draw(st.integers(0, size))
    returns = [1.0] * won + [0.0] * (size - won)
    assert learnability(returns) == pytest.approx(won / size * (1 - won / size))


def test_sums_in_another_order_are_no_difference() -> None:
    one, other = sum([0.1] * 10), 1.0
    assert one != other
    assert learnability([one, other]) == 0
    assert learnability([other - 1e-5, other]) == pytest.approx((5e-6) ** 2)


def test_the_host_filters_its_own_training_as_ever() -> None:
    single = CONFIG.model_copy(update={"num_episodes": 1})
    assert filters_by_wins("rloo", single)
    assert not filters_by_wins("rloo", CONFIG)
    assert not filters_by_wins("lamer_rloo", single)


def test_tasks_weigh_by_what_they_taught_relative_to_the_most() -> None:
    weights = TaskWeights(5)
    assert weights.weights().tolist() == [1.0] * 5
    weights.learn(0, 0.0)
    assert weights.weights().tolist() == [1.0] * 5, "while nothing was taught, there is no reason to prefer a task"
    weights.learn(1, 4.0)
    weights.learn(2, 1.0)
    expected = [FLOOR, 1.0, FLOOR + (1 - FLOOR) / 4]
    assert weights.weights()[:3] == pytest.approx(expected)
    assert weights.weights()[3:] == pytest.approx([sum(expected) / 3] * 2)
    weights.learn(1, 0.0)
    assert weights.known == {0: 0.0, 1: 4.0 * (1 - SMOOTHING), 2: 1.0}
    weights.learn(1, 0.0)
    assert weights.weights()[:3] == pytest.approx([FLOOR, 1.0, 1.0])


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e3)), min_size=1, max_size=40))
def test_no_task_is_drawn_rarer_or_more_often_than_the_floor_allows(values: list[float | None]) -> None:
    weights = TaskWeights(len(values), {task: value for task, value in enumerate(values) if value is not None})
    chances = weights.weights() / weights.weights().sum()
    assert chances.min() >= FLOOR / len(values) * (1 - 1e-9)
    assert chances.max() <= 1 / (FLOOR * len(values)) * (1 + 1e-9)


def test_tasks_are_drawn_as_often_as_they_weigh() -> None:
    """A chi-square test of 20,000 draws, and the borders between the tasks."""
    weights = TaskWeights(6, {0: 0.0, 1: 25.0, 2: 10.0, 4: 0.2})
    chances = weights.weights() / weights.weights().sum()
    rng, draws = random.Random(3), 20_000
    counts = np.bincount([weights.pick(rng.random()) for _ in range(draws)], minlength=6)
    chi = float(((counts - draws * chances) ** 2 / (draws * chances)).sum())
    assert chi < 20.5, "5 degrees of freedom: exceeded with probability 0.001"
    uniform = draws / 6
    assert float(((counts - uniform) ** 2 / uniform).sum()) > 1_000, "and they are not drawn alike"
    ends = np.cumsum(chances)
    assert [weights.pick(math.nextafter(end, 0) - 1e-12) for end in ends] == list(range(6))
    assert [weights.pick(end + 1e-12) for end in ends[:-1]] == list(range(1, 6))
    assert weights.pick(math.nextafter(1.0, 0)) == 5

"""Returns across episodes: golden vectors and hand-computed ones (properties: `test_credit_properties.py`)."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from json import loads
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openrlhf_lamer.advantage import PLAY, REFLECT, CreditConfig, TurnTable, with_returns
from openrlhf_lamer.advantage.returns import discounted_sums
from openrlhf_lamer.cli.credit_file import read_case
from openrlhf_lamer.records import Episode, Failure, FailureKind, Phase, Stop, Task, Trial, Turn
from openrlhf_lamer.vocabulary import CrossEpisode

GOLDEN = loads((Path(__file__).parent / "data" / "credit.json").read_text())
FORMS: tuple[CrossEpisode, ...] = ("paper", "chained")


def table_of(*trials: list[list[float]]) -> TurnTable:
    """Trials as lists of episodes as lists of play rewards, all of one group and one anchor."""
    return read_case(
        {
            "gamma_step": 1,
            "gamma_traj": 1,
            "trials": [
                {"group": 0, "episodes": [{"rewards": episode, "anchors": ["s"] * len(episode)} for episode in trial]}
                for trial in trials
            ],
        }
    ).table


def returns_of(table: TurnTable, **options: Any) -> list[float]:
    return with_returns(table, CreditConfig(**options)).returns.tolist()


@pytest.mark.parametrize("case", GOLDEN)
def test_golden(case: dict[str, Any]) -> None:
    table = read_case(case, cross_episode="chained").table
    assert np.allclose(table.returns, list(chain(*case["returns"])), rtol=0, atol=1e-6)


class TestByHand:
    """One trial: episode 0 earns 1, 2; a reflection; episode 1 earns 4. γ_step = ½, γ_traj = ¼.

    turn        0        1        reflection   0
    reward      1        2        0            4
    paper       2 + 1    2 + 1    4            4      (1 = γ_traj · g_0^(1))
    chained     1 + 3/2  2 + 1    4            4
    """

    def test_paper(self) -> None:
        assert returns_of(table_of([[1, 2], [4]]), gamma_step=0.5, gamma_traj=0.25) == [3, 3, 4, 4]

    def test_chained(self) -> None:
        table = table_of([[1, 2], [4]])
        assert returns_of(table, gamma_step=0.5, gamma_traj=0.25, cross_episode="chained") == [2.5, 3, 4, 4]

    @pytest.mark.parametrize("form", FORMS)
    def test_a_reflections_penalty_stays_on_it(self, form: CrossEpisode) -> None:
        table = table_of([[1, 2], [4]])
        options = {"gamma_step": 0.5, "gamma_traj": 0.25, "cross_episode": form}
        fined = replace(table, reward=table.reward - 0.5 * (table.phase == REFLECT))
        assert np.subtract(returns_of(fined, **options), returns_of(table, **options)).tolist() == [0, 0, -0.5, 0]

    def test_three_episodes(self) -> None:
        paper = returns_of(table_of([[0, 1], [2, 0], [8]]), gamma_step=0.5, gamma_traj=0.5)
        assert paper == [0.5 + 1 + 2, 1 + 1 + 2, 2 + 4, 2 + 4, 0 + 4, 8, 8]

    @pytest.mark.parametrize("form", FORMS)
    def test_discounts_of_zero_and_one(self, form: CrossEpisode) -> None:
        table = table_of([[1, 2], [4, 8]])
        assert returns_of(table, gamma_step=1, gamma_traj=1, cross_episode=form) == [15, 14, 12, 12, 8]
        assert returns_of(table, gamma_step=0, gamma_traj=0, cross_episode=form) == [1, 2, 4, 4, 8]
        assert returns_of(table, gamma_step=1, gamma_traj=0, cross_episode=form) == [3, 2, 12, 12, 8]

    def test_discount_of_zero_within_episodes_tells_the_forms_apart(self) -> None:
        table = table_of([[1, 2], [4, 8]])
        assert returns_of(table, gamma_step=0, gamma_traj=1) == [5, 6, 4, 4, 8]
        assert returns_of(table, gamma_step=0, gamma_traj=1, cross_episode="chained") == [1, 6, 4, 4, 8]

    @pytest.mark.parametrize("form", FORMS)
    def test_trials_do_not_mix(self, form: CrossEpisode) -> None:
        options = {"gamma_step": 0.9, "gamma_traj": 0.6, "cross_episode": form}
        first, second = [[1.0], [2.0, 3.0]], [[5.0, 0.0], [7.0]]
        alone = returns_of(table_of(first), **options) + returns_of(table_of(second), **options)
        assert returns_of(table_of(first, second), **options) == alone

    @pytest.mark.parametrize("form", FORMS)
    def test_small_tables(self, form: CrossEpisode) -> None:
        assert returns_of(table_of(), cross_episode=form) == []
        assert returns_of(table_of([]), cross_episode=form) == []
        assert returns_of(table_of([[3]]), cross_episode=form) == [3]
        assert returns_of(table_of([[1, 2]]), gamma_step=0.5, cross_episode=form) == [2, 2]

    @pytest.mark.parametrize("form", FORMS)
    def test_a_trailing_reflection_gets_its_own_reward(self, form: CrossEpisode) -> None:
        trailing = TurnTable(
            group=np.zeros(3, dtype=int),
            trial=np.array([0, 0, 1]),
            episode=np.zeros(3, dtype=int),
            turn=np.array([0, 1, 0]),
            phase=np.array([PLAY, REFLECT, PLAY]),
            reward=np.array([1, -0.5, 4]),
            anchor=np.zeros(3, dtype=int),
        )
        assert returns_of(trailing, gamma_traj=0.6, cross_episode=form) == [1, -0.5, 4]

    @pytest.mark.parametrize("form", FORMS)
    def test_an_episode_without_turns_still_counts_in_the_discount(self, form: CrossEpisode) -> None:
        table = table_of([[0], [], [8]])  # rows: play 0, reflection 0, reflection 1, play 2
        assert returns_of(table, gamma_traj=0.5, cross_episode=form) == [2, 4, 8, 8]


def test_a_sum_of_one_long_run() -> None:
    ones = np.ones(10_000)
    assert np.array_equal(discounted_sums(ones, ones), np.arange(10_000, 0, -1))
    assert discounted_sums(ones, ones * 0.5)[0] == pytest.approx(2)


def test_arguments_are_left_alone() -> None:
    reward, discount = np.ones(4), np.ones(4)
    discounted_sums(reward, discount)
    assert reward.tolist() == discount.tolist() == [1] * 4
    with pytest.raises(ValueError, match="one shape"):
        discounted_sums(reward, discount[:-1])


class TestTable:
    """Columns of a turn table, and tables that it refuses."""

    def columns(self) -> dict[str, Any]:
        """Trial 0 of group 0: a play turn, a reflection, a play turn; trial 1 of group 1: a play turn."""
        return {
            "group": [0, 0, 0, 1],
            "trial": [0, 0, 0, 1],
            "episode": [0, 0, 1, 0],
            "turn": [0, 1, 0, 0],
            "phase": [0, 1, 0, 0],
            "reward": [0.0, -0.5, 10.0, 0.0],
            "anchor": [0, 1, 0, 0],
        }

    @pytest.mark.parametrize(
        ("column", "values", "message"),
        [
            ("anchor", [0, 1, 0], "one length"),
            ("group", [[0, 0, 0, 1]], "one dimension"),
            ("turn", [0.0, 1.5, 0.0, 0.0], "needs integers"),
            ("reward", [0.0, 0.0, np.nan, 0.0], r"row 2 \(trial 0, episode 1, turn 0\): the reward is not finite"),
            ("phase", [0, 2, 0, 0], "row 1 .* phase"),
            ("episode", [-1, 0, 1, 0], "row 0 .* negative"),
            ("trial", [1, 1, 1, 0], "row 3 .* trial order"),
            ("group", [0, 1, 1, 1], "row 1 .* two groups"),
            ("episode", [1, 1, 0, 0], "row 2 .* episodes are not in order"),
            ("turn", [1, 1, 0, 0], "row 1 .* turns are not in order"),
            ("phase", [1, 0, 0, 0], "row 1 .* reflection doesn't end"),
        ],
    )
    def test_refuses(self, column: str, values: list[Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            TurnTable(**{**self.columns(), column: values})

    def test_has_returns_once_filled(self) -> None:
        table = TurnTable(**self.columns())
        assert not table.has_returns
        assert with_returns(table, CreditConfig()).has_returns

    def test_from_trials(self) -> None:
        task = Task("toy", seed=0)
        remark = turn(Phase.REFLECT, 0, 2, -0.5, "s2")
        trials = [
            Trial(
                task,
                (
                    Episode((turn(Phase.PLAY, 0, 0, 0, "s0"), turn(Phase.PLAY, 0, 1, 0, "s1")), Stop.LOST, "", remark),
                    Episode((turn(Phase.PLAY, 1, 0, 10, "s0"),), Stop.WON, ""),
                ),
            ),
            Trial(task, (Episode((turn(Phase.PLAY, 0, 0, 10, "s1"),), Stop.WON, ""),)),
        ]
        table = TurnTable.from_trials(trials, [7, 9])
        assert table.group.tolist() == [7, 7, 7, 7, 9]
        assert table.trial.tolist() == [0, 0, 0, 0, 1]
        assert table.episode.tolist() == [0, 0, 0, 1, 0]
        assert table.turn.tolist() == [0, 1, 2, 0, 0]
        assert table.phase.tolist() == [PLAY, PLAY, REFLECT, PLAY, PLAY]
        assert table.reward.tolist() == [0, 0, -0.5, 10, 10]
        assert table.anchor.tolist() == [0, 1, 2, 0, 1]
        assert returns_of(table, gamma_step=0.5, gamma_traj=0.5) == [5, 5, 9.5, 10, 10]

    def test_from_no_trials(self) -> None:
        assert len(TurnTable.from_trials([], [])) == 0

    def test_from_trials_refuses_a_failed_one(self) -> None:
        failed = Trial(Task("toy", seed=0), (), Failure(FailureKind.ENGINE, "generate", "gone"))
        with pytest.raises(ValueError, match="trial 0 failed"):
            TurnTable.from_trials([failed], [0])
        with pytest.raises(ValueError, match="0 trials need one group each, but 1 are given"):
            TurnTable.from_trials([], [0])


@pytest.mark.parametrize(
    "options",
    [
        {"gamma_step": 1.1},
        {"gamma_traj": -0.1},
        {"gamma_traj": np.nan},
        {"cross_episode": "both"},
        {"norm": "std"},
    ],
)
def test_config_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        CreditConfig(**options)


def turn(phase: Phase, episode: int, index: int, reward: float, anchor: str) -> Turn:
    return Turn(phase, episode, index, (1,), (2,), None, "", "", True, reward, anchor, "")

"""`lamer_grpo`: hand-computed vectors, golden ones, and that a long trial gets no extra weight."""

from __future__ import annotations

from json import loads
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openrlhf_lamer.advantage import CreditConfig, TurnTable, get
from openrlhf_lamer.advantage.groups import EPS
from openrlhf_lamer.cli.credit_file import read_case
from openrlhf_lamer.vocabulary import Norm

GOLDEN = loads((Path(__file__).parent / "data" / "credit.json").read_text())
NORMS: tuple[Norm, ...] = ("mean", "mean_std")


def table_of(*trials: tuple[int, list[float]]) -> TurnTable:
    """Trials as (group, returns of the turns of one episode), without reflections; the rewards are the returns."""
    cases = [{"group": g, "episodes": [{"rewards": r, "anchors": list(range(len(r)))}]} for g, r in trials]
    return read_case({"gamma_step": 0, "gamma_traj": 0, "trials": cases}).table


def advantages(name: str, table: TurnTable, **options: Any) -> np.ndarray:
    return get(name).estimate(table, CreditConfig(**options))


@pytest.mark.parametrize(("norm", "key"), [("mean", "grpo_on_returns_mean"), ("mean_std", "grpo_on_returns_std")])
@pytest.mark.parametrize("case", GOLDEN)
def test_golden(case: dict[str, Any], norm: Norm, key: str) -> None:
    laid_out = read_case(case, cross_episode="chained", norm=norm, reference=True)
    assert np.allclose(get("lamer_grpo").estimate(laid_out.table, laid_out.config), case[key], rtol=0, atol=1e-5)


class TestByHand:
    """A trial of returns 0, 2 and one of return 4: the trials' means are 1 and 4, so μ = 2.5.

    σ² = (½(2.5² + 0.5²) + 1.5²) / (2 - 1) = 3.25 + 2.25. Over turns (reference): μ = 2, σ² = 8 / 2.
    """

    table = table_of((0, [0, 2]), (0, [4]))

    def test_mean(self) -> None:
        assert advantages("lamer_grpo", self.table, norm="mean") == pytest.approx([-2.5, -0.5, 1.5])

    def test_default_is_mean_std(self) -> None:
        want = np.array([-2.5, -0.5, 1.5]) / (sqrt(5.5) + EPS)
        assert advantages("lamer_grpo", self.table) == pytest.approx(want)
        assert advantages("lamer_grpo", self.table, norm="mean_std") == pytest.approx(want)

    def test_reference(self) -> None:
        assert advantages("lamer_grpo", self.table, norm="mean", reference=True) == pytest.approx([-2, 0, 2])
        assert advantages("lamer_grpo", self.table, reference=True) == pytest.approx(np.array([-2, 0, 2]) / (2 + EPS))

    def test_one_turn_a_trial_is_the_plain_sample_deviation(self) -> None:
        returns = [1.0, 3.0, 8.0]
        table = table_of(*((0, [value]) for value in returns))
        want = (np.array(returns) - 4) / (np.std(returns, ddof=1) + EPS)
        assert advantages("lamer_grpo", table) == pytest.approx(want)
        assert advantages("lamer_grpo", table, reference=True) == pytest.approx(want)

    def test_a_lone_trial_has_deviation_one(self) -> None:
        assert advantages("lamer_grpo", table_of((0, [1, 3]))) == pytest.approx(np.array([-1, 1]) / (1 + EPS))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["lamer_grpo", "lamer_reinforce", "lamer_rloo"])
def test_a_long_trial_weighs_no_more_than_a_short_one(name: str, norm: Norm) -> None:
    """It does under `reference`, where a trial counts once per turn."""
    short, long = table_of((0, [1]), (0, [5]), (0, [3])), table_of((0, [1]), (0, [5, 5, 5, 5]), (0, [3]))
    assert advantages(name, long, norm=norm)[0] == pytest.approx(advantages(name, short, norm=norm)[0])
    counted = [advantages(name, table, norm=norm, reference=True)[0] for table in (long, short)]
    assert abs(counted[0] - counted[1]) > 0.1


@pytest.mark.parametrize("norm", NORMS)
def test_gigpo_gives_each_trial_one_vote_per_anchor(norm: Norm) -> None:
    """A trial that visits a state four times against one that visits it once."""
    trials = [
        {"group": 0, "episodes": [{"rewards": rewards, "anchors": ["s"] * len(rewards)}]}
        for rewards in ([1.0], [5.0, 5.0, 5.0, 5.0])
    ]
    table = read_case({"gamma_step": 0, "gamma_traj": 0, "trials": trials}).table
    # Episode rewards 1 and 20, returns 1 and 5: midway between are 10.5 and 3.
    spread = (1.0, 1.0) if norm == "mean" else (np.std([1, 20], ddof=1) + EPS, np.std([1, 5], ddof=1) + EPS)
    assert advantages("lamer_gigpo", table, norm=norm)[0] == pytest.approx(-9.5 / spread[0] - 2 / spread[1])

"""`lamer_reinforce`: hand-computed vectors."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest

from openrlhf_lamer.advantage import CreditConfig, TurnTable, get
from openrlhf_lamer.advantage.groups import EPS
from openrlhf_lamer.cli.credit_file import read_case


def table_of(*trials: tuple[int, list[float]]) -> TurnTable:
    """Trials as (group, returns of the turns of one episode); the rewards are the returns."""
    cases = [{"group": g, "episodes": [{"rewards": r, "anchors": list(range(len(r)))}]} for g, r in trials]
    return read_case({"gamma_step": 0, "gamma_traj": 0, "trials": cases}).table


def advantages(table: TurnTable, **options: Any) -> np.ndarray:
    return get("lamer_reinforce").estimate(table, CreditConfig(**options))


class TestByHand:
    """Group 0: trials (0, 2) and (4), mean 2.5. Group 1: trials (10) and (20), mean 15.

    σ² over the batch's four trials: (½(2.5² + 0.5²) + 1.5² + 5² + 5²) / 3 = 55.5 / 3.
    """

    table = table_of((0, [0, 2]), (0, [4]), (1, [10]), (1, [20]))
    centred = np.array([-2.5, -0.5, 1.5, -5, 5])

    def test_mean(self) -> None:
        assert advantages(self.table, norm="mean") == pytest.approx(self.centred)

    def test_default_is_one_spread_for_the_batch(self) -> None:
        assert advantages(self.table) == pytest.approx(self.centred / (sqrt(18.5) + EPS))
        assert advantages(self.table, norm="mean_std") == pytest.approx(advantages(self.table))

    def test_reference_counts_turns(self) -> None:
        # Group 0 has mean 2 over turns; σ² over the five turns: (2² + 0² + 2² + 5² + 5²) / 4.
        want = np.array([-2, 0, 2, -5, 5]) / (sqrt(14.5) + EPS)
        assert advantages(self.table, reference=True) == pytest.approx(want)


def test_the_batch_is_centred_whatever_the_groups_are() -> None:
    rng = np.random.default_rng(0)
    trials = [(int(rng.integers(3)), rng.normal(size=rng.integers(1, 5)).tolist()) for _ in range(12)]
    table = table_of(*trials)
    per_trial = np.bincount(table.trial, weights=advantages(table)) / np.bincount(table.trial)
    assert per_trial.sum() == pytest.approx(0, abs=1e-12)

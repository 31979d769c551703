"""`lamer_rloo`: hand-computed vectors, golden ones, and the bias of each baseline, enumerated exactly."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from json import loads
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openrlhf_lamer.advantage import REFLECT, CreditConfig, TurnTable, get, with_returns
from openrlhf_lamer.advantage.groups import EPS
from openrlhf_lamer.cli.credit_file import read_case
from openrlhf_lamer.vocabulary import CrossEpisode

GOLDEN = loads((Path(__file__).parent / "data" / "credit.json").read_text())


@pytest.mark.parametrize("case", GOLDEN)
def test_golden(case: dict[str, Any]) -> None:
    laid_out = read_case(case, cross_episode="chained", reference=True)
    advantage = get("lamer_rloo").estimate(laid_out.table, laid_out.config)
    assert np.allclose(advantage, case["rloo_on_returns"], rtol=0, atol=1e-5)


def table_of(*trials: tuple[int, list[float]]) -> TurnTable:
    """Trials as (group, returns of the turns of one episode); the rewards are the returns."""
    cases = [{"group": g, "episodes": [{"rewards": r, "anchors": list(range(len(r)))}]} for g, r in trials]
    return read_case({"gamma_step": 0, "gamma_traj": 0, "trials": cases}).table


class TestByHand:
    """Trials of returns (0, 2), (4) and (7): means 1, 4, 7. Baselines: 5.5, 4, 2.5."""

    table = table_of((0, [0, 2]), (0, [4]), (0, [7]))
    advantage = np.array([-5.5, -3.5, 0, 4.5])

    def test_default_is_mean(self) -> None:
        assert get("lamer_rloo").estimate(self.table, CreditConfig()) == pytest.approx(self.advantage)

    def test_mean_std(self) -> None:
        # μ = 4, σ² = (½(4² + 2²) + 0² + 3²) / 2
        want = self.advantage / (sqrt(9.5) + EPS)
        assert get("lamer_rloo").estimate(self.table, CreditConfig(norm="mean_std")) == pytest.approx(want)

    def test_reference_leaves_out_the_turn(self) -> None:
        want = [0 - 13 / 3, 2 - 11 / 3, 4 - 9 / 3, 7 - 6 / 3]
        assert get("lamer_rloo").estimate(self.table, CreditConfig(reference=True)) == pytest.approx(want)

    def test_a_lone_trial_gets_nothing(self) -> None:
        table = table_of((0, [3, 5]), (1, [1]), (1, [2]))
        assert get("lamer_rloo").estimate(table, CreditConfig()) == pytest.approx([0, 0, -1, 1])


def test_ones_own_return_is_not_in_the_baseline() -> None:
    table = table_of((0, [1, 2, 3]), (0, [4]), (0, [5, 6]))
    raised = replace(table, returns=table.returns + 10.0 * (table.trial == 0))
    config = CreditConfig()
    change = get("lamer_rloo").estimate(raised, config) - get("lamer_rloo").estimate(table, config)
    assert change[table.trial == 0] == pytest.approx([10, 10, 10])


GROUP_SIZE = 3
THETA = np.array([0.3, -0.6, 0.8, 0.2])
"""Logits of the first of two actions: win at once, play on, a good remark, win the second episode."""


class Toy:
    """A trial small enough to enumerate, whose length the policy decides.

    Episode 0: turn 0 wins at once (reward 1) or plays on; turn 1 goes on with 0.4 or without reward. If it was
    not won: a reflection, good or bad, then episode 1 of one turn: win (2 after a good remark, 1 after a bad
    one) or lose (-0.5). That is 1 + 2 · 2 · 2 trials, and 9³ groups of three.
    """

    def __init__(self) -> None:
        first = 1 / (1 + np.exp(-THETA))
        self.trials: list[list[list[float]]] = [[[1.0]]]
        choices: list[tuple[int, ...]] = [(0,)]
        for step, remark, end in product((0, 1), repeat=3):
            self.trials.append([[0.0, (0.4, 0.0)[step]], [((2.0, 1.0)[remark], -0.5)[end]]])
            choices.append((1, step, remark, end))
        self.probabilities = np.array(
            [np.prod([first[i] if c == 0 else 1 - first[i] for i, c in enumerate(chosen)]) for chosen in choices]
        )
        # Score of each turn, in time order: the turn with logit i has ∂ log π / ∂θ_i = [chosen first] - π(first).
        self.scores = [
            [(1.0 - first[i] if c == 0 else -first[i]) * np.eye(4)[i] for i, c in enumerate(chosen)]
            for chosen in choices
        ]

    def table(self, groups: list[tuple[int, ...]], config: CreditConfig) -> TurnTable:
        """The trials of all groups, one after the other."""
        cases = [
            {"group": g, "episodes": [{"rewards": r, "anchors": list(range(len(r)))} for r in self.trials[outcome]]}
            for g, outcomes in enumerate(groups)
            for outcome in outcomes
        ]
        case = {"gamma_step": config.gamma_step, "gamma_traj": config.gamma_traj, "trials": cases}
        return with_returns(read_case(case).table, config)

    def expected(self, name: str, config: CreditConfig) -> np.ndarray:
        """E[(1/n) Σ_i Σ_t ∇log π · A] over all groups of n trials; with an empty name, A = G."""
        groups = list(product(range(len(self.trials)), repeat=GROUP_SIZE))
        table = self.table(groups, config)
        advantage = get(name).estimate(table, config) if name else table.returns
        scores = np.array([score for outcomes in groups for outcome in outcomes for score in self.scores[outcome]])
        weights = np.array([np.prod(self.probabilities[list(outcomes)]) for outcomes in groups])[table.group]
        return (weights * advantage) @ scores / GROUP_SIZE


def test_the_toy_has_a_reflection_and_trials_of_unequal_length() -> None:
    toy = Toy()
    table = toy.table([(0, 1, 8)], CreditConfig())
    assert np.bincount(table.trial).tolist() == [1, 4, 4]
    assert (table.phase == REFLECT).sum() == 2
    assert toy.probabilities.sum() == pytest.approx(1)


def test_at_gamma_one_the_target_is_the_gradient_of_the_expected_reward() -> None:
    toy = Toy()
    rewards = np.array([sum(map(sum, trial)) for trial in toy.trials])
    gradient = sum(
        p * reward * np.sum(scores, axis=0)
        for p, reward, scores in zip(toy.probabilities, rewards, toy.scores, strict=True)
    )
    assert toy.expected("", CreditConfig(gamma_step=1, gamma_traj=1)) == pytest.approx(gradient, abs=1e-12)


@pytest.mark.parametrize("form", ["paper", "chained"])
def test_leave_one_trial_out_is_unbiased(form: CrossEpisode) -> None:
    config = CreditConfig(cross_episode=form)
    assert Toy().expected("lamer_rloo", config) == pytest.approx(Toy().expected("", config), abs=1e-12)


@pytest.mark.parametrize("name", ["lamer_grpo", "lamer_reinforce"])
def test_the_group_mean_is_biased_by_ones_own_share_in_it(name: str) -> None:
    """As their docstrings say: off by -E[Σ ∇log π · Ḡ_i] / n."""
    toy, config = Toy(), CreditConfig(norm="mean")
    table = toy.table([(outcome,) for outcome in range(len(toy.trials))], config)
    own_mean = np.bincount(table.trial, weights=table.returns) / np.bincount(table.trial)
    share = sum(
        p * mean * np.sum(scores, axis=0)
        for p, mean, scores in zip(toy.probabilities, own_mean, toy.scores, strict=True)
    )
    bias = toy.expected(name, config) - toy.expected("", config)
    assert bias == pytest.approx(-np.asarray(share) / GROUP_SIZE, abs=1e-12)
    assert np.abs(bias).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lamer_rloo", {"reference": True}),
        ("lamer_rloo", {"norm": "mean_std"}),
        ("lamer_grpo", {}),
        ("lamer_grpo", {"reference": True}),
        ("lamer_gigpo", {}),
        ("lamer_gigpo", {"reference": True}),
    ],
)
def test_measured_bias(name: str, options: dict[str, Any]) -> None:
    """The others are biased, as they say; run with -s to see by how much, and how far the direction is off."""
    toy, config = Toy(), CreditConfig(**options)
    target, expected = toy.expected("", config), toy.expected(name, config)
    cosine = target @ expected / np.linalg.norm(target) / np.linalg.norm(expected)
    scale = np.linalg.norm(expected) / np.linalg.norm(target)
    print(f"\n{name} {options}: cosine with the target {cosine:.4f}, length over the target's {scale:.3f}")
    assert np.abs(expected - target).max() > 1e-3
    assert cosine > 0.5

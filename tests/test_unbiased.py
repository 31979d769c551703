"""Targets that estimators' docstrings say they are unbiased for, enumerated exactly.

The problem and the settings are those of `scripts/unbiasedness.py`, which measures the same for the documentation.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openrlhf_lamer.advantage import REFLECT, CreditConfig, TurnTable, get, names, registry, with_returns

SCRIPTS = str(Path(__file__).parent.parent / "scripts")
sys.path.insert(0, SCRIPTS)
try:
    decision_problem: Any = importlib.import_module("decision_problem")
    unbiasedness: Any = importlib.import_module("unbiasedness")
finally:
    sys.path.remove(SCRIPTS)

TRIALS = 204_800
LEVEL = 0.001
CHAINED = CreditConfig(cross_episode="chained")
PROBLEM = decision_problem.Problem.enumerate()
LOGITS = decision_problem.LOGITS


def slope(of: Callable[[np.ndarray], float], step: float = 1e-5) -> list[float]:
    """Gradient by the logits, by finite differences."""
    return [(of(LOGITS + d) - of(LOGITS - d)) / (2 * step) for d in step * np.eye(len(LOGITS))]


def settings(*, unbiased: bool) -> list[Any]:
    """The settings that the docstrings call unbiased, or biased."""
    return [
        pytest.param(setting, id=f"{setting.name} ({setting.label})")
        for setting in unbiasedness.SETTINGS
        if setting.unbiased is unbiased
    ]


class TestProblem:
    """That the problem has all that makes credit hard, and that its target is right."""

    def test_it_has_all_that_makes_credit_hard(self) -> None:
        table = PROBLEM.table
        assert PROBLEM.probability.sum() == pytest.approx(1)
        assert len(PROBLEM.probability) == 2 + 4 * 2 * 6
        assert set(np.bincount(table.trial).tolist()) == {2, 3, 5, 6, 7}
        assert (table.phase == REFLECT).any()
        assert set(table.reward[table.phase == REFLECT].tolist()) == {0, -0.5}
        plays = np.stack([table.trial, table.episode, table.anchor])[:, table.plays]
        assert np.unique(plays, axis=1, return_counts=True)[1].max() == 3
        assert table.memory is not None
        assert len({(a, m) for a, m in zip(table.anchor, table.memory, strict=True)}) == 6
        assert PROBLEM.probability.min() > 1e-3

    def test_at_gamma_one_the_target_is_the_gradient_of_the_expected_reward(self) -> None:
        """By finite differences, without penalties on remarks, which are no part of a trial's return."""

        def expected(logits: np.ndarray) -> float:
            problem = decision_problem.Problem.enumerate(logits, bad_remark=0.0)
            return float(problem.weight @ problem.table.reward)

        gradient = slope(expected)
        for form in ("paper", "chained"):
            config = CreditConfig(1, 1, form)
            free = decision_problem.Problem.enumerate(bad_remark=0.0)
            assert free.target(config) == pytest.approx(gradient, abs=1e-9)

    def test_the_forms_have_different_targets(self) -> None:
        forms = [PROBLEM.target(CreditConfig(cross_episode=form)) for form in ("paper", "chained", "difference")]
        assert min(np.abs(one - other).max() for one, other in combinations(forms, 2)) > 1e-3

    def test_at_gamma_one_differences_have_the_gradient_of_the_last_episodes_reward(self) -> None:
        def expected(logits: np.ndarray) -> float:
            problem = decision_problem.Problem.enumerate(logits, bad_remark=0.0)
            last = np.maximum.reduceat(problem.table.episode, np.flatnonzero(np.diff(problem.table.trial, prepend=-1)))
            played = problem.table.plays & (problem.table.episode == last[problem.table.trial])
            return float(problem.weight @ (problem.table.reward * played))

        free = decision_problem.Problem.enumerate(bad_remark=0.0)
        config = CreditConfig(1, 1, "difference")
        assert free.target(config) == pytest.approx(slope(expected), abs=1e-9)

    @pytest.mark.parametrize("k", [1, 2, 3, 5])
    def test_the_target_of_the_best_of_k_is_its_gradient(self, k: int) -> None:
        """By finite differences; and for two trials, the best of every pair is enumerated."""
        config = CreditConfig()
        gradient = slope(lambda logits: decision_problem.Problem.enumerate(logits).expected_best(k, config))
        assert PROBLEM.best_target(k, config) == pytest.approx(gradient, abs=1e-8)
        reward, chance = PROBLEM.rewards(config), PROBLEM.probability
        pairs = chance @ np.maximum(reward[:, None], reward) @ chance
        assert PROBLEM.expected_best(2, config) == pytest.approx(pairs, abs=1e-12)

    def test_the_true_values_predict_every_return(self) -> None:
        """The error of a prediction is uncorrelated with all that is known before the turn."""
        table = with_returns(PROBLEM.table, CHAINED)
        error = PROBLEM.weight * (table.returns - PROBLEM.true_values(CHAINED))
        for known in (PROBLEM.logit, table.turn, table.episode, table.turn * 10 + PROBLEM.logit):
            assert np.bincount(known, weights=error) == pytest.approx(0, abs=1e-12)

    def test_sampled_trials_are_those_enumerated(self) -> None:
        table, row = PROBLEM.sample(TRIALS, 8, seed=0)
        assert table.trial[-1] == TRIALS - 1
        assert table.group[-1] == TRIALS // 8 - 1
        assert np.array_equal(table.reward, PROBLEM.table.reward[row])
        first = row[np.append(True, np.diff(table.trial) > 0)]
        drawn = np.bincount(PROBLEM.table.trial[first], minlength=len(PROBLEM.probability))
        error = np.sqrt(PROBLEM.probability * (1 - PROBLEM.probability) / TRIALS)
        assert np.abs(drawn / TRIALS - PROBLEM.probability).max() < 5 * error.max()


@pytest.mark.parametrize("setting", settings(unbiased=True))
def test_unbiased(setting: Any) -> None:
    estimate = setting.measure(PROBLEM, TRIALS)
    assert estimate.p_value() > LEVEL
    # The test would detect a bias of 3 % of the target in its direction.
    assert estimate.p_value(0.03 * estimate.target) < LEVEL


@pytest.mark.parametrize("setting", settings(unbiased=False))
def test_biased_as_it_says(setting: Any) -> None:
    """Run with -s to see by how much."""
    estimate = setting.measure(PROBLEM, TRIALS)
    print(f"\n{setting.name} ({setting.label}): bias and its standard error, % of the target's length")
    for name, bias, error in zip(decision_problem.NAMES, estimate.bias, estimate.error, strict=True):
        print(f"    {name:12} {100 * bias / estimate.length:+7.2f} ± {100 * error / estimate.length:.2f}")
    assert estimate.p_value() < 1e-9
    assert estimate.cosine > 0.5


def test_every_estimator_is_measured() -> None:
    measured = {setting.name for setting in unbiasedness.SETTINGS}
    assert measured >= {name for name in names() if name.startswith("lamer_")}


@pytest.mark.parametrize("name", ["lamer_grpo", "lamer_reinforce"])
@pytest.mark.parametrize("group_size", [2, 8])
def test_the_group_mean_is_off_by_the_own_share_in_it(name: str, group_size: int) -> None:
    """As their docstrings say of norm="mean": by -E[Σ ∇log π · Ḡ_i] / n, to the last component."""
    config = CreditConfig(norm="mean")
    estimate = unbiasedness.Setting(name, False, {"norm": "mean"}).measure(PROBLEM, TRIALS, group_size)
    assert estimate.p_value(-PROBLEM.own_share(config) / group_size) > LEVEL
    assert estimate.p_value() < 1e-9


def test_with_one_turn_a_trial_the_group_mean_is_leave_one_out_times_a_factor() -> None:
    """The factor (n - 1) / n; with several turns also the direction is another."""
    rng = np.random.default_rng(0)
    trial = np.arange(24)
    zeros = np.zeros_like(trial)
    table = with_returns(TurnTable(trial // 6, trial, zeros, zeros, zeros, rng.normal(size=24), zeros), CreditConfig())
    config = CreditConfig(norm="mean")
    left_out = get("lamer_rloo").estimate(table, config)
    assert get("lamer_grpo").estimate(table, config) == pytest.approx(5 / 6 * left_out)
    longer = PROBLEM.sample(8, 8, seed=0)[0]
    longer = with_returns(longer, CreditConfig())
    ratio = get("lamer_grpo").estimate(longer, config) / get("lamer_rloo").estimate(longer, config)
    assert np.ptp(ratio) > 0.01


def test_one_spread_for_a_large_batch_is_one_factor() -> None:
    """`lamer_reinforce`: beside the own share, "mean_std" only scales where the batch is large."""
    plain, spread = (
        unbiasedness.Setting("lamer_reinforce", False, {"norm": norm}).measure(PROBLEM, TRIALS).mean
        for norm in ("mean", "mean_std")
    )
    assert spread / plain == pytest.approx(np.full(len(plain), (spread / plain)[0]), rel=1e-3)


def test_hgpo_nears_the_target_where_contexts_are_common() -> None:
    """GiGPO does not: its episode term lacks the later episodes."""
    hgpo, gigpo = (
        [unbiasedness.Setting(name, False).measure(PROBLEM, TRIALS, n) for n in (8, 64)]
        for name in ("lamer_hgpo", "lamer_gigpo")
    )
    off = [np.linalg.norm(estimate.bias) / estimate.length for estimate in (*hgpo, *gigpo)]
    assert off[1] < 0.07 < 0.2 < off[0]
    assert off[3] > 0.4


def test_the_episode_term_is_what_gigpo_is_off_by() -> None:
    """Its step term alone is near a shrunk target (and is the target itself with the own trial left out, see above)."""
    step = unbiasedness.Setting("lamer_gigpo", False, {"options": {"step_weight": 1e6}}).measure(PROBLEM, TRIALS)
    shrunk = replace(step, mean=step.mean / 1e6, covariance=step.covariance / 1e12)
    assert shrunk.cosine > 0.99
    assert 0.7 < shrunk.scale < 1
    assert shrunk.p_value() < 1e-9


def test_the_documentations_example_of_an_estimator() -> None:
    """It is the baseline of other trials by anchor, which the measurement above covers."""
    page = (Path(SCRIPTS).parent / "docs" / "credit.md").read_text(encoding="utf-8")
    (code,) = [block for block in page.split("```") if block.startswith("python\n# my_package")]
    shown: dict[str, Any] = {}
    with registry.scoped():
        exec(compile(code.removeprefix("python\n"), "credit.md", "exec"), shown)
        table = with_returns(PROBLEM.sample(64, 8, seed=0)[0], CreditConfig())
        advantage = get("anchored").estimate(table, CreditConfig())
    assert advantage == pytest.approx(unbiasedness.others_at_anchor(table, CreditConfig()))


def test_the_documentations_table_has_every_setting() -> None:
    page = (Path(SCRIPTS).parent / "docs" / "credit.md").read_text(encoding="utf-8")
    table = page.split(unbiasedness.BEGIN)[1].split(unbiasedness.END)[0]
    rows = [[cell.strip(" `") for cell in line.split("|")[1:4]] for line in table.splitlines() if "±" in line]
    claims = [[s.name, s.label, "yes" if s.unbiased else "no"] for s in unbiasedness.SETTINGS]
    assert rows == claims

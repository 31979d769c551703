"""Intervals cover what they should, and estimators are what they are called."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binom, binomtest, t

from openrlhf_lamer.evaluation import statistics
from openrlhf_lamer.evaluation.statistics import (
    Estimate,
    Samples,
    difference,
    matched,
    mcnemar,
    pass_at_k,
    share,
    success,
    won,
)
from openrlhf_lamer.records import Episode, Failure, FailureKind, Stop, Task, Trial

TASKS = 128


def proportion(successes: int, total: int) -> Estimate:
    """A share of independent trials with its plain Wilson interval."""
    value = successes / total if total else math.nan
    return Estimate(value, *statistics._wilson(successes, total), total, "%")


def samples(values: np.ndarray) -> Samples:
    """Tasks x samples as a run."""
    return {f"task {number}": row.tolist() for number, row in enumerate(values)}


def drawn(rng: np.random.Generator, chances: np.ndarray, number: int = 1) -> Samples:
    """A run with `number` samples of each task, each won with the task's chance."""
    return samples((rng.random((len(chances), number)) < chances[:, None]).astype(float))


class TestSuccess:
    @pytest.mark.parametrize("q", [0.1, 0.2, 0.3, 0.5])
    def test_the_interval_covers_what_a_player_of_known_strength_comes_to(self, q: float) -> None:
        """2,000 runs of 128 trials, each attempt won with chance q: success@k is 1 - (1-q)^k, covered in 93 to 97%."""
        attempts_won = np.random.default_rng(0).random((2000, TASKS, 3)) < q
        intervals = [proportion(count, TASKS) for count in range(TASKS + 1)]
        low, high = (np.array([getattr(each, end) for each in intervals]) for end in ("low", "high"))
        for k in (1, 2, 3):
            truth = 1 - (1 - q) ** k
            counts = attempts_won[:, :, :k].any(axis=2).sum(axis=1)
            assert counts.mean() / TASKS == pytest.approx(truth, abs=0.004)
            covered = float(np.mean((low[counts] <= truth) & (truth <= high[counts])))
            # The limit for infinitely many runs: neither the simulation nor its seed is just lucky.
            exact = binom.pmf(np.arange(TASKS + 1), TASKS, truth)[(low <= truth) & (truth <= high)].sum()
            assert 0.93 <= covered <= 0.97
            assert 0.945 <= exact <= 0.960

    def test_it_counts_wins_so_far_and_leaves_failed_trials_out(self) -> None:
        lost, won_one = Episode((), Stop.LOST, ""), Episode((), Stop.WON, "")
        trials = [Trial(Task("toy", seed=n), (lost,) * n + (won_one,)) for n in range(3)]
        broken = Trial(Task("toy", seed=9), (won_one,), Failure(FailureKind.ENGINE, "generate", ""))
        for k in (1, 2, 3):
            assert success([*trials, broken], k) == proportion(k, 3)
        assert won([broken], 1) == {}
        nothing = success([broken], 1)
        assert math.isnan(nothing.value)
        assert (nothing.low, nothing.high, nothing.tasks) == (0, 1, 0)

    @pytest.mark.parametrize("total", [1, 7, 128])
    def test_with_a_sample_a_task_it_is_wilsons(self, total: int) -> None:
        for count in range(total + 1):
            expected = binomtest(count, total).proportion_ci(0.95, method="wilson")
            for found in (proportion(count, total), share([samples(np.arange(total)[:, None] < count)])):
                assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)

    def test_copies_of_a_sample_are_no_evidence(self) -> None:
        one = np.random.default_rng(1).random((100, 1)) < 0.3
        once, copied = share([samples(one)]), share([samples(np.repeat(one, 8, axis=1))])
        assert copied.value == once.value
        assert once.high - once.low < copied.high - copied.low < 1.02 * (once.high - once.low)

    def test_samples_that_all_agree_are_worth_one_a_task(self) -> None:
        assert share([samples(np.ones((50, 8)))] * 3) == proportion(50, 50)

    @pytest.mark.parametrize(("seeds", "repeats", "spread"), [(1, 8, 0.0), (3, 1, 0.0), (3, 4, 0.5), (5, 2, 0.5)])
    def test_pooled_seeds_and_samples_are_covered_where_wilson_on_all_trials_is_too_narrow(
        self, seeds: int, repeats: int, spread: float
    ) -> None:
        """Tasks are hard and easy (Beta(½, ½)), and seeds better and worse, by `spread` in log-odds."""
        rng = np.random.default_rng(0)
        many = rng.beta(0.5, 0.5, 100_000).clip(1e-4, 1 - 1e-4)
        odds = np.log(many / (1 - many))
        truth = float(np.mean(1 / (1 + np.exp(-odds - rng.normal(0, spread, len(odds))))))
        covered, naive, runs = 0, 0, 1000
        for _ in range(runs):
            own, better = rng.choice(odds, 64), rng.normal(0, spread, seeds)
            played = [drawn(rng, 1 / (1 + np.exp(-own - each)), repeats) for each in better]
            found = share(played)
            covered += found.low <= truth <= found.high
            wins = sum(sum(values) for run in played for values in run.values())
            pooled = proportion(round(wins), seeds * repeats * 64)
            naive += pooled.low <= truth <= pooled.high
        assert 0.92 <= covered / runs <= 0.975
        assert naive / runs < 0.88


class TestPassAtK:
    @pytest.mark.parametrize("number", [1, 2, 5, 6])
    def test_it_is_the_mean_over_all_choices_of_k_samples(self, number: int) -> None:
        for wins in range(number + 1):
            values = [1.0] * wins + [0.0] * (number - wins)
            for k in range(1, number + 1):
                chosen = [max(own) for own in combinations(values, k)]
                assert pass_at_k([{"a": values}], k).value == pytest.approx(np.mean(chosen))

    def test_it_is_unbiased_where_tasks_differ(self) -> None:
        rng = np.random.default_rng(0)
        chances = rng.beta(0.5, 2, 20_000)
        found = pass_at_k([drawn(rng, chances, 8)], 3)
        assert found.low < np.mean(1 - (1 - chances) ** 3) < found.high
        assert found.high - found.low < 0.02

    def test_tasks_with_fewer_samples_are_left_out(self) -> None:
        found = pass_at_k([{"a": [1.0], "b": [0.0, 0.0], "c": [0.0, 1.0]}], 2)
        assert (found.value, found.tasks) == (0.5, 2)
        assert math.isnan(pass_at_k([{"a": [1.0]}], 2).value)

    def test_an_interval_of_all_or_nothing_stays_a_share(self) -> None:
        found = pass_at_k([samples(np.zeros((100, 4)))], 2)
        assert (found.low, found.value) == (0, 0)
        assert 0.03 < found.high < 0.04


class TestDifference:
    def test_the_bootstrap_agrees_with_the_normal_approximation(self) -> None:
        rng = np.random.default_rng(0)
        chances = rng.beta(1, 1, 500)
        first, second = drawn(rng, chances, 4), drawn(rng, np.minimum(1, chances + 0.1), 4)
        found = difference([first], [second])
        by_task = np.array([np.mean(second[task]) - np.mean(first[task]) for task in first])
        half = 1.96 * by_task.std(ddof=1) / math.sqrt(500)
        assert found.value == pytest.approx(by_task.mean())
        assert (found.low, found.high) == pytest.approx((by_task.mean() - half, by_task.mean() + half), abs=0.04 * half)
        assert str(found).startswith(f"+{100 * found.value:.1f} [")

    def test_pairs_tell_more_than_two_separate_runs(self) -> None:
        rng = np.random.default_rng(0)
        chances = rng.choice([0.05, 0.95], 200)
        first, second = drawn(rng, chances), drawn(rng, chances)
        paired, alone = difference([first], [second]), share([first])
        assert paired.high - paired.low < 0.8 * math.sqrt(2) * (alone.high - alone.low)

    def test_tasks_that_one_run_lacks_are_left_out(self) -> None:
        found = difference([{"a": [0.0], "b": [1.0], "x": [1.0]}], [{"a": [1.0], "b": [1.0], "y": [0.0]}])
        assert (found.value, found.tasks) == (0.5, 2)
        assert difference([{"a": [0.0]}], [{"b": [0.0]}]) == statistics.NOTHING

    def test_runs_that_are_equal_task_by_task_are_not_known_to_be_equal_everywhere(self) -> None:
        run = samples(np.ones((128, 1)))
        found = difference([run], [run])
        assert (found.low, found.high) == pytest.approx((-0.0284, 0.0284), abs=1e-4)
        assert math.isnan(difference([{"a": [0.0]}], [{"a": [1.0]}]).low)

    def test_its_interval_holds_possible_differences_only(self) -> None:
        """Where every task was gained, an unseen one may have been lost: it would move the mean by 2."""
        found = difference([samples(np.zeros((128, 1)))], [samples(np.ones((128, 1)))])
        assert (found.low, found.high) == pytest.approx((1 - 2 * 0.0284, 1), abs=1e-4)
        rng = np.random.default_rng(0)
        seeds = [drawn(rng, np.full(64, chance), 1) for chance in (0.2, 0.9, 1.0)]
        assert difference([samples(np.zeros((64, 1)))], seeds).high == 1

    def test_seeds_that_differ_widen_it(self) -> None:
        """Three seeds a method, of equal strength but for their spread: 0 is covered; over tasks alone it is not."""
        rng = np.random.default_rng(0)
        covered, over_tasks, runs = 0, 0, 500
        for _ in range(runs):
            chances = rng.uniform(0.2, 0.8, 64)
            methods = [[drawn(rng, chances + rng.uniform(-0.2, 0.2), 4) for _ in range(3)] for _ in range(2)]
            found = difference(methods[0], methods[1])
            covered += found.low <= 0 <= found.high
            merged = [{task: [x for run in own for x in run[task]] for task in own[0]} for own in methods]
            found = difference([merged[0]], [merged[1]])
            over_tasks += found.low <= 0 <= found.high
        assert 0.92 <= covered / runs <= 0.98
        assert over_tasks / runs < 0.7


class TestMatched:
    def test_luck_that_a_pair_shares_cancels(self) -> None:
        """Three pairs whose runs share a shift: 0 is covered, by intervals half as wide as without the pairs."""
        rng = np.random.default_rng(0)
        covered, widths, runs = 0, [], 500
        for _ in range(runs):
            chances = rng.uniform(0.3, 0.7, 64)
            shifts = rng.uniform(-0.3, 0.3, 3)
            pairs = [(drawn(rng, chances + shift, 4), drawn(rng, chances + shift, 4)) for shift in shifts]
            found = matched(pairs)
            covered += found.low <= 0 <= found.high
            apart = difference([first for first, _ in pairs], [second for _, second in pairs])
            widths.append((found.high - found.low) / (apart.high - apart.low))
        assert 0.93 <= covered / runs <= 0.99
        assert np.median(widths) < 0.5

    def test_pairs_that_differ_from_each_other_widen_it(self) -> None:
        rng = np.random.default_rng(0)
        covered, runs = 0, 500
        for _ in range(runs):
            chances = rng.uniform(0.3, 0.7, 64)
            gains = rng.uniform(-0.2, 0.2, 3)
            found = matched([(drawn(rng, chances, 4), drawn(rng, chances + gain, 4)) for gain in gains])
            covered += found.low <= 0 <= found.high
        assert 0.92 <= covered / runs <= 0.98

    def test_pairs_that_differ_widen_it_where_all_tasks_agree(self) -> None:
        """Tasks that agree on average say nothing of the spread between runs: Student's over three pairs."""
        lost, won = samples(np.zeros((64, 1))), samples(np.ones((64, 1)))
        found = matched([(lost, won), (lost, won), (won, won)])
        half = float(t.ppf(0.975, 2)) * np.std([1, 1, 0], ddof=1) / math.sqrt(3)
        assert (found.value, found.low, found.high) == pytest.approx((2 / 3, 2 / 3 - half, 1))
        assert (pass_at_k([lost, won], 1).low, pass_at_k([lost, won], 1).high) == (0, 1)
        assert matched([(lost, won)] * 3) == matched([(lost, won)]), "pairs that agree leave the unseen tasks"

    def test_one_pair_is_a_difference(self) -> None:
        rng = np.random.default_rng(0)
        first, second = drawn(rng, rng.uniform(0, 1, 30), 2), drawn(rng, rng.uniform(0, 1, 40), 2)
        assert matched([(first, second)]) == difference([first], [second])
        assert matched([]) == matched([({"a": [1.0]}, {"b": [1.0]})]) == statistics.NOTHING


class TestMcNemar:
    @pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 5), (9, 2), (2, 9), (40, 21)])
    def test_it_is_the_binomial_test_of_the_tasks_that_differ(self, gained: int, lost: int) -> None:
        outcomes = np.array([[0, 1]] * gained + [[1, 0]] * lost + [[1, 1]] * 30 + [[0, 0]] * 20, dtype=float)
        found = mcnemar(samples(outcomes[:, :1]), samples(outcomes[:, 1:]))
        assert found is not None
        assert (found.gained, found.lost) == (gained, lost)
        assert found.p == pytest.approx(binomtest(gained, gained + lost).pvalue if gained + lost else 1)

    def test_it_is_not_for_several_trials_of_a_task(self) -> None:
        assert mcnemar({"a": [1.0]}, {"a": [1.0, 0.0]}) is None


def test_a_run_whose_trials_all_failed_changes_nothing() -> None:
    run = samples(np.array([[1.0], [0.0], [1.0]]))
    assert share([run, {}]) == share([run])
    assert difference([run, {}], [run]) == difference([run], [run])

"""Trajectory diversity, and which correction of its bias is the closest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy.special import digamma

from openrlhf_lamer.evaluation.diversity import chao_shen, diversity
from openrlhf_lamer.metrics import entropy


def miller_madow(counts: Sequence[int]) -> float:
    return entropy(counts) + (len(counts) - 1) / (2 * sum(counts))


def grassberger(counts: Sequence[int]) -> float:
    c, total = np.array(counts), sum(counts)
    g = digamma(c) + 0.5 * (-1.0) ** c * (digamma((c + 1) / 2) - digamma(c / 2))
    return math.log(total) - float((c * g).sum()) / total


def chao_wang_jost(counts: Sequence[int]) -> float:
    c, n = np.array(counts), sum(counts)
    once, twice = int((c == 1).sum()), int((c == 2).sum())
    seen = float((c[c < n] / n * (digamma(n) - digamma(c[c < n]))).sum())
    if once == 0 or (once == 1 and twice == 0):
        return seen
    a = 2 * twice / ((n - 1) * once + 2 * twice) if twice else 2 / ((n - 1) * (once - 1) + 2)
    r = np.arange(1, n)
    return seen + once / n * (1 - a) ** (1 - n) * (-math.log(a) - float(((1 - a) ** r / r).sum()))


WAYS = {
    "two alike": [1] * 2,
    "eight alike": [1] * 8,
    "32 alike": [1] * 32,
    "200 alike": [1] * 200,
    "one and 20 rare": [180] + [1] * 20,
    "half and 50 rare": [50] + [1] * 50,
    "halving": [2.0**-n for n in range(30)],
    "Zipf of 100": [1 / n for n in range(1, 101)],
}
"""How often each way to play a task is taken, from a policy that has settled to one that hardly repeats itself."""


def biases(number: int, formula: Callable[[Sequence[int]], float], tasks: int = 300) -> list[float]:
    """Error of the mean over tasks, for each of `WAYS`."""
    rng = np.random.default_rng(number)
    found = []
    for weights in WAYS.values():
        shares = np.array(weights) / sum(weights)
        drawn = rng.multinomial(number, shares, size=tasks)
        estimates = [formula([int(count) for count in counts[counts > 0]]) for counts in drawn]
        found.append(float(np.mean(estimates)) + float((shares * np.log(shares)).sum()))
    return found


@pytest.mark.parametrize("number", [4, 8, 16])
def test_the_correction_is_the_closest_of_the_usual_ones(number: int) -> None:
    formulas = (entropy, miller_madow, grassberger, chao_wang_jost, chao_shen)
    worst = {each.__name__: np.mean(np.abs(biases(number, each))) for each in formulas}
    assert min(worst, key=lambda name: worst[name]) == "chao_shen"
    assert worst["chao_shen"] < 0.5 * worst["entropy"]


def test_plain_entropy_is_too_low_and_samples_without_end_need_no_correction() -> None:
    assert all(bias < 0 for bias in biases(8, entropy))
    many = [4000, 2500, 2500, 1000]
    assert chao_shen(many) == pytest.approx(entropy(many), abs=1e-6)
    assert chao_shen([8]) == entropy([8]) == 0


def test_it_is_a_mean_over_tasks_with_its_interval_and_what_it_depends_on() -> None:
    alike, split = [((1,), "alike")] * 4, [((n % 2,), "split") for n in range(4)]
    found = diversity([[*alike, *split, ((7,), "alone")]], 1)
    assert found is not None
    assert found.plain.value == pytest.approx(math.log(2) / 2)
    assert (found.plain.tasks, found.fewest, found.most) == (2, 4, 4)
    assert found.maximum == math.log(4)
    assert found.plain.low <= found.plain.value <= found.plain.high
    assert diversity([[((7,), "alone")]], 1) is None
    assert diversity([alike], 2) is None


def test_samples_of_two_runs_are_not_compared_with_each_other() -> None:
    """Each run always plays alike, the two differently: neither has any diversity."""
    found = diversity([[((run,), task) for task in "abc" for _ in range(4)] for run in range(2)], 1)
    assert found is not None
    assert (found.plain.low, found.plain.value) == (0, 0)
    assert found.plain.high > 0

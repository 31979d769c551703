"""Estimates with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from openrlhf_lamer.records import Trial


@dataclass(frozen=True, slots=True)
class Proportion:
    """A share with its 95% Wilson interval.

    Attributes:
        successes: How many succeeded.
        total: Out of how many.
        low: Lower end of the interval.
        high: Upper end.
    """

    successes: int
    total: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """The point estimate; NaN of nothing."""
        return self.successes / self.total if self.total else float("nan")

    def __str__(self) -> str:
        return f"{100 * self.share:.1f}% [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def proportion(successes: int, total: int) -> Proportion:
    """A share with its 95% Wilson score interval; of nothing, the interval is [0, 1]."""
    if not total:
        return Proportion(0, 0, 0.0, 1.0)
    from scipy.stats import binomtest

    interval = binomtest(successes, total).proportion_ci(0.95, method="wilson")
    return Proportion(successes, total, float(interval.low), float(interval.high))


def success(trials: Sequence[Trial], attempts: int) -> Proportion:
    """Success at `attempts` over the trials that did not fail."""
    live = [trial for trial in trials if trial.failure is None]
    return proportion(sum(trial.won_by(attempts) for trial in live), len(live))

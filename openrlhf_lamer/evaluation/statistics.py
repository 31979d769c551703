"""Estimates with their uncertainty.

Every estimate is a mean over tasks, and tasks are the unit that is resampled: samples of one task depend on each
other, and so do runs of one method on the same panel. Every interval is at 95%, for tasks like those of the panel,
and where runs of several seeds are pooled, for seeds like these too.

Two measures are called success at k. `success` is sequential: the attempts of a trial follow and learn from each other,
and one of the first k was won. `pass_at_k` is for k independent samples. Where trials go on after a success, `single`
is for one attempt: whether that very one was won.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Protocol, TypeVar

import numpy as np

from openrlhf_lamer.records import Failure, Task

Array = np.ndarray[Any, np.dtype[np.float64]]

Samples = Mapping[str, Sequence[float]]
"""Measurements of one run: for each task, a value of each of its samples. A task without any is left out."""

Z = 1.959963984540054
"""The normal distribution's quantile for 95%, both sides."""

RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over tasks with its 95% interval.

    Attributes:
        value: The estimate; NaN if there was nothing to average.
        low: Lower end of the interval; NaN where a single task says nothing about others.
        high: Upper end.
        tasks: Number of tasks in the mean.
        unit: `%` for a share and `points` for a difference of shares, both stored as fractions of 1; or
            the name of a unit.
    """

    value: float
    low: float
    high: float
    tasks: int
    unit: str = ""

    def within(self, low: float, high: float) -> Estimate:
        """The same with its interval cut to the possible values."""
        # In this order of arguments, NaN stays NaN.
        return replace(self, low=max(self.low, low), high=min(self.high, high))

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "–"
        if self.unit not in ("%", "points"):
            return f"{self.value:.2f}{self._interval(1, 2)}"
        if self.unit == "%":
            return f"{100 * self.value:.1f}%{self._interval(100, 1)}"
        return f"{100 * self.value:+.1f}{self._interval(100, 1)}"

    def _interval(self, scale: int, digits: int) -> str:
        return "" if math.isnan(self.low) else f" [{scale * self.low:.{digits}f}, {scale * self.high:.{digits}f}]"


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


def exactly(share: float) -> Estimate:
    """A share that is known exactly, to stand beside estimates."""
    return Estimate(share, math.nan, math.nan, 0, "%")


class Played(Protocol):
    """Record that success is read from, such as a `Trial`."""

    @property
    def task(self) -> Task: ...

    @property
    def failure(self) -> Failure | None: ...

    @property
    def wins(self) -> tuple[int, ...]: ...

    def won_by(self, attempts: int) -> bool: ...


P = TypeVar("P", bound=Played)


def measured(trials: Iterable[P], value: Callable[[P], float]) -> dict[str, list[float]]:
    """By task, a value of each trial; failed trials are left out."""
    found: dict[str, list[float]] = {}
    for trial in trials:
        if trial.failure is None:
            found.setdefault(trial.task.id, []).append(float(value(trial)))
    return found


def won(trials: Iterable[Played], attempts: int) -> dict[str, list[float]]:
    """By task, whether each trial was won in one of the first `attempts` episodes; failed trials are left out."""
    return measured(trials, lambda trial: trial.won_by(attempts))


def single(trials: Iterable[Played], attempt: int) -> dict[str, list[float]]:
    """By task, whether each trial won this very attempt; an attempt that was never reached counts as not won."""
    return measured(trials, lambda trial: attempt in trial.wins)


def wins(trials: Iterable[Played]) -> dict[str, list[float]]:
    """By task, the number of attempts that each trial won."""
    return measured(trials, lambda trial: len(trial.wins))


def success(trials: Iterable[Played], attempts: int) -> Estimate:
    """Sequential success at `attempts` of one run: the share of trials won by then, failed ones left out."""
    return share([won(trials, attempts)])


def share(runs: Sequence[Samples]) -> Estimate:
    """The mean of values that are 0 or 1, over the tasks that one run or the pooled runs of a method played.

    The Wilson interval for the samples' effective number of independent trials (Korn and Graubard):
    n p(1-p) / ((n-1) V) for n samples whose mean has variance V (see `_spread`), lowered for V's degrees of freedom,
    and at most n. With one sample a task it is n itself: the plain Wilson interval. Where all samples agree, it is one
    trial a task.
    """
    cells = _cells(runs)
    if not cells.size:
        return Estimate(math.nan, 0.0, 1.0, 0, "%")
    by_task = np.nanmean(cells, axis=0)
    value, tasks = float(by_task.mean()), len(by_task)
    samples = sum(len(values) for run in runs for values in run.values())
    if (len(cells) == 1 and samples == tasks) or not 0 < value < 1 or tasks == 1:
        worth = float(tasks)
    else:
        variance, freedom = _spread(by_task, cells)
        worth = samples * value * (1 - value) / ((samples - 1) * variance) if variance else samples
        worth = min(samples, worth * (_t(samples - 1) / _t(freedom)) ** 2)
    return Estimate(value, *_wilson(value * worth, worth), tasks, "%")


def mean(runs: Sequence[Samples], unit: str = "", reach: float = 1.0) -> Estimate:
    """The mean over tasks of any values.

    For one run, the interval is a bootstrap over tasks (10,000 resamples, percentiles), each task with all its
    samples. For several runs, it is Student's, with `_spread`'s variance and degrees of freedom: a bootstrap of three
    seeds is too narrow.

    Args:
        runs: One run, or those of one method under several seeds.
        unit: The estimate's unit.
        reach: Largest possible difference between two tasks' values. Where all tasks have the same value, the
            interval is at least as wide as unseen tasks with another value could move the mean.
    """
    cells = _cells(runs)
    if not cells.size:
        return NOTHING
    by_task = np.nanmean(cells, axis=0)
    return _estimate(by_task, [cells], unit, reach)


def passed(run: Samples, k: int) -> dict[str, list[float]]:
    """By task, the probability that one of k independent samples succeeds; tasks with fewer samples are left out.

    The unbiased estimator 1 - C(n-c, k) / C(n, k), with c successes among n samples (Chen et al., 2021).
    """
    return {
        task: [1 - math.comb(len(own) - round(sum(own)), k) / math.comb(len(own), k)]
        for task, own in run.items()
        if len(own) >= k
    }


def pass_at_k(runs: Sequence[Samples], k: int) -> Estimate:
    """The mean of `passed` over tasks, with the interval of `mean`; unlike `success`, of independent samples."""
    return mean([passed(run, k) for run in runs], "%").within(0, 1)


def difference(first: Sequence[Samples], second: Sequence[Samples]) -> Estimate:
    """The share of `second` minus that of `first`, paired by task: a positive value means that `second` is ahead.

    Each is one run, or the runs of one method under several seeds, on the same panel; tasks that only one of them
    has are left out. The interval is the one of `mean`, cut to the possible differences.
    """
    tasks = sorted(set().union(*first) & set().union(*second))
    if not tasks:
        return NOTHING
    cells = [_cells([{task: run.get(task, ()) for task in tasks} for run in runs]) for runs in (first, second)]
    ours, theirs = (np.nanmean(each, axis=0) for each in cells)
    return _change(theirs - ours, cells)


def matched(pairs: Sequence[tuple[Samples, Samples]]) -> Estimate:
    """The second share minus the first over pairs of runs that began alike, such as trainings from one warm start.

    Luck that both runs of a pair share cancels out; `difference` would count it as chance, once for each. Tasks that
    only one of a pair has are left out. The interval is the one of `mean` for the differences of the pairs, cut to the
    possible ones.
    """
    changes = [
        {task: [fmean(theirs[task]) - fmean(ours[task])] for task in ours if ours[task] and theirs.get(task)}
        for ours, theirs in pairs
    ]
    cells = _cells(changes)
    return _change(np.nanmean(cells, axis=0), [cells]) if cells.size else NOTHING


@dataclass(frozen=True, slots=True)
class McNemar:
    """Exact test of two runs with one trial per task: were equally many tasks gained and lost?

    Attributes:
        gained: Tasks that only the second run won.
        lost: Tasks that only the first run won.
        p: Two-sided p-value of so uneven a split, if gain and loss were equally likely.
    """

    gained: int
    lost: int
    p: float


def mcnemar(first: Samples, second: Samples) -> McNemar | None:
    """McNemar's exact test on the tasks that both have; None where a task has several, dependent samples."""
    if any(len(values) > 1 for run in (first, second) for values in run.values()):
        return None
    from scipy.special import bdtr

    pairs = [(first[task][0], second[task][0]) for task in first.keys() & second.keys()]
    gained = sum(ours < theirs for ours, theirs in pairs)
    lost = sum(ours > theirs for ours, theirs in pairs)
    # Both tails of the binomial distribution at one half, which are equal.
    return McNemar(gained, lost, min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5))))


def _cells(runs: Sequence[Samples]) -> Array:
    """Mean of each run's samples of each task, runs x tasks: NaN without samples; runs without any are left out."""
    tasks = sorted({task for run in runs for task, values in run.items() if values})
    rows = [[fmean(run[task]) if run.get(task) else math.nan for task in tasks] for run in runs if any(run.values())]
    return np.array(rows, dtype=float).reshape(len(rows), len(tasks))


def _estimate(by_task: Array, cells: Sequence[Array], unit: str, reach: float) -> Estimate:
    value, tasks = float(by_task.mean()), len(by_task)
    if tasks == 1:
        return Estimate(value, math.nan, math.nan, 1, unit)
    # Where all tasks agree: the upper bound of the share of tasks with another value, times how far that can be off.
    # With this share, 2.5% of panels hold no such task.
    agree = np.ptp(by_task) < 1e-12
    half = reach * (1 - 0.025 ** (1 / tasks)) if agree else 0.0
    if any(len(each) > 1 for each in cells):
        # Tasks may agree on average over runs that differ.
        variance, freedom = _spread(by_task, *cells)
        half = max(half, _t(freedom) * math.sqrt(variance))
    elif not agree:
        low, high = np.percentile(_resampled_means(by_task), [2.5, 97.5])
        return Estimate(value, float(low), float(high), tasks, unit)
    return Estimate(value, value - half, value + half, tasks, unit)


def _change(by_task: Array, cells: Sequence[Array]) -> Estimate:
    """The mean difference of shares over tasks."""
    # From one task's difference to that of an unseen one, which is anything from -1 to 1.
    return _estimate(by_task, cells, "points", 1 + abs(float(by_task.mean()))).within(-1, 1)


def _resampled_means(by_task: Array) -> Array:
    """Means of resamples of the tasks, of equal size and with replacement; the same for the same values."""
    rng = np.random.default_rng(0)
    some = max(1, 4_000_000 // len(by_task))
    parts = [min(some, RESAMPLES - done) for done in range(0, RESAMPLES, some)]
    return np.concatenate([by_task[rng.integers(len(by_task), size=(n, len(by_task)))].mean(axis=1) for n in parts])


def _spread(by_task: Array, *methods: Array) -> tuple[float, float]:
    """Variance of the mean of `by_task`, and its degrees of freedom.

    Tasks vary, and so do the runs of a method that has several. This is the two-way clustered variance: the variance
    between tasks (over their number), plus for each method that between its runs, minus the interaction of runs and
    tasks, which is counted twice; at least the largest part. Degrees of freedom are Satterthwaite's.

    Args:
        by_task: The value of each task, averaged over runs.
        methods: The values of each method, runs x tasks, NaN where one is missing.
    """
    tasks = len(by_task)
    parts = [(float(np.var(by_task, ddof=1)) / tasks, tasks - 1)]
    for cells in methods:
        if (runs := len(cells)) > 1:
            by_run = np.nanmean(cells, axis=1)
            rest = cells - by_run[:, None] - np.nanmean(cells, axis=0) + by_run.mean()
            free = (runs - 1) * (tasks - 1)
            parts.append((float(np.var(by_run, ddof=1)) / runs, runs - 1))
            parts.append((-float(np.nansum(rest**2)) / free / (runs * tasks), free))
    variance, (largest, freedom) = sum(part for part, _ in parts), max(parts)
    if variance <= largest:
        return largest, freedom
    return variance, variance**2 / sum(part**2 / free for part, free in parts)


def _t(freedom: float) -> float:
    """Student's quantile for 95%, both sides."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975)) if math.isfinite(freedom) else Z


def _wilson(successes: float, total: float) -> tuple[float, float]:
    """The Wilson score interval; numbers of trials need not be whole."""
    if not total:
        return 0.0, 1.0
    value, shrink = successes / total, 1 + Z**2 / total
    middle = (value + Z**2 / (2 * total)) / shrink
    half = Z / shrink * math.sqrt(max(0.0, value * (1 - value)) / total + (Z / (2 * total)) ** 2)
    return (0.0 if value <= 0 else max(0.0, middle - half)), (1.0 if value >= 1 else min(1.0, middle + half))

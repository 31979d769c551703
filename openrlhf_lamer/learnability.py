"""Learnability of a task: whether its group of trials teaches something, and how often the task is drawn as a result.

A policy gradient compares the trials of a group, and trials that earned the same do not say which was better. For
returns of 0 and 1 the variance in a group is p(1 - p), p being the share of successes: the *learnability* by which SFL
picks levels (arXiv 2408.15099) and arXiv 2502.12272 questions for a language model, and a lower bound of how much a
step can gain (arXiv 2504.03380). Here it is the variance of the returns, since attempts and penalties lead to more than
two values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from openrlhf_lamer import advantage
from openrlhf_lamer.advantage.table import FloatArray
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.records import Trial

SAME = 1e-6
"""Largest difference of two returns that count as the same: the same rewards, summed in another order, differ less."""

FLOOR = 0.1
"""Weight of a task that teaches nothing, relative to the one that teaches most. Such tasks mostly go on to teach
nothing (arXiv 2506.02177), but the policy changes, and only playing them shows it. No task is drawn more than
1 / `FLOOR` times as often as at random, so a few tasks never fill a batch."""

SMOOTHING = 0.5
"""Weight of a task's last group against its earlier ones: few trials are a noisy sample, and old ones are stale."""


def trial_returns(estimator: str, trials: Sequence[Trial], config: LamerConfig) -> list[float]:
    """Return of each live trial as the estimator of this name compares it.

    With ours that is G of the trial's first turn, in the estimator's form: discounted by γ_step, so that of two wins
    the faster one earns more; or the estimator's own number, where it compares by another (`Estimator.compared`).
    With the host's it is the scalar that the host is given (`Trial.scalar_return`). Penalties of play turns count;
    that of a reflection without a remark is part of no earlier return.
    """
    if estimator not in advantage.names():
        return [trial.scalar_return(config.gamma_traj) for trial in trials]
    ours = advantage.get(estimator)
    settled = ours.settle(config.credit(ours))
    table = advantage.with_returns(advantage.TurnTable.from_trials(trials, [0] * len(trials), config.memory), settled)
    played, first = np.unique(table.trial, return_index=True)
    found = np.zeros(len(trials))
    found[played] = ours.compared(table, settled) if ours.compared else table.returns[first]
    return found.tolist()


def filters_by_wins(estimator: str, config: LamerConfig) -> bool:
    """Whether dynamic filtering uses only the share of wins, as for the host's estimators on single episodes.

    Such a run is the host's own training, which includes its filter.
    """
    return estimator not in advantage.names() and config.num_episodes == 1


def learnability(returns: Sequence[float]) -> float | None:
    """Variance of the returns of a group's trials: 0 where all are the same, None for fewer than two trials."""
    if len(returns) < 2:
        return None
    return float(np.var(returns)) if max(returns) - min(returns) > SAME else 0.0


class TaskWeights:
    """How often each task of a data set is drawn, by what its groups taught.

    With v the smoothed learnability of a task's groups, and v_max the largest among all tasks, a task weighs

        w = FLOOR + (1 - FLOOR) · v / v_max,        v ← v + SMOOTHING · (learnability of the last group - v)

    and is drawn with probability w / Σ w, which is never below FLOOR / tasks. A task that was not played yet weighs as
    much as those that were, on average. While no group taught anything, all tasks weigh 1.

    Args:
        tasks: Number of tasks.
        known: Smoothed learnability of the tasks that were played, by index.
    """

    def __init__(self, tasks: int, known: Mapping[int, float] | None = None) -> None:
        self._learnability = np.full(tasks, np.nan)
        for task, value in (known or {}).items():
            self._learnability[task] = value

    @property
    def known(self) -> dict[int, float]:
        """Smoothed learnability of the tasks that were played, by index."""
        played = np.flatnonzero(~np.isnan(self._learnability))
        return {int(task): float(self._learnability[task]) for task in played}

    def learn(self, task: int, value: float) -> None:
        """Record the learnability of a group of a task."""
        before = self._learnability[task]
        self._learnability[task] = value if np.isnan(before) else before + SMOOTHING * (value - before)

    def weights(self) -> FloatArray:
        """Weight of each task, not normalised; [tasks]."""
        played = ~np.isnan(self._learnability)
        most = self._learnability[played].max(initial=0.0)
        if not most > 0:
            return np.ones(len(self._learnability))
        weights = FLOOR + (1 - FLOOR) * self._learnability / most
        weights[~played] = weights[played].mean()
        return weights

    def pick(self, share: float) -> int:
        """The task at a share, in [0, 1), of the sum of all weights: drawn by weight where the share is uniform."""
        ends = np.cumsum(self.weights())
        return min(int(np.searchsorted(ends, share * ends[-1], side="right")), len(ends) - 1)

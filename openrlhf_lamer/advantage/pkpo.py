"""`lamer_pkpo`: the best of k independent attempts (PKPO, arXiv 2505.15201), a baseline that does without meta-RL.

It is meant for trials of one episode (N = 1): k attempts that know nothing of each other, where LaMer plays one trial
of several episodes. The reward of trial i is one number,

    g_i = Σ_t γ_traj^(episode of t) · r_t                  over all its turns, penalties and reflections included

which for N = 1 is the plain sum, without γ_step: what an evaluation counts is whether an attempt wins, not when. In a
group of n trials, and with J over all sets of k-1 of the n-1 trials other than i:

    A_i = k · mean_J (max(g_i, max_J g) - max_J g)         k > 1
    A_i = g_i - 1/(n-1) Σ_{j≠i} g_j                        k = 1

All turns of a trial get its A. A_i is n times the paper's s^(loo-1), since our gradients are averages over trials where
the paper's are sums; for k = 1, where the set without i is empty, it is the mean of the others. With g sorted,
g_(1) ≤ … ≤ g_(n), and 1 for k = 1 apart,

    A_(1) = 0,    A_(m+1) = A_(m) + k · p_m · (g_(m+1) - g_(m)),    p_m = C(m, k-1) / C(n-1, k-1)

p_m being the chance that all k-1 others are among the m lowest: O(n log n) for a group. For rewards of 0 and 1, of
which c are 1, a win gets k · C(n-c, k-1) / C(n-1, k-1), and a loss 0. So the rarer wins are, the more each counts, up
to k; if k-1 others can't be drawn without a win, none counts. For k > 1 no A is negative.

A group may be left with fewer than k trials after failures: then k = n there, the best of all that are left, and a
trial that is the only one of its group gets 0. For N > 1 a sample is a whole trial, and what is trained is the best of
k trials. `cross_episode`, γ_step and `reference` change nothing. norm="mean" (the default) leaves A as it is;
norm="mean_std" divides it by σ + ε, σ² = 1/(n-1) Σ_i (g_i - mean)² in the group, σ = 1 for n = 1. Columns and result
are [turns].

Unbiased, with norm="mean" and n ≥ k (n > 1 for k = 1), for another target than that of the other estimators: the
gradient of E[max of k samples' g]. By symmetry it is k · E[∇log π(trial i) · max(g_i, max_J g)], and what is
subtracted does not depend on trial i. "mean_std" is biased, as σ depends on the trial's own actions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from openrlhf_lamer.advantage.groups import EPS, codes, std, totals
from openrlhf_lamer.advantage.registry import register
from openrlhf_lamer.advantage.returns import discounted_sums
from openrlhf_lamer.advantage.table import CreditConfig, FloatArray, IntArray, TurnTable


@dataclass(frozen=True, slots=True)
class PkpoOptions:
    """Number of samples of which the best counts."""

    k: int = field(
        default=3,
        metadata={
            "ge": 1,
            "description": "Attempts of which PKPO trains the best (k), at most those of a group. 1 is RLOO on whole "
            "attempts; the default is the number of episodes that a LaMer trial has.",
        },
    )


def advantages(reward: FloatArray, group: IntArray, k: int) -> FloatArray:
    """A of each trial from its reward and the code of its group (0 … groups - 1); all [trials]."""
    best_first = np.lexsort((-reward, group))
    g, size = reward[best_first], np.bincount(group)[group[best_first]]
    begins = np.diff(group[best_first], prepend=-1) != 0
    below = size - 1 - (np.arange(len(g)) - np.flatnonzero(begins)[np.cumsum(begins) - 1])
    drawn = np.minimum(k, size)
    rise = np.where(below > 0, g - np.append(g[1:], 0.0)[: len(g)], 0.0)
    out = np.empty(len(g))
    out[best_first] = discounted_sums(drawn * _all_below(below, size, drawn - 1) * rise, (below > 0).astype(np.float64))
    others = np.bincount(group)[group] - 1
    alone = reward - (totals(reward, group) - reward) / np.maximum(others, 1)
    return np.where(np.minimum(k, others + 1) == 1, np.where(others > 0, alone, 0.0), out)


def rewards(table: TurnTable, config: CreditConfig) -> FloatArray:
    """g of each trial in the table; [trials]."""
    weights = config.gamma_traj**table.episode * table.reward
    return np.bincount(codes(table.trial), weights=weights).astype(np.float64)


@register(
    "lamer_pkpo",
    norm="mean",
    needs_group=True,
    options=PkpoOptions,
    compared=rewards,
    unused=frozenset({"gamma_step", "cross_episode", "reference"}),
)
def estimate(table: TurnTable, config: CreditConfig, options: PkpoOptions) -> FloatArray:
    """A of the turn's trial; [turns]."""
    reward = rewards(table, config)
    begins = np.diff(table.trial, prepend=table.trial[:1] - 1) != 0
    group = codes(table.group[begins])
    advantage = advantages(reward, group, options.k)
    if config.norm == "mean_std":
        advantage /= std(reward, group, np.ones(len(reward))) + EPS
    return advantage[np.cumsum(begins) - 1]


def _all_below(below: IntArray, size: IntArray, drawn: IntArray) -> FloatArray:
    """C(below, drawn) / C(size - 1, drawn), with drawn < size: by logarithms of factorials, as these are too large."""
    log_factorial = np.append(0.0, np.cumsum(np.log(np.arange(1, size.max(initial=0) + 1))))
    ways = log_factorial[below] - log_factorial[np.maximum(below - drawn, 0)]
    all_ways = log_factorial[size - 1] - log_factorial[size - 1 - drawn]
    return np.where(below >= drawn, np.exp(ways - all_ways), 0.0)

"""`lamer_rloo`: leave-one-trial-out baselines (RLOO, arXiv 2402.14740) on cross-episode returns.

For turn t of trial i in a group of n trials, trial j having T_j turns, reflections among them:

    A_{i,t} = G_{i,t} - 1/(n-1) Σ_{j≠i} (1/T_j) Σ_s G_{j,s}

i, j = 1 … n, s, t = 1 … T_j. norm="mean" (the default) is this; norm="mean_std" divides it by σ + ε with the
σ of `lamer_grpo`. A trial that is the only one of its group has no baseline and gets 0. With `reference` the
*turn* is what is left out and what is counted: A_k = G_k - 1/(m-1) Σ_{l≠k} G_l over the m turns k, l of the
group. Columns and result are [turns].

Unbiased, with norm="mean" and n > 1, for the target E[Σ ∇log π(a_t|s_t) · G_t]: the baseline of a trial is
made of other trials only, which are independent of its actions given the task. This holds even where the
policy itself decides how long a trial is. Leave-one-turn-out is biased, as the other turns of a trial share
its future rewards; "mean_std" is, as σ depends on the trial's own actions.
"""

from __future__ import annotations

import numpy as np

from openrlhf_lamer.advantage.groups import EPS, codes, share, std, totals, units
from openrlhf_lamer.advantage.registry import register
from openrlhf_lamer.advantage.table import CreditConfig, FloatArray, TurnTable


@register("lamer_rloo", norm="mean", needs_group=True)
def estimate(table: TurnTable, config: CreditConfig) -> FloatArray:
    """G against the mean of the group's other trials; [turns]."""
    group = codes(table.group)
    # The unit that is left out as a whole: the trial, or (reference) the turn.
    unit = np.arange(len(table)) if config.reference else codes(table.trial)
    weight = share(np.ones(len(table)), unit)
    weighted = weight * table.returns
    count = units(group, weight)
    baseline = (totals(weighted, group) - totals(weighted, unit)) / np.maximum(count - 1, 1)
    advantage = np.where(count > 1, table.returns - baseline, 0.0)
    return advantage / (std(table.returns, group, weight) + EPS) if config.norm == "mean_std" else advantage

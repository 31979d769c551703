"""`lamer_reinforce`: group means subtracted, one spread for the batch (REINFORCE++-baseline, arXiv 2501.03262).

For turn t of trial i in group k, the batch having n trials, trial i having T_i turns, reflections among them:

    x_{i,t} = G_{i,t} - μ_k                                norm="mean"
    A_{i,t} = (x_{i,t} - x̄) / (σ + ε)                      norm="mean_std", the default
    x̄  = (1/n) Σ_i (1/T_i) Σ_t x_{i,t}  (0 but for rounding)
    σ² = 1/(n-1) Σ_i (1/T_i) Σ_t (x_{i,t} - x̄)²,           σ = 1 for n = 1

i = 1 … n over all groups, t = 1 … T_i; μ_k is the group mean of `lamer_grpo`, every trial weighing 1. With
`reference` every turn weighs 1 in μ_k and σ. Columns and result are [turns].

Bias. That of `lamer_grpo` with norm="mean" (the trial's own returns in its baseline, vanishing as 1/group
size) and, with "mean_std", one random factor 1/σ for the whole batch. Unlike GRPO's, that factor is the same
for every task, so it doesn't weigh tasks against each other, and its randomness vanishes with the
batch size. With one spread for tasks of different reward scales, the large scales dominate.
"""

from __future__ import annotations

import numpy as np

from openrlhf_lamer.advantage.groups import codes, normalise, share
from openrlhf_lamer.advantage.registry import register
from openrlhf_lamer.advantage.table import CreditConfig, FloatArray, TurnTable


@register("lamer_reinforce", norm="mean_std", needs_group=True)
def estimate(table: TurnTable, config: CreditConfig) -> FloatArray:
    """G against the mean of its group, over the spread of the batch; [turns]."""
    weight = np.ones(len(table))
    if not config.reference:
        weight = share(weight, codes(table.trial))
    centred = normalise(table.returns, codes(table.group), weight, "mean")
    if config.norm == "mean":
        return centred
    batch = np.zeros(len(table), dtype=np.int64)
    return normalise(centred, batch, weight, config.norm)

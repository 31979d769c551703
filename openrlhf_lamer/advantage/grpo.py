"""`lamer_grpo`: group-relative advantages (GRPO, arXiv 2402.03300) on cross-episode returns.

For turn t of trial i in a group of n trials, trial i having T_i turns, reflections among them:

    A_{i,t} = (G_{i,t} - μ) / (σ + ε)                      norm="mean_std", the default
    A_{i,t} =  G_{i,t} - μ                                 norm="mean" (Dr. GRPO, arXiv 2503.20783)
    μ  = (1/n) Σ_i (1/T_i) Σ_t G_{i,t}
    σ² = 1/(n-1) Σ_i (1/T_i) Σ_t (G_{i,t} - μ)²,           σ = 1 for n = 1

i = 1 … n, t = 1 … T_i; every trial weighs 1 in μ and σ², however long it is, and where each has one
turn σ is the plain sample standard deviation. With `reference` every turn weighs 1 instead: n is the
number of turns, and long trials dominate. A group of one turn gets 0. Columns and result are [turns].

Bias. The target is E[Σ ∇log π(a_t|s_t) · G_t]. A constant μ would leave it as it is; this μ holds the trial's
own returns with weight 1/n, so that "mean" is off by E[Σ ∇log π(a_t|s_t) · Ḡ_i]/n, Ḡ_i being the trial's mean
return. With one turn a trial this is only the factor (n-1)/n, otherwise the direction is off too; it vanishes
as 1/n. "mean_std" further divides by a spread that depends on the sample, which weighs tasks of small spread
(nearly always or never solved) higher. `lamer_rloo` has neither.
"""

from __future__ import annotations

import numpy as np

from openrlhf_lamer.advantage.groups import codes, normalise, share
from openrlhf_lamer.advantage.registry import register
from openrlhf_lamer.advantage.table import CreditConfig, FloatArray, TurnTable


@register("lamer_grpo", norm="mean_std", needs_group=True)
def estimate(table: TurnTable, config: CreditConfig) -> FloatArray:
    """G against the mean of its group, over the group's spread; [turns]."""
    weight = np.ones(len(table))
    if not config.reference:
        weight = share(weight, codes(table.trial))
    return normalise(table.returns, codes(table.group), weight, config.norm)

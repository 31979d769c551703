"""`lamer_hgpo`: anchor groups refined by what led to the state (HGPO, arXiv 2602.22817), on cross-episode returns.

Turn t is in one group of each level k = 0 … K+1, K = `depth`, default 2. Two turns of one task are in one group

    at level 0           if they begin in the same environment state (GiGPO's anchor groups)
    at level k ≤ K       if the last k turns of their episodes, as states and actions, are equal too
    at level K+1         if the memory that their episodes are shown is equal too

The beginning of an episode counts as a special turn, so where an episode has fewer than k earlier turns, all of them
are compared. With `similarity` < 1, states that look alike count as equal throughout (`similarity.py`), except in the
memory. Reflections on episodes with the same index are separate groups, refined in the same way. With n_k the number of
trials in the turn's group c_k of level k, and α = `depth_power`, default 1:

    A   = Σ_k w_k · (G - ν_k)                              norm="mean", the default
    A   = Σ_k w_k · (G - ν_k) / (σ_k + ε)                  norm="mean_std"
    ν_k = (1/n_k) Σ_i (mean of G over the turns of i in c_k),     σ_k² in the same way around ν_k, over n_k - 1
    w_k = (k+1)^α / Σ_j (j+1)^α over the levels j with n_j > 1, and 0 where n_k = 1

i runs over the n_k trials. A turn without another trial at any level gets 0. Every trial weighs 1 in a group, however
many of its turns are there; with `reference` every turn does, n_k counts turns, and the reflections of a group are one
anchor group. Actions (the public code compares only states) and the memory (the paper has no episodes) are our
additions, since prompts show both. Columns and result are [turns]; the table needs `action` and `memory`.

Bias. As an estimate of A^π(s, a), G - ν_k is off where c_k mixes contexts, and less so at finer levels: HGPO fixes this
in GiGPO. In the gradient E[Σ ∇log π(a_t|s_t) · A] such mixing only costs variance, since other trials' rewards don't
depend on the turn's action. The bias comes from the trial's own share: ν_k holds its return with weight 1/n_k, which
shrinks the contributions of rare states more than those of common ones, down to 0 for a turn without another trial in
its group; and a trial that visits the state again adds its other return to ν_k. So this does not estimate the target
E[Σ ∇log π(a_t|s_t) · G_t], but is near it where contexts are common. "mean_std" also weighs contexts of small spread
higher.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from openrlhf_lamer.advantage.groups import anchor_groups, codes, normalise, share, units
from openrlhf_lamer.advantage.registry import register
from openrlhf_lamer.advantage.similarity import SIMILARITY, merged
from openrlhf_lamer.advantage.table import CreditConfig, FloatArray, IntArray, TurnTable


@dataclass(frozen=True, slots=True)
class HgpoOptions:
    """Levels of contexts, their weights, and the states that count as equal."""

    depth: int = field(
        default=2, metadata={"ge": 0, "description": "Earlier turns (K) that HGPO compares contexts by."}
    )
    depth_power: float = field(
        default=1.0,
        metadata={
            "ge": 0,
            "allow_inf_nan": False,
            "description": "Exponent (α) of the weight (k + 1)^α that HGPO gives to level k.",
        },
    )
    similarity: float = field(default=1.0, metadata=SIMILARITY)


def contexts(table: TurnTable, depth: int, reference: bool = False) -> Iterator[IntArray]:
    """Group codes of each level 0 … depth + 1, from the coarsest to the finest; each [turns]."""
    if table.action is None or table.memory is None:
        raise ValueError("lamer_hgpo compares histories: give the table the columns action and memory")
    context = anchor_groups(table, reference)
    yield context
    step, episode = codes(table.anchor, table.action), codes(table.trial, table.episode)
    for back in range(1, depth + 1):
        earlier = np.full(len(table), -1)
        same = episode[back:] == episode[:-back]
        earlier[back:][same] = step[:-back][same]
        context = codes(context, earlier)
        yield context
    yield codes(context, table.memory)


@register("lamer_hgpo", norm="mean", needs_group=True, options=HgpoOptions)
def estimate(table: TurnTable, config: CreditConfig, options: HgpoOptions) -> FloatArray:
    """G against the turns of equal context at each level, the levels weighted; [turns]."""
    table = merged(table, options.similarity)
    trial = codes(table.trial)
    total, weights = np.zeros(len(table)), np.zeros(len(table))
    for level, context in enumerate(contexts(table, options.depth, config.reference)):
        unit = np.ones(len(table))
        if not config.reference:
            unit = share(unit, codes(context, trial))
        weight = np.where(units(context, unit) > 1, (level + 1.0) ** options.depth_power, 0.0)
        total += weight * normalise(table.returns, context, unit, config.norm)
        weights += weight
    return np.divide(total, weights, out=np.zeros(len(table)), where=weights > 0)

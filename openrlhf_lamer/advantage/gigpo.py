"""`lamer_gigpo`: group-in-group advantages (GiGPO, arXiv 2505.10978) on cross-episode returns; LaMer's default.

For turn t of episode e of trial i in a group of n trials, trial i having E_i episodes:

    A = A_episode + w · A_step                             w = `step_weight`

    A_episode = R_{i,e} - μ                                R_{i,e} = Σ_t r_{i,e,t} over the play turns, undiscounted
                                                           μ = (1/n) Σ_i (1/E_i) Σ_e R_{i,e}
    A_step    = G_{i,e,t} - ν_c                            ν_c = (1/n_c) Σ_i (mean of G over the turns of i in c)

i = 1 … n, e = 1 … E_i. c is the anchor group of the turn, with n_c trials in it: the group's play turns in the same
environment state, or the group's reflections on episodes with the same index. A reflection's A_episode is 0. With
`similarity` < 1, states that look alike count as one (`similarity.py`), and with cross_episode="difference" R is what
the episode earns above the one before (`returns.paid`), as in MAGE. That is norm="mean", the default; "mean_std"
divides each term by σ + ε, where σ² is the mean square around μ (ν_c), weighted in the same way, times n/(n-1), and
σ = 1 for n = 1. An anchor group of one turn gives 0. Columns and result are [turns].

With `reference`, as in the paper's code: every turn weighs 1, so μ counts an episode once per turn (long trials weigh
more); reflections enter μ with R = 0 and get R - μ (reflecting is punished); all reflections of a group are one anchor
group; a group of one turn has μ = 0.

Bias. Both means hold the trial's own returns (see `lamer_grpo`). A_episode gives each turn the reward of its whole
episode: the rewards before the turn cost variance, not bias, but those of later episodes are missing, and within the
episode there is no discount. In A_step, ν_c treats turns in equal states as one decision, though their prompts hold
different memories and different numbers of episodes lie ahead. As an estimate of A^π(s, a), A_step is off by that (see
`lamer_hgpo`). In the gradient, other trials' returns only cost variance, but the trial's own share shrinks each state's
contribution by a different factor, down to 0 for a turn without another in its group, and a state that a trial visits
again is compared with the trial's own other return. So the sum neither estimates the target E[Σ ∇log π(a_t|s_t) · G_t]
nor has its scale: w trades one term for the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from openrlhf_lamer.advantage.groups import EPS, anchor_groups, codes, normalise, share
from openrlhf_lamer.advantage.registry import register
from openrlhf_lamer.advantage.returns import credited
from openrlhf_lamer.advantage.similarity import SIMILARITY, merged
from openrlhf_lamer.advantage.table import CreditConfig, FloatArray, TurnTable
from openrlhf_lamer.vocabulary import Norm


@dataclass(frozen=True, slots=True)
class GigpoOptions:
    """Weight of the two terms, and the states that are compared."""

    step_weight: float = field(
        default=1.0,
        metadata={"ge": 0, "allow_inf_nan": False, "description": "Weight (w) of GiGPO's step term."},
    )
    similarity: float = field(default=1.0, metadata=SIMILARITY)


def episode_term(table: TurnTable, norm: Norm | None, reference: bool) -> FloatArray:
    """Undiscounted reward of the turn's episode, against the group; [turns]."""
    group, episode = codes(table.group), codes(table.trial, table.episode)
    plays = table.plays
    episode_reward = np.bincount(episode, weights=np.where(plays, table.reward, 0.0))
    own = np.where(plays, episode_reward[episode], 0.0)
    if not reference:
        # Each episode shared among its play turns, each trial among its episodes.
        weight = share(share(plays, episode), codes(table.trial))
        return np.where(plays, normalise(own, group, weight, norm), 0.0)
    term = normalise(own, group, np.ones(len(table)), norm)
    alone = own / (1 + EPS) if norm == "mean_std" else own
    return np.where(np.bincount(group)[group] > 1, term, alone)


def step_term(table: TurnTable, norm: Norm | None, reference: bool) -> FloatArray:
    """G against the turns of the anchor group; [turns]."""
    anchor = anchor_groups(table, reference)
    weight = np.ones(len(table))
    if not reference:
        weight = share(weight, codes(anchor, table.trial))
    return normalise(table.returns, anchor, weight, norm)


@register("lamer_gigpo", norm="mean", needs_group=True, options=GigpoOptions)
def estimate(table: TurnTable, config: CreditConfig, options: GigpoOptions) -> FloatArray:
    """Episode term + w · step term; [turns]."""
    table = merged(table, options.similarity)
    step = step_term(table, config.norm, config.reference)
    return episode_term(credited(table, config), config.norm, config.reference) + options.step_weight * step

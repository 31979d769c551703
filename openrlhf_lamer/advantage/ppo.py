"""`lamer_ppo`: generalised advantages (GAE, arXiv 1506.02438) along the trial's chain of turns, with a critic.

The turns t = 0 … L-1 of a trial, reflections in their place, are one chain; V_t is the critic's value where
turn t begins (`values`), V_L = 0. With the rewards ρ and discounts d of the chain, and λ = `lambd`:

    δ_t = ρ_t + d_t · V_{t+1} - V_t
    A_t = δ_t + d_t · λ · A_{t+1},   A_L = 0               target of the critic: A_t + V_t

    d_t = γ_step         from a play turn to the next of its episode
          γ_traj^k       to a turn k episodes on: from an episode's last turn to the reflection on it (k = 1), or
                         to the next episode's first turn where there is no reflection
          1              from a reflection to the first turn of the next episode
          0              from the trial's last turn
    ρ_t = r_t - d_t · r_{t+1}  where turn t+1 is a reflection, else r_t

The return of the chain, Σ ρ · Π d, is the "chained" G of `returns.py`: a reflection's reward (its penalty) is taken
back on the step before it, so that it costs the reflection and no earlier turn. So a critic may learn the reflection's
value with the penalty in it. Inside a turn the discount is 1 and there are no rewards: all its tokens share A_t and the
target A_t + V_t. At λ = 1 the target is G_t and A_t = G_t - V_t.

"difference" is the same recursion on other rewards (`returns.paid` gives the r above), so it works too; the episode
that it is compared with lies in the past of its turns, so the critic may learn it. There is no "paper" form: in Eq. 4
later episodes count the same for all turns of an episode, so G_t is not a function of r_t and G_{t+1}. norm="mean" (the
default) leaves A as it is, the critic being the baseline; "mean_std" subtracts the batch's mean and divides by its
spread + ε, every trial weighing 1 as in `lamer_reinforce`. `reference` changes nothing: the reference code's PPO has no
return across episodes. Columns and result are [turns].

Unbiased, with norm="mean", for the target E[Σ ∇log π(a_t|s_t) · G_t] of the chained form: at λ = 1 (the default) for
any critic that sees only what comes before the turn; at λ < 1 only with V_t = E[G_t|s_t], since otherwise the critic's
error replaces part of the later rewards. "mean_std" is biased, as mean and spread hold the trial's own returns; with
the batch size, this vanishes up to a common factor.
"""

from __future__ import annotations

import numpy as np

from openrlhf_lamer.advantage.groups import codes, normalise, share
from openrlhf_lamer.advantage.registry import register
from openrlhf_lamer.advantage.returns import credited, discounted_sums
from openrlhf_lamer.advantage.table import CreditConfig, FloatArray, TurnTable


def chain_discounts(table: TurnTable, config: CreditConfig) -> FloatArray:
    """d from every turn to the next one of its trial; [turns]."""
    # A reflection counts as the beginning of the next episode.
    place = table.episode + ~table.plays
    episodes_on = np.diff(place, append=0)
    discount = config.gamma_traj ** np.maximum(episodes_on, 0)
    discount[table.plays & (episodes_on == 0)] = config.gamma_step
    discount[np.diff(table.trial, append=-1) != 0] = 0.0
    return discount


def gae(table: TurnTable, config: CreditConfig) -> FloatArray:
    """A of every turn, not normalised; [turns]."""
    table = credited(table, config)
    assert table.values is not None  # checked by the registry
    discount = chain_discounts(table, config)
    taken_back = discount * _next(np.where(table.plays, 0.0, table.reward))
    delta = table.reward - taken_back + discount * _next(table.values) - table.values
    return discounted_sums(delta, config.lambd * discount)


def targets(table: TurnTable, config: CreditConfig) -> FloatArray:
    """Targets of the critic where each turn begins: A + V before any normalisation; [turns]."""
    assert table.values is not None
    return gae(table, config) + table.values


@register(
    "lamer_ppo",
    norm="mean",
    needs_group=False,
    chained_only=True,
    targets=targets,
    unused=frozenset({"reference"}),
)
def estimate(table: TurnTable, config: CreditConfig) -> FloatArray:
    """A along the chain of each trial; [turns]."""
    advantage = gae(table, config)
    if config.norm == "mean":
        return advantage
    batch = np.zeros(len(table), dtype=np.int64)
    return normalise(advantage, batch, share(np.ones(len(table)), codes(table.trial)), config.norm)


def _next(x: FloatArray) -> FloatArray:
    """The next row's figure; 0 after the last row, whose discount is 0 too."""
    return np.append(x[1:], 0.0)[: len(x)]

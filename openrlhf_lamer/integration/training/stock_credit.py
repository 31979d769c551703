"""The host's own estimators on whole trials.

To the host, a sample is one sequence with a reward at its end. So a trial is given to it as its sampled tokens one
after the other, whatever rows they stand in, with the trial's scalar return R as the reward. Each sampled token takes
its advantage from its place in this sequence, so stock estimators are exact in every context.

The host's own code charges length penalties, clips, adds the KL penalty and sums rewards (or values) over the tokens.
Its baseline and its whitening are written out here for two reasons. The host assumes groups of equal size, which failed
trials break, and it compares rewards in single precision, in which equal returns can differ. With n live trials in a
group, m their mean return and s² = Σ (R - m)² / (n - 1), the reward is

    reinforce_baseline, dr_grpo   R - m
    rloo                          R - the mean of the others  =  (R - m) · n / (n - 1)
    group_norm                    (R - m) / (s + 1e-9)
    flash_reinforce               R - the mean return of the batch
    gae, reinforce                R

and gae, reinforce and reinforce_baseline whiten advantages once, over all tokens of the batch: (A - μ) / σ, with σ² at
least 1e-8, or A - μ with `--algo.advantage.no_std_norm`. Where a group has one live trial, an estimator that
compares a group gives it the advantage 0 and leaves it out of μ and σ. All of this is in double precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from openrlhf.models.utils import compute_reward
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.length_penalty import apply_length_penalties

from openrlhf_lamer.advantage.table import FloatArray, IntArray
from openrlhf_lamer.integration.host import ESTIMATORS, Baseline


@dataclass(frozen=True)
class TokenSequences:
    """Live trials as the host's estimators see them: one sequence of sampled tokens each, with a reward at its end.

    Attributes:
        earned: R of each trial; [trials], double precision.
        truncated: Whether a reply of the trial was cut off; [trials].
        groups: Group of each trial; [trials].
        mask: 1 at sampled tokens, 0 after the last; [trials, tokens].
        kl: The host's divergence at each token; [trials, tokens], double precision.
        values: The critic's values; [trials, tokens], double precision. None without a critic.
    """

    earned: torch.Tensor
    truncated: torch.Tensor
    groups: IntArray
    mask: torch.Tensor
    kl: torch.Tensor
    values: torch.Tensor | None


def stock_credit(
    name: str,
    trials: TokenSequences,
    args: Any,
    kl_coefficient: float,
    *,
    summed: Callable[..., Any],
    summed_with_values: Callable[..., Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and returns of trials' tokens by a host's estimator; each [trials, tokens], 0 where masked.

    Args:
        name: The estimator.
        trials: The live trials of a batch.
        args: The host's arguments.
        kl_coefficient: Weight of the KL penalty in the reward.
        summed: The host's `get_cumulative_returns`.
        summed_with_values: The host's `get_advantages_and_returns`.
    """
    estimator, given = ESTIMATORS[name], args.algo.advantage
    reward = torch.from_numpy(compare(_penalised(trials, args), trials.groups, estimator.baseline))
    gamma = given.gamma if estimator.discounts else 1.0
    per_token = compute_reward(reward, kl_coefficient, trials.kl, trials.mask, args.reward.clip_range)
    if estimator.critic:
        assert trials.values is not None, f"{name} needs the critic's values"
        advantages, returns = summed_with_values(trials.values, per_token, trials.mask, gamma, given.lambd)
    else:
        advantages = returns = summed(per_token, trials.mask, gamma)
    counted = trials.mask.bool()
    if estimator.needs_group:
        counted &= torch.from_numpy(np.bincount(trials.groups)[trials.groups] > 1).unsqueeze(1)
    if estimator.whitens and counted.any():
        own = advantages[counted]
        scale = 1.0 if given.no_std_norm else own.var(correction=0).clamp(min=1e-8).rsqrt()
        advantages = (advantages - own.mean()) * scale
    return advantages.where(counted, 0.0), returns.where(counted, 0.0)


def compare(earned: FloatArray, groups: IntArray, baseline: Baseline) -> FloatArray:
    """Rewards minus the host's baseline; 0 in a group of one.

    Args:
        earned: R of each live trial; [trials].
        groups: The group of each; [trials].
        baseline: The host's baseline.
    """
    if baseline == "none":
        return earned
    if baseline == "batch":
        groups = np.zeros_like(groups)
    _, first, group, size = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    # Counted from one of the group's own returns, so that equal ones differ from their mean by exactly 0.
    above = earned - earned[first][group]
    above -= (np.bincount(group, above) / size)[group]
    others = np.maximum(size - 1, 1)
    if baseline == "others":
        above *= (size / others)[group]
    if baseline == "spread":
        above /= (np.sqrt(np.bincount(group, above**2) / others) + 1e-9)[group]
    return above


def _penalised(trials: TokenSequences, args: Any) -> FloatArray:
    """R of each trial minus the host's length penalties."""
    fields: dict[str, Any] = {"rewards": trials.earned.clone(), "truncated": trials.truncated, "info": {}}
    sample = Experience(**fields)
    apply_length_penalties([sample], args)
    return sample.rewards.numpy()

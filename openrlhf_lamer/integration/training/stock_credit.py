"""The host's own estimators on whole trials.

To the host, a sample is one sequence with a reward at its end. A trial becomes just that: its sampled tokens one after
the other, whatever rows they stand in, with the trial's scalar return R as the reward. Each sampled token takes its
advantage from its place, so a stock name is exact in every context.

The host's own code charges length penalties, clips, adds the KL penalty and sums rewards (or values) over the tokens.
Its baseline and its whitening are written out here, because the host takes all groups for equally large, which failed
trials make untrue, and compares rewards in single precision, which makes a difference of equal returns. With n live
trials in a group, m their mean return and s² = Σ (R - m)² / (n - 1), the reward is

    reinforce_baseline, dr_grpo   R - m
    rloo                          R - the mean of the others  =  (R - m) · n / (n - 1)
    group_norm                    (R - m) / (s + 1e-9)
    flash_reinforce               R - the mean return of the batch
    gae, reinforce                R

and gae, reinforce and reinforce_baseline whiten advantages once, over all tokens of the batch: (A - μ) / σ, with σ² at
least 1e-8, or A - μ with `--algo.advantage.no_std_norm`. The only live trial of a group has nothing to be compared
with: its advantage is 0, and it is left out of μ and σ. All of it is in double precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from openrlhf.models.utils import compute_reward
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.length_penalty import apply_length_penalties

from openrlhf_lamer.advantage.table import BoolArray, FloatArray, IntArray
from openrlhf_lamer.integration.host import Baseline, HostEstimator
from openrlhf_lamer.integration.training.batch import TokenFigures
from openrlhf_lamer.records import Trial

Cumulative = Callable[[torch.Tensor, torch.Tensor, float], Any]
"""The host's sum of later rewards, of each token: (rewards, mask, γ)."""

Generalised = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float, float], Any]
"""The host's generalised advantages and returns of each token: (values, rewards, mask, γ, λ)."""


def compared_rewards(
    estimator: HostEstimator, trials: Sequence[Trial], groups: IntArray, gamma_traj: float, args: Any
) -> tuple[FloatArray, BoolArray]:
    """Rewards of trials, less length penalties and baseline, and whether a trial has others to be compared with.

    Args:
        estimator: The host's estimator.
        trials: The live trials.
        groups: The group of each; [trials].
        gamma_traj: Discount between episodes.
        args: The host's arguments.
    """
    reward = compare(_earned(trials, gamma_traj, args), groups, estimator.baseline)
    alone = np.bincount(groups)[groups] == 1
    return reward, ~alone if estimator.needs_group else np.ones(len(groups), dtype=bool)


def compare(earned: FloatArray, groups: IntArray, baseline: Baseline) -> FloatArray:
    """Rewards less what the host compares them with; 0 in a group of one.

    Args:
        earned: R of each live trial; [trials].
        groups: The group of each; [trials].
        baseline: What is compared.
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


def over_tokens(
    estimator: HostEstimator,
    reward: FloatArray,
    tokens: TokenFigures,
    args: Any,
    *,
    kl_coef: float,
    cumulative: Cumulative,
    generalised: Generalised,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and returns of the sampled tokens of trials; each [trials, tokens].

    Args:
        estimator: The host's estimator.
        reward: Reward of each trial after its baseline; [trials].
        tokens: The trials' tokens.
        args: The host's arguments.
        kl_coef: Present coefficient of the KL penalty.
        cumulative: The host's method.
        generalised: The host's method.
    """
    given = args.algo.advantage
    gamma = given.gamma if estimator.discounts else 1.0
    mask = tokens.mask
    per_token: Any = compute_reward(torch.from_numpy(reward), kl_coef, tokens.kl, mask, args.reward.clip_range)
    if estimator.critic:
        assert tokens.values is not None, "the estimator needs the critic's values"
        advantages, returns = generalised(tokens.values, per_token, mask, gamma, given.lambd)
    else:
        advantages = returns = cumulative(per_token, mask, gamma)
    if estimator.whitens:
        own = advantages[mask.bool()]
        scale = 1.0 if given.no_std_norm else own.var(correction=0).clamp(min=1e-8).rsqrt()
        advantages = (advantages - own.mean()) * scale
    return advantages, returns


def _earned(trials: Sequence[Trial], gamma_traj: float, args: Any) -> FloatArray:
    """R of each trial, less the host's length penalties; [trials]."""
    fields: dict[str, Any] = {
        "rewards": torch.tensor([trial.scalar_return(gamma_traj) for trial in trials], dtype=torch.float64),
        "truncated": torch.tensor([any(turn.truncated for turn in trial.turns) for trial in trials]),
        "info": {},
    }
    sample = Experience(**fields)
    apply_length_penalties([sample], args)
    return sample.rewards.numpy()

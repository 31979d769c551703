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

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from openrlhf.models.utils import compute_reward
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.length_penalty import apply_length_penalties

from openrlhf_lamer.advantage.table import FloatArray, IntArray
from openrlhf_lamer.integration.host import ESTIMATORS, Baseline
from openrlhf_lamer.integration.rollout.sample import RowBatch
from openrlhf_lamer.integration.training.batch import TrialBatch

if TYPE_CHECKING:
    from openrlhf_lamer.integration.training.experience_maker import LamerExperienceMaker


def stock_credit(maker: LamerExperienceMaker, experiences: list[Experience], rows: RowBatch, batch: TrialBatch) -> None:
    """Fill `advantages` and `returns` of row micro-batches by the host's estimator."""
    estimator = ESTIMATORS[maker.advantage_estimator]
    groups = batch.groups[batch.live]
    reward = compare(_earned(maker, batch), groups, estimator.baseline)
    compared = np.bincount(groups)[groups] > 1 if estimator.needs_group else np.ones(len(groups), dtype=bool)
    with_rows = np.isin(batch.live, rows.owner)
    chosen = np.flatnonzero(compared & with_rows)
    tokens = _Tokens.of(experiences, rows, len(batch.trials))
    advantages = returns = torch.zeros(0, 0)
    if len(chosen):
        mask, kl, values = tokens.sequences(batch.live[chosen])
        advantages, returns = _over_tokens(maker, torch.from_numpy(reward[chosen]), mask, kl, values)
    for name, result in (("advantages", advantages), ("returns", returns)):
        tokens.scatter(name, dict(zip(batch.live[chosen].tolist(), result, strict=True)))
    for experience in experiences:
        experience.info["return"] = experience.rewards.float()


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


def _earned(maker: LamerExperienceMaker, batch: TrialBatch) -> FloatArray:
    """R of each live trial, less the host's length penalties."""
    live = [batch.trials[i] for i in batch.live]
    fields: dict[str, Any] = {
        "rewards": torch.tensor([trial.scalar_return(maker.config.gamma_traj) for trial in live], dtype=torch.float64),
        "truncated": torch.tensor([any(turn.truncated for turn in trial.turns) for trial in live]),
        "info": {},
    }
    sample = Experience(**fields)
    apply_length_penalties([sample], maker.args)
    return sample.rewards.numpy()


def _over_tokens(
    maker: LamerExperienceMaker,
    reward: torch.Tensor,
    mask: torch.Tensor,
    kl: torch.Tensor,
    values: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and returns of the tokens of trials; `reward` is [trials], all else [trials, tokens]."""
    args, estimator = maker.args, ESTIMATORS[maker.advantage_estimator]
    given = args.algo.advantage
    gamma = given.gamma if estimator.discounts else 1.0
    per_token: Any = compute_reward(reward, maker.kl_ctl.value, kl, mask, args.reward.clip_range)
    if estimator.critic:
        assert values is not None, f"{maker.advantage_estimator} needs the critic's values"
        advantages, returns = maker.get_advantages_and_returns(values, per_token, mask, gamma, given.lambd)
    else:
        summed: Any = maker.get_cumulative_returns(per_token, mask, gamma)
        advantages = returns = summed
    if estimator.whitens:
        own = advantages[mask.bool()]
        scale = 1.0 if given.no_std_norm else own.var(correction=0).clamp(min=1e-8).rsqrt()
        advantages = (advantages - own.mean()) * scale
    return advantages, returns


@dataclass(frozen=True)
class _Tokens:
    """Where the sampled tokens of each trial stand in the micro-batches, in order.

    Attributes:
        experiences: The micro-batches.
        places: For each trial, the micro-batch and the line of each of its rows, in order.
    """

    experiences: list[Experience]
    places: list[list[tuple[Experience, int]]]

    @classmethod
    def of(cls, experiences: list[Experience], rows: RowBatch, trials: int) -> _Tokens:
        found = {p: (experience, line) for experience in experiences for line, p in enumerate(experience.index)}
        places: list[list[tuple[Experience, int]]] = [[] for _ in range(trials)]
        for position, owner in enumerate(rows.owner.tolist()):
            places[owner].append(found[position])
        return cls(experiences, places)

    def sequences(self, trials: IntArray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Mask, KL and, where there is a critic, values of the trials' tokens; each [trials, tokens], 0 at the end."""
        kl = self._gather(trials, "kl")
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(own), dtype=torch.long) for own in kl], batch_first=True)
        padded = torch.nn.utils.rnn.pad_sequence(kl, batch_first=True)
        if self.experiences[0].values is None:
            return mask, padded, None
        return mask, padded, torch.nn.utils.rnn.pad_sequence(self._gather(trials, "values"), batch_first=True)

    def scatter(self, name: str, per_trial: dict[int, torch.Tensor]) -> None:
        """Set a per-token field from each trial's tokens in order; 0 elsewhere."""
        for experience in self.experiences:
            setattr(experience, name, torch.zeros(experience.action_mask.shape, dtype=torch.float32))
        for trial, values in per_trial.items():
            used = 0
            for experience, line in self.places[trial]:
                mask = experience.action_mask[line].bool()
                count = int(mask.sum())
                getattr(experience, name)[line][mask] = values[used : used + count].float()
                used += count

    def _gather(self, trials: IntArray, name: str) -> list[torch.Tensor]:
        return [
            torch.cat([getattr(e, name)[line][e.action_mask[line].bool()].double() for e, line in self.places[trial]])
            for trial in trials
        ]

"""The host's own estimators on whole trials.

To the host, a sample is one sequence with a reward at its end. A trial becomes just that:
its sampled tokens one after the other, whatever rows they stand in, with the trial's scalar
return as the reward. The host's code runs on these sequences unchanged, and each sampled
token takes its advantage from its place. So a stock name is exact in every context.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from openrlhf.trainer.ppo_utils.experience import Experience

from openrlhf_lamer.integration.batch import TrialBatch
from openrlhf_lamer.integration.experience import RowBatch
from openrlhf_lamer.records import Trial

if TYPE_CHECKING:
    from openrlhf_lamer.integration.experience_maker import LamerExperienceMaker

UNGROUPED = frozenset({"gae", "reinforce", "flash_reinforce"})
"""Stock estimators that compare nothing within a group."""


def stock_credit(
    maker: LamerExperienceMaker,
    estimate: Callable[[list[Experience]], list[Experience]],
    experiences: list[Experience],
    rows: RowBatch,
    batch: TrialBatch,
) -> None:
    """Fill `advantages` and `returns` of row micro-batches by the host's estimator.

    A group with a failed trial is baselined on the trials that it has: groups of one size are
    estimated together. A group with a single live trial has nothing to compare and gets 0.
    """
    kl = _collect(experiences, rows, "kl")
    values = _collect(experiences, rows, "values")
    result: dict[str, list[torch.Tensor | None]] = {
        "advantages": [None] * len(batch.trials),
        "returns": [None] * len(batch.trials),
    }
    rollout = maker.args.rollout
    size_given = rollout.n_samples_per_prompt
    grouped = maker.advantage_estimator not in UNGROUPED
    live_in_group = np.bincount(batch.groups[batch.live], minlength=int(batch.groups.max()) + 1)
    with_rows = set(rows.owner.tolist())
    for size in sorted(set(live_in_group.tolist()) - {0}) if grouped else [1]:
        chosen = [i for i in batch.live if not grouped or live_in_group[batch.groups[i]] == size]
        if grouped and size == 1 and size_given > 1:
            continue
        samples = [
            _sequence(position, batch.trials[i], maker.config.gamma_traj, kl.get(i), values.get(i))
            for position, i in enumerate(chosen)
        ]
        rollout.n_samples_per_prompt = size
        try:
            estimate(samples)
        finally:
            rollout.n_samples_per_prompt = size_given
        for i, sample in zip(chosen, samples, strict=True):
            if i in with_rows:
                result["advantages"][i] = sample.advantages[0]
                result["returns"][i] = sample.returns[0]
    for name, per_trial in result.items():
        _scatter(experiences, rows, per_trial, name)
    for experience in experiences:
        experience.info["return"] = experience.rewards.float()


def _sequence(
    position: int, trial: Trial, gamma_traj: float, kl: torch.Tensor | None, values: torch.Tensor | None
) -> Experience:
    """A trial as the host's sample: every position is a sampled token."""
    length = 1 if kl is None else len(kl)
    fields: dict[str, Any] = {
        "index": [position],
        "action_mask": torch.ones(1, length, dtype=torch.long),
        "rewards": torch.tensor([trial.scalar_return(gamma_traj)]),
        "kl": torch.zeros(1, length) if kl is None else kl.unsqueeze(0),
        "values": None if values is None else values.unsqueeze(0),
        "response_length": torch.tensor([length]),
        "truncated": torch.tensor([any(turn.truncated for turn in trial.turns)]),
        "info": {},
    }
    return Experience(**fields)


def _lines(experiences: list[Experience], rows: RowBatch) -> list[tuple[Experience, int]]:
    """For each real row, the micro-batch it is in and its line there."""
    found: list[Any] = [None] * len(rows.rows)
    for experience in experiences:
        for line, position in enumerate(experience.index):
            if position < len(rows.rows):
                found[position] = (experience, line)
    return found


def _collect(experiences: list[Experience], rows: RowBatch, name: str) -> dict[int, torch.Tensor]:
    """A per-token field, for each trial at its sampled tokens in order; empty if the field is not set."""
    parts: dict[int, list[torch.Tensor]] = {}
    for position, (experience, line) in enumerate(_lines(experiences, rows)):
        field = getattr(experience, name)
        if field is None:
            return {}
        mask = experience.action_mask[line].bool()
        parts.setdefault(int(rows.owner[position]), []).append(field[line][mask].float())
    return {trial: torch.cat(found) for trial, found in parts.items()}


def _scatter(experiences: list[Experience], rows: RowBatch, per_trial: list[torch.Tensor | None], name: str) -> None:
    """Set a per-token field from each trial's values at its sampled tokens in order, 0 elsewhere."""
    for experience in experiences:
        setattr(experience, name, torch.zeros(experience.action_mask.shape, dtype=torch.float32))
    used = [0] * len(per_trial)
    for position, (experience, line) in enumerate(_lines(experiences, rows)):
        trial = int(rows.owner[position])
        values = per_trial[trial]
        if values is not None:
            mask = experience.action_mask[line].bool()
            count = int(mask.sum())
            getattr(experience, name)[line][mask] = values[used[trial] : used[trial] + count]
            used[trial] += count

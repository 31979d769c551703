"""From a batch of trials to rows with advantages, ready for the host's optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

from openrlhf_lamer import advantage
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.integration.host import ESTIMATORS
from openrlhf_lamer.integration.rollout.sample import TrialExperience
from openrlhf_lamer.integration.training.batch import PlacedRows, RowBatch, TrialBatch, micro_batches
from openrlhf_lamer.integration.training.credit import assign_credit
from openrlhf_lamer.integration.training.deal import deal
from openrlhf_lamer.integration.training.stock_credit import compared_rewards, over_tokens


class LamerExperienceMaker(RemoteExperienceMaker):
    """Turns trials into rows, has the host's models score them, and assigns credit.

    Advantages are computed on whole groups before anything is split over data-parallel ranks.
    With a `lamer_*` estimator they come from the turn table; with a stock name they are the host's
    own on each trial's scalar return (see `stock_credit.py`).
    """

    def __init__(self, *args: Any, config: LamerConfig, estimator: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config = config
        self.estimator = estimator
        self.batch: TrialBatch | None = None

    @torch.no_grad()
    def make_experience_batch(self, rollout_samples: Sequence[TrialExperience]) -> list[Experience]:
        """Rows of the batch in micro-batches, the same number for every data-parallel rank."""
        args, pad = self.strategy.args, self.tokenizer.pad_token_id
        size, ranks, gamma = args.rollout.micro_batch_size, self._ranks, self.config.gamma_traj
        batch = TrialBatch.of(rollout_samples, args.rollout.n_samples_per_prompt, self.config.max_failed_share)
        rows = RowBatch.build(
            batch.trials, multiple=args.train.batch_size, train_reflection=self.config.train_reflection
        )
        if not rows.rows:
            raise RuntimeError("no trial of this batch sampled a token that is trained")
        earned = np.array([trial.scalar_return(gamma) for trial in batch.trials])
        unscored = micro_batches(rows, earned, size=size, ranks=ranks, pad_token_id=pad)
        placed = PlacedRows(self.make_experience(unscored), rows, batch)
        if self.estimator in advantage.names():
            self._assign_turn_credit(placed)
        else:
            self._assign_stock_credit(placed)
        for experience in placed.experiences:
            experience.kl = None  # pyright: ignore[reportAttributeAccessIssue]  (as the host does)
        placed.neutralise_fillers()
        self.batch = batch.with_rows(rows)
        # The order follows from the run's seed and those of the trials, which follow from their place in the order of
        # prompts: a resumed run deals as one without interruption.
        rng = np.random.default_rng([args.train.seed, *(trial.seed or 0 for trial in batch.trials)])
        shares = deal(len(rows.rows), rows.filled, step=args.train.batch_size, ranks=ranks, rng=rng)
        return placed.dealt(shares, size, pad)

    @property
    def _ranks(self) -> int:
        """Number of data-parallel ranks."""
        args = self.strategy.args
        actors = args.actor.num_nodes * args.actor.num_gpus_per_node
        return actors // (args.ds.ring_attn_size * args.ds.tensor_parallel_size)

    def _assign_turn_credit(self, placed: PlacedRows) -> None:
        """Credit each turn by our estimator and spread it over the turn's sampled tokens."""
        batch = placed.batch
        credit = assign_credit(
            self.estimator,
            [batch.trials[i] for i in batch.live],
            batch.groups[batch.live].tolist(),
            self.config,
            self.args.algo.advantage.lambd,
            placed.critic_values() if advantage.get(self.estimator).needs_critic else None,
        )
        batch.returns = batch.by_trial(credit.returns, credit.trial)
        batch.advantages = batch.by_trial(credit.advantages, credit.trial)
        placed.assign("advantages", batch.advantages)
        placed.assign("returns", batch.returns)
        placed.first_returns()
        if credit.targets is not None:
            # The host's critic is trained on what stands in `returns`.
            placed.assign("returns", batch.by_trial(credit.targets, credit.trial))

    def _assign_stock_credit(self, placed: PlacedRows) -> None:
        """Credit each trial's tokens by the host's estimator."""
        estimator, batch = ESTIMATORS[self.advantage_estimator], placed.batch
        live = [batch.trials[i] for i in batch.live]
        groups = batch.groups[batch.live]
        reward, compared = compared_rewards(estimator, live, groups, self.config.gamma_traj, self.args)
        chosen = compared & np.isin(batch.live, placed.rows.owner)
        trials = batch.live[chosen]
        advantages = returns = torch.zeros(0, 0)
        if len(trials):
            advantages, returns = over_tokens(
                estimator,
                reward[chosen],
                placed.sequences(trials),
                self.args,
                kl_coef=self.kl_ctl.value,
                cumulative=self.get_cumulative_returns,
                generalised=self.get_advantages_and_returns,
            )
        placed.scatter("advantages", trials, advantages)
        placed.scatter("returns", trials, returns)
        for experience in placed.experiences:
            experience.info["return"] = experience.rewards.float()

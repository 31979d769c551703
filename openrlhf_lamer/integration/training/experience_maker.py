"""From a batch of trials to rows with advantages, ready for the host's optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

from openrlhf_lamer import advantage
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.integration.rollout.sample import TrialExperience
from openrlhf_lamer.integration.training.batch import Layout, PlacedRows, RowBatch, TrialBatch
from openrlhf_lamer.integration.training.credit import assign_credit
from openrlhf_lamer.integration.training.stock_credit import TokenSequences, stock_credit


class LamerExperienceMaker(RemoteExperienceMaker):
    """Turns trials into rows, has the host's models score them, and assigns credit.

    Advantages are computed on whole groups before anything is split over data-parallel ranks. With a `lamer_*`
    estimator they come from the turn table. With a stock name they are the host's own, on each trial's scalar return
    (see `stock_credit.py`). `batch.py` knows where the rows and their tokens lie.
    """

    def __init__(self, *args: Any, config: LamerConfig, estimator: str, forest: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config = config
        self.estimator = estimator
        self.forest = forest
        self.batch: TrialBatch | None = None

    @torch.no_grad()
    def make_experience_batch(self, rollout_samples: Sequence[TrialExperience]) -> list[Experience]:
        """Rows of the batch in micro-batches, the same number for every data-parallel rank."""
        args = self.args
        batch = TrialBatch.of(rollout_samples, args.rollout.n_samples_per_prompt, self.config.max_failed_share)
        batch.rows = rows = RowBatch.build(batch.trials, train_reflection=self.config.train_reflection)
        if not rows.rows:
            raise RuntimeError("no trial of this batch sampled a token that is trained")
        earned = [trial.scalar_return(self.config.gamma_traj) for trial in batch.trials]
        placed = PlacedRows(rows, self.make_experience(rows.micro_batches(earned, self._layout)))
        if self.estimator in advantage.names():
            self._credit_turns(batch, placed)
        else:
            self._credit_tokens(batch, placed)
        batch.weights = placed.weigh(self.config.loss_weight)
        for experience in placed.experiences:
            experience.kl = None  # pyright: ignore[reportAttributeAccessIssue]  (as the host does)
        self.batch = batch
        # A trial's seed follows from its place in the order of prompts: a resumed run deals rows like an uninterrupted
        # one.
        seeds = [args.train.seed, *(trial.seed or 0 for trial in batch.trials)]
        dealt, batch.processed = placed.dealt(self._layout, batch.groups, seeds)
        return [*dealt]

    @property
    def _layout(self) -> Layout:
        args = self.args
        actors = args.actor.num_nodes * args.actor.num_gpus_per_node
        trained = args.train.max_tokens_per_gpu if self.forest else args.train.micro_batch_size
        scored = (args.rollout.max_tokens_per_gpu or trained) if self.forest else args.rollout.micro_batch_size
        return Layout(
            step=args.train.batch_size,
            updates=self.config.updates,
            scored=scored,
            trained=trained,
            forest=self.forest,
            ranks=actors // (args.ds.ring_attn_size * args.ds.tensor_parallel_size),
            pad_token_id=self.tokenizer.pad_token_id,
        )

    def _credit_turns(self, batch: TrialBatch, placed: PlacedRows) -> None:
        """Credit each turn by our estimator and spread it over the turn's sampled tokens."""
        credit = assign_credit(
            self.estimator,
            batch.live_trials,
            batch.groups[batch.live].tolist(),
            self.config,
            self.args.algo.advantage.lambd,
            placed.turn_values(batch) if advantage.get(self.estimator).needs_critic else None,
        )
        batch.returns = batch.by_trial(credit.returns, credit.trial)
        batch.advantages = batch.by_trial(credit.advantages, credit.trial)
        placed.set_turns("advantages", batch.advantages)
        placed.set_turns("returns", batch.returns)
        placed.log_returns()
        if credit.targets is not None:
            # The host trains its critic on `returns`.
            placed.set_turns("returns", batch.by_trial(credit.targets, credit.trial))

    def _credit_tokens(self, batch: TrialBatch, placed: PlacedRows) -> None:
        """Credit each sampled token by the host's estimator, on the trial as one sequence."""
        trials = batch.live_trials
        earned = [trial.scalar_return(self.config.gamma_traj) for trial in trials]
        advantages, returns = stock_credit(
            self.advantage_estimator,
            TokenSequences(
                earned=torch.tensor(earned, dtype=torch.float64),
                truncated=torch.tensor([any(turn.truncated for turn in trial.turns) for trial in trials]),
                groups=batch.groups[batch.live],
                mask=placed.tokens("action_mask", batch.live).long(),
                kl=placed.tokens("kl", batch.live),
                values=None if placed.experiences[0].values is None else placed.tokens("values", batch.live),
            ),
            self.args,
            self.kl_ctl.value,
            summed=self.get_cumulative_returns,
            summed_with_values=self.get_advantages_and_returns,
        )
        placed.set_tokens("advantages", batch.live, advantages)
        placed.set_tokens("returns", batch.live, returns)
        for experience in placed.experiences:
            experience.info["return"] = experience.rewards.float()

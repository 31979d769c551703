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
from openrlhf_lamer.integration.rollout.sample import RowBatch, TrialExperience, row_experience
from openrlhf_lamer.integration.training.batch import TrialBatch
from openrlhf_lamer.integration.training.credit import TurnValues, assign_credit
from openrlhf_lamer.integration.training.deal import deal, regroup
from openrlhf_lamer.integration.training.stock_credit import stock_credit


class LamerExperienceMaker(RemoteExperienceMaker):
    """Turns trials into rows, has the host's models score them, and assigns credit.

    Advantages are computed on whole groups before anything is split over data-parallel ranks.
    With a `lamer_*` estimator they come from the turn table; with a stock name they are the host's
    own on each trial's scalar return (see `stock.py`).
    """

    def __init__(self, *args: Any, config: LamerConfig, estimator: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config = config
        self.estimator = estimator
        self.batch: TrialBatch | None = None

    @torch.no_grad()
    def make_experience_batch(self, rollout_samples: Sequence[TrialExperience]) -> list[Experience]:
        """Rows of the batch in micro-batches, the same number for every data-parallel rank."""
        args = self.strategy.args
        batch = TrialBatch.of(rollout_samples, args.rollout.n_samples_per_prompt, self.config.max_failed_share)
        rows = RowBatch.build(
            batch.trials, multiple=args.train.batch_size, train_reflection=self.config.train_reflection
        )
        if not rows.rows:
            raise RuntimeError("no trial of this batch sampled a token that is trained")
        experiences = self.make_experience(self._micro_batches(rows, batch))
        if self.estimator in advantage.names():
            self._assign_turn_credit(experiences, rows, batch)
        else:
            stock_credit(self, experiences, rows, batch)
        for experience in experiences:
            experience.kl = None  # pyright: ignore[reportAttributeAccessIssue]  (as the host does)
        _neutralise_fillers(experiences, len(rows.rows))
        self.batch = batch.with_rows(rows)
        return self._dealt(experiences, rows, batch)

    @property
    def _ranks(self) -> int:
        """Number of data-parallel ranks."""
        args = self.strategy.args
        actors = args.actor.num_nodes * args.actor.num_gpus_per_node
        return actors // (args.ds.ring_attn_size * args.ds.tensor_parallel_size)

    def _dealt(self, experiences: list[Experience], rows: RowBatch, batch: TrialBatch) -> list[Experience]:
        """The rows in the order in which they are trained.

        It is drawn by the run's seed and those of the trials, which are those of their place in the order of prompts:
        a resumed run deals as one without interruption.
        """
        args = self.strategy.args
        rng = np.random.default_rng([args.train.seed, *(trial.seed or 0 for trial in batch.trials)])
        shares = deal(len(rows.rows), rows.filled, step=args.train.batch_size, ranks=self._ranks, rng=rng)
        return regroup(experiences, shares, args.rollout.micro_batch_size, self.tokenizer.pad_token_id)

    def _micro_batches(self, rows: RowBatch, batch: TrialBatch) -> list[Experience]:
        """Rows and fillers in micro-batches for scoring, dealt to the ranks by length.

        Rows of like length stand together, so that little is padded, and every rank gets as many
        micro-batches and rows as every other: the host deadlocks otherwise.
        """
        args = self.strategy.args
        ranks = self._ranks
        earned = torch.tensor([trial.scalar_return(self.config.gamma_traj) for trial in batch.trials])
        lengths = [len(row.ids) for row in rows.rows]
        shortest = rows.rows[int(np.argmin(lengths))]

        def single(position: int) -> Experience:
            real = position < len(rows.rows)
            experience = row_experience(rows.rows[position] if real else shortest, filler=not real)
            reward = earned[rows.owner[position]] if real else torch.zeros(())
            experience.index = [position]
            experience.rewards = reward.reshape(1)
            experience.info = {"reward": reward.reshape(1)}
            return experience

        by_length = np.argsort([*lengths, *[min(lengths)] * rows.filled], kind="stable").tolist()
        size = args.rollout.micro_batch_size
        return [
            Experience.concat_experiences(list(map(single, own[start : start + size])), self.tokenizer.pad_token_id)
            for own in (by_length[rank::ranks] for rank in range(ranks))
            for start in range(0, len(own), size)
        ]

    def _assign_turn_credit(self, experiences: list[Experience], rows: RowBatch, batch: TrialBatch) -> None:
        """Credit each turn by our estimator and spread it over the turn's sampled tokens."""
        credit = assign_credit(
            self.estimator,
            [batch.trials[i] for i in batch.live],
            batch.groups[batch.live].tolist(),
            self.config,
            self.args.algo.advantage.lambd,
            critic_values(experiences, rows, batch) if advantage.get(self.estimator).needs_critic else None,
        )
        batch.returns = batch.by_trial(credit.returns, credit.trial)
        batch.advantages = batch.by_trial(credit.advantages, credit.trial)
        assign(experiences, rows, batch.advantages, "advantages")
        assign(experiences, rows, batch.returns, "returns")
        for experience in experiences:
            firsts = [
                _first(returns, mask) for returns, mask in zip(experience.returns, experience.action_mask, strict=True)
            ]
            experience.info["return"] = torch.stack(firsts)
        if credit.targets is not None:
            # The host's critic is trained on what stands in `returns`.
            assign(experiences, rows, batch.by_trial(credit.targets, credit.trial), "returns")


def assign(experiences: Sequence[Experience], rows: RowBatch, per_trial: Sequence[np.ndarray], field: str) -> None:
    """Set a per-token field of every micro-batch from one value a turn of each trial, 0 elsewhere."""
    for experience in experiences:
        result = torch.zeros(experience.action_mask.shape, dtype=torch.float32)
        for line, position in enumerate(experience.index):
            if position < len(rows.rows):
                own = rows.spread(per_trial, position)
                result[line, : len(own)] = own
        setattr(experience, field, result)


def critic_values(experiences: Sequence[Experience], rows: RowBatch, batch: TrialBatch) -> TurnValues:
    """The host critic's value before each turn's first sampled token, where the turn has a trained one."""
    counts = [len(batch.trials[i].turns) for i in batch.live]
    offsets = dict(zip(batch.live.tolist(), np.cumsum([0, *counts]), strict=False))
    values, known = np.zeros(sum(counts)), np.zeros(sum(counts), dtype=bool)
    for experience in experiences:
        for line, position in enumerate(experience.index):
            if position < len(rows.rows):
                for span in rows.rows[position].spans:
                    turn = offsets[int(rows.owner[position])] + span.turn
                    # The action axis is that of predictions: here the critic has seen the prompt and no more.
                    values[turn] = float(experience.values[line, span.start - 1])
                    known[turn] = True
    return TurnValues(values, known)


def _first(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return values[int(mask.long().argmax())]


def _neutralise_fillers(experiences: Sequence[Experience], real: int) -> None:
    """Give fillers the mean of the real rows in all that the host logs per row, so that they change no mean."""
    is_real = torch.tensor([position < real for experience in experiences for position in experience.index])
    if bool(is_real.all()):
        return
    sizes = [len(experience.index) for experience in experiences]

    def neutral(parts: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        joined = torch.cat([part.float() for part in parts])
        joined[~is_real] = joined[is_real].mean()
        return joined.split(sizes)

    for key in experiences[0].info:
        for experience, part in zip(experiences, neutral([e.info[key] for e in experiences]), strict=True):
            experience.info[key] = part
    for name in ("response_length", "total_length"):
        for experience, part in zip(experiences, neutral([getattr(e, name) for e in experiences]), strict=True):
            setattr(experience, name, part)

"""A batch of trials in one training step, and where its rows lie in the host's micro-batches.

Everything that indexes the host's tensors stands here. A row is known by its position in `RowBatch.rows`, which a
micro-batch lists in its `index`; fillers have the positions behind the last row. The host's action axis is that of
predictions: it is one shorter than the row, and what belongs to token i stands at i - 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from torch.nn.utils.rnn import pad_sequence

from openrlhf_lamer import LamerError
from openrlhf_lamer.advantage.table import FloatArray, IntArray
from openrlhf_lamer.integration.rollout.sample import TrialExperience
from openrlhf_lamer.integration.training.credit import TurnValues
from openrlhf_lamer.records import Trial
from openrlhf_lamer.rows import Row, filling, sampled_tokens, trial_rows

SHOWN = 3
"""Failures that the message of an abort shows."""
MESSAGE_LIMIT = 300
"""Characters that it shows of each."""


class TooManyFailuresError(LamerError, RuntimeError):
    """More trials of a batch failed than `--lamer.max_failed_share` allows."""

    exit_code = 1


@dataclass
class TrialBatch:
    """Trials in groups of one task, and their credit.

    Attributes:
        trials: All trials, failed ones among them.
        groups: Group of each trial; [trials].
        live: Indices of the trials without a failure.
        returns: Returns of each trial's turns; None until credit is assigned, and under a stock estimator.
        advantages: Advantages of each trial's turns, or None as for `returns`.
        rows: Rows of the live trials; None until they are made.
    """

    trials: tuple[Trial, ...]
    groups: np.ndarray
    live: np.ndarray
    returns: list[np.ndarray] | None = field(default=None)
    advantages: list[np.ndarray] | None = field(default=None)
    rows: RowBatch | None = field(default=None)

    @classmethod
    def of(cls, samples: Sequence[TrialExperience], group_size: int, max_failed_share: float) -> TrialBatch:
        """Collect the trials of `samples`, which come in whole groups, one after the other.

        Raises:
            TooManyFailuresError: with the last failures, where too many trials failed, or all.
            RuntimeError: where a group mixes tasks, which would make every baseline wrong.
        """
        trials = tuple(sample.trial for sample in samples if sample.trial is not None)
        if len(trials) != len(samples) or len(trials) % group_size:
            raise RuntimeError(f"{len(samples)} samples with {len(trials)} trials are no whole groups of {group_size}")
        groups = np.arange(len(trials)) // group_size
        for start in range(0, len(trials), group_size):
            tasks = {trial.task.id for trial in trials[start : start + group_size]}
            if len(tasks) > 1:
                raise RuntimeError(f"one group holds trials of several tasks: {sorted(tasks)}")
        live = np.array([i for i, trial in enumerate(trials) if trial.failure is None], dtype=np.int64)
        failed = len(trials) - len(live)
        if failed > max_failed_share * len(trials) or not len(live):
            raise TooManyFailuresError(_failures(trials, failed, max_failed_share))
        return cls(trials, groups, live)

    def by_trial(self, values: np.ndarray, trial_column: np.ndarray) -> list[np.ndarray]:
        """A column of the live trials' turn table as one array a trial; empty for failed trials."""
        counts = np.bincount(trial_column, minlength=len(self.live))
        parts = np.split(values, np.cumsum(counts)[:-1]) if len(self.live) else []
        result = [np.empty(0) for _ in self.trials]
        for index, part in zip(self.live, parts, strict=True):
            result[index] = part
        return result

    def with_rows(self, rows: RowBatch) -> TrialBatch:
        """This batch with the rows that were made of it."""
        return replace(self, rows=rows)


@dataclass(frozen=True)
class RowBatch:
    """The rows of a batch of trials, filled up to what the trainer divides by.

    Attributes:
        rows: The real rows; the trainer gets `filled` fully masked ones after them.
        owner: For each row, the index of its trial in the batch.
        filled: Number of filling rows.
    """

    rows: tuple[Row, ...]
    owner: np.ndarray
    filled: int

    @classmethod
    def build(cls, trials: Sequence[Trial], *, multiple: int, train_reflection: bool) -> RowBatch:
        """Rows of the live trials among `trials`, in order."""
        rows: list[Row] = []
        owner: list[int] = []
        for index, trial in enumerate(trials):
            if trial.failure is None:
                new = trial_rows(trial, train_reflection=train_reflection)
                rows += new
                owner += [index] * len(new)
        return cls(tuple(rows), np.array(owner, dtype=np.int64), filling(len(rows), multiple))

    @property
    def sampled(self) -> int:
        """Number of sampled tokens, each of which is trained once per epoch."""
        return sampled_tokens(self.rows)

    def spread(self, per_trial: Sequence[Any], position: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Values of row `position` on the host's action axis, from one value a turn of its trial.

        Args:
            per_trial: For each trial, its turns' values.
            position: Index of the row.

        Returns:
            Shape (row length - 1,): the value at each sampled token, 0 elsewhere.
        """
        row = self.rows[position]
        values = per_trial[self.owner[position]]
        result = torch.zeros(len(row.ids) - 1, dtype=dtype)
        for span in row.spans:
            result[span.start - 1 : span.end - 1] = float(values[span.turn])
        return result


def row_experience(row: Row, *, filler: bool = False) -> Experience:
    """One row as the host's Experience with a batch dimension of 1; a filler has an empty action mask."""
    sequences = torch.from_numpy(np.array(row.ids, dtype=np.int64))
    mask = torch.zeros(len(row.ids) - 1, dtype=torch.long)
    logprobs = torch.zeros(len(row.ids) - 1, dtype=torch.float32)
    known = all(span.logprobs is not None for span in row.spans)
    if not filler:
        for span in row.spans:
            mask[span.start - 1 : span.end - 1] = 1
            if span.logprobs is not None:
                logprobs[span.start - 1 : span.end - 1] = torch.from_numpy(np.array(span.logprobs, dtype=np.float32))
    fields: dict[str, Any] = {
        "sequences": sequences.unsqueeze(0),
        "attention_mask": torch.ones_like(sequences).unsqueeze(0),
        "action_mask": mask.unsqueeze(0),
        "rollout_log_probs": logprobs.unsqueeze(0) if known else None,
        "response_length": torch.tensor([float(row.sampled)]),
        "total_length": torch.tensor([float(len(row.ids))]),
        "info": {},
    }
    return Experience(**fields)


def micro_batches(rows: RowBatch, earned: FloatArray, *, size: int, ranks: int, pad_token_id: int) -> list[Experience]:
    """Rows and fillers in micro-batches for scoring, dealt to the ranks by length.

    Rows of like length stand together, so that little is padded, and all ranks get the same number of micro-batches
    and rows: the host deadlocks otherwise.

    Args:
        rows: The rows of the batch.
        earned: Scalar return of each trial; [trials].
        size: Rows of a micro-batch.
        ranks: Number of data-parallel ranks.
        pad_token_id: The tokenizer's.
    """
    lengths = [len(row.ids) for row in rows.rows]
    shortest = rows.rows[int(np.argmin(lengths))]

    def single(position: int) -> Experience:
        real = position < len(rows.rows)
        experience = row_experience(rows.rows[position] if real else shortest, filler=not real)
        experience.index = [position]
        experience.rewards = torch.tensor([earned[rows.owner[position]] if real else 0.0], dtype=torch.float32)
        experience.info = {"reward": experience.rewards}
        return experience

    by_length = np.argsort([*lengths, *[min(lengths)] * rows.filled], kind="stable").tolist()
    return [
        Experience.concat_experiences(list(map(single, own[start : start + size])), pad_token_id)
        for own in (by_length[rank::ranks] for rank in range(ranks))
        for start in range(0, len(own), size)
    ]


@dataclass(frozen=True)
class PlacedRows:
    """Rows of a batch in the host's micro-batches, where its models have scored them.

    Attributes:
        experiences: The micro-batches.
        rows: The rows.
        batch: Their trials.
    """

    experiences: list[Experience]
    rows: RowBatch
    batch: TrialBatch

    @cached_property
    def _places(self) -> dict[int, tuple[Experience, int]]:
        """Micro-batch and line of each row and filler, by its position."""
        return {p: (experience, line) for experience in self.experiences for line, p in enumerate(experience.index)}

    def assign(self, name: str, per_trial: Sequence[np.ndarray]) -> None:
        """Set a per-token field from one value a turn of each trial, 0 elsewhere."""
        self._clear(name)
        for position in range(len(self.rows.rows)):
            experience, line = self._places[position]
            own = self.rows.spread(per_trial, position)
            getattr(experience, name)[line, : len(own)] = own

    def first_returns(self) -> None:
        """Log the return of each row's first trained turn."""
        for experience in self.experiences:
            first = experience.action_mask.long().argmax(dim=1, keepdim=True)
            experience.info["return"] = experience.returns.gather(1, first).squeeze(1)

    def critic_values(self) -> TurnValues:
        """The host critic's value before each turn's first sampled token, where the turn has a trained one."""
        counts = [len(self.batch.trials[i].turns) for i in self.batch.live]
        offsets = dict(zip(self.batch.live.tolist(), np.cumsum([0, *counts]), strict=False))
        values, known = np.zeros(sum(counts)), np.zeros(sum(counts), dtype=bool)
        for position, row in enumerate(self.rows.rows):
            experience, line = self._places[position]
            for span in row.spans:
                turn = offsets[int(self.rows.owner[position])] + span.turn
                values[turn] = float(experience.values[line, span.start - 1])  # the critic has seen the prompt only
                known[turn] = True
        return TurnValues(values, known)

    def sequences(self, trials: IntArray) -> TokenFigures:
        """Figures of the sampled tokens of `trials`, which have rows, one sequence a trial."""
        kl = self._gather(trials, "kl")
        mask = pad_sequence([torch.ones(len(own), dtype=torch.long) for own in kl], batch_first=True)
        has_critic = self.experiences[0].values is not None
        values = pad_sequence(self._gather(trials, "values"), batch_first=True) if has_critic else None
        return TokenFigures(mask, pad_sequence(kl, batch_first=True), values)

    def scatter(self, name: str, trials: IntArray, per_token: torch.Tensor) -> None:
        """Set a per-token field from the sequences of `trials`, [trials, tokens]; 0 elsewhere."""
        self._clear(name)
        for trial, values in zip(trials.tolist(), per_token, strict=True):
            used = 0
            for experience, line in self._rows_of(trial):
                mask = experience.action_mask[line].bool()
                count = int(mask.sum())
                getattr(experience, name)[line][mask] = values[used : used + count].float()
                used += count

    def neutralise_fillers(self) -> None:
        """Give fillers the mean of the real rows in all that the host logs per row, so that they change no mean."""
        real = len(self.rows.rows)
        is_real = torch.tensor([p < real for experience in self.experiences for p in experience.index])
        if bool(is_real.all()):
            return
        sizes = [len(experience.index) for experience in self.experiences]

        def neutral(parts: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
            joined = torch.cat([part.float() for part in parts])
            joined[~is_real] = joined[is_real].mean()
            return joined.split(sizes)

        for key in self.experiences[0].info:
            for experience, part in zip(
                self.experiences, neutral([e.info[key] for e in self.experiences]), strict=True
            ):
                experience.info[key] = part
        for name in ("response_length", "total_length"):
            for experience, part in zip(
                self.experiences, neutral([getattr(e, name) for e in self.experiences]), strict=True
            ):
                setattr(experience, name, part)

    def dealt(self, shares: Sequence[Sequence[int]], size: int, pad_token_id: int) -> list[Experience]:
        """The rows in micro-batches of `size`, in the order of `shares[0]`, then of `shares[1]`, …"""
        return [
            Experience.concat_experiences([_line(*self._places[p]) for p in share[start : start + size]], pad_token_id)
            for share in shares
            for start in range(0, len(share), size)
        ]

    def _rows_of(self, trial: int) -> list[tuple[Experience, int]]:
        return [self._places[position] for position in np.flatnonzero(self.rows.owner == trial).tolist()]

    def _gather(self, trials: IntArray, name: str) -> list[torch.Tensor]:
        return [
            torch.cat([getattr(e, name)[line][e.action_mask[line].bool()].double() for e, line in self._rows_of(trial)])
            for trial in trials.tolist()
        ]

    def _clear(self, name: str) -> None:
        for experience in self.experiences:
            setattr(experience, name, torch.zeros(experience.action_mask.shape, dtype=torch.float32))


@dataclass(frozen=True)
class TokenFigures:
    """Figures of the sampled tokens of trials, one sequence a trial; each [trials, tokens], 0 behind the last.

    Attributes:
        mask: 1 for a token.
        kl: KL divergence from the reference model.
        values: The critic's values; None without a critic.
    """

    mask: torch.Tensor
    kl: torch.Tensor
    values: torch.Tensor | None


def _line(experience: Experience, line: int) -> Experience:
    """One row of a micro-batch, with a batch dimension of 1."""

    def own(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: own(part) for key, part in value.items()}
        return None if value is None else value[line : line + 1]

    return Experience(**{field.name: own(getattr(experience, field.name)) for field in fields(Experience)})


def _failures(trials: Sequence[Trial], failed: int, limit: float) -> str:
    counts = Counter((trial.failure.kind.value, trial.failure.stage) for trial in trials if trial.failure)
    kinds = ", ".join(f"{count} {kind} in {stage}" for (kind, stage), count in counts.most_common())
    allowed = (
        f"more than --lamer.max_failed_share {limit:g} allows" if failed < len(trials) else "so none can be trained"
    )
    last = [trial for trial in trials if trial.failure][-SHOWN:]
    shown = "\n".join(f"  {_failure(trial)}" for trial in last)
    return f"{failed} of {len(trials)} trials failed ({kinds}), {allowed}. The last ones:\n{shown}"


def _failure(trial: Trial) -> str:
    """Where and how a trial failed, on one line, with what it takes to play it again."""
    assert trial.failure is not None
    sampled = "" if trial.seed is None else f", sampled by seed {trial.seed}"
    message = " ".join(trial.failure.message.split())[:MESSAGE_LIMIT]
    return f"{trial.task.id}, sample {trial.sample}{sampled}: {trial.failure.stage}: {message}"

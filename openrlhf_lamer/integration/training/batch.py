"""A batch of trials, its rows, and where each row and token lies in the host's micro-batches.

The host's action axis is that of predictions, one shorter than a row: token i of a row stands at i - 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from torch.nn.utils.rnn import pad_sequence

from openrlhf_lamer import LamerError
from openrlhf_lamer.advantage.table import IntArray
from openrlhf_lamer.integration.rollout.sample import TrialExperience
from openrlhf_lamer.integration.training.buffer import MicroBatch
from openrlhf_lamer.integration.training.credit import TurnValues
from openrlhf_lamer.records import Trial
from openrlhf_lamer.rows import Row, sampled_tokens, token_weights, trial_rows
from openrlhf_lamer.update.forest import IntArray as Ids
from openrlhf_lamer.update.forest import distinct_tokens
from openrlhf_lamer.update.plan import Shares, by_rows, by_tokens, steps_of_groups, steps_of_rows
from openrlhf_lamer.vocabulary import LossWeight

SHOWN = 3
"""Number of failures shown in the message of an abort."""
MESSAGE_LIMIT = 300
"""Characters shown of each failure."""


class TooManyFailuresError(LamerError, RuntimeError):
    """More trials of a batch failed than `--lamer.max_failed_share` allows."""

    exit_code = 1


@dataclass
class TrialBatch:
    """Trials in groups of one task, and what was computed from them.

    Attributes:
        trials: All trials, including failed ones.
        groups: Group of each trial.
        live: Indices of the trials that did not fail.
        returns: For each trial, its turns' returns; None until credit is assigned, and under a stock estimator.
        advantages: For each trial, its turns' advantages; None as above.
        rows: The rows made of the batch; None until they are made.
        processed: Tokens that a model runs in one pass over the batch's micro-batches.
        weights: Least and largest weight of a token in the loss.
    """

    trials: tuple[Trial, ...]
    groups: np.ndarray
    live: np.ndarray
    returns: list[np.ndarray] | None = None
    advantages: list[np.ndarray] | None = None
    rows: RowBatch | None = None
    processed: int = 0
    weights: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def of(cls, samples: Sequence[TrialExperience], group_size: int, max_failed_share: float) -> TrialBatch:
        """Collect the trials of `samples`, which come in whole groups, one after the other.

        Raises:
            TooManyFailuresError: Too many trials failed, or all; the message shows the last failures.
            RuntimeError: A group mixes tasks, which would make every baseline wrong.
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

    @property
    def live_trials(self) -> list[Trial]:
        """The trials that did not fail."""
        return [self.trials[i] for i in self.live]

    def by_trial(self, values: np.ndarray, trial_column: np.ndarray) -> list[np.ndarray]:
        """Split a column of the live trials' turn table into one array per trial; empty for failed trials."""
        counts = np.bincount(trial_column, minlength=len(self.live))
        parts = np.split(values, np.cumsum(counts)[:-1]) if len(self.live) else []
        result = [np.empty(0) for _ in self.trials]
        for index, part in zip(self.live, parts, strict=True):
            result[index] = part
        return result


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
    """Where and how a trial failed, on one line, with the seed to replay it by."""
    assert trial.failure is not None
    sampled = "" if trial.seed is None else f", sampled by seed {trial.seed}"
    message = " ".join(trial.failure.message.split())[:MESSAGE_LIMIT]
    return f"{trial.task.id}, sample {trial.sample}{sampled}: {trial.failure.stage}: {message}"


@dataclass(frozen=True, slots=True)
class Layout:
    """How rows are laid out.

    Attributes:
        step: Rows of an optimizer step, over all ranks.
        updates: Optimizer steps of a batch, of whole groups; None for steps of `step` rows.
        scored: Limit of a micro-batch that is scored: of its distinct tokens if `forest`, else of its rows.
        trained: Limit of a micro-batch that is trained.
        forest: Whether rows run as forests; otherwise they are padded.
        ranks: Number of data-parallel ranks.
        pad_token_id: Token that fills a micro-batch after the end of its shorter rows.
    """

    step: int
    updates: int | None
    scored: int
    trained: int
    forest: bool
    ranks: int
    pad_token_id: int


@dataclass(frozen=True)
class RowBatch:
    """The rows of a batch of trials.

    Attributes:
        rows: The rows.
        owner: For each row, the index of its trial in the batch.
    """

    rows: tuple[Row, ...]
    owner: np.ndarray

    @classmethod
    def build(cls, trials: Sequence[Trial], *, train_reflection: bool) -> RowBatch:
        """Rows of the live trials among `trials`, in order."""
        rows: list[Row] = []
        owner: list[int] = []
        for index, trial in enumerate(trials):
            if trial.failure is None:
                new = trial_rows(trial, train_reflection=train_reflection)
                rows += new
                owner += [index] * len(new)
        return cls(tuple(rows), np.array(owner, dtype=np.int64))

    @property
    def sampled(self) -> int:
        """Number of sampled tokens, each of which is trained once per epoch."""
        return sampled_tokens(self.rows)

    @cached_property
    def ids(self) -> list[Ids]:
        """Token ids of each row, without a copy."""
        return [np.asarray(row.ids) for row in self.rows]

    def plan(self, step: Sequence[int], limit: int, layout: Layout, rng: np.random.Generator) -> Shares:
        """Micro-batches of the rows in `step`, the same number for each rank."""
        if layout.forest:
            return by_tokens(self.ids, self.owner, step, limit, layout.ranks, rng)
        return by_rows(step, limit, layout.ranks, rng)

    def processed(self, shares: Shares, layout: Layout) -> int:
        """Number of tokens that a model runs for these micro-batches."""
        batches = [[self.ids[row] for row in own] for share in shares for own in share if own]
        if layout.forest:
            return sum(map(distinct_tokens, batches))
        return sum(len(own) * max(map(len, own)) for own in batches)

    def micro_batches(self, earned: Sequence[float], layout: Layout) -> list[Experience]:
        """Rows in micro-batches for scoring; each row's reward is its trial's return from `earned`.

        Every rank gets the same number of micro-batches: the host deadlocks otherwise.
        """
        rewards = torch.tensor(earned)
        lengths = np.array([len(row.ids) for row in self.rows])
        # Padded rows of similar length stand together, so that little is padded.
        order = np.arange(len(lengths)) if layout.forest else np.argsort(lengths, kind="stable")
        shares = self.plan(order.tolist(), layout.scored, layout, np.random.default_rng(0))
        filler = _single(FILLER, self.rows[int(lengths.argmin())], torch.zeros(()))

        def single(row: int) -> Experience:
            return _single(row, self.rows[row], rewards[self.owner[row]])

        return [
            Experience.concat_experiences([single(row) for row in own] or [filler], layout.pad_token_id)
            for share in shares
            for own in share
        ]


FILLER = -1
"""Position of a fully masked row, which a rank without rows runs to stay in step with the others."""


def _single(position: int, row: Row, reward: torch.Tensor) -> Experience:
    """One row as the host's Experience with a batch dimension of 1; a filler has an empty action mask."""
    sequences = torch.from_numpy(np.array(row.ids, dtype=np.int64))
    mask = torch.zeros(len(row.ids) - 1, dtype=torch.long)
    logprobs = torch.zeros(len(row.ids) - 1, dtype=torch.float32)
    known = all(span.logprobs is not None for span in row.spans)
    if position != FILLER:
        for span in row.spans:
            mask[span.start - 1 : span.end - 1] = 1
            if span.logprobs is not None:
                logprobs[span.start - 1 : span.end - 1] = torch.from_numpy(np.array(span.logprobs, dtype=np.float32))
    given: dict[str, Any] = {
        "index": [position],
        "sequences": sequences.unsqueeze(0),
        "attention_mask": torch.ones_like(sequences).unsqueeze(0),
        "action_mask": mask.unsqueeze(0),
        "rollout_log_probs": logprobs.unsqueeze(0) if known else None,
        "rewards": reward.reshape(1),
        "response_length": torch.tensor([float(row.sampled)]),
        "total_length": torch.tensor([float(len(row.ids))]),
        "info": {"reward": reward.reshape(1)},
    }
    return Experience(**given)


@dataclass(frozen=True)
class PlacedRows:
    """The rows of a batch in the host's micro-batches, which its models have scored.

    Attributes:
        rows: The rows; a micro-batch's `index` has their positions.
        experiences: The micro-batches.
    """

    rows: RowBatch
    experiences: list[Experience]

    @cached_property
    def _lines(self) -> list[tuple[Experience, int]]:
        """For each position, its micro-batch and its line there."""
        found = {p: (experience, line) for experience in self.experiences for line, p in enumerate(experience.index)}
        return [found[position] for position in range(len(self.rows.rows))]

    @cached_property
    def _lines_of(self) -> dict[int, list[tuple[Experience, int]]]:
        """For each trial with rows, its rows' lines in order."""
        found: dict[int, list[tuple[Experience, int]]] = {}
        for owner, place in zip(self.rows.owner.tolist(), self._lines, strict=True):
            found.setdefault(owner, []).append(place)
        return found

    def turn_values(self, batch: TrialBatch) -> TurnValues:
        """The critic's value before each live turn's first sampled token; known where that token is trained."""
        values = [np.zeros(len(trial.turns)) for trial in batch.trials]
        known = [np.zeros(len(trial.turns), dtype=bool) for trial in batch.trials]
        for row, owner, (experience, line) in zip(self.rows.rows, self.rows.owner, self._lines, strict=True):
            for span in row.spans:
                # At this place on the axis of predictions, the critic has seen the prompt and no more.
                values[owner][span.turn] = float(experience.values[line, span.start - 1])
                known[owner][span.turn] = True
        return TurnValues(*(np.concatenate([column[i] for i in batch.live]) for column in (values, known)))

    def set_turns(self, name: str, per_trial: Sequence[np.ndarray]) -> None:
        """Set a per-token field from a value per turn of each trial: at the turn's sampled tokens, 0 elsewhere."""
        self._clear(name)
        for row, owner, (experience, line) in zip(self.rows.rows, self.rows.owner, self._lines, strict=True):
            for span in row.spans:
                value = float(per_trial[owner][span.turn])
                getattr(experience, name)[line, span.start - 1 : span.end - 1] = value

    def tokens(self, name: str, trials: IntArray) -> torch.Tensor:
        """A per-token field at the sampled tokens of trials, in order; [trials, tokens], 0 at the end, in float64."""
        none = torch.zeros(0, dtype=torch.float64)
        return pad_sequence(
            [
                torch.cat([none, *(getattr(e, name)[line][e.action_mask[line].bool()] for e, line in places)])
                for places in (self._lines_of.get(trial, []) for trial in trials.tolist())
            ],
            batch_first=True,
        )

    def set_tokens(self, name: str, trials: IntArray, values: torch.Tensor) -> None:
        """Set a per-token field at the sampled tokens of trials, in order, 0 elsewhere; values: [trials, tokens]."""
        self._clear(name)
        for trial, own in zip(trials.tolist(), values, strict=True):
            used = 0
            for experience, line in self._lines_of.get(trial, []):
                mask = experience.action_mask[line].bool()
                count = int(mask.sum())
                getattr(experience, name)[line][mask] = own[used : used + count].float()
                used += count

    def log_returns(self) -> None:
        """Log the return of each row's first sampled token as the row's `return`."""
        for experience in self.experiences:
            at = experience.action_mask.long().argmax(dim=1, keepdim=True)
            experience.info["return"] = experience.returns.gather(1, at).squeeze(1)

    def weigh(self, by: LossWeight) -> tuple[float, float]:
        """Multiply advantages by the weights of their tokens, which have mean 1; returns the least and the largest."""
        of_rows = token_weights(self.rows.rows, self.rows.owner.tolist(), by)
        for (experience, line), weights in zip(self._lines, of_rows, strict=True):
            experience.advantages[line][experience.action_mask[line].bool()] *= torch.from_numpy(weights).float()
        return min(float(own.min()) for own in of_rows), max(float(own.max()) for own in of_rows)

    def dealt(self, layout: Layout, groups: np.ndarray, seeds: list[int]) -> tuple[list[MicroBatch], int]:
        """The rows in micro-batches, in the order in which they are trained, which `seeds` decide.

        Args:
            layout: Steps, micro-batches and ranks.
            groups: For each trial, its group.
            seeds: Seeds of the order.

        Returns:
            The micro-batches, rank after rank, and the number of tokens that a model runs for them.
        """
        rows, rng = self.rows, np.random.default_rng(seeds)
        if layout.updates is None:
            steps = steps_of_rows(rows.owner, layout.step, rng)
        else:
            steps = steps_of_groups(rows.owner, groups, layout.updates, rng)
        dealt: list[list[MicroBatch]] = [[] for _ in range(layout.ranks)]
        processed = 0
        for step in steps:
            shares = rows.plan(step, layout.trained, layout, rng)
            processed += rows.processed(shares, layout)
            tokens = sampled_tokens(rows.rows[row] for row in step)
            for own, share in zip(dealt, shares, strict=True):
                for number, batch in enumerate(share, start=1):
                    joined = [_row_of(*self._lines[row]) for row in batch] or [self._filler()]
                    ends = number == len(share)
                    own.append(MicroBatch.of(joined, layout.pad_token_id, tokens, len(step), ends=ends))
        return [batch for own in dealt for batch in own], processed

    def _filler(self) -> Experience:
        """A row without a token that is trained."""
        at = min(range(len(self._lines)), key=lambda row: len(self.rows.rows[row].ids))
        filler = _row_of(*self._lines[at])
        return replace(filler, index=[FILLER], action_mask=torch.zeros_like(filler.action_mask))

    def _clear(self, name: str) -> None:
        for experience in self.experiences:
            setattr(experience, name, torch.zeros(experience.action_mask.shape, dtype=torch.float32))


def _row_of(experience: Experience, line: int) -> Experience:
    """One row of a micro-batch, with a batch dimension of 1."""

    def own(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: own(part) for key, part in value.items()}
        return None if value is None else value[line : line + 1]

    return Experience(**{field.name: own(getattr(experience, field.name)) for field in fields(Experience)})

"""From trials to the host's `Experience`: one a trial while samples travel, one a row for training.

Between rollout and training the host counts, filters and slices samples. Each of these
steps is right for trials and wrong for rows, so a trial stays one `TrialExperience` until
the experience maker turns a whole batch of them into rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from openrlhf.trainer.ppo_utils.experience import Experience

from openrlhf_lamer.records import Trial
from openrlhf_lamer.rows import Row, filling, sampled_tokens, trial_rows


@dataclass
class TrialExperience(Experience):
    """A sample that carries a trial; the host reads its outcome fields alone."""

    trial: Trial | None = field(default=None)

    @classmethod
    def from_response(cls, response: dict[str, Any]) -> TrialExperience:
        """The sample that an executor's response stands for.

        A failed trial has no score: the host's dynamic filtering then lets its group pass, so that
        failures are seen, counted and baselined around like any other.
        """
        trial: Trial = response["trial"]
        sampled = sum(len(turn.sampled_ids) for turn in trial.turns)
        fields: dict[str, Any] = {
            "prompts": [response["prompt"]],
            "labels": [response["label"]],
            "rewards": torch.tensor([response["reward"]]),
            "scores": None if trial.failure else torch.tensor([response["scores"]]),
            "response_length": torch.tensor([sampled]),
            "truncated": torch.tensor([response["truncated"]]),
        }
        return cls(trial=trial, **fields)


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
            Shape (row length - 1,): the value at each sampled token, 0 elsewhere. The host's
            action axis is that of predictions, one shorter than the row: token i stands at i - 1.
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

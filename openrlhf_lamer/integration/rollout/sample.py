"""A trial on its way from rollout to training: one of the host's samples.

On this way the host counts, filters and slices samples. Each of these steps is right for trials and wrong for rows, so
a trial stays one sample until the experience maker turns a whole batch into rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from openrlhf.trainer.ppo_utils.experience import Experience

from openrlhf_lamer.records import Trial


@dataclass
class TrialExperience(Experience):
    """A sample that carries a trial; the host reads only its outcome fields."""

    trial: Trial | None = field(default=None)

    @classmethod
    def from_response(cls, response: dict[str, Any]) -> TrialExperience:
        """Make a sample from an executor's response.

        A failed trial has no score: the host's dynamic filtering then lets its group pass, so that the failure is
        seen and counted, and left out of the baseline, like any other.
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

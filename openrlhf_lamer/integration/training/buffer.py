"""Micro-batches on their way to the optimizer: the host trains them as they were planned.

The host's own dynamic batches measure whole samples, and it shuffles and deals them again. Here a plan was made for
all ranks beforehand (`update.plan`), so the buffer only keeps to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.replay_buffer import NaiveReplayBuffer


@dataclass
class MicroBatch(Experience):
    """Rows that a rank trains at once.

    Attributes:
        step_tokens: Sampled tokens of the optimizer step that it belongs to, over all ranks.
        step_rows: Rows of that step.
        ends_step: Whether it is the last of its rank in that step.
    """

    step_tokens: int = 0
    step_rows: int = 0
    ends_step: bool = False

    @classmethod
    def of(cls, rows: Sequence[Experience], pad_token_id: int, tokens: int, number: int, *, ends: bool) -> MicroBatch:
        """Join rows into a micro-batch of an optimizer step that has `tokens` sampled tokens and `number` rows."""
        joined = Experience.concat_experiences(list(rows), pad_token_id)
        return cls(**vars(joined), step_tokens=tokens, step_rows=number, ends_step=ends)


class PlannedBuffer(NaiveReplayBuffer):
    """The host's replay buffer, which yields each `MicroBatch` as it was appended."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dynamic_batch = True
        self.sample_batch_size = 1  # the buffer yields whole micro-batches

    def append(self, experience: MicroBatch) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Keep a micro-batch."""
        first = len(self.items)
        super().append(experience)
        self.dynamic_indices.append(list(range(first, len(self.items))))
        self.dynamic_batch_num_tokens.append(experience.step_tokens)
        self.dynamic_global_batch_size.append(experience.step_rows)
        self.dynamic_optimizer_step.append(int(experience.ends_step))
        self.dynamic_sample_loss_scale.append(0.0)  # of the router's loss, which is refused

    def setup_dynamic_batch(self, strategy: Any) -> None:
        """Plan nothing: micro-batches are planned before they are appended."""

    def mark(self, engine: Any, number: int) -> None:
        """Tell DeepSpeed whether this micro-batch ends its optimizer step.

        The host marks every micro-batch as the last one, whereupon ZeRO-1 and ZeRO-2 keep only the gradient of the
        actual last. ZeRO-3 adds all gradients up either way.
        """
        engine.set_gradient_accumulation_boundary(bool(self.dynamic_optimizer_step[number]))

    @property
    def per_step(self) -> float:
        """Micro-batches of an optimizer step, on average."""
        return len(self.dynamic_indices) / sum(self.dynamic_optimizer_step)

    def clear(self) -> None:
        """Drop all micro-batches."""
        super().clear()
        for each in (
            self.dynamic_indices,
            self.dynamic_batch_num_tokens,
            self.dynamic_global_batch_size,
            self.dynamic_optimizer_step,
            self.dynamic_sample_loss_scale,
        ):
            each.clear()

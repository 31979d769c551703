"""The host's prompts as a stream of tasks, some of them drawn ahead of training.

A checkpoint must say how far *training* got. So it saves the dataloader's state as of the last prompt delivered, not of
the last one drawn: a resumed run draws the rest again, and neither skips nor repeats a task.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from openrlhf_lamer import LamerError

DRAWN = "lamer_drawn"
"""Key of the number of prompts drawn, in the dataloader's state."""
PLACE = "lamer_place"
"""Key of the number of prompts drawn in their epoch, in the state of a `LearnableStream`."""


class CheckpointError(LamerError, ValueError):
    """A checkpoint that this run cannot go on from; the message names the remedy."""


@dataclass(frozen=True, slots=True)
class Draw:
    """A prompt that was drawn.

    Attributes:
        number: Number of prompts drawn before it since the run began, across resumptions.
        prompt: The host's prompt, which names the task.
        label: The task as JSON.
        state: The dataloader's state once this prompt is used up.
    """

    number: int
    prompt: str
    label: str
    state: dict[str, Any]


class TaskStream:
    """A dataloader that is read ahead; the host's checkpoints see one that is not.

    Args:
        loader: The host's dataloader of single prompts, which can save and load its state.
        seed: Decides the order of its tasks.
    """

    def __init__(self, loader: Any, seed: int) -> None:
        self._loader = loader
        generator = getattr(loader.sampler, "generator", None)
        if generator is not None:
            generator.manual_seed(seed)
        self._prompts: Iterator[Any] | None = None
        self._drawn = 0
        self._delivered: dict[str, Any] | None = None

    def __len__(self) -> int:
        return len(self._loader)

    @property
    def open(self) -> bool:
        """Whether an epoch has begun and its end has not been reached."""
        return self._prompts is not None

    def begin(self) -> None:
        """Begin an epoch, or continue the one that was loaded."""
        self._prompts = iter(self._loader)

    def draw(self) -> Draw | None:
        """The next prompt; None if the epoch is over, which closes the stream."""
        if self._prompts is None:
            return None
        try:
            _, (prompt,), (label,), _ = next(self._prompts)
        except StopIteration:
            self._prompts = None
            return None
        self._drawn += 1
        return Draw(self._drawn - 1, prompt, label, {**self._loader.state_dict(), DRAWN: self._drawn})

    @property
    def held(self) -> int:
        """Number of prompts of a checkpoint that must be drawn again before others: none, the order is fixed."""
        return 0

    def deliver(self, last: Draw, learnability: float | None) -> None:
        """Mark all prompts up to `last` as used up: a run resumed from here begins after it.

        The order of tasks does not depend on what their trials taught.
        """
        self._delivered = last.state

    def state_dict(self) -> dict[str, Any]:
        """State from which a resumed run continues."""
        return self._delivered or {**self._loader.state_dict(), DRAWN: self._drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            CheckpointError: The state is that of a `LearnableStream`.
        """
        if PLACE in state:
            raise CheckpointError(
                "the checkpoint was written with --lamer.task_sampling learnable: add it, or train from the start"
            )
        self._drawn = state.get(DRAWN, 0)
        self._delivered = state or None
        self._loader.load_state_dict({key: value for key, value in state.items() if key != DRAWN})


def generation_window(asked: int | None, size: int, *, partial: bool) -> int:
    """Most groups that are held at once, ready ones included, while batches of `size` groups are generated.

    Args:
        asked: The host's `--rollout.vllm_generate_batch_size`.
        size: Groups of a batch.
        partial: Whether the next batch's trials start as this batch's trials end.
    """
    return max(asked or size, 2 * size if partial else size)


def trial_seed(run: int, split: str, number: int, sample: int) -> int:
    """The seed of a trial: sample `sample` of the prompt drawn as number `number`.

    It depends only on the run's seed and the place in the order of prompts. A resumed run knows that place from its
    checkpoint, so its trials get the seeds of an uninterrupted run.
    """
    return int.from_bytes(sha256(repr((run, split, number, sample)).encode()).digest()[:6], "big")

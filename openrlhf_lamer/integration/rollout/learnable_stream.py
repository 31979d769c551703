"""The host's prompts as a stream of tasks in which those that taught something come more often.

The host's dataloader walks through a shuffled order, and may prepare prompts ahead. Here the weights of the next draw
change with every batch, so prompts are taken from its data set by index.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from openrlhf_lamer.integration.rollout.task_stream import DRAWN, PLACE, CheckpointError, Draw, trial_seed
from openrlhf_lamer.learnability import TaskWeights

TASKS, KNOWN, HELD = "lamer_tasks", "lamer_known", "lamer_held"
"""Further keys of a state: number of tasks, learnability of those that were played, tasks drawn but not delivered."""

SEEDS = 2**48
"""Number of different seeds that `trial_seed` gives."""


class LearnableStream:
    """Prompts drawn one by one, with replacement, by the weights of their tasks (`TaskWeights`).

    An epoch has as many draws as there are tasks. A draw takes into account what all groups delivered before it have
    taught, and its random number follows from the run's seed and the draw's place. A checkpoint also holds the tasks
    that were drawn ahead of training: they were drawn with less knowledge, and a resumed run draws the same ones again.

    Args:
        loader: The host's dataloader; prompts are taken from its data set.
        seed: Decides the order of tasks, together with what they teach.
    """

    def __init__(self, loader: Any, seed: int) -> None:
        self._data, self._collate = loader.dataset, loader.collate_fn
        self._seed = seed
        self._weights = TaskWeights(len(self._data))
        self._drawn = 0
        self._place: int | None = None
        self._resumed = False
        self._again: deque[int] = deque()
        self._held: deque[tuple[Draw, int]] = deque()
        self._delivered: dict[str, Any] = {DRAWN: 0, PLACE: 0}

    def __len__(self) -> int:
        return len(self._data)

    @property
    def open(self) -> bool:
        """Whether an epoch has begun and its end has not been reached."""
        return self._place is not None and not self._resumed and self._place < len(self)

    @property
    def held(self) -> int:
        """Number of prompts of a checkpoint that must be drawn again before others."""
        return len(self._again)

    def begin(self) -> None:
        """Begin an epoch, or continue the one that was loaded; nothing is left of it if it was saved at its end."""
        if not self._resumed:
            self._place = 0
        self._resumed = False

    def draw(self) -> Draw | None:
        """The next prompt; None if the epoch is over."""
        if not self.open:
            return None
        assert self._place is not None
        number = self._drawn
        task = self._again.popleft() if self._again else self._weights.pick(self._share(number))
        self._drawn, self._place = number + 1, self._place + 1
        _, (prompt,), (label,), _ = self._collate([self._data[task]])
        draw = Draw(number, prompt, label, {DRAWN: self._drawn, PLACE: self._place})
        self._held.append((draw, task))
        return draw

    def deliver(self, last: Draw, learnability: float | None) -> None:
        """Mark the next prompt, which is `last`, as used up, and learn what its group taught; None says nothing."""
        draw, task = self._held.popleft()
        assert draw is last, "prompts are delivered in the order in which they were drawn"
        self._delivered = draw.state
        if learnability is not None:
            self._weights.learn(task, learnability)

    def state_dict(self) -> dict[str, Any]:
        """State from which a resumed run continues."""
        held = [task for _, task in self._held] + list(self._again)
        return {**self._delivered, TASKS: len(self), KNOWN: self._weights.known, HELD: held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            CheckpointError: The state is that of another order of tasks, or of another data set.
        """
        if PLACE not in state:
            raise CheckpointError(
                "--lamer.task_sampling learnable: the checkpoint was written without it; leave it out, or train from "
                "the start"
            )
        if state[TASKS] != len(self):
            raise CheckpointError(
                f"--data.prompt_dataset has {len(self)} tasks, but the checkpoint was written with {state[TASKS]}, and "
                "knows tasks by their place: give the same data"
            )
        self._delivered = {DRAWN: state[DRAWN], PLACE: state[PLACE]}
        self._drawn, self._place, self._resumed = state[DRAWN], state[PLACE], True
        self._again, self._held = deque(state[HELD]), deque()
        self._weights = TaskWeights(len(self), state[KNOWN])

    def _share(self, number: int) -> float:
        """A uniform number in [0, 1) for a draw."""
        return trial_seed(self._seed, "draw", number, 0) / SEEDS

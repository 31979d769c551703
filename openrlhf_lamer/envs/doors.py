"""Doors: a prize behind one of them, one choice an episode. The smallest game in which exploring pays."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from openrlhf_lamer.envs.base import SUCCESS_REWARD, EpisodeOverError, Observation, Step, TaskError, TextEnv
from openrlhf_lamer.envs.mistakes import Move, Played
from openrlhf_lamer.envs.seeding import below, generator
from openrlhf_lamer.records import Episode, Stop, Task
from openrlhf_lamer.vocabulary import RewardScheme

LAMP = "lamp"

_DOOR = re.compile(r"\s*(?:door\s*|d)?([0-9]{1,3})\s*", re.IGNORECASE)


class Doors(TextEnv):
    """Find the prize behind one of the doors, with one choice an episode.

    Description:
        `doors` doors look alike at the start. A prize is behind one of them, the same one in all episodes of a trial.
        The start gives no hint of it, so training and evaluation have the same `doors` hidden states.

    Actions:
        `d3` (also `door 3` or `3`) opens a door. With the option `lamp`, `lamp` burns a lamp: it shows where the
        prize is, and the episode ends without it.

    Observation:
        `All closed.`, then `Nothing behind d3.` or `Prize behind d3.`

    Rewards:
        10 for the prize, else 0; `shaped` is the same.

    Termination:
        Any accepted action: won if it opened the right door, otherwise lost.

    Options:
        doors: Number of doors, 2 to 100.
        lamp: Whether there is a lamp.
        reward: "sparse" or "shaped".
    """

    name = "doors"
    holds_out = False
    difficulties = ({"doors": 4}, {"doors": 8}, {"doors": 8, "lamp": True})

    @classmethod
    def played(cls, episode: Episode) -> Played:
        """The choice; a wrong door is a mistake wherever it is opened, and burning the lamp never is one."""
        chosen = [turn.did for turn in episode.turns if turn.valid and turn.did is not None]
        moves = tuple(Move("", action, action) for action in chosen)
        wrong = episode.stop is Stop.LOST and chosen[-1] != LAMP
        return Played(moves, moves[-1] if wrong else None)

    def __init__(self, doors: int = 8, lamp: bool = False, reward: RewardScheme = "sparse") -> None:
        super().__init__(reward)
        self.doors = self._whole("doors", doors, 2, 100)
        if not isinstance(lamp, bool):
            raise TaskError(f"doors: lamp is true or false, not {lamp!r}")
        self.lamp = lamp
        self._over = True
        self._prize = 0
        self._said = ""

    @property
    def beginnings(self) -> int:
        """Doors that the prize may be behind."""
        return self.doors

    @property
    def found(self) -> str | None:
        """The right door, if the present observation shows the prize."""
        return f"d{self._prize}" if self._said.startswith("Prize") else None

    def references(self, attempts: int, turns: int) -> Mapping[str, Sequence[float]]:
        """Success within 1, 2, ... attempts: of the best player of the whole trial, and of others.

        An attempt is one choice, however many turns it may have.
        """
        tried = range(1, attempts + 1)
        remembering = [min(1.0, k / self.doors) for k in tried]
        memoryless = [1 - (1 - 1 / self.doors) ** k for k in tried]
        if not self.lamp or attempts == 1:
            return {"optimum": remembering, "without memory": memoryless}
        looking_first = [float(k > 1) for k in tried]
        return {"optimum": looking_first, "no lamp, no door twice": remembering, "without memory": memoryless}

    def reset(self, task: Task) -> Observation:
        """Begin an episode: all doors closed, the prize where the task's seed puts it."""
        self._over = True
        self._check_task(task)
        if task.seed is None:
            raise TaskError(f"doors: a task has a seed, not a spec: {task.id}")
        self._prize = 1 + below(generator(self.name, self.doors, task.seed), self.doors)
        self._over, self._said = False, "All closed."
        return Observation(self._said)

    def step(self, action: str) -> Step:
        """Open a door, or burn the lamp."""
        if self._over:
            raise EpisodeOverError("doors: no episode is running; call reset first")
        if self.lamp and action.strip().lower() == LAMP:
            return self._end(f"Prize behind d{self._prize}.", LAMP)
        match = _DOOR.fullmatch(action)
        door = int(match[1]) if match else 0
        if not 1 <= door <= self.doors:
            return Step(Observation(self._said), 0.0, terminated=False, truncated=False, won=False, valid=False)
        won = door == self._prize
        return self._end(f"{'Prize' if won else 'Nothing'} behind d{door}.", f"d{door}", won)

    def anchor(self) -> str:
        """Number of doors, the right one, and what can be read."""
        return f"{self.doors} {self._prize} {self._said}"

    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        """At best the prize."""
        return 0.0, SUCCESS_REWARD

    def long_states(self) -> tuple[Observation, ...]:
        """The text after the door with the most digits."""
        return (Observation(f"Nothing behind d{self.doors}."),)

    def oracle(self) -> str | None:
        """The right door, known without looking."""
        return None if self._over else f"d{self._prize}"

    def why_refused(self, action: str) -> str:
        """The doors that there are."""
        return f"there is no such door: open d1 to d{self.doors}{f', or burn the {LAMP}' if self.lamp else ''}"

    def random_action(self, rng: Any) -> str:
        """Any door, or the lamp if there is one, all equally likely."""
        choice = below(rng, self.doors + self.lamp)
        return f"d{choice + 1}" if choice < self.doors else LAMP

    def _end(self, said: str, action: str, won: bool = False) -> Step:
        self._over, self._said = True, said
        reward = SUCCESS_REWARD if won else 0.0
        return Step(Observation(said), reward, True, truncated=False, won=won, valid=True, action=action)

"""A corridor of rooms; one of them hides a treasure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from openrlhf_lamer.doctor import Check, ok
from openrlhf_lamer.envs import EpisodeOverError, Observation, RewardScheme, Step, Task, TaskError, TextEnv
from openrlhf_lamer.envs.mistakes import Move, Played
from openrlhf_lamer.envs.seeding import below, choose, generator
from openrlhf_lamer.records import Episode, Stop

ACTIONS = ("left", "right", "dig")

_ROOM = re.compile(r"(?:room |#)(\d+)", re.IGNORECASE)


class Corridor(TextEnv):
    """Walk, and dig in the right room: digging elsewhere loses."""

    name = "corridor"
    difficulties = ({"rooms": 3}, {"rooms": 9})

    @classmethod
    def played(cls, episode: Episode) -> Played:
        """The mistake is to dig in a room without the treasure, whichever way the player came."""
        rooms = [(turn.did, f"room {_ROOM.findall(turn.observation)[0]}") for turn in episode.turns if turn.did]
        moves = tuple(Move("", f"{did} in {room}", room) for did, room in rooms)
        return Played(moves, moves[-1] if moves and episode.stop is Stop.LOST else None)

    @classmethod
    def mentions(cls, remark: str, action: str) -> bool:
        """Whether a remark names a room by its number, as in `#3`; of other actions, whether it has their words."""
        rooms = set(_ROOM.findall(action))
        return rooms <= set(_ROOM.findall(remark)) if rooms else super().mentions(remark, action)

    @classmethod
    def data_check(cls) -> Check:
        """Nothing can be missing."""
        return ok("corridor's data", "corridors come from seeds")

    @classmethod
    def prepare_command(cls) -> Callable[..., None]:
        """Draws a corridor."""
        from lamer_corridor.drawing import draw

        return draw

    def __init__(self, rooms: int = 5, reward: RewardScheme = "sparse") -> None:
        super().__init__(reward)
        self.rooms = self._whole("rooms", rooms, 2, 99)
        self._at = self._treasure = 0
        self._over = True

    def reset(self, task: Task) -> Observation:
        """Begin in the room, and with the treasure, that the seed gives."""
        self._over = True
        self._check_task(task)
        if task.seed is None:
            raise TaskError(f"corridor: tasks are seeds: {task.id}")
        rng = generator(self.name, self.rooms, task.seed)
        self._at, self._treasure = below(rng, self.rooms), below(rng, self.rooms)
        self._over = False
        return self._look()

    def step(self, action: str) -> Step:
        """Go `left` or `right`, where there is a room, or `dig`."""
        if self._over:
            raise EpisodeOverError("corridor: no episode is running; call reset first")
        if action not in self._look().admissible:
            return Step(self._look(), 0.0, False, False, won=False, valid=False)
        self._at += {"left": -1, "right": 1, "dig": 0}[action]
        self._over = action == "dig"
        won = self._over and self._at == self._treasure
        return Step(self._look(), 10.0 * won, self._over, False, won, valid=True)

    def anchor(self) -> str:
        """Where the player is, and what is hidden."""
        return f"{self._at}/{self.rooms}:{self._treasure}:{self._over}"

    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        """Success or nothing, under both schemes."""
        return 0.0, 10.0

    def oracle(self) -> str | None:
        """Straight to the treasure."""
        if self._over:
            return None
        return "dig" if self._at == self._treasure else "left" if self._at > self._treasure else "right"

    def random_action(self, rng: Any) -> str:
        """One of the listed actions."""
        return choose(rng, self._look().admissible)

    def _look(self) -> Observation:
        open_ways = {"left": self._at > 0, "right": self._at < self.rooms - 1, "dig": True}
        return Observation(f"Room {self._at + 1} of {self.rooms}.", tuple(a for a in ACTIONS if open_ways[a]))

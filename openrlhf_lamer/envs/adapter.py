"""Bring your own game: a Gymnasium-style text environment as a `TextEnv`.

The game has `reset(seed=...) -> (text, info)` and
`step(text) -> (text, reward, terminated, truncated, info)`; a subclass says how to build it:

    class Hanoi(GymTextEnv):
        name = "hanoi"

        def build(self):
            return TowersOfHanoi(disks=4)
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, ClassVar, SupportsFloat

from openrlhf_lamer.envs.base import SUCCESS_REWARD, EpisodeOverError, Observation, Step, TaskError, TextEnv
from openrlhf_lamer.envs.seeding import choose
from openrlhf_lamer.records import Task
from openrlhf_lamer.vocabulary import RewardScheme


class GymTextEnv(TextEnv):
    """A Gymnasium-style text game; tasks are seeds.

    Draws of the game from Python's global generator (`random`) come from a generator that belongs to this
    instance, so games that seed it in `reset` disturb neither each other nor anything else. A game that
    draws from NumPy's global generator, or is called from several threads, keeps the contract only where
    no other game shares its process.

    Rewards:
        sparse: 10 for success, else 0.
        shaped: the game's own reward.
    """

    shows_state: ClassVar[bool] = False
    """Whether an observation shows the whole state. The anchor is then the observation; otherwise it is the
    observation with all actions since `reset`, which may tell equal states apart, but never merges different ones."""
    episode_reward: ClassVar[tuple[float, float]] = (0.0, 1.0)
    """Least and most that the game pays in one episode."""

    def __init__(self, reward: RewardScheme = "sparse") -> None:
        super().__init__(reward)
        self._game: Any = None
        self._over = True
        self._random = random.Random(0).getstate()
        self._observation = Observation("")
        self._history: list[str] = []

    @abstractmethod
    def build(self) -> Any:
        """The game, made with this environment's options. It is made once and reset for each episode."""

    def to_game(self, action: str) -> str:
        """Text that the game gets for the content of an action tag."""
        return action

    def accepts(self, action: str) -> bool:
        """Whether `action` goes to the game; a refused one never does. By default those that are listed."""
        return not self._observation.admissible or action in self._observation.admissible

    def admissible(self, info: Mapping[str, Any]) -> Sequence[str]:
        """The actions to list with an observation; none where the game lists none."""
        return info.get("admissible_commands") or ()

    def succeeded(self, reward: float, info: Mapping[str, Any]) -> bool:
        """Whether an episode that the game ended was won, from what its last step gave."""
        return reward >= 1.0

    def reset(self, task: Task) -> Observation:
        """Begin an episode with the game's own reset to the task's seed."""
        self._over = True
        self._check_task(task)
        if task.seed is None:
            raise TaskError(f"{self.name}: tasks of this game are seeds, not specs: {task.id}")
        with self._own_random():
            if self._game is None:
                self._game = self.build()
            random.seed(task.seed)
            text, info = self._game.reset(seed=task.seed)
        self._over, self._history = False, []
        self._observation = Observation(str(text), tuple(self.admissible(info)))
        return self._observation

    def step(self, action: str) -> Step:
        """Give the action to the game, unless `accepts` refuses it."""
        if self._over:
            raise EpisodeOverError(f"{self.name}: no episode is running; call reset first")
        if not self.accepts(action):
            return Step(self._observation, 0.0, False, False, won=False, valid=False)
        answer: tuple[str, SupportsFloat, bool, bool, Mapping[str, Any]]
        with self._own_random():
            answer = self._game.step(self.to_game(action))
        text, paid, terminated, truncated, info = answer
        self._history.append(action)
        self._observation = Observation(str(text), tuple(self.admissible(info)))
        won = bool(terminated) and self.succeeded(float(paid), info)
        self._over = bool(terminated or truncated)
        reward = float(paid) if self.reward == "shaped" else SUCCESS_REWARD * won
        return Step(self._observation, reward, bool(terminated), bool(truncated and not terminated), won, valid=True)

    def anchor(self) -> str:
        """A hash of the observation, and of the actions that led there unless the observation shows all."""
        parts = [self._observation.text, *self._observation.admissible]
        if not self.shows_state:
            parts += ["", *self._history]
        return sha256("\x00".join(parts).encode()).hexdigest()[:32]

    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        """Least and most that the game pays, or the success reward only."""
        low, high = self.episode_reward
        return (min(low, 0.0), max(high, 0.0)) if self.reward == "shaped" else (0.0, SUCCESS_REWARD)

    def random_action(self, rng: Any) -> str:
        """One of the listed actions; a game that lists none overrides this method."""
        return choose(rng, self._observation.admissible) if self._observation.admissible else super().random_action(rng)

    def close(self) -> None:
        """Close the game, where it can be closed."""
        close = getattr(self._game, "close", None)
        self._game, self._over = None, True
        if close is not None:
            close()

    @contextmanager
    def _own_random(self) -> Iterator[None]:
        """Let `random` be this instance's generator for a while."""
        shared = random.getstate()
        random.setstate(self._random)
        try:
            yield
        finally:
            self._random = random.getstate()
            random.setstate(shared)

"""Dark room: find a goal that only shows itself nearby, and walk straight to it in the next attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openrlhf_lamer.envs.base import SUCCESS_REWARD, EpisodeOverError, Observation, Step, TaskError, TextEnv
from openrlhf_lamer.envs.darkroom.grid import MOVES, Cell, hiding_places, in_sight, middle, walked
from openrlhf_lamer.envs.darkroom.optimum import optimum
from openrlhf_lamer.envs.mistakes import Move, Played
from openrlhf_lamer.envs.seeding import choose, generator
from openrlhf_lamer.records import Episode, Task
from openrlhf_lamer.vocabulary import RewardScheme


class DarkRoom(TextEnv):
    """Walk onto a goal that shows itself only to a player next to it.

    Description:
        A room of `size` x `size` cells. The player starts in the middle. The goal is in a cell that is not in sight
        from there, the same one in all episodes of a trial. The start gives no hint of it, so training and evaluation
        have the same hidden states. Once the goal is in one of the 8 cells around the player, it shows itself, and
        stays shown for the rest of the episode.

    Actions:
        `up`, `down`, `left` or `right`: one cell. A step into a wall is refused.

    Observation:
        `You are at (3, 3). Nothing in sight.` or `You are at (2, 3). Goal at (1, 4).`, with rows and columns
        from 1.

    Rewards:
        10 for walking onto the goal, else 0; `shaped` is the same.

    Termination:
        The goal is reached (won). Nothing else ends an episode but the agent's number of turns.

    Options:
        size: Rows and columns, an odd number from 5 to 9. In a smaller room all cells are in sight.
        reward: "sparse" or "shaped".
    """

    name = "darkroom"
    holds_out = False
    difficulties = ({"size": 5}, {"size": 7}, {"size": 9})

    @classmethod
    def played(cls, episode: Episode) -> Played:
        """The steps; none of them is the mistake, since a step in the dark may be a good one wherever it leads."""
        steps = [turn.did for turn in episode.turns if turn.valid and turn.did is not None]
        return Played(tuple(Move("", step, step) for step in steps), None)

    def __init__(self, size: int = 5, reward: RewardScheme = "sparse") -> None:
        super().__init__(reward)
        self.size = self._whole("size", size, 5, 9)
        if size % 2 == 0:
            raise TaskError(f"darkroom: size is an odd number, so that there is a middle, not {size!r}")
        self._over, self._shown = True, False
        self._goal = self._at = middle(size)

    @property
    def beginnings(self) -> int:
        """Cells that the goal may be in."""
        return len(hiding_places(self.size))

    @property
    def found(self) -> str | None:
        """First step of a shortest way to the goal, rows first, if the present observation shows it."""
        return self.oracle() if self._shown else None

    def references(self, attempts: int, turns: int) -> Mapping[str, Sequence[float]]:
        """Success within 1, 2, ... attempts: of the best player of the whole trial, and the limit without memory.

        The limit is that of independent attempts, each as good as the best single one. No player whose attempts
        know nothing of each other exceeds it.
        """
        best = optimum(self.size, turns, attempts)
        return {
            "optimum": best,
            "without memory": [1 - (1 - best[0]) ** k for k in range(1, attempts + 1)],
        }

    def reset(self, task: Task) -> Observation:
        """Begin an episode: the player in the middle, the goal where the task's seed puts it."""
        self._over = True
        self._check_task(task)
        if task.seed is None:
            raise TaskError(f"darkroom: a task has a seed, not a spec: {task.id}")
        self._goal = choose(generator(self.name, self.size, task.seed), hiding_places(self.size))
        self._at = middle(self.size)
        self._over = self._shown = False
        return self._observation()

    def step(self, action: str) -> Step:
        """Walk one cell."""
        if self._over:
            raise EpisodeOverError("darkroom: no episode is running; call reset first")
        move = action.strip().lower()
        to = walked(self._at, move, self.size) if move in MOVES else None
        if to is None:
            return Step(self._observation(), 0.0, terminated=False, truncated=False, won=False, valid=False)
        self._at = to
        self._shown = self._shown or in_sight(to, self._goal)
        self._over = won = to == self._goal
        reward = SUCCESS_REWARD if won else 0.0
        return Step(self._observation(), reward, won, truncated=False, won=won, valid=True, action=move)

    def anchor(self) -> str:
        """Size, goal, the player's cell, and whether the goal is shown."""
        return f"{self.size} {self._goal} {self._at} {self._shown}"

    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        """At best the goal is reached."""
        return 0.0, SUCCESS_REWARD

    def long_states(self) -> tuple[Observation, ...]:
        """The start, and a state that shows the goal."""
        start = middle(self.size)
        return (Observation(_text(start, None)), Observation(_text(start, (self.size, self.size))))

    def oracle(self) -> str | None:
        """First step of a shortest way to the goal, rows first, known without looking."""
        if self._over:
            return None
        (row, column), (goal_row, goal_column) = self._at, self._goal
        if row != goal_row:
            return "up" if goal_row < row else "down"
        return "left" if goal_column < column else "right"

    def why_refused(self, action: str) -> str:
        """The reason (a wall, or not a step), and the steps that are free."""
        word = action.strip().lower()
        free = ", ".join(move for move in MOVES if walked(self._at, move, self.size) is not None)
        return f"{'a wall is there' if word in MOVES else 'that is no step'}: from here you can go {free}"

    def random_action(self, rng: Any) -> str:
        """A step that no wall refuses, all equally likely."""
        return choose(rng, [move for move in MOVES if walked(self._at, move, self.size) is not None])

    def _observation(self) -> Observation:
        return Observation(_text(self._at, self._goal if self._shown else None))


def _text(at: Cell, goal: Cell | None) -> str:
    return f"You are at {at}. " + ("Nothing in sight." if goal is None else f"Goal at {goal}.")

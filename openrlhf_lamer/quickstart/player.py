"""A scripted MineSweeper player that errs, and remarks on its errors: what the warm start imitates."""

from __future__ import annotations

import math
import random

from openrlhf_lamer.chat import Chat
from openrlhf_lamer.envs.base import TextEnv
from openrlhf_lamer.policies.scripted import ScriptedPolicy


class FalliblePlayer(ScriptedPolicy):
    """Opens a safe cell with probability `skill`, and otherwise any closed cell it takes for harmless.

    One player plays one trial: after a lost episode it remembers the mine that it hit, and mostly
    keeps away from it. It knows the board where it does not err, so that imitating it teaches which
    cells tend to be safe; a model that has only imitated it errs about as often.
    """

    def __init__(self, chat: Chat, seed: int, *, skill: float = 0.4, caution: float = 0.5) -> None:
        super().__init__(chat)
        self._rng = random.Random(seed)
        self._skill = skill
        self._caution = caution
        self._mines: list[str] = []
        self._opened: list[str] = []

    def act(self, env: TextEnv) -> str:
        """A look at one row of the board, and a cell of it."""
        cell = env.oracle() if self._rng.random() < self._skill else None
        if cell is None:
            cell = env.random_action(self._rng)
            while cell in self._mines and self._rng.random() < self._caution:
                cell = env.random_action(self._rng)
        self._opened.append(cell)
        row, column = cell.strip("()").split(", ")
        # To repeat the row before choosing in it makes the choice a matter of looking back a few tokens.
        return f"{_row(env, int(row))}. I think {column} is safe. <action>{cell}</action>"

    def reflect(self, env: TextEnv) -> str:
        """A remark that names the mine that was hit and the cells that were safe."""
        *safe, last = self._opened
        self._opened = []
        if "*" not in env.anchor():  # no mine lies open
            return f"I ran out of turns. <remark>Safe: {', '.join([*safe, last])}.</remark>"
        if last not in self._mines:
            self._mines.append(last)
        known = f" Safe: {', '.join(safe)}." if safe else ""
        return f"I hit a mine. <remark>Mine: {', '.join(self._mines)}.{known}</remark>"


def _row(env: TextEnv, number: int) -> str:
    """A row of the board as the observation shows it."""
    shown = env.anchor().split("|")[1]
    size = math.isqrt(len(shown))
    return f"Row {number}: {' '.join(shown[(number - 1) * size : number * size])}"

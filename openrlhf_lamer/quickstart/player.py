"""A scripted MineSweeper player that errs, and remarks on its errors: what the warm start imitates."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from openrlhf_lamer.chat import Chat
from openrlhf_lamer.envs.base import TextEnv
from openrlhf_lamer.policies.scripted import ScriptedPolicy


class FalliblePlayer(ScriptedPolicy):
    """Guesses, in some attempts makes use of the earlier ones, and remarks on the mines it hit.

    One player plays one trial. A later attempt uses the memory with probability `recall`: it repeats
    what was safe in the attempt before and then guesses away from the mines that it knows. Else it forgets
    all that and guesses. A guess is a safe cell with probability `skill`, else any closed one. So a model
    that has imitated it knows how a memory is used; that to use it every time pays is left for training
    to find out.
    """

    def __init__(self, chat: Chat, seed: int, *, recall: float = 0.35, skill: float = 0.1) -> None:
        super().__init__(chat)
        self._rng = random.Random(seed)
        self._recall, self._skill = recall, skill
        self._mines: list[str] = []
        self._safe: list[str] = []
        self._opened: list[str] = []
        self._recalling = False

    def act(self, env: TextEnv) -> str:
        """A cell out of memory, or a look at one row of the board and a cell of it."""
        if not self._opened:
            self._recalling = bool(self._mines) and self._rng.random() < self._recall
        known = next((cell for cell in self._safe if _shown(env, cell) == "?"), None)
        if self._recalling and known is not None:
            self._opened.append(known)
            return f"Again. <action>{known}</action>"
        cell = self._guess(env, self._mines if self._recalling else [])
        self._opened.append(cell)
        row, column = _numbers(cell)
        # To repeat the row before choosing in it makes the choice a matter of looking back a few tokens.
        warning = f"Not {', '.join(self._mines)}. " if self._recalling else ""
        return f"{warning}Row {row}: {' '.join(_board(env)[row - 1])} so I try {column}. <action>{cell}</action>"

    def _guess(self, env: TextEnv, avoided: Sequence[str]) -> str:
        if self._rng.random() < self._skill and (cell := env.oracle()) is not None:
            return cell
        while (cell := env.random_action(self._rng)) in avoided:
            pass
        return cell

    def reflect(self, env: TextEnv) -> str:
        """A remark that names the mine that was hit."""
        opened, self._opened = self._opened, []
        mines = [cell for cell in opened if _shown(env, cell) == "*"]
        self._safe = [cell for cell in opened if cell not in mines]
        self._mines += [cell for cell in mines if cell not in self._mines]
        return f"I hit a mine. <remark>Mine: {mines[0]}.</remark>" if mines else "I was slow. <remark>No mine.</remark>"


def _numbers(cell: str) -> tuple[int, int]:
    """Row and column, from 1, of `(row, column)`."""
    row, column = cell.strip("()").split(", ")
    return int(row), int(column)


def _board(env: TextEnv) -> list[str]:
    """The rows of the board, a character a cell, as the observation shows them."""
    shown = env.anchor().split("|")[1]
    size = math.isqrt(len(shown))
    return [shown[start : start + size] for start in range(0, len(shown), size)]


def _shown(env: TextEnv, cell: str) -> str:
    """What the observation shows of a cell."""
    row, column = _numbers(cell)
    return _board(env)[row - 1][column - 1]

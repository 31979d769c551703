"""A scripted MineSweeper player that errs, and remarks on its errors: what the warm start imitates."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from openrlhf_lamer.chat import Chat
from openrlhf_lamer.envs.base import TextEnv
from openrlhf_lamer.policies.scripted import ScriptedPolicy


class FalliblePlayer(ScriptedPolicy):
    """Guesses, now and then uses what earlier attempts have shown, and remarks on what it saw.

    One player plays one trial. Each turn it recalls a cell that an earlier attempt has found safe, with
    probability `recall`, or names the mines that earlier attempts have hit and keeps away from them, with
    probability `caution`; else it forgets all that. Where it guesses, it opens a safe cell with
    probability `skill`, else any closed one. So a model that has imitated it knows how a memory is used,
    and that to use it every time pays is left for training to find out.
    """

    def __init__(self, chat: Chat, seed: int, *, recall: float = 0.3, caution: float = 0.3, skill: float = 0.1) -> None:
        super().__init__(chat)
        self._rng = random.Random(seed)
        self._recall, self._caution, self._skill = recall, caution, skill
        self._safe: list[str] = []
        self._mines: list[str] = []
        self._opened: list[str] = []

    def act(self, env: TextEnv) -> str:
        """A cell out of memory, or a look at one row of the board and a cell of it."""
        known = next((cell for cell in self._safe if _shown(env, cell) == "?"), None)
        choice = self._rng.random()
        if known is not None and choice < self._recall:
            self._opened.append(known)
            return f"I remember that {known} is safe. <action>{known}</action>"
        careful = bool(self._mines) and self._recall <= choice < self._recall + self._caution
        cell = self._guess(env, self._mines if careful else [])
        self._opened.append(cell)
        row, column = _numbers(cell)
        # To repeat the row before choosing in it makes the choice a matter of looking back a few tokens.
        warning = f"Not {', '.join(self._mines)}. " if careful else ""
        return f"{warning}Row {row}: {' '.join(_board(env)[row - 1])} so I try {column}. <action>{cell}</action>"

    def _guess(self, env: TextEnv, avoided: Sequence[str]) -> str:
        if self._rng.random() < self._skill and (cell := env.oracle()) is not None:
            return cell
        while (cell := env.random_action(self._rng)) in avoided:
            pass
        return cell

    def reflect(self, env: TextEnv) -> str:
        """A remark that names the mine that was hit and the cells that were safe."""
        opened, self._opened = self._opened, []
        mines = [cell for cell in opened if _shown(env, cell) == "*"]
        safe = [cell for cell in opened if cell not in mines]
        self._mines += mines
        self._safe += [cell for cell in safe if cell not in self._safe]
        named = [f"{name}: {', '.join(cells)}." for name, cells in (("Safe", safe), ("Mine", mines)) if cells]
        what = "I hit a mine." if mines else "I ran out of turns."
        return f"{what} <remark>{' '.join(named)}</remark>"


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

"""A scripted MineSweeper player that errs and remarks on its errors; the warm start imitates it."""

from __future__ import annotations

import math
import random

from openrlhf_lamer.chat import Chat
from openrlhf_lamer.envs.base import TextEnv
from openrlhf_lamer.policies.scripted import ScriptedPolicy


class FalliblePlayer(ScriptedPolicy):
    """Guesses, avoids in some attempts the mines that it has hit, and remarks on them.

    One player plays one trial. A later attempt heeds the remarks on the earlier ones with probability
    `recall`, and otherwise forgets them. A guess is a safe cell with probability `skill`, else any closed
    one. So a model that has imitated it knows how to use a memory; training has to find out that using it every
    time pays.
    """

    def __init__(self, chat: Chat, seed: int, *, recall: float = 0.5, skill: float = 0.1) -> None:
        super().__init__(chat)
        self._rng = random.Random(seed)
        self._recall, self._skill = recall, skill
        self._mines: list[str] = []
        self._avoided: list[str] = []
        self._begins = True

    def act(self, env: TextEnv) -> str:
        """A look at one row of the board, and a cell of it."""
        if self._begins:
            self._begins = False
            self._avoided = list(self._mines) if self._rng.random() < self._recall else []
        cell = env.oracle() if self._rng.random() < self._skill else None
        while cell is None or cell in self._avoided:
            cell = env.random_action(self._rng)
        row, column = (int(number) for number in cell.strip("()").split(", "))
        # With the row repeated just before, the choice needs a look back of only a few tokens.
        shown = f"Row {row}: {' '.join(_board(env)[row - 1])} so I try {column}."
        warning = f"Not {', '.join(self._avoided)}. " if self._avoided else ""
        return f"{warning}{shown} <action>{cell}</action>"

    def reflect(self, env: TextEnv) -> str:
        """A remark that names the mine that was hit."""
        self._begins = True
        for row, cells in enumerate(_board(env), start=1):
            if "*" in cells:
                cell = f"({row}, {cells.index('*') + 1})"
                self._mines += [cell] if cell not in self._mines else []
                return f"I hit a mine. <remark>Mine: {cell}.</remark>"
        return "I ran out of turns. <remark>No mine was hit.</remark>"


def _board(env: TextEnv) -> list[str]:
    """The rows of the board, a character a cell, as the observation shows them."""
    shown = env.anchor().split("|")[1]
    size = math.isqrt(len(shown))
    return [shown[start : start + size] for start in range(0, len(shown), size)]

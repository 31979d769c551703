"""Scripted MineSweeper player for the warm start to imitate: it errs, and remarks on its errors."""

from __future__ import annotations

import copy
import math

from openrlhf_lamer.agents import Agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.envs.base import TextEnv
from openrlhf_lamer.warmstart.players.scripted import DemonstratedPolicy, probability


class FalliblePlayer(DemonstratedPolicy):
    """Guesses, avoids the mines it has hit in some attempts, and remarks on them.

    One player plays one trial. A later attempt heeds what its memory tells of the earlier ones with probability
    `recall`, and otherwise forgets it. A guess is a safe cell with probability `skill`, otherwise any
    closed one. A model that imitates this player learns how to use a memory; training must find out
    that it pays to use it every time.
    """

    def __init__(
        self, chat: Chat, seed: int, agent: Agent, config: LamerConfig, *, recall: float = 0.5, skill: float = 0.1
    ) -> None:
        super().__init__(chat, seed, agent, config)
        self._recall, self._skill = probability("recall", recall), probability("skill", skill)
        self._mines: list[str] = []
        self._avoided: list[str] = []

    def begin(self) -> None:
        """Heed what the memory tells, or forget it."""
        self._avoided = list(self._mines) if self.rng.random() < self._recall else []

    def act(self, env: TextEnv) -> str:
        """One row of the board, where the mines to avoid are marked, and a cell in it to open."""
        cell = env.oracle() if self.rng.random() < self._skill else None
        while cell is None or cell in self._avoided:
            cell = env.random_action(self.rng)
        step = copy.deepcopy(env).step(cell)
        if step.terminated and not step.won and cell not in self._mines:
            self._mines.append(cell)
        row, column = (int(number) for number in cell.strip("()").split(", "))
        # Repeating the row, with the mines to avoid in it, puts everything that the choice needs a few tokens back.
        board = enumerate(_board(env)[row - 1], start=1)
        marked = ["*" if f"({row}, {number})" in self._avoided else seen for number, seen in board]
        shown = f"Row {row}: {' '.join(marked)} so I try {column}."
        warning = f"Not {', '.join(self._avoided)}. " if self._avoided else ""
        return self.reply(cell, f"{warning}{shown}", certain=False)

    def reflect(self, env: TextEnv) -> str:
        """Reflection with a remark that names the mine that was hit."""
        for row, cells in enumerate(_board(env), start=1):
            if "*" in cells:
                return f"I hit a mine. <remark>Mine: ({row}, {cells.index('*') + 1}).</remark>"
        return "I ran out of turns. <remark>No mine was hit.</remark>"


def _board(env: TextEnv) -> list[str]:
    """Rows of the board as the observation shows them, one character per cell."""
    shown = env.anchor().split("|")[1]
    size = math.isqrt(len(shown))
    return [shown[start : start + size] for start in range(0, len(shown), size)]

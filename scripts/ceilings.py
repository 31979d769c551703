"""Shares of a panel that one attempt can win: by a player who sees everything, and by one who knows the odds.

    python scripts/ceilings.py [PANEL ...]

The clairvoyant player follows the environment's oracle. In MineSweeper the oracle needs the fewest openings possible:
one for each blank region, and one for each other cell that no blank cell opens. In Sokoban it plays the solution.

The other player of MineSweeper lists all layouts of mines that agree with the open cells. They are equally likely (this
is exact: the generator draws the mines and the first cell uniformly). It opens the closed cell that is a mine in the
fewest layouts, the first one row by row if several are equal.

`scripts/make_manifests.py` writes both shares into the panels.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from itertools import chain, combinations
from math import comb

import numpy as np

from openrlhf_lamer import envs, manifest, panels
from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.envs import Task, TextEnv
from openrlhf_lamer.panels import Ceilings, Panel

MEASURED = ("sokoban", "minesweeper")
"""Environments whose panels get ceilings: their oracles need the fewest turns, wherever a limit of turns matters."""


def ceilings(panel: Panel) -> Ceilings | None:
    """Ceilings of a panel with its tasks; None if its environment is not in `MEASURED`."""
    if panel.env not in MEASURED:
        return None
    turns = panel.max_turns or load_agent(f"openrlhf_lamer.agents.{panel.env}")[0].max_turns
    hides = panel.env == "minesweeper"
    clairvoyant = exact = 0
    with closing(envs.make(panel.env, **panel.options)) as env:
        for task in panel.tasks():
            clairvoyant += _oracle_wins(env, task, turns)
            exact += hides and ExactPlayer(env, task).wins(turns)
    return Ceilings(turns, clairvoyant / panel.size, exact / panel.size if hides else None)


def _oracle_wins(env: TextEnv, task: Task, turns: int) -> bool:
    env.reset(task)
    for _ in range(turns):
        step = env.step(env.oracle() or "")
        if step.terminated or step.truncated:
            return step.won
    return False


class ExactPlayer:
    """MineSweeper player that opens the cell least likely to be a mine."""

    def __init__(self, env: TextEnv, task: Task) -> None:
        self._env = env
        self._size, mines = env.facts["size"], env.facts["mines"]
        self._layouts = _layouts(self._size * self._size, mines)
        self._known: set[int] = set()
        self._look(env.reset(task).text)

    def wins(self, turns: int) -> bool:
        """Whether it wins in `turns` turns."""
        for _ in range(turns):
            row, column = divmod(self.safest(), self._size)
            step = self._env.step(f"({row + 1}, {column + 1})")
            if step.terminated:
                return step.won
            self._look(step.observation.text)
        return False

    def mined(self) -> dict[int, int]:
        """Closed cells, row by row, each with the number of remaining layouts in which it is a mine."""
        closed = (cell for cell in range(self._size * self._size) if cell not in self._known)
        return {cell: int(_bit(self._layouts, cell).sum()) for cell in closed}

    def safest(self) -> int:
        """Closed cell that is a mine in the fewest layouts; the first of equal ones."""
        mined = self.mined()
        return min(mined, key=mined.__getitem__)

    def _look(self, board: str) -> None:
        """Keep the layouts that agree with the newly opened cells."""
        signs = chain.from_iterable(line.partition(": ")[2].split(" ") for line in board.split("\n"))
        for cell, sign in enumerate(signs):
            if sign == "?" or cell in self._known:
                continue
            self._known.add(cell)
            around = sum(_bit(self._layouts, near) for near in _around(self._size, cell))
            number = 0 if sign == "." else int(sign)
            self._layouts = self._layouts[(_bit(self._layouts, cell) == 0) & (around == number)]


@cache
def _layouts(cells: int, mines: int) -> np.ndarray:
    """All layouts of the mines, each as a number with a bit for every cell; at most 64 cells."""
    flat = np.fromiter(chain.from_iterable(combinations(range(cells), mines)), np.uint64, comb(cells, mines) * mines)
    return (np.uint64(1) << flat.reshape(-1, mines)).sum(axis=1, dtype=np.uint64)


def _bit(layouts: np.ndarray, cell: int) -> np.ndarray:
    return ((layouts >> np.uint64(cell)) & np.uint64(1)).astype(np.int8)


def _around(size: int, cell: int) -> Iterator[int]:
    row, column = divmod(cell, size)
    for i in range(max(row - 1, 0), min(row + 2, size)):
        for j in range(max(column - 1, 0), min(column + 2, size)):
            if (i, j) != (row, column):
                yield i * size + j


def main() -> None:
    """Print the ceilings of the panels named on the command line, or of all panels that have ceilings."""
    print(f"{'panel':<28}{'turns':>6}{'clairvoyant':>13}{'exact probability':>19}")
    for name in sys.argv[1:] or manifest.names():
        if (found := ceilings(panels.load(name))) is not None:
            exact = "" if found.exact_probability is None else f"{found.exact_probability:.1%}"
            print(f"{name:<28}{found.turns:>6}{found.clairvoyant:>13.1%}{exact:>19}", flush=True)


if __name__ == "__main__":
    main()

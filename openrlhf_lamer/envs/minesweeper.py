"""MineSweeper: open every cell that hides no mine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from math import comb
from operator import index
from typing import Any

from openrlhf_lamer.envs.base import SUCCESS_REWARD, EpisodeOverError, Observation, Step, TaskError, TextEnv
from openrlhf_lamer.envs.mistakes import Move, Played
from openrlhf_lamer.envs.seeding import below, choose, generator
from openrlhf_lamer.records import Episode, Stop, Task
from openrlhf_lamer.vocabulary import RewardScheme

CLOSED, BLANK, MINE = "?", ".", "*"
DIGITS = BLANK + "12345678"

ONE_CELL_REWARD = 0.5
CASCADE_REWARD = 2.0
MINE_REWARD = -0.1
NO_EFFECT_REWARD = -1.0

FEW = 8
"""Number of closed cells up to which a person is told all of them."""

_PAIR = r"\s*(-?[0-9]{1,4})\s*,\s*(-?[0-9]{1,4})\s*"
_ACTION = re.compile(rf"\s*(?:\({_PAIR}\)|{_PAIR})\s*")

_NUMBERS = r"([0-9]{1,4})\s*,\s*([0-9]{1,4})"
_CELL = re.compile(
    rf"[(\[]\s*{_NUMBERS}\s*[)\]]|\brow\s*([0-9]{{1,4}})\s*,?\s*(?:and\s+)?col(?:umn)?\.?\s*([0-9]{{1,4}})",
    re.IGNORECASE,
)
_BARE_CELL = re.compile(rf"\s*{_NUMBERS}\s*")


class MineSweeper(TextEnv):
    """Find all safe cells of a square field with hidden mines.

    Description:
        A field of `size` x `size` cells hides `mines` mines. One cell is open at the start; it
        is never a mine, and never wins at once.

    Actions:
        `(row, col)`, counted from 1; the parentheses may be left out. It opens that cell. An open
        or non-existing cell, and anything else, is refused.

    Observation:
        One line per row, `Row 1: ? 1 .`: `?` is closed, `.` open with no mine next to it, `1` to `8` open with that
        many mines around it, `*` the mine that was opened. Opening a blank cell opens its neighbours as well, and
        theirs where they are blank.

    Rewards:
        sparse: 10 for the last safe cell, else 0.
        shaped: 10 for the last safe cell; before, 0.5 for one opened cell and 2 for several at
        once; -0.1 for a mine; -1 for a refused action.

    Termination:
        All safe cells are open (won), or a mine was opened (lost). There is no step limit.

    Options:
        size: Rows and columns, 2 to 20.
        mines: Hidden mines, 1 to size² - 2.
        reward: "sparse" or "shaped".

    A task's spec is `{"size": 6, "mines": [[row, col], ...], "initial": "Row 1: ? ..."}`. It sets
    size and number of mines for this task only; the options hold for tasks with a seed.
    """

    name = "minesweeper"
    legend = "? unopened, . open and no mine around, 1 to 8 mines around, * a mine"
    difficulties = (*({"size": 6, "mines": mines} for mines in (3, 4, 5, 6, 10)), {"size": 10, "mines": 10})

    @classmethod
    def played(cls, episode: Episode) -> Played:
        """Cells that were opened; the mistake is the mine. It stays where it is, so the state does not matter."""
        moves = []
        for turn in episode.turns:
            if turn.valid and turn.did is not None:
                cell = str(*_cells(turn.did))
                moves.append(Move("", cell, cell))
        return Played(tuple(moves), moves[-1] if moves and episode.stop is Stop.LOST else None)

    @classmethod
    def mentions(cls, remark: str, action: str) -> bool:
        """Whether a remark names the action's cell, in any of the ways in which cells are written."""
        cells = _cells(action)
        return bool(cells) and cells <= _cells(remark)

    def __init__(self, size: int = 6, mines: int = 3, reward: RewardScheme = "sparse") -> None:
        super().__init__(reward)
        self.size = self._whole("size", size, 2, 20)
        self.mines = self._whole("mines", mines, 1, size * size - 2)
        self._options = (self.size, self.mines)
        self._over = True
        self._numbers: list[int] = []
        """Mines around each cell, row by row; -1 for a mine."""
        self._shown: list[str] = []
        self._closed_safe = 0
        self._layout = ""

    @property
    def penalises_invalid(self) -> bool:
        """True under the shaped rewards, which include -1 for an action without effect."""
        return self.reward == "shaped"

    @property
    def beginnings(self) -> int:
        """Ways to lay the mines, times cells that may be open; several cells may open the same field."""
        size, mines = self._options
        return comb(size * size, mines) * (size * size - mines)

    def reset(self, task: Task) -> Observation:
        """Begin an episode: a field drawn from the task's seed, or the one its spec describes."""
        self._over = True
        self.size, self.mines = self._options
        self._check_task(task)
        if task.spec is None:
            assert task.seed is not None
            self._generate(task.seed)
        else:
            self._read(task.spec)
        self._over = False
        return Observation(self._text())

    def step(self, action: str) -> Step:
        """Open the cell that `action` names, as in `(5, 4)`."""
        if self._over:
            raise EpisodeOverError("minesweeper: no episode is running; call reset first")
        cell = self._cell(action)
        if cell is None or self._shown[cell] != CLOSED:
            return self._report(NO_EFFECT_REWARD)
        if self._numbers[cell] < 0:
            self._shown[cell] = MINE
            self._over = True
            return self._report(MINE_REWARD, cell)
        opened = self._open(cell)
        if not self._closed_safe:
            self._over = True
            return self._report(SUCCESS_REWARD, cell, won=True)
        return self._report(CASCADE_REWARD if opened > 1 else ONE_CELL_REWARD, cell)

    def anchor(self) -> str:
        """Positions of the mines and open cells, in one string."""
        return f"{self._layout}|{''.join(self._shown)}"

    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        """At worst every action is refused; at best cascades lead to the win."""
        if self.reward == "sparse":
            return 0.0, SUCCESS_REWARD
        return NO_EFFECT_REWARD * max_turns, CASCADE_REWARD * (max_turns - 1) + SUCCESS_REWARD

    def long_states(self) -> tuple[Observation, ...]:
        """A board; all are equally long."""
        return (Observation("\n".join(f"Row {row}: {' '.join('1' * self.size)}" for row in range(1, self.size + 1))),)

    def oracle(self) -> str | None:
        """A safe cell, chosen with knowledge of the mines; blank ones first, which wins in the fewest turns."""
        closed = [] if self._over else [cell for cell, shown in enumerate(self._shown) if shown == CLOSED]
        safe = [cell for cell in closed if self._numbers[cell] >= 0]
        # bool(number) puts blank cells before all others and keeps the order among the rest.
        return self._name(min(safe, key=lambda cell: bool(self._numbers[cell]))) if safe else None

    def why_refused(self, action: str) -> str:
        """The reason (no cell, one outside the board, or an open one), and the closed cells if they are few."""
        cell = self._cell(action)
        if cell is not None:
            reason = f"{self._name(cell)} is open already"
        elif _ACTION.fullmatch(action):
            return f"there is no such cell: rows and columns are 1 to {self.size}"
        else:
            reason = "name one cell by its row and column, such as (2, 3)"
        closed = [self._name(each) for each, shown in enumerate(self._shown) if shown == CLOSED]
        return f"{reason}; unopened: {', '.join(closed)}" if len(closed) <= FEW else reason

    def random_action(self, rng: Any) -> str:
        """Any closed cell."""
        return self._name(choose(rng, [cell for cell, shown in enumerate(self._shown) if shown == CLOSED]))

    def _generate(self, seed: int) -> None:
        rng = generator(self.name, self.size, self.mines, seed)
        cells = self.size * self.size
        while True:
            # The first cells of a shuffle: the mines, then the cell to open.
            order = list(range(cells))
            for i in range(self.mines + 1):
                j = i + below(rng, cells - i)
                order[i], order[j] = order[j], order[i]
            self._lay(order[: self.mines])
            self._open(order[self.mines])
            if self._closed_safe:
                return

    def _read(self, spec: Mapping[str, Any]) -> None:
        if set(spec) != {"size", "mines", "initial"}:
            raise TaskError(f"minesweeper: a spec has the keys size, mines and initial, not {sorted(map(str, spec))}")
        size = self.size = self._whole("spec['size']", spec["size"], 2, 20)
        try:
            mines = {self._index(index(row), index(col)) for row, col in spec["mines"]}
        except (TypeError, ValueError):
            mines = {None}
        if None in mines:
            raise TaskError(f"minesweeper: spec['mines'] lists [row, col] from 1 to {size}; it is {spec['mines']!r}")
        self.mines = self._whole("number of spec['mines']", len(mines), 1, size * size - 2)
        rows = [re.fullmatch(rf"Row {i}: (.*)", line) for i, line in enumerate(str(spec["initial"]).split("\n"), 1)]
        shown = [row[1].split(" ") if row else [] for row in rows]
        if len(shown) != size or any(len(row) != size for row in shown):
            raise TaskError(f"minesweeper: spec['initial'] is not {size} lines 'Row n: ' with {size} cells each")
        self._lay([cell for cell in mines if cell is not None])
        for cell, sign in enumerate(sign for row in shown for sign in row):
            number = self._numbers[cell]
            if sign == CLOSED:
                continue
            if number < 0 or sign != DIGITS[number]:
                truth = "a mine" if number < 0 else repr(DIGITS[number])
                raise TaskError(f"minesweeper: spec['initial'] shows {sign!r} at {self._name(cell)}; there is {truth}")
            self._shown[cell] = sign
            self._closed_safe -= 1
        if not self._closed_safe:
            raise TaskError("minesweeper: spec['initial'] leaves no safe cell to open")

    def _lay(self, mines: list[int]) -> None:
        """Close the whole field and put these mines into it."""
        size = self.size
        around = _neighbours(size)
        numbers = [0] * (size * size)
        for mine in mines:
            for cell in around[mine]:
                numbers[cell] += 1
        for mine in mines:
            numbers[mine] = -1
        self._numbers = numbers
        self._shown = [CLOSED] * (size * size)
        self._closed_safe = size * size - len(mines)
        self._layout = f"{size}:{','.join(map(str, sorted(mines)))}"

    def _open(self, cell: int) -> int:
        """Open a closed safe cell, and the cells that open with it; returns the number of opened cells."""
        numbers, shown, around = self._numbers, self._shown, _neighbours(self.size)
        shown[cell] = DIGITS[numbers[cell]]
        opened = [cell]
        for current in opened:  # grows while it is read
            if numbers[current]:
                continue
            for cell in around[current]:
                if shown[cell] == CLOSED:
                    shown[cell] = DIGITS[numbers[cell]]
                    opened.append(cell)
        self._closed_safe -= len(opened)
        return len(opened)

    def _cell(self, action: str) -> int | None:
        match = _ACTION.fullmatch(action)
        if match is None:
            return None
        row, col = (int(number) for number in match.groups() if number is not None)
        return self._index(row, col)

    def _index(self, row: int, col: int) -> int | None:
        if not (1 <= row <= self.size and 1 <= col <= self.size):
            return None
        return (row - 1) * self.size + col - 1

    def _name(self, cell: int) -> str:
        row, col = divmod(cell, self.size)
        return f"({row + 1}, {col + 1})"

    def _text(self) -> str:
        side, shown = self.size, self._shown
        return "\n".join(f"Row {i + 1}: {' '.join(shown[i * side : (i + 1) * side])}" for i in range(side))

    def _report(self, shaped: float, cell: int | None = None, won: bool = False) -> Step:
        """The answer to opening `cell`; without a cell, the action was refused."""
        reward = shaped if self.reward == "shaped" else SUCCESS_REWARD * won
        opened = None if cell is None else self._name(cell)
        return Step(Observation(self._text()), reward, self._over, False, won, valid=cell is not None, action=opened)


def _cells(text: str) -> set[tuple[int, int]]:
    """Cells that a text names: `(2, 5)`, `[2,5]`, `row 2, column 5`, or nothing but `2, 5`."""
    bare = _BARE_CELL.fullmatch(text)
    found = [bare.groups()] if bare else _CELL.findall(text)
    return {(int(row), int(col)) for row, col in ([part for part in groups if part] for groups in found)}


@lru_cache(maxsize=32)
def _neighbours(size: int) -> tuple[tuple[int, ...], ...]:
    """For each cell of a field, row by row, the cells that touch it."""
    near = [range(max(i - 1, 0), min(i + 2, size)) for i in range(size)]
    return tuple(
        tuple(i * size + j for i in near[row] for j in near[col] if (i, j) != (row, col))
        for row in range(size)
        for col in range(size)
    )

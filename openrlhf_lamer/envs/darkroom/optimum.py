"""The most that any player can win in a dark room within a number of attempts, computed exactly.

Until the goal shows itself, a player learns only that it is in none of the cells in sight so far: until then, a player
is a fixed plan of steps. Once it shows, the best play is known: walk to it, in this attempt or in the next. So every
goal that shows in an attempt with another one after it is won sooner or later. All that counts of such an attempt is
the set of places that still hide, and a set that contains another one is never the better choice. In the last attempt,
the goal has to show itself while enough turns are left.

A set of cells is a whole number with one bit for each cell, row by row.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache

from openrlhf_lamer.envs.darkroom.grid import MOVES, Cell, cells, distance, hiding_places, in_sight, middle, walked


@lru_cache(maxsize=32)
def optimum(size: int, turns: int, attempts: int) -> tuple[float, ...]:
    """Largest probability of success within 1 to `attempts` attempts of `turns` turns each; shape [attempts].

    The best player may be a different one for each number of attempts. The goal is in each hiding place with the same
    probability. It takes seconds in a room of 9x9 with 8 turns, and many times longer with more than 12 turns.
    """
    room = _Room(size, min(turns, size**2))  # these suffice to step on every cell
    hidden = {room.winnable}
    most = [room.most(hidden)]
    while len(most) < attempts and most[-1] < room.winnable.bit_count():
        hidden = room.searched(hidden)
        most.append(room.most(hidden))
    most += most[-1:] * (attempts - len(most))
    return tuple(won / len(hiding_places(size)) for won in most)


class _Room:
    """Dark room of `size` x `size` cells with attempts of `turns` turns."""

    def __init__(self, size: int, turns: int) -> None:
        self.size, self.turns, self.start = size, turns, middle(size)
        self._sight = {cell: self._set(each for each in cells(size) if in_sight(cell, each)) for cell in cells(size)}
        self._next = {
            cell: [to for move in MOVES if (to := walked(cell, move, size)) is not None] for cell in cells(size)
        }
        self._reach = {
            (cell, left): self._set(each for each in cells(size) if distance(cell, each) <= left)
            for cell in cells(size)
            for left in range(turns + 1)
        }
        self.winnable = self._reach[self.start, turns] & self._set(hiding_places(size))

    def most(self, hidden: Iterable[int]) -> int:
        """Most goals that a player can win whose last attempt begins with one of the sets in `hidden`."""
        return max(self.winnable.bit_count() - each.bit_count() + self._last(each) for each in hidden)

    def searched(self, hidden: Iterable[int]) -> set[int]:
        """Smallest sets of places that may still hide after an attempt that begins with one of `hidden`.

        Sets that differ only by rotation or reflection count once.
        """
        at = {self.start: set(hidden)}
        for _ in range(self.turns):
            after: dict[Cell, set[int]] = {}
            for cell, sets in at.items():
                for to in self._next[cell]:
                    after.setdefault(to, set()).update(each & ~self._sight[to] for each in sets)
            at = {cell: _smallest(sets) for cell, sets in after.items()}
        return _smallest({self._normal(each) for sets in at.values() for each in sets})

    def _last(self, hidden: int) -> int:
        """Most goals among `hidden` that one attempt can win."""

        @cache
        def most(cell: Cell, turns: int, hidden: int) -> int:
            possible, found = (hidden & self._reach[cell, turns]).bit_count(), 0
            for to in self._next[cell]:
                if found == possible:
                    break
                shown = hidden & self._sight[to]
                won = (shown & self._reach[to, turns - 1]).bit_count()
                found = max(found, won + most(to, turns - 1, hidden & ~shown))
            return found

        return most(self.start, self.turns, hidden)

    def _normal(self, hidden: int) -> int:
        """One form for all rotations and reflections of `hidden`."""
        there = [cell for cell in cells(self.size) if hidden & self._set([cell])]
        images: list[int] = []
        for _ in range(4):
            there = [(column, self.size + 1 - row) for row, column in there]
            images += [self._set(there), self._set((column, row) for row, column in there)]
        return min(images)

    def _set(self, those: Iterable[Cell]) -> int:
        return sum(1 << ((row - 1) * self.size + column - 1) for row, column in those)


def _smallest(sets: Iterable[int]) -> set[int]:
    """The sets that contain no other one."""
    kept: list[int] = []
    for each in sorted(sets, key=int.bit_count):
        if not any(other & ~each == 0 for other in kept):
            kept.append(each)
    return set(kept)

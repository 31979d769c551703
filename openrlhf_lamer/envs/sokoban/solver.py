"""Whether a Sokoban position still has a solution, and a shortest one.

Both searches go from push to push: `Solver.is_lost` over boxes and the region that the
player can walk in, `Solver.solve` over boxes and the player's square, counting every move.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

from openrlhf_lamer.envs.sokoban.room import Room, bits, shift

Position = tuple[int, int]
"""The boxes, with the player's region or square."""

LOST_BUDGET = 5_000
"""Positions after which `is_lost` gives up; rooms of 6x6 never come near it."""
SOLVE_BUDGET = 20_000
"""Positions after which `solve` gives up on a shortest solution."""
GREEDY_WEIGHT = 5
"""Weight of the boxes' distances over the moves made, once any solution will do."""


class _OutOfBudget(Exception):
    """A search reached its limit of positions; any solution has at least `bound` moves."""

    def __init__(self, bound: int) -> None:
        super().__init__(bound)
        self.bound = bound


class Solver:
    """Searches in one room, with a memory of decided positions.

    A verdict of `is_lost` does not depend on earlier calls: every position that can be reached from
    a position of an exhausted search was part of that search.
    """

    def __init__(self, room: Room) -> None:
        self.room = room
        self._lost: set[Position] = set()
        self._not_lost: set[Position] = set()

    def is_lost(self, boxes: int, player: int, budget: int = LOST_BUDGET) -> bool:
        """Whether no solution is left; False also where `budget` positions do not decide it."""
        room = self.room
        if boxes & ~room.live or self._starved(boxes):
            return True
        start = (boxes, room.reachable(boxes, player))
        if start in self._not_lost:
            return False
        if start in self._lost:
            return True
        parents: dict[Position, Position | None] = {start: None}
        distance = room.distance
        # Best first: the position whose boxes are nearest to targets; of equals the latest.
        heap = [(sum(distance[box] for box in bits(boxes)), 0, start)]
        while heap:
            far, _, position = heappop(heap)
            if not far or position in self._not_lost:
                break
            if len(parents) > budget:
                position = start
                break
            boxes, region = position
            for moved, box, by in self._pushes(boxes, region):
                reached = (moved, room.reachable(moved, box))
                if reached not in parents:
                    parents[reached] = position
                    heappush(heap, (far - distance[box] + distance[shift(box, by)], -len(parents), reached))
        else:
            self._lost.update(parents)
            return True
        while position is not None:
            self._not_lost.add(position)
            position = parents[position]
        return False

    def solve(self, boxes: int, player: int, limit: int | None = None) -> list[str] | None:
        """Moves of a shortest solution, or of a longer one where a shortest takes too long to find.

        Returns None where there is no solution (of at most `limit` moves), or none was found.
        """
        if boxes & ~self.room.live or self._starved(boxes):
            return None
        try:
            return self._search(boxes, player, 1, limit)
        except _OutOfBudget:
            if limit is not None:
                return None
        try:
            return self._search(boxes, player, GREEDY_WEIGHT, None)
        except _OutOfBudget:
            return None

    def least_moves(self, boxes: int, player: int) -> int:
        """Fewest moves that solve a position that has a solution.

        Where a shortest solution takes too long to find, it is a lower bound.
        """
        try:
            solution = self._search(boxes, player, 1, None)
        except _OutOfBudget as stopped:
            return stopped.bound
        assert solution is not None, "the position has a solution"
        return len(solution)

    def _search(self, boxes: int, player: int, weight: int, limit: int | None) -> list[str] | None:
        """A* over pushes; its heuristic is `weight` times the sum of the boxes' distances."""
        room, distance = self.room, self.room.distance
        start = (boxes, player)
        cost: dict[Position, int] = {start: 0}
        parents: dict[Position, tuple[Position, int]] = {}
        far = sum(distance[box] for box in bits(boxes))
        # (lower bound of a solution through here, of its remaining moves, moves made, position)
        heap = [(weight * far, far, 0, start)]
        while heap:
            bound, far, made, position = heappop(heap)
            if limit is not None and bound > limit:
                return None
            if not far:
                return self._moves(parents, position)
            if made > cost[position]:
                continue
            if len(cost) > SOLVE_BUDGET:
                raise _OutOfBudget(bound)
            boxes, player = position
            free = room.floor & ~boxes
            layer = seen = player
            while layer:
                made += 1
                for moved, box, by in self._pushes(boxes, layer):
                    reached = (moved, box)
                    if made < cost.get(reached, made + 1):
                        cost[reached] = made
                        parents[reached] = (position, by)
                        left = far - distance[box] + distance[shift(box, by)]
                        heappush(heap, (made + weight * left, left, made, reached))
                layer = room.around(layer) & free & ~seen
                seen |= layer
        return None

    def _moves(self, parents: dict[Position, tuple[Position, int]], position: Position) -> list[str]:
        """The walks and pushes that led to `position`, as words."""
        squares = [position[1]]
        while position in parents:
            (boxes, player), by = parents[position]
            walk = self.room.walk(boxes, player, shift(position[1], -by))
            squares = [player, *walk, *squares]
            position = (boxes, player)
        return self.room.words(squares)

    def _pushes(self, boxes: int, stands: int) -> Iterator[tuple[int, int, int]]:
        """Pushes by a player on one of the squares `stands`, without those that are evidently fatal.

        Yields the boxes after the push, the pushed box's old square (where the player then is), and the
        direction as a number of bits.
        """
        open_squares = self.room.live & ~boxes
        for by in self.room.steps:
            for box in bits(boxes & shift(stands, by) & shift(open_squares, -by)):
                to = shift(box, by)
                moved = boxes ^ box ^ to
                if not (self._stuck(moved, to) or self._starved(moved)):
                    yield moved, box, by

    def _stuck(self, boxes: int, box: int) -> bool:
        """Whether `box` is in a 2x2 block of walls and boxes, which never moves again, off the targets."""
        room = self.room
        width, empty = room.width, room.floor & ~boxes
        block = 3 | 3 << width
        for corner in (box, box >> 1, box >> width, box >> width + 1):
            squares = corner * block
            if not squares & empty and boxes & squares & ~room.targets:
                return True
        return False

    def _starved(self, boxes: int) -> bool:
        """Whether some targets are left with too few boxes that could reach them."""
        return any((boxes & squares).bit_count() < needed for squares, needed in self.room.needs)

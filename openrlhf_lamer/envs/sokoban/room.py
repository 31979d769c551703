"""A Sokoban room as integers: the square in row r, column c is the bit r * width + c.

Sets of squares are then single integers, moving a whole set by one square is a shift,
and the wall around a room keeps shifted bits from wrapping into the next row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, reduce
from itertools import combinations, pairwise
from operator import or_

WALL, FLOOR, TARGET, BOX, BOX_ON_TARGET, PLAYER, PLAYER_ON_TARGET = "#_OX√PS"

MOVES = ("up", "down", "left", "right")


def shift(squares: int, by: int) -> int:
    """All squares moved by `by` bits."""
    return squares << by if by > 0 else squares >> -by


def bits(squares: int) -> Iterator[int]:
    """The squares of a set, one at a time."""
    while squares:
        yield squares & -squares
        squares &= squares - 1


def union(sets: Iterable[int]) -> int:
    """The squares that are in any of `sets`."""
    return reduce(or_, sets, 0)


class Room:
    """Walls and targets of a level, which no move changes, and facts that follow from them.

    Attributes:
        width: Columns, walls included.
        floor: The squares that are not walls, targets included. None is on the rim.
        targets: Where boxes belong.
        steps: Bits by which each of `MOVES` shifts a square.
    """

    def __init__(self, width: int, height: int, floor: int, targets: int) -> None:
        self.width = width
        self.height = height
        self.floor = floor
        self.targets = targets
        self.steps = (-width, width, -1, 1)

    def around(self, squares: int) -> int:
        """All squares next to one of `squares`: also walls, and squares of the set that touch another one."""
        width = self.width
        return squares << 1 | squares >> 1 | squares << width | squares >> width

    def reachable(self, boxes: int, player: int) -> int:
        """Where the player can walk without a push."""
        free, width = self.floor & ~boxes, self.width
        region = player
        while True:
            grown = (region | region << 1 | region >> 1 | region << width | region >> width) & free
            if grown == region:
                return region
            region = grown

    def apart(self, one: int, other: int) -> int:
        """Rows and columns between two squares, walls or not."""
        (row, column), (to_row, to_column) = (divmod(at.bit_length() - 1, self.width) for at in (one, other))
        return abs(row - to_row) + abs(column - to_column)

    def walk(self, boxes: int, player: int, goal: int) -> list[int]:
        """Squares of a shortest walk from `player` to `goal`, the first left out; there must be one."""
        free = self.floor & ~boxes
        seen, layers = player, [player]
        while not seen & goal:
            layers.append(self.around(layers[-1]) & free & ~seen)
            seen |= layers[-1]
        path = [goal]
        for layer in layers[-2::-1]:
            path.append(next(bits(self.around(path[-1]) & layer)))
        return path[-2::-1]

    def words(self, path: Sequence[int]) -> list[str]:
        """The moves that lead from square to square."""
        names = dict(zip(self.steps, MOVES, strict=True))
        return [names[to.bit_length() - at.bit_length()] for at, to in pairwise(path)]

    @cached_property
    def _pulls(self) -> dict[int, list[int]]:
        """For each target, the squares from which a single box reaches it in 0, 1, 2, ... pushes."""
        layers: dict[int, list[int]] = {}
        for target in bits(self.targets):
            seen = layer = target
            layers[target] = []
            while layer:
                layers[target].append(layer)
                # A box is pulled one square back where the player then has room behind it.
                layer = union(shift(layer, by) & self.floor & shift(self.floor, -by) for by in self.steps) & ~seen
                seen |= layer
        return layers

    @cached_property
    def distance(self) -> dict[int, int]:
        """For each square from which a box can reach a target, the least number of pushes."""
        distance: dict[int, int] = {}
        for layers in self._pulls.values():
            for pushes, layer in enumerate(layers):
                for square in bits(layer):
                    distance[square] = min(pushes, distance.get(square, pushes))
        return distance

    @cached_property
    def live(self) -> int:
        """The squares from which a box can reach some target; a box anywhere else is lost."""
        return union(self.distance)

    @cached_property
    def needs(self) -> list[tuple[int, int]]:
        """Pairs (squares, n): at least n boxes must stand on these squares, or some targets stay empty.

        It is Hall's condition for matching each target with a different box that can reach it. Pairs that
        always hold while boxes are on live squares are left out; often, none remain.
        """
        origins = [union(layers) for layers in self._pulls.values()]
        groups = (group for n in range(1, len(origins) + 1) for group in combinations(origins, n))
        return [(squares, len(group)) for group in groups if (squares := union(group)) != self.live]

    def text(self, boxes: int, player: int) -> str:
        """The board, each row with its number in front."""
        cells = self._empty.copy()
        for box in bits(boxes):
            cells[box.bit_length() - 1] = BOX_ON_TARGET if box & self.targets else BOX
        cells[player.bit_length() - 1] = PLAYER_ON_TARGET if player & self.targets else PLAYER
        width = self.width
        return "\n".join(f"{i}: {' '.join(cells[i * width : (i + 1) * width])}" for i in range(self.height))

    @cached_property
    def _empty(self) -> list[str]:
        squares = (1 << i for i in range(self.width * self.height))
        return [TARGET if at & self.targets else FLOOR if at & self.floor else WALL for at in squares]


def parse(text: str) -> tuple[Room, int, int]:
    """Read a board in the form of `Room.text`: the room, the boxes, the player.

    Raises:
        ValueError: The text is not a closed room with one player and equal numbers of boxes and targets.
    """
    rows: list[list[str]] = []
    for number, line in enumerate(text.split("\n")):
        label, _, cells = line.partition(": ")
        if label != str(number):
            raise ValueError(f"line {number} begins with {label!r}, not with '{number}: '")
        rows.append(cells.split(" "))
    width, height = len(rows[0]), len(rows)
    at: dict[str, int] = dict.fromkeys((WALL, FLOOR, TARGET, BOX, BOX_ON_TARGET, PLAYER, PLAYER_ON_TARGET), 0)
    for r, row in enumerate(rows):
        if len(row) != width:
            raise ValueError(f"row {r} has {len(row)} squares, row 0 has {width}")
        for c, sign in enumerate(row):
            if sign not in at:
                raise ValueError(f"unknown square {sign!r} in row {r}, column {c}; squares are {' '.join(at)}")
            if sign != WALL and (r in (0, height - 1) or c in (0, width - 1)):
                raise ValueError(f"the room is open in row {r}, column {c}: {sign!r} on the rim")
            at[sign] |= 1 << r * width + c
    boxes, player = at[BOX] | at[BOX_ON_TARGET], at[PLAYER] | at[PLAYER_ON_TARGET]
    targets = at[TARGET] | at[BOX_ON_TARGET] | at[PLAYER_ON_TARGET]
    if player.bit_count() != 1:
        raise ValueError(f"there are {player.bit_count()} players")
    if boxes.bit_count() != targets.bit_count():
        raise ValueError(f"there are {boxes.bit_count()} boxes and {targets.bit_count()} targets")
    return Room(width, height, at[FLOOR] | targets | boxes | player, targets), boxes, player

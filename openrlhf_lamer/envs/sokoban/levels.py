"""Sokoban levels from seeds: a random walk digs the room, then the boxes are pulled off their targets.

Playing backwards from the solved position gives a level together with a solution, so every level
can be solved in at most `LONGEST` moves. A search checks that it needs at least the number of moves
that was asked for, `SHORTEST` or more.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from openrlhf_lamer.envs.seeding import below, choose, generator
from openrlhf_lamer.envs.sokoban.room import Room, bits, shift, union
from openrlhf_lamer.envs.sokoban.solver import Solver

SHORTEST, LONGEST = 5, 21
"""Bounds of a shortest solution's length, in moves."""

NEARBY = 14
"""Approximate number of squares around one target to draw targets from: farther ones take too many moves."""
OUTWARD = 0.9
"""How often a box is pulled away from the targets where one can be."""

PROBES = 10
"""Backward plays after which a room is given up if its boxes never came apart; mostly, they cannot."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Parameters of levels with a given number of boxes.

    Attributes:
        floor: Least and most share of a room's inner squares that become floor; 1 and above is all of them.
        asked: Least moves of a shortest solution; drawn for each level, lowered where it is not met.
        played: Least moves for which boxes are pulled; up to `LONGEST`.
        plays: Backward plays in a room, of which the most tangled is kept.
        tries: Attempts at that before another room is dug.
    """

    floor: tuple[float, float]
    asked: range
    played: int
    plays: int
    tries: int


RECIPES = {
    2: Recipe(floor=(0.6, 0.9), asked=range(5, 13), played=6, plays=1, tries=8),
    3: Recipe(floor=(0.7, 0.95), asked=range(7, 15), played=15, plays=3, tries=4),
    4: Recipe(floor=(0.75, 1.05), asked=range(12, 19), played=18, plays=24, tries=2),
    5: Recipe(floor=(0.9, 1.05), asked=range(16, 22), played=LONGEST, plays=40, tries=2),
}
"""By number of boxes: with more boxes, rooms are more open, and solutions longer and more tangled."""


@dataclass(frozen=True, slots=True)
class Level:
    """A room, where its boxes and player start, and a solution where one is known."""

    room: Room
    boxes: int
    player: int
    solution: tuple[str, ...] = ()


def generate(size: int, boxes: int, seed: int) -> Level:
    """The level of `size` x `size` squares, walls included, that belongs to `seed`; a pure function.

    No box begins on a target.
    """
    rng = generator("sokoban", size, boxes, seed)
    recipe = RECIPES[boxes]
    asked = recipe.asked[below(rng, len(recipe.asked))]
    while True:
        room = _room(rng, size, boxes)
        for _ in range(recipe.tries):
            best = _most_tangled(rng, room, recipe)
            if best is None:
                continue
            path = _stroll(rng, room, best)
            if len(path) > asked and Solver(room).solve(best.boxes, path[-1], limit=asked - 1) is None:
                return Level(room, best.boxes, path[-1], tuple(room.words(path[::-1])))
            asked = max(asked - 1, SHORTEST)


def _room(rng: random.Random, size: int, boxes: int) -> Room:
    """A room with targets near to each other, each on a square that a box can be pulled off."""
    while True:
        floor = _dig(rng, size, boxes)
        room = Room(size, size, floor, 0)
        leaving = union(floor & shift(floor, by) & shift(floor, 2 * by) for by in room.steps)
        near = choose(rng, list(bits(floor)))
        while near.bit_count() < min(NEARBY, floor.bit_count()):
            near |= room.around(near) & floor
        squares = list(bits(near & leaving))
        if len(squares) < boxes:
            continue
        room = Room(size, size, floor, union(squares.pop(below(rng, len(squares))) for _ in range(boxes)))
        # Two boxes hardly ever block each other; their levels were frozen before this check existed.
        if boxes == 2 or _can_leave(room):
            return room


def _can_leave(room: Room) -> bool:
    """Whether the boxes can leave their targets in some order, if each box that left disappeared."""
    boxes = room.targets
    while boxes:
        free = room.floor & ~boxes
        loose = boxes & union(shift(free, -by) & shift(free, -2 * by) for by in room.steps)
        if not loose:
            return False
        boxes ^= loose
    return True


def _dig(rng: random.Random, size: int, boxes: int) -> int:
    """Floor dug by a random walk."""
    inner = size - 2
    least, most = RECIPES[boxes].floor
    share = least + (most - least) * rng.random()
    wanted = min(max(int(inner * inner * share), 2 * boxes + 3 + below(rng, 3)), inner * inner)
    row, col = below(rng, inner), below(rng, inner)
    floor = 1 << (row + 1) * size + col + 1
    while floor.bit_count() < wanted:
        along, by = divmod(below(rng, 4), 2)
        if along:
            row = min(max(row + 2 * by - 1, 0), inner - 1)
        else:
            col = min(max(col + 2 * by - 1, 0), inner - 1)
        floor |= 1 << (row + 1) * size + col + 1
    return floor


@dataclass(frozen=True, slots=True)
class _Play:
    """A backward play: the boxes at its end, the player's squares in the order visited, and its tangle.

    The tangle is the number of changes to another box, times the distance of the boxes from where they
    began. A level with much of both is not solved by pushing each box to the nearest target.
    """

    boxes: int
    path: list[int]
    tangle: int


def _pull_apart(rng: random.Random, room: Room, played: int) -> _Play | None:
    """Play backwards from the solved position, for a drawn number of moves from `played` to `LONGEST`.

    The play ends at the last moment at which no box is on a target; None where there was none.
    """
    boxes, distance = room.targets, room.distance
    path = [choose(rng, list(bits(room.floor & ~boxes)))]
    budget = played + below(rng, LONGEST - played + 1)
    origin = {box: box for box in bits(boxes)}
    win, changes, pulled, last = 0, 0, 0, None
    while pulls := _pulls(room, boxes, path[-1], budget - len(path) + 1):
        if rng.random() < OUTWARD:
            outward = [(box, by) for box, by in pulls if distance[shift(box, by)] > distance[box]]
            pulls = [(box, by) for box, by in outward if box & room.targets] or outward or pulls
        box, by = choose(rng, pulls)
        stand = shift(box, by)
        path += room.walk(boxes, path[-1], stand)
        if boxes == room.targets:  # what was played so far comes after the win
            win, changes = len(path) - 1, 0
        path.append(shift(stand, by))
        boxes ^= box | stand
        origin[stand] = origin.pop(box)
        changes += box != pulled
        pulled = stand
        if not boxes & room.targets:
            last = boxes, path[win:], changes * sum(room.apart(*pair) for pair in origin.items())
    return _Play(*last) if last else None


def _most_tangled(rng: random.Random, room: Room, recipe: Recipe) -> _Play | None:
    """The most tangled of the recipe's plays; None if the boxes come apart in none of the first `PROBES`."""
    best = None
    for number in range(recipe.plays):
        if best is None and number == PROBES:
            return None
        play = _pull_apart(rng, room, recipe.played)
        if play is not None and (best is None or play.tangle > best.tangle):
            best = play
    return best


def _stroll(rng: random.Random, room: Room, play: _Play) -> list[int]:
    """The play's path and a walk after it, `LONGEST` moves at most: the player need not begin beside a box."""
    path = play.path
    near, free = path[-1], room.floor & ~play.boxes
    for _ in range(LONGEST + 1 - len(path)):
        near = (near | room.around(near)) & free
    return [*path, *room.walk(play.boxes, path[-1], choose(rng, list(bits(near))))]


def _pulls(room: Room, boxes: int, player: int, budget: int) -> list[tuple[int, int]]:
    """Pulls that end within `budget` moves, the walk to the box included: the box and the direction."""
    free = room.floor & ~boxes
    stands = [(by, squares) for by in room.steps if (squares := free & shift(free, -by) & shift(boxes, by))]
    left = union(squares for _, squares in stands)
    pulls = []
    layer = seen = player
    while left and layer and budget > 0:
        if left & layer:
            for by, squares in stands:
                pulls += [(shift(stand, -by), by) for stand in bits(layer & squares)]
            left &= ~layer
        layer = room.around(layer) & free & ~seen
        seen |= layer
        budget -= 1
    return pulls

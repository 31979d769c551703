"""Sokoban levels from seeds: a random walk digs the room, then the boxes are pulled off their targets.

Playing backwards from the solved position gives a solution along with the level, so that
every level can be solved in at most `LONGEST` moves; that it needs at least `SHORTEST` is
checked by a search.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from openrlhf_lamer.envs.seeding import below, choose, generator
from openrlhf_lamer.envs.sokoban_room import Room, bits, shift, union
from openrlhf_lamer.envs.sokoban_solver import Solver

SHORTEST, LONGEST = 5, 21
"""Bounds of a shortest solution's length, in moves."""

AMBITION = 8
"""The length asked for is drawn from so many, `SHORTEST` and up: most levels would be short otherwise."""
LEAST_FLOOR, MOST_FLOOR = 0.6, 0.9
"""Share of a room's inner squares that become floor; many boxes get more."""
NEARBY = 14
"""Targets are drawn from about so many squares around one: else large rooms need too many moves."""
OUTWARD = 0.9
"""How often a box is pulled away from the targets where one can be."""
TRIES = 8
"""Attempts to pull the boxes apart before another room is dug."""


@dataclass(frozen=True, slots=True)
class Level:
    """A room, where its boxes and player start, and a solution where one is known."""

    room: Room
    boxes: int
    player: int
    solution: tuple[str, ...] = ()


def generate(size: int, boxes: int, seed: int) -> Level:
    """The level of `size` x `size` squares, walls included, that belongs to `seed`; a pure function.

    No box begins on a target; of four or more, one may.
    """
    rng = generator("sokoban", size, boxes, seed)
    asked = SHORTEST + below(rng, AMBITION)
    while True:
        room = _room(rng, size, boxes)
        for _ in range(TRIES):
            pulled = _pull_apart(rng, room)
            if pulled is None:
                continue
            start, path = pulled
            if Solver(room).solve(start, path[-1], limit=asked - 1) is None:
                return Level(room, start, path[-1], tuple(room.words(path[::-1])))
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
        if len(squares) >= boxes:
            return Room(size, size, floor, union(squares.pop(below(rng, len(squares))) for _ in range(boxes)))


def _dig(rng: random.Random, size: int, boxes: int) -> int:
    """Floor dug by a random walk."""
    inner = size - 2
    share = LEAST_FLOOR + (MOST_FLOOR - LEAST_FLOOR) * rng.random()
    wanted = max(int(inner * inner * share), 2 * boxes + 3 + below(rng, 3))
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


def _pull_apart(rng: random.Random, room: Room) -> tuple[int, list[int]] | None:
    """Play backwards from the solved position, for a drawn number of moves up to `LONGEST`.

    Returns the boxes, off the targets, and the player's squares in the order visited; None where
    there was no moment at which the boxes were off.
    """
    boxes, distance = room.targets, room.distance
    path = [choose(rng, list(bits(room.floor & ~boxes)))]
    # All off at once is so rare with many boxes that the same few levels would come again and again.
    stay = 1 if boxes.bit_count() > 3 else 0
    least = min(3 * boxes.bit_count(), LONGEST)
    budget = least + below(rng, LONGEST - least + 1)
    win, last = 0, None
    while pulls := list(_pulls(room, boxes, path[-1], budget - len(path) + 1)):
        if rng.random() < OUTWARD:
            outward = [(box, by) for box, by in pulls if distance[shift(box, by)] > distance[box]]
            pulls = [(box, by) for box, by in outward if box & room.targets] or outward or pulls
        box, by = choose(rng, pulls)
        stand = shift(box, by)
        path += room.walk(boxes, path[-1], stand)
        if boxes == room.targets:  # what was played so far comes after the win
            win = len(path) - 1
        path.append(shift(stand, by))
        boxes ^= box | shift(box, by)
        if (boxes & room.targets).bit_count() <= stay:
            last = boxes, path[win:]
    if last is None:
        return None
    boxes, path = last
    # The player need not begin beside a box.
    near, free = path[-1], room.floor & ~boxes
    for _ in range(LONGEST + 1 - len(path)):
        near = (near | room.around(near)) & free
    return boxes, [*path, *room.walk(boxes, path[-1], choose(rng, list(bits(near))))]


def _pulls(room: Room, boxes: int, player: int, budget: int) -> Iterator[tuple[int, int]]:
    """Pulls that end within `budget` moves, the walk to the box included: the box and the direction."""
    free = room.floor & ~boxes
    layer = seen = player
    while layer and budget > 0:
        for by in room.steps:
            for box in bits(boxes & shift(layer & shift(free, -by), -by)):
                yield box, by
        layer = room.around(layer) & free & ~seen
        seen |= layer
        budget -= 1

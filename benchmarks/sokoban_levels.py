"""Difficulty of Sokoban's levels by the number of boxes.

    python benchmarks/sokoban_levels.py [--levels N]

A row for each number of boxes, and one with the figures recorded from the paper's generator (6x6, 200 levels), which
is not run. The random player makes 21 random moves; the greedy one, within 21 moves, always makes the nearest push
that brings the boxes nearest to the targets (least sum of Manhattan distances, with a target for each box).
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from statistics import fmean, median, quantiles

from openrlhf_lamer.envs.sokoban.levels import LONGEST, Level, generate
from openrlhf_lamer.envs.sokoban.room import Room, bits, shift
from openrlhf_lamer.envs.sokoban.solver import Solver

EPISODES = 50
"""Random episodes on each level."""


@dataclass(frozen=True)
class Difficulty:
    """Figures of a set of levels."""

    walls: float
    """Share of the inner squares that are walls."""
    moves: tuple[float, float, float]
    """Median, 5th and 95th percentile of the moves of a shortest solution."""
    on_target: float
    """Share of levels in which a box begins on a target."""
    random: float
    """Share of random episodes that win."""
    greedy: float
    """Share of levels that the greedy player wins."""

    def cells(self) -> Iterator[str]:
        """The figures as text."""
        middle, low, high = self.moves
        yield from (f"{self.walls:.2f}", f"{middle:g} ({low:.0f}-{high:.0f})", f"{self.on_target:.0%}")
        yield from (f"{self.random:.1%}", f"{self.greedy:.0%}")


PAPER = {
    2: Difficulty(0.23, (9, 5, 17), 0.0, 0.027, 0.70),
    3: Difficulty(0.17, (11, 6, 22), 0.0, 0.014, 0.64),
    4: Difficulty(0.10, (14, 6, 25), 0.0, 0.007, 0.47),
    5: Difficulty(0.03, (17, 9, 26), 0.0, 0.001, 0.32),
}
"""Recorded from the paper's generator, by the number of boxes: 200 levels each of 6x6."""


def moved(room: Room, boxes: int, player: int, by: int) -> tuple[int, int]:
    """The position after a move; unchanged if the move does nothing."""
    to, beyond = shift(player, by), shift(player, 2 * by)
    if not to & room.floor or (to & boxes and not beyond & room.floor & ~boxes):
        return boxes, player
    return (boxes ^ to ^ beyond if to & boxes else boxes), to


def shortest(level: Level) -> int:
    """Moves of a shortest solution."""
    return Solver(level.room).least_moves(level.boxes, level.player)


def wins_at_random(level: Level, rng: random.Random) -> bool:
    """Whether 21 random moves win; a move that does nothing counts."""
    boxes, player = level.boxes, level.player
    for _ in range(LONGEST):
        boxes, player = moved(level.room, boxes, player, rng.choice(level.room.steps))
        if boxes == level.room.targets:
            return True
    return False


def wins_greedily(level: Level, rng: random.Random) -> bool:
    """Whether the greedy player wins within 21 moves; ties of pushes and of walks are drawn."""
    room, boxes, player, made = level.room, level.boxes, level.player, 0
    while boxes != room.targets:
        pushes = [(away(room, after), walk, after, at) for walk, after, at in all_pushes(room, boxes, player)]
        if not pushes:
            return False
        least = min(push[:2] for push in pushes)
        _, walk, boxes, player = rng.choice([push for push in pushes if push[:2] == least])
        made += walk
        if made > LONGEST:
            return False
    return True


def all_pushes(room: Room, boxes: int, player: int) -> Iterator[tuple[int, int, int]]:
    """Each push that can be made from here: the moves it takes, and the boxes and the player after it."""
    walked, layer, moves = {player}, [player], 1
    while layer:
        reached = []
        for at in layer:
            for after, to in (moved(room, boxes, at, by) for by in room.steps):
                if after != boxes:
                    yield moves, after, to
                elif to not in walked:
                    walked.add(to)
                    reached.append(to)
        layer, moves = reached, moves + 1


def away(room: Room, boxes: int) -> int:
    """Least sum of Manhattan distances between each box and a separate target."""
    return min(sum(map(room.apart, bits(boxes), order)) for order in permutations(bits(room.targets)))


def difficulty(size: int, boxes: int, levels: int) -> Difficulty:
    """The figures of the levels with the first `levels` seeds."""
    rng = random.Random(0)
    made = [generate(size, boxes, seed) for seed in range(levels)]
    cuts = quantiles(moves := [shortest(level) for level in made], n=20)
    return Difficulty(
        walls=1 - fmean(level.room.floor.bit_count() for level in made) / (size - 2) ** 2,
        moves=(median(moves), cuts[0], cuts[-1]),
        on_target=fmean(bool(level.boxes & level.room.targets) for level in made),
        random=fmean(wins_at_random(level, rng) for level in made for _ in range(EPISODES)),
        greedy=fmean(wins_greedily(level, rng) for level in made),
    )


def main() -> None:
    """Measure and print a table."""
    from common import grid, show

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--levels", type=int, default=200, help="levels of each number of boxes, 2 or more")
    levels = parser.parse_args().levels
    headings = ("boxes", "generator", "walls", "moves (5-95%)", "on target", "random", "greedy")
    table = grid(f"Sokoban 6x6, {levels} levels each; paper's: recorded, 6x6", *headings, left=("generator",))
    for boxes, recorded in PAPER.items():
        table.add_section()
        table.add_row(str(boxes), "ours", *difficulty(6, boxes, levels).cells())
        table.add_row("", "paper's", *recorded.cells())
    show(table)


if __name__ == "__main__":
    main()

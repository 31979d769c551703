"""Cells of a square room: steps between them, and sight."""

from __future__ import annotations

Cell = tuple[int, int]
"""Row and column, both from 1."""

MOVES: dict[str, Cell] = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
"""Change of row and column of each step."""


def cells(size: int) -> list[Cell]:
    """All cells of a room of `size` x `size`, row by row."""
    return [(row, column) for row in range(1, size + 1) for column in range(1, size + 1)]


def middle(size: int) -> Cell:
    """Middle cell of a room, for an odd `size`."""
    return (size // 2 + 1, size // 2 + 1)


def walked(cell: Cell, move: str, size: int) -> Cell | None:
    """Cell after a step, or None where a wall is in the way."""
    row, column = cell[0] + MOVES[move][0], cell[1] + MOVES[move][1]
    return (row, column) if 1 <= row <= size and 1 <= column <= size else None


def in_sight(one: Cell, other: Cell) -> bool:
    """Whether a player in one cell sees the other: it is the same, or one of the 8 around it."""
    return max(abs(one[0] - other[0]), abs(one[1] - other[1])) <= 1


def distance(one: Cell, other: Cell) -> int:
    """Steps from one cell to the other."""
    return abs(one[0] - other[0]) + abs(one[1] - other[1])


def hiding_places(size: int) -> list[Cell]:
    """Cells that are not in sight from the middle."""
    return [cell for cell in cells(size) if not in_sight(cell, middle(size))]

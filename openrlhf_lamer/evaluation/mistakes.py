"""What went wrong in a lost episode, by environment: the move to blame, and whether a remark names it.

An environment's `Reading` tells both. For MineSweeper the mistake is the cell of the mine that was hit, for
Sokoban the first move after which no solution is left, in the state it was made in. Elsewhere, where no
single move is to blame, it is the whole sequence of actions: repeating that cannot turn out otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from openrlhf_lamer.envs.base import TaskError
from openrlhf_lamer.records import Episode, Stop, Task


@dataclass(frozen=True, slots=True)
class Move:
    """The smallest part of an episode that can be a mistake.

    Attributes:
        state: Where it was made; empty where that does not matter to whether it is a mistake.
        action: What was done.
        words: The action a remark has to name in order to name this move.
    """

    state: str
    action: str
    words: str

    def same(self, other: Move) -> bool:
        """Whether both do the same in the same state."""
        return (self.state, self.action) == (other.state, other.action)


@dataclass(frozen=True, slots=True)
class Played:
    """An episode as moves, and which of them was the mistake; None where it was won, or nobody can tell."""

    moves: tuple[Move, ...]
    mistake: Move | None


@dataclass(frozen=True, slots=True)
class Reading:
    """How episodes and remarks of an environment are read.

    Attributes:
        played: The moves of an episode and its mistake.
        names: Whether a remark names an action, given the remark and the content of an action tag.
    """

    played: Callable[[Episode], Played]
    names: Callable[[str, str], bool]


_PAIR = r"([0-9]{1,4})\s*,\s*([0-9]{1,4})"
_CELL = re.compile(
    rf"[(\[]\s*{_PAIR}\s*[)\]]|\brow\s*([0-9]{{1,4}})\s*,?\s*(?:and\s+)?col(?:umn)?\.?\s*([0-9]{{1,4}})", re.IGNORECASE
)
_BARE_CELL = re.compile(rf"\s*{_PAIR}\s*")
_DIRECTION = re.compile(r"\b(up|down|left|right)(?:wards?)?\b", re.IGNORECASE)
_BRACKETS = re.compile(r"\w+\[(.*)\]")


def reading(env: str) -> Reading:
    """How to read the environment `env`; one that `READINGS` does not list is read by its actions' text."""
    return READINGS.get(env, _BY_TEXT)


def _cells(text: str) -> set[tuple[int, int]]:
    """The cells that a text names: `(2, 5)`, `[2,5]`, `row 2, column 5`, or nothing but `2, 5`."""
    bare = _BARE_CELL.fullmatch(text)
    found = [bare.groups()] if bare else _CELL.findall(text)
    return {(int(row), int(col)) for row, col in ([part for part in groups if part] for groups in found)}


def _played_minesweeper(episode: Episode) -> Played:
    """Mines stay where they are, so a cell is as bad a choice in every state."""
    moves = []
    for turn in episode.turns:
        if turn.valid and turn.did is not None:
            cell = str(*_cells(turn.did))
            moves.append(Move("", cell, cell))
    return Played(tuple(moves), moves[-1] if moves and episode.stop is Stop.LOST else None)


def _names_cell(remark: str, action: str) -> bool:
    cells = _cells(action)
    return bool(cells) and cells <= _cells(remark)


def _played_sokoban(episode: Episode) -> Played:
    """The moves one by one, replayed from the board that the first turn was shown."""
    from openrlhf_lamer.envs.sokoban.env import Sokoban

    env = Sokoban(max_moves=1000, moves_per_turn=1)
    try:
        env.reset(Task("sokoban", spec={"board": episode.turns[0].observation}))
    except TaskError:
        return Played((), None)
    moves: list[Move] = []
    for turn in episode.turns:
        words = [word.strip().lower() for word in (turn.did or "").split(",")] if turn.valid else []
        for made, word in enumerate(words, 1):
            state, step = env.anchor(), env.step(word)
            if not step.valid:  # of an action too long to be kept, the rest is not known
                return Played(tuple(moves), None)
            moves.append(Move(state, word, ", ".join(words[:made])))
            if step.terminated:
                return Played(tuple(moves), None if step.won else moves[-1])
    return Played(tuple(moves), None)


def _names_moves(remark: str, action: str) -> bool:
    """Whether the directions of the action stand in the remark one after the other, other words between them."""
    wanted = _directions(action)
    said = _directions(remark)
    return bool(wanted) and any(said[i : i + len(wanted)] == wanted for i in range(len(said)))


def _directions(text: str) -> list[str]:
    return [word.lower() for word in _DIRECTION.findall(text)]


def _played_by_text(episode: Episode) -> Played:
    """All actions as one move, named by the last of them."""
    actions = [_plain(turn.did) for turn in episode.turns if turn.did is not None]
    moves = (Move("", "\n".join(actions), actions[-1]),) if actions else ()
    return Played(moves, moves[0] if moves and not episode.won else None)


def _names_text(remark: str, action: str) -> bool:
    """Whether the action's text stands in the remark; of `click[blue]`, what is in the brackets."""
    bracketed = _BRACKETS.fullmatch(action.strip())
    wanted = _plain(bracketed[1] if bracketed else action)
    return bool(wanted) and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", _plain(remark)) is not None


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


_BY_TEXT = Reading(_played_by_text, _names_text)

READINGS: dict[str, Reading] = {
    "minesweeper": Reading(_played_minesweeper, _names_cell),
    "sokoban": Reading(_played_sokoban, _names_moves),
}
"""Environments in which a single move is to blame. An environment of your own may be added."""

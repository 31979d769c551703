"""Mistakes of lost episodes: the move to blame, and whether a remark names it.

An environment defines both by `TextEnv.played` and `TextEnv.mentions`. This module holds the records that they use, and
the text-based defaults for environments that don't override them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from openrlhf_lamer.records import Episode


@dataclass(frozen=True, slots=True)
class Move:
    """Smallest part of an episode that can be a mistake.

    Attributes:
        state: State it was made in; empty where that does not matter to whether it is a mistake.
        action: The action.
        words: Action that a remark has to name in order to name this move.
    """

    state: str
    action: str
    words: str

    def same(self, other: Move) -> bool:
        """Whether both do the same in the same state."""
        return (self.state, self.action) == (other.state, other.action)


@dataclass(frozen=True, slots=True)
class Played:
    """An episode as moves, and the move that was the mistake; None if the episode was won, or if nobody can tell."""

    moves: tuple[Move, ...]
    mistake: Move | None


_BRACKETS = re.compile(r"\w+\[(.*)\]")


def played_as_text(episode: Episode) -> Played:
    """All actions as one move, named by the last of them."""
    actions = [_plain(turn.did) for turn in episode.turns if turn.did is not None]
    moves = (Move("", "\n".join(actions), actions[-1]),) if actions else ()
    return Played(moves, moves[0] if moves and not episode.won else None)


def mentions_text(remark: str, action: str) -> bool:
    """Whether the action's text stands in the remark; of `click[blue]`, the text in the brackets."""
    bracketed = _BRACKETS.fullmatch(action.strip())
    wanted = _plain(bracketed[1] if bracketed else action)
    return bool(wanted) and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", _plain(remark)) is not None


def _plain(text: str) -> str:
    return " ".join(text.lower().split())

"""What an episode sees of the earlier ones: the inter-episode memory H^(n)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from openrlhf_lamer.records import Episode, Stop, Turn
from openrlhf_lamer.vocabulary import Memory

CUT = "…"
"""Stands where the rest of a text was left out."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An earlier episode as the prompt shows it.

    Attributes:
        number: Which attempt it was, from 1.
        stop: How it ended.
        turns: Its turns, empty where the memory holds reflections alone.
        final_observation: The state it ended in, empty likewise.
        remark: What the reflection on it says, or None.
    """

    number: int
    stop: Stop
    turns: tuple[Turn, ...]
    final_observation: str
    remark: str | None


def recall(episodes: Sequence[Episode], memory: Memory) -> tuple[Attempt, ...]:
    """The memory that the episode after `episodes` begins with."""
    shows_history = memory in ("history", "both")
    shows_remarks = memory in ("reflection", "both")
    return tuple(
        Attempt(
            number=number,
            stop=episode.stop,
            turns=episode.turns if shows_history else (),
            final_observation=episode.final_observation if shows_history else "",
            remark=episode.remark if shows_remarks else None,
        )
        for number, episode in enumerate(episodes, start=1)
    )


def shorten(text: str, limit: int) -> str:
    """`text`, if it is longer than `limit` characters cut to that many with `CUT` at its end; clean if `text` is."""
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT


def with_outcomes(
    turns: Sequence[Turn], number: int, characters: int, separator: str | None = None
) -> list[tuple[Turn, str]]:
    """Turns of an attempt with what came of each, on one line.

    There is none (an empty text) for the last turn, whose outcome is the final state, for earlier ones than the latest
    `number`, and for refused actions that were not answered by anything new.

    Args:
        turns: Play turns of one attempt, from its first one on.
        number: Of how many of the latest turns to tell it.
        characters: Characters of an observation that are kept.
        separator: What stands between an observation's parts, of which those are left out that stood in the initial
            observation; None where it is one part.
    """
    told: list[tuple[Turn, str]] = []
    for i, turn in enumerate(turns):
        shown = len(turns) - number <= i < len(turns) - 1
        after = turns[i + 1].observation if shown else ""
        told.append((turn, _outcome(turn, after, turns[0].observation, characters, separator) if shown else ""))
    return told


def _outcome(turn: Turn, after: str, initial: str, characters: int, separator: str | None) -> str:
    if after == turn.observation:
        return "(nothing new)" if turn.valid else ""
    known = {initial} if separator is None else {*initial.split(separator)}
    parts = [after] if separator is None else after.split(separator)
    kept = (separator or "").join(part for part in parts if part not in known)
    return shorten(" ".join(kept.split()), characters) or "(as at the start)"

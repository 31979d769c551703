"""The inter-episode memory H^(n): what an episode is shown of the earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from openrlhf_lamer.records import Episode, Stop, Turn
from openrlhf_lamer.vocabulary import Memory

CUT = "…"
"""Mark at the end of a text that was cut."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An earlier episode as the prompt shows it.

    Attributes:
        number: Number of the attempt, from 1.
        stop: How it ended.
        turns: Its turns; empty where the memory holds reflections only.
        final_observation: The state it ended in; empty where `turns` is.
        remark: The remark of the reflection on it, or None.
    """

    number: int
    stop: Stop
    turns: tuple[Turn, ...]
    final_observation: str
    remark: str | None


def recall(episodes: Sequence[Episode], memory: Memory) -> tuple[Attempt, ...]:
    """Memory that the episode after `episodes` begins with."""
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


def untold(episodes: Sequence[Episode], stop_on_success: bool) -> Episode | None:
    """The latest episode, if a chat that goes on has to say how it ended because no reflection did.

    Only where trials go on after a success: a model that is not told of its win could not repeat it.
    """
    return episodes[-1] if episodes and not stop_on_success and episodes[-1].reflection is None else None


def shorten(text: str, limit: int) -> str:
    """`text`, cut to `limit` characters with `CUT` at its end if it is longer; clean if `text` is."""
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT


def with_outcomes(
    turns: Sequence[Turn], number: int, characters: int, separator: str | None = None
) -> list[tuple[Turn, str]]:
    """Turns of an attempt, each with its outcome on one line.

    The outcome is empty for the last turn (its outcome is the final state), for turns before the latest `number`, and
    for refused actions after which the observation stayed the same.

    Args:
        turns: Play turns of one attempt, from its first one on.
        number: Number of latest turns that get an outcome.
        characters: Most characters of an outcome.
        separator: Text between the parts of an observation; parts of the initial observation are left out of an
            outcome. None where an observation is one part.
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

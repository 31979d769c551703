"""What an episode sees of the earlier ones: the inter-episode memory H^(n)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from openrlhf_lamer.records import Episode, Stop, Turn

Memory: TypeAlias = Literal["history", "reflection", "both"]
"""What is shown of an earlier episode: its turns, the remark on it, or both."""


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

"""Counts over the official training games: their tasks, and how many things they have and where.

`counts.json` holds them; `python scripts/count_alfworld.py` makes it from the official data, whose games are
under the MIT licence. Generated games are drawn from these counts.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from openrlhf_lamer.envs.seeding import below

FILE = Path(__file__).with_name("counts.json")

T = TypeVar("T")


@dataclass(frozen=True)
class Figures:
    """Averages over the games of one task type.

    Attributes:
        games: Number of counted games.
        copies: Things of the target's class that lie in a receptacle, per game.
        hidden: Share of these, over all games, that begin in a closed receptacle.
        opens: Share of a game's receptacles that can be opened.
        things: Things in receptacles, per game.
        commands: Length of the walkthrough; 0 where no game has one.
        most_commands: The longest walkthrough.
    """

    games: int
    copies: float
    hidden: float
    opens: float
    things: float
    commands: float
    most_commands: int


@dataclass(frozen=True)
class Counts:
    """The table, with kinds of rooms as AI2-THOR names them ("Kitchen", "LivingRoom", "Bedroom", "Bathroom").

    Attributes:
        source: The games that were counted.
        fixtures: By floor plan, number of receptacles of each class that games have and the wheel's floor plan
            lacks. None of them can be opened.
        tasks: By task type, kind of room, target and goal (the class of receptacle that the target belongs in, or
            the lamp to look at it under), how often the targets begin in these receptacles: classes joined by "+",
            one for each copy.
        things: By kind of room and class, receptacles in which non-target things begin.
        copies: By kind of room and class, how many games have 0, 1, ... such things in receptacles.
        figures: By task type.
    """

    source: str
    fixtures: Mapping[str, Mapping[str, int]]
    tasks: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Mapping[str, int]]]]]
    things: Mapping[str, Mapping[str, Mapping[str, int]]]
    copies: Mapping[str, Mapping[str, Mapping[str, int]]]
    figures: Mapping[str, Figures]


@cache
def load() -> Counts:
    """The table that is bundled with the package."""
    parts = json.loads(FILE.read_text("utf-8"))
    return Counts(**{**parts, "figures": {name: Figures(**each) for name, each in parts["figures"].items()}})


@cache
def digest() -> str:
    """A short hash of the table: a different table gives different games."""
    return sha256(FILE.read_bytes()).hexdigest()[:8]


def draw(rng: random.Random, weights: Mapping[T, int]) -> T:
    """One of the keys, drawn with probability proportional to its weight; it depends on the mapping's order.

    Raises:
        ValueError: No weight is positive.
    """
    total = sum(weights.values())
    if total < 1:
        raise ValueError("nothing to draw from")
    left = below(rng, total)
    for key, weight in weights.items():
        left -= weight
        if left < 0:
            return key
    raise AssertionError("below() gives less than its argument")

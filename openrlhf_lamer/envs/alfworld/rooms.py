"""Rooms for generated games: receptacles and their places, drawn over AI2-THOR's floor plans."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache

from openrlhf_lamer.envs.alfworld import counts, wheel
from openrlhf_lamer.envs.seeding import below, choose

Place = tuple[int, int, int, int]
"""Position of the player: x and z in steps of 0.25 m, rotation in quarter turns, horizon in degrees."""

LAMP = "DeskLamp"


@dataclass(frozen=True)
class Room:
    """A room with its receptacles, before things are put into it.

    Attributes:
        number: AI2-THOR's number of the floor plan.
        places: Position of the player in front of each receptacle, by its id; sorted.
        opens: The receptacles that can be opened.
        classes: Classes of the things that may be found here; sorted.
    """

    number: int
    places: Mapping[str, Place]
    opens: frozenset[str]
    classes: tuple[str, ...]

    @property
    def kinds(self) -> list[str]:
        """The classes of the receptacles, sorted."""
        return sorted({receptacle_class(each) for each in self.places})

    def all(self, kind: str) -> list[str]:
        """The receptacles of a class, sorted."""
        return [each for each in self.places if receptacle_class(each) == kind]


def kind_of(number: int) -> str:
    """The kind of a room: "Kitchen", "LivingRoom", "Bedroom" or "Bathroom"."""
    return next(kind for kind, numbers in wheel.constants().SCENE_TYPE.items() if number in numbers)


def rooms() -> tuple[int, ...]:
    """Numbers of the rooms that games are generated in: those of the official training games."""
    return tuple(map(int, counts.load().fixtures))


@cache
def with_all(kind: str, classes: frozenset[str]) -> tuple[int, ...]:
    """Numbers of the rooms of a kind that have each of these classes of things and receptacles."""
    found = []
    for number in rooms():
        if kind_of(number) == kind:
            plan, things = wheel.floor_plan(number)
            if classes <= {*things, *map(receptacle_class, plan), *counts.load().fixtures[str(number)]}:
                found.append(number)
    return tuple(found)


def draw_room(number: int, rng: random.Random) -> Room:
    """A room of the wheel; receptacles that official games have and its floor plan lacks get drawn places."""
    constants = wheel.constants()
    plan, classes = wheel.floor_plan(number)
    places = {
        each: (int(x / 0.25), int(z / 0.25), int(rotation / 90), int(horizon))
        for each, (x, z, rotation, horizon) in plan.items()
        if receptacle_class(each) in constants.RECEPTACLES
    }
    opens = frozenset(each for each in places if receptacle_class(each) in constants.OPENABLE_CLASS_SET)
    known = sorted(set(places.values())) or [(0, 0, 0, 30)]
    for fixture, count in counts.load().fixtures[str(number)].items():
        for _ in range(count):
            x, z, rotation, _ = choose(rng, known)
            places[_draw_receptacle(fixture, places, rng)] = (x, z, rotation, 45)
    found = counts.load().copies[kind_of(number)]
    return Room(number, {each: places[each] for each in sorted(places)}, opens, tuple(c for c in classes if c in found))


def holds(kind: str) -> Collection[str]:
    """Classes of the things that fit into a receptacle of this class."""
    return wheel.constants().VAL_RECEPTACLE_OBJECTS.get(kind, frozenset())


def receptacle_class(receptacle: str) -> str:
    """`Cabinet` of `Cabinet|+00.68|...`, `SinkBasin` of `Sink|...|SinkBasin`."""
    parts = receptacle.split("|")
    return parts[-1] if parts[-1].endswith("Basin") else parts[0]


def draw_id(cls: str, taken: Collection[str], rng: random.Random) -> str:
    """A new id in AI2-THOR's form: the class and a position in metres."""
    while True:
        x, y, z = (below(rng, 801) - 400, below(rng, 200), below(rng, 801) - 400)
        drawn = f"{cls}|{x / 100:+06.2f}|{y / 100:+06.2f}|{z / 100:+06.2f}"
        if drawn not in taken:
            return drawn


def _draw_receptacle(cls: str, taken: Collection[str], rng: random.Random) -> str:
    """A new id of a receptacle: `Cabinet|...`, `Sink|...|SinkBasin`."""
    if not cls.endswith("Basin"):
        return draw_id(cls, taken, rng)
    suffix = f"|{cls}"
    others = [each.removesuffix(suffix) for each in taken]
    return draw_id(cls.removesuffix("Basin"), others, rng) + suffix

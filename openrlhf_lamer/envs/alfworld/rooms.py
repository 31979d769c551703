"""Rooms for generated games: what stands where, drawn over AI2-THOR's floor plans."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache

from openrlhf_lamer.envs.alfworld import wheel
from openrlhf_lamer.envs.seeding import below, choose

Place = tuple[int, int, int, int]
"""Where one stands: x and z in steps of 0.25 m, rotation in quarter turns, horizon in degrees."""

HELD_OUT = frozenset({10, 219, 308, 424})
"""The rooms of the official split valid_unseen; no game is generated in them."""

LAMP = "DeskLamp"
_LAMP_STANDS_ON = ("Desk", "Dresser", "SideTable", "Shelf", "CoffeeTable", "DiningTable")

_FIXTURES: Mapping[str, Mapping[str, int]] = {
    "Kitchen": {"CoffeeMachine": 1, "GarbageCan": 1, "StoveBurner": 4, "Toaster": 1},
    "LivingRoom": {"GarbageCan": 1},
    "Bedroom": {"GarbageCan": 1, "LaundryHamper": 1},
    "Bathroom": {"GarbageCan": 1, "HandTowelHolder": 1, "ToiletPaperHanger": 1, "TowelHolder": 1},
}
"""Receptacles that official games have and the wheel's floor plans leave out, where the room has the class."""


@dataclass(frozen=True)
class Room:
    """A room with its receptacles, before anything is put into it.

    Attributes:
        number: AI2-THOR's number of the floor plan.
        places: Where one stands before each receptacle, by its id; sorted.
        classes: Classes of the things that may be found here and that fit somewhere; sorted.
    """

    number: int
    places: Mapping[str, Place]
    classes: tuple[str, ...]

    @property
    def kinds(self) -> list[str]:
        """The classes of the receptacles, sorted."""
        return sorted({receptacle_class(each) for each in self.places})

    def fitting(self, cls: str, without: Collection[str] = ()) -> list[str]:
        """The receptacles that a thing of this class may be in, but for those of the classes `without`."""
        kinds = {kind for kind in self.kinds if cls in holds(kind) and kind not in without}
        return [each for each in self.places if receptacle_class(each) in kinds]


@cache
def rooms(kinds: frozenset[str]) -> tuple[int, ...]:
    """Numbers of the rooms of these kinds (Kitchen, Bedroom, ...), without those held out."""
    scenes = wheel.constants().SCENE_TYPE
    return tuple(number for kind in sorted(kinds) for number in scenes[kind] if number not in HELD_OUT)


def draw_room(number: int, rng: random.Random) -> Room:
    """A room of the wheel, and in it the fixtures that the floor plan leaves out, each at a drawn place."""
    constants = wheel.constants()
    plan, classes = wheel.floor_plan(number)
    places = {
        each: (int(x / 0.25), int(z / 0.25), int(rotation / 90), int(horizon))
        for each, (x, z, rotation, horizon) in plan.items()
        if receptacle_class(each) in constants.RECEPTACLES
    }
    known = sorted(set(places.values())) or [(0, 0, 0, 30)]
    present = {receptacle_class(each) for each in places}
    kind = next(kind for kind, numbers in constants.SCENE_TYPE.items() if number in numbers)
    for fixture, count in _FIXTURES[kind].items():
        if fixture in classes and fixture not in present:
            for _ in range(count):
                x, z, rotation, _ = choose(rng, known)
                places[draw_id(fixture, places, rng)] = (x, z, rotation, 45)
    here = {each: places[each] for each in sorted(places)}
    room = Room(number, here, ())
    fits = {cls for kind in room.kinds for cls in holds(kind)} - set(room.kinds)
    return Room(number, here, tuple(cls for cls in classes if cls in fits))


def lamp_stands(room: Room) -> list[str]:
    """The receptacles that a lamp may stand on; none where the room has no lamp."""
    _, classes = wheel.floor_plan(room.number)
    return [each for each in room.places if LAMP in classes and receptacle_class(each) in _LAMP_STANDS_ON]


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

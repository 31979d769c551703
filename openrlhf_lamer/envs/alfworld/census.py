"""Counts of things in games, from their PDDL facts: official games for `counts.json`, generated ones to compare."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from openrlhf_lamer.envs import seeding
from openrlhf_lamer.envs.alfworld import catalogue, generator, rooms, wheel
from openrlhf_lamer.envs.alfworld.counts import Figures
from openrlhf_lamer.envs.alfworld.games import read

_FACT = re.compile(r"\((\w+) ([^()]*)\)")


@dataclass(frozen=True)
class Game:
    """The initial facts of one game that are counted, by escaped ids.

    Attributes:
        classes: Class of each thing, wherever it is.
        where: The first listed receptacle of each thing that is in one.
        receptacles: Class of each receptacle.
        opens: The receptacles that can be opened; all of them begin closed.
        takeable: Classes of the things that can be picked up.
        commands: Length of the walkthrough; 0 without one.
    """

    task_type: str
    target: str
    goal: str
    room: int
    classes: Mapping[str, str]
    where: Mapping[str, str]
    receptacles: Mapping[str, str]
    opens: frozenset[str]
    takeable: frozenset[str]
    commands: int

    @property
    def kind(self) -> str:
        """Kind of the room."""
        return rooms.kind_of(self.room)

    @property
    def copies(self) -> list[str]:
        """The things of the target's class that are in a receptacle."""
        return [each for each in self.where if self.classes[each] == self.target]


def game(folder: str, source: Mapping[str, Any]) -> Game:
    """Read a game.

    Args:
        folder: Name of its kind of task, as in `pick_and_place_simple-Mug-None-Desk-302`.
        source: The parts of its file.
    """
    task_type, target, _, goal, room = folder.split("-")
    facts: dict[str, list[list[str]]] = {}
    for predicate, arguments in _FACT.findall(source["pddl_problem"].partition("(:init")[2].partition("(:goal")[0]):
        facts.setdefault(predicate, []).append(arguments.split())
    classes = {id_: cls.removesuffix("Type") for id_, cls in facts["objectType"]}
    where: dict[str, str] = {}
    for id_, receptacle in facts["inReceptacle"]:
        where.setdefault(id_, receptacle)
    return Game(
        task_type,
        target,
        goal,
        int(room),
        classes,
        where,
        {id_: cls.removesuffix("Type") for id_, cls in facts["receptacleType"]},
        frozenset(id_ for (id_,) in facts.get("openable", ())),
        frozenset(classes[id_] for (id_,) in facts["pickupable"] if id_ in classes),
        len(source.get("walkthrough") or ()),
    )


def official(split: str, folder: Path) -> Iterator[Game]:
    """All games of an official split, read one at a time.

    Raises:
        TaskError: The split is not on disk.
        GameError: A file is broken.
    """
    for name in catalogue.official_names(split, folder=folder):
        source = read((folder / name / catalogue.FILE).read_bytes())
        if source.get("solvable", True):
            yield game(name.split("/")[1], source)


def drawn(task_type: str, num: int) -> list[Game]:
    """Games as they are generated, before the engine has tried them."""
    found = []
    for number in range(num):
        scene = generator.draw(task_type, seeding.generator("census", task_type, number))
        source = {"pddl_problem": generator.problem(scene, number), "walkthrough": generator.plan(scene)}
        found.append(game(scene.name, source))
    return found


def figures(games: Sequence[Game], walked: Sequence[Game]) -> Figures:
    """Averages over these games of one task type; the walkthroughs are those of the games `walked`."""
    copies = [(each, copy) for each in games for copy in each.copies]
    lengths = [each.commands for each in walked if each.commands]
    return Figures(
        games=len(games),
        copies=round(len(copies) / len(games), 3),
        hidden=round(sum(each.where[copy] in each.opens for each, copy in copies) / len(copies), 4),
        opens=round(sum(len(each.opens) / len(each.receptacles) for each in games) / len(games), 4),
        things=round(sum(len(each.where) for each in games) / len(games), 2),
        commands=round(sum(lengths) / len(lengths), 2) if lengths else 0.0,
        most_commands=max(lengths, default=0),
    )


def table(games: Sequence[Game], walked: Sequence[Game], source: str) -> dict[str, Any]:
    """The content of `counts.json` for these games: sorted dictionaries, as `counts.Counts` describes them.

    Args:
        walked: The games whose walkthroughs are counted.
        source: Description of the counted games.
    """
    takeable = frozenset[str]().union(*(each.takeable for each in games)) | {rooms.LAMP}
    counters: dict[tuple[str, ...], Counter[str]] = {}

    def count(value: str, *path: str) -> None:
        counters.setdefault(path, Counter())[value] += 1

    fixtures: dict[int, Counter[str]] = {}
    for each in games:
        plan, classes = wheel.floor_plan(each.room)
        fixtures[each.room] = Counter(each.receptacles.values()) - Counter(map(rooms.receptacle_class, plan))
        begins = "+".join(sorted(each.receptacles[each.where[copy]] for copy in each.copies))
        count(begins, "tasks", each.task_type, each.kind, each.target, each.goal)
        held = Counter(each.classes[thing] for thing in each.where)
        for cls in takeable.intersection(classes) - {each.target}:
            count(str(held[cls]), "copies", each.kind, cls)
        for thing, receptacle in each.where.items():
            cls = each.classes[thing]
            if cls in takeable and cls != each.target:
                count(each.receptacles[receptacle], "things", each.kind, cls)
    result: dict[str, Any] = {
        "source": source,
        "fixtures": {str(number): dict(sorted(fixtures[number].items())) for number in sorted(fixtures)},
    }
    for path in sorted(counters):
        inner = result
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = dict(sorted(counters[path].items()))
    result["figures"] = {
        name: asdict(figures(of_type(name, games), of_type(name, walked)))
        for name in catalogue.TASK_TYPES
        if of_type(name, games)
    }
    return result


def of_type(task_type: str, games: Sequence[Game]) -> list[Game]:
    """Games of one task type."""
    return [each for each in games if each.task_type == task_type]

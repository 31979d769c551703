"""Games made from seeds, in the form of the official ones, each with a walkthrough that was tried.

A game is drawn over one of the wheel's floor plans, with tasks, copies and places as frequent as in the
official training games (`counts`). A plan that solves it follows from the places of the things, and is
replayed in the engine. Games are kept on disk, under `storage.folder()`, in the layout of the official data.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from itertools import permutations, product
from pathlib import Path

from openrlhf_lamer.envs.alfworld import counts, games, rooms, storage, wheel
from openrlhf_lamer.envs.alfworld.catalogue import FILE, FOLDER, family, names
from openrlhf_lamer.envs.alfworld.rooms import Place, Room
from openrlhf_lamer.envs.seeding import below, choose, generator

VERSION = 2
"""Raised whenever the same seed gives another game."""

MOST_COMMANDS = 10
"""A game that takes more is drawn again: no official walkthrough is longer."""

_TREATMENTS = {
    "pick_clean_then_place_in_recep": ("clean", "SinkBasin"),
    "pick_heat_then_place_in_recep": ("heat", "Microwave"),
    "pick_cool_then_place_in_recep": ("cool", "Fridge"),
}
"""By task type, the command and the appliance that it needs."""

_PROPERTIES = ("Cleanable", "Coolable", "Heatable", "Sliceable")


@dataclass(frozen=True)
class Scene:
    """A room with things in it, and the task to do there.

    Attributes:
        target: Class of the thing to find.
        goal: Class of the receptacle to put it in, or of the lamp to look at it under.
        where: The receptacle that each thing is in, by ids.
    """

    task_type: str
    room: Room
    target: str
    goal: str
    where: dict[str, str]
    start: Place

    @property
    def name(self) -> str:
        """The game's folder, in the official form."""
        return f"{self.task_type}-{self.target}-None-{self.goal}-{self.room.number}"


def game(seed: int, task_types: str | Sequence[str]) -> games.Game:
    """The game of a seed, from disk where it was made before.

    Raises:
        TaskError: An unknown task type, no engine, or a folder that cannot be written to.
    """
    wheel.require()
    drawn_from = family(task_types)
    entry = folder_of_games() / "seeds" / drawn_from.replace(",", "+") / str(seed)
    found = _kept(entry)
    if found is None:
        with storage.locked(entry.parent / f".lock-{seed % 64}"):
            found = _kept(entry) or _keep(entry, *make(seed, drawn_from))
    return found


def _kept(entry: Path) -> games.Game | None:
    """The game that was made before; None if there is none, or if it is broken."""
    try:
        return games.load(folder_of_games() / entry.read_text(encoding="utf-8") / FILE)
    except (OSError, games.GameError):
        return None


def _keep(entry: Path, scene: Scene, content: bytes) -> games.Game:
    """Write a game to disk, and its entry last."""
    trial = f"trial_T{sha256(content).hexdigest()[:20]}"
    path = Path(FOLDER, "generated", scene.name, trial)
    storage.write(folder_of_games() / path / "traj_data.json", _trajectory(scene, trial))
    storage.write(folder_of_games() / path / FILE, content)
    storage.write(entry, path.as_posix().encode())
    return games.compiled(content)


def folder_of_games() -> Path:
    """Folder of generated games; like `$ALFWORLD_DATA`, it holds `json_2.1.1`."""
    return storage.folder() / f"generated-{VERSION}-{counts.digest()}-{version('alfworld')}"


def make(seed: int, task_types: str | Sequence[str]) -> tuple[Scene, bytes]:
    """Draw scenes until one is found that can be solved; returns it and the content of its file."""
    rng = generator("alfworld", VERSION, family(task_types), seed)
    task_type = choose(rng, names(task_types))
    while True:
        scene = draw(task_type, rng)
        sentence = choose(rng, wheel.goals().gdict[task_type]["templates"])
        words = {"obj": scene.target.lower(), "recep": scene.goal.lower(), "toggle": scene.goal.lower()}
        source = {
            "pddl_domain": wheel.domain(),
            "grammar": wheel.grammar().replace("UNKNOWN GOAL", sentence.format(**words)),
            "pddl_problem": problem(scene, seed),
        }
        walkthrough = _solve(scene, games.compiled(_dump(source)))
        if walkthrough is not None:
            return scene, _dump({**source, "solvable": True, "walkthrough": walkthrough})


def draw(task_type: str, rng: random.Random) -> Scene:
    """A scene that the official games could have, with a plan that is no longer than theirs."""
    while True:
        scene = _scene(task_type, rng)
        if len(plan(scene)) <= MOST_COMMANDS:
            return scene


def _scene(task_type: str, rng: random.Random) -> Scene:
    """Choose a task as the official games have it, a room where it can be set, and put things into the room."""
    kind, target, goal, begins = counts.draw(rng, _tasks(task_type))
    _, appliance = _TREATMENTS.get(task_type, ("", ""))
    needed = frozenset({target, goal, *begins, *([appliance] if appliance else [])})
    room = rooms.draw_room(choose(rng, rooms.with_all(kind, needed)), rng)
    where: dict[str, str] = {}
    for cls in room.classes:
        for into in begins if cls == target else _begin(cls, room, rng, at_least=int(cls == goal)):
            where[rooms.draw_id(cls, where, rng)] = choose(rng, room.all(into))
    taken = set(room.places.values())
    while (start := (below(rng, 17) - 8, below(rng, 17) - 8, below(rng, 4), 30)) in taken:
        pass
    return Scene(task_type, room, target, goal, dict(sorted(where.items())), start)


@cache
def _tasks(task_type: str) -> Mapping[tuple[str, str, str, tuple[str, ...]], int]:
    """Number of official games of a type by kind of room, target, goal, and receptacles of the targets."""
    return {
        (kind, target, goal, tuple(begins.split("+"))): count
        for kind, targets in counts.load().tasks[task_type].items()
        for target, goals in targets.items()
        for goal, patterns in goals.items()
        for begins, count in patterns.items()
    }


def _begin(cls: str, room: Room, rng: random.Random, at_least: int) -> list[str]:
    """Classes of the receptacles that things of a class begin in, one for each thing."""
    kind, present = rooms.kind_of(room.number), frozenset(room.kinds)
    usual = counts.load().things[kind].get(cls, {})
    into = {each: count for each, count in usual.items() if each in present}
    copies = max(int(counts.draw(rng, counts.load().copies[kind][cls])), at_least)
    return [counts.draw(rng, into) for _ in range(copies)] if into else []


def _solve(scene: Scene, compiled: games.Game) -> list[str] | None:
    """Commands that win, from the places of the things; None if the engine refuses one."""
    commands = [
        text.format(*(compiled.entities[_escaped(each).lower()].name for each in ids)) for text, *ids in plan(scene)
    ]
    play = games.Play()
    try:
        play.begin(compiled)
        for command in commands:
            if play.won or play.do(command) is None:
                return None
        return commands if play.won else None
    finally:
        play.close()


def plan(scene: Scene) -> list[tuple[str, ...]]:
    """The shortest way to win, over all copies that can be taken and all lamps.

    Returns:
        Its commands, each as a text with gaps and the ids that fill them.
    """
    things = [each for each in scene.where if _class(each) == scene.target]
    lamps = [each for each in scene.where if _class(each) == scene.goal] or [""]
    chosen = permutations(things, 2 if scene.task_type == "pick_two_obj_and_place" else 1)
    return min((_plan(scene, *each) for each in product(chosen, lamps)), key=len)


def _plan(scene: Scene, things: Sequence[str], lamp: str) -> list[tuple[str, ...]]:
    commands: list[tuple[str, ...]] = []
    here = scene.start
    opened: set[str] = set()

    def go(receptacle: str, to_use_it: bool = True) -> None:
        nonlocal here
        if scene.room.places[receptacle] != here:  # some receptacles share a place
            here = scene.room.places[receptacle]
            commands.append(("go to {}", receptacle))
        if to_use_it and receptacle in scene.room.opens and receptacle not in opened:
            opened.add(receptacle)
            commands.append(("open {}", receptacle))

    def first(kind: str) -> str:
        """A receptacle that needs no opening, if there is one."""
        return min(scene.room.all(kind), key=lambda each: each in scene.room.opens)

    command, appliance = _TREATMENTS.get(scene.task_type, ("", ""))
    for thing in things:
        go(scene.where[thing])
        commands.append(("take {} from {}", thing, scene.where[thing]))
        if command:
            go(first(appliance), to_use_it=False)
            commands.append((f"{command} {{}} with {{}}", thing, first(appliance)))
        if lamp:
            go(scene.where[lamp])
            commands.append(("use {}", lamp))
        else:
            go(first(scene.goal))
            commands.append(("move {} to {}", thing, first(scene.goal)))
    return commands


def problem(scene: Scene, seed: int) -> str:
    """The scene in PDDL, laid out like the official problems."""
    constants, room = wheel.constants(), scene.room
    receptacle_kinds = sorted(set(constants.RECEPTACLES) - constants.MOVABLE_RECEPTACLES_SET)
    thing_kinds = sorted({_class(each) for each in scene.where})
    places = sorted({*room.places.values(), scene.start})
    objects = ["agent1 - agent"]
    objects += [f"{kind}Type - otype" for kind in sorted({*thing_kinds, "ButterKnife", "Knife"})]
    objects += [f"{kind}Type - rtype" for kind in receptacle_kinds]
    objects += [f"{_escaped(each)} - object" for each in scene.where]
    objects += [f"{_escaped(each)} - receptacle" for each in room.places]
    objects += [f"{_location(place)} - location" for place in places]
    facts = []
    for receptacle, place in room.places.items():
        facts.append(f"receptacleType {_escaped(receptacle)} {rooms.receptacle_class(receptacle)}Type")
        facts.append(f"receptacleAtLocation {_escaped(receptacle)} {_location(place)}")
        if receptacle in room.opens:
            facts.append(f"openable {_escaped(receptacle)}")
    for kind in room.kinds:
        facts += [f"canContain {kind}Type {each}Type" for each in thing_kinds if each in rooms.holds(kind)]
    for thing, receptacle in scene.where.items():
        cls, id_ = _class(thing), _escaped(thing)
        facts.append(f"objectType {id_} {cls}Type")
        facts.append(f"objectAtLocation {id_} {_location(room.places[receptacle])}")
        facts.append(f"inReceptacle {id_} {_escaped(receptacle)}")
        facts.append(f"toggleable {id_}" if cls == rooms.LAMP else f"pickupable {id_}")
        if cls in constants.MOVABLE_RECEPTACLES_SET:
            facts.append(f"isReceptacleObject {id_}")
        facts += [f"{each.lower()} {id_}" for each in _PROPERTIES if cls in constants.VAL_ACTION_OBJECTS[each]]
    facts.append(f"atLocation agent1 {_location(scene.start)}")
    goal = wheel.goals().gdict[scene.task_type]["pddl"]
    goal = goal.format(obj=scene.target, recep=scene.goal, toggle=scene.goal).replace("#", "-")
    indent = "\n        "
    return (
        f"\n(define (problem plan_generated_{seed})\n(:domain alfred)\n(:objects"
        f"{''.join(indent + each for each in objects)}{indent})\n\n(:init"
        f"{''.join(f'{indent}({each})' for each in facts)}{indent})\n{goal}"
    )


def _trajectory(scene: Scene, trial: str) -> bytes:
    """Content of `traj_data.json`, which ALFWorld's own environment reads besides the game's file."""
    looks = scene.goal == rooms.LAMP
    return _dump(
        {
            "task_id": trial,
            "task_type": scene.task_type,
            "pddl_params": {
                "object_target": scene.target,
                "object_sliced": False,
                "mrecep_target": "",
                "parent_target": "" if looks else scene.goal,
                "toggle_target": scene.goal if looks else "",
            },
            "scene": {"floor_plan": f"FloorPlan{scene.room.number}", "scene_num": scene.room.number},
            "turk_annotations": {"anns": []},
        }
    )


def _dump(parts: Mapping[str, object]) -> bytes:
    return json.dumps(parts).encode()


def _class(thing: str) -> str:
    return thing.partition("|")[0]


def _location(place: Place) -> str:
    return _escaped("loc|" + "|".join(map(str, place)))


def _escaped(id_: str) -> str:
    """An id as PDDL takes it: `Cabinet|+00.68` becomes `Cabinet_bar__plus_00_dot_68`."""
    for sign, word in (("|", "_bar_"), ("-", "_minus_"), ("+", "_plus_"), (".", "_dot_")):
        id_ = id_.replace(sign, word)
    return id_

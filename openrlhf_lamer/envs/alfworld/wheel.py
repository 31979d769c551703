"""Data in the `alfworld` wheel: the domain, the grammar, 120 floor plans, the goals.

The package itself is never imported: that creates a folder in the user's home and sets
`ALFWORLD_DATA`, so that nobody can tell afterwards whether the user had set it.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from openrlhf_lamer.envs.base import TaskError

INSTALL = "pip install 'openrlhf-lamer[alfworld]'"


def require() -> None:
    """Raise `TaskError` with the remedy where the engine is not installed."""
    for module in ("alfworld", "textworld", "fast_downward"):
        if find_spec(module) is None:
            raise TaskError(f"alfworld: the package {module!r} is not installed; run {INSTALL}")


@cache
def versions() -> str:
    """The engine's versions, as a key: compiled games are read only by the versions that compiled them."""
    found = []
    for package in ("textworld", "fast-downward-textworld"):
        try:
            found.append(f"{package}={version(package)}")
        except PackageNotFoundError:
            found.append(f"{package}=unknown")
    return ",".join(found)


def domain() -> str:
    """ALFRED's rules, in PDDL."""
    return (_root() / "data" / "alfred.pddl").read_text(encoding="utf-8")


def grammar() -> str:
    """ALFWorld's sentences, with `UNKNOWN GOAL` for the goal."""
    return (_root() / "data" / "alfred.twl2").read_text(encoding="utf-8")


@cache
def constants() -> ModuleType:
    """`alfworld.gen.constants`: things that fit in each receptacle, and those that can be heated, cooled or cleaned."""
    return _load("constants")


@cache
def goals() -> ModuleType:
    """`alfworld.gen.goal_library`: for each task type the goal in PDDL and its sentences."""
    return _load("goal_library")


def floor_plan(room: int) -> tuple[dict[str, tuple[float, float, int, int]], list[str]]:
    """Receptacles of an AI2-THOR room, each with the player's place in front of it, and the classes of its objects.

    A place is (x in m, z in m, rotation in degrees, horizon in degrees). Both parts are sorted.
    """
    layouts = _root() / "gen" / "layouts"
    places = json.loads((layouts / f"FloorPlan{room}-openable.json").read_text())
    classes = json.loads((layouts / f"FloorPlan{room}-objects.json").read_text())
    return {each: tuple(places[each]) for each in sorted(places)}, sorted(classes)


@cache
def _root() -> Path:
    require()
    spec = find_spec("alfworld")
    assert spec is not None
    return Path(next(iter(spec.submodule_search_locations or ())))


def _load(name: str) -> ModuleType:
    """Execute one file of the package without importing the package."""
    spec = spec_from_file_location(f"_alfworld_{name}", _root() / "gen" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

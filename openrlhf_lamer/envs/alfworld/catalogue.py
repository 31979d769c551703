"""Tasks of ALFWorld: the six types, the official games by split, the paper's two halves.

Nothing here needs the engine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from openrlhf_lamer.envs.base import TaskError
from openrlhf_lamer.records import Task

IN_DISTRIBUTION = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
)
"""The task types that the paper trains on."""
OUT_OF_DISTRIBUTION = ("pick_cool_then_place_in_recep", "pick_two_obj_and_place")
"""The task types that the paper keeps for evaluation."""
TASK_TYPES = IN_DISTRIBUTION + OUT_OF_DISTRIBUTION

_FAMILIES = {"id": IN_DISTRIBUTION, "ood": OUT_OF_DISTRIBUTION, "all": TASK_TYPES}

COUNTS: Mapping[str, Mapping[str, int]] = {
    "train": dict(zip(TASK_TYPES, (790, 308, 650, 459, 533, 813), strict=True)),
    "valid_seen": dict(zip(TASK_TYPES, (35, 13, 27, 16, 25, 24), strict=True)),
    "valid_unseen": dict(zip(TASK_TYPES, (24, 18, 31, 23, 21, 17), strict=True)),
}
"""Number of games of each type in the official splits."""

VARIABLE = "ALFWORLD_DATA"
FOLDER = "json_2.1.1"
FILE = "game.tw-pddl"
DOWNLOAD = "alfworld-download -f"


def family(task_types: str | Sequence[str]) -> str:
    """Normal form of task types: "id", "ood", "all", or names in a fixed order with commas between.

    Args:
        task_types: One of these words, a name, names with commas between, or a sequence of names.

    Raises:
        TaskError: A name is unknown, or there is none.
    """
    if isinstance(task_types, str):
        if task_types in _FAMILIES:
            return task_types
        task_types = task_types.split(",")
    elif not isinstance(task_types, Sequence):
        task_types = [task_types]
    for name in task_types:
        if name not in TASK_TYPES:
            raise TaskError(
                f"alfworld: task_types has {name!r}; there are: {', '.join(_FAMILIES)}, or one or more of "
                f"{', '.join(TASK_TYPES)}"
            )
    chosen = tuple(name for name in TASK_TYPES if name in task_types)
    if not chosen:
        raise TaskError("alfworld: task_types is empty; give 'id', 'ood', 'all' or names of task types")
    return next((word for word, names in _FAMILIES.items() if names == chosen), ",".join(chosen))


def names(task_types: str | Sequence[str]) -> tuple[str, ...]:
    """The task types that `task_types` stands for, in a fixed order."""
    word = family(task_types)
    return _FAMILIES.get(word) or tuple(word.split(","))


def official_folder() -> Path:
    """The folder of the official splits: `$ALFWORLD_DATA/json_2.1.1`, else where `alfworld-download` puts it."""
    data = os.environ.get(VARIABLE)
    return (Path(data) if data else Path.home() / ".cache" / "alfworld") / FOLDER


@dataclass(frozen=True)
class Official:
    """One official game.

    Attributes:
        name: Its folder below `json_2.1.1`: split, kind of task and trial.
        content: The bytes of its file.
        problem: Defect of the file; empty if it is sound.
    """

    name: str
    content: bytes
    problem: str = ""

    @property
    def task_type(self) -> str:
        """The task type, as the folder's name says it."""
        return self.name.split("/")[1].split("-")[0]

    @property
    def task(self) -> Task:
        """The task that plays exactly this game."""
        spec = {"game": self.name, "sha256": sha256(self.content).hexdigest()}
        return Task("alfworld", spec=spec, split=self.name.split("/")[0])


def official_names(split: str, task_types: str | Sequence[str] = "all", folder: Path | None = None) -> list[str]:
    """Sorted names of the games of a split that are on disk; as in the original, without sliced and movable ones.

    Raises:
        TaskError: There is no such split, or none of its games is on disk.
    """
    if split not in COUNTS:
        raise TaskError(f"alfworld: no split {split!r}; there are: {', '.join(COUNTS)}")
    folder, chosen = folder or official_folder(), names(task_types)
    found = (path.parent.relative_to(folder).as_posix() for path in (folder / split).glob(f"*/*/{FILE}"))
    listed = sorted(
        name
        for name in found
        if name.split("/")[1].split("-")[0] in chosen and "movable" not in name and "Sliced" not in name
    )
    if not listed:
        raise TaskError(
            f"alfworld: no games in {folder / split}; run `{DOWNLOAD}` and set {VARIABLE} to its folder, the one that "
            f"holds {FOLDER}; or play generated games, which need no data"
        )
    return listed


def official_games(
    split: str, task_types: str | Sequence[str] = "all", folder: Path | None = None
) -> Iterator[Official]:
    """The games of a split that are on disk, in the order of their names, broken ones too."""
    from openrlhf_lamer.envs.alfworld.games import GameError, read

    folder = folder or official_folder()
    for name in official_names(split, task_types, folder):
        content, problem = b"", ""
        try:
            content = (folder / name / FILE).read_bytes()
            if not read(content).get("solvable", True):
                continue
        except OSError as error:
            problem = error.strerror or str(error)
        except GameError as error:
            problem = str(error)
        yield Official(name, content, problem)


def official_tasks(split: str, task_types: str | Sequence[str] = "all", folder: Path | None = None) -> list[Task]:
    """All tasks of an official split, sorted by name, each with the hash of its game.

    Args:
        split: "train", "valid_seen" or "valid_unseen".
        task_types: Which types, as `family` reads them.
        folder: The folder of the splits; by default `official_folder()`.

    Raises:
        TaskError: The split is missing or incomplete, or a file is broken.
    """
    folder = folder or official_folder()
    games = list(official_games(split, task_types, folder))
    for game in games:
        if game.problem:
            raise TaskError(f"alfworld: {folder / game.name / FILE}: {game.problem}; run `{DOWNLOAD}`")
    expected = sum(COUNTS[split][name] for name in names(task_types))
    if len(games) != expected:
        raise TaskError(
            f"alfworld: {folder / split} holds {len(games)} games of the types {family(task_types)}, the official "
            f"split {expected}; its download may have been cut off: run `{DOWNLOAD}`"
        )
    return [game.task for game in games]


def official_content(spec: Mapping[str, Any], folder: Path | None = None) -> bytes:
    """The bytes of the game that a task's spec names.

    Raises:
        TaskError: The spec is malformed, or the file is missing or another version of the game.
    """
    if not {"game"} <= set(spec) <= {"game", "sha256"}:
        raise TaskError(f"alfworld: a spec has the keys game and sha256, not {sorted(map(str, spec))}")
    name, folder = str(spec["game"]), folder or official_folder()
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise TaskError(f"alfworld: spec['game'] is a folder below {FOLDER}, not {name!r}")
    path = folder / name / FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TaskError(
            f"alfworld: {path}: {error.strerror or error}; run `{DOWNLOAD}` and set {VARIABLE} to its folder, the one "
            f"that holds {FOLDER}"
        ) from error
    found = sha256(content).hexdigest()
    if spec.get("sha256", found) != found:
        raise TaskError(
            f"alfworld: {path} is not the game of this task (sha256 {found[:12]}…, not {str(spec['sha256'])[:12]}…): "
            f"another version, or a broken file; run `{DOWNLOAD}`"
        )
    return content

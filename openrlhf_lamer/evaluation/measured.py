"""Names of what results were measured on: a panel, or the tasks by their own description."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from openrlhf_lamer import manifest, panels
from openrlhf_lamer.records import Task


def measured_on(settings: Mapping[str, Any], tasks: Iterable[Task]) -> str:
    """The panel or dataset that a run's settings name; else the bundled panel of the same tasks, or a description.

    Args:
        settings: Settings as in `run.json`; empty for files of a training, which name no panel.
        tasks: The tasks that were played, once or more.
    """
    played = {task.id: task for task in tasks}
    said = settings.get("panel")
    if not (isinstance(said, dict) and said.get("name")):
        return _bundled(played) or described(played.values())
    name = str(said["name"])
    if name not in manifest.names():
        return f"{name}: {described(played.values())}"
    version = f", version {said['version']}" if said.get("version", 1) != 1 else ""
    size = panels.load(name).size
    return f"{name}{version}" + (f", {len(played)} of its {size} tasks" if len(played) < size else "")


def on(measured: Iterable[tuple[str, str]]) -> str:
    """A sentence that names what each of several results was measured on.

    Args:
        measured: For each result, its label and its tasks, as `measured_on` calls them.
    """
    labels: dict[str, list[str]] = {}
    for label, tasks in measured:
        labels.setdefault(tasks, []).append(label)
    if len(labels) < 2:
        return f"Measured on {', '.join(labels)}."
    parts = [f"{tasks} ({', '.join(own)})" for tasks, own in labels.items()]
    return f"Measured on {' and '.join(parts)}."


def described(tasks: Iterable[Task]) -> str:
    """Environments of the tasks, each with the options and the split that all its tasks share."""
    found: dict[str, list[Task]] = {}
    for task in tasks:
        found.setdefault(task.env, []).append(task)
    return " and ".join(_described(env, own) for env, own in sorted(found.items()))


def _described(env: str, tasks: Sequence[Task]) -> str:
    shared = {key: value for key, value in tasks[0].options.items() if all(t.options.get(key) == value for t in tasks)}
    options = f" ({', '.join(f'{key}={shared[key]}' for key in sorted(shared))})" if shared else ""
    splits = {task.split for task in tasks}
    return env + options + (f", split {splits.pop()}" if len(splits) == 1 and "" not in splits else "")


def _bundled(played: Mapping[str, Task]) -> str | None:
    """The first bundled panel of exactly these tasks."""
    envs = {task.env for task in played.values()}
    names = [name for name in manifest.names() if {name.split("/")[0]} == envs]
    return next((name for name in names if _ids(name) == played.keys()), None)


@cache
def _ids(name: str) -> frozenset[str]:
    return frozenset(panels.load(name).states)

"""Frozen evaluation panels: tasks in a fixed order, each with a hash of its initial state.

A panel is a file below `manifests/`, named by its path there: `sokoban/3-boxes`. The hashes of the
initial states let `verify` check whether this machine builds the very same tasks.

Some panels cover all of a data set that is not bundled (ALFWorld's official games). Their files list no tasks: the
tasks are listed from the data, by split, and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from openrlhf_lamer import envs
from openrlhf_lamer.manifest import REMEDY, SCHEMA, PanelError, content_hash, read, state_hash, to_json
from openrlhf_lamer.records import Task


@dataclass(frozen=True)
class Ceilings:
    """Shares of a panel that can be won in one attempt, computed by `scripts/ceilings.py`.

    Attributes:
        turns: Turns of the attempt.
        clairvoyant: Share of the tasks that a player who sees everything wins. No player wins more, in any number of
            attempts.
        exact_probability: Share won by a player who knows each cell's exact probability of a mine and opens
            the safest one; None if the game hides nothing.
    """

    turns: int
    clairvoyant: float
    exact_probability: float | None = None


@dataclass(frozen=True)
class Panel:
    """A frozen set of tasks.

    Attributes:
        name: Path of its file below `manifests`, without the suffix.
        about: Description in a sentence.
        env: The environment.
        options: Options of the environment, the same for all tasks.
        split: The split that the tasks come from.
        size: Number of tasks.
        version: Number that rises when the tasks change. Results on different versions can't be compared.
        max_turns: Turns of an attempt in evaluation; None for the agent's.
        ceilings: Shares that can be won, if known.
        states: Bundled tasks by id, in order, each with the `state_hash` of its initial state.
    """

    name: str
    about: str
    env: str
    options: Mapping[str, Any]
    split: str
    size: int
    version: int = 1
    max_turns: int | None = None
    ceilings: Ceilings | None = None
    states: Mapping[str, tuple[Task, str]] = field(default_factory=dict, repr=False)

    def tasks(self) -> list[Task]:
        """The tasks in their order.

        Raises:
            TaskError: The data that the panel is listed from is missing.
            PanelError: The data has another number of tasks.
        """
        if self.states:
            return [task for task, _ in self.states.values()]
        tasks = envs.lookup(self.env).tasks(self.split, options=self.options)
        if len(tasks) != self.size:
            raise PanelError(
                f"panel {self.name} is all {self.size} tasks of {self.env}'s {self.split}, but the data has "
                f"{len(tasks)}; download the data set again"
            )
        return tasks

    def beginnings(self) -> Iterator[tuple[Task, str]]:
        """Tasks, each with the `state_hash` of its initial state as this machine builds it."""
        env = envs.make(self.env, **self.options)
        try:
            for task in self.tasks():
                yield task, state_hash(env.reset(task), env.anchor())
        finally:
            env.close()


def load(name: str) -> Panel:
    """Read a panel; raises `PanelError` if no panel has this name or its file was changed."""
    body = read(name)
    if (ceilings := body.get("ceilings")) is not None:
        body["ceilings"] = Ceilings(**ceilings)
    common = {"env": body["env"], "options": body["options"], "split": body["split"]}
    states: dict[str, tuple[Task, str]] = {}
    for row in body.pop("tasks"):
        task = Task(**common, seed=row.get("seed"), spec=row.get("spec"))
        if task.id != row["id"]:
            raise PanelError(f"panel {name} has a task {row['id']}, which is now called {task.id}; {REMEDY}")
        states[task.id] = task, row["state"]
    return Panel(**body, states=states)


def dump(panel: Panel) -> str:
    """Content of the panel's file, one task per line."""
    head = {key: getattr(panel, key) for key in ("name", "about", "env", "options", "split", "size", "version")}
    head |= {} if panel.max_turns is None else {"max_turns": panel.max_turns}
    head |= {} if panel.ceilings is None else {"ceilings": asdict(panel.ceilings)}
    rows = []
    for task, state in panel.states.values():
        what = {"seed": task.seed} if task.spec is None else {"spec": task.spec}
        rows.append({"id": task.id, **what, "state": state})
    body = {"schema": SCHEMA, **head, "tasks": rows}
    lines = [
        f'"{key}": {to_json(value)}' for key, value in {"hash": content_hash(body), **body}.items() if key != "tasks"
    ]
    lines.append('"tasks": [' + ",".join(f"\n{to_json(row)}" for row in rows) + "\n]")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def verify(panel: Panel, report: Callable[[], None] = lambda: None) -> list[str]:
    """Build the initial state of every task; returns the ids of tasks whose state has another hash.

    Args:
        panel: The panel. One that is listed from data has no hashes: its tasks are only set up.
        report: Called after each task.

    Raises:
        TaskError: The environment or its data is missing, or a task cannot be set up.
        PanelError: The data has another number of tasks.
    """
    wrong: list[str] = []
    for task, state in panel.beginnings():
        if panel.states and panel.states[task.id][1] != state:
            wrong.append(task.id)
        report()
    return wrong

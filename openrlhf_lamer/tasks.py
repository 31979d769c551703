"""Task sets: seeds by split, and the prompt dataset that OpenRLHF reads.

Training and evaluation seeds come from disjoint ranges. Two seeds may still draw the same board:
`openrlhf_lamer.splits` keeps the boards apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from openrlhf_lamer.records import SchemaError, Task

SEEDS: Mapping[str, range] = {"train": range(2**30), "eval": range(2**30, 2**31)}
"""Seeds of each split; the ranges are disjoint."""

PANEL_SIZE = 128
"""Tasks in an evaluation panel."""


def seeded_tasks(
    env: str, split: str, num: int, *, first: int = 0, options: Mapping[str, Any] | None = None
) -> list[Task]:
    """Tasks of the seeds number `first` to `first + num` of a split, with none left out.

    For task sets use `TextEnv.tasks`, which keeps training and evaluation apart.
    """
    seeds = SEEDS[split]
    if num < 1 or first < 0 or first + num > len(seeds):
        raise ValueError(f"split {split!r} has {len(seeds)} tasks; {num} from number {first} on are not among them")
    return [Task(env, seed=seed, options=dict(options or {}), split=split) for seed in seeds[first : first + num]]


def dataset_rows(tasks: Sequence[Task]) -> Iterator[dict[str, str]]:
    """Rows of the prompt dataset in the host's columns, with the task as the label."""
    for task in tasks:
        yield {"input": task.id, "label": task.to_json(), "datasource": task.env}


def write_dataset(path: Path, tasks: Sequence[Task]) -> None:
    """Write a prompt dataset as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in dataset_rows(tasks):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_dataset(path: Path) -> list[Task]:
    """Tasks of a prompt dataset in JSON lines; raises `SchemaError`, which names the first line without a task."""
    tasks = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            tasks.append(Task.from_json(json.loads(line)["label"]))
        except (ValueError, LookupError, TypeError) as error:
            what = str(error) if isinstance(error, SchemaError) else f"no task in a column 'label' ({error!r})"
            remedy = "make it again with `openrlhf-lamer prepare tasks`"
            raise SchemaError(f"{path}, line {number}: {what}; {remedy}") from error
    return tasks

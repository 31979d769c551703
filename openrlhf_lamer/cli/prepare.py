"""`openrlhf-lamer prepare`: what training needs before it starts."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from openrlhf_lamer.cli.errors import fail

app = typer.Typer(no_args_is_help=True, help="Make what training needs: prompt datasets.")


class Split(StrEnum):
    """Which seeds to draw from."""

    TRAIN = "train"
    EVAL = "eval"


@app.callback()
def about() -> None:
    """Make what training needs."""


@app.command("tasks")
def tasks(
    env: Annotated[str, typer.Option(help="Environment, such as minesweeper or sokoban.")],
    out: Annotated[Path, typer.Option(help="Folder (gets SPLIT.jsonl) or a .jsonl file.")],
    split: Annotated[Split, typer.Option(help="Seeds to draw from; the two never share one.")] = Split.TRAIN,
    num: Annotated[int, typer.Option(min=1, help="Number of tasks.")] = 4096,
    first: Annotated[int, typer.Option(min=0, help="Number of the first task within the split.")] = 0,
    options: Annotated[str, typer.Option(help="Options of the environment as JSON, such as '{\"mines\": 4}'.")] = "{}",
) -> None:
    """Write a prompt dataset: one row a task, with the task as JSON in the column `label`.

    Train on it with `--data.prompt_dataset OUT`, evaluate on it with `--eval.dataset OUT/eval.jsonl`.
    """
    from openrlhf_lamer import envs
    from openrlhf_lamer.tasks import seeded_tasks, write_dataset

    try:
        parsed = json.loads(options)
        envs.make(env, **parsed).close()
    except (json.JSONDecodeError, TypeError) as error:
        fail(f"--options {options!r} is not a JSON object: {error}")
    except envs.TaskError as error:
        fail(f"--env {env}: {error}")
    try:
        chosen = seeded_tasks(env, split.value, num, first=first, options=parsed)
    except ValueError as error:
        fail(f"--num {num} --first {first}: {error}")
    path = out if out.suffix == ".jsonl" else out / f"{split.value}.jsonl"
    write_dataset(path, chosen)
    typer.echo(f"{len(chosen)} {env} tasks ({split.value}) in {path}")


@app.command("alfworld")
def alfworld(
    data: Annotated[
        Path | None,
        typer.Option(envvar="ALFWORLD_DATA", help="Folder of the official games, the one that holds json_2.1.1."),
    ] = None,
    games: Annotated[int, typer.Option(min=0, help="Generated games to make ahead of time.")] = 0,
    split: Annotated[Split, typer.Option(help="Seeds of the generated games.")] = Split.TRAIN,
    first: Annotated[int, typer.Option(min=0, help="Number of the first game within the split.")] = 0,
    task_types: Annotated[
        str, typer.Option(help="Types of the generated games: id, ood, all, or names with commas between.")
    ] = "id",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default one for each core.")] = None,
) -> None:
    """Check the official ALFWorld games, make generated ones ahead of time, or both.

    The official games come with `alfworld-download`. Generated ones need no data and are made when first
    asked for, in half a second each; made ahead of time, training never waits for them.
    """
    from openrlhf_lamer.cli.prepare_alfworld import check, make

    if data is None and not games:
        fail("nothing to do: give --data FOLDER (or set ALFWORLD_DATA) to check official games, or --games N")
    if games:
        make(games, split.value, first, task_types, workers)
    if data is not None:
        check(data)

"""`openrlhf-lamer prepare`: what training needs before it starts."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from openrlhf_lamer.cli.errors import fail
from openrlhf_lamer.cli.prepare_alfworld import alfworld

app = typer.Typer(no_args_is_help=True, help="Make what training needs: prompt datasets, data of environments.")


class Split(StrEnum):
    """Which seeds to draw from."""

    TRAIN = "train"
    EVAL = "eval"


@app.callback()
def about() -> None:
    """Make what training needs."""


app.command("alfworld")(alfworld)


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

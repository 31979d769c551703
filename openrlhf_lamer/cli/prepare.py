"""`openrlhf-lamer prepare`: what training needs before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openrlhf_lamer.cli.errors import fail
from openrlhf_lamer.cli.inputs import environment, json_object

app = typer.Typer(no_args_is_help=True, help="Make what training needs: prompt datasets.")


@app.callback()
def about() -> None:
    """Make what training needs."""


@app.command("tasks")
def tasks(
    out: Annotated[Path, typer.Option(help="Folder (gets SPLIT.jsonl, or eval.jsonl of a panel) or a .jsonl file.")],
    env: Annotated[
        str | None, typer.Option(help="Environment, such as sokoban, or the .py file of an agent that brings its own.")
    ] = None,
    panel: Annotated[
        str | None, typer.Option(help="Instead of an environment, a frozen panel that `openrlhf-lamer tasks` lists.")
    ] = None,
    split: Annotated[
        str, typer.Option(help="train, eval (which share no seed), or a split of the environment's own data.")
    ] = "train",
    num: Annotated[int, typer.Option(min=1, help="Number of tasks.")] = 4096,
    first: Annotated[int, typer.Option(min=0, help="Number of the first task within the split.")] = 0,
    options: Annotated[str, typer.Option(help="Options of the environment as JSON, such as '{\"mines\": 4}'.")] = "{}",
) -> None:
    """Write a prompt dataset: one row a task, with the task as JSON in the column `label`.

    Train on it with `--data.prompt_dataset OUT`, evaluate on it with `--eval.dataset OUT/eval.jsonl`.
    """
    from openrlhf_lamer import envs, panels
    from openrlhf_lamer.tasks import write_dataset

    if (env is None) == (panel is None):
        fail("give either --env, with --split and --num, or --panel")
    if panel is not None:
        try:
            chosen, name, what = panels.load(panel).tasks(), "eval", f"panel {panel}"
        except ValueError as error:
            fail(f"--panel {panel}: {error}")
    else:
        assert env is not None
        env, parsed = environment(env), json_object("--options", options)
        try:
            envs.make(env, **parsed).close()
        except envs.TaskError as error:
            fail(f"--env {env}: {error}")
        try:
            chosen = envs.lookup(env).tasks(split, num, first=first, options=parsed)
        except envs.TaskError as error:
            fail(f"--split {split} --num {num} --first {first}: {error}")
        name, what = split, f"{env}, {split}"
    path = out if out.suffix == ".jsonl" else out / f"{name}.jsonl"
    write_dataset(path, chosen)
    typer.echo(f"{len(chosen)} tasks ({what}) in {path}")

"""`openrlhf-lamer prepare`: prompt datasets, and data of environments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from openrlhf_lamer.cli.errors import fail
from openrlhf_lamer.cli.inputs import environment, json_object, progress

if TYPE_CHECKING:
    from openrlhf_lamer.envs import TextEnv
    from openrlhf_lamer.records import Task

PART = 256
"""Tasks that are drawn at a time."""


class PrepareCommands(TyperGroup):
    """Our own commands, and one for each environment that brings one; environments are imported when asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands, in alphabetical order."""
        from openrlhf_lamer.envs import names

        return sorted({*super().list_commands(ctx), *(name for name in names() if _command(name))})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name; None if there is none."""
        return super().get_command(ctx, cmd_name) or _command(cmd_name)


def _command(env: str) -> Any:
    from openrlhf_lamer.envs import TaskError, lookup

    try:
        function = lookup(env).prepare_command()
    except TaskError:  # unknown, or it can't be loaded, of which the registry has warned
        return None
    if function is None:
        return None
    own = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    own.command(env)(function)
    return typer.main.get_command(own)


app = typer.Typer(
    cls=PrepareCommands, no_args_is_help=True, help="Make what training needs: prompt datasets, data of environments."
)


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
        str, typer.Option(help="train, eval (whose states are kept apart), or a split of the environment's own data.")
    ] = "train",
    num: Annotated[int, typer.Option(min=1, help="Number of tasks.")] = 4096,
    first: Annotated[int, typer.Option(min=0, help="Number of the first task within the split.")] = 0,
    options: Annotated[str, typer.Option(help="Options of the environment as JSON, such as '{\"mines\": 4}'.")] = "{}",
) -> None:
    """Write a prompt dataset: one row a task, with the task as JSON in the column `label`.

    Train on it with `--data.prompt_dataset OUT`, evaluate on it with `--eval.dataset OUT/eval.jsonl`.

    Seeds of `train` that begin in a state which is held out for evaluation are left out, and other ones take their
    place. Held out are the states of the panels of the same environment and options, or half of all states where
    there is no panel and the boards are few.
    """
    from openrlhf_lamer import envs, panels
    from openrlhf_lamer.splits import left_out
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
            chosen = _drawn(envs.lookup(env), split, num, first, parsed)
        except envs.TaskError as error:
            fail(f"--split {split} --num {num} --first {first}: {error}")
        name, what = split, f"{env}, {split}"
        if split == "train" and (replaced := left_out(chosen, first)):
            what += f"; {replaced} seeds left out, whose states are held out for evaluation"
    path = out if out.suffix == ".jsonl" else out / f"{name}.jsonl"
    write_dataset(path, chosen)
    typer.echo(f"{len(chosen)} tasks ({what}) in {path}")


def _drawn(cls: type[TextEnv], split: str, num: int, first: int, options: dict[str, Any]) -> list[Task]:
    """The tasks; those of a range of seeds in parts, since each may have to be set up to see how it begins."""
    if split != "train" or not cls.holds_out:
        return cls.tasks(split, num, first=first, options=options)
    cls.tasks(split, 1, first=first + num - 1, options=options)  # more than there are is refused at once
    found: list[Task] = []
    with progress(f"tasks of {cls.name}", num) as advance:
        while len(found) < num:
            part = cls.tasks(split, min(PART, num - len(found)), first=first + len(found), options=options)
            found += part
            for _ in part:
                advance()
    return found

"""`openrlhf-lamer prepare`: prompt datasets, and data of environments."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from openrlhf_lamer.cli.errors import fail
from openrlhf_lamer.cli.inputs import environment, json_object
from openrlhf_lamer.progress import counting

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
    """Write a prompt dataset: one row per task, with the task as JSON in the column `label`.

    Train on it with `--data.prompt_dataset OUT`, evaluate on it with `--eval.dataset OUT/eval.jsonl`.

    Seeds of `train` whose initial state is held out for evaluation are replaced by other ones. The states held out are
    those of the panels with the same environment and options or, if there is no panel and boards are few, half of all
    states.
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


@app.command("mix")
def mix(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Prompt datasets that `prepare tasks` wrote (.jsonl).")
    ],
    out: Annotated[Path, typer.Option(help="Folder (gets SPLIT.jsonl of the tasks' split) or a .jsonl file.")],
    weights: Annotated[
        str | None,
        typer.Option(help="Weight of each file, such as 2,1: two tasks of the first for each of the second."),
    ] = None,
    num: Annotated[
        int | None, typer.Option(min=1, help="Number of tasks; by default as many as the files have.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides which tasks are drawn, and their order.")] = 0,
) -> None:
    """Mix prompt datasets into one, in given proportions and random order, to train several games in one run.

    For instance `openrlhf-lamer prepare mix data/sokoban/train.jsonl data/minesweeper/train.jsonl --weights 2,1
    --out data/both`. No task is drawn twice: the file that runs out first limits the number of tasks. Without
    `--weights` all tasks of all files are taken. The order has no effect on training, which draws its own by
    `--train.seed`. Train on the mixture with the agents of all games: `--agent_func
    openrlhf_lamer.agents.sokoban,openrlhf_lamer.agents.minesweeper`.
    """
    from openrlhf_lamer.mixing import mixed
    from openrlhf_lamer.tasks import write_dataset

    if len(files) < 2:
        fail(f"{files[0]} is one file; give two or more")
    sets = {str(file): _tasks_of(file) for file in files}
    if len(sets) < len(files):
        fail("a file is given twice; give each once, and its --weights")
    kinds = {"train" if task.split in ("train", "") else "eval" for tasks in sets.values() for task in tasks}
    if len(kinds) > 1:
        fail("some tasks are of the split train and others are not: mix those for evaluation into a file of their own")
    path = out if out.suffix == ".jsonl" else out / f"{kinds.pop()}.jsonl"
    if path.resolve() in [file.resolve() for file in files]:
        fail(f"--out {out} would overwrite {path}, which is mixed; give another folder")
    try:
        chosen = mixed(sets, None if weights is None else _weights(weights, len(files)), num, seed)
    except ValueError as error:
        fail(f"{'' if num is None else f'--num {num}: '}{error}; prepare more of its tasks, or ask for fewer")
    write_dataset(path, chosen)
    games = Counter(task.env for task in chosen)
    typer.echo(f"{len(chosen)} tasks ({', '.join(f'{count} {env}' for env, count in sorted(games.items()))}) in {path}")


def _tasks_of(file: Path) -> list[Task]:
    """The tasks of a prompt dataset, at least one."""
    from openrlhf_lamer.tasks import read_dataset

    try:
        tasks = read_dataset(file)
    except (OSError, ValueError) as error:
        fail(f"{file}: {getattr(error, 'strerror', None) or error}")
    if not tasks:
        fail(f"{file}: no tasks there; make some with `openrlhf-lamer prepare tasks`")
    return tasks


def _weights(text: str, files: int) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) != files or not all(0 < weight < float("inf") for weight in found):
        fail(f"--weights {text}: give a number above 0 for each of the {files} files, such as {','.join('1' * files)}")
    return found


def _drawn(cls: type[TextEnv], split: str, num: int, first: int, options: dict[str, Any]) -> list[Task]:
    """The tasks; those of a range of seeds in parts, since each may have to be set up to see how it begins."""
    if split != "train" or not cls.holds_out:
        return cls.tasks(split, num, first=first, options=options)
    cls.tasks(split, 1, first=first + num - 1, options=options)  # refuses at once to draw more than there are
    found: list[Task] = []
    with counting(f"tasks of {cls.name}", num) as advance:
        while len(found) < num:
            part = cls.tasks(split, min(PART, num - len(found)), first=first + len(found), options=options)
            found += part
            for _ in part:
                advance()
    return found

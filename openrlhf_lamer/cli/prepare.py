"""`openrlhf-lamer prepare`: what training needs before it starts."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openrlhf_lamer.cli.errors import fail
from openrlhf_lamer.cli.inputs import environment, json_object, progress
from openrlhf_lamer.cli.prepare_alfworld import alfworld

if TYPE_CHECKING:
    from openrlhf_lamer.envs import TextEnv
    from openrlhf_lamer.records import Task

app = typer.Typer(no_args_is_help=True, help="Make what training needs: prompt datasets, data of environments.")


PART = 256
"""Tasks that are drawn at a time."""


class Goals(StrEnum):
    """Which goals of WebShop to compile."""

    HUMAN = "human"
    GENERATED = "generated"


@app.callback()
def about() -> None:
    """Make what training needs."""


app.command("alfworld")(alfworld)


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
    if split != "train" or not cls.repeats:
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


@app.command("webshop")
def webshop(
    data: Annotated[
        Path | None, typer.Option(envvar="WEBSHOP_DATA", help="Folder with WebShop's own data files.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New folder for a synthetic catalogue instead.")] = None,
    products: Annotated[
        int | None, typer.Option(min=1, help="Number of products: the first ones of --data, or those made for --out.")
    ] = None,
    goals: Annotated[
        Goals, typer.Option(help="Generated requests, as in the paper, or written ones.")
    ] = Goals.GENERATED,
) -> None:
    """Check and compile WebShop's data, or make a catalogue in its form.

    With `--data` the files items_shuffle*.json, items_ins_v2*.json and items_human_ins.json are read through and
    compiled beside themselves, for one kind of goals. With `--out` they are made first: a synthetic catalogue of any
    size. Then set WEBSHOP_DATA to that folder. Without any of this, the environment makes 1000 products by itself.
    """
    from rich.console import Console
    from rich.progress import Progress

    from openrlhf_lamer.envs import TaskError
    from openrlhf_lamer.envs.webshop import nouns
    from openrlhf_lamer.envs.webshop.stored import compiled_folder, prepare
    from openrlhf_lamer.envs.webshop.synthetic import DEFAULT_PRODUCTS, write_files

    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            fail(f"--out {out}: there is something already; name a new folder")
        try:
            write_files(out, products or DEFAULT_PRODUCTS)
        except OSError as error:
            fail(f"--out {out}: cannot be written: {error}")
        products = None  # all of them
    folder = out or data
    if folder is None:
        fail("give --data FOLDER (or set WEBSHOP_DATA), or --out FOLDER for a synthetic catalogue")
    with Progress(console=Console(stderr=True)) as bar:
        reading = bar.add_task(f"reading {folder}")
        try:
            shop = prepare(
                folder,
                products,
                goals.value,
                lambda done, total: bar.update(reading, completed=done, total=total),
                # As the synthetic catalogue in memory, whatever else is installed: the same tasks on every machine.
                None if out is None else (nouns.BUNDLED, nouns.bundled),
            )
        except TaskError as error:
            fail(f"{'--data' if out is None else '--out'} {folder}: {error}")
    splits = ", ".join(f"{len(numbers)} {name}" for name, numbers in shop.splits.items())
    typer.echo(f"{len(shop.products)} products, {len(shop.goals)} goals ({splits}), catalogue {shop.digest}")
    typer.echo(f"nouns by the tagger {shop.tagger}; compiled in {compiled_folder(folder, products, goals.value)}")
    if products is not None:
        typer.echo(f"play them with the option products={products}")

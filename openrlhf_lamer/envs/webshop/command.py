"""`openrlhf-lamer prepare webshop`: original data checked and compiled, or a catalogue made in its form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openrlhf_lamer.envs.base import TaskError
from openrlhf_lamer.envs.webshop import nouns, require
from openrlhf_lamer.envs.webshop.shop import GoalKind
from openrlhf_lamer.envs.webshop.stored import compiled_folder, prepare
from openrlhf_lamer.envs.webshop.synthetic import DEFAULT_PRODUCTS, write_files


def webshop(
    data: Annotated[
        Path | None, typer.Option(envvar="WEBSHOP_DATA", help="Folder with WebShop's own data files.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New folder for a synthetic catalogue instead.")] = None,
    products: Annotated[
        int | None, typer.Option(min=1, help="Number of products: the first ones of --data, or those made for --out.")
    ] = None,
    goals: Annotated[
        GoalKind, typer.Option(help="Generated requests, as in the paper, or written ones.")
    ] = "generated",
) -> None:
    """Check and compile WebShop's data, or make a catalogue in its form.

    With `--data` the files items_shuffle*.json, items_ins_v2*.json and items_human_ins.json are read through and
    compiled beside themselves, for one kind of goals. With `--out` they are made first: a synthetic catalogue of any
    size. Then set WEBSHOP_DATA to that folder. Without any data, the environment makes 1000 products.
    """
    from rich.console import Console
    from rich.progress import Progress

    require()
    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise TaskError(f"--out {out}: there is something already; name a new folder")
        try:
            write_files(out, products or DEFAULT_PRODUCTS)
        except OSError as error:
            raise TaskError(f"--out {out}: cannot be written: {error}") from error
        products = None  # all of them
    folder = out or data
    if folder is None:
        raise TaskError("give --data FOLDER (or set WEBSHOP_DATA), or --out FOLDER for a synthetic catalogue")
    with Progress(console=Console(stderr=True)) as bar:
        reading = bar.add_task(f"reading {folder}")
        try:
            shop = prepare(
                folder,
                products,
                goals,
                lambda done, total: bar.update(reading, completed=done, total=total),
                # The tagger of the synthetic catalogue in memory, so that tasks are the same on every machine.
                None if out is None else (nouns.BUNDLED, nouns.bundled),
            )
        except TaskError as error:
            raise TaskError(f"{'--data' if out is None else '--out'} {folder}: {error}") from error
    splits = ", ".join(f"{len(numbers)} {name}" for name, numbers in shop.splits.items())
    typer.echo(f"{len(shop.products)} products, {len(shop.goals)} goals ({splits}), catalogue {shop.digest}")
    typer.echo(f"nouns by the tagger {shop.tagger}; compiled in {compiled_folder(folder, products, goals)}")
    if products is not None:
        typer.echo(f"play them with the option products={products}")

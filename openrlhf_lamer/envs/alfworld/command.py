"""`openrlhf-lamer prepare alfworld`: official games checked, generated ones made ahead of time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from openrlhf_lamer.envs.alfworld import catalogue, generator, wheel
from openrlhf_lamer.envs.alfworld.prepare import pregenerate, pretranslate, survey
from openrlhf_lamer.envs.base import TaskError
from openrlhf_lamer.progress import counting
from openrlhf_lamer.tasks import seeded_tasks


def alfworld(
    data: Annotated[
        Path | None,
        typer.Option(envvar="ALFWORLD_DATA", help="Folder of the official games, the one that holds json_2.1.1."),
    ] = None,
    games: Annotated[int, typer.Option(min=0, help="Generated games to make ahead of time.")] = 0,
    split: Annotated[Literal["train", "eval"], typer.Option(help="Seeds of the generated games.")] = "train",
    first: Annotated[int, typer.Option(min=0, help="Number of the first game within the split.")] = 0,
    task_types: Annotated[
        str, typer.Option(help="Types of the generated games: id, ood, all, or names with commas between.")
    ] = "id",
    translate: Annotated[
        bool, typer.Option("--translate", help="Also translate the official games, so that no trial waits for that.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default one for each core.")] = None,
) -> None:
    """Check the official ALFWorld games, make generated ones ahead of time, or both.

    The official games come with `alfworld-download`. Generated ones need no data and are made when first asked for, in
    half a second each; if they are made ahead of time, training never waits for them.
    """
    if translate and data is None:
        raise TaskError("--translate needs --data FOLDER (or ALFWORLD_DATA), the official games")
    if data is None and not games:
        raise TaskError(
            "nothing to do: give --data FOLDER (or set ALFWORLD_DATA) to check official games, or --games N"
        )
    if games:
        _make(games, split, first, task_types, workers)
    if data is not None:
        _check(data, translate, workers)


def _make(games: int, split: str, first: int, task_types: str, workers: int | None) -> None:
    """Make generated games in several processes, with a progress bar."""
    try:
        chosen = catalogue.family(task_types)
        seeds = [task.seed for task in seeded_tasks("alfworld", split, games, first=first) if task.seed is not None]
    except ValueError as error:
        raise TaskError(str(error)) from error
    wheel.require()
    with counting("generated games", games) as advance:
        for _ in pregenerate(seeds, chosen, min(workers or _cores(), games)):
            advance()
    typer.echo(f"{games} generated games ({split}, {chosen}) in {generator.folder_of_games()}")


def _check(data: Path, translate: bool, workers: int | None) -> None:
    """Count the official games and print a table; fails where a split is incomplete or a file broken."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    folder = data / catalogue.FOLDER
    if not folder.is_dir():
        raise TaskError(
            f"--data {data}: it holds no folder {catalogue.FOLDER}; give the folder above that, or run "
            f"`{catalogue.DOWNLOAD}`"
        )
    with Console(stderr=True).status(f"reading the games in {folder}"):
        findings = list(survey(folder))
    table = Table(title=Text(f"{folder}: games found, of those in the official split"))
    table.add_column("task type")
    for finding in findings:
        table.add_column(finding.split, justify="right")
    for name in catalogue.TASK_TYPES:
        official = (f"{finding.counts[name]} of {catalogue.COUNTS[finding.split][name]}" for finding in findings)
        table.add_row(name, *official)
    Console().print(table)
    broken = [line for finding in findings for line in finding.broken]
    for line in broken:
        typer.echo(line, err=True)
    # A split that was never downloaded is no error.
    there = [finding for finding in findings if finding.counts or finding.broken]
    cut = [finding.split for finding in there if not finding.complete]
    if not there or cut:
        what = f"incomplete: {', '.join(cut)}" if cut else "no games"
        files = f", {len(broken)} broken files" if broken else ""
        raise TaskError(f"--data {data}: {what}{files}; run `{catalogue.DOWNLOAD} --data-dir {data}`")
    if translate:
        with counting("translations", sum(len(each.sound) for each in there)) as advance:
            for _ in pretranslate(there, workers or _cores()):
                advance()


def _cores() -> int:
    return len(os.sched_getaffinity(0))

"""The paper's experiments: the commands that run them, and their tables from finished runs.

    python scripts/experiments plan main-table --model MODEL --seeds 0,1,2 > commands.sh
    python scripts/experiments collect main-table --out results

A TOML file, `--map`, names the folders of runs that were not made by these commands. It has a line for each evaluation,
such as `"sokoban-2-boxes/lamer" = ["runs/a", "runs/b"]`, with one run per seed.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import budget
import tables
import typer
from plans import EXPERIMENTS, Setup, plan

from openrlhf_lamer.cli.errors import Commands, fail

NAMES = [*EXPERIMENTS, budget.NAME]

app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, help="The paper's experiments.")

Which = Annotated[list[str], typer.Argument(help=f"Experiments: {', '.join(NAMES)}, or all.", metavar="EXPERIMENT...")]
Model = Annotated[str, typer.Option(help="Folder of the model that training starts from; evaluations take no name.")]
Runs = Annotated[Path, typer.Option(help="Folder of data, trainings and evaluations.")]
Seeds = Annotated[str, typer.Option(help="Seeds, with commas between.")]
Nodes = Annotated[int, typer.Option(min=1, help="Machines of a training.")]
Gpus = Annotated[int, typer.Option(min=1, help="GPUs of each machine.")]
Official = Annotated[
    bool, typer.Option("--official", help="ALFWorld's official games ($ALFWORLD_DATA), not generated ones.")
]


@app.command("plan")
def plan_(
    which: Which,
    model: Model = "models/Qwen3-4B",
    runs: Runs = Path("runs/paper"),
    seeds: Seeds = "0",
    nodes: Nodes = 1,
    gpus: Gpus = 8,
    official: Official = False,
) -> None:
    """Print a shell script that makes everything an experiment needs; finished parts are not made again."""
    setup = _setup(model, runs, seeds, nodes, gpus, official)
    names = _chosen(which)
    evaluations = [each for name in names if name in EXPERIMENTS for each in EXPERIMENTS[name].evaluations]
    typer.echo("set -euo pipefail")
    trainings = tuple(budget.TRAININGS.values()) if budget.NAME in names else ()
    for line in plan(list(dict.fromkeys(evaluations)), setup, trainings):
        typer.echo(line)


@app.command("collect")
def collect(
    which: Which,
    out: Annotated[Path, typer.Option(help="Folder for a CSV, a Markdown table and a PNG of each.")] = Path("results"),
    folders: Annotated[
        Path | None, typer.Option("--map", help="TOML file with the folders of runs that are elsewhere.")
    ] = None,
    model: Model = "models/Qwen3-4B",
    runs: Runs = Path("runs/paper"),
    seeds: Seeds = "0",
    nodes: Nodes = 1,
    gpus: Gpus = 8,
    official: Official = False,
) -> None:
    """Write an experiment's table and picture. A missing result is a gap, with the command that fills it."""
    setup = _setup(model, runs, seeds, nodes, gpus, official)
    given = _map(folders)
    try:
        for name in _chosen(which):
            if name == budget.NAME:
                files = budget.write(setup, given, out)
            else:
                files = tables.write(EXPERIMENTS[name], setup, given, out)
            typer.echo(" ".join(map(str, files)))
    except OSError as error:
        fail(str(error))


def _chosen(which: list[str]) -> list[str]:
    if strange := [name for name in which if name not in (*NAMES, "all")]:
        fail(f"no experiment is called {strange[0]!r}; there are: {', '.join(NAMES)}, or all")
    return NAMES if "all" in which else list(dict.fromkeys(which))


def _setup(model: str, runs: Path, seeds: str, nodes: int, gpus: int, official: bool) -> Setup:
    try:
        chosen = tuple(int(seed) for seed in seeds.split(","))
    except ValueError:
        fail(f"--seeds {seeds!r}: give whole numbers with commas between, such as 0,1,2")
    return Setup(model, runs, chosen, nodes, gpus, official)


def _map(file: Path | None) -> dict[str, list[Path]]:
    if file is None:
        return {}
    try:
        found = tomllib.loads(file.read_text("utf-8"))
        return {name: [file.parent / str(each) for each in folders] for name, folders in found.items()}
    except (OSError, ValueError, TypeError) as error:
        fail(f'--map {file}: {error}; it has lines such as "sokoban-2-boxes/lamer" = ["runs/a", "runs/b"]')


if __name__ == "__main__":
    app()

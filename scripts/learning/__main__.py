"""Experiments that show learning across episodes, on a CPU.

python scripts/learning list
python scripts/learning run doors-lamp --seeds 0,1,2 --minutes 120
python scripts/learning report doors-lamp
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from arms import EXPERIMENTS, Arm, Experiment
from games import pretrained
from reporting import write
from rich.console import Console
from stages import Setup, plan

from openrlhf_lamer.cli.errors import Commands, fail
from openrlhf_lamer.cli.inputs import no_file
from openrlhf_lamer.quickstart.run import require_stack
from openrlhf_lamer.quickstart.stages import Stage, run

app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, help="Learning across episodes, on a CPU.")

Which = Annotated[str, typer.Argument(help=f"One of {', '.join(EXPERIMENTS)}.", metavar="EXPERIMENT")]
Out = Annotated[Path, typer.Option(help="Folder of all results.")]
Model = Annotated[
    Path | None,
    typer.Option(help="Folder of a model in Hugging Face form to start from; by default a tiny one is built."),
]


@app.command("list")
def list_() -> None:
    """List the experiments and their arms."""
    for experiment in EXPERIMENTS.values():
        game = experiment.game
        typer.echo(f"{experiment.name}: {game.env} {dict(game.options)}, N = {game.attempts}, memory {game.memory}")
        typer.echo(f"  {experiment.shows}")
        for arm in experiment.arms:
            typer.echo(f"  {arm.name}: {arm.about}")


@app.command("run")
def run_(
    which: Which,
    arms: Annotated[str | None, typer.Option(help="Arms, with commas between; by default all.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between.")] = "0",
    minutes: Annotated[float, typer.Option(min=0.0, help="No stage begins after this time.")] = 120.0,
    out: Out = Path("runs/learning"),
    model: Model = None,
) -> None:
    """Run the unfinished part of an experiment, one training at a time; the same command resumes it."""
    experiment = _experiment(which)
    chosen = _arms(experiment, arms)
    try:
        numbers = list(dict.fromkeys(int(seed) for seed in seeds.split(",")))
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0:
        fail(f"--seeds {seeds!r}: give whole numbers from 0 on with commas between, such as 0,1,2")
    no_file("--out", out)
    if model is not None and not (model / "config.json").is_file():
        fail(f"--model {model}: no config.json there; give a folder in Hugging Face form")
    if missing := require_stack():
        fail(missing)
    setup, console = _setup(experiment, out, model), Console()
    setup.claim()
    stages = list(plan(experiment, setup, chosen, numbers))

    def after(stage: Stage) -> None:
        # Evaluations after a training fill rows of the same report.
        if stage.folder.is_relative_to(setup.folder / "train"):
            _say(console, write(experiment, setup))

    left = run(stages, console, minutes, after)
    _say(console, write(experiment, setup))
    if left:
        names = ", ".join(stage.name for stage in left)
        console.print(f"{minutes:g} minutes are used up. To go on, type the same command again. Not run yet: {names}")


@app.command("report")
def report(which: Which, out: Out = Path("runs/learning"), model: Model = None) -> None:
    """Write tables (Markdown, CSV) and curves (PNG) from the results so far, of all arms and seeds."""
    experiment = _experiment(which)
    setup = _setup(experiment, out, model)
    files = write(experiment, setup)
    if not files:
        fail(f"{setup.folder} has no evaluation of {which} yet; run it first")
    _say(Console(), files)


def _say(console: Console, files: Sequence[Path]) -> None:
    if files:
        console.print("Report: " + " ".join(map(str, files)), soft_wrap=True, highlight=False)


def _setup(experiment: Experiment, out: Path, model: Path | None) -> Setup:
    game = experiment.game if model is None else pretrained(experiment.game)
    # Training processes run in other working directories.
    return Setup(game, out.absolute(), model and model.absolute())


def _experiment(name: str) -> Experiment:
    if name not in EXPERIMENTS:
        fail(f"no experiment is called {name!r}; there are: {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]


def _arms(experiment: Experiment, names: str | None) -> list[Arm]:
    known = {arm.name: arm for arm in experiment.arms}
    chosen = list(known) if names is None else names.split(",")
    if strange := [name for name in chosen if name not in known]:
        fail(f"--arms: {experiment.name} has no arm {strange[0]!r}; there are: {', '.join(known)}")
    return [arm for name, arm in known.items() if name in chosen]


if __name__ == "__main__":
    app()

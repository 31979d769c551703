"""`openrlhf-lamer quickstart`: LaMer from start to end on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from openrlhf_lamer.cli.errors import fail
from openrlhf_lamer.cli.inputs import no_file


def quickstart(
    env: Annotated[
        Literal["doors", "minesweeper"],
        typer.Option(help="doors: LaMer and RL, with equal budgets of episodes; minesweeper: LaMer on a small board."),
    ] = "doors",
    out: Annotated[
        Path, typer.Option(help="Folder for the results; the same command goes on with what is not finished there.")
    ] = Path("runs/quickstart"),
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the model, the warm start and the training.")] = 0,
) -> None:
    """Train a tiny model through Ray, vLLM and DeepSpeed, and report what it learned.

    A model of under a million parameters imitates a scripted player, is trained,
    and is evaluated before and after. On `doors` a prize is behind one of 8 doors, and burning a lamp costs an attempt
    and shows where it is: LaMer learns to burn it first, and RL does not. Takes 6 to 10 minutes on two cores.
    """
    from dataclasses import replace

    from rich.console import Console

    from openrlhf_lamer.quickstart.run import require_stack, run
    from openrlhf_lamer.quickstart.settings import QUICKSTARTS

    no_file("--out", out)
    missing = require_stack()
    if missing:
        fail(missing)
    settings = replace(QUICKSTARTS[env], seed=seed)
    if steps is not None:
        settings = replace(settings, steps=steps)
    console = Console()
    result = run(out.absolute(), settings, console)
    console.print(result.table.to_rich(console.width))
    console.print(result.verdict, markup=False)
    console.print(f"It took {result.cost}. Report: {out / 'report.md'}", markup=False)

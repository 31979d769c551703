"""`openrlhf-lamer quickstart`: LaMer from start to end on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openrlhf_lamer.cli.errors import fail


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for the results; it is emptied first.")] = Path("runs/quickstart"),
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the model, the warm start and the training.")] = 0,
) -> None:
    """Train a tiny model on MineSweeper through Ray, vLLM and DeepSpeed, and report what it learned.

    A model of under a million parameters imitates a scripted player, is trained with `lamer_gigpo`,
    and is evaluated before and after on tasks it has not seen. Takes about 20 minutes on two cores.
    """
    from dataclasses import replace

    from rich.console import Console

    from openrlhf_lamer.quickstart.run import require_stack, run
    from openrlhf_lamer.quickstart.settings import Settings

    missing = require_stack()
    if missing:
        fail(missing)
    settings = Settings(seed=seed)
    if steps is not None:
        settings = replace(settings, steps=steps)
    console = Console()
    measured, report = run(out.absolute(), settings, console)
    for table in report.sections[0].tables:
        console.print(table.to_rich(console.width))
    console.print(measured.verdict)
    console.print(
        f"{measured.seconds:.0f} s, and {measured.install_seconds:.0f} s of installation; "
        f"peak memory {measured.peak_bytes / 2**30:.1f} GiB. Report: {out / 'report.md'}"
    )

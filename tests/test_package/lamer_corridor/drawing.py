"""`openrlhf-lamer prepare corridor`."""

from __future__ import annotations

from typing import Annotated

import typer

from openrlhf_lamer.envs import TaskError


def draw(rooms: Annotated[int, typer.Option(help="Rooms to draw.")] = 5) -> None:
    """Draw a corridor."""
    if rooms < 2:
        raise TaskError(f"--rooms {rooms}: a corridor has two rooms at least")
    typer.echo("[ ]" * rooms)

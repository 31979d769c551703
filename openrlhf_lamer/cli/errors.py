"""How the commands report what the user can mend."""

from __future__ import annotations

from typing import NoReturn

import typer


def fail(message: str) -> NoReturn:
    """Print one error and leave with exit code 2."""
    typer.echo(f"openrlhf-lamer: error: {message}", err=True)
    raise typer.Exit(2)

"""A program's commands: their help flags, their errors, and the one place that turns these into an exit code."""

from __future__ import annotations

from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from openrlhf_lamer import LamerError


class UsageError(LamerError):
    """A command cannot do what it was asked for; the message names the flag."""


def fail(message: str) -> NoReturn:
    """Raise `UsageError`."""
    raise UsageError(message)


class Commands(TyperGroup):
    """Commands that also take `-h`, and on an error of ours print its message and leave with its exit code."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.context_settings["help_option_names"] = ["-h", "--help"]  # commands inherit those of their group

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was typed."""
        try:
            return super().invoke(ctx)
        except LamerError as error:
            typer.echo(f"openrlhf-lamer: error: {error}", err=True)
            raise typer.Exit(error.exit_code) from error

"""Errors at the command line, and the one place that turns them into a message and an exit code."""

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
    """The commands, each of which leaves by an error of ours with its message and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was typed."""
        try:
            return super().invoke(ctx)
        except LamerError as error:
            typer.echo(f"openrlhf-lamer: error: {error}", err=True)
            raise typer.Exit(error.exit_code) from error

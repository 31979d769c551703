"""The `openrlhf-lamer` command.

A command is a function in a separate module, and one line here. These modules import heavy packages only inside their
functions, so that `--help` answers at once and needs nothing of the GPU stack.
"""

from __future__ import annotations

from typing import Annotated

import typer

from openrlhf_lamer import __version__
from openrlhf_lamer.cli import prepare
from openrlhf_lamer.cli.analyze import analyze
from openrlhf_lamer.cli.credit import credit
from openrlhf_lamer.cli.cross import cross
from openrlhf_lamer.cli.doctor import doctor
from openrlhf_lamer.cli.errors import Commands
from openrlhf_lamer.cli.estimate import estimate
from openrlhf_lamer.cli.eval import evaluate
from openrlhf_lamer.cli.merge import merge
from openrlhf_lamer.cli.play import play
from openrlhf_lamer.cli.quickstart import quickstart
from openrlhf_lamer.cli.report import report
from openrlhf_lamer.cli.tasks import tasks
from openrlhf_lamer.cli.train import FLAGS, train
from openrlhf_lamer.cli.view import view
from openrlhf_lamer.cli.warmstart import warmstart

app = typer.Typer(
    name="openrlhf-lamer",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",
)

app.add_typer(prepare.app, name="prepare")
app.command("tasks")(tasks)
app.command("play")(play)
app.command("estimate", context_settings=FLAGS)(estimate)
app.command("train", context_settings=FLAGS)(train)
app.command("eval")(evaluate)
app.command("analyze")(analyze)
app.command("cross")(cross)
app.command("credit")(credit)
app.command("doctor")(doctor)
app.command("merge")(merge)
app.command("report")(report)
app.command("view")(view)
app.command("warmstart")(warmstart)
app.command("quickstart")(quickstart)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"openrlhf-lamer {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Meta-reinforcement learning for language agents on OpenRLHF (LaMer, arXiv 2512.16848).

    An agent plays several **episodes** of one task in a row and writes a **reflection** on each
    failure; together they are a **trial**. It is trained on the discounted return across the whole
    trial, against the other trials of the same task, its **group**.

    `train` runs a recipe: `openrlhf-lamer train recipes/sokoban/lamer.toml`. It is OpenRLHF's command with our
    flags, `python -m openrlhf_lamer.cli.train_ppo_ray --agent_func openrlhf_lamer.agents.sokoban ...`
    (`--help` shows our flags, `--help-host` OpenRLHF's).
    """


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()

"""`openrlhf-lamer train`: a training from a recipe."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from openrlhf_lamer import recipes
from openrlhf_lamer.cli.errors import fail

PROGRAM = ("python", "-m", "openrlhf_lamer.cli.train_ppo_ray")
JOB = ("ray", "job", "submit", "--address", "http://127.0.0.1:8265", "--")
"""A job for the Ray cluster of this machine."""

FLAGS = {"ignore_unknown_options": True, "allow_extra_args": True}
"""Settings of a command whose other flags are those of the training command."""


def train(
    context: typer.Context,
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE [FLAGS]", help="TOML file, such as recipes/sokoban/lamer.toml.")
    ],
    run: Annotated[
        Path | None,
        typer.Option(help="Folder of the run, which recipes call {run}. By default runs/GAME/NAME, as the recipe's."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the command that would run, check it, and start nothing.")
    ] = False,
) -> None:
    """Train as a recipe says. Flags after it replace what it says.

    For instance `openrlhf-lamer train recipes/sokoban/lamer.toml --lamer.gamma_traj 0.9 --run runs/gamma-0.9`.

    A recipe holds flags of the training command as tables and keys: `[lamer] num_episodes = 3` is
    `--lamer.num_episodes 3`. With `base = "lamer.toml"` it builds on another recipe and lists only what differs. Every
    flag can be typed too: `--train.colocate_all false` switches off what a recipe has on.

    Prepare the tasks first; a recipe's README has the commands. `--dry-run` prints the command for this machine, a flag
    a line, and the same as a job for a Ray cluster, with absolute paths. It checks flags and tasks, but doesn't
    ask the hub for the model. A run that was killed goes on from its last checkpoint when the same command is
    typed again.

    Flags: `python -m openrlhf_lamer.cli.train_ppo_ray --help`, and `--help-host` for all of OpenRLHF's.
    """
    if str(recipe).startswith("--"):
        fail(f"{recipe}: the recipe comes first, and flags after it")
    read = recipes.read(recipe)
    recipes.check_names(read, context.args, _known())
    arguments = recipes.resolve(read, context.args, run)
    if dry_run:
        typer.echo(f"# on this machine\n{command(PROGRAM, arguments)}\n")
        there = command((*JOB, *PROGRAM), recipes.absolute(arguments, Path.cwd()))
        typer.echo(f"# as a job of a Ray cluster; give the address of its dashboard\n{there}")
        with recipes.located(read, context.args):
            _say_checked(arguments)
        return
    from openrlhf_lamer.integration.launch.launcher import launch, prepare

    with recipes.located(read, context.args):
        launch(prepare(arguments))


def command(program: Sequence[str], arguments: Sequence[str]) -> str:
    """A command for a shell, with a flag a line."""
    return " \\\n    ".join(map(shlex.join, [program, *recipes.grouped(arguments)]))


def _known() -> frozenset[str] | None:
    """Names of all flags; None where the host is not installed."""
    from importlib.util import find_spec

    if find_spec("openrlhf") is None:
        return None
    from openrlhf_lamer.integration.launch import flags

    return flags.names()


def _say_checked(arguments: Sequence[str]) -> None:
    """Check the command as far as this machine can, and say so."""
    if _known() is None:
        typer.echo("OpenRLHF is not installed here: its flags and the tasks were not checked.", err=True)
        return
    from openrlhf_lamer.integration.launch.launcher import prepare

    plan = prepare(arguments)
    line = plan.line
    tasks, trials = line["rollout.batch_size"], line["rollout.n_samples_per_prompt"]
    episodes = tasks * trials * line.config.num_episodes
    typer.echo(
        f"Checked, and nothing was started. An update: {tasks} tasks, {trials} trials of each, {episodes} episodes at "
        f"most. GPUs: {plan.gpus}.",
        err=True,
    )

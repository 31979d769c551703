"""`openrlhf-lamer doctor`: is this machine ready to train?"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Annotated

import typer

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.doctor import Check, Verdict
from openrlhf_lamer.vocabulary import CONTEXT_HELP, THINKING_HELP, ContextPolicy

COLOURS = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.ERROR: "bold red"}


def doctor(
    agent_func: Annotated[
        str | None,
        typer.Option(
            help="Agent that will train: a module or .py file; several separated by commas. Without it, all data sets."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model to check: a folder, or a name on the Hugging Face hub.")
    ] = None,
    context: Annotated[ContextPolicy, typer.Option(help=CONTEXT_HELP)] = "turn",
    num_episodes: Annotated[
        int | None, typer.Option(min=1, help="--lamer.num_episodes of the training; by default 3, or by the budget.")
    ] = None,
    turn_budget: Annotated[int | None, typer.Option(min=1, help="--lamer.turn_budget of the training.")] = None,
    max_turns: Annotated[int | None, typer.Option(min=1, help="--lamer.max_turns of the training.")] = None,
    thinking: Annotated[bool, typer.Option("--thinking", help=THINKING_HELP)] = False,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="--rollout.max_new_tokens of the training.")] = None,
    max_len: Annotated[
        int | None, typer.Option(min=2, help="--data.max_len of the training; by default what trials need.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Check what a training needs, before it starts: each line with what was found and what to do.

    Exit code 1 if something is an error; warnings cost time or quality. Nothing is started and nothing written; a
    Ray cluster that is running (RAY_ADDRESS, or one on this machine) is joined for a moment.
    """
    config = LamerConfig(
        num_episodes=num_episodes or turn_budget or 3,
        turn_budget=turn_budget,
        max_turns=max_turns,
        context=context,
        thinking=thinking,
    )
    checks = run(agent_func, model, config, max_new_tokens or config.max_new_tokens, max_len)
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=1))
    else:
        _print(checks)
    if any(check.verdict is Verdict.ERROR for check in checks):
        raise typer.Exit(1)


def run(
    agent_func: str | None, model: str | None, config: LamerConfig, max_new_tokens: int, max_len: int | None
) -> list[Check]:
    """All checks, in the order in which they are shown."""
    from openrlhf_lamer.agents.loading import split_names
    from openrlhf_lamer.doctor import data, machine
    from openrlhf_lamer.doctor import model as models
    from openrlhf_lamer.integration.cpu import cuda_available
    from openrlhf_lamer.integration.launch import diagnosis

    checks, weights = [machine.python(), *diagnosis.checks()], 0
    envs: list[str] = []
    for named in split_names(agent_func) if agent_func else ():
        opened, env = data.agent(named)
        envs.append(env)
        checks.append(opened)
        if opened.verdict is Verdict.OK:
            _, folder = models.find(model, offline=True) if model else (None, None)
            length = None if folder is None else models.context_length(folder)
            checks.append(data.prompts(named, config, max_new_tokens, given=max_len, model=length))
    for env in envs or [""]:
        checks += data.checks(env)
    if model is not None:
        # CPU mode works offline unless the user says otherwise.
        offline = os.environ.get("HF_HUB_OFFLINE", "0" if cuda_available() else "1").lower() in (
            "1",
            "true",
            "yes",
            "on",
        )
        found, weights = models.checks(model, config, offline=offline)
        checks += found
    return [*checks, *machine.checks(weights)]


def _print(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title="openrlhf-lamer doctor")
    for heading in ("check", "verdict", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        # As texts, since findings are not markup.
        verdict = Text(check.verdict, style=COLOURS[check.verdict])
        table.add_row(Text(check.name), verdict, Text(check.found), Text(check.remedy))
    Console().print(table)

"""`openrlhf-lamer cross`: one model plays, another one reflects."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from openrlhf_lamer.cli.errors import fail
from openrlhf_lamer.cli.eval import (
    describe_panel,
    interruptible,
    open_player,
    panel_turns,
    result,
    tasks_and_agents,
    try_tasks,
)
from openrlhf_lamer.cli.inputs import longest, one_form, show
from openrlhf_lamer.progress import counting
from openrlhf_lamer.vocabulary import CONTEXT_HELP, MEMORY_HELP, THINKING_HELP, ContextPolicy

if TYPE_CHECKING:
    from openrlhf_lamer.evaluation.cross import Cell
    from openrlhf_lamer.records import Trial


def cross(
    *,
    base: Annotated[str, typer.Option(help="Checkpoint before training, in Hugging Face form.")],
    trained: Annotated[str, typer.Option(help="Checkpoint after training.")],
    base_endpoint: Annotated[
        str | None, typer.Option(help="Server of the base model; then --base is its name there.")
    ] = None,
    trained_endpoint: Annotated[
        str | None, typer.Option(help="Server of the trained model; then --trained is its name there.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="With servers: folder of the models' tokenizer, to ask them by token ids.")
    ] = None,
    tasks: Annotated[
        str, typer.Option(help="A panel that `openrlhf-lamer tasks` lists, or a prompt dataset (.jsonl).")
    ],
    agent_func: Annotated[
        str | None, typer.Option(help="Agent module or .py file; by default the one of the tasks' environment.")
    ] = None,
    attempts: Annotated[int, typer.Option(min=2, help="Attempts at each task.")] = 3,
    samples: Annotated[int, typer.Option(min=1, help="Trials of each task in each cell.")] = 1,
    memory: Annotated[Literal["reflection", "both"], typer.Option(help=MEMORY_HELP)] = "both",
    context: Annotated[ContextPolicy, typer.Option(help=CONTEXT_HELP)] = "turn",
    thinking: Annotated[bool, typer.Option("--thinking", help=THINKING_HELP)] = False,
    max_turns: Annotated[
        int | None, typer.Option(min=1, help="Turns of an attempt; by default the panel's, else the agent's.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="Temperature.")] = 0.7,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens of a reply; by default 1024, or 4096 with --thinking.")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=2, help="Most tokens of a prompt and its reply; by default what the longest prompt needs."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the trials, and of how reflections are shuffled.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for a run of each cell. An unfinished table in it goes on.")],
    concurrency: Annotated[int, typer.Option(min=1, help="Trials at once.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the table as CSV.")] = False,
) -> None:
    """Exchange the reflections and keep the play, to see which of the two a gain comes from.

    Each of two models plays the same tasks with its own reflections, with the other model's, with its own on other
    tasks (shuffled), and without any (removed); with `--memory reflection` also with earlier turns instead (history).
    Prints success at 1 to k, and paired differences from the trained model with its own reflections and from the
    same player with its own.
    """
    from openrlhf_lamer.config import LamerConfig
    from openrlhf_lamer.evaluation.cross import cells, play_cross, table
    from openrlhf_lamer.evaluation.players import Sampling
    from openrlhf_lamer.evaluation.run import make_jobs

    one_form(as_json, as_csv)
    panel, agents, agent_name = tasks_and_agents(tasks, agent_func)
    if len(agents) > 1:
        fail(f"--tasks {tasks}: tasks of {', '.join(agents)}; give those of one environment at a time")
    (agent,) = agents.values()
    turns = max_turns or panel_turns(tasks) or agent.max_turns
    config = LamerConfig(num_episodes=attempts, max_turns=turns, context=context, memory=memory, thinking=thinking)
    reply = max_new_tokens or config.max_new_tokens
    try_tasks(tasks, panel, agents, config)
    folders = [tokenizer if base_endpoint else base, tokenizer if trained_endpoint else trained]
    length = longest(agents, config, panel, reply, max_length, *folders)
    sampling = Sampling(temperature, 1.0, reply, length)
    opened = {
        name: open_player(
            model,
            endpoint,
            tokenizer if endpoint else None,
            None,
            sampling,
            config,
            share=0.5,
            flags=(f"--{name}", f"--{name}-endpoint"),
        )
        for name, model, endpoint in (("base", base, base_endpoint), ("trained", trained, trained_endpoint))
    }
    settings = {
        "players": {name: who for name, (_, who) in opened.items()},
        "agent": agent_name,
        "panel": describe_panel(tasks, panel),
        "sampling": asdict(sampling),
        "seed": seed,
        "config": result(config),
    }
    jobs = make_jobs(panel, samples)

    async def play() -> dict[Cell, list[Trial]]:
        async with AsyncExitStack() as stack:
            players = {name: await stack.enter_async_context(player) for name, (player, _) in opened.items()}
            with counting(f"trials of {agent.env}", len(jobs) * len(cells(config))) as advance:
                return await play_cross(
                    players,
                    agent,
                    config,
                    sampling,
                    jobs,
                    out,
                    settings,
                    seed=seed,
                    concurrency=concurrency,
                    report=lambda trial: advance(),
                )

    with interruptible(out):
        found = table(asyncio.run(play()), attempts)
    show(found, found.to_json(), as_json=as_json, as_csv=as_csv)

"""`openrlhf-lamer eval`: play a panel with a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from openrlhf_lamer.cli.errors import fail
from openrlhf_lamer.cli.inputs import progress


def evaluate(
    model: Annotated[Path, typer.Option(help="Checkpoint in Hugging Face form.")],
    agent_func: Annotated[str, typer.Option(help="Agent module or .py file, such as openrlhf_lamer.agents.sokoban.")],
    tasks: Annotated[
        str, typer.Option(help="A panel that `openrlhf-lamer tasks` lists, or a prompt dataset (.jsonl).")
    ],
    out: Annotated[Path, typer.Option(help="File that gets a JSON line a trial.")],
    num_episodes: Annotated[int, typer.Option(min=1, help="Attempts at each task.")] = 3,
    max_turns: Annotated[int | None, typer.Option(min=1, help="Turns of an attempt; by default the agent's.")] = None,
    context: Annotated[str, typer.Option(help="turn, episode or trial.")] = "turn",
    memory: Annotated[str, typer.Option(help="history, reflection or both.")] = "both",
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature.")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a reply.")] = 1024,
    max_length: Annotated[int, typer.Option(min=2, help="Most tokens of a prompt and its reply.")] = 4096,
    seed: Annotated[int, typer.Option(help="Seed of the engine.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Play one trial on each task of a panel and print success@1 to N with 95% intervals."""
    from rich.console import Console
    from rich.table import Table

    from openrlhf_lamer import metrics, panels
    from openrlhf_lamer.agents import AgentError, load_agent
    from openrlhf_lamer.config import ConfigError, LamerConfig
    from openrlhf_lamer.evaluation.checkpoint import Sampling, play_panel
    from openrlhf_lamer.evaluation.statistics import success
    from openrlhf_lamer.records import Trial
    from openrlhf_lamer.tasks import read_dataset

    try:
        flags = {"num_episodes": num_episodes, "max_turns": max_turns, "context": context, "memory": memory}
        config = LamerConfig.load(flags)
        agent, _ = load_agent(agent_func)
        is_file = tasks.endswith(".jsonl") or Path(tasks).is_file()
        panel = read_dataset(Path(tasks)) if is_file else panels.load(tasks).tasks()
    except (ConfigError, AgentError, OSError, ValueError) as error:
        fail(str(error))
    if strange := {task.env for task in panel} - {agent.env}:
        fail(f"--tasks {tasks}: tasks of {', '.join(sorted(strange))}, but --agent-func plays {agent.env}")
    if not (model / "config.json").is_file():
        fail(f"--model {model}: no config.json there; give a folder in Hugging Face form")
    out.parent.mkdir(parents=True, exist_ok=True)
    with progress(f"trials of {agent.env}", len(panel)) as advance, out.open("w") as file:

        def report(trial: Trial) -> None:
            file.write(trial.to_json() + "\n")
            advance()

        sampling = Sampling(temperature, 1.0, max_new_tokens, max_length, seed)
        trials = play_panel(model, panel, agent, config, sampling, report=report)
    if as_json:
        typer.echo(json.dumps(metrics.summarize(trials, num_episodes, config.gamma_traj)))
        return
    table = Table(title=f"{model}: {len(trials)} tasks of {agent.env}, temperature {temperature:g}")
    table.add_column("")
    table.add_column("share [95% interval]", justify="right")
    for attempts in range(1, num_episodes + 1):
        table.add_row(f"success@{attempts}", str(success(trials, attempts)))
    Console().print(table)

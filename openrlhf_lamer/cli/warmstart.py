"""`openrlhf-lamer warmstart`: a model that has imitated a scripted player."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openrlhf_lamer.cli.errors import fail
from openrlhf_lamer.cli.inputs import json_object, no_file
from openrlhf_lamer.vocabulary import CONTEXT_HELP, MEMORY_HELP, ContextPolicy, Memory

if TYPE_CHECKING:
    from openrlhf_lamer.warmstart.measures import Learnt

_what, _who, _how, _model = (
    partial(typer.Option, rich_help_panel=panel)
    for panel in ("What is played", "Who is imitated", "Imitation", "The model")
)


def warmstart(
    *,
    env: Annotated[str, _what(help="Environment, such as doors, or the .py file of an agent.")],
    options: Annotated[str, _what(help="Options of the environment as JSON, such as '{\"lamp\": true}'.")] = "{}",
    attempts: Annotated[int, _what(min=1, help="Episodes of a trial (N).")] = 3,
    memory: Annotated[Memory, _what(help=MEMORY_HELP)] = "both",
    context: Annotated[ContextPolicy, _what(help=CONTEXT_HELP)] = "turn",
    max_turns: Annotated[int | None, _what(min=1, help="Turns of an episode; by default the agent's.")] = None,
    trials: Annotated[int, _who(min=1, help="Demonstrations: trials of the player, each on a task of its own.")] = 4000,
    player: Annotated[
        str | None,
        _who(
            help="finder (searches until it was shown what is hidden, then uses that), fallible (MineSweeper), "
            "oracle, random, a mixture such as oracle:0.3,random:0.7, or FILE.py:CLASS. By default the environment's."
        ),
    ] = None,
    player_options: Annotated[
        str, _who(help='Options of the player as JSON, such as \'{"searches": [["lamp"]]}\'.')
    ] = "{}",
    model: Annotated[
        Path | None,
        _model(help="Folder of a pretrained model in Hugging Face form; otherwise one is made from scratch."),
    ] = None,
    layers: Annotated[int, _model(min=1, help="Layers of a model from scratch.")] = 3,
    hidden: Annotated[int, _model(min=32, help="Width of a model from scratch.")] = 128,
    heads: Annotated[int, _model(min=1, help="Heads of a model from scratch, each 32 wide.")] = 4,
    vocabulary: Annotated[int, _model(min=300, help="Most tokens of its tokenizer.")] = 768,
    passes: Annotated[float, _how(min=0.01, help="Passes over the demonstrations.")] = 1.0,
    batch_tokens: Annotated[int, _how(min=1, help="Tokens of a batch, without the beginning all rows share.")] = 4096,
    learning_rate: Annotated[
        float | None,
        _how(min=0.0, help="Peak learning rate; by default 1e-3 from scratch, 5e-5 for a pretrained model."),
    ] = None,
    prompt_weight: Annotated[
        float | None,
        _how(min=0.0, help="Weight of the loss on prompts; by default 0.1 from scratch, 0 for a pretrained model."),
    ] = None,
    max_new_tokens: Annotated[int, _how(min=1, help="Most tokens of a reply.")] = 64,
    max_length: Annotated[
        int | None, _how(min=2, help="Most tokens of a prompt and its reply; by default what trials need.")
    ] = None,
    seed: Annotated[int, _how(min=0, help="Seed of the model, the player's draws and the order of batches.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the model, the demonstrations and the figures.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Let a model imitate a scripted player, so that training starts from one that knows the format.

    For instance `openrlhf-lamer warmstart --env doors --options '{"lamp": true}' --memory history --player-options
    '{"searches": [["lamp"]]}' --out runs/start`, and then train with `--actor.model_name_or_path runs/start/model`.

    The folder gets `model/`, `demonstrations.jsonl`, which `openrlhf-lamer view` shows, and `warmstart.json`. The
    figures say what training can build on: how many of the model's actions are valid, and how likely it plays the right
    action where the player knew it. If that probability is no better than chance, training has nothing to find.
    """
    import sys
    from contextlib import redirect_stdout
    from importlib.util import find_spec

    from rich.console import Console

    from openrlhf_lamer import envs, room
    from openrlhf_lamer.agents import AgentError, load_agent
    from openrlhf_lamer.config import LamerConfig
    from openrlhf_lamer.doctor.model import context_length
    from openrlhf_lamer.progress import bars
    from openrlhf_lamer.warmstart.demonstrations import Rules
    from openrlhf_lamer.warmstart.imitation import Imitation
    from openrlhf_lamer.warmstart.run import Plan, Size, warm_start

    if not find_spec("torch") or not find_spec("transformers"):
        fail("imitation needs torch and transformers: pip install torch transformers")
    no_file("--out", out)
    if model is not None and not (model / "config.json").is_file():
        fail(f"--model {model}: no config.json there; give a folder in Hugging Face form")
    size = Size(layers, hidden, heads, vocabulary)
    if model is not None and size != Size():
        fail("--layers, --hidden, --heads and --vocabulary are of a model from scratch: leave them out, or --model")
    try:
        agent, _ = load_agent(env if env.endswith(".py") else f"openrlhf_lamer.agents.{env}")
    except AgentError as error:
        fail(f"--env {env}: {error}")
    parsed = json_object("--options", options)
    try:
        envs.make(agent.env, **parsed).close()
    except envs.TaskError as error:
        fail(f"--env {env} --options {options}: {error}")
    config = LamerConfig.load(
        {
            "num_episodes": attempts,
            "memory": memory,
            "context": context,
            "max_turns": max_turns or agent.max_turns,
            "env_options": parsed,
        }
    )
    pretrained = model is not None
    rate = learning_rate if learning_rate is not None else 5e-5 if pretrained else 1e-3
    weight = prompt_weight if prompt_weight is not None else 0.0 if pretrained else 0.1
    limit = context_length(model) if model else None
    length, warning = room.settle(
        agent, config, max_new_tokens, [parsed], flag="--max-length", given=max_length, model=limit
    )
    if warning:
        typer.echo(f"openrlhf-lamer: warning: {warning}", err=True)
    plan = Plan(
        Rules(agent, config, max_new_tokens, length),
        trials,
        player,
        json_object("--player-options", player_options),
        model or size,
        Imitation(passes, batch_tokens, rate, weight, seed),
    )
    with redirect_stdout(sys.stderr), bars(Console(stderr=True)) as bar:  # libraries log to stdout
        learnt = warm_start(plan, out, bar)
    if as_json:
        typer.echo((out / "warmstart.json").read_text(), nl=False)
    else:
        typer.echo(f"{_sentence(learnt)}\nThe model is in {out / 'model'}.")


def _sentence(learnt: Learnt) -> str:
    parts = [f"{learnt.valid_actions:.1%} of its actions are valid"]
    if learnt.valid_remarks is not None:
        parts.append(f"{learnt.valid_remarks:.1%} of its reflections hold a remark")
    if learnt.certain is not None:
        parts.append(
            f"it plays the right action with probability {learnt.certain:.3f} where the player knew it "
            f"({learnt.certain_turns} turns)"
        )
    shares = ", ".join(f"{share:.1%}" for share in learnt.success)
    return f"Before training, {'; '.join(parts)}. It wins {shares} within 1, 2, ... episodes of {learnt.trials} trials."

"""`openrlhf-lamer estimate`: what a training takes, before anything is started."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openrlhf_lamer import recipes
from openrlhf_lamer.cli.errors import fail
from openrlhf_lamer.cli.inputs import entries_of

if TYPE_CHECKING:
    from openrlhf_lamer.estimate.lengths import Lengths
    from openrlhf_lamer.estimate.memory import Part
    from openrlhf_lamer.estimate.run import Estimate, Group
    from openrlhf_lamer.evaluation.tables import Cell, Table
    from openrlhf_lamer.integration.launch.sizing import Sized

NOTE = "Computed, not measured."


def estimate(
    words: Annotated[
        list[str],
        typer.Argument(
            help="A recipe, such as recipes/sokoban/lamer.toml, and flags of the training command that replace what it "
            "says; or flags only.",
            metavar="[RECIPE] [FLAGS]",
            show_default=False,
        ),
    ],
    trials: Annotated[
        Path | None,
        typer.Option(
            help="Recorded trials of such a run, for their lengths: a file that --lamer.trials wrote, or a folder of "
            "`eval --out`. By default typical lengths of the game, measured on random play.",
            show_default=False,
        ),
    ] = None,
    reply_tokens: Annotated[
        float | None,
        typer.Option(help="Tokens of a reply, with typical lengths; by default 200.", min=1, show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model whose shape is taken in place of the run's: its folder, or a name such as Qwen/Qwen3-8B.",
            show_default=False,
        ),
    ] = None,
    gpu_memory: Annotated[float, typer.Option(help="Memory of a GPU in GiB.", min=1)] = 80.0,
    generated_per_second: Annotated[
        float | None,
        typer.Option(
            help="Tokens that one rollout engine samples in a second, with all its trials running. Together with "
            "--trained-per-second it gives the seconds of a step.",
            min=0.001,
            show_default=False,
        ),
    ] = None,
    trained_per_second: Annotated[
        float | None,
        typer.Option(
            help="Tokens that one data-parallel rank of the policy trains in a second, forward and backward. A rank is "
            "one GPU, or --ds.tensor_parallel_size of them.",
            min=0.001,
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in bytes and tokens.")] = False,
) -> None:
    """Compute what a training takes: tokens, rows, optimizer steps, GPU memory by part, and seconds of a step.

    For instance `openrlhf-lamer estimate recipes/sokoban/lamer.toml --actor.num_gpus_per_node 4`. Nothing is started,
    and no network is used. Of models on the hub that are not in the cache, Qwen3-0.6B to 14B and Llama-3.1-8B-Instruct
    are known; of a folder, its config.json is read.

    Without OpenRLHF's dependencies, `pip install --no-deps openrlhf` is enough: only its parser is read.
    """
    from openrlhf_lamer.estimate.memory import GIB
    from openrlhf_lamer.estimate.run import estimate as computed

    if (generated_per_second is None) != (trained_per_second is None):
        fail("--generated-per-second and --trained-per-second go together: a step has both")
    if trials is not None and reply_tokens is not None:
        fail("--reply-tokens: recorded trials have their own replies; leave out this flag or --trials")
    run = _sized(words, model)
    lengths = _lengths(run, trials, reply_tokens)
    found = computed(run.run, lengths, gpu_memory * GIB, generated=generated_per_second, trained=trained_per_second)
    if as_json:
        typer.echo(json.dumps(found.as_dict()))
        return
    _print(found, "recorded trials" if trials else "typical lengths, every attempt lost")


def _sized(words: list[str], model: str | None) -> Sized:
    """Sizes of a recipe with the flags after it, or of flags only."""
    from openrlhf_lamer.integration.launch import flags
    from openrlhf_lamer.integration.launch.sizing import sized

    if words[0].startswith("--"):
        return sized(words, model)
    recipe, overrides = recipes.read(Path(words[0])), words[1:]
    recipes.check_names(recipe, overrides, flags.names())
    with recipes.located(recipe, overrides):
        return sized(recipes.resolve(recipe, overrides), model)


def _lengths(run: Sized, trials: Path | None, reply: float | None) -> Lengths:
    from openrlhf_lamer.estimate.lengths import REPLY, mean, recorded, typical

    if trials is not None:
        own = (entry.trial for entry in entries_of(trials))
        return recorded(own, train_reflection=run.line.config.train_reflection)
    tokens = min(REPLY if reply is None else reply, run.line["rollout.max_new_tokens"])
    return mean(
        [
            typical(env, game.config, game.config.max_turns or game.agent.max_turns, tokens)
            for env, game in run.games.items()
        ]
    )


def _print(found: Estimate, lengths: str) -> None:
    from rich.console import Console

    console = Console()
    tables = [_work(found, lengths), *(_memory(found, group) for group in found.groups), _cache(found)]
    for table in tables:
        console.print(table.to_rich(console.width))


def _work(found: Estimate, lengths: str) -> Table:
    from openrlhf_lamer.evaluation.tables import Table

    own, trials = found.work, found.work.trials
    rows = [
        ("trials", own.trials, 1),
        ("replies", round(own.replies), own.replies / trials),
        ("sampled tokens", round(own.sampled), own.sampled / trials),
        ("tokens of prompts", round(own.prompts), own.prompts / trials),
        ("rows", round(own.rows), own.rows / trials),
        ("tokens in rows", round(own.in_rows), own.in_rows / trials),
        ("tokens that a model runs", round(own.processed), own.processed / trials),
        ("trained tokens", round(own.trained), own.trained / trials),
        ("optimizer steps", own.optimizer_steps, None),
        ("micro-batches of a rank in one", own.micro_batches, None),
    ]
    if found.seconds is not None:
        times = found.seconds
        rows += [("seconds of generation", times.generation, None), ("seconds of scoring", times.scoring, None)]
        rows += [("seconds of training", times.training, None), ("seconds of a step", times.step, None)]
    columns = ("", "a step", "a trial")
    return Table("work", "A training step", columns, tuple(rows), f"{NOTE} Lengths: {lengths}.")


def _memory(found: Estimate, group: Group) -> Table:
    """GiB of each part by phase, with sums."""
    from openrlhf_lamer.estimate import memory
    from openrlhf_lamer.evaluation.tables import Table

    used = {phase for part in group.parts for phase in part.phases}
    apart = memory.CRITIC_TRAINING in used and any(
        part.role == "critic" and memory.TRAINING not in part.phases for part in group.parts
    )
    phases = [phase for phase in memory.PHASES if phase in used and (apart or phase not in memory.CRITIC_PHASES)]

    def gib(size: float) -> float:
        return round(size / memory.GIB, 2)

    def held(parts: Iterable[Part]) -> tuple[Cell, ...]:
        own = list(parts)
        sums = [sum(part.size for part in own if phase in part.phases) for phase in phases]
        return tuple(gib(size) if size else None for size in sums)

    labels = dict.fromkeys(f"{part.role}: {part.name}" for part in group.parts)
    rows = [(name, *held(p for p in group.parts if f"{p.role}: {p.name}" == name)) for name in labels]
    rows.append(("sum", *held(group.parts)))
    phase, most = memory.peak(group.parts)
    fits = "fits into" if most <= found.gpu else "does NOT fit into"
    note = f"{NOTE} The peak, {gib(most):g} GiB in {phase}, {fits} {gib(found.gpu):g} GiB."
    if group.on_cpu:
        note += f" Parts that leave the GPU take {gib(group.on_cpu):g} GiB of the machine's memory for each GPU."
    where = f"each of {group.gpus} GPUs" if group.gpus > 1 else "one GPU"
    title = f"GiB on {where}: {', '.join(group.roles)}"
    return Table("memory", title, ("", *phases), tuple(rows), note)


def _cache(found: Estimate) -> Table:
    from openrlhf_lamer.evaluation.tables import Table

    own = found.cache
    rows = (
        ("bytes of a token on one GPU", own.token),
        ("tokens that it holds", own.tokens),
        ("trials that run at once", own.concurrent),
        ("trials with room, as long as prompts may get", own.longest),
        ("trials with room, as long as typical rows get", own.typical),
    )
    note = f"{NOTE} Trials without room wait in the engine."
    return Table("cache", "Key-value cache of one engine", ("", "an engine"), rows, note)

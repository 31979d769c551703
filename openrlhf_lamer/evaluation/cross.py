"""The cross table: does success come from the play or from the reflections?

Two models, `base` and `trained`, play the same tasks with the same seeds. A cell of the table is a run in which
one of them generates every play turn, and reflections come from a source:

| reflections | reply when the loop asks for a reflection |
|---|---|
| `base`, `trained` | that model's, given the prompt for a reflection on the episode that the player lost |
| `shuffled` | a recorded one: the player's own reflections (from the cell where it also reflects) on another task |
| `removed` | one without a remark; the memory keeps everything else |
| `history` | none is asked for: the memory holds the turns of earlier episodes instead of remarks on them |

The memory is that of the configuration in all cells but `history`. With `both`, `removed` leaves exactly the memory
of `history`, so the table has no such cell. With `reflection`, an episode of `removed` knows only that earlier
episodes were played and how they ended.

`shuffled` puts the recorded trials with reflections in an order drawn by the run's seed. Each job takes the next one
that is on another task: no trial meets its own reflections, and all are dealt about equally often. Reflection n stands
for reflection n, or the recorded trial's last one if it has fewer. The cell separates remarks that help through what
they say of this task from those that would help on any task.

The cells of a player are alike up to the end of the first episode: their success at 1 is the same, as far as the engine
repeats itself. Everything else is compared in pairs, on the same task and sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf_lamer import LamerError
from openrlhf_lamer.agents.base import Agent
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.envs.seeding import below, generator
from openrlhf_lamer.evaluation.measured import measured_on
from openrlhf_lamer.evaluation.players import Player, Sampling, playing
from openrlhf_lamer.evaluation.run import Job, Key, run
from openrlhf_lamer.evaluation.statistics import difference, success, won
from openrlhf_lamer.evaluation.tables import Table
from openrlhf_lamer.policies.base import Policy
from openrlhf_lamer.policies.routed import ReplayPolicy, RoutedPolicy, SilentPolicy
from openrlhf_lamer.records import Trial, Turn

PLAYERS = ("base", "trained")


class CrossError(LamerError, ValueError):
    """A cross table that cannot be made; the message says how to fix it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Who plays, and where the reflections come from."""

    player: str
    reflections: str

    @property
    def folder(self) -> str:
        """Name of the cell's folder in that of the table."""
        return f"{self.player}-plays-{self.reflections}"


REFERENCE = Cell("trained", "trained")
"""Cell that the others are compared with."""


def cells(config: LamerConfig) -> list[Cell]:
    """The cells of a table, in the order in which they can be played.

    Raises:
        CrossError: The configuration has no reflections to take away.
    """
    if not config.reflects:
        raise CrossError(f"--memory {config.memory}: there are no reflections to compare; use reflection or both")
    if config.num_episodes < 2:
        raise CrossError("--num-episodes 1: no attempt comes after a reflection; use 2 or more")
    sources = [*PLAYERS, "shuffled", "removed"] + ["history"] * (config.memory == "reflection")
    return [Cell(player, source) for player in PLAYERS for source in sources]


async def play_cross(
    players: Mapping[str, Player],
    agent: Agent,
    config: LamerConfig,
    sampling: Sampling,
    jobs: Sequence[Job],
    folder: Path,
    settings: Mapping[str, Any],
    *,
    seed: int = 0,
    concurrency: int = 64,
    report: Callable[[Trial], None] = lambda trial: None,
) -> dict[Cell, list[Trial]]:
    """Play the cells one after the other, each in a separate folder; a killed table goes on where it was.

    Args:
        players: The players by name, `base` and `trained`, with ids of one tokenizer.
        agent: The environment's prompts and limits.
        config: Episodes, memory, context.
        sampling: Lengths, and the temperature for the record.
        jobs: The tasks, with their samples.
        folder: Where the cells' folders go.
        settings: Everything else that results depend on, ready for JSON.
        seed: Seed of the trials, and of how reflections are dealt.
        concurrency: Most trials at once.
        report: Called for each trial of each cell.

    Raises:
        CrossError: There is nothing to compare, or the players have different tokenizers.
        RunError, RunStoppedError: As `evaluation.run.run`.
    """
    if not same_tokens(players["base"], players["trained"]):
        raise CrossError("--base and --trained have different tokenizers; a table needs two models of one family")
    found: dict[Cell, list[Trial]] = {}
    for cell in cells(config):
        player = players[cell.player]
        own = found.get(Cell(cell.player, cell.player), [])
        asked = config.model_copy(update={"memory": "history"}) if cell.reflections == "history" else config
        play = playing(player, agent, asked, sampling, seed, policy=_policy(cell, players, jobs, own, seed))
        found[cell] = await run(
            jobs,
            play,
            folder / cell.folder,
            {**settings, "cell": {"player": cell.player, "reflections": cell.reflections}},
            concurrency=concurrency,
            report=report,
        )
    return found


def _policy(
    cell: Cell, players: Mapping[str, Player], jobs: Sequence[Job], own: Sequence[Trial], seed: int
) -> Callable[[Job], Policy]:
    """Policies of a cell's jobs.

    Args:
        cell: The cell.
        players: The players by name.
        jobs: All jobs of the cell.
        own: The trials in which the cell's player reflected for itself, if they have been played.
        seed: Seed of the deal.
    """
    player = players[cell.player]
    if cell.reflections == "shuffled":
        dealt = deal(jobs, own, seed)
        return lambda job: RoutedPolicy(player.policy, ReplayPolicy(dealt[job.key]))
    if cell.reflections == "removed":
        routed = RoutedPolicy(player.policy, SilentPolicy(player.chat.end_of_reply))
    else:
        routed = RoutedPolicy(player.policy, players.get(cell.reflections, player).policy)
    return lambda job: routed


def deal(jobs: Sequence[Job], recorded: Sequence[Trial], seed: int) -> dict[Key, tuple[Turn, ...]]:
    """For each job the reflections of a recorded trial on another task.

    Raises:
        CrossError: Fewer than two tasks have reflections.
    """
    donors = [
        (trial.task.id, reflections)
        for trial in recorded
        if trial.failure is None
        and (reflections := tuple(episode.reflection for episode in trial.episodes if episode.reflection is not None))
    ]
    if len({task for task, _ in donors}) < 2:
        raise CrossError(
            "fewer than two tasks were lost and reflected on, so that there are no reflections to shuffle; "
            "use more or harder tasks"
        )
    rng = generator("cross", seed)
    for i in range(len(donors) - 1, 0, -1):
        j = below(rng, i + 1)
        donors[i], donors[j] = donors[j], donors[i]
    dealt: dict[Key, tuple[Turn, ...]] = {}
    for job in jobs:
        place = next(i for i, (task, _) in enumerate(donors) if task != job.task.id)
        # To the end of the queue, so that all are dealt before one comes again.
        task, reflections = donors.pop(place)
        donors.append((task, reflections))
        dealt[job.key] = reflections
    return dealt


def table(found: Mapping[Cell, Sequence[Trial]], attempts: int) -> Table:
    """One row per cell: success at 1 to `attempts`, and the difference of success at `attempts` from two other cells.

    Differences are paired by task and in percentage points: from `REFERENCE`, and from the cell in which the same
    player has its own reflections. Failed trials are left out.
    """
    solved = {cell: won(trials, attempts) for cell, trials in found.items()}
    rows = []
    for cell, trials in found.items():
        own = Cell(cell.player, cell.player)
        rows.append(
            (
                f"{cell.player} plays, reflections {cell.reflections}",
                *(success(trials, k) for k in range(1, attempts + 1)),
                None if cell == REFERENCE else difference([solved[REFERENCE]], [solved[cell]]),
                None if cell in (own, REFERENCE) else difference([solved[own]], [solved[cell]]),
                sum(trial.failure is not None for trial in trials),
            )
        )
    shares = (f"success@{k}" for k in range(1, attempts + 1))
    columns = ("", *shares, f"@{attempts}: from trained with its own", f"@{attempts}: from own reflections", "failed")
    tasks = {trial.task.id: trial.task for trials in found.values() for trial in trials}
    what = measured_on({}, tasks.values())
    note = f"{what}: {len(tasks)} tasks, 95% intervals; differences are paired by task, in points."
    return Table("cross", "Whose play, whose reflections", columns, tuple(rows), note)


def same_tokens(first: Player, second: Player) -> bool:
    """Whether the ids of one player mean the same to the other."""
    if not (first.counts_tokens and second.counts_tokens):
        return first.counts_tokens == second.counts_tokens
    return first.chat.tokenizer.get_vocab() == second.chat.tokenizer.get_vocab()

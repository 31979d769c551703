"""What it costs to wait: trials on one engine, each by itself, against a loop in lockstep, RL, and the host's executor.

    python benchmarks/rollout.py [lockstep] [episodes] [executor] [--out idle.png]
    python benchmarks/rollout.py lockstep episodes --engine vllm --median 24 --longest 96

The trials are recorded (see `recorded.py`): whoever plays them samples the same tokens in the same turns and attempts.
`simulated` is an engine whose decode step costs a + b · batch, on a clock of its own; our code runs on it for real, and
its own time is printed beside. `vllm` is the real engine with a tiny model, which generates as many tokens as recorded.

lockstep  trials a second of our executor, over those of a loop in which all trials wait for each other's turns.
episodes  seconds a batch takes with 3 episodes a trial, over those with as many episodes in trials of 1, and the limit of
          that ratio: tokens over tokens. In sync mode a batch ends with its last trial; in async mode the next one's
          trials take the slots that it leaves free.
executor  our executor against the host's own, in real time, on an engine that sleeps for as long as a reply takes.

Intervals are 95% of the mean over seeds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Protocol, TypeVar

from courses import at_once, in_lockstep, overlapping
from recorded import Engine, Lengths, Player, Record, draw
from rich.console import Console
from rich.table import Table
from simulated import Clocked, Costs, Load, Simulated

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.records import Trial

T = TypeVar("T")

STEP = 0.01
"""Seconds of a decode step of a simulated engine, the replies in it aside (a)."""
RATIOS = ("1:0", "1000:1", "100:1", "32:1", "10:1", "1:1", "0:1")
"""a : b of the simulated engines, from idle to saturated."""
SATURATIONS = (0.0, 0.25, 1.0, 4.0, 8.0, 16.0)
"""b · batch / a of the simulated engines, the batch being LaMer's trials."""
EPISODES = 3
SUCCESSES = {0.0: "every trial plays all its episodes", 0.5: "half of the attempts succeed"}
BATCHES = 6
"""Batches in async mode; the first and the last are not counted."""
WIDTH = 120


class Stage(Protocol):
    """Where trials are played: engines that are simulated, or one that is real."""

    def run(self, course: Callable[[Any], Coroutine[Any, Any, T]]) -> tuple[T, Clocked, list[Load]]: ...


@dataclass(frozen=True)
class Size:
    """What is played: `samples` trials of up to 3 episodes at each task, with what their replies are drawn from."""

    tasks: int
    samples: int
    lengths: Lengths

    def records(self, seed: int) -> list[Record]:
        """LaMer's trials."""
        return draw(self.lengths, seed, tasks=self.tasks, samples=self.samples, episodes=EPISODES)

    def single(self, seed: int) -> list[Record]:
        """RL's trials: the same attempts, each a trial of its own."""
        return draw(self.lengths, seed, tasks=self.tasks, samples=self.samples * EPISODES, episodes=1)

    def player(self, episodes: int = EPISODES, *, logprobs: bool = False) -> Player:
        """Our executor for such trials, with one chat an episode and no limit of time."""
        config = LamerConfig(num_episodes=episodes, context="episode", timeout=1e9)
        return Player(config, self.lengths.turns, logprobs=logprobs)


@dataclass(frozen=True)
class Gain:
    """One seed's trials by themselves and in lockstep."""

    trials: int
    tokens: int
    free: Clocked
    lockstep: Clocked

    @property
    def ratio(self) -> float:
        """Trials a second by themselves over those in lockstep, on the engine's clock."""
        return self.lockstep.seconds / self.free.seconds

    @property
    def with_python(self) -> float:
        """The same if the engine stood still whenever this process computes."""
        return (self.lockstep.seconds + self.lockstep.cpu) / (self.free.seconds + self.free.cpu)


def gain(stage: Stage, size: Size, seed: int) -> Gain:
    """Play one seed's trials both ways; raises AssertionError where not all tokens, prompts included, are the same."""
    records, player = size.records(seed), size.player(logprobs=True)
    free, free_clock, _ = stage.run(lambda engine: at_once(player, engine, records))
    locked, locked_clock, _ = stage.run(lambda engine: in_lockstep(player, engine, records))
    assert transcript(free) == transcript(locked), "other tokens in lockstep"
    return Gain(len(records), tokens(records), free_clock, locked_clock)


def transcript(trials: Sequence[Trial]) -> list[list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """Every token of the trials, as the engine was given and sampled it."""
    return [[(turn.prompt_ids, turn.sampled_ids) for turn in trial.turns] for trial in trials]


def tokens(records: Sequence[Record]) -> int:
    """Tokens that the trials sample."""
    return sum(sum(record.tokens) for record in records)


@dataclass(frozen=True)
class Batch:
    """What one kind of trials took of an engine: seconds and tokens a batch, and its load over time."""

    seconds: float
    tokens: float
    slots: int
    loads: Sequence[Load] = field(repr=False)

    @property
    def running(self) -> float:
        """Replies in the batch, on average over the time that something ran."""
        return sum(
            load.running * (after.time - load.time) for load, after in zip(self.loads, self.loads[1:], strict=False)
        ) / (self.loads[-1].time - self.loads[0].time)

    @property
    def idle(self) -> float:
        """Share of the slots in which no reply was generated."""
        return 1 - self.running / self.slots


@dataclass(frozen=True)
class Cost:
    """LaMer's batches against RL's, in one mode."""

    lamer: Batch
    rl: Batch

    @property
    def ratio(self) -> float:
        """Seconds over seconds."""
        return self.lamer.seconds / self.rl.seconds

    @property
    def limit(self) -> float:
        """Tokens over tokens: what the ratio is on an engine that never waits."""
        return self.lamer.tokens / self.rl.tokens


def sync_cost(stage: Stage, size: Size, seed: int) -> Cost:
    """One batch of each, alone on the engine."""

    def batch(records: Sequence[Record], episodes: int) -> Batch:
        player = size.player(episodes)
        _, clock, loads = stage.run(lambda engine: at_once(player, engine, records))
        return Batch(clock.seconds, tokens(records), len(records), loads)

    return Cost(batch(size.records(seed), EPISODES), batch(size.single(seed), 1))


def async_cost(stage: Stage, size: Size, seed: int) -> Cost:
    """Batch after batch of each, with as many slots as LaMer's batch has trials; seconds at the mean speed."""
    slots = size.tasks * size.samples

    def batch(batches: Sequence[Sequence[Record]], episodes: int) -> Batch:
        player = size.player(episodes)
        ends, _, loads = stage.run(lambda engine: overlapping(player, engine, batches, slots))
        counted = [load for load in loads if ends[0] <= load.time <= ends[-2]]
        speed = (counted[-1].tokens - counted[0].tokens) / (counted[-1].time - counted[0].time)
        each = fmean(map(tokens, batches))
        return Batch(each / speed, each, slots, counted)

    seeds = [seed * BATCHES + number for number in range(BATCHES)]
    return Cost(batch([size.records(each) for each in seeds], EPISODES), batch([size.single(each) for each in seeds], 1))


def costs(a_to_b: str) -> Costs:
    """A simulated engine by its a : b."""
    a, b = map(float, a_to_b.split(":"))
    return Costs(STEP, STEP * b / a) if a else Costs(0.0, STEP / 100)


def saturated(size: Size, saturation: float) -> Simulated:
    """A simulated engine by its b · batch / a."""
    return Simulated(Costs(STEP, STEP * saturation / (size.tasks * size.samples)))


def simulated_gains(size: Size, seed: int) -> list[Gain]:
    """One seed at every a : b."""
    return [gain(Simulated(costs(ratio)), size, seed) for ratio in RATIOS]


def simulated_costs(size: Size, seed: int) -> list[tuple[Cost, Cost]]:
    """One seed at every saturation, in sync and in async mode."""
    stages = [saturated(size, saturation) for saturation in SATURATIONS]
    return [(sync_cost(stage, size, seed), async_cost(stage, size, seed)) for stage in stages]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The mean of some seeds' values with its 95% interval."""
    if len(values) < 2:
        return f"{fmean(values):.{digits}f}"
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return f"{fmean(values):.{digits}f} ± {half:.{digits}f}"


def gains_table(engine: str, size: Size, rows: dict[str, list[Gain]]) -> Table:
    """A row for each engine, with one gain a seed."""
    first = next(iter(rows.values()))
    count = fmean(gain.tokens for gain in first)
    table = Table(
        title=f"{first[0].trials} trials by themselves and in lockstep, {engine} engine, {len(first)} seeds\n"
        f"{described(size.lengths)}; {count:,.0f} tokens, the same ones both ways"
    )
    table.add_column("a : b")
    for heading in ("trials/s lockstep", "trials/s ours", "ratio", "own CPU s lockstep", "ours", "ratio, CPU added"):
        table.add_column(heading, justify="right")
    for name, gains in rows.items():
        table.add_row(
            name,
            f"{fmean(gain.trials / gain.lockstep.seconds for gain in gains):.3f}",
            f"{fmean(gain.trials / gain.free.seconds for gain in gains):.3f}",
            spread([gain.ratio for gain in gains]),
            f"{fmean(gain.lockstep.cpu for gain in gains):.1f}",
            f"{fmean(gain.free.cpu for gain in gains):.1f}",
            spread([gain.with_python for gain in gains]),
        )
    return table


def costs_table(engine: str, size: Size, rows: dict[str, list[tuple[Cost, Cost]]]) -> Table:
    """A row for each engine, with one cost in sync and in async mode a seed."""
    lengths = size.lengths
    title = SUCCESSES.get(lengths.success, f"{lengths.success:.0%} of the attempts succeed")
    trials = size.tasks * size.samples
    seeds = len(next(iter(rows.values())))
    table = Table(
        title=f"LaMer's batch over RL's, {engine} engine, {seeds} seeds: {title}\n"
        f"{size.tasks} tasks × {size.samples} trials of {EPISODES} over × {size.samples * EPISODES} of 1; "
        f"{described(lengths)}\nasync: {trials} slots for both; ÷: ratio over its limit"
    )
    table.add_column(f"b · {trials} / a")
    headings = ("mean batch", "sync ratio", "limit", "÷", "idle", "idle RL", "async ratio", "limit", "÷", "idle", "idle RL")
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, pairs in rows.items():
        cells = [f"{fmean(sync.lamer.running for sync, _ in pairs):.0f}"]
        for mode in zip(*pairs, strict=True):
            cells += [
                f"{fmean(cost.ratio for cost in mode):.2f}",
                f"{fmean(cost.limit for cost in mode):.2f}",
                spread([cost.ratio / cost.limit for cost in mode]),
                f"{fmean(cost.lamer.idle for cost in mode):.0%}",
                f"{fmean(cost.rl.idle for cost in mode):.0%}",
            ]
        table.add_row(name, *cells)
    return table


def described(lengths: Lengths) -> str:
    """What the replies are drawn from, in words."""
    return (
        f"{lengths.turns} turns, {lengths.success:.0%} success an attempt, replies log-normal "
        f"(median {lengths.median}, σ {lengths.sigma:g}, at most {lengths.longest})"
    )


def plot_idle(path: Path, panels: dict[str, tuple[Cost, Cost]]) -> None:
    """The share of idle slots over time: a panel each for what succeeds, a line each for what is played."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(6 * len(panels), 3.6), sharey=True, squeeze=False)
    for axis, (title, (sync, later)) in zip(axes[0], panels.items(), strict=True):
        lines = {"LaMer, sync": sync.lamer, "RL, sync": sync.rl, "LaMer, async": later.lamer, "RL, async": later.rl}
        for name, batch in lines.items():
            start = batch.loads[0].time
            shown = [load for load in batch.loads if load.time - start <= sync.lamer.seconds]
            axis.step(
                [load.time - start for load in shown],
                [1 - load.running / batch.slots for load in shown],
                where="post",
                label=name,
            )
        axis.set(title=title, xlabel="seconds", ylim=(0, 1))
    axes[0][0].set_ylabel("share of idle slots")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    print(f"share of idle slots over time: {path}")


def over_seeds(function: Callable[[int], T], seeds: int) -> list[T]:
    """`function` of each seed, in processes of their own on half of the cores."""
    workers = min(seeds, max(1, (os.cpu_count() or 1) // 2))
    if workers == 1:
        return [function(seed) for seed in range(seeds)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(function, range(seeds)))


def by_row(names: Sequence[str], columns: Sequence[Sequence[T]]) -> dict[str, list[T]]:
    """Rows by name from one column a seed."""
    return {name: list(row) for name, row in zip(names, zip(*columns, strict=True), strict=True)}

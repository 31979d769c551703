"""What it costs to wait: trials on one engine, each by itself, against a loop in lockstep, RL, and the host's executor.

    python benchmarks/rollout.py [lockstep] [episodes] [executor] [--out idle.png]
    python benchmarks/rollout.py lockstep --engine vllm --turns 4 --median 32 --longest 96
    python benchmarks/rollout.py episodes --engine vllm --turns 4 --median 32 --longest 96 --tasks 4

The trials are recorded (see `recorded.py`): whoever plays them samples the same tokens in the same turns and attempts.
`simulated` is an engine whose decode step costs a + b · batch, on a clock of its own; our code runs on it for real, and
its own time is printed beside. `vllm` is the real engine with a tiny model, which generates as many tokens as recorded;
its seconds are those of the wall, so nothing else should run then.

lockstep  trials a second of our executor, over those of a loop in which all trials wait for each other's turns.
episodes  seconds that a batch takes with 3 episodes a trial, over those with as many episodes in trials of 1, and the
          limit of that ratio: tokens over tokens. In sync mode a batch ends with its last trial; in async mode the next
          one's trials take the slots that it leaves free.
executor  our executor against the host's own, in real time, on an engine that sleeps for as long as a reply takes.

Intervals are 95% of the mean over seeds.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median, stdev
from typing import TypeVar

from rich.console import Console
from rich.table import Table
from rollouts.courses import at_once
from rollouts.measures import EPISODES, Cost, Duel, Gain, Size, Stage, async_cost, duel, gain, sync_cost
from rollouts.recorded import Lengths, draw
from rollouts.simulated import Costs, Simulated

T = TypeVar("T")

STEP = 0.01
"""Seconds of a decode step of a simulated engine, what its replies cost aside (a)."""
RATIOS = ("1:0", "1000:1", "100:1", "32:1", "10:1", "1:1", "0:1")
"""a : b of the simulated engines, from idle to saturated."""
SATURATIONS = (0.0, 0.25, 1.0, 4.0, 8.0, 16.0)
"""b · batch / a of the simulated engines, where the batch is all of LaMer's trials."""
ASYNC_SATURATIONS = (0.0, 4.0, 16.0)
"""Those of them that async mode, where five batches are played instead of one, is measured at."""
SUCCESSES = {0.0: "every trial plays all its episodes", 0.5: "half of the attempts succeed"}
PER_TOKEN = 0.001
"""Seconds a token of the engine that the executors are compared on."""
WIDTH = 120


def by_ratio(ratio: str) -> Simulated:
    """A simulated engine by its a : b."""
    a, b = map(float, ratio.split(":"))
    return Simulated(Costs(STEP, STEP * b / a) if a else Costs(0.0, STEP))


def by_saturation(saturation: float, trials: int) -> Simulated:
    """A simulated engine by its b · trials / a."""
    return Simulated(Costs(STEP, STEP * saturation / trials))


def gains(stages: Sequence[Stage], size: Size, seed: int) -> list[Gain]:
    """What not to wait gives on each engine."""
    return [gain(stage, size, seed) for stage in stages]


def sync_costs(stages: Sequence[Stage], size: Size, seed: int) -> list[Cost]:
    """LaMer against RL on each engine, batch by batch."""
    return [sync_cost(stage, size, seed) for stage in stages]


def async_costs(stages: Sequence[Stage], size: Size, seed: int) -> list[Cost]:
    """LaMer against RL on each engine, the next batch in the tail of the last."""
    return [async_cost(stage, size, seed) for stage in stages]


def by_stage(
    measure: Callable[[Sequence[Stage], Size, int], list[T]], stages: Mapping[str, Stage], size: Size, seeds: int
) -> dict[str, list[T]]:
    """The figure of each seed on each engine. Simulated ones are measured in some processes at once."""
    function = partial(measure, list(stages.values()), size)
    workers = min(seeds, max(1, (os.cpu_count() or 1) // 2))
    if workers == 1 or not all(isinstance(stage, Simulated) for stage in stages.values()):
        columns = [function(seed) for seed in range(seeds)]
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            columns = list(pool.map(function, range(seeds)))
    return {name: list(row) for name, row in zip(stages, zip(*columns, strict=True), strict=True)}


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


def costs_table(title: str, size: Size, rows: dict[str, list[Cost]]) -> Table:
    """A row for each engine, with one cost a seed."""
    first = next(iter(rows.values()))
    table = Table(
        title=f"{title}: LaMer's batch over RL's, {len(first)} seeds\n{size.tasks} tasks × {size.samples} trials of up "
        f"to {EPISODES} episodes over × {size.samples * EPISODES} of 1; slots: {first[0].lamer.slots} and "
        f"{first[0].rl.slots}\n{described(size.lengths)}",
        min_width=100,
    )
    headings = ("s LaMer", "s RL", "ratio", "limit", "ratio / limit", "mean batch", "idle", "RL's", "idle")
    for heading in (f"b · {size.tasks * size.samples} / a", *headings):
        table.add_column(heading, justify="right")
    for name, costs in rows.items():
        table.add_row(
            name,
            f"{fmean(cost.lamer.seconds for cost in costs):,.0f}",
            f"{fmean(cost.rl.seconds for cost in costs):,.0f}",
            spread([cost.ratio for cost in costs]),
            spread([cost.limit for cost in costs]),
            spread([cost.ratio / cost.limit for cost in costs]),
            f"{fmean(cost.lamer.running for cost in costs):.0f}",
            f"{fmean(abs(cost.lamer.idle) for cost in costs):.0%}",
            f"{fmean(cost.rl.running for cost in costs):.0f}",
            f"{fmean(abs(cost.rl.idle) for cost in costs):.0%}",
        )
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


def duel_table(duel: Duel, trials: int, per_token: float) -> Table:
    """A row each for wall-clock time and CPU time."""
    runs = len(duel.ours)
    table = Table(
        title=f"Our executor against the host's MultiTurnAgentExecutor: {trials} chats of {duel.replies // trials} "
        f"turns at once\n{1e3 * per_token:g} ms a token; medians of {runs} runs by turns; the same tokens from both",
        min_width=90,
    )
    for heading in ("", "host", "ours", "ratio"):
        table.add_column(heading, justify="right" if heading else "left")
    wall, cpu = [each.seconds for each in duel.host], [each.seconds for each in duel.ours]
    table.add_row("wall-clock s", f"{median(wall):.2f}", f"{median(cpu):.2f}", f"{duel.ratio(lambda c: c.seconds):.3f}")
    host, ours = (1e3 * median(each.cpu for each in side) / duel.replies for side in (duel.host, duel.ours))
    table.add_row("CPU ms a turn", f"{host:.2f}", f"{ours:.2f}", f"{duel.ratio(lambda c: c.cpu):.3f}")
    return table


@contextmanager
def served(size: Size) -> Iterator[Stage]:
    """The real engine, warm."""
    from rollouts.served import Served

    lengths = size.lengths
    stage = Served(size.tasks * size.samples * EPISODES, 3000 + (lengths.turns + 1) * (lengths.longest + 100))
    try:
        stage.run(lambda engine: at_once(size.player(), engine, size.records(1 << 16)))
        yield stage
    finally:
        stage.close()


def lockstep(size: Size, args: argparse.Namespace, real: Stage | None) -> Iterator[Table]:
    """Ours against a loop in lockstep."""
    stages = {args.engine: real} if real else {ratio: by_ratio(ratio) for ratio in RATIOS}
    yield gains_table(args.engine, size, by_stage(gains, stages, size, args.seeds))


def episodes(size: Size, args: argparse.Namespace, real: Stage | None) -> Iterator[Table]:
    """LaMer against RL."""

    def stages(saturations: Sequence[float]) -> Mapping[str, Stage]:
        simulated = {f"{each:g}": by_saturation(each, size.tasks * size.samples) for each in saturations}
        return {args.engine: real} if real else simulated

    shown: dict[str, tuple[Cost, Cost]] = {}
    for success, title in SUCCESSES.items():
        some = replace(size, lengths=replace(size.lengths, success=success))
        sync = by_stage(sync_costs, stages(SATURATIONS), some, args.seeds)
        yield costs_table(f"{title}; {args.engine} engine, sync", some, sync)
        later = by_stage(async_costs, stages(ASYNC_SATURATIONS), some, args.seeds)
        yield costs_table(f"{title}; {args.engine} engine, async", some, later)
        name = args.engine if real else "4"
        shown[f"{title} (b · {size.tasks * size.samples} / a: {name})"] = sync[name][0], later[name][0]
    if args.out:
        plot_idle(args.out, shown)


def executor(size: Size, args: argparse.Namespace, real: Stage | None) -> Iterator[Table]:
    """Ours against the host's."""
    lengths = replace(
        size.lengths, success=1.0
    )  # the defaults of an executor that nobody configures end with a success
    records = draw(lengths, 0, tasks=args.tasks, samples=args.samples, episodes=1)
    yield duel_table(duel(records, lengths.turns, PER_TOKEN, args.runs), len(records), PER_TOKEN)


PARTS = {"lockstep": lockstep, "episodes": episodes, "executor": executor}


def main() -> None:
    """Measure what is asked for and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all where left out")
    parser.add_argument("--engine", choices=("simulated", "vllm"), default="simulated", help="for the first two parts")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8, help="LaMer's trials of a task")
    parser.add_argument("--turns", type=int, default=12, help="of an episode")
    parser.add_argument("--median", type=int, default=200, help="tokens of a reply")
    parser.add_argument("--longest", type=int, default=1024, help="tokens of a reply, at most")
    parser.add_argument("--success", type=float, default=0.3, help="share of the attempts that succeed, in `lockstep`")
    parser.add_argument("--runs", type=int, default=7, help="of each executor")
    parser.add_argument("--out", type=Path, help="image file for the share of idle slots over time, in `episodes`")
    args = parser.parse_args()
    parts = args.parts or list(PARTS)
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there are: {', '.join(PARTS)}")
    lengths = Lengths(turns=args.turns, success=args.success, median=args.median, longest=args.longest)
    size = Size(args.tasks, args.samples, lengths)
    console = Console(width=max(Console().width, WIDTH))
    with served(size) if args.engine == "vllm" else nullcontext() as real:
        for part in parts:
            for table in PARTS[part](size, args, real):
                console.print(table)


if __name__ == "__main__":
    main()

"""Cost of waiting: trials on one engine, each by itself, against a loop in lockstep and against RL.

    python benchmarks/rollout.py [--seeds N] [--tasks N] [--out idle.png]

The trials are recorded (see `recorded.py`): every way to play them samples the same tokens. A decode step of the
simulated engine costs a + b · batch, on a clock of its own; our code runs on it for real. Intervals are 95% confidence
intervals of the mean over seeds. Prints

- our executor's trials per second, relative to a loop in which all trials wait for each other's turns, and
- the seconds of a batch with 3 episodes per trial, relative to the same number of episodes in trials of 1, and the
  limit of that ratio, tokens over tokens. In sync mode a batch ends with its last trial; in async mode the next one's
  trials take the slots that it leaves free.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

from common import grid, show
from rich.table import Table
from rollouts.measures import Cost, async_cost, gain, sync_cost
from rollouts.recorded import EPISODES, SIGMA, Size
from rollouts.simulated import Simulated

STEP = 0.01
"""Seconds of a decode step without its replies (a)."""
RATIOS = {"1:0": 0.0, "1000:1": 0.001, "100:1": 0.01, "32:1": 1 / 32, "10:1": 0.1, "1:1": 1.0}
"""b / a of the engines, from idle to saturated; the last one of the table has a = 0."""
SATURATIONS = (0.0, 0.25, 1.0, 4.0, 8.0, 16.0)
"""b · batch / a of the engines, where the batch is all of LaMer's trials."""
ASYNC_SATURATIONS = (0.0, 4.0, 16.0)
"""The same in async mode, where five batches are played instead of one."""
SUCCESSES = {0.0: "every trial plays all its episodes", 0.5: "half of the attempts succeed"}


def spread(values: Sequence[float]) -> str:
    """The mean of some seeds' values with its 95% interval."""
    if len(values) < 2:
        return f"{fmean(values):.2f}"
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return f"{fmean(values):.2f} ± {half:.2f}"


def described(drawn: Size) -> str:
    """The distribution of replies, in words."""
    replies = f"replies log-normal (median {drawn.median}, σ {SIGMA:g})"
    return f"{drawn.turns} turns, {drawn.success:.0%} success an attempt, {replies}"


def lockstep(size: Size, seeds: int) -> Table:
    """Ours against a loop in lockstep, a row for each engine."""
    trials = size.tasks * size.samples
    title = f"{trials} trials by themselves and in lockstep, {seeds} seeds\n{described(size)}"
    table = grid(title, "a : b", "trials/s lockstep", "trials/s ours", "ratio")
    engines = {name: Simulated(STEP, STEP * share) for name, share in RATIOS.items()}
    for name, engine in (engines | {"0:1": Simulated(0.0, STEP)}).items():
        gains = [gain(engine, size, seed) for seed in range(seeds)]
        means = fmean(trials / locked for _, locked in gains), fmean(trials / free for free, _ in gains)
        table.add_row(name, *(f"{mean:.3f}" for mean in means), spread([locked / free for free, locked in gains]))
    return table


def costs(
    title: str, measure: Callable[[Simulated, Size, int], Cost], size: Size, saturations: Sequence[float], seeds: int
) -> tuple[Table, dict[float, Cost]]:
    """LaMer against RL, a row for each engine; and the first seed's costs on each."""
    trials = size.tasks * size.samples
    table = grid(
        f"{title}: LaMer's batch over RL's, {seeds} seeds\n{size.tasks} tasks × {size.samples} trials of up to "
        f"{EPISODES} episodes over × {size.samples * EPISODES} of 1\n{described(size)}",
        *(f"b · {trials} / a", "s LaMer", "s RL", "ratio", "limit", "ratio / limit", "mean batch", "RL's"),
    )
    firsts = {}
    for saturation in saturations:
        found = [measure(Simulated(STEP, STEP * saturation / trials), size, seed) for seed in range(seeds)]
        firsts[saturation] = found[0]
        lamer, rl = [cost.lamer for cost in found], [cost.rl for cost in found]
        seconds = (f"{fmean(batch.seconds for batch in side):,.0f}" for side in (lamer, rl))
        running = (f"{fmean(batch.running for batch in side):.0f}" for side in (lamer, rl))
        ratios = zip(*((cost.ratio, cost.limit, cost.ratio / cost.limit) for cost in found), strict=True)
        table.add_row(f"{saturation:g}", *seconds, *map(spread, ratios), *running)
    return table, firsts


def episodes(size: Size, seeds: int, out: Path | None) -> Iterator[Table]:
    """LaMer against RL, in both modes."""
    panels: dict[str, tuple[Cost, Cost]] = {}
    for success, title in SUCCESSES.items():
        some = replace(size, success=success)
        table, sync = costs(f"{title}; sync", sync_cost, some, SATURATIONS, seeds)
        yield table
        table, later = costs(f"{title}; async", async_cost, some, ASYNC_SATURATIONS, seeds)
        yield table
        panels[f"{title} (b · {size.tasks * size.samples} / a: 4)"] = sync[4.0], later[4.0]
    if out:
        plot_idle(out, panels)


def plot_idle(path: Path, panels: dict[str, tuple[Cost, Cost]]) -> None:
    """The share of idle slots over time: a panel for each share of successes, a line for each kind of batch."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(6 * len(panels), 3.6), sharey=True, squeeze=False)
    for axis, (title, (sync, later)) in zip(axes[0], panels.items(), strict=True):
        lines = {"LaMer, sync": sync.lamer, "RL, sync": sync.rl, "LaMer, async": later.lamer, "RL, async": later.rl}
        for name, batch in lines.items():
            start = batch.loads[0].time
            points = [(load.time - start, 1 - load.running / batch.slots) for load in batch.loads]
            shown = [point for point in points if point[0] <= sync.lamer.seconds]
            axis.step(*zip(*shown, strict=True), where="post", label=name)
        axis.set(title=title, xlabel="seconds", ylim=(0, 1))
    axes[0][0].set_ylabel("share of idle slots")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    print(f"share of idle slots over time: {path}")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8, help="LaMer's trials of a task")
    parser.add_argument("--turns", type=int, default=12, help="of an episode")
    parser.add_argument("--median", type=int, default=200, help="tokens of a reply")
    parser.add_argument("--out", type=Path, help="image file for the share of idle slots over time")
    args = parser.parse_args()
    size = Size(args.tasks, args.samples, args.turns, 0.3, args.median)
    show(lockstep(size, args.seeds))
    for table in episodes(size, args.seeds, args.out):
        show(table)


if __name__ == "__main__":
    main()

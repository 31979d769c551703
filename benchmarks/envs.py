"""How fast the environments are: resets to new tasks, and steps with random actions.

    python benchmarks/envs.py [ENVIRONMENT ...] [--seeds N]

One process, one core. A step is a whole turn: parsing, the rules, the text of the new state,
and the anchor, as the trial loop asks for them.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from statistics import fmean, quantiles
from typing import Any

from rich.console import Console
from rich.table import Table

from openrlhf_lamer.envs import Task, make

DIFFICULTIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("minesweeper", {"size": 6, "mines": 3}),
    ("minesweeper", {"size": 6, "mines": 5}),
    ("minesweeper", {"size": 10, "mines": 12}),
    ("sokoban", {"size": 6, "boxes": 2}),
    ("sokoban", {"size": 6, "boxes": 3}),
    ("sokoban", {"size": 6, "boxes": 4}),
    ("sokoban", {"size": 6, "boxes": 5}),
    ("sokoban", {"size": 8, "boxes": 3}),
    ("sokoban", {"size": 10, "boxes": 5}),
)


def measure(name: str, options: dict[str, Any], seeds: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each reset, one a seed, and of each step of a random episode after it."""
    env = make(name, **options)
    rng = random.Random(0)
    resets: list[float] = []
    steps: list[float] = []
    for seed in range(seeds):
        task = Task(name, seed=seed)
        start = time.perf_counter()
        env.reset(task)
        resets.append(1e3 * (time.perf_counter() - start))
        over = False
        while not over:
            action = env.random_action(rng)
            start = time.perf_counter()
            step = env.step(action)
            env.anchor()
            steps.append(1e3 * (time.perf_counter() - start))
            over = step.terminated or step.truncated
    return resets, steps


def cells(milliseconds: list[float]) -> Iterator[str]:
    """Calls a second, and the mean, median, 99th percentile and maximum in milliseconds."""
    mean = fmean(milliseconds)
    cuts = quantiles(milliseconds, n=100)
    yield f"{1e3 / mean:,.0f}"
    for figure in (mean, cuts[49], cuts[98], max(milliseconds)):
        yield f"{figure:.3f}"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("environments", nargs="*", help="names; by default all that are listed here")
    parser.add_argument("--seeds", type=int, default=300, help="levels of each difficulty, 2 or more")
    args = parser.parse_args()
    table = Table(title="Environments, one core (times in ms)")
    table.add_column("environment")
    table.add_column("call")
    for heading in ("calls/s", "mean", "median", "p99", "max"):
        table.add_column(heading, justify="right")
    for name, options in DIFFICULTIES:
        if args.environments and name not in args.environments:
            continue
        label = f"{name} {' '.join(f'{key}={value}' for key, value in options.items())}"
        for call, milliseconds in zip(("reset", "step"), measure(name, options, args.seeds), strict=True):
            table.add_row(label, call, *cells(milliseconds))
            label = ""
    Console().print(table)


if __name__ == "__main__":
    main()

"""What the pool of slow environments costs and gives: the same steps inline and on workers.

    python benchmarks/pool.py [--sessions N ...] [--workers N ...] [--milliseconds MS]

Each session plays steps that compute for MS milliseconds, one after the other without a pause, so
workers are saturated. Lag is how late a timer on the event loop fires: what a rollout engine feels.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from functools import partial
from statistics import median, quantiles
from typing import Any

from rich.console import Console
from rich.table import Table

from openrlhf_lamer.envs import Observation, Step, Task, TextEnv
from openrlhf_lamer.envs.session import OpenSession, open_inline
from openrlhf_lamer.integration.rollout.pool import Pool


class Busy(TextEnv):
    """Computes for a while in each step."""

    name = "busy"
    slow = True

    def __init__(self, milliseconds: float) -> None:
        super().__init__()
        self.milliseconds = milliseconds

    def reset(self, task: Task) -> Observation:
        return Observation("state " * 200, tuple(f"go to place {number}" for number in range(30)))

    def step(self, action: str) -> Step:
        until = time.perf_counter() + self.milliseconds / 1e3
        while time.perf_counter() < until:
            pass
        return Step(self.reset(Task("busy", seed=0)), 0.0, False, False, False, True)

    def anchor(self) -> str:
        return "state"

    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        return 0.0, 0.0


async def measure(open_session: OpenSession, sessions: int, milliseconds: float, steps: int) -> tuple[float, ...]:
    """Steps a second; milliseconds of a step at the median; of the loop's lag at the median and 99th percentile."""
    opened = [await open_session(partial(Busy, milliseconds)) for _ in range(sessions)]
    await asyncio.gather(*(each.reset(Task("busy", seed=0)) for each in opened))
    times: list[float] = []
    lags: list[float] = []

    async def play(session: Any) -> None:
        for _ in range(steps // sessions):
            start = time.perf_counter()
            await session.step("go")
            times.append(1e3 * (time.perf_counter() - start))
            await asyncio.sleep(0)

    async def watch() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            lags.append(1e3 * (time.perf_counter() - start) - 1)

    watching = asyncio.create_task(watch())
    start = time.perf_counter()
    await asyncio.gather(*map(play, opened))
    took = time.perf_counter() - start
    watching.cancel()
    await asyncio.gather(*(each.close() for each in opened))
    return len(times) / took, median(times), median(lags), quantiles(lags, n=100)[98]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 32, 512])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--milliseconds", type=float, default=4.0, help="of work in a step; 4 is a step of ALFWorld")
    parser.add_argument("--steps", type=int, default=2048, help="in all, of each measurement")
    args = parser.parse_args()
    table = Table(title=f"Steps of {args.milliseconds:g} ms (times in ms)")
    for heading in ("where", "sessions", "steps/s", "step p50", "lag p50", "lag p99"):
        table.add_column(heading, justify="left" if heading == "where" else "right")
    for workers in (0, *args.workers):
        for sessions in args.sessions:
            open_session = Pool(workers, 60.0).open if workers else open_inline
            row = asyncio.run(measure(open_session, sessions, args.milliseconds, args.steps))
            where = f"workers: {workers}" if workers else "inline"
            table.add_row(where, str(sessions), f"{row[0]:,.0f}", *(f"{figure:.2f}" for figure in row[1:]))
    Console().print(table)


if __name__ == "__main__":
    main()

"""How full evaluation keeps its slots, with an engine that answers every request after the same time.

    python benchmarks/eval.py [--trials N] [--concurrency N ...] [--milliseconds MS ...]

A slot is busy while it has a trial. Until the last trial is begun no slot should be idle: that is *busy*. In the
*whole* run slots fall idle at the end, when nothing is left to begin. *Asking* is the share of slots with a request at
the engine, until the last trial is begun: the rest of a busy slot's time is the environment's, the prompt's and the
event loop's, and grows as answers come faster. The player guesses at random, so that trials differ in length.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.evaluation.players import Player, Sampling, playing
from openrlhf_lamer.evaluation.run import Job, make_jobs, run
from openrlhf_lamer.policies import Generation, Request
from openrlhf_lamer.policies.scripted import RandomPolicy
from openrlhf_lamer.records import Trial
from openrlhf_lamer.tasks import seeded_tasks
from openrlhf_lamer.text_chat import TextChat

Span = tuple[float, float]


class ConstantTime(RandomPolicy):
    """Answers after so many seconds, and notes from when to when it was asked."""

    def __init__(self, seconds: float) -> None:
        super().__init__(TextChat())
        self._seconds = seconds
        self.asked: list[Span] = []

    async def generate(self, request: Request) -> Generation:
        """The script's reply."""
        began = time.perf_counter()
        await asyncio.sleep(self._seconds)
        self.asked.append((began, time.perf_counter()))
        return await super().generate(request)


def share(spans: Sequence[Span], slots: int, begin: float, end: float) -> float:
    """Seconds of `spans` between `begin` and `end`, of all seconds that the slots have there."""
    return sum(max(0.0, min(end, last) - max(begin, first)) for first, last in spans) / (slots * (end - begin))


async def measure(trials: int, slots: int, seconds: float, folder: Path) -> tuple[float, float, float, float]:
    """Trials a second, and shares of the slots: busy, busy in the whole run, asking."""
    policy = ConstantTime(seconds)
    agent, _ = load_agent("openrlhf_lamer.agents.minesweeper")
    play = playing(Player(policy, TextChat(), scripted=True), agent, LamerConfig(), Sampling())
    spans: list[Span] = []

    async def timed(job: Job) -> Trial:
        began = time.perf_counter()
        trial = await play(job)
        spans.append((began, time.perf_counter()))
        return trial

    jobs = make_jobs(seeded_tasks("minesweeper", "eval", trials), 1)
    began = time.perf_counter()
    await run(jobs, timed, folder, {}, concurrency=slots)
    ended = time.perf_counter()
    last = max(first for first, _ in spans)
    return (
        trials / (ended - began),
        share(spans, slots, began, last),
        share(spans, slots, began, ended),
        share(policy.asked, slots, began, last),
    )


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--milliseconds", type=float, nargs="+", default=[20.0, 200.0], help="of an answer")
    args = parser.parse_args()
    table = Table(title=f"{args.trials} trials of MineSweeper")
    for heading in ("slots", "answer, ms", "trials/s", "busy", "whole", "asking"):
        table.add_column(heading, justify="right")
    for milliseconds in args.milliseconds:
        for slots in args.concurrency:
            with tempfile.TemporaryDirectory() as folder:
                row = asyncio.run(measure(args.trials, slots, milliseconds / 1e3, Path(folder)))
            shares = (f"{100 * figure:.1f}%" for figure in row[1:])
            table.add_row(str(slots), f"{milliseconds:g}", f"{row[0]:,.1f}", *shares)
    Console().print(table)


if __name__ == "__main__":
    main()

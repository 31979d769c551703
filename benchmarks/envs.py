"""Speed and size of the environments: resets, steps, memory, and whether it grows.

    python benchmarks/envs.py [ENVIRONMENT ...] [--tasks N] [--live N]
    python benchmarks/envs.py [ENVIRONMENT ...] --soak 10000

Every registered environment in each of its difficulties, in one process. `reset` goes to a new task, `again` back to
the same one. A step is a whole turn: parsing, the rules, the text of the new state, and the anchor.

`--soak` resets one environment over and over instead. It exits with code 1 if memory or temporary files grew by more
than 5% from the first half (without its first fifth) to the second. The minimum of each half counts, since caches come
and go.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager, suppress
from itertools import cycle, islice, product
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

from common import grid, show
from rich.table import Table

from openrlhf_lamer import envs
from openrlhf_lamer.envs import Task, TextEnv
from openrlhf_lamer.envs.base import draw_action

Options = Mapping[str, Any]

STEPS = 50
"""Most steps of an episode."""
SLOW = 10
"""A slow environment is given this many times fewer tasks."""
GROWTH = 0.05
"""Allowed growth of memory and temporary files in the second half of a soak."""
SLACK = 1 << 20
"""Bytes that never count as growth."""
LOOKS = 20
"""Measurements in a soak."""


def some_tasks(name: str, options: Options, number: int) -> list[Task]:
    """The first `number` tasks, or all, of the first split whose data is there."""
    cls = envs.lookup(name)
    for split, asked in product(cls.splits, (number, None)):
        with suppress(envs.TaskError):
            return cls.tasks(split, asked, options=options)[:number]
    return cls.tasks(cls.splits[-1], None, options=options)  # raises what is missing


def play(env: TextEnv, task: Task, rng: random.Random) -> Iterator[float]:
    """Play one episode at random; yields the milliseconds of the reset, then of each step."""
    start = time.perf_counter()
    observation = env.reset(task)
    yield 1e3 * (time.perf_counter() - start)
    for _ in range(STEPS):
        action = draw_action(env, observation, rng)
        start = time.perf_counter()
        step, _ = env.step(action), env.anchor()
        yield 1e3 * (time.perf_counter() - start)
        observation = step.observation
        if step.terminated or step.truncated:
            return


def speed(name: str, options: Options, number: int) -> dict[str, list[float]]:
    """Milliseconds of each call by its kind."""
    rng = random.Random(0)
    calls: dict[str, list[float]] = {"reset": [], "again": [], "step": []}
    with closing(envs.make(name, **options)) as env:
        for task in some_tasks(name, options, number):
            for kind in ("reset", "again"):
                reset, *steps = play(env, task, rng)
                calls[kind].append(reset)
                calls["step"] += steps
    return calls


def live_size(name: str, options: Options, live: int) -> tuple[float, float]:
    """Bytes of memory and temporary files that a live environment takes in mid-episode, shared caches aside."""
    rng = random.Random(0)
    tasks = cycle(some_tasks(name, options, live))
    with temporary_files() as folder:
        held = [play_on(envs.make(name, **options), next(tasks), rng)]  # loads what all share
        before = resident(), temporary(folder)
        held += [play_on(envs.make(name, **options), task, rng) for task in islice(tasks, live)]
        after = resident(), temporary(folder)
        for env in held:
            env.close()
    return (after[0] - before[0]) / live, (after[1] - before[1]) / live


def play_on(env: TextEnv, task: Task, rng: random.Random) -> TextEnv:
    """The environment, a few steps into an episode."""
    for _ in islice(play(env, task, rng), 4):
        pass
    return env


def soak(name: str, resets: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Memory and temporary files in bytes: the minimum in each half of `resets` resets."""
    options = envs.lookup(name).difficulties[0]
    rng = random.Random(0)
    tasks = cycle(some_tasks(name, options, resets))
    found: list[tuple[int, int]] = []
    with temporary_files() as folder, closing(envs.make(name, **options)) as env:
        for _ in range(LOOKS):
            for task in islice(tasks, resets // LOOKS):
                play_on(env, task, rng)
            found.append((resident(), temporary(folder)))
    memory, files = zip(*found, strict=True)
    early, late = slice(LOOKS // 10, LOOKS // 2), slice(LOOKS // 2, None)
    return (min(memory[early]), min(files[early])), (min(memory[late]), min(files[late]))


@contextmanager
def temporary_files() -> Iterator[str]:
    """A separate folder for this process's temporary files."""
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        yield folder


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def temporary(folder: str) -> int:
    """Bytes of temporary files, including deleted ones that are still mapped or open."""
    held = {path: path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()}
    for line in Path("/proc/self/maps").read_text().splitlines():
        if folder in line and line.endswith("(deleted)"):
            addresses, _, offset, _, _, name = line.split(maxsplit=5)
            start, stop = (int(address, 16) for address in addresses.split("-"))
            held[Path(name)] = max(held.get(Path(name), 0), int(offset, 16) + stop - start)
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor that lists the others
            if "(deleted)" in (name := str(link.readlink())):
                held[Path(name)] = link.stat().st_size
    return sum(held.values())


def apart(function: Any, *arguments: Any) -> Any:
    """Result of `function` in a new process, whose memory nothing else has touched."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def speed_table(names: list[str], number: int, live: int) -> Table:
    """A row for each environment, difficulty and call."""
    headings = ("", "call", "calls/s", "mean", "median", "p99", "KB live", "KB files")
    table = grid("Environments, one core (times in ms)", *headings, left=("call",))
    for name in names:
        table.add_section()
        table.add_row(f"[bold]{name}")
        share = SLOW if envs.lookup(name).slow else 1
        for options in envs.lookup(name).difficulties:
            label = " ".join(f"{key}={value}" for key, value in options.items())
            try:
                sizes = [f"{size / 1e3:,.1f}" for size in apart(live_size, name, options, max(live // share, 2))]
                for call, milliseconds in speed(name, options, max(number // share, 2)).items():
                    mean, cuts = fmean(milliseconds), quantiles(milliseconds, n=100)
                    figures = (f"{figure:.3f}" for figure in (mean, cuts[49], cuts[98]))
                    table.add_row(label, call, f"{1e3 / mean:,.0f}", *figures, *sizes)
                    label, sizes = "", []
            except (envs.TaskError, ImportError) as error:
                table.add_row(f"{label} not measured: {error}")
    return table


def soak_table(names: list[str], resets: int) -> tuple[Table, bool]:
    """A row for each environment, and whether nothing grew."""
    halves = ("MB first half", "MB second", "files first half", "files second")
    table, flat = grid("Soak", "environment", "resets", *halves, ""), True
    for name in names:
        number = resets // SLOW if envs.lookup(name).slow else resets
        try:
            before, after = apart(soak, name, number)
        except (envs.TaskError, ImportError) as error:
            table.add_row(f"{name} not measured: {error}")
            continue
        grew = any(late > early * (1 + GROWTH) + SLACK for early, late in zip(before, after, strict=True))
        flat = flat and not grew
        cells = [f"{figure / 1e6:,.1f}" for pair in zip(before, after, strict=True) for figure in pair]
        table.add_row(name, f"{number:,}", *cells, "[red]grew[/]" if grew else "flat")
    return table, flat


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("environments", nargs="*", help="names; by default all that are registered")
    parser.add_argument("--tasks", type=int, default=300, help="tasks of each difficulty; a tenth where it is slow")
    parser.add_argument("--live", type=int, default=1000, help="live environments to weigh; a tenth where it is slow")
    parser.add_argument("--soak", type=int, metavar="RESETS", help="reset so often; a tenth where it is slow")
    args = parser.parse_args()
    names = args.environments or list(envs.names())
    table, flat = soak_table(names, args.soak) if args.soak else (speed_table(names, args.tasks, args.live), True)
    show(table)
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())

"""What `openrlhf-lamer prepare alfworld` does: look over official data, make games ahead of time."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from openrlhf_lamer.envs.alfworld import generator
from openrlhf_lamer.envs.alfworld.catalogue import COUNTS, FILE, official_games
from openrlhf_lamer.envs.base import TaskError


@dataclass(frozen=True)
class Finding:
    """What there is of one official split.

    Attributes:
        counts: Sound games by task type; no entries where nothing is there.
        broken: Files that are no games, each with what is wrong with it.
    """

    split: str
    counts: Counter[str]
    broken: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every official game is there."""
        return not self.broken and dict(self.counts) == dict(COUNTS[self.split])


def survey(folder: Path) -> Iterator[Finding]:
    """Read all games of the official splits in `folder`, split by split."""
    for split in COUNTS:
        counts: Counter[str] = Counter()
        broken: list[str] = []
        try:
            for game in official_games(split, folder=folder):
                if game.problem:
                    broken.append(f"{folder / game.name / FILE}: {game.problem}")
                else:
                    counts[game.task_type] += 1
        except TaskError:  # no games at all
            pass
        yield Finding(split, counts, tuple(broken))


def pregenerate(seeds: Sequence[int], task_types: str, workers: int) -> Iterator[int]:
    """Make the games of these seeds in several processes; yields each seed once its game is on disk."""
    # Not forked: the parent may run threads, and each worker loads the engine anyway.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(_make, seed, task_types): seed for seed in seeds}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        finally:
            pool.shutdown(cancel_futures=True)


def _make(seed: int, task_types: str) -> None:
    """In a worker: nothing is returned, the game is on disk."""
    generator.game(seed, task_types)

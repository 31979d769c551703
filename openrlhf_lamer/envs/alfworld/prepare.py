"""Work of `openrlhf-lamer prepare alfworld`: check official data, make games ahead of time."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf_lamer.envs.alfworld import games, generator
from openrlhf_lamer.envs.alfworld.catalogue import COUNTS, DOWNLOAD, FILE, official_games
from openrlhf_lamer.envs.base import TaskError


@dataclass(frozen=True)
class Finding:
    """Contents of one official split on disk.

    Attributes:
        counts: Sound games by task type; empty if there are none.
        sound: Their files.
        broken: Broken files, each with its defect.
    """

    split: str
    counts: Counter[str]
    sound: tuple[Path, ...]
    broken: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every official game is there."""
        return not self.broken and dict(self.counts) == dict(COUNTS[self.split])


def survey(folder: Path) -> Iterator[Finding]:
    """Read all games of the official splits in `folder`, split by split."""
    for split in COUNTS:
        counts: Counter[str] = Counter()
        sound: list[Path] = []
        broken: list[str] = []
        try:
            for game in official_games(split, folder=folder):
                path = folder / game.name / FILE
                if game.problem:
                    broken.append(f"{path}: {game.problem}")
                else:
                    sound.append(path)
                    counts[game.task_type] += 1
        except TaskError:  # no games at all
            pass
        yield Finding(split, counts, tuple(sound), tuple(broken))


def pregenerate(seeds: Sequence[int], task_types: str, workers: int) -> Iterator[None]:
    """Make the games of these seeds in several processes; yields as each one is on disk."""
    return _in_processes(_make, [(seed, task_types) for seed in seeds], workers)


def pretranslate(findings: Sequence[Finding], workers: int) -> Iterator[None]:
    """Translate the official games that were found, in several processes; yields as each one is on disk."""
    return _in_processes(_translate, [(path,) for finding in findings for path in finding.sound], workers)


def _in_processes(job: Callable[..., None], arguments: Sequence[tuple[Any, ...]], workers: int) -> Iterator[None]:
    # Not forked: the parent may run threads, and each worker loads the engine anyway.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            for future in as_completed([pool.submit(job, *each) for each in arguments]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _make(seed: int, task_types: str) -> None:
    generator.game(seed, task_types)


def _translate(path: Path) -> None:
    try:
        games.load(path)
    except games.GameError as error:
        raise TaskError(f"alfworld: {path}: {error}; run `{DOWNLOAD}`") from error

"""Results of an experiment's trainings so far: measures of every evaluation, by arm, step and seed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from arms import Arm, Experiment
from behaviours import behaviours
from games import Game
from stages import Setup

from openrlhf_lamer import metrics
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.evaluation.cross import Cell, cells
from openrlhf_lamer.evaluation.diversity import Diversity, diversity
from openrlhf_lamer.evaluation.diversity import Path as Way
from openrlhf_lamer.evaluation.run import read_entries, read_evaluations, read_trials
from openrlhf_lamer.evaluation.statistics import Estimate, Samples, mean, share, won
from openrlhf_lamer.quickstart.stages import EVALUATIONS, TRIALS, read_note
from openrlhf_lamer.records import Trial

Measures = Mapping[str, Samples]
"""Values of an evaluation by the measure's name, then by task."""

FIRST, SECOND = "success@1", "wins attempt 2"
"""Measures of first attempts, and of second ones after a lost first."""

_SEED = re.compile(r"seed-(\d+)")


@dataclass(frozen=True)
class Found:
    """Results of an arm.

    Attributes:
        arm: The arm.
        evaluations: Measures by step, then by seed.
        apart: Wins of attempts without memory, by seed; only for an arm with single attempts.
        diversity: Diversity of first attempts at the end of the training; None before a training is finished.
        cross: Trials of each cell of the cross table, by seed.
    """

    arm: Arm
    evaluations: Mapping[int, Mapping[int, Measures]]
    apart: Mapping[int, Samples]
    diversity: Diversity | None
    cross: Mapping[Cell, Mapping[int, Sequence[Trial]]]

    @property
    def last(self) -> int | None:
        """Step of the latest evaluation; None without any."""
        return max(self.evaluations, default=None)

    def at(self, step: int, name: str) -> Estimate | None:
        """Share of a measure at a step, pooled over seeds; None if no evaluation has it."""
        runs = list(self.samples(step, name).values())
        if not runs:
            return None
        return mean(runs, "%").within(0, 1) if name == SECOND else share(runs)

    def samples(self, step: int, name: str) -> dict[int, Samples]:
        """Values of a measure at a step, by seed, of the seeds that have them; of `SECOND`, those of `of_lost`."""
        runs = dict(sorted(self.evaluations.get(step, {}).items()))
        return of_lost(runs) if name == SECOND else {seed: own[name] for seed, own in runs.items() if name in own}


def find(experiment: Experiment, setup: Setup) -> list[Found]:
    """Results of all arms, for all seeds found.

    Raises:
        RunError: A file of trials cannot be read.
    """
    return [_found(setup, arm) for arm in experiment.arms]


def _found(setup: Setup, arm: Arm) -> Found:
    game = setup.game
    evaluations: dict[int, dict[int, Measures]] = {}
    ends: list[list[Way]] = []
    for seed in _seeds(setup.training(arm, 0)):
        folder = setup.training(arm, seed)
        for step, trials in read_evaluations(folder / EVALUATIONS).items():
            evaluations.setdefault(step, {})[seed] = measures(trials, game.attempts)
        if _finished(folder):
            ends.append(list(_end(folder / TRIALS, game, arm)))
    apart = {
        seed: won(read_trials(folder), 1)
        for seed in _seeds(setup.apart(arm, 0))
        if _finished(folder := setup.apart(arm, seed))
    }
    return Found(arm, evaluations, apart, diversity(ends, 1), _crossed(setup, arm))


def measures(trials: Sequence[Trial], attempts: int) -> Measures:
    """`success@1` to `success@N`, and the behaviours."""
    return {f"success@{k}": won(trials, k) for k in range(1, attempts + 1)} | behaviours(trials)


def of_lost(runs: Mapping[int, Measures]) -> dict[int, Samples]:
    """Values, by seed and task, whose mean is the share of lost first attempts with a won second one.

    Tasks differ in how many first attempts are lost, so this is a ratio r = W / L of two means over tasks: of the
    trials with a lost first and a won second attempt, and of those with a lost first. A task's value is the ratio's
    linear approximation r + (w - r l) / L, so that intervals and pairs are those of a mean.
    """
    # Of each task's trials, the shares with a lost first attempt, and with a won second one after it.
    counts = {
        seed: {
            task: (1 - fmean(first), sum(own.get(SECOND, {}).get(task, ())) / len(first))
            for task, first in own[FIRST].items()
        }
        for seed, own in runs.items()
    }
    tasks = set().union(*counts.values())
    lost, wins = (
        fmean(fmean(own[task][n] for own in counts.values() if task in own) for task in tasks) for n in (0, 1)
    )
    if not lost:
        return {}
    rate = wins / lost
    return {
        seed: {task: [rate + (later - rate * first) / lost] for task, (first, later) in own.items()}
        for seed, own in counts.items()
    }


def _end(file: Path, game: Game, arm: Arm) -> Iterator[Way]:
    """Paths of the trials between the last two evaluations: for each task, as many as in a group of LaMer's."""
    group = game.group * (game.attempts if arm.single else 1)
    taken: dict[tuple[int | None, int | None], int] = {}
    for entry in read_entries(file, last=game.every * game.tasks * group):
        place = entry.step, entry.group
        taken[place] = taken.get(place, 0) + 1
        if entry.trial.failure is None and taken[place] <= game.group:
            yield metrics.paths_of(entry.trial), f"{entry.trial.task.id} at {entry.step}"


def _crossed(setup: Setup, arm: Arm) -> dict[Cell, dict[int, list[Trial]]]:
    game, memory = setup.game, arm.memory or setup.game.memory
    found: dict[Cell, dict[int, list[Trial]]] = {}
    for seed in _seeds(setup.cross(arm, 0)):
        if _finished(folder := setup.cross(arm, seed)):
            for cell in cells(LamerConfig(num_episodes=game.attempts, memory=memory)):
                found.setdefault(cell, {})[seed] = read_trials(folder / cell.folder)
    return found


def _finished(folder: Path) -> bool:
    return read_note(folder).finished


def _seeds(folder: Path) -> list[int]:
    """Seeds that have a folder next to this one."""
    return sorted(int(named[1]) for each in folder.parent.glob("seed-*") if (named := _SEED.fullmatch(each.name)))

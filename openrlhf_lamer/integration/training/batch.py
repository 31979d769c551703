"""A batch of trials on its way through one training step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from openrlhf_lamer import LamerError
from openrlhf_lamer.integration.rollout.sample import RowBatch, TrialExperience
from openrlhf_lamer.records import Trial

SHOWN = 3
"""Failures that the message of an abort shows."""
MESSAGE_LIMIT = 300
"""Characters that it shows of each."""


class TooManyFailuresError(LamerError, RuntimeError):
    """More trials of a batch failed than `--lamer.max_failed_share` allows."""

    exit_code = 1


@dataclass
class TrialBatch:
    """Trials in groups of one task, and what was computed of them.

    Attributes:
        trials: All trials, failed ones among them.
        groups: For each trial, its group.
        live: Indices of the trials without a failure.
        returns: For each trial, its turns' returns; None until credit is assigned, or where a
            stock estimator ran.
        advantages: For each trial, its turns' advantages, likewise.
        rows: The rows that were made of it.
    """

    trials: tuple[Trial, ...]
    groups: np.ndarray
    live: np.ndarray
    returns: list[np.ndarray] | None = field(default=None)
    advantages: list[np.ndarray] | None = field(default=None)
    rows: RowBatch | None = field(default=None)

    @classmethod
    def of(cls, samples: Sequence[TrialExperience], group_size: int, max_failed_share: float) -> TrialBatch:
        """Collect the trials of `samples`, which come in whole groups, one after the other.

        Raises:
            TooManyFailuresError: with the last failures, where too many trials failed, or all.
            RuntimeError: where a group mixes tasks, which would make every baseline wrong.
        """
        trials = tuple(sample.trial for sample in samples if sample.trial is not None)
        if len(trials) != len(samples) or len(trials) % group_size:
            raise RuntimeError(f"{len(samples)} samples with {len(trials)} trials are no whole groups of {group_size}")
        groups = np.arange(len(trials)) // group_size
        for start in range(0, len(trials), group_size):
            tasks = {trial.task.id for trial in trials[start : start + group_size]}
            if len(tasks) > 1:
                raise RuntimeError(f"one group holds trials of several tasks: {sorted(tasks)}")
        live = np.array([i for i, trial in enumerate(trials) if trial.failure is None], dtype=np.int64)
        failed = len(trials) - len(live)
        if failed > max_failed_share * len(trials) or not len(live):
            raise TooManyFailuresError(_failures(trials, failed, max_failed_share))
        return cls(trials, groups, live)

    def by_trial(self, values: np.ndarray, trial_column: np.ndarray) -> list[np.ndarray]:
        """One array a trial of a column of the live trials' turn table; empty for failed trials."""
        counts = np.bincount(trial_column, minlength=len(self.live))
        parts = np.split(values, np.cumsum(counts)[:-1]) if len(self.live) else []
        result = [np.empty(0) for _ in self.trials]
        for index, part in zip(self.live, parts, strict=True):
            result[index] = part
        return result

    def with_rows(self, rows: RowBatch) -> TrialBatch:
        """This batch with the rows that were made of it."""
        return replace(self, rows=rows)


def _failures(trials: Sequence[Trial], failed: int, limit: float) -> str:
    counts = Counter((trial.failure.kind.value, trial.failure.stage) for trial in trials if trial.failure)
    kinds = ", ".join(f"{count} {kind} in {stage}" for (kind, stage), count in counts.most_common())
    allowed = (
        f"more than --lamer.max_failed_share {limit:g} allows" if failed < len(trials) else "so none can be trained"
    )
    last = [trial for trial in trials if trial.failure][-SHOWN:]
    shown = "\n".join(f"  {_failure(trial)}" for trial in last)
    return f"{failed} of {len(trials)} trials failed ({kinds}), {allowed}. The last ones:\n{shown}"


def _failure(trial: Trial) -> str:
    """Where and how a trial failed, on one line, with what it takes to play it again."""
    assert trial.failure is not None
    sampled = "" if trial.seed is None else f", sampled by seed {trial.seed}"
    message = " ".join(trial.failure.message.split())[:MESSAGE_LIMIT]
    return f"{trial.task.id}, sample {trial.sample}{sampled}: {trial.failure.stage}: {message}"

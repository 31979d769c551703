"""What a run shows, as figures: how often a task is solved within k attempts, and what was played."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from openrlhf_lamer import metrics
from openrlhf_lamer.evaluation.methods import Method
from openrlhf_lamer.evaluation.statistics import Proportion, proportion, success
from openrlhf_lamer.records import Trial


def solved(trials: Sequence[Trial], method: Method, attempts: int) -> dict[str, Proportion]:
    """`success@k` or `pass@k` (see `Method.measure`) for k = 1 to `attempts`, by that name."""
    within = first_samples if method.memory is None else success
    return {f"{method.measure}@{k}": within(trials, k) for k in range(1, attempts + 1)}


def first_samples(trials: Sequence[Trial], attempts: int) -> Proportion:
    """Tasks that one of the first `attempts` samples solved, of those of which none of these samples failed."""
    by_task: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.sample < attempts:
            by_task.setdefault(trial.task.id, []).append(trial)
    live = [own for own in by_task.values() if len(own) == attempts and all(each.failure is None for each in own)]
    return proportion(sum(any(each.won for each in own) for own in live), len(live))


def summarize(
    trials: Sequence[Trial], method: Method, attempts: int, *, gamma_traj: float, counts_tokens: bool
) -> dict[str, Any]:
    """All figures of a run, ready for JSON."""
    found = metrics.summarize(trials, attempts, gamma_traj)
    played = {key: value for key, value in found.items() if not key.startswith("success@")}
    if not counts_tokens:
        played = {key.replace("_tokens", "_characters"): value for key, value in played.items()}
    return {
        "method": method.name,
        "tasks": len({trial.task.id for trial in trials}),
        "trials": len(trials),
        "failed": sum(trial.failure is not None for trial in trials),
        **{name: {"share": each.share, **asdict(each)} for name, each in solved(trials, method, attempts).items()},
        "played": played,
    }


def to_csv(shares: dict[str, Proportion]) -> str:
    """A line for each measure, under a heading."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["measure", "share", "low", "high", "successes", "total"])
    for name, each in shares.items():
        writer.writerow([name, each.share, each.low, each.high, each.successes, each.total])
    return text.getvalue()

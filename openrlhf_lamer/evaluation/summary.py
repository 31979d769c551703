"""Figures of one run: how often a task is solved within k attempts, and how it was played."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from openrlhf_lamer import metrics
from openrlhf_lamer.evaluation.methods import Method
from openrlhf_lamer.evaluation.statistics import Estimate, pass_at_k, success, won
from openrlhf_lamer.evaluation.tables import Table
from openrlhf_lamer.records import Trial


def solved(trials: Sequence[Trial], method: Method, attempts: int) -> dict[str, Estimate]:
    """`success@k` or `pass@k` (see `Method.measure`) for k = 1 to `attempts`, by that name."""
    if method.memory is None:
        return {f"pass@{k}": pass_at_k([won(trials, 1)], k) for k in range(1, attempts + 1)}
    return {f"success@{k}": success(trials, k) for k in range(1, attempts + 1)}


def solved_by_env(trials: Sequence[Trial], method: Method, attempts: int) -> dict[str, Estimate]:
    """`solved`, with the environment before each name where trials are of several."""
    parts = _by_env(trials)
    return {
        f"{env}: {name}" if len(parts) > 1 else name: each
        for env, own in parts.items()
        for name, each in solved(own, method, attempts).items()
    }


def _by_env(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    envs = sorted({trial.task.env for trial in trials})
    return {env: [trial for trial in trials if trial.task.env == env] for env in envs}


def summarize(
    trials: Sequence[Trial], method: Method, attempts: int, *, gamma_traj: float, counts_tokens: bool
) -> dict[str, Any]:
    """All figures of a run, ready for JSON; where ids are characters, names say so instead of tokens.

    Of several environments, the figures of each stand under its name in `environments`.
    """
    if len(parts := _by_env(trials)) > 1:
        return {
            "method": method.name,
            "tasks": len({trial.task.id for trial in trials}),
            "trials": len(trials),
            "failed": sum(trial.failure is not None for trial in trials),
            "environments": {
                env: summarize(own, method, attempts, gamma_traj=gamma_traj, counts_tokens=counts_tokens)
                for env, own in parts.items()
            },
        }
    found = metrics.summarize(trials, attempts, gamma_traj)
    played = {key: value for key, value in found.items() if not key.startswith("success@")}
    if not counts_tokens:
        played = {key.replace("_tokens", "_characters"): value for key, value in played.items()}
    return {
        "method": method.name,
        "tasks": len({trial.task.id for trial in trials}),
        "trials": len(trials),
        "failed": sum(trial.failure is not None for trial in trials),
        **{name: _plain(each) for name, each in solved(trials, method, attempts).items()},
        "played": played,
    }


def table(title: str, shares: dict[str, Estimate], note: str) -> Table:
    """The shares as a table."""
    rows = tuple((name, each, each.tasks) for name, each in shares.items())
    return Table("solved", title, ("measure", "share", "tasks"), rows, note)


def _plain(estimate: Estimate) -> dict[str, Any]:
    """An estimate for JSON, which has no NaN."""
    return {key: None if value != value else value for key, value in asdict(estimate).items() if key != "unit"}

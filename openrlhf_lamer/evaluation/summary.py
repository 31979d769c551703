"""Figures of one run: how often a task is solved within k attempts, and how it was played."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from openrlhf_lamer import metrics
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.evaluation.methods import Method
from openrlhf_lamer.evaluation.statistics import (
    Estimate,
    mean,
    measured,
    pass_at_k,
    share,
    single,
    success,
    wins,
    won,
)
from openrlhf_lamer.evaluation.tables import Table
from openrlhf_lamer.records import Trial


def solved(trials: Sequence[Trial], method: Method, attempts: int) -> dict[str, Estimate]:
    """`success@k` or `pass@k` (see `Method.measure`) for k = 1 to `attempts`, by that name."""
    if method.memory is None:
        return {f"pass@{k}": pass_at_k([won(trials, 1)], k) for k in range(1, attempts + 1)}
    return {f"success@{k}": success(trials, k) for k in range(1, attempts + 1)}


def going_on(trials: Sequence[Trial], attempts: int) -> dict[str, Estimate]:
    """Figures of trials that go on after a success: `won@k` for k = 1 to `attempts`, `wins` and `episodes`."""
    return {f"won@{k}": share([single(trials, k)]) for k in range(1, attempts + 1)} | {
        "wins": mean([wins(trials)], reach=attempts).within(0, attempts),
        "episodes": mean([measured(trials, lambda trial: len(trial.episodes))], reach=attempts - 1).within(1, attempts),
    }


def figures(trials: Sequence[Trial], method: Method, attempts: int, config: LamerConfig) -> dict[str, Estimate]:
    """Shares solved within 1 to `attempts` attempts, and those of single attempts where trials go on after a success.

    With several environments, each name begins with the environment.
    """
    parts = _by_env(trials)
    found: dict[str, Estimate] = {}
    for env, own in parts.items():
        counted = metrics.attempts_of(own, attempts, config.turn_budget)
        shares = solved(own, method, counted) | ({} if config.stop_on_success else going_on(own, counted))
        found |= {f"{env}: {name}" if len(parts) > 1 else name: each for name, each in shares.items()}
    return found


def _by_env(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    envs = sorted({trial.task.env for trial in trials})
    return {env: [trial for trial in trials if trial.task.env == env] for env in envs}


def summarize(
    trials: Sequence[Trial], method: Method, attempts: int, config: LamerConfig, *, counts_tokens: bool
) -> dict[str, Any]:
    """All figures of a run, ready for JSON; where ids are characters, names say so instead of tokens.

    With several environments, the figures of each are under its name in `environments`.
    """
    if len(parts := _by_env(trials)) > 1:
        return {
            "method": method.name,
            "tasks": len({trial.task.id for trial in trials}),
            "trials": len(trials),
            "failed": sum(trial.failure is not None for trial in trials),
            "environments": {
                env: summarize(own, method, attempts, config, counts_tokens=counts_tokens) for env, own in parts.items()
            },
        }
    found = metrics.summarize(
        trials,
        config.num_episodes,
        config.gamma_traj,
        stop_on_success=config.stop_on_success,
        turn_budget=config.turn_budget,
    )
    played = {key: value for key, value in found.items() if "@" not in key}
    if not counts_tokens:
        played = {key.replace("_tokens", "_characters"): value for key, value in played.items()}
    return {
        "method": method.name,
        "tasks": len({trial.task.id for trial in trials}),
        "trials": len(trials),
        "failed": sum(trial.failure is not None for trial in trials),
        **{name: _plain(each) for name, each in figures(trials, method, attempts, config).items()},
        "played": played,
    }


def table(title: str, shares: dict[str, Estimate], note: str) -> Table:
    """The figures as a table."""
    rows = tuple((name, each, each.tasks) for name, each in shares.items())
    value = "share" if all(each.unit == "%" for each in shares.values()) else "value"
    return Table("solved", title, ("measure", value, "tasks"), rows, note)


def _plain(estimate: Estimate) -> dict[str, Any]:
    """An estimate for JSON, which has no NaN."""
    return {key: None if value != value else value for key, value in asdict(estimate).items() if key != "unit"}

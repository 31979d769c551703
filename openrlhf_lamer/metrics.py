"""What a batch of trials shows, as flat scalars.

Failed trials are left out of every mean and counted by kind instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean

from openrlhf_lamer.records import FailureKind, Phase, Trial


def mean(values: Iterable[float]) -> float | None:
    """Arithmetic mean; None of nothing."""
    values = list(values)
    return fmean(values) if values else None


def success_at(trials: Sequence[Trial], attempts: int) -> float | None:
    """Share of the trials that were won in one of the first `attempts` episodes; None without trials."""
    return mean(float(trial.won_by(attempts)) for trial in trials if trial.failure is None)


def summarize(trials: Sequence[Trial], num_episodes: int, gamma_traj: float) -> dict[str, float]:
    """Metrics of a batch of trials of one environment.

    Keys: `success@1` to `success@N`, `return`, `episodes`, `turns`, `invalid_actions`
    (share of play turns), `reply_tokens`, `truncated_replies`, `reflection_tokens`,
    `reflection_valid`, `failed` (share of trials), `failed/<kind>` (counts), `retries`,
    `environment_seconds` and `generation_seconds` (per trial). What has no
    observation, such as reflections for N = 1, has no key.
    """
    live = [trial for trial in trials if trial.failure is None]
    turns = [turn for trial in live for turn in trial.turns]
    play = [turn for turn in turns if turn.phase is Phase.PLAY]
    reflections = [turn for turn in turns if turn.phase is Phase.REFLECT]
    found: dict[str, float | None] = {f"success@{k}": success_at(live, k) for k in range(1, num_episodes + 1)}
    found |= {
        "return": mean(trial.scalar_return(gamma_traj) for trial in live),
        "episodes": mean(len(trial.episodes) for trial in live),
        "turns": mean(len(trial.turns) for trial in live),
        "invalid_actions": mean(not turn.valid for turn in play),
        "reply_tokens": mean(len(turn.sampled_ids) for turn in play),
        "truncated_replies": mean(turn.truncated for turn in turns),
        "reflection_tokens": mean(len(turn.sampled_ids) for turn in reflections),
        "reflection_valid": mean(turn.valid for turn in reflections),
        "failed": mean(trial.failure is not None for trial in trials),
        "retries": float(sum(trial.retries for trial in trials)),
        "environment_seconds": mean(trial.environment_seconds for trial in trials),
        "generation_seconds": mean(trial.generation_seconds for trial in trials),
    }
    kinds = Counter(trial.failure.kind for trial in trials if trial.failure is not None)
    found |= {f"failed/{kind}": float(kinds[kind]) for kind in FailureKind if kinds[kind]}
    return {key: value for key, value in found.items() if value is not None}

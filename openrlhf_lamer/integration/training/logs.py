"""Logs of training: metrics of a batch of trials as flat scalars, the file of its trials, and the settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openrlhf_lamer import metrics
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.integration.training.batch import TrialBatch
from openrlhf_lamer.records import Trial
from openrlhf_lamer.rows import sampled_tokens
from openrlhf_lamer.training_files import evaluated, named, shown, write_step


def trial_metrics(trials: Sequence[Trial], config: LamerConfig) -> dict[str, float]:
    """`<env>/<metric>` for every environment among the trials."""
    return {
        f"{env}/{key}": value
        for env in _envs(trials)
        for key, value in metrics.summarize(
            [trial for trial in trials if trial.task.env == env],
            config.num_episodes,
            config.gamma_traj,
            stop_on_success=config.stop_on_success,
            turn_budget=config.turn_budget,
        ).items()
    }


def batch_metrics(batch: TrialBatch, config: LamerConfig) -> dict[str, float]:
    """Metrics of a batch: of its trials, groups and rows, and of their credit."""
    assert batch.rows is not None
    result = trial_metrics(batch.trials, config)
    for env in _envs(batch.trials):
        own = [i for i in batch.live if batch.trials[i].task.env == env]
        found = metrics.diversity(
            [batch.trials[i] for i in own], batch.groups[own].tolist() if own else [], config.num_episodes
        )
        result |= {f"{env}/{key}": value for key, value in (found | _trained(batch, own)).items()}
    result |= {
        "rows": float(len(batch.rows.rows)),
        "tokens_in_rows": float(sum(len(row.ids) for row in batch.rows.rows)),
        "tokens_processed": float(batch.processed),
        "loss_weight/min": batch.weights[0],
        "loss_weight/max": batch.weights[1],
        "tokens_per_trial": batch.rows.sampled / max(1, len(batch.live)),
    }
    if batch.advantages is not None:
        result |= _credit_metrics(batch)
    return result


def evaluation_metrics(samples: Sequence[Any], config: LamerConfig) -> dict[str, float]:
    """Metrics of the host's evaluation set, with the key by which the host picks its best checkpoint.

    That is `eval_<env>_pass1`; with several environments only `eval_all_pass1`, the mean over them, as the host takes
    the first in alphabetical order that ends in `_pass1`.
    """
    logs = trial_metrics([sample.trial for sample in samples], config.evaluated())
    first = {key.split("/")[0]: value for key, value in logs.items() if key.endswith("/success@1")}
    if len(first) > 1:
        first = {"all": float(np.mean(list(first.values())))}
    passed = {f"eval_{name}_pass1": value for name, value in first.items()}
    return {f"lamer/{key}": value for key, value in logs.items()} | passed


def _envs(trials: Sequence[Trial]) -> list[str]:
    return sorted({trial.task.env for trial in trials})


def _trained(batch: TrialBatch, trials: Sequence[int]) -> dict[str, float]:
    """Rows of one environment's trials, sampled tokens in them, and the share of its groups without an advantage."""
    assert batch.rows is not None
    rows = [batch.rows.rows[n] for n in np.flatnonzero(np.isin(batch.rows.owner, trials))]
    found = {"rows": float(len(rows)), "tokens": float(sampled_tokens(rows))}
    if batch.advantages is not None and trials:
        found["zero_advantage_groups"] = _silent(batch, trials)
    return found


def _silent(batch: TrialBatch, trials: Sequence[int]) -> float:
    """Share of the groups of live `trials` in which all advantages are 0."""
    assert batch.advantages is not None
    groups: dict[int, float] = {}
    for i in trials:
        group = int(batch.groups[i])
        groups[group] = max(groups.get(group, 0.0), float(np.abs(batch.advantages[i]).max(initial=0.0)))
    # Division by the spread turns rounding into as much as 1e-7.
    return sum(most < 1e-6 for most in groups.values()) / max(1, len(groups))


def _credit_metrics(batch: TrialBatch) -> dict[str, float]:
    """Mean and spread of the advantages by phase and episode, and the share of groups whose advantages are all 0."""
    assert batch.advantages is not None
    found: dict[str, list[float]] = {}
    for i in batch.live:
        for turn, value in zip(batch.trials[i].turns, batch.advantages[i], strict=True):
            for key in (str(turn.phase), f"{turn.phase}/{turn.episode + 1}"):
                found.setdefault(key, []).append(float(value))
    result: dict[str, float] = {}
    for key, values in sorted(found.items()):
        result[f"advantage/{key}/mean"] = float(np.mean(values))
        result[f"advantage/{key}/std"] = float(np.std(values))
    result["zero_advantage_groups"] = _silent(batch, batch.live.tolist())
    return result


def write_evaluation(
    path: Path, samples: Sequence[Any], step: int, settings: Mapping[str, Any], config: LamerConfig
) -> None:
    """Write the trials of an evaluation after training step `step` to a JSON lines file, and the settings beside it.

    See `training_files.write_step`. The settings are the training's, with the number of episodes of an evaluation.
    """
    lines = [_line(sample.trial, {"step": step}) for sample in samples]
    write_step(path, step, lines, evaluated(settings, config))


def write_trials(path: Path, batch: TrialBatch, step: int, settings: Mapping[str, Any]) -> None:
    """Write the batch's trials to a JSON lines file, with the step and each turn's return and advantage.

    See `training_files.write_step`.
    """
    lines: list[str] = []
    for i, trial in enumerate(batch.trials):
        extra: dict[str, Any] = {"step": step, "group": int(batch.groups[i])}
        if batch.advantages is not None and batch.returns is not None:
            extra |= {"returns": batch.returns[i].tolist(), "advantages": batch.advantages[i].tolist()}
        lines.append(_line(trial, extra))
    write_step(path, step, lines, settings)


def log_settings(tensorboard: Any, wandb: Any, settings: Mapping[str, Any]) -> None:
    """Log the settings with the host's loggers, each of which may be None.

    TensorBoard gets a table as text, Weights & Biases has them in the run's configuration, under `lamer`.
    """
    if tensorboard:
        rows = "".join(f"| {name} | {_cell(shown(value))} |\n" for name, value in named(settings).items())
        tensorboard.writer.add_text("lamer/settings", f"| setting | value |\n| --- | --- |\n{rows}", 0)
    if wandb:
        wandb.handle.config.update({"lamer": dict(settings)}, allow_val_change=True)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _line(trial: Trial, extra: Mapping[str, Any]) -> str:
    return f"{trial.to_json()[:-1]},{json.dumps(extra)[1:]}"

"""The real host trains on forests, and with adapters: numbers against those of another way to the same update."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from host_runs import arguments, check, finish, start

from openrlhf_lamer.config import LamerConfig

for package in ("openrlhf", "vllm", "deepspeed", "ray"):
    pytest.importorskip(package)

pytest_plugins = "host_runs"
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

FLOAT32 = Path(__file__).parent / "float32"
"""Folder that has runs use float32."""


@pytest.mark.parametrize("estimator", ["lamer_gigpo", "lamer_ppo"])
def test_forests_train_as_padded_rows_do(workshop: Path, tmp_path: Path, estimator: str) -> None:
    """In float32, with the same seeds: trials, losses and gradients; with `lamer_gigpo` in two updates a batch."""
    more = ["--lamer.updates", "2", "--lamer.loss_weight", "turn"]
    if estimator == "lamer_ppo":
        more = ["--lamer.context", "episode", "--critic.adam.lr", "1e-3", "--algo.kl.init_coef", "0.1"]
        more += ["--algo.kl.use_loss", "--actor.entropy_coef", "0.01", "--actor.gradient_checkpointing_enable"]
    runs = {}
    for forward in ("forest", "padded"):
        folder = tmp_path / forward
        command = [
            *("openrlhf_lamer.cli.train_ppo_ray", "--agent_func", "openrlhf_lamer.agents.minesweeper"),
            *arguments(workshop, folder, "minesweeper", "--lamer.max_turns", "3", "--lamer.num_episodes", "2"),
            *("--algo.advantage.estimator", estimator, "--data.max_samples", "8", "--lamer.forward", forward),
            *("--train.full_determinism_enable", "--lamer.max_concurrent_trials", "1", *more),
        ]
        path = os.pathsep.join(filter(None, (str(FLOAT32), os.environ.get("PYTHONPATH"))))
        runs[forward] = finish(start(command, folder, {"PYTHONPATH": path}), folder)
    config = LamerConfig(num_episodes=2, updates=2 if estimator == "lamer_gigpo" else None)
    check(runs["forest"], 2, config=config, env="minesweeper")
    forest, padded = (run.steps for run in runs.values())
    if config.updates:
        assert forest[0]["lamer/tokens_trained"] != forest[1]["lamer/tokens_trained"]
    for number, (own, expected) in enumerate(zip(forest, padded, strict=True), start=1):
        sampled = [[turn.sampled_ids for trial in run.trials(number) for turn in trial.turns] for run in runs.values()]
        assert sampled[0] == sampled[1]
        assert own["lamer/tokens_processed"] < own["lamer/tokens_in_rows"] < expected["lamer/tokens_processed"]
        compared = {"policy_loss", "actor_grad_norm", "vllm_kl", "ppo_kl"}
        if estimator == "lamer_ppo":
            compared |= {"critic_loss", "critic_grad_norm", "values", "kl", "entropy_loss"}
        for key in compared:
            assert own[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-6), key

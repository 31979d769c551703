"""The real host trains on forests, and with adapters: numbers against those of another way to the same update."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from e2e_commands import RUNS
from host_runs import LIMIT, Run, arguments, check, finish, start, stop, weights

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
    runs = {}
    for forward in ("forest", "padded"):
        folder = tmp_path / forward
        command = [
            *("openrlhf_lamer.cli.train_ppo_ray", "--agent_func", "openrlhf_lamer.agents.minesweeper"),
            *arguments(workshop, folder, "minesweeper", *RUNS[f"forest of {estimator.removeprefix('lamer_')}"]),
            *("--data.max_samples", "8", "--lamer.forward", forward),
            *("--train.full_determinism_enable", "--lamer.max_concurrent_trials", "1"),
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


def test_an_adapter_reaches_the_engine_and_its_reference_is_the_policy_without_it(
    workshop: Path, tmp_path: Path
) -> None:
    """LoRA with KL as loss: stopped after its third step, resumed with the fourth, and merged."""
    import torch

    command = [
        *("openrlhf_lamer.cli.train_ppo_ray", "--agent_func", "openrlhf_lamer.agents.minesweeper"),
        *arguments(workshop, tmp_path, "minesweeper", *RUNS["adapter"]),
        *("--ckpt.save_steps", "1", "--ckpt.load_enable"),
    ]
    process = start(command, tmp_path)
    latest, deadline = tmp_path / "ckpt" / "_actor" / "latest", time.monotonic() + LIMIT
    try:
        while not latest.exists() or latest.read_text() != "global_step3":
            assert process.poll() is None, (tmp_path / "log").read_text(errors="replace")[-6000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        stop(process, tmp_path)
    stopped = Run(tmp_path, (tmp_path / "log").read_text(errors="replace"))
    config = LamerConfig(num_episodes=2)
    assert len(stopped.steps) >= 2  # the last one may not have come through to the log
    check(stopped, None, config=config, env="minesweeper")
    (tmp_path / "log").unlink()
    (tmp_path / "trials.jsonl").rename(tmp_path / "before.jsonl")

    run = finish(start(command, tmp_path), tmp_path)
    check(run, 1, config=config, env="minesweeper")
    assert [record["step"] for record in run.records] == [4] * 16
    # Engines that still played with the base model would differ from the trainer by as much as the reference does.
    assert abs(run.steps[0]["vllm_kl"]) < min(1e-2, run.steps[0]["kl"] / 2)
    assert "ReferenceModelActor" not in stopped.log + run.log

    base = weights(workshop / "model")
    (states,) = (tmp_path / "ckpt" / "_actor" / "global_step4").glob("mp_rank_*_model_states.pt")
    module = torch.load(states, map_location="cpu", weights_only=False)["module"]
    plain = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): value
        for name, value in module.items()
        if "lora_" not in name
    }
    assert all(value.equal(plain[name]) for name, value in base.items())
    merging = [sys.executable, "-m", "openrlhf_lamer.cli.main", "merge", str(tmp_path / "out")]
    subprocess.run([*merging, "--out", str(tmp_path / "whole")], check=True, timeout=LIMIT)
    whole = weights(tmp_path / "whole")
    assert set(whole) == set(base)
    changed = {name for name, value in base.items() if not value.equal(whole[name])}
    assert changed == {name for name in base if "_proj." in name}

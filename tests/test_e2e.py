"""The real host on the CPU: Ray, vLLM and DeepSpeed train a tiny model, and what they did is checked.

A start of the host takes about a minute, a step a few seconds, so each run checks as much as it can.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from e2e_commands import RUNS
from host_runs import (
    ACTIVATED,
    LIMIT,
    OPTIONS,
    Run,
    arguments,
    check,
    check_evaluations,
    finish,
    kill_engine,
    logged_to,
    seeds,
    start,
    stop,
    weights,
)
from ray_heads import Head, answers, free_ports, ray_started

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.evaluation.statistics import success
from openrlhf_lamer.integration import cpu
from openrlhf_lamer.learnability import learnability, trial_returns
from openrlhf_lamer.records import Phase, Trial
from openrlhf_lamer.tasks import seeded_tasks, write_dataset
from openrlhf_lamer.training_files import read_parts, read_settings

for package in ("openrlhf", "vllm", "deepspeed", "ray"):
    pytest.importorskip(package)

pytest_plugins = "host_runs"
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_gigpo_by_turn_loses_its_engine_says_so_and_goes_on_at_the_next_task(workshop: Path, tmp_path: Path) -> None:
    """`lamer_gigpo`, context `turn`: its engine is killed after its second step; it resumes with the third."""
    command = [
        *("openrlhf_lamer.cli.train_ppo_ray", "--agent_func", "openrlhf_lamer.agents.minesweeper"),
        *arguments(workshop, tmp_path, "minesweeper", *RUNS["gigpo by turn"]),
        *("--ckpt.save_steps", "1", "--ckpt.load_enable"),
    ]
    process = start(command, tmp_path)
    deadline = time.monotonic() + LIMIT
    while (
        not (tmp_path / "ckpt" / "_actor" / "latest").exists()
        or "global_step2" not in (tmp_path / "ckpt" / "_actor" / "latest").read_text()
    ):
        assert process.poll() is None, (tmp_path / "log").read_text()[-6000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    engine = kill_engine(tmp_path)
    began = time.monotonic()
    try:
        assert process.wait(60) == 1
    finally:
        stop(process, tmp_path)
    assert time.monotonic() - began < 60
    killed = Run(tmp_path, (tmp_path / "log").read_text(errors="replace"))
    told = [line for line in killed.log.splitlines() if line.startswith("openrlhf-lamer: error: ")]
    assert len(told) == 1
    assert f"rollout engine 1 of 1 died (process {engine} on " in told[0]
    assert "It was playing " in told[0]
    assert told[0].endswith(f"Start the same command again: it goes on from the last checkpoint in {tmp_path}/ckpt.")
    seen = [record["task"]["seed"] for record in killed.records if record["step"] <= 2]
    assert [record["seed"] for record in killed.records if record["step"] <= 2] == seeds(range(8))
    (tmp_path / "log").unlink()
    kept = [record for record in killed.records if record["step"] <= 2]
    with (tmp_path / "trials.jsonl").open("a") as file:  # as if it had been killed in writing its third step
        file.write(f'{json.dumps(kept[0] | {"step": 3})}\n{{"schema": 1, "ta')

    run = finish(start(command, tmp_path), tmp_path)
    assert run.records[:32] == kept
    assert [part.from_step for part in read_parts(tmp_path / "trials.jsonl")] == [1]
    repeated = "".join(f"{json.dumps(record)}\n" for record in run.records[32:])
    (tmp_path / "trials.jsonl").write_text(repeated)
    check(run, 2, config=LamerConfig(num_episodes=2), env="minesweeper")
    assert [record["step"] for record in run.records] == [3] * 16 + [4] * 16
    assert [record["seed"] for record in run.records] == seeds(range(8, 16))
    assert all(0 < status["lamer/prefix_cache_hit_rate"] < 1 for status in run.steps)
    assert all(0 < status["lamer/concurrent_trials"] <= 8 for status in run.steps)
    assert all(0 <= status["lamer/idle_slots"] < 1 for status in run.steps)
    later = [record["task"]["seed"] for record in run.records]
    assert len(set(seen)) == len(set(later)) == 8
    assert set(seen) | set(later) == set(range(16))
    before, after = weights(workshop / "model"), weights(tmp_path / "out")
    assert any(not before[name].equal(after[name]) for name in before)


def test_grpo_by_episode_with_the_hosts_agent_flag_and_its_evaluation(workshop: Path, tmp_path: Path) -> None:
    """`lamer_grpo`, context `episode`, the agent named as stock users do, the host's own evaluation."""
    import openrlhf_lamer.agents.minesweeper as agent

    command = [
        *("openrlhf_lamer.cli.train_ppo_ray", "--train.agent_func_path", str(agent.__file__)),
        *arguments(workshop, tmp_path, "minesweeper", *RUNS["grpo by episode"]),
        *("--eval.dataset", str(workshop / "minesweeper" / "eval.jsonl")),
        *("--lamer.eval_trials", str(tmp_path / "evaluations.jsonl")),
        *("--logger.tensorboard_dir", str(tmp_path / "tensorboard")),
    ]
    run = finish(start(command, tmp_path), tmp_path)
    check(run, 3, config=LamerConfig(num_episodes=3), env="minesweeper")
    assert any(trial.won for step in (1, 2, 3) for trial in run.trials(step))
    assert run.steps[0]["lamer/rows"] < sum(len(trial.turns) for trial in run.trials(1))
    assert re.search(r"Evaluation at step 0: .*'lamer/minesweeper/success@2': ", run.log)
    assert re.search(r"Evaluation at step 2: .*'lamer/minesweeper/success@2': ", run.log)
    check_evaluations(run, (0, 2), episodes=2)
    logged = logged_to(tmp_path / "tensorboard")
    own = {
        f"train/lamer/minesweeper/{key}"
        for key in ("success@1", "return", "turns", "diversity@2", "reflection_valid/1")
    }
    assert own | {"train/lamer/advantage/play/1/mean", "eval/lamer/minesweeper/success@2"} <= logged
    assert "lamer/settings/text_summary" in logged
    told = {name: read_settings(tmp_path / f"{name}.jsonl") for name in ("trials", "evaluations")}
    assert {(each["estimator"], each["host"]["actor.adam.lr"]) for each in told.values()} == {("lamer_grpo", 1e-3)}
    assert {name: each["config"]["num_episodes"] for name, each in told.items()} == {"trials": 3, "evaluations": 2}
    assert "eval/lamer/minesweeper/success@3" not in logged


def test_ppo_with_the_hosts_critic_colocated_and_kl_as_loss(workshop: Path, tmp_path: Path) -> None:
    """`lamer_ppo`: a step for the critic only, then both; reference model, dual clip, rows dropped by their KL."""
    command = [
        *("openrlhf_lamer.cli.train_ppo_ray", "--agent_func", "openrlhf_lamer.agents.minesweeper"),
        *arguments(workshop, tmp_path, "minesweeper", *RUNS["ppo with a critic"]),
    ]
    run = finish(start(command, tmp_path), tmp_path)
    check(run, 4, config=LamerConfig(num_episodes=2), env="minesweeper", frozen=1)
    for status in run.steps:
        assert math.isfinite(status["critic_loss"])
        assert status["critic_grad_norm"] > 0
    assert 0 < run.steps[-1]["kl"] < 10
    assert all(any(record["advantages"]) for record in run.records)


def test_rloo_asynchronously_with_partial_rollouts(workshop: Path, tmp_path: Path) -> None:
    """`lamer_rloo`, memory `reflection`: two batches are generated at once, while weights change, and evaluated."""
    command = [
        *("openrlhf_lamer.cli.train_ppo_ray", "--agent_func", "openrlhf_lamer.agents.minesweeper"),
        *arguments(workshop, tmp_path, "minesweeper", *RUNS["rloo asynchronously"]),
        *("--eval.dataset", str(workshop / "minesweeper" / "eval.jsonl")),
        *("--lamer.eval_trials", str(tmp_path / "evaluations.jsonl")),
        *("--logger.tensorboard_dir", str(tmp_path / "tensorboard")),
    ]
    run = finish(start(command, tmp_path), tmp_path)
    check_evaluations(run, (0, 2), episodes=3)
    check(run, 4, config=LamerConfig(num_episodes=2), env="minesweeper", engine_kl=5e-2)
    assert len({record["task"]["seed"] for record in run.records}) == 16
    assert [record["seed"] for record in run.records] == seeds(range(16))
    assert "eval/lamer/minesweeper/success@3" in logged_to(tmp_path / "tensorboard")


def test_hgpo_on_two_actors_with_zero_3_and_dynamic_filtering(workshop: Path, tmp_path: Path) -> None:
    """`lamer_hgpo`: two data-parallel actors, two epochs, untrained reflections, groups that teach something only."""
    command = [
        *("openrlhf_lamer.cli.train_ppo_ray", "--agent_func", "openrlhf_lamer.agents.minesweeper"),
        *arguments(workshop, tmp_path, "minesweeper", *RUNS["hgpo on two actors"]),
    ]
    run = finish(start(command, tmp_path), tmp_path)
    config = LamerConfig(num_episodes=2, train_reflection=False)
    check(run, None, config=config, env="minesweeper", trials=None, epochs=2)
    for step in {record["step"] for record in run.records}:
        trials = run.trials(step)
        for first in range(0, len(trials), 4):
            assert learnability(trial_returns("lamer_hgpo", trials[first : first + 4], config))
    assert any(turn.phase is Phase.REFLECT for trial in run.trials(1) for turn in trial.turns)


def test_stock_group_norm_on_one_episode(workshop: Path, tmp_path: Path) -> None:
    """The RL baseline: N = 1 and the host's own estimator, in the same code; context `trial`, GSPO's loss."""
    command = [
        *("openrlhf_lamer.cli.train_ppo_ray", "--agent_func", "openrlhf_lamer.agents.minesweeper"),
        *arguments(workshop, tmp_path, "minesweeper", *RUNS["stock group_norm"]),
    ]
    run = finish(start(command, tmp_path), tmp_path)
    check(run, 3, config=LamerConfig(num_episodes=1), env="minesweeper", engine_kl=None)
    assert all("advantages" not in record for record in run.records)


def test_the_stock_host_runs_an_agents_file(workshop: Path, tmp_path: Path) -> None:
    """Without any of our flags the host stays as it is, and plays trials that are one row each."""
    import openrlhf_lamer.agents.minesweeper as agent

    command = [
        *("openrlhf.cli.train_ppo_ray", "--train.agent_func_path", str(agent.__file__)),
        *("--actor.model_name_or_path", str(workshop / "model"), "--algo.kl.init_coef", "0"),
        *("--data.prompt_dataset", str(workshop / "minesweeper" / "train.jsonl"), "--data.label_key", "label"),
        *("--rollout.batch_size", "4", "--rollout.n_samples_per_prompt", "4", "--rollout.micro_batch_size", "4"),
        *("--train.batch_size", "16", "--train.micro_batch_size", "4", "--rollout.max_new_tokens", "48"),
        *("--data.max_len", "2048", "--data.max_samples", "4", "--algo.advantage.estimator", "group_norm"),
        *("--algo.advantage.is_correction_level", "token", "--ckpt.output_dir", str(tmp_path / "out")),
        *("--vllm.num_engines", "1", "--actor.num_gpus_per_node", "1", "--vllm.sync_backend", "gloo"),
        *("--vllm.enforce_eager", "--vllm.gpu_memory_utilization", "0.3", "--ds.attn_implementation", "sdpa"),
    ]
    logical = {"RAY_OVERRIDE_RESOURCES": '{"CPU":16,"GPU":2,"object_store_memory":500000000}'}
    run = finish(start(command, tmp_path, cpu.worker_env() | logical), tmp_path)
    (status,) = run.steps
    assert math.isfinite(status["vllm_kl"])
    assert status["actor_grad_norm"] > 0
    assert status["rollout/num_samples"] == 16
    assert "lamer/rows" not in status


def served(workshop: Path, folder: Path, port: int) -> subprocess.Popen[bytes]:
    """vLLM's own server with the tiny model."""
    command = [
        *("vllm.entrypoints.openai.api_server", "--model", str(workshop / "model"), "--served-model-name", "tiny"),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16", "--max-model-len", "2048"),
        *("--enforce-eager", "--gpu-memory-utilization", "0.3"),
    ]
    return start(command, folder, cpu.worker_env())


def test_a_checkpoint_plays_the_same_in_this_process_and_on_a_server_that_is_killed(
    workshop: Path, tmp_path: Path
) -> None:
    """`openrlhf-lamer eval` on an engine of its own, and over HTTP: trial by trial the same at temperature 0.

    The server is killed in mid-run. The run waits for it, stops with a message, and goes on with another server,
    for which it waits too; no trial is lost, failed or played twice.
    """
    panel = tmp_path / "panel.jsonl"
    tasks = seeded_tasks("minesweeper", "eval", 24, options=OPTIONS)
    write_dataset(panel, tasks)

    def line(out: str, *more: str) -> list[str]:
        return [
            *(sys.executable, "-m", "openrlhf_lamer.cli.main", "eval", "--tasks", str(panel), "--json"),
            *("--out", str(tmp_path / out), "--temperature", "0", "--max-turns", "3"),
            *("--max-new-tokens", "48", "--max-length", "2048", "--concurrency", "4", *more),
        ]

    def trials(out: str) -> dict[str, Trial]:
        lines = (tmp_path / out / "trials.jsonl").read_text().splitlines()
        found = {trial.task.id: trial for trial in map(Trial.from_json, lines)}
        assert len(found) == len(lines)
        return found

    result = subprocess.run(
        line("local", "--model", str(workshop / "model")), capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert result.returncode == 0, result.stderr[-6000:]
    local = trials("local")
    assert set(local) == {task.id for task in tasks}
    printed = json.loads(result.stdout.splitlines()[-1])
    assert printed["success@3"]["value"] == success(list(local.values()), 3).value
    assert printed["failed"] == 0

    (port,) = free_ports(1)
    over_http = [
        *("--endpoint", f"http://127.0.0.1:{port}/v1", "--model", "tiny", "--tokenizer", str(workshop / "model")),
    ]
    server = served(workshop, tmp_path / "server", port)
    try:
        deadline = time.monotonic() + LIMIT
        while not answers(port):
            assert server.poll() is None, (tmp_path / "server" / "log").read_text()[-6000:]
            assert time.monotonic() < deadline
            time.sleep(0.2)
        run = subprocess.Popen(
            line("http", *over_http, "--patience", "6"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        written = tmp_path / "http" / "trials.jsonl"
        while not written.exists() or written.read_bytes().count(b"\n") < 5:
            assert run.poll() is None, run.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        stop(server, tmp_path / "server")
    time.sleep(2)
    assert run.poll() is None  # it waits
    said, _ = run.communicate(timeout=LIMIT)
    assert run.returncode == 1, said
    there = trials("http")
    assert re.search(rf"asked again for 6 s(?s:.*){len(there)} of 24 trials are done", said), said
    assert 5 <= len(there) < len(tasks)

    server = served(workshop, tmp_path / "server", port)
    try:
        result = subprocess.run(line("http", *over_http), capture_output=True, text=True, timeout=LIMIT, check=False)
    finally:
        stop(server, tmp_path / "server")
    assert result.returncode == 0, result.stderr[-6000:]
    remote = trials("http")
    assert remote.items() >= there.items()
    timeless = {"environment_seconds": 0.0, "generation_seconds": 0.0}
    for name, trial in local.items():
        assert replace(remote[name], **timeless) == replace(trial, **timeless)


@pytest.fixture
def ray_head() -> Iterator[Head]:
    """A Ray cluster that takes jobs. Another process may have taken a port that was free: then others are tried."""
    for _ in range(2):
        with ray_started() as head:
            if head is not None:
                yield head
                return
    pytest.fail("Ray took no jobs in two starts; its logs are above")


@pytest.mark.timeout(1200)
def test_the_line_as_typed_through_ray_job_submit(workshop: Path, tmp_path: Path, ray_head: Head) -> None:
    """`ray job submit -- python -m openrlhf.cli.train_ppo_ray --agent_func openrlhf_lamer.agents.sokoban ...`."""
    line = [
        *("ray", "job", "submit", "--address", ray_head.jobs, "--"),
        *("python", "-m", "openrlhf.cli.train_ppo_ray", "--agent_func", "openrlhf_lamer.agents.sokoban"),
        *arguments(workshop, tmp_path, "sokoban", *RUNS["sokoban as a job"]),
    ]
    result = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT, env=ACTIVATED, check=False)
    assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]
    run = Run(tmp_path, result.stdout)
    check(run, 2, config=LamerConfig(num_episodes=2), env="sokoban")

    again = [*line[line.index("openrlhf.cli.train_ppo_ray") :], "--lamer.trials", str(tmp_path / "others.jsonl")]
    greedy = [sys.executable, "-m", *again, "--vllm.num_engines", "5"]
    refused = subprocess.run(
        greedy,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=ACTIVATED | {"RAY_ADDRESS": ray_head.drivers},
        check=False,
    )
    assert refused.returncode == 2
    assert re.search(r"--vllm.num_engines .*ask for 6 GPUs, but Ray has 2", refused.stderr)

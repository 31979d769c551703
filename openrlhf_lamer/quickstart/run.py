"""A quickstart from start to end: tasks, a warm start, the trainings with their evaluations, a report.

Every stage runs in a process of its own, by the command that a user would type.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from openrlhf_lamer.integration import cpu
from openrlhf_lamer.quickstart.following import follow, watch
from openrlhf_lamer.quickstart.memory import PeakMemory
from openrlhf_lamer.quickstart.report import EVALUATIONS, TRIALS, Measurements, Result, write_report
from openrlhf_lamer.quickstart.settings import Arm, Settings


def run(out: Path, settings: Settings, console: Console) -> Result:
    """Run everything and write the results to `out`, which is emptied first.

    Raises:
        StageError: A stage failed.
    """
    began = time.monotonic()
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    times: dict[str, float] = {}

    def stage(name: str, work: Callable[[], object]) -> None:
        console.rule(f"[bold]{name}")
        start = time.monotonic()
        work()
        times[name] = time.monotonic() - start
        console.print(f"{name}: {times[name]:.0f} s")

    with PeakMemory() as memory:
        stage("warm start", lambda: [watch(console, command) for command in prepare_commands(out, settings)])
        for arm in settings.arms:
            stage(f"training of {arm.label}", lambda arm=arm: _train(out, settings, arm, console))
    return write_report(out, Measurements(settings, times, time.monotonic() - began, memory.peak))


def prepare_commands(out: Path, settings: Settings) -> list[tuple[str, ...]]:
    """Commands that write the tasks of training and evaluation, and make the warm start."""
    game = ("--env", settings.env, "--options", json.dumps(settings.config.env_options))
    number = settings.steps * settings.tasks
    train = (*game, "--split", "train", "--num", str(number))
    return [
        _ours("prepare", "tasks", *train, "--out", str(out / "data" / "train.jsonl")),
        _ours("prepare", "tasks", *_panel(settings, game), "--out", str(out / "data" / "eval.jsonl")),
        warm_start_command(out / "start", settings),
    ]


def _panel(settings: Settings, game: tuple[str, ...]) -> tuple[str, ...]:
    held_out = (*game, "--split", "eval", "--num", str(settings.panel_size))
    return held_out if settings.panel is None else ("--panel", settings.panel)


def warm_start_command(folder: Path, settings: Settings) -> tuple[str, ...]:
    """Command of the warm start."""
    config = settings.config
    return _ours(
        *("warmstart", "--env", settings.env, "--options", json.dumps(config.env_options)),
        *("--attempts", str(config.num_episodes), "--memory", config.memory, "--context", config.context),
        *(("--max-turns", str(config.max_turns)) if config.max_turns else ()),
        *("--trials", str(settings.demonstrations), "--player-options", json.dumps(dict(settings.player_options))),
        *("--passes", str(settings.passes), "--prompt-weight", str(settings.prompt_weight)),
        *("--layers", str(settings.layers), "--hidden", str(settings.hidden), "--heads", str(settings.heads)),
        *("--max-new-tokens", str(settings.max_new_tokens), "--max-length", str(settings.max_length)),
        *("--seed", str(settings.seed), "--out", str(folder)),
    )


def training_command(out: Path, settings: Settings, arm: Arm) -> tuple[str, ...]:
    """Training command of an arm."""
    config, folder = settings.config, out / arm.name
    return (
        *(sys.executable, "-m", "openrlhf.cli.train_ppo_ray"),
        *("--agent_func", f"openrlhf_lamer.agents.{settings.env}"),
        *("--algo.advantage.estimator", settings.estimator),
        *("--actor.model_name_or_path", str(out / "start" / "model")),
        *("--data.prompt_dataset", str(out / "data" / "train.jsonl")),
        *("--eval.dataset", str(out / "data" / "eval.jsonl"), "--eval.steps", str(settings.steps)),
        *("--eval.n_samples_per_prompt", "1", "--eval.temperature", str(settings.eval_temperature)),
        *("--lamer.num_episodes", str(arm.num_episodes), "--lamer.eval_episodes", str(config.num_episodes)),
        *(("--lamer.max_turns", str(config.max_turns)) if config.max_turns else ()),
        *("--lamer.context", config.context, "--lamer.memory", config.memory, "--lamer.reward", config.reward),
        *("--lamer.trials", str(folder / TRIALS), "--lamer.eval_trials", str(folder / EVALUATIONS)),
        *("--rollout.batch_size", str(settings.tasks), "--rollout.n_samples_per_prompt", str(arm.group)),
        *("--rollout.micro_batch_size", "16", "--rollout.max_new_tokens", str(settings.max_new_tokens)),
        *("--data.max_len", str(settings.max_length), "--train.batch_size", str(settings.batch_rows)),
        *(("--lamer.updates", str(settings.updates)) if settings.updates else ()),
        *("--train.seed", str(settings.seed), "--actor.adam.lr", str(settings.learning_rate)),
        *("--algo.advantage.is_correction_level", "token"),
        *("--ckpt.output_dir", str(folder / "model"), "--logger.tensorboard_dir", str(folder / "tensorboard")),
    )


def _train(out: Path, settings: Settings, arm: Arm, console: Console) -> None:
    trials = settings.steps * settings.tasks * arm.group
    log, results = out / "logs" / f"train-{arm.name}.log", out / arm.name / TRIALS
    follow(console, training_command(out, settings, arm), log, results, trials, "trials")


def _ours(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "openrlhf_lamer.cli.main", *words)


def require_stack() -> str | None:
    """Message about anything that a quickstart lacks, or None."""
    missing = [name for name in ("openrlhf", "vllm", "ray", "deepspeed", "torch") if not importlib.util.find_spec(name)]
    if missing:
        return f"the quickstart needs {', '.join(missing)}: run `make quickstart`, which installs the CPU stack"
    if cpu.cuda_available():
        return "the quickstart trains on the CPU; hide the GPUs (CUDA_VISIBLE_DEVICES=) to run it here"
    return None

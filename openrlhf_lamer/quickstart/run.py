"""A quickstart from start to end: tasks, a warm start, the trainings with their evaluations, a report.

Every stage runs in a process of its own, by the command that a user would type. A stage that is done is not run again.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

from rich.console import Console

from openrlhf_lamer import LamerError
from openrlhf_lamer.integration import cpu
from openrlhf_lamer.quickstart import stages
from openrlhf_lamer.quickstart.report import Result, write_report
from openrlhf_lamer.quickstart.settings import Arm, Settings
from openrlhf_lamer.quickstart.stages import EVALUATIONS, NOTE, TRIALS, Stage, ours, task_stages


class FolderError(LamerError, ValueError):
    """A folder for results that holds something else."""


def run(out: Path, settings: Settings, console: Console) -> Result:
    """Run everything that is not finished, and write the results to `out`.

    Raises:
        FolderError: `out` holds something else than a quickstart.
        StageError: A stage failed, or was begun with other settings.
    """
    own = plan(out, settings)
    if out.exists() and any(out.iterdir()) and not any((stage.folder / NOTE).is_file() for stage in own):
        raise FolderError(f"--out {out}: this folder holds files that no quickstart has written; give another one")
    stages.run(own, console)
    return write_report(out, settings, own)


def plan(out: Path, settings: Settings) -> list[Stage]:
    """Stages in their order."""
    return [
        *task_stages(
            out / "data",
            settings.env,
            settings.config.env_options,
            settings.steps * settings.tasks,
            settings.panel,
            settings.panel_size,
        ),
        warm_start(out / "start", settings),
        *(training(out, settings, arm) for arm in settings.arms),
    ]


def warm_start(folder: Path, settings: Settings) -> Stage:
    """The warm start, into `folder`."""
    config = settings.config
    command = ours(
        *("warmstart", "--env", settings.env, "--options", json.dumps(config.env_options)),
        *("--attempts", str(config.num_episodes), "--memory", config.memory, "--context", config.context),
        *(("--max-turns", str(config.max_turns)) if config.max_turns else ()),
        *("--trials", str(settings.demonstrations), "--player-options", json.dumps(dict(settings.player_options))),
        *("--passes", str(settings.passes), "--prompt-weight", str(settings.prompt_weight)),
        *("--layers", str(settings.layers), "--hidden", str(settings.hidden), "--heads", str(settings.heads)),
        *("--max-new-tokens", str(settings.max_new_tokens), "--max-length", str(settings.max_length)),
        *("--seed", str(settings.seed), "--out", str(folder)),
    )
    return Stage("warm start", folder, command)


def training(out: Path, settings: Settings, arm: Arm) -> Stage:
    """The training of an arm, with its evaluations."""
    config, folder = settings.config, out / arm.name
    command = (
        *(sys.executable, "-m", "openrlhf.cli.train_ppo_ray"),
        *("--agent_func", f"openrlhf_lamer.agents.{settings.env}"),
        *("--algo.advantage.estimator", settings.estimator),
        *("--actor.model_name_or_path", str(out / "start" / "model")),
        *("--data.prompt_dataset", str(out / "data" / "train" / "train.jsonl")),
        *("--eval.dataset", str(out / "data" / "eval" / "eval.jsonl"), "--eval.steps", str(settings.steps)),
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
    trials = settings.steps * settings.tasks * arm.group
    return Stage(f"training of {arm.label}", folder, command, folder / TRIALS, trials)


def require_stack() -> str | None:
    """Message about anything that a training on the CPU lacks, or None."""
    missing = [name for name in ("openrlhf", "vllm", "ray", "deepspeed", "torch") if not importlib.util.find_spec(name)]
    if missing:
        return f"training on the CPU needs {', '.join(missing)}: run `make venv`, which installs them"
    if cpu.cuda_available():
        return "this trains on the CPU; hide the GPUs (CUDA_VISIBLE_DEVICES=) to run it here"
    return None
